"""Alternating least squares: each half-step is the exact minimum of the objective in its block."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    DISTINCT,
    HYPER,
    KEY,
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
    slow,
    to_numpy,
    to_rows,
)

from jaxmf import Hyper, models, solvers
from jaxmf.kernels import tiles
from jaxmf.kernels.normal_equations import solve_normal, solve_short
from jaxmf.kernels.tiles import half_of, prepare
from jaxmf.metrics import rmse
from jaxmf.models import objective, row_weights
from jaxmf.solvers._als import Resources, half_step

each_model = pytest.mark.parametrize("model", DISTINCT.values(), ids=DISTINCT)
each_exponent = pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])


@pytest.fixture(autouse=True, scope="module")
def many_tiles():
    """As many tiles and slabs for little data as there are for much: rows in one slab and in several."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_widths", lambda count: (2, 5, 6)), ("_ROWS", 4)):
            patch.setattr(tiles, name, value)
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
        assert largest(jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[n == 0], rows)) == 0


@pytest.mark.parametrize("name", ["biased", "content"])
def test_a_sweep_by_weights_equals_the_row_loop(name):
    """Weights other than 0 and 1, in tiles of every kind."""
    ratings, model = random_ratings(), MODELS[name]
    weight = np.random.default_rng(0).uniform(0.5, 2, len(ratings.value))
    ratings = replace(ratings, weight=jnp.asarray(weight))
    params = init(model, ratings, HYPER)
    state, _ = run(model, solvers.als(), ratings, HYPER, params=params)
    expected = numpy_als(numpy_als(to_numpy(params), ratings, HYPER, "user"), ratings, HYPER, "item")
    assert_close(state.params.trained, to_rows(expected), rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module", params=DISTINCT.values(), ids=list(DISTINCT))
def halves(request):
    """A model with its jitted half-steps and value-and-gradient, all functions of the hyper."""
    model, ratings, solver = request.param, random_ratings(folds=True), solvers.als()
    layout = solver.prepare(ratings)

    def solved(side):
        def step(params, hyper):
            half = half_of(getattr(layout, side), ratings, side)
            return half_step(model, params, half, row_weights(ratings, hyper.reg_exponent), hyper, side)

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
        return float(rmse(held_out.value, model.predict(params, held_out), held_out.weight))

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
        previous, sweeps = float(change), sweeps + 1
    assert 3 < sweeps < 40
    assert int(state.epoch) == sweeps
    assert int(state.status) == 1
    np.testing.assert_array_equal(history["epoch"], [*range(1, sweeps + 1), *[0] * (40 - sweeps)])
    assert (history["objective"][sweeps:] == np.finfo(float).max).all()


@pytest.mark.parametrize(("method", "max_memory"), [slow("cholesky", 1), ("cholesky", 2000), slow("cg", 500)])
def test_rows_in_parts_are_the_same_rows(method, max_memory):
    ratings, model = random_ratings(folds=True), MODELS["content"]
    params = init(model, ratings, HYPER)
    whole, parts = (
        run(model, solvers.als(method=method, max_memory=memory), ratings, HYPER, 2, params=params)[0]
        for memory in (None, max_memory)
    )
    assert_close(whole.params, parts.params, rtol=1e-9, atol=1e-12)


def test_many_steps_of_conjugate_gradient_are_exact():
    ratings, model = random_ratings(folds=True), MODELS["content"]
    params = init(model, ratings, HYPER)
    exact, near = (
        run(model, solver, ratings, HYPER, 2, params=params)[0]
        for solver in (solvers.als(), solvers.als(method="cg", steps=10))
    )
    assert_close(exact.params, near.params, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("name", "steps"), [("biased", 1), slow("content", 3)])
def test_conjugate_gradient_never_rises(name, steps):
    """And it keeps inactive columns and rows without weight at 0, and ends as low as the exact solver, on average."""
    ratings, hyper, model = random_ratings(folds=True), HYPER._replace(rank=2), MODELS[name]
    near, exact = [], []
    for key in jax.random.split(KEY, 6):
        params = init(model, ratings, hyper, key)
        state, history = run(model, solvers.als(method="cg", steps=steps), ratings, hyper, 30, params=params)
        objectives = np.asarray(history["objective"])
        assert (np.diff(objectives) < 1e-12 * objectives[0]).all()
        near.append(objectives[-1])
        exact.append(run(model, solvers.als(), ratings, hyper, 30, params=params)[1]["objective"][-1])
        trained = state.params.trained
        for rows, n in zip((trained.user, trained.item), degrees(ratings), strict=True):
            assert largest(rows["factors"][:, 2:]) == 0
            assert largest(jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[n == 0], rows)) == 0
    assert np.mean(near) < np.mean(exact) * {1: 1.15, 3: 1.05}[steps]


