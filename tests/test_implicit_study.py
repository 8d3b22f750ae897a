"""The study of implicit feedback on small data: its files, honest numbers, and a run that was cut off continues."""

from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import Study
from matplotlib.image import imread

import jaxmf
from jaxmf import Dataset, Hyper, datasets, evaluate, models, solvers, splits
from jaxmf.shell import implicit_study, study_tables
from jaxmf.shell.implicit_study import MODELS, Settings

SETTINGS = Settings(rank=2, l2=(0.01, 0.1), unobserved=(0.1, 1.0), epochs=3, patience=2)
TABLES = ("metrics", "search", "history", "ranking")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.synthetic(num_users=30, num_items=40, num_ratings=600, feedback="implicit")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Study:
    """One whole run; it also compiles what the other tests of this file run."""
    out = tmp_path_factory.mktemp("study") / "results"
    return Study(out, implicit_study.run(data, out, SETTINGS))


def test_every_file_is_there(finished):
    found = {str(path.relative_to(finished.out)) for path in finished.out.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.png" for name in ("ranking", "unobserved_and_l2", "convergence")}
    tables = {f"{name}.csv" for name in (*TABLES, "gradients", "leakage")}
    assert found == {"config.json", "summary.md"} | tables | figures


def test_metrics(finished):
    metrics = finished.table("metrics")
    fits = {(name, "als" if name == "ials" else "adam") for name in MODELS}
    baselines = {("popularity", "closed form"), ("item_mean", "closed form")}
    assert set(zip(metrics["model"], metrics["solver"], strict=True)) == fits | baselines
    assert len(metrics) == len(fits | baselines)
    assert np.isfinite(metrics[["test_ndcg", "test_recall", "test_map", "test_auc", "test_coverage"]]).all(axis=None)
    assert (metrics["test_ndcg_low"] <= metrics["test_ndcg"]).all()
    assert metrics["valid_ndcg"].dropna().is_monotonic_decreasing
    pd.testing.assert_frame_equal(metrics, finished.returned, check_dtype=False, rtol=1e-8)


def test_the_setting_is_that_of_the_highest_ndcg_on_validation(finished):
    metrics, search, history = (finished.table(name) for name in TABLES[:3])
    fitted = metrics[metrics["solver"] != "closed form"].set_index("model")
    for name, tried in search.groupby("model"):
        assert len(tried) == (4 if name == "ials" else 2)
        best = tried.loc[tried["valid_ndcg"].idxmax()]
        assert tried.loc[tried["chosen"]].index.tolist() == [best.name]
        for column in ("l2", "best_epoch", "valid_ndcg", "status"):
            assert fitted.loc[name, column] == best[column]
        run = history[(history["model"] == name) & history["chosen"]]
        assert run["valid_ndcg"].max() == pytest.approx(best["valid_ndcg"], rel=1e-8)
        assert set(run["l2"]) == {best["l2"]}


def test_the_reported_rankings_are_those_of_the_parameters_chosen(data, finished):
    """One row again, by the library alone."""
    train, valid, test = splits.temporal_per_user(data)
    row = finished.table("metrics").query("model == 'ials'").iloc[0]
    hyper = Hyper(l2=row["l2"], unobserved=row["unobserved"], learning_rate=1.0, init_scale=0.1)
    numbers: dict[str, Any] = {"epochs": SETTINGS.epochs, "patience": SETTINGS.patience}
    fit = jaxmf.fit(jax.random.key(0), models.ials(2), solvers.als(), train, valid, hyper, **numbers)
    assert fit.history["valid_ndcg"].max() == pytest.approx(row["valid_ndcg"], rel=1e-6)
    own = evaluate.ranking(fit.model, fit.params, train, test, exclude=valid).set_index(["model", "metric"])
    for metric in ("ndcg", "recall", "capped_recall", "auc", "coverage"):
        assert row[f"test_{metric}"] == pytest.approx(own.loc[("ials", metric), "value"], rel=1e-5)
    found = finished.table("ranking").set_index(["model", "metric"])
    for model in ("ials", "popularity", "item_mean", "oracle"):
        columns = ["value", "low", "high", "num_users"]
        pd.testing.assert_frame_equal(
            found.loc[[model]].sort_index()[columns],
            own.loc[[model]].sort_index()[columns],
            check_dtype=False,
            rtol=1e-5,
        )


def test_summary(finished):
    summary = (finished.out / "summary.md").read_text(encoding="utf-8")
    metrics, search = finished.table("metrics"), finished.table("search").query("model == 'ials'")
    best = metrics.query("solver != 'closed form'").iloc[0]
    interval = f"{best['test_ndcg']:.4f} [{best['test_ndcg_low']:.4f}, {best['test_ndcg_high']:.4f}]"
    assert f"Best on validation is {best['model']} by {best['solver']}, with a test NDCG@10 of {interval}" in summary
    assert "into train / validation / test of 420 / 90 / 90" in summary
    assert "Every leaf passed" in summary
    top, by_loss = search.loc[search["valid_ndcg"].idxmax()], search.loc[search["valid_loss"].idxmin()]
    assert f"Of 4 settings of ials, α0 = {top['unobserved']:g}, λ = {top['l2']:g} has the highest" in summary
    assert f"would have chosen α0 = {by_loss['unobserved']:g}, λ = {by_loss['l2']:g}" in summary
    for word in ("nan", "inf ", "None", "np."):
        assert word not in summary
    for link in ("ranking", "unobserved_and_l2", "convergence"):
        assert f"(figures/{link}.png)" in summary


def test_figures_show_something(finished):
    for path in (finished.out / "figures").iterdir():
        pixels = imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 200, path.name
        assert 0.01 < (pixels < 0.9).any(axis=-1).mean() < 0.9, path.name


def test_gradients_and_config(data, finished):
    gradients = finished.table("gradients")
    assert set(gradients["model"]) == set(MODELS)
    assert gradients["passed"].all()
    config = finished.config()
    assert config["finished"] is True
    assert config["data"]["fingerprint"] == data.fingerprint()
    assert config["configuration"]["unobserved"] == [0.1, 1.0]


class CutOffError(Exception):
    pass


@pytest.fixture
def searched(monkeypatch) -> list[str]:
    """The models that are searched; drawing is left out."""
    names, search = [], vars(implicit_study)["_search"]
    monkeypatch.setattr(implicit_study, "_draw", lambda *_: None)

    def counted(study, name):
        names.append(name)
        return search(study, name)

    monkeypatch.setattr(implicit_study, "_search", counted)
    return names


def cut_off(data, out, monkeypatch, after: str, settings: Settings = SETTINGS) -> None:
    """Run a study that dies when it has searched for a model."""
    record = vars(implicit_study)["_record"]

    def dying(study, name, runs):
        if name == after:
            raise CutOffError
        record(study, name, runs)

    with monkeypatch.context() as patch:
        patch.setattr(implicit_study, "_record", dying)
        with pytest.raises(CutOffError):
            implicit_study.run(data, out, settings)


def test_a_run_that_was_cut_off_continues(data, finished, searched, tmp_path, monkeypatch):
    cut_off(data, tmp_path, monkeypatch, "sampled_softmax")
    stopped = Study(tmp_path, pd.DataFrame())
    assert stopped.config()["finished"] is False
    assert set(stopped.table("search")["model"]) == {"ials", "bpr"}
    searched.clear()
    implicit_study.run(data, tmp_path, SETTINGS)
    assert searched == ["sampled_softmax", "logistic_mf"]
    keys = {"metrics": ["model"], "search": ["model", "l2", "unobserved"], "ranking": ["model", "metric"]}
    keys["history"] = ["model", "member", "epoch"]
    for name in TABLES:
        tables = [study.table(name).sort_values(keys[name], ignore_index=True) for study in (stopped, finished)]
        tables = [table[[column for column in table if "seconds" not in column]] for table in tables]
        pd.testing.assert_frame_equal(*tables, check_like=True)


def test_another_configuration_starts_anew(data, searched, tmp_path, monkeypatch):
    cut_off(data, tmp_path, monkeypatch, "bpr")
    searched.clear()
    implicit_study.run(data, tmp_path, SETTINGS._replace(seed=1))
    assert searched == list(MODELS)


def test_a_wrong_gradient_stops_the_study(data, tmp_path, monkeypatch, searched):
    right = models.bpr(2)

    def wrong(params, ratings, weight, hyper):
        found = right.by_hand.gradient(params, ratings, weight, hyper)
        return found._replace(item=found.item | {"bias": -found.item["bias"]})

    monkeypatch.setitem(MODELS, "bpr", lambda rank: right._replace(by_hand=models.ByHand(wrong)))
    with pytest.raises(study_tables.WrongGradientError, match=r"gradient verification failed for bpr item\.bias; see"):
        implicit_study.run(data, tmp_path, SETTINGS)
    assert searched == []
    assert not (tmp_path / "summary.md").exists()


def test_ratings_that_differ_are_refused_before_anything_is_written(data, tmp_path):
    stars = datasets.synthetic(num_users=30, num_items=40, num_ratings=600)
    with pytest.raises(ValueError, match="bpr: the ratings range from"):
        implicit_study.run(stars, tmp_path / "new", SETTINGS)
    assert not (tmp_path / "new").exists()
