"""One fit, and one sweep, from the split to tables and figures."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import assert_same_bits, slow
from matplotlib.image import imread

import jaxmf
from jaxmf import Dataset, Fit, Hyper, datasets, evaluate, models, recommend, solvers, splits, sweep
from jaxmf.shell.answers import evaluate_fit, recommend_items, relevance
from jaxmf.shell.jobs import fit_one, split_three, sweep_grid


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.synthetic(num_users=30, num_items=40, num_ratings=600)


def test_without_timestamps_the_split_is_random(data):
    parts = split_three(replace(data, timestamp=None), seed=3)
    expected = splits.random(data, (0.7, 0.15, 0.15), seed=3)
    assert [len(part) for part in parts[:3]] == [420, 90, 90]
    for part, other in zip(parts[:3], expected, strict=True):
        np.testing.assert_array_equal(part.rating, other.rating)
    assert parts[3] == "random (0.7, 0.15, 0.15), seed 3"


NUMBERS: dict[str, Any] = {"hyper": Hyper(l2=0.1), "epochs": 3, "patience": 2}
FIT: Callable[..., tuple[Fit, dict[str, pd.DataFrame]]] = partial(
    fit_one, model=models.biased_mf(2), solver=solvers.als(), **NUMBERS
)


@pytest.mark.parametrize("clip", [None, (3.0, 3.5)], ids=str)
def test_fit_one(data, tmp_path, clip):
    fit, tables = FIT(data, tmp_path, clip=clip, seed=3)
    metrics = tables["metrics"]
    parts = dict(zip(("train", "valid", "test"), splits.temporal_per_user(data), strict=True))
    own = jaxmf.fit(
        jax.random.key(3), fit.model, solvers.als(), parts["train"], parts["valid"], monitor="rmse", **NUMBERS
    )
    assert_same_bits(fit.params, own.params)
    written = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["part"].tolist() == written["part"].tolist() == list(parts)
    for row in written.to_dict("records"):
        expected = evaluate.rating(fit.model, fit.params, parts[row["part"]], clip)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-8)
        assert row["num_ratings"] == len(parts[row["part"]])
    assert set(written["clip"]) == {"none" if clip is None else "(3.0, 3.5)"}
    audit = pd.read_csv(tmp_path / "leakage.csv")
    pd.testing.assert_frame_equal(audit, evaluate.leakage(parts["train"], parts["test"]), check_dtype=False, rtol=1e-8)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == fit.to_frame()["epoch"].tolist()
    assert history["valid_rmse"].idxmin() + 1 == written["best_epoch"].iloc[0]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["configuration"]["hyper"]["l2"] == 0.1
    assert config["configuration"]["status"] == fit.status
    assert imread(tmp_path / "figures" / "convergence.png").shape[0] > 200


def test_clipping_changes_the_errors(data, tmp_path):
    errors = [FIT(data, tmp_path, clip=clip)[1]["metrics"]["rmse"].tolist() for clip in (None, (3.0, 3.5))]
    assert errors[0] != errors[1]


def test_numbers_of_any_type_are_written(data, tmp_path):
    FIT(data, tmp_path, hyper=Hyper(l2=np.float32(0.5), momentum=jnp.array(0.25)))
    hyper = json.loads((tmp_path / "config.json").read_text())["configuration"]["hyper"]
    assert (hyper["l2"], hyper["momentum"]) == (0.5, 0.25)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_fit_that_diverges_at_once_is_written(data, tmp_path, patience):
    hyper = Hyper(learning_rate=1e30)
    fit, tables = FIT(data, tmp_path, solver=solvers.sgd(), hyper=hyper, patience=patience)
    assert fit.status == "diverged"
    assert np.isfinite(tables["metrics"]["rmse"]).all()
    assert (tmp_path / "figures" / "convergence.png").exists()


@pytest.mark.parametrize("folds", [None, slow(3)])
def test_sweep_grid(data, tmp_path, folds):
    """The members are those of `jaxmf.sweep` on the same parts; test ratings are not among them."""
    grid: dict[str, list[Any]] = {"rank": [1, 2], "l2": [0.05, 0.5], "seed": [0, 1]}
    hyper = Hyper(init_scale=0.2)
    arguments = (models.biased_mf(2), solvers.als())
    options: dict[str, Any] = {"epochs": 3, "patience": 2}
    runs, summary = sweep_grid(data, tmp_path, *arguments, grid, hyper, folds, **options, seed=3)
    train, valid, _ = splits.temporal_per_user(data)
    weights = None
    if folds:
        (train, _), valid = splits.temporal_per_user(data, (0.85, 0.15)), None
        weights = splits.k_fold(train, folds, 3)
    key = jax.random.key(3)
    own = sweep(key, *arguments, train, valid, grid=grid, folds=weights, hyper=hyper, monitor="rmse", **options)
    pd.testing.assert_frame_equal(
        runs.to_frame().drop(columns="seconds"), own.to_frame().drop(columns="seconds"), rtol=1e-6
    )
    assert len(runs.members) == 8 * (folds or 1)
    assert summary["valid_rmse"].is_monotonic_increasing
    assert summary["num_members"].tolist() == [2 * (folds or 1)] * 4
    written = pd.read_csv(tmp_path / "summary.csv")
    pd.testing.assert_frame_equal(written, summary, check_dtype=False, rtol=1e-7)
    for name in ("heat_map", "panel", "curves"):
        assert imread(tmp_path / "figures" / f"{name}.png").shape[0] > 150
    assert json.loads((tmp_path / "config.json").read_text())["configuration"]["grid"][0]["rank"] == 1


@pytest.mark.parametrize(
    "grid", [{"seed": [0, 1]}, slow({"rank": [1, 2]}), slow({"rank": [1], "l2": [0.1], "l2_bias": [0.1, 1]})]
)
def test_a_sweep_of_any_number_of_settings_is_drawn(data, tmp_path, grid):
    sweep_grid(data, tmp_path, models.biased_mf(2), solvers.als(), grid, Hyper(), epochs=3, patience=2)
    found = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert found == {"curves"} | ({"panel"} if "rank" in grid else set())


def test_a_sweep_that_diverges_is_written(data, tmp_path):
    grid = {"l2": [0.1, 0.2], "learning_rate": [1e30]}
    _, summary = sweep_grid(data, tmp_path, models.biased_mf(2), solvers.sgd(), grid, Hyper(), epochs=3)
    assert summary["num_diverged"].tolist() == [1, 1]
    assert (tmp_path / "figures" / "heat_map.png").exists()


@pytest.fixture(scope="module")
def fitted(data) -> tuple:
    train, _, test = splits.temporal_per_user(data)
    fit = jaxmf.fit(jax.random.key(0), models.biased_mf(2), solvers.als(), train, hyper=Hyper(l2=0.1), epochs=2)
    return fit, train, test


def test_evaluate_fit(fitted, tmp_path):
    fit, train, test = fitted
    tables = evaluate_fit(fit, train, test, k=3, threshold=3.0, out=tmp_path)
    options: dict[str, Any] = {"k": 3, "threshold": 3.0}
    expected = {
        "errors": evaluate.against_baselines(fit.model, fit.params, train, test),
        "ranking": pd.concat(
            evaluate.ranking(fit.model, fit.params, train, test, protocol=protocol, **options)
            for protocol in ("catalog", "rated")
        ).reset_index(drop=True),
        "leakage": evaluate.leakage(train, test),
    }
    assert tables.keys() == expected.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(tables[name], table)
        written = pd.read_csv(tmp_path / f"{name}.csv")
        pd.testing.assert_frame_equal(written, table, check_dtype=False, rtol=1e-8)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["configuration"]["k"], config["data"]["train"]["num_ratings"]) == (3, len(train))


def test_training_ratings_have_no_catalog_to_rank(fitted):
    fit, train, _ = fitted
    tables = evaluate_fit(fit, train, train)
    assert set(tables["ranking"]["protocol"]) == {"rated"}
    assert tables["leakage"]["share"][0] == 1


@pytest.mark.parametrize(
    ("ratings", "held_out", "expected"),
    [
        ([1, 2, 3, 4, 5], [5, 1], 3),
        ([1, 2, 3, 4], [5, 1], 3),
        ([0, 0, 0, 1], [0, 1], 1),
        ([1, 1, 1], [1], 1),
        ([3, 4, 5], [2, 2.5], 2.5),
    ],
    ids=["median", "upper", "rare", "one", "absent"],
)
def test_what_is_relevant(ratings, held_out, expected):
    train, test = (Dataset.from_arrays(range(len(r)), range(len(r)), r) for r in (ratings, held_out))
    assert relevance(train, test) == expected


def test_recommend_items(fitted):
    """The table of top_n, with columns of the items; further ratings bring new users, whom it answers."""
    fit, train, _ = fitted
    users = train.user_ids[:3].tolist()
    found = recommend_items(fit, train, users, 2)
    pd.testing.assert_frame_equal(found, recommend.top_n(fit.model, fit.params, train, users, 2))
    titled = replace(train, items=pd.DataFrame({"title": [f"<{i}>" for i in train.item_ids]}, train.item_ids))
    found = recommend_items(fit, titled, users, 2, columns=["title"])
    assert found.columns.tolist() == ["user_id", "item_id", "title", "rank", "score"]
    assert found["title"].tolist() == [f"<{i}>" for i in found["item_id"]]
    new = pd.DataFrame({"user_id": [900, 900], "item_id": [*train.item_ids[:1], 901], "rating": [5.0, 1.0]})
    found = recommend_items(fit, titled, n=4, new=new, columns=["title"])
    params, data = recommend.update(fit.model, fit.params, fit.hyper, replace(titled, timestamp=None), new)
    expected = recommend.top_n(fit.model, params, data, [900], 4)
    pd.testing.assert_frame_equal(found.drop(columns="title"), expected)
    assert not found["item_id"].isin(new["item_id"]).any()
    unseen = recommend_items(fit, titled, n=41, filter_seen=False, new=new, columns=["title"])
    assert unseen["title"].isna().sum() == (unseen["item_id"] == 901).sum() == 1
