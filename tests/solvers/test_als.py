"""Alternating least squares: each half-step is the exact minimum of the objective in its block."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    HYPER,
    MODELS,
    assert_close,
    assert_same_bits,
    degrees,
    init,
    largest,
    numpy_als,
    pick,
    planted_ratings,
    random_ratings,
    run,
    to_numpy,
    to_rows,
)

from jaxmf import Hyper, models, solvers
from jaxmf.metrics import rmse
from jaxmf.models import objective, row_weights
from jaxmf.solvers import Problem
from jaxmf.solvers.als import half_step, prepare, solve

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_exponent = pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])


@pytest.fixture(autouse=True, scope="module")
def many_buckets():
    """As many buckets for little data as there are for much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[prepare.__module__], "_WORTH", 1)
        yield


@pytest.mark.parametrize("folds", [False, True], ids=["full", "folds"])
@each_exponent
@each_model
def test_sweep_equals_the_row_loop(model, nu, folds):
    ratings, hyper = random_ratings(folds=folds), HYPER._replace(reg_exponent=nu)
    params = init(model, ratings, hyper)
    state, _ = run(model, solvers.als(), ratings, hyper, params=params)
    expected = numpy_als(numpy_als(to_numpy(params), ratings, hyper, "user"), ratings, hyper, "item")
    assert_close(state.params.trained, to_rows(expected), rtol=1e-9, atol=1e-12)
    for rows, n in zip((state.params.trained.user, state.params.trained.item), degrees(ratings), strict=True):
        assert n.min() == 0
        assert largest(jax.tree.map(lambda leaf, n=n: leaf[n == 0], rows)) == 0


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def halves(request):
    """A model with its jitted half-steps and value-and-gradient, all functions of the hyper."""
    model, ratings, solver = request.param, random_ratings(folds=True), solvers.als()
    layout = solver.prepare(ratings)

    def solved(side):
        def step(params, hyper):
            task = Problem(ratings, row_weights(ratings, hyper.reg_exponent), layout)
            return half_step(model, params, task, hyper, side)

        return jax.jit(step)

    def loss(trained, params, hyper):
        return objective(model, params._replace(trained=trained), ratings, hyper)

    value_and_grad = jax.jit(lambda params, hyper: jax.value_and_grad(loss)(params.trained, params, hyper))
    return model, ratings, value_and_grad, {side: solved(side) for side in ("user", "item")}


@each_exponent
def test_half_steps_are_stationary_and_never_rise(halves, nu):
    model, ratings, value_and_grad, solved = halves
    hyper = HYPER._replace(reg_exponent=nu)
    params = init(model, ratings, hyper)
    value, start = value_and_grad(params, hyper)
    for sweep in range(4):
        for side in ("user", "item"):
            params = solved[side](params, hyper)
            after, gradient = value_and_grad(params, hyper)
            assert largest(getattr(gradient, side)) < 1e-8 * largest(getattr(start, side))
            assert after <= value * (1 + 1e-14)
            assert sweep or after < value
            value = after


def test_a_half_step_leaves_the_other_side_alone(halves):
    model, ratings, _, solved = halves
    before = init(model, ratings, HYPER)
    after = solved["item"](before, HYPER)
    assert_same_bits((after.trained.user, after.fixed), (before.trained.user, before.fixed))
    assert largest(jax.tree.map(jnp.subtract, after.trained.item, before.trained.item)) > 0.1


@pytest.mark.parametrize("model", [MODELS["mf-user-mean"], MODELS["biased"]], ids=["mf-user-mean", "biased"])
def test_row_order_changes_nothing(model):
    ratings = random_ratings(folds=True)
    shuffled = pick(ratings, np.random.default_rng(0).permutation(len(ratings.value)))
    params = init(model, ratings, HYPER)
    (first, _), (second, _) = (run(model, solvers.als(), r, HYPER, params=params) for r in (ratings, shuffled))
    assert_close(first.params, second.params, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [MODELS["biased"]], ids=["biased"])
def test_weight_zero_equals_absent(model):
    ratings = random_ratings(folds=True)
    kept = pick(ratings, np.asarray(ratings.weight) > 0)
    params = init(model, ratings, HYPER)
    (first, _), (second, _) = (run(model, solvers.als(), r, HYPER, params=params) for r in (ratings, kept))
    assert_close(first.params, second.params, rtol=1e-9, atol=1e-12)


def test_a_planted_rank_is_recovered():
    """Without noise, held-out error is tiny at the planted rank and not at half of it."""
    train, held_out = planted_ratings(rank=4, num_users=30, num_items=24, share=0.7)
    hyper, model = Hyper(l2=1e-6, reg_exponent=1.0, init_scale=1.0), models.biased_mf(4)

    def error(rank):
        params = run(model, solvers.als(), train, hyper._replace(rank=rank), 100)[0].params
        return float(rmse(held_out.value, model.predict(params, held_out.user, held_out.item), held_out.weight))

    assert error(4) < 1e-2
    assert error(2) > 0.3


