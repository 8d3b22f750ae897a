"""Coupled validation: the setting that is best on average, fitted on all ratings, tested once."""

import json
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_same_bits, random_ratings

from jaxmf import evaluate, fit, models, search, sweep

BIASED, SGD = MODELS["biased"], SOLVERS["sgd"]


@pytest.mark.slow
def test_the_best_setting_is_fitted_on_all_and_tested_once(ratings, valid, tmp_path):
    grid = {"rank": [1, 3], "l2": [0.05, 0.5, 2.0], "seed": [0, 1]}
    folds = 1.0 * np.array([np.arange(len(ratings.value)) % 3 != fold for fold in range(3)])
    options: dict[str, Any] = {"grid": grid, "folds": folds, "hyper": HYPER}
    runs = sweep(KEY, BIASED, SGD, ratings, **options, epochs=8, patience=2)
    chosen = search.refit(runs, SGD, ratings, valid, out=tmp_path)
    frame = runs.to_frame()
    means = frame.groupby(["rank", "l2"])[["valid_loss", "epoch"]].mean()
    rank, l2 = means["valid_loss"].idxmin()
    assert chosen.setting == {"rank": rank, "l2": l2}
    assert chosen.score == pytest.approx(means["valid_loss"].min(), rel=1e-12)
    epochs = round(means.loc[(rank, l2), "epoch"])
    model, hyper = models.biased_mf(int(rank)), HYPER._replace(l2=l2)
    alone = fit(jax.random.fold_in(KEY, 0), model, SGD, ratings, hyper=hyper, epochs=epochs)
    assert_same_bits(chosen.fit.params, alone.params)
    assert chosen.test == evaluate.rating(alone.model, alone.params, valid)
    assert chosen.table["valid_loss"].is_monotonic_increasing
    assert len(chosen.table) == len(pd.read_csv(tmp_path / "search.csv")) == 6
    assert json.loads((tmp_path / "chosen.json").read_text())["setting"] == chosen.setting


@pytest.mark.slow
def test_what_was_pruned_is_not_chosen(ratings, valid):
    grid = {"l2": [0.05, 0.5, 2.0, 4.0]}
    runs = search.halving(KEY, BIASED, SGD, ratings, valid, grid=grid, hyper=HYPER, epochs=4, factor=2)
    chosen = search.refit(runs, SGD, ratings, random_ratings(seed=9, num_ratings=30), epochs=2)
    last = runs.to_frame().query("status != 'pruned'")
    assert chosen.setting == {"l2": last["l2"].item()}
    assert len(chosen.fit.to_frame()) == 2


def test_without_validation_there_is_nothing_to_choose_by(ratings, valid):
    runs = sweep(KEY, BIASED, SGD, ratings, grid={"l2": [0.1]}, hyper=HYPER, epochs=1)
    with pytest.raises(ValueError, match=r"refit: the search had no validation ratings to choose by"):
        search.refit(runs, SGD, ratings, valid)
    runs = sweep(KEY, BIASED, SGD, ratings, valid, grid={"learning_rate": [1e6]}, hyper=HYPER, epochs=3)
    with pytest.raises(ValueError, match=r"refit: no setting has a finite score; see the column status"):
        search.refit(runs, SGD, ratings, valid)
    assert np.isnan(runs.to_frame()["valid_loss"]).all()
