"""Alternating least squares at the edges of its numbers: no penalty, no weight, other units, float32 and small λ."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    RANK,
    assert_close,
    assert_same_bits,
    init,
    on_host,
    pick,
    planted_ratings,
    random_ratings,
    run,
    slow,
    to_numpy,
)

from jaxmf import Dataset, Hyper, fit, make_fit, models, prepare, solvers
from jaxmf.data.ratings import Ratings
from jaxmf.kernels import tiles
from jaxmf.models import row_weights
from jaxmf.recommend import fold_in
from jaxmf.solvers._als import half_step

METHODS = {method: solvers.als(method=method) for method in ("cholesky", "cg")}
each_method = pytest.mark.parametrize("method", ["cholesky", slow("cg")])


@lru_cache
def trial(method):
    """`(λ, λ_b, ν) -> (status, objective of the last epoch, parameters)` of the pure run, which can be transformed."""
    ratings, solver = random_ratings(folds=True), METHODS[method]
    whole = make_fit(MODELS["biased"], solver, 2)
    batch = prepare(solver, ratings)

    def ends(l2, l2_bias, nu):
        state, history = whole(KEY, batch, HYPER._replace(l2=l2, l2_bias=l2_bias, reg_exponent=nu))
        return state.status, history["objective"][-1], state.params

    return ends


@each_method
def test_a_fit_without_a_penalty_diverges(method):
    """A member with λ ≤ 0, or λ_b ≤ 0, and no other; 0 is not taken for the penalty of a row without ratings."""
    l2 = jnp.array([0.07, 0.0, 0.07, -0.1, 0.0, 1.0])
    l2_bias = jnp.array([0.03, 0.03, 0.0, 0.03, 0.0, 1.0])
    together = jax.jit(jax.vmap(trial(method)))
    for nu in (0.0, 0.5):
        status, objective, params = together(l2, l2_bias, jnp.full(6, nu))
        assert status.tolist() == [0, 3, 3, 3, 3, 0]
        ratings = random_ratings(folds=True)
        start = init(MODELS["biased"], ratings, HYPER)
        assert objective[5] > objective[0] * 1.05
        assert_close(jax.tree.map(lambda leaf: leaf[1], params), start)


def test_the_derivative_by_a_small_penalty_equals_differences():
    value = jax.jit(jax.value_and_grad(lambda l2, l2_bias: trial("cholesky")(l2, l2_bias, 0.5)[1], argnums=(0, 1)))
    at, step = (1e-3, 2e-3), 1e-6
    for number, slope in enumerate(value(*at)[1]):
        moved = [[x + sign * step * (n == number) for n, x in enumerate(at)] for sign in (1, -1)]
        up, down = (value(*numbers)[0] for numbers in moved)
        assert float(slope) == pytest.approx(float(up - down) / (2 * step), rel=1e-4)
        assert abs(slope) > 1


def test_a_penalty_of_nothing_may_be_0():
    """λ_b says nothing to a model without biases."""
    ratings = random_ratings()
    params = [
        fit(KEY, MODELS["mf"], METHODS["cholesky"], ratings, hyper=HYPER._replace(l2_bias=l2_bias), epochs=1).params
        for l2_bias in (0.0, 0.03)
    ]
    assert_same_bits(*params)


def rescaled(params, s):
    """With r̂ · s: factors · √s, biases and means · s, weights and features of content · √s."""
    power = {"bias": s, "mean": s}

    def scale(path, leaf):
        name = next(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        return leaf * power.get(name, np.sqrt(s)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


@each_method
@pytest.mark.parametrize("name", ["mf", "biased", "content"])
def test_ratings_in_other_units_are_the_same_fit(name, method):
    """Ratings · s with λ · s, λ_b unchanged and the start · √s: every term of the objective is s² times what it was.

    λ s ‖√s p‖² = s² λ ‖p‖² and λ_b (s b)² = s² λ_b b²; a weight of content goes with λ too, and so by √s, if the
    features do, a·x by s as all of r̂.
    """
    ratings, model = random_ratings(folds=True), MODELS[name]
    params = init(model, ratings, HYPER)
    state, history = run(model, METHODS[method], ratings, HYPER, 2, params=params)
    for s in (1e-6, 1e3, 1e9):
        other = replace(ratings, value=s * ratings.value)
        found, scaled = run(
            model, METHODS[method], other, HYPER._replace(l2=s * HYPER.l2), 2, params=rescaled(params, s)
        )
        assert int(found.status) == 0
        assert_close(found.params, rescaled(state.params, s), rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(scaled["objective"], s**2 * history["objective"], rtol=1e-9)
    if name == "biased":
        single = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == float else x, (ratings, params))
        for s in (1e-6, 1e9):
            other = replace(single[0], value=s * single[0].value)
            hyper = HYPER._replace(l2=s * HYPER.l2)
            found, _ = run(model, METHODS[method], other, hyper, 2, params=rescaled(single[1], np.float32(s)))
            assert_close(found.params, rescaled(state.params, s), rtol=1e-2, atol=s * 1e-4)


def test_the_start_scales_with_the_root_and_new_users_too():
    """By `init_scale`, as a user says it; and fold_in solves in the same units."""
    s, ratings = 1e9, random_ratings()
    data = Dataset(pd.RangeIndex(17), pd.RangeIndex(13), *on_host(ratings))
    new = pd.DataFrame({"user_id": 99, "item_id": [0, 1, 2], "rating": [5.0, 3.0, 1.0]})
    model = MODELS["content"]
    params = init(model, ratings, HYPER)
    other = init(model, replace(ratings, value=s * ratings.value), HYPER._replace(init_scale=np.sqrt(s) * 0.5))
    item = {"content": rescaled(params.fixed.item, s)["content"]}
    other = other._replace(fixed=other.fixed._replace(item=item))
    assert HYPER.init_scale == 0.5
    assert_close(other, rescaled(params, s), rtol=1e-12)
    known, _ = fold_in(model, params, HYPER, data, new)
    scaled = new.assign(rating=s * new["rating"])
    found, _ = fold_in(model, other, HYPER._replace(l2=s * HYPER.l2), replace(data, rating=s * data.rating), scaled)
    assert_close(found, rescaled(known, s), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(
    ("scale", "l2", "nu"), [(1e3, 0.05, 1.0), (1e6, 0.05, 1.0), (1.0, 1e-6, 1.0), (1.0, 1e-6, 0.0)], ids=str
)
def test_float32_has_a_minimum_where_float64_has(scale, l2, nu):
    """Though λ is so small beside the squares of the factors that float32 loses it in the normal equations."""
    model, single = models.biased_mf(8), random_ratings(num_users=30, num_items=20, num_ratings=200, dtype=jnp.float32)
    single = replace(single, value=single.value * jnp.float32(scale))
    double = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, single)
    hyper = Hyper(l2=l2, reg_exponent=nu)
    params = init(model, single, hyper)
    state, history = run(model, solvers.als(), single, hyper, 8, params=params)
    start = jax.tree.map(lambda x: x.astype(float), params)
    _, expected = run(model, solvers.als(), double, hyper, 8, params=start)
    objective = np.asarray(history["objective"], float)
    assert int(state.status) == 0
    assert (np.diff(objective) <= 1e-3 * objective[:-1]).all()
    to_explain = float(jnp.sum((double.value - double.value.mean()) ** 2))
    assert objective[-1] < float(expected["objective"][-1]) + 0.01 * to_explain


@each_method
def test_rows_without_weight_become_0_wherever_they_start(method):
    ratings, model = random_ratings(), MODELS["biased"]
    ratings = replace(ratings, weight=jnp.where(ratings.user == 3, 0.0, 1.0))
    start = init(model, ratings, HYPER)
    start = start._replace(trained=jax.tree.map(jnp.ones_like, start.trained))
    state, _ = run(model, METHODS[method], ratings, HYPER, 1, params=start)
    for name, rows in state.params.trained.user.items():
        assert not np.asarray(rows[3]).any(), name
        assert np.asarray(rows[ratings.user[ratings.user != 3]]).all(), name


@pytest.mark.parametrize(("length", "cells"), [(3, 16), (17, 64), (24, 32), (50, 64), (100, 128), (300, 320)])
def test_slabs_are_as_narrow_as_the_rows_are_short(length, cells):
    """Most items of most data have few ratings, of which slabs for long rows would be padding."""
    user, item = jnp.divmod(jnp.arange(64 * length), length)
    one = jnp.ones(len(user))
    assert tiles.prepare(Ratings(user, item, one, one, 64, length)).user.tiles.start[-1] == 64 * cells


@pytest.mark.parametrize("short", [False, True], ids=["normal-equations", "ratings-system"])
def test_a_penalty_below_rounding_holds_on_to_the_start(short, monkeypatch):
    """A ridge R that the sums would lose is S, the least they keep: (A + S) z = b + (S − R) start, S a constant.

    Rows of two ratings and four unknowns are solved by the ratings' system, where S is R times one number. The start is
    so far away that what its 1e-15th part does to the rows can be seen.
    """
    monkeypatch.setattr(tiles, "_widths", lambda count: (2, 128))
    random, model, l2, l2_bias = np.random.default_rng(0), MODELS["biased"], 1e-17, 1e-17 if short else 0.03
    ratings, _ = planted_ratings(2, num_users=6, num_items=9, share=1.0, noise=1.0)
    if short:
        ratings = pick(ratings, np.flatnonzero((ratings.item - ratings.user) % 9 < 2))
    layout, params = tiles.prepare(ratings), init(model, ratings, HYPER)

    @jax.jit
    def users(before, l2, l2_bias):
        half, weight = tiles.half_of(layout.user, ratings, "user"), row_weights(ratings, 1.0)
        given = params._replace(trained=params.trained._replace(user=before))
        return half_step(model, given, half, weight, Hyper(l2=l2, l2_bias=l2_bias), "user").trained.user

    def leaves(table):
        return {"bias": jnp.asarray(table[:, RANK]), "factors": jnp.asarray(table[:, :RANK])}

    start, pull = random.normal(size=(2, 6, RANK + 1))
    start[:, :RANK] *= 1e12
    solved, back = jax.vjp(users, leaves(start), l2, l2_bias)
    by_start, by_l2, by_l2_bias = back(leaves(pull))

    theta = to_numpy(params)
    expected: dict[str, Any] = {name: np.zeros((6, RANK + 1)) for name in ("z", "by_start", "by_ridge")}
    eps, lost = 8 * np.finfo(float).eps, np.array([True] * RANK + [short])
    for u in range(6):
        own = np.flatnonzero(ratings.user == u)
        item, count = np.asarray(ratings.item)[own], len(own)
        X = np.column_stack([theta["Q"][item], np.ones(count)])
        target = np.asarray(ratings.value)[own] - theta["m"][u] - theta["c"][item]
        A, R = X.T @ X, count * np.array([l2] * RANK + [l2_bias])
        largest = (X**2 / R).sum(axis=1).max()
        S = max(1, eps * count * largest) * R if short else np.maximum(R, eps * len(A) * np.diag(A))
        assert ((S > R) == lost).all()
        inverse = np.linalg.inv(A + np.diag(S))
        z, y = (X.T @ target + (S - R) * start[u]) @ inverse, pull[u] @ inverse
        expected["z"][u], expected["by_start"][u] = z, y * (S - R)
        expected["by_ridge"][u] = -count * y * np.where(lost, start[u], z)
    found = {"z": solved, "by_start": by_start, "by_ridge": (by_l2, by_l2_bias)}
    expected = {name: leaves(table) for name, table in expected.items()}
    expected["by_ridge"] = expected["by_ridge"]["factors"].sum(), expected["by_ridge"]["bias"].sum()
    limit = 0.05 if short else 1e-9  # the ratings' system has a condition of 1e14
    for name in found:
        one, other = (np.concatenate(list(map(np.ravel, jax.tree.leaves(tree[name])))) for tree in (found, expected))
        assert np.linalg.norm(one - other) < limit * np.linalg.norm(other), name


def test_few_long_rows_do_not_pad_all_others_on_an_accelerator(monkeypatch):
    """A tile of an accelerator holds many rows, all of which have cells for its longest."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    alike, skewed = np.full(6000, 100), np.where(np.arange(6000) == 7, 6000, 3)
    assert tiles._tiles(alike, 1).rows.shape[2] == 1024
    found = tiles._tiles(skewed, 1)
    assert found.rows.shape[2] == 16
    assert found.start[-1] == 16 * (5999 // 16 * 16 + 16) + 16 * 6016
    with pytest.raises(ValueError, match=r"als: 3000000003 ratings take \d+ cells on a device; expected at most 2"):
        tiles._tiles(np.append(np.full(3, 10**9), 3), 1)


def test_a_negative_penalty_diverges_where_rows_have_fewer_ratings_than_unknowns():
    """λ is traced, so that nothing is refused; 1 / −∞ would be a row of zeros."""
    batch, whole = prepare(solvers.als(), random_ratings()), make_fit(models.biased_mf(40), solvers.als(), 2)
    status = jax.jit(lambda l2: whole(KEY, batch, Hyper(l2=l2))[0].status)
    assert [int(status(l2)) for l2 in (-0.1, 0.1)] == [3, 0]