@pytest.mark.parametrize(("rule", "tol"), [("relative", 1e-2), ("difference", 1e-2)])
def test_converges_at_the_sweep_of_the_loop(rule, tol):
    # Here Δ rises for a while before it falls for good, so that |Δ_previous − Δ| is not Δ_previous − Δ.
    ratings, model, hyper = random_ratings(1), MODELS["mf-uncentered"], HYPER._replace(l2=1.0, reg_exponent=0.0)
    params = init(model, ratings, hyper)
    state, history = run(model, solvers.als(tol, rule), ratings, hyper, 40, params=params)

    theta, previous, sweeps, done = to_numpy(params), np.inf, 0, False
    while not done:
        before, theta = theta, numpy_als(numpy_als(theta, ratings, hyper, "user"), ratings, hyper, "item")
        change = sum(np.linalg.norm(theta[name] - before[name]) for name in "PQ")
        size = sum(np.linalg.norm(theta[name]) for name in "PQ")
        done = change < tol * size if rule == "relative" else abs(previous - change) < tol
        previous, sweeps = change, sweeps + 1
    assert 3 < sweeps < 40
    assert int(state.epoch) == sweeps
    assert int(state.status) == 1
    np.testing.assert_array_equal(history["epoch"], [*range(1, sweeps + 1), *[0] * (40 - sweeps)])
    assert (history["objective"][sweeps:] == np.finfo(float).max).all()


@pytest.mark.parametrize("method", ["cholesky", "cg"])
@pytest.mark.parametrize("max_memory", [1, 500, 2000])
def test_rows_in_parts_are_the_same_rows(method, max_memory):
    ratings, model = random_ratings(folds=True), MODELS["content"]
    params = init(model, ratings, HYPER)
    whole, parts = (
        run(model, solvers.als(method=method, max_memory=memory), ratings, HYPER, 2, params=params)[0]
        for memory in (None, max_memory)
    )
    assert_close(whole.params, parts.params, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [MODELS["biased"], MODELS["content"]], ids=["biased", "content"])
def test_many_steps_of_conjugate_gradient_are_exact(model):
    ratings = random_ratings(folds=True)
    params = init(model, ratings, HYPER)
    exact, near = (
        run(model, solver, ratings, HYPER, 2, params=params)[0]
        for solver in (solvers.als(), solvers.als(method="cg", steps=10))
    )
    assert_close(exact.params, near.params, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
@each_model
def test_conjugate_gradient_never_rises(model, steps):
    """And it keeps inactive columns and rows without weight at 0, and ends near the exact solver."""
    ratings, hyper = random_ratings(folds=True), HYPER._replace(rank=2)
    params = init(model, ratings, hyper)
    state, history = run(model, solvers.als(method="cg", steps=steps), ratings, hyper, 30, params=params)
    objectives = np.asarray(history["objective"])
    assert (np.diff(objectives) < 1e-12 * objectives[0]).all()
    exact = np.asarray(run(model, solvers.als(), ratings, hyper, 30, params=params)[1]["objective"])
    assert objectives[-1] < exact[-1] * {1: 1.15, 3: 1.02}[steps]
    trained = state.params.trained
    for rows, n in zip((trained.user, trained.item), degrees(ratings), strict=True):
        assert largest(rows["factors"][:, 2:]) == 0
        assert largest(jax.tree.map(lambda leaf, n=n: leaf[n == 0], rows)) == 0


def test_buckets_hold_every_rating_once():
    """Every row with ratings in one bucket, at its own positions; padding at most doubles a row."""
    ratings = random_ratings(num_users=50, num_items=12, num_ratings=400)
    layout = prepare(ratings)
    for index, buckets in ((np.asarray(ratings.user), layout.user), (np.asarray(ratings.item), layout.item)):
        assert len(buckets.position) > 1
        assert sorted(buckets.rows.tolist()) == sorted(set(index.tolist()))
        positions = [own for bucket in buckets.position for own in np.asarray(bucket)]
        for row, found in zip(buckets.rows, positions, strict=True):
            assert sorted(found[found < len(index)]) == np.flatnonzero(index == int(row)).tolist()
        for row, place in enumerate(buckets.place.tolist()):
            assert place == len(buckets.rows) if row not in index else int(buckets.rows[place]) == row


@pytest.mark.parametrize("widths", [[1], [3], [4], [9], [1, 2], [3, 4], [2, 3, 5, 9], [5, 9]], ids=str)
def test_rows_are_solved_the_same_from_either_end(widths):
    """With fewer ratings than unknowns through the ratings' system, else through the normal equations."""
    random = np.random.default_rng(len(widths))
    blocks, padded, expected = [], [], []
    ridge = random.uniform(0.1, 4, size=(2 * len(widths), 4))
    for width in widths:
        X, t = random.normal(size=(2, width, 4)), random.normal(size=(2, width))
        w = random.uniform(0.5, 2, size=(2, width))
        for row in range(2):
            system = (X[row].T * w[row]) @ X[row] + np.diag(ridge[len(expected)])
            expected.append(np.linalg.solve(system, (X[row].T * w[row]) @ t[row]))
        blocks.append((X, t, w))
        padded.append([np.concatenate([a, b * np.ones_like(a)], axis=1) for a, b in ((X, 1), (t, 1), (w, 0))])
    np.testing.assert_allclose(solve(blocks, ridge), expected, rtol=1e-11)
    np.testing.assert_allclose(solve(padded, ridge), expected, rtol=1e-10)
    without = [(X, t, 0 * w) for X, t, w in blocks]
    np.testing.assert_array_equal(solve(without, ridge), np.zeros_like(ridge))