@pytest.mark.parametrize("devices", [1, 3])
def test_tiles_hold_every_rating_once(devices):
    """Every row in one tile, at its own positions; a tile's rows are of similar length, those without ratings last."""
    ratings = replace(random_ratings(num_users=50, num_items=12, num_ratings=400), num_users=53, num_items=14)
    layout = prepare(ratings, devices)
    for index, (found, cells) in ((np.asarray(ratings.user), layout.user), (np.asarray(ratings.item), layout.item)):
        cells, first, rows, kinds = map(np.asarray, (cells, found.start, found.rows, (0, *found.ends)))
        order, at_once = rows.ravel(), rows.shape[2]
        seen: dict[int, Any] = {}
        assert first[0] == kinds[0] == 0
        assert len(first) == rows.shape[1] + 1
        assert (rows[:, kinds[-1] :] == len(found.slot)).all()
        assert (cells[:, first[-1] :] == len(index)).all()
        for tile in range(kinds[-2]):
            full, left = int(found.slabs[tile]), int(found.remainder[tile])
            own, slabs = cells[:, first[tile] : first[tile + 1]], []
            for slab in range(full + (left > 0)):
                start, width = slab * at_once * 6, 6 if slab < full else left
                slabs.append(own[:, start : start + at_once * width].reshape(devices, at_once, width))
            single = [kind for kind in range(3) if kinds[kind] <= tile < kinds[kind + 1]]
            assert [slab.shape[2] for slab in slabs] == [found.widths[kind] for kind in single] or not single
            for device, lane in np.ndindex(devices, at_once):
                positions = np.concatenate([slab[device, lane] for slab in slabs])
                positions = positions[positions < len(index)].tolist()
                seen.setdefault(int(rows[device, tile, lane]), []).extend(positions)
        assert seen.pop(len(found.slot), []) == []
        assert sorted(seen) == sorted(set(index.tolist()))
        for row, positions in seen.items():
            assert sorted(positions) == np.flatnonzero(index == row).tolist()
        for row, place in enumerate(found.slot.tolist()):
            assert int(order[place]) == row
            tile = place // at_once % rows.shape[1]
            assert (row in index) == (tile < kinds[-2])
            assert tile < kinds[-1]
    assert (np.diff(layout.user.tiles.ends[:-1]) > 0).all()
    tiles = layout.item.tiles
    assert tiles.start[-1] - tiles.start[tiles.ends[1]] > 4 * devices * 6


@pytest.mark.parametrize("width", [slow(1), slow(3), 4, slow(9)])
def test_rows_are_solved_the_same_from_either_end(width):
    """With fewer ratings than unknowns through the ratings' system, else through the normal equations."""
    random = np.random.default_rng(width)
    ridge, start = random.uniform(0.1, 4, size=(2, 4)), random.normal(size=(2, 4))
    X, t = random.normal(size=(2, width, 4)), random.normal(size=(2, width))
    expected = [np.linalg.solve(X[row].T @ X[row] + np.diag(ridge[row]), X[row].T @ t[row]) for row in range(2)]
    padded = [np.concatenate([a, 0 * a], axis=1) for a in (X, t)]
    short = jax.jit(solve_short)
    np.testing.assert_allclose(short(X, t, ridge, start), expected, rtol=1e-11)
    np.testing.assert_allclose(short(*padded, ridge, start), expected, rtol=1e-10)
    normal = X.mT @ X + ridge[..., None] * np.eye(4), (X.mT @ t[..., None])[..., 0]
    np.testing.assert_allclose(jax.jit(solve_normal)(*normal, ridge, start), expected, rtol=1e-10)
    np.testing.assert_array_equal(short(0 * X, 0 * t, ridge, start), np.zeros_like(ridge))


@pytest.mark.parametrize("method", ["cholesky", slow("cg")])
def test_derivatives_equal_differences(method):
    """Of a sweep's result by the other side, values, weights, penalties and the start, in any tile."""
    ratings, model = random_ratings(folds=True), MODELS["content"]
    layout, params = prepare(ratings), init(model, ratings, HYPER)
    steps, random = {"cholesky": None, "cg": 2}[method], np.random.default_rng(0)
    kept = ratings.weight > 0
    given = (params.trained, ratings.value, ratings.weight, jnp.array([HYPER.l2, HYPER.l2_bias, 0.5]))
    pull = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), params.trained)

    @jax.jit
    def value(trained, values, weights, numbers):
        hyper = HYPER._replace(l2=numbers[0], l2_bias=numbers[1], reg_exponent=numbers[2])
        own, found = replace(ratings, value=values, weight=weights), params._replace(trained=trained)
        for side in ("user", "item"):
            half = half_of(getattr(layout, side), own, side)
            found = half_step(model, found, half, row_weights(own, hyper.reg_exponent), hyper, side, Resources(steps))
        return sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(pull), jax.tree.leaves(found.trained), strict=True))

    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*given)
    for number in range(4):
        way = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), given[number])
        if number == 2:
            way = jnp.where(kept, way, 0)
        moved = [jax.tree.map(lambda x, d, by=by: x + by * d, given[number], way) for by in (1e-6, -1e-6)]
        up, down = (value(*given[:number], at, *given[number + 1 :]) for at in moved)
        parts = zip(jax.tree.leaves(slopes[number]), jax.tree.leaves(way), strict=True)
        slope = sum(jnp.vdot(*pair) for pair in parts)
        assert float(slope) == pytest.approx(float(up - down) / 2e-6, rel=1e-5, abs=1e-7)
        assert number == 0 or abs(float(slope)) > 1e-3
