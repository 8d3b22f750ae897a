"""The command line as a user meets it: exit codes, what is printed and where; for bad input see bad_input/cli.py."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import Ended, shell, slow
from typer.testing import CliRunner

from jaxmf import load, predict, recommend
from jaxmf.data import datasets
from jaxmf.data._movielens import RELEASES
from jaxmf.shell import jobs, programs, study, study_tables
from jaxmf.shell.common import app
from jaxmf.shell.names import MODELS, PLAIN
from jaxmf.shell.recipes import RECIPES

SMALL_FIT = ("--rank", "2", "--epochs", "2", "--solver", "als")


@pytest.fixture
def jaxmf() -> Callable[..., Ended]:
    """Run the command line in this process."""
    return shell


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return datasets.synthetic(num_users=12, num_items=15, num_ratings=120).to_frame()


@pytest.fixture
def table(frame, tmp_path) -> Path:
    path = tmp_path / "ratings.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def own_model(tmp_path, monkeypatch) -> str:
    """A module of a user's own in the working folder, with right and wrong gradients; its name is returned."""
    (tmp_path / "mine.py").write_text(
        "from jaxmf import models\n"
        "\n"
        "right = models.biased_mf(2)\n"
        "\n"
        "def flipped(params, ratings, weight, hyper):\n"
        "    found = right.by_hand.gradient(params, ratings, weight, hyper)\n"
        "    return found._replace(item=found.item | {'bias': -found.item['bias']})\n"
        "\n"
        "wrong = right._replace(by_hand=models.ByHand(flipped))\n"
        "family = models.biased_mf\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return "mine"


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ([], ["study", "fit", "verify", "jaxmf fit --data my.csv", "jaxmf predict --data pairs.csv --out"]),
        (["study"], ["--data", "--rename", "--out", "--rank", "--l2", "--epochs", "--patience", "--seed", "--quiet"]),
        (["fit"], ["--data", "--model", "--solver", "--learning-rate", "--reg-exponent", "--clip", "JAXMF_DATA"]),
        (["verify"], ["--data", "--model", "--l2-bias", "--items", "jaxmf verify --data"]),
        (["evaluate"], ["--data", "--fit", "--rename", "--model", "-k", "--on-unknown", "--clip", "--out"]),
        (["recommend"], ["--user", "--new", "--candidate", "--seen", "--on-unknown", "--column", "--out"]),
        (["predict"], ["--data", "--fit", "--rename", "--model", "--clip", "--on-unknown", "--out"]),
    ],
    ids=["jaxmf", "study", "fit", "verify", "evaluate", "recommend", "predict"],
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(arguments, mentions, flag):
    result = CliRunner().invoke(app, [*arguments, flag], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for word in [*mentions, "Exit codes: 0 fine; ", "2 bad input"]:
        assert word in result.output


@pytest.mark.parametrize("command", [None, "study", "fit", "sweep", "verify", "evaluate", "recommend", "predict"])
def test_help_fits_the_screen_and_its_commands_are_one_line_each(command):
    output = CliRunner().invoke(app, [*filter(None, [command]), "--help"], env={"COLUMNS": "80"}).output
    assert max(map(len, output.splitlines())) <= 80
    examples = {None: 4, "study": 4, "fit": 5, "recommend": 3, "sweep": 3}.get(command, 2)
    assert len(re.findall(r"^ {4}jaxmf \w+.*", output, flags=re.M)) == examples


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "jaxmf", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m jaxmf [OPTIONS] COMMAND" in done.stdout


def test_version(jaxmf):
    assert jaxmf("--version") == Ended(0, f"jaxmf {version('jaxmf')}\n", "")


@pytest.mark.slow
def test_programs_are_compiled_once(table, tmp_path, folder_of_programs, monkeypatch):
    """The second process finds those of the first, if JAX reads them quietly here, and fits to the same bits."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # JAX has set it in this process
    fits = []
    for out in ("first", "second"):
        line = ["fit", "--data", str(table), *SMALL_FIT, "--quiet", "--out", str(tmp_path / out)]
        done = subprocess.run([sys.executable, "-m", "jaxmf", *line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        kept = {path.name for path in folder_of_programs.iterdir() if path.name.endswith("-cache")}
        fits.append((kept, pd.read_csv(tmp_path / out / "history.csv").drop(columns="seconds")))
    assert bool(fits[0][0]) == programs.quiet(jax.__version__, programs.processor())
    assert fits[1][0] == fits[0][0]
    pd.testing.assert_frame_equal(fits[0][1], fits[1][1], check_exact=True)


@pytest.mark.parametrize(
    ("jax_version", "features", "kept"),
    [
        ("0.9.1", "fpu avx2 avx512f avx512bw", False),
        ("0.9.2", "fpu avx2", True),
        ("0.11.2", "fpu avx2 avx512f avx512bw", True),
        ("0.12.0.1", "fpu avx2 avx512f", True),
    ],
)
def test_where_programs_are_kept(jax_version, features, kept, monkeypatch):
    """JAX 0.9 prints errors when it reads a program back on a processor with AVX-512: they are not kept there."""
    monkeypatch.setattr(programs, "version", lambda package: jax_version)
    monkeypatch.setattr(programs, "processor", lambda: features)
    environment: dict[str, str] = {}
    programs.keep(environment)
    assert environment.pop("JAX_ENABLE_COMPILATION_CACHE", "true") == str(kept).lower()
    assert environment["TF_CPP_MIN_LOG_LEVEL"] == "2"  # XLA's errors, which it prints at this level, are shown
    monkeypatch.setattr(programs, "processor", lambda: "another")
    other: dict[str, str] = {}
    programs.keep(other)
    assert other["JAX_COMPILATION_CACHE_DIR"] != environment["JAX_COMPILATION_CACHE_DIR"]
    given = {"JAX_COMPILATION_CACHE_DIR": "mine", "JAX_ENABLE_COMPILATION_CACHE": "true"}
    programs.keep(given)
    assert (given["JAX_COMPILATION_CACHE_DIR"], given["JAX_ENABLE_COMPILATION_CACHE"]) == ("mine", "true")


@pytest.mark.slow
def test_a_fit_on_two_devices(table, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # JAX has set it in this process
    line = ["fit", "--data", str(table), *SMALL_FIT, "--devices", "2", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "jaxmf", *line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "config.json").read_text())["device"].startswith("2 x cpu")
    assert np.isfinite(pd.read_csv(tmp_path / "metrics.csv")["rmse"]).all()


HEAVY = "print([name for name in ('jax', 'pandas', 'matplotlib', 'sklearn') if name in sys.modules], file=sys.stderr)"


def test_the_help_loads_nothing_heavy():
    script = (
        "import sys; from typer.testing import CliRunner; from jaxmf.shell.cli import app; "
        f"CliRunner().invoke(app, ['fit', '--help']); {HEAVY}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fit --solver ", list(RECIPES)),
        ("fit --solver a", ["adam", "als"]),
        ("study --data ", ["synthetic", "synthetic-implicit", *RELEASES]),
        ("fit --data mine", []),  # the shell goes on with the names of files
        ("fit --model ", list(MODELS)),
        ("verify --model b", ["biased_mf", "bpr"]),
        ("fit --comp", ["--components"]),
        ("ev", ["evaluate"]),
    ],
)
def test_the_shell_completes_without_loading_jax(monkeypatch, line, expected):
    words = f"jaxmf {line}"
    monkeypatch.setenv("_JAXMF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    script = f"import sys; sys.argv = ['jaxmf']; from jaxmf.shell import cli\ntry: cli.main()\nfinally: {HEAVY}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(expected)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_fit_on_a_table_with_other_names(jaxmf, frame, tmp_path, ends):
    names = {"user_id": "userId", "item_id": "movieId", "timestamp": "when"}
    path, out = tmp_path / "mine.csv", tmp_path / "out"
    frame.assign(note="x").rename(columns=names).to_csv(path, index=False, lineterminator=ends)
    rename = [argument for ours, theirs in names.items() for argument in ("--rename", f"{theirs}={ours}")]
    ended = jaxmf("fit", "--data", path, *rename, "--out", out, *SMALL_FIT, "--clip", 1, 5)
    assert ended.code == 0
    assert f"results in {out}" in ended.out
    metrics = pd.read_csv(out / "metrics.csv")
    assert metrics["part"].tolist() == ["train", "valid", "test"]
    assert metrics["num_ratings"].sum() == 120
    for name in ("rmse", "part", *(f"{value:.4f}" for value in metrics["rmse"])):
        assert name in ended.out
    assert "leak: training ratings after the first test rating" in ended.out
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["command"].startswith("jaxmf fit --data ")
    assert config["data"]["name"] == "mine"
    assert config["configuration"]["split"].startswith("temporal_per_user")
    assert (out / "history.csv").exists()
    assert (out / "figures" / "convergence.png").exists()


@pytest.mark.parametrize("command", ["study", "fit", "sweep", "verify", "evaluate", "recommend", "predict"])
def test_every_command_says_how_its_files_are_read(command):
    output = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    options = {f"--{name.replace('_', '-')}" for name in PLAIN._fields}
    of_pairs = {"--ids", "--duplicates", "--missing", "--transform", "--binarize"}
    by_the_fit = {"evaluate": {"--ids"}, "recommend": {"--ids"}, "predict": of_pairs}
    assert options & set(output.split()) == options - by_the_fit.get(command, set())


@pytest.mark.parametrize(
    ("text", "options", "rows", "said"),
    [
        ("1::007::3.5::9\n2::007::4::8\n", ["--no-header"], [(1, "007", 3.5, 9), (2, "007", 4, 8)], ""),
        (
            "3;1;7\n4;2;7\n",
            ["--no-header", "--rename", "1=user_id", "2=item_id", "0=rating"],
            [(1, 7, 3), (2, 7, 4)],
            "",
        ),
        ("r^u^i\n3^1^7\n", ["--sep", "^", "--rename", "u=user_id", "i=item_id", "r=rating"], [(1, 7, 3)], ""),
        ("user_id\titem_id\trating\n1\t7\t3\n", ["--sep", "\\t", "--ids", "str"], [("1", "7", 3)], ""),
        (
            "user_id,item_id,rating\n1,7,3\n1,7,5\n,7,1\n",
            ["--duplicates", "mean", "--missing", "drop"],
            [(1, 7, 4)],
            "jaxmf: 1 of 3 rows lack an id, a rating or a time, and are left out\n"
            "jaxmf: 1 of 2 rows repeat a (user, item) pair: the mean rating is kept\n",
        ),
    ],
    ids=["no-header", "positions", "sep", "tab", "duplicates"],
)
def test_options_say_how_a_file_is_read(jaxmf, tmp_path, monkeypatch, text, options, rows, said):
    loaded = []

    def stop(data, *arguments, **options):
        loaded.append(data)
        raise ValueError("enough")

    monkeypatch.setattr("jaxmf.shell.jobs.fit_one", stop)
    (tmp_path / "mine.txt").write_text(text)
    assert jaxmf("fit", "--data", tmp_path / "mine.txt", *options) == Ended(2, "", f"{said}jaxmf: enough\n")
    assert list(loaded[0].to_frame().itertuples(index=False, name=None)) == rows


def test_fit_on_a_parquet_file(jaxmf, frame, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path, out = tmp_path / "mine", tmp_path / "out"  # a folder of two
    path.mkdir()
    for part, rows in enumerate((frame[:70], frame[70:])):
        rows.rename(columns={"item_id": "movieId"}).to_parquet(path / f"{part}.parquet")
    ended = jaxmf("fit", "--data", path, "--rename", "movieId=item_id", "--out", out, *SMALL_FIT)
    assert ended.code == 0
    assert pd.read_csv(out / "metrics.csv")["num_ratings"].sum() == 120
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["data"]["name"] == "mine"


@pytest.mark.parametrize("name", RELEASES)
def test_data_takes_every_movielens_release(jaxmf, monkeypatch, name):
    def asked(name):
        raise ValueError(f"asked for {name}")

    monkeypatch.setattr(datasets, "movielens", asked)
    assert jaxmf("verify", "--data", name) == Ended(2, "", f"jaxmf: asked for {name}\n")
    for command in ("study", "fit", "verify"):
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert f"'{name}'" in help_text


def test_a_failed_download_is_one_line_and_exit_code_2(jaxmf, monkeypatch, tmp_path):
    def retrieve(*args):
        raise OSError("no route")

    monkeypatch.delenv("JAXMF_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path)
    monkeypatch.setattr("pooch.retrieve", retrieve)
    ended = jaxmf("verify", "--data", "ml-1m")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("jaxmf: ml-1m: could not download https://files.grouplens.org/")
    assert ended.err.count("\n") == 1


@pytest.fixture(scope="module")
def fitted(frame, tmp_path_factory) -> Path:
    """The folder of a fit."""
    folder = tmp_path_factory.mktemp("fitted")
    frame.to_csv(folder / "ratings.csv", index=False)
    assert shell("fit", "--data", folder / "ratings.csv", "--out", folder / "kept", *SMALL_FIT, "-q").code == 0
    return folder / "kept"


@pytest.fixture
def kept(fitted, tmp_path) -> Path:
    shutil.copytree(fitted, tmp_path / "kept")
    return tmp_path / "kept" / "fit.npz"


def test_evaluate_and_predict_with_a_fit_from_a_file(jaxmf, kept, frame, tmp_path):
    fit, train = load(kept)
    own = frame.rename(columns={"user_id": "who"}).sample(30, random_state=0).assign(note="x")
    own.to_csv(tmp_path / "own.csv", index=False)
    arguments = ("--data", tmp_path / "own.csv", "--fit", kept, "--rename", "who=user_id", "--clip", 1, 5)
    ended = jaxmf("evaluate", *arguments, "-k", 3, "--out", tmp_path / "judged")
    assert (ended.code, ended.err) == (0, "")
    errors, ranking = (pd.read_csv(tmp_path / "judged" / f"{name}.csv") for name in ("errors", "ranking"))
    assert errors["model"].tolist() == ["biased_mf", "global_mean", "damped_bias"]
    assert (errors["num_ratings"] == 30).all()
    prediction = predict(fit.model, fit.params, train, own.rename(columns={"who": "user_id"}), (1, 5))
    assert errors["rmse"][0] == pytest.approx(((own["rating"] - prediction) ** 2).mean() ** 0.5, rel=1e-6)
    assert errors["rmse"][1] == pytest.approx(((own["rating"] - train.rating.mean()) ** 2).mean() ** 0.5, rel=1e-6)
    assert f"{errors['rmse'][0]:.4f}" in ended.out
    for protocol in ("catalog", "rated"):
        threshold = ranking["threshold"][0]
        assert f"Ranking, {protocol}, k = 3, relevant from {threshold:g}:" in ended.out
        row = ranking.query("protocol == @protocol and metric == 'ndcg' and model == 'biased_mf'").iloc[0]
        assert re.search(rf"ndcg +{row['value']:.4f} +{row['low']:.4f} +{row['high']:.4f} ", ended.out)
    assert re.search(r"leak: test pairs in train: \d+ of 30", ended.out)

    assert jaxmf("predict", *arguments, "--out", tmp_path / "predicted.csv") == Ended(0, "", "")
    predicted = pd.read_csv(tmp_path / "predicted.csv")
    assert predicted.columns.tolist() == [*own.columns, "prediction"]
    assert predicted["prediction"].to_numpy() == pytest.approx(prediction.to_numpy(), rel=1e-6)


def test_evaluate_without_unknown_ids(jaxmf, kept, frame, tmp_path):
    other = pd.concat([frame[:20], frame[:3].assign(user_id=777)])
    other.to_csv(tmp_path / "other.csv", index=False)
    arguments = ("evaluate", "--data", tmp_path / "other.csv", "--fit", kept)
    ended = jaxmf(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "1 unknown user id(s): 777" in ended.err
    assert ended.err.endswith(", or pass --on-unknown drop\n")
    ended = jaxmf(*arguments, "--on-unknown", "drop")
    words = "3 of 23 ratings of other have unknown ids and are left out: user 777"
    assert (ended.code, ended.err) == (0, f"jaxmf: align: {words}\n")
    assert re.search(r"biased_mf +20 ", ended.out)


def test_recommend(jaxmf, kept, frame, tmp_path):
    fit, train = load(kept)
    first, second = train.user_ids[:2].tolist()
    expected = recommend.top_n(fit.model, fit.params, train, [second, first], 2)
    ended = jaxmf("recommend", "--fit", kept, "--user", second, first, "--n", 2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split()[:4] == ["user_id", "item_id", "rank", "score"]
    for row in expected.itertuples():
        assert re.search(rf"^ +{row.user_id} +{row.item_id} +{row.rank} {row.score:.4f}$", ended.out, flags=re.M)

    new = pd.DataFrame({"who": [777, 777], "item_id": train.item_ids[:2], "rating": [5, 1]})
    new.to_csv(tmp_path / "new.csv", index=False)
    given = ("--new", tmp_path / "new.csv", "--rename", "who=user_id", "--out", tmp_path / "found.csv")
    assert jaxmf("recommend", "--fit", kept, *given) == Ended(0, "", "")
    found = pd.read_csv(tmp_path / "found.csv")
    assert set(found["user_id"]) == {777}
    assert not found["item_id"].isin(new["item_id"]).any()

    ended = jaxmf("recommend", "--fit", kept, "--user", 777, "--on-unknown", "bias", "--n", 1, "--candidate", 1, 2)
    assert (ended.code, len(ended.out.splitlines())) == (0, 2)
    words = "1 of 1 users are unknown to train and scored from the known terms: 777"
    assert ended.err == f"jaxmf: top_n: {words}\n"


def test_predict_of_unknown_ids(jaxmf, kept, tmp_path):
    (tmp_path / "pairs.csv").write_text("user_id,item_id\n1,1\n777,1\n2,3\n777,999\n")
    arguments = ("predict", "--data", tmp_path / "pairs.csv", "--fit", kept, "--out", tmp_path / "answer.csv")
    ended = jaxmf(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "1 unknown user id(s): 777;" in ended.err
    assert ended.err.endswith("check their type, or pass --on-unknown bias or --on-unknown drop\n")
    assert not (tmp_path / "answer.csv").exists()
    fit, train = load(kept)
    pairs = pd.DataFrame({"user_id": [1, 777, 2, 777], "item_id": [1, 1, 3, 999]})
    choice: Any
    for choice, then, rows in (
        ("bias", "predicted from the known terms", [0, 1, 2, 3]),
        ("drop", "left out", [0, 2]),
    ):
        words = f"2 of 4 pairs have unknown ids and are {then}: user 777; item 999"
        assert jaxmf(*arguments, "--on-unknown", choice) == Ended(0, "", f"jaxmf: predict: {words}\n")
        found = pd.read_csv(tmp_path / "answer.csv")
        with pytest.warns(UserWarning, match=words):
            expected = predict(fit.model, fit.params, train, pairs, on_unknown=choice)
        pd.testing.assert_frame_equal(found, pairs.iloc[rows].reset_index(drop=True).assign(prediction=[*expected]))


def test_a_table_out_replaces_no_file_that_was_read(jaxmf, kept, tmp_path):
    """Nor a full disk the earlier answer."""
    path = tmp_path / "pairs.csv"
    path.write_text("user_id,item_id\n1,1\n")
    before = {name: name.read_bytes() for name in (path, kept)}
    ask = ("predict", "--data", path, "--fit", kept, "--out")
    for out, option in ((path, "data"), (kept, "fit"), (tmp_path / "kept" / ".." / "pairs.csv", "data")):
        ended = jaxmf(*ask, out)
        assert ended == Ended(
            2, "", f"jaxmf: --out {out} is the file of --{option}, which would be lost: name another\n"
        )
    ended = jaxmf("recommend", "--new", path, "--fit", kept, "--out", path)
    assert "is the file of --new" in ended.err
    assert {name: name.read_bytes() for name in before} == before
    assert jaxmf(*ask, tmp_path / "answer.csv").code == 0
    answer = (tmp_path / "answer.csv").read_bytes()
    with mock.patch.object(pd.DataFrame, "to_csv", side_effect=OSError(28, "No space left on device")):
        ended = jaxmf(*ask, tmp_path / "answer.csv")
    assert ended == Ended(2, "", f"jaxmf: [Errno 28] No space left on device: '{tmp_path / 'answer.csv'}'\n")
    assert (tmp_path / "answer.csv").read_bytes() == answer
    assert {name.name for name in tmp_path.iterdir()} == {"pairs.csv", "kept", "answer.csv"}


def test_predict_gives_back_every_field(jaxmf, kept, tmp_path):
    """And the prediction in the fewest digits that give it back, in the dtype of the parameters."""
    header = ["order", "user_id", "lat", "item_id", "code", "note"]
    rows = [
        ["1234567890123.0", "1", "52.123456789012", "1", "007", "NA"],
        ["", "2", "1e3", "3", "", 'a, "b"'],
        ["0x10", "1", "-0", "2", "1_000", "two\nlines"],
    ]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    arguments = ("predict", "--data", tmp_path / "pairs.csv", "--fit", kept, "--out", tmp_path / "out" / "answer.csv")
    assert jaxmf(*arguments) == Ended(0, "", "")
    with (tmp_path / "out" / "answer.csv").open(newline="") as file:
        answer = list(csv.reader(file))
    assert [row[:-1] for row in answer] == [header, *rows]
    fit, train = load(kept)
    pairs = pd.DataFrame({"user_id": [1, 2, 1], "item_id": [1, 3, 2]})
    expected = predict(fit.model, fit.params, train, pairs)
    assert [row[-1] for row in answer] == ["prediction", *map(str, expected.to_numpy())]


def test_a_fit_with_ids_of_text_reads_a_file_that_looks_like_numbers(jaxmf, frame, tmp_path):
    """Of pairs, of ratings, of new ones, and ids on the command line; what comes out is what went in."""
    texts = frame["item_id"].map(lambda item: "345X" if item == frame["item_id"].iloc[0] else f"345{item}")
    frame.assign(item_id=texts).to_csv(tmp_path / "books.csv", index=False)
    assert jaxmf("fit", "--data", tmp_path / "books.csv", "--out", tmp_path, *SMALL_FIT, "-q").code == 0
    fit = ("--fit", tmp_path / "fit.npz")
    items = [item for item in load(tmp_path / "fit.npz")[1].item_ids if item != "345X"][:3]
    rows = "".join(f"{user},{item},{user}\n" for user, item in zip((1, 2, 777), items, strict=True))
    (tmp_path / "new.csv").write_text("user_id,item_id,rating\n" + rows)
    answer = ("--out", tmp_path / "answer.csv")
    ended = jaxmf("predict", "--data", tmp_path / "new.csv", *fit, *answer, "--on-unknown", "bias")
    assert ended == Ended(0, "", ended.err)
    assert "1 of 3 pairs have unknown ids" in ended.err
    found = pd.read_csv(tmp_path / "answer.csv", dtype=str)
    assert found["item_id"].tolist() == items
    ended = jaxmf("evaluate", "--data", tmp_path / "new.csv", *fit, "--on-unknown", "drop")
    assert (ended.code, "1 of 3 ratings of new have unknown ids and are left out" in ended.err) == (0, True)
    given = (*fit, *answer, "--candidate", *items, "--seen")
    assert jaxmf("recommend", "--user", 1, *given) == Ended(0, "", "")
    assert set(pd.read_csv(tmp_path / "answer.csv", dtype=str)["item_id"]) == set(items)
    (tmp_path / "new.csv").write_text(f"user_id,item_id,rating\n777,{items[0]},5\n")
    assert jaxmf("recommend", "--new", tmp_path / "new.csv", *given) == Ended(0, "", "")
    assert set(pd.read_csv(tmp_path / "answer.csv", dtype=str)["item_id"]) == set(items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "ann"], r"1 unknown user id\(s\): 'ann'; known ids are like 1, 2, 3"),
        (["--user", "1", "007"], r"1 unknown user id\(s\): '007'; known ids are like 1, 2, 3"),
        (["--user", "777"], r"1 unknown user id\(s\): 777; known ids are like 1, 2, 3"),
        (["--candidate", "777"], r"1 unknown item id\(s\): 777; known"),
        (["--rename", "who=user_id"], "--rename is for a --new file"),
        (["--new", "absent.csv"], "--new absent.csv: no such file"),
        (["--column", "title"], "the fit's items have no column 'title'; their columns: none"),
    ],
    ids=["not-a-number", "zeros", "user", "candidate", "rename", "no-file", "column"],
)
def test_what_recommend_does_not_find(jaxmf, kept, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    ended = jaxmf("recommend", "--fit", kept, *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert re.search(message, ended.err), ended.err


def test_predict_reads_a_parquet_file(jaxmf, kept, frame, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame[["user_id", "item_id"]].to_parquet(tmp_path / "pairs.parquet")
    frame[["user_id", "item_id"]].to_csv(tmp_path / "pairs.csv", index=False)
    for ending in ("parquet", "csv"):
        out = tmp_path / f"from-{ending}.csv"
        assert jaxmf("predict", "--data", tmp_path / f"pairs.{ending}", "--fit", kept, "--out", out).code == 0
    assert (tmp_path / "from-parquet.csv").read_bytes() == (tmp_path / "from-csv.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "features"),
    [slow((), 3), (("--column", "plot"), 4), slow(("--solver", "als", "--column", "plot", "--components", 2), 2)],
    ids=["genres", "column", "components"],
)
def test_content_on_a_table_of_items(jaxmf, frame, tmp_path, options, features):
    """Words come from the items of the training ratings only; evaluate and predict need the kept fit alone."""
    frame = pd.concat([frame, frame[-1:].assign(item_id=99, timestamp=2**40)], ignore_index=True)  # falls to test
    words = pd.DataFrame({"movieId": [*range(1, 17), 99], "genres": "Drama|War", "plot": "love duel snow"})
    words.loc[2] = [3, "Comedy", "harbor"]
    words.loc[16] = [99, "Unseen", "unseen"]
    ratings, items, out = tmp_path / "ratings.csv", tmp_path / "items.csv", tmp_path / "out"
    frame.rename(columns={"item_id": "movieId"}).to_csv(ratings, index=False)
    words.to_csv(items, index=False)
    given = ("--data", ratings, "--rename", "movieId=item_id")
    arguments = ("--items", items, "--model", "content_mf", "--rank", 2, "--epochs", 2, *options)
    ended = jaxmf("fit", *given, *arguments, "--out", out)
    assert ended.code == 0, ended.err
    fit, kept = load(out / "fit.npz")
    assert fit.params.trained.user["content"].shape == (12, features)
    ended = jaxmf("evaluate", *given, "--fit", out / "fit.npz")
    assert (ended.code, ended.err) == (0, "")
    assert "content_mf" in ended.out
    assert jaxmf("predict", *given, "--fit", out / "fit.npz", "--out", tmp_path / "predicted.csv").code == 0
    predicted = pd.read_csv(tmp_path / "predicted.csv")["prediction"]
    expected = predict(fit.model, fit.params, kept, frame)
    assert predicted.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-6)


@pytest.mark.slow
def test_content_of_data_that_bring_their_items(jaxmf, monkeypatch, tmp_path):
    """Reduced for als without being asked; verified in full."""
    data = datasets.synthetic(num_users=40, num_items=90, num_ratings=900)
    monkeypatch.setattr(datasets, "synthetic", lambda: data)
    content_mf = ("--model", "content_mf", "--rank", 2)
    assert jaxmf("fit", *content_mf, "--solver", "als", "--epochs", 1, "--out", tmp_path, "-q").code == 0
    fit, _ = load(tmp_path / "fit.npz")
    assert fit.params.trained.user["content"].shape == (40, 64)
    ended = jaxmf("verify", *content_mf)
    assert ended.code == 0
    assert "user.content" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "good.csv"], "good has no item metadata; .*; on the command line: --items FILE"),
        (["--data", "good.csv", "--items", "items.csv"], "no column 'genres', 'tags'; found .*--column NAME"),
        (["--data", "good.csv", "--items", "absent.csv"], "--items absent.csv: no such file"),
        (["--data", "good.csv", "--items", "good.csv"], "more than one row for item"),
        (
            ["--data", "good.csv", "--items", "other.csv"],
            r"other.csv: missing column item_id; found \['movie'\]\. ",
        ),
        (["--items", "items.csv"], "--items is for CSV and Parquet files; synthetic has its own items"),
        (["--model", "mf", "--column", "plot"], "--column and --components are for --model content_mf, not mf"),
        (["--model", "mf", "--components", "3"], "--column and --components are for --model content_mf, not mf"),
    ],
    ids=["no-items", "no-words", "no-file", "repeated", "no-ids", "synthetic", "column", "components"],
)
@pytest.mark.usefixtures("no_compile")
def test_content_that_is_not_there(jaxmf, frame, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    frame.to_csv("good.csv", index=False)
    pd.DataFrame({"item_id": range(1, 20), "plot": "x"}).to_csv("items.csv", index=False)
    pd.DataFrame({"movie": range(1, 20)}).to_csv("other.csv", index=False)
    ended = jaxmf("fit", "--model", "content_mf", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert re.search(message, ended.err), ended.err
    assert not Path("results").exists()


def test_the_model_of_a_kept_fit_is_one_s_own(jaxmf, table, kept):
    ended = jaxmf("evaluate", "--data", table, "--fit", kept, "--model", "mf")
    assert ended == Ended(2, "", "jaxmf: --model must be module:attribute, not 'mf'\n")


def test_sweep(jaxmf, table, tmp_path):
    out, spelled = tmp_path / "out", ("--rank", 1, 2, "--l2", 0.1, 0.3)
    options = ("--seeds", 2, "--folds", 2, "--epochs", 2, "--solver", "als", "--data", table, "--out", out)
    ended = jaxmf("sweep", *spelled, *options)
    assert ended.code == 0, ended.err
    metrics = pd.read_csv(out / "metrics.csv")
    assert len(metrics) == 2 * 2 * 2 * 2
    assert metrics[["rank", "l2", "seed", "fold"]].drop_duplicates().shape == (16, 4)
    summary = pd.read_csv(out / "summary.csv")
    assert f"{summary['valid_rmse'][0]:.4f}" in ended.out
    assert re.search(rf"16 fits by \d program\(s\) in .* s, compilation included \(.* s\); results in {out}", ended.out)
    again = ("--rank=1", 2, "--l2", 0.1, "--l2", 0.3)  # the same lists, so that all of it is on disk already
    assert jaxmf("sweep", *again, *options, "--quiet") == Ended(0, "", "")
    ended = jaxmf("sweep", "--rank", 1, "--l2", 0.1, 0.2, *options)
    assert ended.code == 2
    assert "holds another sweep: it differs in configuration" in ended.err
    assert "which is 16 items from {'rank': 1, 'l2': 0.1, 'seed': 0, 'fold': 0} to" in ended.err
    assert len(ended.err) < 400 + len(str(out))


SMALLER = "a smaller --learning-rate"
LARGER = "a larger --l2, or float64 if that is not on yet (JAX_ENABLE_X64=1)"


@pytest.mark.slow
def test_a_sweep_that_diverges_everywhere_is_exit_code_1(jaxmf, table, tmp_path):
    options = ("--rank", 1, 2, "--learning-rate", 1e30, "--epochs", 2, "--data", table, "--out", tmp_path / "out", "-q")
    ended = jaxmf("sweep", *options)
    assert ended == Ended(1, "", f"jaxmf: every setting has a fit that diverged: try {SMALLER}\n")


def test_quiet(jaxmf, table, tmp_path):
    for command in (("fit", "--out", tmp_path / "out", *SMALL_FIT), ("verify", "--model", "mf", "--rank", 2)):
        assert jaxmf(*command, "--data", table, "--quiet") == Ended(0, "", "")


def test_progress_is_on_standard_error(jaxmf, table, tmp_path):
    ended = jaxmf("fit", "--data", table, "--out", tmp_path / "out", *SMALL_FIT)
    assert "epoch" in ended.err
    assert "it/s" not in ended.out


def test_a_divergence_is_exit_code_1(jaxmf, table, tmp_path):
    out = tmp_path / "out"
    ended = jaxmf("fit", "--data", table, "--out", out, *SMALL_FIT[:4], "--solver", "sgd", "--learning-rate", 1e30)
    assert ended.code == 1
    assert ended.err.endswith(f"jaxmf: diverged: try {SMALLER}\n")
    assert "diverged after 1 epochs" in ended.out
    assert set(pd.read_csv(out / "metrics.csv")["status"]) == {"diverged"}


@pytest.mark.parametrize("solver", RECIPES)
def test_the_advice_after_a_divergence_fits_the_solver(jaxmf, table, monkeypatch, solver):
    """A fit by als has no learning rate."""
    advice = LARGER if solver == "als" else SMALLER
    diverged = SimpleNamespace(status="diverged")
    monkeypatch.setattr(jobs, "fit_one", lambda *_, **__: (diverged, {}))
    monkeypatch.setattr(jobs, "sweep_grid", lambda *_, **__: (None, pd.DataFrame({"valid_rmse": [np.nan]})))
    for command, what in (("fit", "diverged"), ("sweep", "every setting has a fit that diverged")):
        ended = jaxmf(command, "--data", table, "--solver", solver, "--quiet")
        assert ended == Ended(1, "", f"jaxmf: {what}: try {advice}\n")


def test_verify(jaxmf, table):
    ended = jaxmf("verify", "--data", table, "--rank", 2)
    assert ended.code == 0
    for check in ("gradients", "hessian", "taylor", "complex_step"):
        assert f"\nbiased_mf, {check}: passed\n" in ended.out
    for words in ("mf, gradients: passed", "user.factors", "item.bias", "hand_vs_autodiff", "float64"):
        assert words in ended.out


@pytest.mark.slow
def test_verify_in_a_folder(jaxmf, table, own_model, tmp_path):
    """Of a model of one's own: every table and figure, and a manifest."""
    ended = jaxmf("verify", "--data", table, "--model", f"{own_model}:right", "--out", tmp_path / "out", "--quiet")
    assert ended == Ended(0, "", "")
    names = {path.stem for path in (tmp_path / "out").glob("*.csv")}
    assert names == {"gradients", "hessian", "taylor", "complex_step", "differences"}
    for name in names:
        found = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        assert (found["model"] == f"{own_model}:right").all()
        assert found["passed"].all()
    figures = {path.name for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert figures == {f"{kind}-{own_model}.right.png" for kind in ("step_sizes", "remainders")}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["configuration"]["job"] == "verify"


def test_verify_names_the_wrong_leaf(jaxmf, table, own_model):
    checks = {"gradients": "item.bias", "taylor": "item.bias, all", "complex_step": "item.bias"}
    lines = [f"jaxmf: {check} of mine:wrong: wrong in {leaves}" for check, leaves in checks.items()]
    for quiet in ((), ("--quiet",)):
        ended = jaxmf("verify", "--data", table, "--model", f"{own_model}:wrong", *quiet)
        assert ended.code == 1
        assert ended.err.splitlines()[-3:] == lines
        assert (len(ended.err.splitlines()) == 3) == bool(quiet)
        assert ("mine:wrong, gradients: FAILED" in ended.out) == (not quiet)
        assert bool(ended.out) == (not quiet)


@pytest.mark.parametrize("attribute", ["right", "family"])
def test_a_model_of_one_s_own(jaxmf, table, own_model, tmp_path, attribute):
    """A Model as it is, or a function that is given --rank."""
    ended = jaxmf("fit", "--data", table, "--model", f"{own_model}:{attribute}", "--out", tmp_path / "out", *SMALL_FIT)
    assert ended.code == 0
    assert "biased_mf" in ended.out


def test_a_wrong_gradient_in_a_study_is_exit_code_1(jaxmf, table, tmp_path, monkeypatch):
    def run(*args, **options):
        raise study_tables.WrongGradientError("gradient verification failed for mf user.factors")

    monkeypatch.setattr(study, "run", run)
    ended = jaxmf("study", "--data", table, "--out", tmp_path / "out")
    assert ended == Ended(1, "", "jaxmf: gradient verification failed for mf user.factors\n")


def test_study(jaxmf, table, tmp_path, monkeypatch):
    """What it passes on and prints; the study itself has its own tests."""
    given: dict[str, Any] = {}

    def run(data, out, **options):
        given.update(options, data=data)
        columns = ["model", "solver", "l2", "best_epoch", "valid_rmse", "test_rmse", "seconds_per_epoch"]
        return pd.DataFrame([["mf", "als", 0.5, 3, 0.9, 0.87654, 0.01]], columns=columns)

    monkeypatch.setattr(study, "run", run)
    arguments = ("study", "--data", table, "--out", tmp_path / "out", "--l2", 0.5, "--l2", 1, "--rank", 3, "--seed", 4)
    ended = jaxmf(*arguments)
    assert ended.code == 0
    assert "0.8765" in ended.out
    assert f"Read {tmp_path / 'out' / 'summary.md'}" in ended.out
    assert len(given.pop("data")) == 120
    assert (given["l2"], given["rank"], given["seed"], given["progress"]) == ([0.5, 1.0], 3, 4, True)
    assert jaxmf(*arguments, "--quiet") == Ended(0, "", "")
    assert given["progress"] is False
    assert given.keys() == {"data", "rank", "l2", "seed", "progress"}  # the study has the other defaults
