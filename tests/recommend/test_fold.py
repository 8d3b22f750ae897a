"""New users, items and ratings against half-steps in NumPy loops; and nothing else moves by a bit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import (
    COMPILED,
    DISTINCT,
    FEATURES,
    HYPER,
    KEY,
    MODELS,
    assert_same_bits,
    gradient,
    init,
    numpy_als,
    on_host,
    random_ratings,
    to_numpy,
)

import jaxmf
from jaxmf import Dataset, Hyper, Params, Rows, models, solvers
from jaxmf.models import objective
from jaxmf.recommend import fold_in, top_n, update
from jaxmf.solvers._als import half_step

HYPERS = {
    "nu=0.5": HYPER,
    "nu=0": HYPER._replace(reg_exponent=0.0),
    "nu=1": HYPER._replace(reg_exponent=1, l2_bias=None),
}
FEATURE_TABLE = pd.DataFrame(FEATURES, index=pd.Index([f"i{i:02d}" for i in range(13)]))


def dataset(num_ratings=90, seed=0) -> Dataset:
    """The last user and the last item have no rating."""
    r = random_ratings(seed=seed, num_ratings=num_ratings)
    users = pd.Index([f"u{number:02d}" for number in range(17)], name="user_id")
    items = pd.Index([f"i{number:02d}" for number in range(13)], name="item_id")
    return Dataset(users, items, *on_host(r))


def first(params, data, num_users, num_items) -> tuple[Params, Dataset, pd.DataFrame]:
    """Parameters and data of the first users and items alone, and the ratings that are left out."""

    def rows(tables):
        user = jax.tree.map(lambda leaf: leaf[:num_users], tables.user)
        return tables._replace(user=user, item=jax.tree.map(lambda leaf: leaf[:num_items], tables.item))

    inside = (data.user < num_users) & (data.item < num_items)
    left = data.take(~inside).to_frame()
    data = data.take(inside)
    data = replace(data, user_ids=data.user_ids[:num_users], item_ids=data.item_ids[:num_items])
    return Params(rows(params.trained), rows(params.fixed)), data, left


def features_of(name):
    return FEATURE_TABLE[:12] if name == "content" else None


def fitted(name, data, hyper, last="item"):
    """Parameters whose `last` side was solved last, and random ones of the other side."""
    params = init(MODELS[name], data.ratings, hyper)
    theta = numpy_als(to_numpy(params), data.ratings, hyper, last)
    rows = {"factors": theta["P"] if last == "user" else theta["Q"]}
    if theta["biased"]:
        rows["bias"] = theta["b"] if last == "user" else theta["c"]
    if last == "user" and name == "content":
        rows["content"] = theta["A"]
    trained = params.trained._replace(**{last: jax.tree.map(jnp.asarray, rows)})
    return params._replace(trained=trained)


def compare(params, theta, rtol=1e-9):
    found = to_numpy(params)
    for name in ("P", "Q", "b", "c", "A", "X", "m"):
        np.testing.assert_allclose(found[name], theta[name], rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("name", DISTINCT)
def test_new_rows_are_those_of_a_half_step_and_of_training(name, side, hyper):
    """Users or items are cut off, then folded in: they are what training had, where that side was solved last."""
    data = dataset()
    params = fitted(name, data, hyper, last=side)
    if name == "mf-user-mean" and side == "item":
        assert len(set(to_numpy(params)["m"].tolist())) > 5
    size = (11, 13) if side == "user" else (17, 8)
    known, few, new = first(params, data, *size)
    found, extended = fold_in(MODELS[name], known, hyper, few, new, features_of(name))
    # The last user and item have no rating: they are not in the table of the new ones.
    expected, whole, _ = first(params, data, 16 if side == "user" else 17, 12 if side == "item" else 13)
    compare(found, to_numpy(expected))
    assert extended.user_ids.equals(whole.user_ids)
    assert extended.item_ids.equals(whole.item_ids)
    kept, _, _ = first(found, extended, *size)
    assert_same_bits(kept, known)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("bias", [False, True])
def test_new_rows_of_a_whole_matrix_are_those_of_a_half_step(bias, side):
    """With weights: rows that are cut off and folded in are what ALS had, every cell of the other side counted."""
    model, hyper = models.ials(3, bias=bias), HYPER._replace(unobserved=0.3)
    data = replace(dataset(), rating=np.ones(90), weight=1.0 + np.arange(90) % 3)
    halves = solvers.als().setup(data.ratings, solvers.als().prepare(data.ratings), hyper)
    weight = models.row_weights(data.ratings, hyper.reg_exponent, hyper.unobserved)
    params = init(model, data.ratings, hyper._replace(init_scale=0.7))
    params = half_step(model, params, getattr(halves, side), weight, hyper, side)
    # The objective counts the rows of the other side, so none of these may be cut off.
    known, few, new = first(params, data, *((11, 13) if side == "user" else (17, 8)))
    found, extended = fold_in(model, known, hyper, few, new.drop(columns="rating"))
    expected, _, _ = first(params, data, 16 if side == "user" else 17, 12 if side == "item" else 13)
    for leaf, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, right, rtol=1e-9, atol=1e-12)
    assert extended.weight.sum() == data.weight.sum()
    again, _ = update(model, found, hyper, extended, None, sweeps=40)
    slope = gradient(model, again, extended.ratings, hyper)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope.item)) < 1e-9


@pytest.mark.parametrize("sweeps", [0, 2])
@pytest.mark.parametrize("name", DISTINCT)
def test_new_users_with_new_items(name, sweeps):
    """Users by known items, items by all users, then the sweeps: all in loops."""
    data = dataset(num_ratings=150)
    params = fitted(name, data, HYPER)
    known, few, new = first(params, data, 11, 8)
    new = new[
        new["user_id"].isin(few.user_ids) ^ new["item_id"].isin(few.item_ids) | ~new["user_id"].isin(few.user_ids)
    ]
    found, extended = fold_in(MODELS[name], known, HYPER, few, new, features_of(name), sweeps=sweeps)
    assert extended.num_users == 16
    assert extended.num_items == 12
    fresh = extended.take(np.arange(len(few), len(extended)))
    cross = (fresh.user >= 11) & (fresh.item >= 8)
    assert cross.any()

    theta = to_numpy(known)
    for table, size in (("P", 16), ("b", 16), ("A", 16), ("m", 16), ("Q", 12), ("c", 12)):
        theta[table] = np.concatenate([theta[table], np.zeros((size - len(theta[table]), *theta[table].shape[1:]))])
    theta["X"] = FEATURES[:12] if name == "content" else np.zeros((12, 0))
    for u in range(11, 16):
        theta["m"][u] = np.mean(fresh.rating[fresh.user == u]) if name == "mf-user-mean" else theta["m"][0]

    def solve(side, ratings):
        solved = numpy_als(theta, ratings, HYPER, side)
        for table, start in (("P", 11), ("b", 11), ("A", 11)) if side == "user" else (("Q", 8), ("c", 8)):
            theta[table][start:] = solved[table][start:]

    solve("user", replace(fresh.ratings, weight=jnp.asarray(~cross, float)))
    solve("item", fresh.ratings)
    for _ in range(sweeps):
        solve("user", fresh.ratings)
        solve("item", fresh.ratings)
    compare(found, theta)


@pytest.mark.slow
def test_a_thousand_users_equal_one_further_half_step():
    data = jaxmf.datasets.synthetic(num_users=1200, num_items=60, num_ratings=9000, rank=3)
    model, hyper = models.biased_mf(3), Hyper(l2=0.1)
    fit = jaxmf.fit(KEY, model, solvers.als(), data, hyper=hyper, epochs=2)
    from jaxmf.solvers._als import half_step

    ratings, als = data.ratings, solvers.als()
    half, weight = als.setup(ratings, als.prepare(ratings), hyper).user, models.row_weights(ratings, 1.0)

    further = jax.jit(lambda params: half_step(model, params, half, weight, hyper, "user"))(fit.params)
    known, few, new = first(further, data, 200, 60)
    found, extended = fold_in(model, known, hyper, few, new)
    assert extended.num_users - few.num_users == 1000
    for name, leaf in further.trained.user.items():
        assert leaf.dtype == jnp.float64
        np.testing.assert_allclose(found.trained.user[name], leaf, rtol=1e-9, atol=1e-12)
    assert_same_bits(found.trained.item, fit.params.trained.item)
    table = top_n(model, found, extended, users=extended.user_ids[[500, 1199]], n=3)
    assert len(table) == 6


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_cold_items_are_predicted_by_their_features(sparse):
    """No rating, only features, more of them than any item had: r̂ = μ + b_u + a_u·x_i."""
    data = dataset()
    model = MODELS["content"] if sparse else models.content_mf(3, FEATURES)
    params = init(model, data.ratings, HYPER)
    rng = np.random.default_rng(0)
    user = {name: jnp.asarray(rng.normal(size=leaf.shape)) for name, leaf in params.trained.user.items()}
    params = params._replace(trained=params.trained._replace(user=user))
    cold = pd.DataFrame(rng.normal(size=(3, 5)), index=["cold", "i03", "colder"])
    if sparse:
        cold = cold.astype(pd.SparseDtype(float, 0.0))
    found, extended = fold_in(model, params, HYPER, data, None, cold)
    assert extended.item_ids[-2:].tolist() == ["cold", "colder"]
    assert len(extended) == len(data)
    theta = to_numpy(found)
    np.testing.assert_array_equal(theta["X"], np.concatenate([FEATURES, cold.to_numpy()[[0, 2]]]))
    frame = pd.DataFrame({"user_id": data.user_ids.repeat(2), "item_id": ["cold", "colder"] * 17})
    expected = [
        theta["m"][u] + theta["b"][u] + theta["A"][u] @ cold.loc[i].to_numpy()
        for u in range(17)
        for i in ("cold", "colder")
    ]
    np.testing.assert_allclose(jaxmf.predict(model, found, extended, frame), expected, rtol=1e-12)
    table = top_n(model, found, extended, candidates=["cold", "colder"])
    assert len(table) == 34


@pytest.mark.parametrize("sweeps", [0, 2])
@pytest.mark.parametrize("name", DISTINCT)
def test_update_equals_the_loops(name, sweeps):
    """Ratings of known users and items arrive, and of one new user and one new item."""
    whole = dataset(num_ratings=150)
    params = fitted(name, whole, HYPER)
    known, few, _ = first(params, whole, 15, 11)
    old = few.take(np.arange(len(few)) % 8 > 0)
    new = few.take(np.arange(len(few)) % 8 == 0).to_frame()[:6]
    more = pd.DataFrame({"user_id": ["new", "u03", "new"], "item_id": ["i02", "i11", "i11"], "rating": [4.0, 2.0, 1.0]})
    new = pd.concat([new, more], ignore_index=True)
    found, extended = update(MODELS[name], known, HYPER, old, new, features_of(name), sweeps=sweeps)
    pd.testing.assert_frame_equal(extended.to_frame()[len(old) :].reset_index(drop=True), new)

    theta, ratings = to_numpy(known), extended.ratings
    for table in "PbAm":
        theta[table] = np.concatenate([theta[table], np.zeros((1, *theta[table].shape[1:]))])
    theta["m"][15] = 2.5 if name == "mf-user-mean" else theta["m"][0]
    theta["Q"], theta["c"] = np.vstack([theta["Q"], np.zeros(3)]), np.append(theta["c"], 0)
    theta["X"] = FEATURES[:12] if name == "content" else np.zeros((12, 0))
    touched = {
        "user": extended.user_index(new["user_id"].unique()),
        "item": extended.item_index(new["item_id"].unique()),
    }

    def solve(side, ratings, rows):
        solved = numpy_als(theta, ratings, HYPER, side)
        for table in "PbA" if side == "user" else "Qc":
            theta[table][rows] = solved[table][rows]

    solve("user", replace(ratings, weight=jnp.asarray(extended.item < 11, float)), touched["user"])
    for side in ("item", "user", "item"):
        solve(side, ratings, touched[side])
    for _ in range(sweeps):
        solve("user", ratings, slice(None))
        solve("item", ratings, slice(None))
    compare(found, theta)
    if not sweeps:
        for side, size in (("user", 15), ("item", 11)):
            rest = np.setdiff1d(np.arange(size), touched[side])
            assert len(rest) > 0
            for name, leaf in getattr(known.trained, side).items():
                assert_same_bits(getattr(found.trained, side)[name][rest], leaf[rest])


@pytest.mark.slow
def test_nothing_needs_to_be_compiled():
    """With JAX_DISABLE_JIT, as one looks for a mistake, the rows are the same."""
    data = dataset()
    params = fitted("content", data, HYPER)
    new = pd.DataFrame({"user_id": "a", "item_id": data.item_ids[:3], "rating": [5.0, 3.0, 1.0]})
    expected, _ = fold_in(MODELS["content"], params, HYPER, data, new)
    with jax.disable_jit():
        found, _ = fold_in(MODELS["content"], params, HYPER, data, new)
    compare(found, to_numpy(expected))


def test_the_gradient_of_the_rows_solved_last_is_zero():
    data = dataset()
    params = fitted("biased", data, HYPER)
    known, few, new = first(params, data, 11, 13)
    found, extended = fold_in(MODELS["biased"], known, HYPER, few, new)
    total = lambda trained: objective(MODELS["biased"], Params(trained, found.fixed), extended.ratings, HYPER)  # noqa: E731
    gradient = jax.jit(jax.grad(total))
    slope = gradient(found.trained).user
    for leaf in slope.values():
        assert float(jnp.abs(leaf[11:]).max()) < 1e-12
        assert float(jnp.abs(leaf[:11]).max()) > 1e-3


def test_folds_of_similar_size_share_their_programs():
    data = dataset()
    params = init(MODELS["biased"], data.ratings, HYPER)
    frames = [
        pd.DataFrame({"user_id": u, "item_id": data.item_ids[:n], "rating": 1.0 * n}) for u, n in (("a", 5), ("b", 7))
    ]
    params, data = fold_in(MODELS["biased"], params, HYPER, data, frames[0])
    before = len(COMPILED)
    params, data = fold_in(MODELS["biased"], params, HYPER, data, frames[1])
    assert COMPILED[before:] == []
    assert data.num_users == 19


def test_single_precision_stays_so_and_blocks_are_bounded(monkeypatch):
    data = dataset()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), fitted("biased", data, HYPER, "user"))
    known, few, new = first(params, data, 5, 13)
    found, _ = fold_in(MODELS["biased"], known, HYPER, few, new)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    monkeypatch.setattr("jaxmf.recommend.rows._CELLS", 40)
    one_by_one, _ = fold_in(MODELS["biased"], known, HYPER, few, new)
    compare(one_by_one, to_numpy(found), rtol=2e-4)


def test_a_model_of_ones_own():
    """Leaves of other names, and a tree that is not a dict at all."""

    def design(params, ratings, side):
        return (jnp.ones_like(ratings.value),), ratings.value - (
            params.trained.item[0][ratings.item] if side == "user" else params.trained.user[0][ratings.user]
        )

    def predict(params, pairs):
        return params.trained.user[0][pairs.user] + params.trained.item[0][pairs.item]

    own = models.damped_bias()._replace(
        init=lambda key, ratings, hyper: Params(Rows((jnp.zeros(ratings.num_users),), (jnp.zeros(ratings.num_items),))),
        predict=predict,
        loss=lambda params, r: (r.value - predict(params, r)) ** 2,
        penalty=lambda trained, weight, hyper: (
            hyper.l2 * sum(jnp.sum(w * rows[0] ** 2) for w, rows in zip(weight[:2], trained[:2], strict=True))
        ),
        design=design,
        embed=None,
        name="own",
    )
    data = dataset()
    params = own.init(KEY, data.ratings, HYPER)
    new = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["i01", "i02"], "rating": [3.0, 4.0]})
    found, extended = fold_in(own, params, Hyper(l2=0.5), data, new)
    assert float(found.trained.user[0][-1]) == pytest.approx(7 / (2 + 0.5 * 2))
    assert top_n(own, found, extended, users=["a"], n=1)["score"].tolist() == pytest.approx([7 / 3])
