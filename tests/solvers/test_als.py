"""Alternating least squares: each half-step is the exact minimum of the objective in its block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    HYPER,
    MODELS,
    assert_close,
    degrees,
    largest,
    numpy_als,
    pick,
    planted_ratings,
    problem,
    random_ratings,
    run,
    to_numpy,
    to_rows,
)

from jaxmf import Hyper, models, solvers
from jaxmf.metrics import rmse
from jaxmf.models import objective
from jaxmf.solvers.als import half_step, prepare, solve

KEY = jax.random.key(1)
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_exponent = pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])


@pytest.mark.parametrize("folds", [False, True], ids=["full", "folds"])
@each_exponent
@each_model
def test_sweep_equals_the_row_loop(model, nu, folds):
    ratings, hyper = random_ratings(folds=folds), HYPER._replace(reg_exponent=nu)
    params = model.init(KEY, ratings, hyper)
    state, _ = run(model, solvers.als(), ratings, hyper, params=params)
    expected = numpy_als(numpy_als(to_numpy(params), ratings, hyper, "user"), ratings, hyper, "item")
    assert_close(state.params.trained, to_rows(expected), rtol=1e-9, atol=1e-12)
    for rows, n in zip((state.params.trained.user, state.params.trained.item), degrees(ratings), strict=True):
        assert n.min() == 0
        assert largest(jax.tree.map(lambda leaf, n=n: leaf[n == 0], rows)) == 0


@each_exponent
@each_model
def test_half_steps_are_stationary_and_never_rise(model, nu):
    ratings, hyper, solver = random_ratings(folds=True), HYPER._replace(reg_exponent=nu), solvers.als()
    params, task = model.init(KEY, ratings, hyper), problem(solver, ratings, hyper)

    @jax.jit
    def value_and_grad(params):
        return jax.value_and_grad(lambda t: objective(model, params._replace(trained=t), ratings, hyper))(
            params.trained
        )

    solved = {
        side: jax.jit(lambda params, side=side: half_step(model, params, task, hyper, side))
        for side in ("user", "item")
    }
    value, start = value_and_grad(params)
    for sweep in range(4):
        for side in ("user", "item"):
            params = solved[side](params)
            after, gradient = value_and_grad(params)
            assert largest(getattr(gradient, side)) < 1e-8 * largest(getattr(start, side))
            assert after <= value * (1 + 1e-14)
            assert sweep or after < value
            value = after


def test_a_half_step_leaves_the_other_side_alone():
    ratings, model, solver = random_ratings(), MODELS["biased"], solvers.als()
    params = model.init(KEY, ratings, HYPER)
    after = half_step(model, params, problem(solver, ratings, HYPER), HYPER, "item")
    assert after.trained.user is params.trained.user
    assert after.fixed is params.fixed


@each_model
def test_row_order_changes_nothing(model):
    ratings = random_ratings(folds=True)
    shuffled = pick(ratings, np.random.default_rng(0).permutation(len(ratings.value)))
    params = model.init(KEY, ratings, HYPER)
    (first, _), (second, _) = (run(model, solvers.als(), r, HYPER, 3, params=params) for r in (ratings, shuffled))
    assert_close(first.params, second.params, rtol=1e-9, atol=1e-12)


@each_model
def test_weight_zero_equals_absent(model):
    ratings = random_ratings(folds=True)
    kept = pick(ratings, np.asarray(ratings.weight) > 0)
    params = model.init(KEY, ratings, HYPER)
    (first, _), (second, _) = (run(model, solvers.als(), r, HYPER, 3, params=params) for r in (ratings, kept))
    assert_close(first.params, second.params, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [models.mf(4, None), models.biased_mf(4)], ids=["mf", "biased"])
def test_a_planted_rank_is_recovered(model):
    """Without noise, held-out error is tiny at the planted rank and not at one less."""
    train, held_out = planted_ratings(rank=4)
    hyper = Hyper(l2=1e-6, reg_exponent=1.0, init_scale=1.0)

    def error(model):
        params = run(model, solvers.als(), train, hyper, 200)[0].params
        return float(rmse(held_out.value, model.predict(params, held_out.user, held_out.item), held_out.weight))

    assert error(model) < 1e-2
    assert error(model.with_rank(2)) > 0.3


@pytest.mark.parametrize(("rule", "tol"), [("relative", 1e-2), ("difference", 1e-2)])
def test_converges_at_the_sweep_of_the_loop(rule, tol):
    ratings, model, hyper = random_ratings(), MODELS["mf-uncentered"], HYPER._replace(l2=1.0)
    params = model.init(KEY, ratings, hyper)
    state, history = run(model, solvers.als(tol, rule), ratings, hyper, 40, params=params)

    theta, previous, sweeps = to_numpy(params), np.inf, 0
    for sweeps in range(1, 41):
        before, theta = theta, numpy_als(numpy_als(theta, ratings, hyper, "user"), ratings, hyper, "item")
        change = sum(np.linalg.norm(theta[name] - before[name]) for name in "PQ")
        size = sum(np.linalg.norm(theta[name]) for name in "PQ")
        if change < tol * size if rule == "relative" else abs(previous - change) < tol:
            break
        previous = change
    assert 3 < sweeps < 40
    assert int(state.epoch) == sweeps
    assert int(state.status) == 1
    np.testing.assert_array_equal(history["epoch"], [*range(1, sweeps + 1), *[0] * (40 - sweeps)])
    assert np.isnan(history["objective"][sweeps:]).all()


def test_buckets_hold_every_rating_once():
    """Every row with ratings in one bucket, at its own positions; padding at most doubles a row."""
    ratings = random_ratings(num_users=50, num_items=12, num_ratings=400)
    layout = prepare(ratings)
    for index, buckets in ((np.asarray(ratings.user), layout.user), (np.asarray(ratings.item), layout.item)):
        assert len(buckets) > 1
        rows = np.concatenate([bucket.rows for bucket in buckets])
        assert sorted(rows) == sorted(set(index.tolist()))
        for bucket in buckets:
            for row, positions in zip(bucket.rows, np.asarray(bucket.position), strict=True):
                own = positions[positions < len(index)]
                assert sorted(own) == np.flatnonzero(index == int(row)).tolist()
                assert len(positions) <= max(4, 2 * len(own))


def test_a_zero_diagonal_solves_to_zero():
    gram = jnp.zeros((1, 3, 3)).at[0, 0, 0].set(2.0)
    z = solve(gram, jnp.array([[4.0, 0.0, 0.0]]), jnp.array([[0.5, 0.0, 0.0]]))
    np.testing.assert_allclose(z, [[1.6, 0.0, 0.0]], rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": -1e-3}, "tol must be positive"),
        ({"tol": float("nan")}, "tol must be positive"),
        ({"tol": 1e-3, "rule": "absolute"}, "rule must be"),
    ],
    ids=str,
)
def test_bad_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        solvers.als(**arguments)
