"""Per-sample SGD: equal to the serial loop, by matchings that are valid, complete and few."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import HYPER, KEY, MODELS, assert_close, init, numpy_sgd, random_ratings, run, to_numpy, to_rows
from scipy.sparse import csr_array

from jaxmf import Hyper, Params, Ratings, Rows, models, solvers
from jaxmf.data.ratings import Pairs
from jaxmf.kernels import _matchings
from jaxmf.kernels._matchings import Layout, Members, fill, matchings
from jaxmf.models.features import to_device
from jaxmf.solvers._sgd import visiting_order

visiting_order = jax.jit(visiting_order, static_argnums=2)


def serial_order(key, ratings, layout, epoch=1) -> np.ndarray:
    """Positions in the order of one epoch, padding left out."""
    position = np.asarray(layout.position)
    visited = visiting_order(jax.random.fold_in(key, epoch), layout.num_matchings, position.shape[2])
    order = position[:, :, np.asarray(visited)].ravel()
    return order[order < len(ratings.value)]


P = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.3, 0.1, 0.5, 0.4], [0.3, 0.1, 0.2, 0.4, 0.3]]
Q = [[0.4, 0.3, 0.5, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]]


def worked(model, predicted, mean=3.0, user=None, fixed_item=None) -> Rows:
    """The trained rows after one update of the document: user 0 rates item 1 with 4, lr 0.01, λ 0.1.

    `b += lr (e − λ b)`, `P += lr (e Q − λ P)` is ours with ν = 1, λ_b = λ and half the learning rate.
    """
    before = Params(
        Rows(
            {"bias": jnp.array([0.1, 0.2, 0.3]), "factors": jnp.array(P)} | (user or {}),
            {"bias": jnp.array([0.2, 0.3, 0.4]), "factors": jnp.array(Q)},
        ),
        Rows(item=fixed_item or {}, shared={"mean": jnp.array(mean)}),
    )
    ratings = Ratings(jnp.array([0]), jnp.array([1]), jnp.array([4.0]), jnp.ones(1), num_users=3, num_items=3)
    assert abs(float(model.predict(before, Pairs(jnp.array([0]), jnp.array([1])))[0]) - predicted) < 1e-14
    state, _ = run(model, solvers.sgd(4), ratings, Hyper(l2=0.1, reg_exponent=1.0, learning_rate=0.005), params=before)
    assert_close(state.params.fixed, before.fixed, rtol=0)
    return state.params.trained


def test_worked_update():
    user, item, _ = worked(models.biased_mf(5), 3.95)
    np.testing.assert_allclose(user["bias"], [0.1004, 0.2, 0.3], rtol=1e-12)
    np.testing.assert_allclose(item["bias"], [0.2, 0.3002, 0.4], rtol=1e-12)
    np.testing.assert_allclose(user["factors"], [[0.09995, 0.1999, 0.29985, 0.3998, 0.49975], *P[1:]], rtol=1e-12)
    np.testing.assert_allclose(item["factors"], [Q[0], [0.09995, 0.1999, 0.29985, 0.3998, 0.49975], Q[2]], rtol=1e-12)


@pytest.mark.parametrize("form", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_worked_update_with_content(form):
    """The document adds 0.55 + 0.07 + 0.18 to 0.81; with that 0.01 in the mean all its numbers follow."""
    features, A = form([[0.6, 0.8], [0.7, 0.9], [0.5, 0.4]]), [[0.1, 0.2], [0.4, 0.3], [0.4, 0.3]]
    own, known = {"content": jnp.array(A)}, {"content": to_device(features, float)}
    user, item, _ = worked(models.content_mf(5, features), 4.21, 3.01, own, known)
    np.testing.assert_allclose(user["bias"], [0.0978, 0.2, 0.3], rtol=1e-12)
    np.testing.assert_allclose(item["bias"], [0.2, 0.2976, 0.4], rtol=1e-12)
    np.testing.assert_allclose(user["factors"], [[0.09969, 0.19938, 0.29907, 0.39876, 0.49845], *P[1:]], rtol=1e-12)
    np.testing.assert_allclose(user["content"], [[0.09843, 0.19791], *A[1:]], rtol=1e-12)
    np.testing.assert_allclose(item["factors"], [Q[0], [0.09969, 0.19938, 0.29907, 0.39876, 0.49845], Q[2]], rtol=1e-12)


@pytest.mark.parametrize("folds", [False, True], ids=["full", "folds"])
@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_epoch_equals_the_serial_loop(name, nu, folds):
    ratings, hyper, solver = random_ratings(folds=folds), HYPER._replace(reg_exponent=nu), solvers.sgd(8)
    model = MODELS[name]
    params = init(model, ratings, hyper)
    state, _ = run(model, solver, ratings, hyper, params=params)
    order = serial_order(KEY, ratings, solver.prepare(ratings))
    assert sorted(order) == list(range(len(ratings.value)))
    expected = numpy_sgd(to_numpy(params), ratings, hyper, order)
    assert_close(state.params.trained, to_rows(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("mf-user-mean", {"clip_update": 0.02}),
        ("biased", {"clip_value": 0.6}),
        ("biased", {"clip_update": 0.03, "clip_value": 0.5}),
        ("content", {"clip_update": 0.03, "clip_value": 0.5}),
    ],
)
def test_clipping_equals_the_serial_loop(name, bounds):
    """Updates, as one document has it, values after the update, as another; both bounds do something here."""
    ratings, model = random_ratings(folds=True), MODELS[name]
    hyper, params = HYPER._replace(learning_rate=0.05), init(model, ratings, HYPER)
    solver = solvers.sgd(8, **bounds)
    state, _ = run(model, solver, ratings, hyper, params=params)
    order = serial_order(KEY, ratings, solver.prepare(ratings))
    expected = numpy_sgd(to_numpy(params), ratings, hyper, order, **bounds)
    assert_close(state.params.trained, to_rows(expected), rtol=1e-12, atol=1e-12)
    for left_out in bounds:
        fewer = {bound: value for bound, value in bounds.items() if bound != left_out}
        other = numpy_sgd(to_numpy(params), ratings, hyper, order, **fewer)
        assert np.abs(other["P"] - expected["P"]).max() > 1e-3


def test_a_schedule_scales_the_rates_of_an_epoch():
    """Epochs 1, 2 and 3 at the full rate, half of it and a quarter, for factors and biases."""
    ratings, model, hyper = random_ratings(folds=True), MODELS["biased"], HYPER
    solver = solvers.sgd(8, schedule=optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.5))
    params = init(model, ratings, hyper)
    state, _ = run(model, solver, ratings, hyper, 3, params=params)
    theta, layout = to_numpy(params), solver.prepare(ratings)
    for epoch, factor in enumerate((1.0, 0.5, 0.25)):
        rates: dict[str, Any] = {"learning_rate": 0.02 * factor, "learning_rate_bias": 0.05 * factor}
        theta = numpy_sgd(theta, ratings, hyper._replace(**rates), serial_order(KEY, ratings, layout, epoch + 1))
    assert_close(state.params.trained, to_rows(theta), rtol=1e-12, atol=1e-12)
    assert int(state.solver[0]) == 3
    single = random_ratings(dtype=jnp.float32)
    low, _ = jax.eval_shape(lambda: run(model, solver, single, jax.tree.map(jnp.float32, hyper)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low.params)} == {"float32"}


@pytest.mark.parametrize("batch_size", [1, 64])
def test_any_batch_size_is_some_serial_order(batch_size):
    """One lane, and far more lanes than a matching can fill."""
    ratings, solver, model = random_ratings(), solvers.sgd(batch_size), MODELS["biased"]
    params = init(model, ratings, HYPER)
    state, _ = run(model, solver, ratings, HYPER, params=params)
    order = serial_order(KEY, ratings, solver.prepare(ratings))
    expected = numpy_sgd(to_numpy(params), ratings, HYPER, order)
    assert_close(state.params.trained, to_rows(expected), rtol=1e-12, atol=1e-12)


def test_epochs_visit_fresh_orders():
    layout = solvers.sgd(4).prepare(random_ratings())
    num_matchings, most = int(layout.num_matchings), layout.position.shape[2]
    orders = (visiting_order(jax.random.fold_in(KEY, epoch), num_matchings, most) for epoch in (1, 2))
    first, second = (np.asarray(order)[:num_matchings] for order in orders)
    assert sorted(first) == sorted(second) == list(range(num_matchings))
    assert not np.array_equal(first, second)


SHAPES = [(17, 13, 90), (50, 40, 600), (50, 40, 1500), (50, 3, 120), (2, 40, 60), (6, 6, 25), (40, 40, 40)]


@pytest.mark.parametrize(
    ("seed", "shape", "batch_size"),
    [(seed, shape, size) for seed, (shape, size) in enumerate(product(SHAPES, (1, 4, 8, 32)))],
    ids=str,
)
def test_matchings(seed, shape, batch_size):
    """As few as there can be, nearly, by taking one rating after another."""
    check_matchings(*skewed_pairs(seed, shape), batch_size, most=1.08)


@pytest.mark.parametrize("batch_size", [1, 8, 32])
@pytest.mark.parametrize("shape", [(400, 300, 20_000), (30, 2000, 20_000)], ids=str)
def test_matchings_of_many_ratings(monkeypatch, shape, batch_size):
    """By diagonals of blocks, several times over, until 1,000 are left."""
    monkeypatch.setattr(_matchings, "_ONE_BY_ONE", 1000)
    check_matchings(*skewed_pairs(0, shape), batch_size, most=1.08)


def skewed_pairs(seed, shape) -> tuple[np.ndarray, np.ndarray]:
    num_users, num_items, num_ratings = shape
    popularity = np.outer(1 / np.arange(1, num_users + 1), 1 / np.arange(1, num_items + 1)).ravel()
    rng = np.random.default_rng(seed)
    pair = rng.choice(num_users * num_items, num_ratings, replace=False, p=popularity / popularity.sum())
    return pair // num_items, pair % num_items


def check_matchings(user, item, batch_size, most):
    """No row twice in a matching, every rating once, and at most so many times as many matchings as there must be."""
    num_ratings = len(user)
    layout = matchings(user, item, batch_size)
    assert layout.dtype == np.int32
    assert layout.shape[1] == batch_size
    for row in layout:
        lanes = row[row < num_ratings]
        assert len(lanes) == len(set(user[lanes])) == len(set(item[lanes])) > 0
    assert sorted(layout[layout < num_ratings]) == list(range(num_ratings))
    assert set(layout[layout >= num_ratings]) <= {num_ratings}
    bound = max(np.bincount(user).max(), np.bincount(item).max(), -(-num_ratings // batch_size))
    assert bound <= len(layout) <= most * bound + 1


def test_fill():
    """Two strata of two devices, each with three matchings of four lanes, three of them empty in all, and room."""
    position = np.arange(64).reshape(2, 2, 4, 4)
    assert fill(Layout(position, Members(None, None), 57, 3)) == (6, 45 / 48)


@pytest.mark.parametrize(("ratings_of_each", "batch_size"), [(1, 32), (40, 48), (200, 256)])
def test_batch_size_follows_the_largest_number_of_ratings_of_a_row(ratings_of_each, batch_size):
    """That of a user; the last case has more users than a batch may hold."""
    users = {1: 3, 40: 50, 200: 400}[ratings_of_each]
    user, item = np.repeat(np.arange(users), ratings_of_each), np.tile(np.arange(ratings_of_each), users)
    item = (item + user) % users
    ratings = Ratings(jnp.array(user), jnp.array(item), jnp.ones(len(user)), jnp.ones(len(user)), users, users)
    assert solvers.sgd().prepare(ratings).position.shape[3] == batch_size


def test_layout_holds_positions_only():
    """One layout serves all folds: it does not depend on weights or values."""
    solver = solvers.sgd(8)
    assert_close(solver.prepare(random_ratings()), solver.prepare(random_ratings(folds=True)), rtol=0)


def test_padding_lanes_change_nothing():
    """The same matchings with eight more lanes of padding each."""
    ratings, model = random_ratings(), MODELS["biased"]
    solver = solvers.sgd(8)
    layout = solver.prepare(ratings)
    wider = jnp.pad(layout.position, ((0, 0),) * 3 + ((0, 8),), constant_values=len(ratings.value))
    padded = solver._replace(prepare=lambda _: layout._replace(position=wider))
    params = init(model, ratings, HYPER)
    (plain, _), (wide, _) = (run(model, s, ratings, HYPER, params=params) for s in (solver, padded))
    assert_close(wide.params, plain.params, rtol=1e-14, atol=1e-15)


def test_equal_arguments_give_the_same_solver():
    assert solvers.sgd() is solvers.sgd(None) is not solvers.sgd(32)
    assert solvers.sgd(32) is solvers.sgd(batch_size=32)
    assert solvers.als() is solvers.als(None) is solvers.als(rule="relative")
