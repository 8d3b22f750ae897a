"""The study on small data: every file it promises, honest numbers, and a run that was cut off continues."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import Study
from matplotlib.image import imread

import jaxmf
from jaxmf import Dataset, Hyper, datasets, evaluate, models, solvers, splits
from jaxmf.shell import study, study_tables
from jaxmf.shell.recipes import MODELS, RECIPES

OPTIONS: dict[str, Any] = {"rank": 2, "l2": (0.03, 0.3), "epochs": 3, "patience": 2}
CALLS = len(MODELS) * len(RECIPES) * len(OPTIONS["l2"])
pytestmark = pytest.mark.slow
TABLES = ("metrics", "search", "history", "ranking")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.synthetic(num_users=30, num_items=40, num_ratings=600)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Study:
    """One whole run; it also compiles what the other tests of this file run."""
    out = tmp_path_factory.mktemp("study") / "results"
    return Study(out, study.run(data, out, **OPTIONS))


def test_every_file_is_there(finished):
    found = {str(path.relative_to(finished.out)) for path in finished.out.rglob("*") if path.is_file()}
    names = ("convergence", "generalization", "error_by_solver", "ranking", "regularization", "rank_and_l2")
    figures = {f"figures/{name}.png" for name in names}
    tables = {f"{name}.csv" for name in (*TABLES, "gradients", "leakage", "sweep")}
    assert found == {"config.json", "summary.md"} | tables | figures


def test_metrics(finished):
    metrics = finished.table("metrics")
    fits = {(model, solver) for model in MODELS for solver in RECIPES}
    baselines = {("global_mean", "closed form"), ("damped_bias", "closed form")}
    assert len(metrics) == len(fits | baselines)
    assert set(zip(metrics["model"], metrics["solver"], strict=True)) == fits | baselines
    assert np.isfinite(metrics[["valid_rmse", "test_rmse", "test_mae"]]).all(axis=None)
    assert (metrics["test_mae"] <= metrics["test_rmse"]).all()
    assert metrics["valid_rmse"].is_monotonic_increasing
    pd.testing.assert_frame_equal(metrics, finished.returned, check_dtype=False, rtol=1e-8)


def test_every_rank_is_fitted_with_every_lambda(finished):
    table = finished.table("sweep")
    points = {(rank, l2) for rank in (1, 2) for l2 in OPTIONS["l2"]}
    assert set(zip(table["rank"], table["l2"], strict=True)) == points
    best = table.loc[table["valid_rmse"].idxmin()]
    text = (finished.out / "summary.md").read_text(encoding="utf-8")
    assert f"rank {best['rank']}, λ = {best['l2']:g}, RMSE {best['valid_rmse']:.4f}" in text


def test_lambda_and_epoch_are_those_of_the_least_validation_error(finished):
    metrics, search, history = (finished.table(name) for name in TABLES[:3])
    assert len(search) == CALLS
    fitted = metrics[metrics["solver"] != "closed form"].set_index(["model", "solver"])
    for pair, tried in search.groupby(["model", "solver"]):
        assert sorted(tried["l2"]) == sorted(OPTIONS["l2"])
        best = tried.loc[tried["valid_rmse"].idxmin()]
        for name in ("l2", "best_epoch", "valid_rmse", "status"):
            assert fitted.loc[pair, name] == best[name]
        runs = history[(history["model"] == pair[0]) & (history["solver"] == pair[1])]
        assert set(runs.loc[runs["chosen"], "l2"]) == {best["l2"]}
        for l2, run in runs.groupby("l2"):
            row = tried[tried["l2"] == l2].iloc[0]
            assert run["epoch"].tolist() == list(range(1, row["epochs"] + 1))
            assert run["valid_rmse"].min() == pytest.approx(row["valid_rmse"], rel=1e-8)
            assert run["seconds"].is_monotonic_increasing


def test_the_reported_errors_are_those_of_the_parameters_chosen(data, finished):
    """One row again, by the library alone."""
    train, valid, test = splits.temporal_per_user(data)
    row = finished.table("metrics").query("model == 'biased_mf' and solver == 'als'").iloc[0]
    hyper = Hyper(l2=row["l2"], learning_rate=1.0, init_scale=0.01)
    options: dict[str, Any] = {"epochs": OPTIONS["epochs"], "patience": OPTIONS["patience"], "monitor": "rmse"}
    fit = jaxmf.fit(jax.random.key(0), models.biased_mf(2), solvers.als(), train, valid, hyper, **options)
    for part, ratings in (("valid", valid), ("test", test)):
        assert evaluate.rating(fit.model, fit.params, ratings)["rmse"] == pytest.approx(row[f"{part}_rmse"], rel=1e-6)
    ranking = finished.table("ranking").query("(model == 'biased_mf' and solver == 'als') or solver == 'closed form'")
    options = {"k": 10, "threshold": finished.config()["configuration"]["relevant_from"]}
    protocol: Any
    for protocol, exclude in (("catalog", valid), ("rated", None)):
        own = evaluate.ranking(
            fit.model, fit.params, train, test, protocol=protocol, exclude=exclude, **options
        ).set_index(["model", "metric"])
        found = ranking[ranking["protocol"] == protocol].set_index(["model", "metric"])[own.columns]
        pd.testing.assert_frame_equal(found.loc[own.index], own, check_dtype=False, rtol=1e-5)
        assert len(found) == len(own)


def test_leakage(data, finished):
    train, _, test = splits.temporal_per_user(data)
    audit = evaluate.leakage(train, test)
    pd.testing.assert_frame_equal(finished.table("leakage"), audit, check_dtype=False, rtol=1e-8)
    text = (finished.out / "summary.md").read_text(encoding="utf-8")
    future = audit[audit["check"] == "training ratings after the first test rating"].iloc[0]
    assert f"leak: {future['check']}: {future['count']:,.0f} of {future['total']:,}" in text


def test_baselines(data, finished):
    train, _, test = splits.temporal_per_user(data)
    row = finished.table("metrics").set_index("model").loc["global_mean"]
    assert row["test_rmse"] == pytest.approx(np.sqrt(np.mean((test.rating - train.rating.mean()) ** 2)), rel=1e-8)


def test_summary(finished):
    summary = (finished.out / "summary.md").read_text(encoding="utf-8")
    best = finished.table("metrics").query("solver != 'closed form'").iloc[0]
    assert f"{best['model']} by {best['solver']}, with a test RMSE of {best['test_rmse']:.4f}" in summary
    assert "into train / validation / test of 420 / 90 / 90" in summary
    assert "Every leaf passed" in summary
    for word in ("nan", "inf ", "None", "np."):
        assert word not in summary
    ranking = finished.table("ranking").query("model == 'popularity' and metric == 'ndcg' and protocol == 'catalog'")
    value, low, high = ranking[["value", "low", "high"]].iloc[0]
    assert "| popularity | closed form | " in summary
    assert f" {value:.4f} [{low:.4f}, {high:.4f}] " in summary
    for link in ("error_by_solver", "ranking", "convergence", "generalization", "regularization"):
        assert f"(figures/{link}.png)" in summary


def test_figures_show_something(finished):
    for path in (finished.out / "figures").iterdir():
        pixels = imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 200, path.name
        assert len(np.unique(pixels @ np.array([1.0, 7.0, 31.0]))) > 50, path.name
        assert 0.01 < (pixels < 0.9).any(axis=-1).mean() < 0.9, path.name


def test_config(data, finished):
    config = finished.config()
    assert config["finished"] is True
    assert config["data"]["fingerprint"] == data.fingerprint()
    assert config["configuration"]["l2"] == list(OPTIONS["l2"])
    assert config["wall_seconds"] > 0


# Runs that were cut off. They use the programs that `finished` compiled.


class CutOffError(Exception):
    pass


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str, float]]:
    """The fits that are run, as (model, solver, λ); figures, which take their time, are left out."""
    seen, fit = [], jaxmf.fit
    monkeypatch.setattr(study, "draw", lambda *args: None)

    def counted(key, model, solver, batch, **options):
        seen.append((model.name, solver.name, options["hyper"].l2))
        return fit(key, model, solver, batch, **options)

    monkeypatch.setattr(study, "fit", counted)
    return seen


@pytest.fixture
def cut_off(data, tmp_path, monkeypatch) -> Callable[..., Study]:
    """A run that dies in fit number `after` + 1."""

    def run(after: int, **changes) -> Study:
        fit, left = vars(study)["fit"], iter(range(after))  # that of `calls`, if a test has it

        def dying(*args, **options):
            if next(left, None) is None:
                raise CutOffError
            return fit(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(study, "fit", dying)
            with pytest.raises(CutOffError):
                study.run(data, tmp_path, **OPTIONS | changes)
        return Study(tmp_path, pd.DataFrame())

    return run


def assert_same_results(found: Study, expected: Study) -> None:
    """Everything but times."""
    keys = {"metrics": ["model", "solver"], "search": ["model", "solver", "l2"]}
    keys |= {"history": [*keys["search"], "epoch"], "ranking": [*keys["metrics"], "protocol", "metric"]}
    for name in TABLES:
        tables = [study.table(name).sort_values(keys[name], ignore_index=True) for study in (found, expected)]
        tables = [table[[column for column in table if "seconds" not in column]] for table in tables]
        pd.testing.assert_frame_equal(*tables, check_like=True)


def test_a_run_that_was_cut_off_continues(data, finished, cut_off, calls):
    stopped = cut_off(after=5)
    assert stopped.config()["finished"] is False
    before = stopped.table("search")
    assert len(before) == 4, "the fifth fit belongs to a solver that did not finish"
    calls.clear()
    study.run(data, stopped.out, **OPTIONS)
    done = set(zip(before["model"], before["solver"], before["l2"], strict=True))
    assert len(calls) == CALLS - 4
    after = stopped.table("search").set_index(["model", "solver", "l2"])
    for row in before.to_dict("records"):
        assert after.loc[(row["model"], row["solver"], row["l2"]), "seconds"] == row["seconds"]
    assert len(done) == 4
    assert stopped.config()["finished"] is True
    assert_same_results(stopped, finished)


@pytest.mark.parametrize("name", ["metrics", "history", "ranking"])
def test_a_run_that_died_between_two_files_continues(name, data, finished, cut_off, calls):
    stopped = cut_off(after=5)
    table = stopped.table(name)
    lost = table["solver"] == table["solver"].iloc[-1]
    table[~lost].to_csv(stopped.out / f"{name}.csv", index=False)
    calls.clear()
    study.run(data, stopped.out, **OPTIONS)
    assert len(calls) == CALLS - 2
    assert_same_results(stopped, finished)


def test_another_configuration_starts_anew(data, cut_off, calls):
    """Of another seed; the next test is of other λ."""
    stopped = cut_off(after=5)
    calls.clear()
    study.run(data, stopped.out, **OPTIONS | {"seed": 1})
    assert len(calls) == CALLS
    assert len(stopped.table("search")) == CALLS


def test_the_rows_of_an_earlier_configuration_are_not_taken_for_those_of_a_cut_off_run(data, cut_off, calls):
    """A finished run, then one of another configuration that dies before its first row, then that one again."""
    changes = {"l2": (0.1, 0.3)}
    out = cut_off(after=5).out
    cut_off(after=0, **changes)
    calls.clear()
    study.run(data, out, **OPTIONS | changes)
    assert len(calls) == CALLS
    assert set(pd.read_csv(out / "search.csv")["l2"]) == {0.1, 0.3}


def test_a_finished_run_is_not_taken_up_again(data, tmp_path, finished, monkeypatch):
    monkeypatch.setattr(study, "MODELS", {"mf": models.mf})
    for path in finished.out.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())

    def dying(*args, **options):
        raise CutOffError

    monkeypatch.setattr(study, "fit", dying)
    with pytest.raises(CutOffError):
        study.run(data, tmp_path, **OPTIONS)


def test_a_wrong_gradient_stops_the_study(data, tmp_path, monkeypatch, calls):
    right = models.biased_mf(2)

    def wrong(params, ratings, weight, hyper):
        found = right.by_hand.gradient(params, ratings, weight, hyper)
        return found._replace(item=found.item | {"bias": -found.item["bias"]})

    made = {"mf": models.mf, "biased_mf": lambda rank: right._replace(by_hand=models.ByHand(wrong))}
    monkeypatch.setattr(study, "MODELS", made)
    with pytest.raises(
        study_tables.WrongGradientError,
        match=r"gradient verification failed for biased_mf item\.bias; see .*gradients\.csv",
    ):
        study.run(data, tmp_path, **OPTIONS)
    report = pd.read_csv(tmp_path / "gradients.csv")
    assert report.loc[~report["passed"], ["model", "leaf"]].to_numpy().tolist() == [["biased_mf", "item.bias"]]
    assert calls == []
    assert not (tmp_path / "summary.md").exists()


def test_solvers_that_diverge_are_reported_and_the_rest_is_finished(data, tmp_path, monkeypatch):
    """As on ratings of another scale: the same programs, with a learning rate of 1e100."""
    recipes = {name: RECIPES[name] for name in ("als", "sgd", "momentum")}
    recipes |= {name: recipes[name]._replace(learning_rate=1e100) for name in ("sgd", "momentum")}
    monkeypatch.setattr(study, "RECIPES", recipes)
    metrics = study.run(data, tmp_path, **OPTIONS).set_index(["model", "solver"])
    assert (metrics.loc[[("mf", "sgd"), ("biased_mf", "momentum")], "status"] == "diverged").all()
    assert np.isfinite(metrics["test_rmse"]).all()
    assert metrics["test_rmse"].idxmin()[1] == "als"
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "Best on validation is" in summary
    assert "diverged" in summary
