"""Experiments run, and their tables hold what their summaries say."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxmf import datasets, verify

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of `python -m experiments.gradient_study --smoke`, run in this process."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setattr(sys, "argv", ["gradient_study", "--smoke", "--out", str(out)])
        from experiments import gradient_study

        gradient_study.main()
    return out


def test_every_experiment_is_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from experiments.__main__ import NAMES

    scripts = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py") if "def main()" in path.read_text("utf-8")}
    assert set(NAMES) == scripts


def test_every_experiment_tells_its_options(monkeypatch, capsys):
    """Whether it also runs to its end is a slow test."""
    monkeypatch.syspath_prepend(ROOT)
    from experiments.__main__ import NAMES

    for name in NAMES:
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            importlib.import_module(f"experiments.{name}").main()
        assert "--smoke" in capsys.readouterr().out


@pytest.mark.slow
def test_every_file_is_there(smoke):
    found = {str(path.relative_to(smoke)) for path in smoke.rglob("*") if path.is_file()}
    tables = [
        *("gradients", "hessian", "taylor", "complex_step", "random_problems", "step_sizes", "slopes"),
        *("half_steps", "stationarity", "mutants"),
    ]
    figures = ("agreement", "remainders", "step_sizes", "descents", "half_steps", "mutants")
    expected = {f"{name}.csv" for name in tables} | {f"figures/{name}.png" for name in figures}
    assert found == expected | {"config.json", "summary.md"}
    summary = (smoke / "summary.md").read_text("utf-8")
    assert all(f"(figures/{name}.png)" in summary for name in figures)
    assert not {"nan", "inf", "None", "np"} & set(re.findall(r"\w+", summary))


@pytest.mark.slow
def test_manifest(smoke):
    config = json.loads((smoke / "config.json").read_text("utf-8"))
    assert config["finished"] is True
    assert config["wall_seconds"] > 0
    assert config["configuration"]["job"] == "gradient_study"
    assert config["configuration"]["smoke"] is True
    assert config["configuration"]["hyper"]["l2"] == 0.05
    assert {"command", "data", "versions", "device", "dtype", "seed", "git_commit"} <= set(config)
    assert config["data"]["num_ratings"] == 700


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradients", "hessian", "taylor", "complex_step", "slopes", "half_steps"])
def test_no_row_fails(smoke, name):
    table = pd.read_csv(smoke / f"{name}.csv")
    assert len(table) >= 4
    assert table["passed"].all()


@pytest.mark.slow
def test_no_false_alarm(smoke):
    table = pd.read_csv(smoke / "random_problems.csv")
    assert (table["alarms"] == 0).all()
    judged = table.dropna(subset="limit")
    assert (judged["largest"] < judged["limit"]).all()
    assert set(table["comparison"].str.split(":").str[0]) == {"gradients", "hessian", "taylor", "complex_step"}
    assert table.loc[table["comparison"] == "gradients: hand_vs_autodiff", "problems"].eq(6).all()
    assert "0 false alarms" in (smoke / "summary.md").read_text("utf-8")


@pytest.mark.slow
def test_every_planted_mistake_is_caught_and_localized(smoke):
    table = pd.read_csv(smoke / "mutants.csv", keep_default_na=False)
    assert len(table) == 16
    for method in ("elements", "differences", "complex_step"):
        assert (table[method] == table["leaves"]).all()
    assert set(verify.METHODS) <= set(table.columns)
    summary = (smoke / "summary.md").read_text("utf-8")
    assert "Of 16 planted mistakes, 16 are caught and every wrong leaf is named" in summary
    assert "elements 16 and 16, differences 16 and 16" in summary


@pytest.mark.slow
def test_solvers_of_one_objective_are_compared(smoke):
    """A smoke run leaves them where they are after a few epochs."""
    table = pd.read_csv(smoke / "stationarity.csv").set_index("solver")
    assert table.index.tolist() == ["als", "adam"]
    assert np.isfinite(table["objective"]).all()
    assert table["excess"].min() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("sgd_movielens", "content_blending", "als_sweep", "latent_factors", "solver_race", "scaling"),
        "implicit_feedback",
    ],
)
def test_a_little_of_each_experiment(name, tmp_path):
    """Each runs alone, finishes, shows every figure that it draws, and has a number for every one of its document."""
    command = [sys.executable, "-m", f"experiments.{name}", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["finished"] is True
    summary = (tmp_path / "summary.md").read_text("utf-8")
    figures = {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()}
    assert set(re.findall(r"\((figures/\w+\.png)\)", summary)) == figures
    assert not {"nan", "None", "np"} & set(re.findall(r"\w+", summary))
    if name not in ("solver_race", "scaling", "implicit_feedback"):
        document = pd.read_csv(tmp_path / "document.csv", dtype=str)
        assert len(document) >= 5
        assert document[["figure", "document", "ours", "within"]].notna().all(axis=None)


@pytest.mark.parametrize("feedback", ["explicit", "implicit"])
def test_likes_of_the_test_are_in_no_other_part(monkeypatch, feedback):
    monkeypatch.syspath_prepend(ROOT)
    from experiments.implicit_measures import split_of

    data = datasets.synthetic(30, 40, 600, feedback=feedback)
    split = split_of(data, seed=1)
    train, valid, both, test, ratings = (set(zip(part.user, part.item, strict=True)) for part in split)
    assert train | valid == both
    assert not train & valid
    assert not both & test
    assert ratings == set(zip(data.user, data.item, strict=True)) - test
    assert len(both | test) == (data.rating >= 4).sum() if feedback == "explicit" else 600
    assert all((part.rating == 1).all() and part.weight is None for part in split[:4])


def test_every_figure_of_the_documents_is_in_the_table(monkeypatch):
    """results/README.md is what `python -m experiments --table` writes, with every row of the studies."""
    monkeypatch.syspath_prepend(ROOT)
    from experiments.__main__ import NAMES, overview

    table = (ROOT / "results" / "README.md").read_text("utf-8")
    assert table == overview(ROOT / "results")
    documents = [path for name in NAMES if (path := ROOT / "results" / name / "document.csv").exists()]
    assert len(documents) == 4
    assert table.count("\n| [") == sum(len(pd.read_csv(path)) for path in documents)
    for printed in ("70312", "1.3596", "3.0988", "0.9171", "0.5636", "98.8146", "2.93976684", "0.4592", "378"):
        assert f"| {printed} |" in table
