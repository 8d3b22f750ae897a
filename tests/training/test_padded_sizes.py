"""Shapes are few: data of about the same size share compiled programs, and padding changes nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import COMPILED, HYPER, KEY, MODELS, SOLVERS, assert_same_bits, random_ratings, slow, structure

from jaxmf import Hyper, datasets, fit, make_fit, models, prepare, solvers, splits, sweep
from jaxmf.data import ratings as door
from jaxmf.data.ratings import padded, padded_size
from jaxmf.kernels import _matchings, tiles
from jaxmf.metrics import total
from jaxmf.training._fingerprints import fingerprints

BIASED = MODELS["biased"]
OF_DATA = {"als": solvers.als(), "sgd": solvers.sgd(), "adam": solvers.minibatch(optax.adam, 256)}


def test_padded_sizes():
    sizes = np.unique([padded_size(n) for n in range(1, 60_000)])
    assert sizes[0] == 1024
    assert all(padded_size(n) >= n for n in (1, 1024, 1025, 12_345, 20_000_263, 2**31 - 1))
    assert (sizes % 1024 == 0).all()
    assert (np.diff(sizes)[sizes[:-1] >= 8192] <= sizes[:-1][sizes[:-1] >= 8192] / 8).all()
    assert all(padded_size(size) == size for size in sizes.tolist())


@pytest.mark.parametrize("name", OF_DATA)
def test_splits_of_about_the_same_size_share_their_programs(name):
    """Another random split of the same size, and one of 1 % less, compile nothing, be they fitted or swept."""
    data, model, solver = datasets.synthetic(300, 220, 13_000, seed=0), models.biased_mf(4), OF_DATA[name]
    parts = [splits.random(data, (0.9, 0.1), seed=0), splits.random(data, (0.9, 0.1), seed=1)]
    parts.append(splits.random(data, (0.891, 0.109), seed=2))
    assert len({padded_size(len(train)) for train, _ in parts}) == 1
    for train, valid in parts:
        before = len(COMPILED)
        assert fit(KEY, model, solver, train, valid, Hyper(l2=0.1), epochs=2).status == "completed"
        sweep(KEY, model, solver, train, valid=valid, grid={"l2": [0.1, 0.2]}, epochs=2)
        if train is parts[0][0]:
            assert len(COMPILED) > before
        else:
            assert COMPILED[before:] == []


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("number", [5000, 11_500, 13_000, 14_500])
def test_layouts_of_all_splits_have_one_shape(number, devices):
    """How many cells are in use depends on the lengths of the rows, and so on chance."""
    data = datasets.synthetic(300, 220, number, seed=0)
    layouts = [tiles.prepare(splits.random(data, (0.9, 0.1), seed=seed)[0].ratings, devices) for seed in range(12)]
    assert len({tuple(leaf.shape for leaf in jax.tree.leaves(layout)) for layout in layouts}) == 1
    assert len({tuple(side.tiles.widths for side in layout) for layout in layouts}) == 1
    assert len({int(layout.user.tiles.start[-1]) for layout in layouts}) > 1


@pytest.fixture
def larger(monkeypatch):
    """Everything padded to a larger size of its own."""

    def climb():
        monkeypatch.setattr(door, "padded_size", lambda n: padded_size(n) + 5120)
        monkeypatch.setattr(tiles, "padded_size", lambda n: padded_size(n) + 5120)
        monkeypatch.setattr(_matchings, "padded_size", lambda n, least: padded_size(n, least) + 3 * least)

    return climb


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("sgd", "float32"), slow("sgd", "float64"), ("adam", "float32"), ("als", "float32"), slow("als-cg", "float32")],
)
def test_the_padded_size_changes_nothing(name, dtype, larger):
    """The same visiting order, number of steps and state; 1,100 ratings fill a padded size but for what is odd.

    How a processor rounds the last predictions of a program may depend on their number: floats are equal up to that.
    """
    solver = SOLVERS.get(name) or solvers.als(method="cg")
    ratings, valid = (
        random_ratings(seed, 60, 50, number, folds=True, dtype=dtype) for seed, number in ((0, 1100), (1, 200))
    )
    run = jax.jit(make_fit(BIASED, solver, 3, patience=9))
    found = []
    for _ in range(2):
        batch = prepare(solver, ratings, valid)
        found.append((len(batch.train.value), run(KEY, batch, HYPER)))
        larger()
    (low, one), (high, other) = found
    assert (low, high) == (2048, 7168)
    assert structure(one) == structure(other)
    for a, b in zip(map(np.asarray, jax.tree.leaves(one)), map(np.asarray, jax.tree.leaves(other)), strict=True):
        assert a.dtype == b.dtype
        rounding = 100 * np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("n", [5, 5000, 300_000])
def test_zeros_behind_change_a_sum_by_last_bits_at_most(n, optimized):
    """By none, unless numbers are so few that one row holds them, or the sums of rows so many that one does not."""
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    sums = [float(jax.jit(total)(np.pad(values, (0, more)))) for more in (0, 1000, 5000, 150_000, 700_000, 2_000_000)]
    assert sums == pytest.approx([values.sum(dtype=float)] * 6, abs=1e-7 * float(np.abs(values).sum()))
    assert n < 1024 or len(set(sums[:-1])) == 1


def test_the_number_of_steps_is_that_of_the_ratings():
    """1,100 ratings in batches of 64 are 18 steps an epoch, whatever the padded size; a batch of padding is none."""
    solver, ratings = solvers.minibatch(optax.adam, 64), random_ratings(0, 60, 50, 1100)
    state = fit(KEY, BIASED, solver, ratings, hyper=HYPER, epochs=2).state.solver
    assert int(state[0].count) == 36


def test_a_resumed_fit_may_be_prepared_or_not():
    """Padding is not part of the ratings' fingerprint, so that another ladder of sizes would know them again."""
    ratings, solver = random_ratings(), SOLVERS["als"]
    assert fingerprints(ratings, ratings) == fingerprints(padded(ratings), padded(ratings))
    whole = fit(KEY, BIASED, solver, ratings, hyper=HYPER, epochs=4)
    first = fit(KEY, BIASED, solver, prepare(solver, ratings), hyper=HYPER, epochs=2)
    assert_same_bits(fit(KEY, BIASED, solver, ratings, resume=first, epochs=2).params, whole.params)
    other = prepare(solver, replace(ratings, value=jnp.flip(ratings.value)))
    with pytest.raises(ValueError, match="other training ratings"):
        fit(KEY, BIASED, solver, other, resume=first, epochs=2)
