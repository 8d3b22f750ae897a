"""Optuna in batches: every trial is its own fit, in one program, and the study knows what happened."""

import sys
from typing import Any

import jax
import numpy as np
import optuna
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_close

from jaxmf import fit, models, search, sweep

BIASED, ADAM, SGD = MODELS["biased"], SOLVERS["adam"], SOLVERS["sgd"]
SPACE: dict[str, Any] = {"rank": (1, 4), "l2": (0.02, 1.0, "log"), "learning_rate": [0.003, 0.03]}
OPTIONS: dict[str, Any] = {"space": SPACE, "hyper": HYPER, "epochs": 9}
STATES = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "diverged"}


@pytest.fixture(scope="module")
def done(ratings, valid):
    return search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS, trials=14, ask=5)


@pytest.mark.slow
def test_every_trial_is_its_own_fit(ratings, valid, done):
    runs, study = done
    table = runs.to_frame()
    assert len(table) == len(study.trials) == 14
    assert runs.num_programs == 1
    assert table["rank"].nunique() > 1
    for member, trial in enumerate(study.trials):
        row = table.loc[member]
        assert {name: runs.members[member].point[name] for name in SPACE} == trial.params
        assert row["status"] == STATES[trial.state.name]
        # Up to where it was pruned, with no more reports than that.
        assert list(trial.intermediate_values) == [step for step in (1, 3) if step <= row["epochs"]]
        assert trial.value == pytest.approx(row["valid_loss"], rel=1e-12)
    assert {"completed", "pruned"} <= set(table["status"])
    best = runs.best()
    assert study.best_value == table["valid_loss"].min()
    numbers = dict(study.best_params)
    model = models.biased_mf(numbers.pop("rank"))
    alone = fit(KEY, model, ADAM, ratings, valid, hyper=HYPER._replace(**numbers), epochs=9, patience=9)
    assert_close(runs.params(best), alone.params, rtol=1e-9)
    assert list(runs.kept) == [best]


def test_pruning_is_the_studys_own(ratings, valid):
    class Half(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number % 2 == 1

    study = optuna.create_study(pruner=Half(), sampler=optuna.samplers.RandomSampler(seed=0))
    runs, same = search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS, trials=4, ask=3, study=study)
    assert same is study
    assert runs.to_frame()["status"].tolist() == ["completed", "pruned"] * 2
    assert runs.to_frame()["epochs"].tolist() == [9, 1, 9, 1]
    search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS, trials=2, study=study)
    assert len(study.trials) == 6


def test_the_key_seeds_the_sampler(ratings, valid, done):
    again = search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS, trials=14, ask=5).study
    assert [trial.params for trial in again.trials] == [trial.params for trial in done.study.trials]
    other = jax.random.key(5)
    drawn = search.optuna(other, BIASED, ADAM, ratings, valid, **OPTIONS, trials=3, sampler="random").study
    assert isinstance(drawn.sampler, optuna.samplers.RandomSampler)
    assert [trial.params for trial in drawn.trials] != [trial.params for trial in done.study.trials[:3]]


def test_folds_are_averaged_and_divergence_is_a_failed_trial(ratings):
    folds = 1.0 * np.array([np.arange(len(ratings.value)) % 2 != fold for fold in range(2)])
    space: dict[str, Any] = {"learning_rate": [0.01, 1e6]}
    options: dict[str, Any] = {"folds": folds, "hyper": HYPER}
    runs, study = search.optuna(KEY, BIASED, SGD, ratings, space=space, trials=6, epochs=3, **options)
    whole = sweep(KEY, BIASED, SGD, ratings, grid={"learning_rate": [0.01]}, epochs=3, patience=3, **options)
    states = {trial.params["learning_rate"]: trial.state.name for trial in study.trials}
    assert states[0.01] == "COMPLETE"
    assert states[1e6] in ("FAIL", "PRUNED")
    assert study.best_value == pytest.approx(np.mean(whole.to_frame()["valid_loss"]), rel=1e-12)
    assert len(runs.members) == 12


def test_a_batch_that_fails_leaves_no_trial_running(ratings, valid, monkeypatch):
    study = optuna.create_study()
    monkeypatch.setattr(sys.modules["jaxmf.search._optuna"], "run", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS, study=study)
    assert {trial.state.name for trial in study.trials} == {"FAIL"}


def test_without_optuna_the_remedy_is_named(ratings, valid, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"optuna is not installed; pip install 'jaxmf\[search\]'"):
        search.optuna(KEY, BIASED, ADAM, ratings, valid, **OPTIONS)
