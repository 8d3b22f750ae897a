"""Halving and Hyperband: who goes on is what a plain loop over full histories says, and it goes on to the same bits."""

from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_close, assert_same_bits, slow

from jaxmf import search, sweep
from jaxmf.search._rungs import rungs
from jaxmf.search.space import draw
from jaxmf.sweeps import batches

BIASED, ADAM, SGD = MODELS["biased"], SOLVERS["adam"], SOLVERS["sgd"]
GRID: dict[str, list[Any]] = {"rank": [1, 3], "l2": [0.05, 0.2, 1.0], "learning_rate": [0.003, 0.03]}
SPACE: dict[str, Any] = {
    "rank": (1, 3),
    "l2": (0.02, 1.0, "log"),
    "learning_rate": (0.002, 0.05, "log"),
    "seed": [0, 7],
}


def climbed(full, steps, factor, brackets=None, settings=None):
    """(rung, member, goes on) by a loop over the histories of members that all ran to the end."""
    brackets = brackets or [0] * len(full.members)
    settings = settings or list(range(len(full.members)))
    loss = full.history.pivot_table(index="epoch", columns="member", values="valid_loss").cummin()
    alive, rows = [], []
    for rung, epochs in enumerate(steps):
        alive = [n for n in range(len(full.members)) if n in alive or brackets[n] == rung]
        last, chosen = rung == len(steps) - 1, set()
        for bracket in set(brackets):
            own = list(dict.fromkeys(settings[n] for n in alive if brackets[n] == bracket))
            mean = {s: np.mean([loss.loc[epochs, n] for n in alive if settings[n] == s]) for s in own}
            best = sorted(own, key=mean.get)[: len(own) if last else max(1, len(own) // factor)]
            chosen |= {n for n in alive if brackets[n] == bracket and settings[n] in best}
        rows += [(rung, n, n in chosen) for n in alive]
        alive = sorted(chosen)
    return rows


def found(runs):
    return list(runs.rungs[["rung", "member", "selected"]].itertuples(index=False, name=None))


@pytest.fixture(scope="module")
def full(ratings, valid):
    return sweep(KEY, BIASED, ADAM, ratings, valid, grid=GRID, hyper=HYPER, epochs=8, patience=8, pad=True, keep="all")


@pytest.mark.parametrize("batch", [1, slow(5)])
def test_survivors_are_those_of_a_plain_loop_and_equal_the_full_sweep(ratings, valid, full, batch):
    options: dict[str, Any] = {"grid": GRID, "hyper": HYPER, "epochs": 8, "factor": 2, "pad": True, "batch": batch}
    runs = search.halving(KEY, BIASED, ADAM, ratings, valid, **options)
    assert found(runs) == climbed(full, [1, 2, 4, 8], 2)
    assert runs.rungs.groupby("rung").size().tolist() == [12, 6, 3, 1]
    # Twelve, six and three in widths of 5, 3 and then one alone.
    assert runs.num_programs == (1 if batch == 1 else 3)
    table, whole = runs.to_frame(), full.to_frame()
    last = table[table["status"] != "pruned"].index
    assert len(last) == 1
    assert runs.best() == last[0]
    same = assert_same_bits if batch == 1 else lambda a, b: assert_close(a, b, rtol=1e-9, atol=1e-12)
    same(runs.params(runs.best()), full.params(runs.best()))
    for name in ("valid_rmse", "epochs"):
        same(np.asarray(table.loc[last, name], float), np.asarray(whole.loc[last, name], float))
    assert (table.loc[table["status"] == "pruned", "epochs"] < 8).all()
    seconds = runs.history.groupby("member")["seconds"]
    assert (seconds.diff().dropna() >= 0).all()


def test_members_of_a_setting_go_on_together(ratings):
    folds = 1.0 * np.array([np.arange(len(ratings.value)) % 3 != fold for fold in range(3)])
    grid = {"l2": [0.05, 0.2, 0.5, 2.0], "seed": [0, 1]}
    options: dict[str, Any] = {"grid": grid, "hyper": HYPER, "folds": folds}
    whole = sweep(KEY, BIASED, SGD, ratings, **options, epochs=4, patience=4)
    runs = search.halving(KEY, BIASED, SGD, ratings, **options, epochs=4, factor=2)
    assert found(runs) == climbed(whole, [1, 2, 4], 2, settings=[n // 6 for n in range(24)])
    assert runs.rungs.groupby("rung").size().tolist() == [24, 12, 6]


def test_what_diverges_is_dropped_and_what_stops_by_itself_is_not(ratings, valid):
    grid = [{"learning_rate": rate} for rate in (1e6, 1e5, 0.01, 0.02)]
    runs = search.halving(KEY, BIASED, SGD, ratings, valid, grid=grid, hyper=HYPER, epochs=40, factor=2, patience=2)
    table = runs.to_frame()
    assert table["status"].tolist()[:2] == ["diverged", "diverged"]
    assert runs.rungs.groupby("rung")["member"].agg(list).tolist()[1] == [2, 3]
    assert table.loc[runs.best(), "status"] == "stopped_early"
    assert runs.rungs["member"].tolist()[-1] == runs.best()


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on_to_the_same_bits(ratings, valid, tmp_path, monkeypatch):
    arguments = (KEY, BIASED, ADAM, ratings, valid)
    options: dict[str, Any] = {
        "grid": GRID,
        "hyper": HYPER,
        "epochs": 4,
        "factor": 2,
        "batch": 4,
        "pad": True,
        "workers": 1,
    }
    whole = search.halving(*arguments, **options)
    fitted, left = [], 2

    def fit_batch(shared, batch, data, earlier, begun):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        fitted.append((batch.stop, *batch.members))
        return batches.fit_batch(shared, batch, data, earlier, begun)

    monkeypatch.setattr("jaxmf.sweeps._run.fit_batch", fit_batch)
    times = 0
    while True:
        try:
            resumed = search.halving(*arguments, **options, out=tmp_path)
            break
        except KeyboardInterrupt:
            left, times = 2, times + 1
    assert times > 0
    assert len(fitted) == len(set(fitted)) == len(list(tmp_path.glob("members/batch-*.npz")))
    assert_same_bits(resumed.params(resumed.best()), whole.params(whole.best()))
    for name in ("table", "history", "rungs"):
        tables = (getattr(runs, name).drop(columns="seconds", errors="ignore") for runs in (resumed, whole))
        pd.testing.assert_frame_equal(*tables)
    assert pd.read_csv(tmp_path / "rungs.csv")["selected"].tolist() == whole.rungs["selected"].tolist()
    with pytest.raises(ValueError, match=r"holds another sweep: it differs in configuration\.rungs"):
        search.halving(*arguments, **options | {"factor": 3}, out=tmp_path)


def test_hyperband_is_halving_from_several_starts(ratings, valid):
    runs = search.hyperband(KEY, BIASED, ADAM, ratings, valid, space=SPACE, hyper=HYPER, epochs=4, factor=2, pad=True)
    # Three brackets, of 4, 3 and 3 settings, that start at 1, 2 and 4 epochs.
    brackets = [0] * 4 + [1] * 3 + [2] * 3
    grid = draw(KEY, SPACE, 10)
    assert [member.point for member in runs.members] == grid
    whole = sweep(KEY, BIASED, ADAM, ratings, valid, grid=grid, hyper=HYPER, epochs=4, patience=4, pad=True, keep="all")
    assert found(runs) == climbed(whole, [1, 2, 4], 2, brackets)
    assert_same_bits(runs.params(runs.best()), whole.params(runs.best()))
    again = search.hyperband(KEY, BIASED, ADAM, ratings, valid, space=SPACE, hyper=HYPER, epochs=4, factor=2, pad=True)
    pd.testing.assert_frame_equal(again.rungs, runs.rungs)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((81, None, 3), [1, 3, 9, 27, 81]), ((50, 4, 3), [6, 17, 50]), ((7, 1, 2), [2, 4, 7]), ((5, 5, 2), [5])],
    ids=str,
)
def test_rungs(given, expected):
    assert rungs("test", *given) == expected


def test_points_are_uniform_on_their_scale():
    space: dict[str, Any] = {"a": (2, 4), "b": (1, 9, "log"), "c": (0.5, 1.5), "d": (1e-4, 1.0, "log"), "e": ["x", "y"]}
    points = pd.DataFrame(draw(jax.random.key(3), space, 4000))
    assert points["a"].value_counts(normalize=True).sub(1 / 3).abs().max() < 0.03
    whole = np.log((np.arange(1, 10) + 0.5) / (np.arange(1, 10) - 0.5)) / np.log(9.5 / 0.5)
    np.testing.assert_allclose(points["b"].value_counts(normalize=True).sort_index(), whole, atol=0.03)
    assert points["c"].between(0.5, 1.5).all()
    assert abs(points["c"].mean() - 1) < 0.02
    assert np.log10(points["d"]).between(-4, 0).all()
    assert abs(np.log10(points["d"]).mean() + 2) < 0.06
    assert abs((points["e"] == "x").mean() - 0.5) < 0.03
    assert draw(jax.random.key(3), space, 2) == draw(jax.random.key(3), space, 2) != draw(jax.random.key(4), space, 2)
