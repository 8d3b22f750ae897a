"""Predictions in the caller's ids, errors against loops, baselines, and the error that biased factorization reaches."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import (
    COMPILED,
    HYPER,
    MODELS,
    assert_close,
    init,
    numpy_predict,
    observations,
    on_host,
    random_ratings,
    to_numpy,
)

import jaxmf
from jaxmf import Dataset, Hyper, evaluate, models, solvers, splits
from jaxmf.data.ratings import Pairs, cast
from jaxmf.evaluate import errors

BIASED = MODELS["biased"]
CLIPS = [None, (1, 5), (2.5, 3.0)]


@pytest.fixture(scope="module")
def fitted():
    """Ratings of weight 0 and 1, and parameters whose predictions leave 1 .. 5."""
    ratings = random_ratings(folds=True)
    params = init(BIASED, ratings, HYPER._replace(init_scale=2.0))
    bias = jnp.linspace(-2.0, 2.0, ratings.num_users)
    return ratings, params._replace(trained=params.trained._replace(user=params.trained.user | {"bias": bias}))


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_rating_equals_the_loop(fitted, clip):
    ratings, params = fitted
    theta, squared, absolute, total = to_numpy(params), 0.0, 0.0, 0.0
    for u, i, r, w in observations(ratings):
        prediction = numpy_predict(theta, u, i)
        if clip is not None:
            prediction = min(max(prediction, clip[0]), clip[1])
        squared, absolute, total = squared + w * (r - prediction) ** 2, absolute + w * abs(r - prediction), total + w
    found = evaluate.rating(BIASED, params, ratings, clip)
    assert found == pytest.approx(
        {"rmse": (squared / total) ** 0.5, "mae": absolute / total, "mse": squared / total}, rel=1e-13
    )
    assert {type(value) for value in found.values()} == {float}


def test_the_three_clips_differ(fitted):
    ratings, params = fitted
    assert len({evaluate.rating(BIASED, params, ratings, clip)["rmse"] for clip in CLIPS}) == 3


def test_weights_are_relative(fitted):
    ratings, params = fitted
    twice = replace(ratings, weight=2 * ratings.weight)
    assert evaluate.rating(BIASED, params, twice) == pytest.approx(evaluate.rating(BIASED, params, ratings), rel=1e-14)


def test_a_dataset_of_a_split_will_do():
    data = jaxmf.datasets.synthetic(num_users=12, num_items=9, num_ratings=60)
    train, test = splits.random(data)
    params = init(BIASED, train.ratings, HYPER)
    assert evaluate.rating(BIASED, params, test) == evaluate.rating(BIASED, params, test.ratings)


USERS, ITEMS = ["ann", "bob", "cy"], [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


@pytest.fixture(scope="module")
def named():
    """A Dataset whose users are strings and items tuples, and a model of it."""
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in USERS for i in ITEMS if (u, i) != ("bob", ITEMS[2])]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(rating=rng.integers(1, 6, len(pairs)))
    data = Dataset.from_frame(frame.sample(frac=1, random_state=0))
    return data, init(BIASED, data.ratings, HYPER._replace(init_scale=2.0))


@pytest.mark.parametrize(
    "index",
    [
        [7, 7, -1],
        ["x", "y", "z"],
        pd.date_range("2020", periods=3),
        pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")]),
    ],
    ids=["repeated", "strings", "dates", "multi"],
)
def test_predict_keeps_the_caller_s_index_and_ids(named, index):
    data, params = named
    frame = pd.DataFrame({"item_id": [ITEMS[2], ITEMS[0], ITEMS[3]], "rating": 9, "user_id": ["bob", "cy", "bob"]})
    frame.index = index
    found = jaxmf.predict(BIASED, params, data, frame)
    theta = to_numpy(params)
    users, items = data.user_ids.tolist(), data.item_ids.tolist()
    pairs = zip(frame["user_id"], frame["item_id"], strict=True)
    expected = [numpy_predict(theta, users.index(u), items.index(i)) for u, i in pairs]
    pd.testing.assert_series_equal(found, pd.Series(expected, frame.index, name="prediction"), rtol=1e-13)


def test_predict_clips(named):
    data, params = named
    frame = data.to_frame()
    raw, clipped = (jaxmf.predict(BIASED, params, data, frame, clip) for clip in (None, (2, 3)))
    assert raw.min() < 2 < 3 < raw.max()
    pd.testing.assert_series_equal(clipped, raw.clip(2, 3))


@pytest.mark.parametrize("name", MODELS)
def test_predict_of_unknown_ids(name):
    """A row of zeros, and all ratings' mean in place of a user's own: the loop over the terms that are known."""
    ratings, model = random_ratings(), MODELS[name]
    ids = (pd.Index([f"u{n}" for n in range(17)], name="user_id"), pd.RangeIndex(100, 113, name="item_id"))
    data = Dataset(*ids, *on_host(ratings))
    params = init(model, ratings, HYPER)
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params.trained)
    params = params._replace(trained=trained)
    pairs = [("u3", 104), ("new", 104), ("u3", 7), ("new", 8), (None, 112), ("u16", 112)]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"], index=[*"abcde", "a"])
    theta, expected = to_numpy(params), []
    for u, i in [(3, 4), (None, 4), (3, None), (None, None), (None, 12), (16, 12)]:
        if u is not None and i is not None:
            expected.append(numpy_predict(theta, u, i))
        elif u is not None:
            expected.append(theta["m"][u] + theta["b"][u])
        else:
            mean = np.mean(data.rating) if name == "mf-user-mean" else theta["m"][0]
            expected.append(mean + (0 if i is None else theta["c"][i]))
    words = "4 of 6 pairs have unknown ids and are {}: user 'new', (None|nan); item 7, 8$"
    by_terms = "^predict: " + words.format("predicted from the known terms")
    with pytest.warns(UserWarning, match=by_terms) as warned:
        found = jaxmf.predict(model, params, data, frame, on_unknown="bias")
    assert warned[0].filename == __file__
    pd.testing.assert_series_equal(found, pd.Series(expected, frame.index, name="prediction"), rtol=1e-12)
    with pytest.warns(UserWarning, match="^predict: " + words.format("left out")):
        dropped = jaxmf.predict(model, params, data, frame, (1, 3), on_unknown="drop")
    pd.testing.assert_series_equal(dropped, found.iloc[[0, 5]].clip(1, 3))
    with pytest.warns(UserWarning, match=by_terms):
        clipped = jaxmf.predict(model, params, data, frame, (1, 3), on_unknown="bias")
    pd.testing.assert_series_equal(clipped, found.clip(1, 3))


def test_predict_of_unknown_ids_only(named):
    """All of them dropped is an empty answer; without any, on_unknown changes nothing, and nothing is said."""
    data, params = named
    frame = pd.DataFrame({"user_id": ["new"], "item_id": [ITEMS[0]]})
    with pytest.warns(UserWarning, match="^predict: 1 of 1 pairs have unknown ids and are left out: user 'new'$"):
        assert jaxmf.predict(BIASED, params, data, frame, on_unknown="drop").empty
    frame = data.to_frame()
    expected = jaxmf.predict(BIASED, params, data, frame)
    for choice in ("bias", "drop"):
        pd.testing.assert_series_equal(jaxmf.predict(BIASED, params, data, frame, on_unknown=choice), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_predict_answers_in_the_dtype_of_the_parameters(named, dtype):
    """At least float32, which pandas knows as NumPy does."""
    data, params = named
    narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    frame = pd.DataFrame({"user_id": ["ann", "new"], "item_id": [ITEMS[0]] * 2})
    with pytest.warns(UserWarning, match="1 of 2 pairs"):
        assert jaxmf.predict(BIASED, narrow, data, frame, (1, 5), on_unknown="bias").dtype == np.float32


@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_pairs_has_the_predictions_of_its_own_program(name):
    """Padding changes nothing, up to how a processor rounds what is behind its last whole vector."""
    ratings, model = random_ratings(), MODELS[name]
    params = init(model, ratings, HYPER._replace(init_scale=2.0))
    for n in (1, 50, 1100):
        index: Any = [np.resize(index, n) for index in (ratings.user, ratings.item)]
        pairs = Pairs(*index)
        found = errors.predictions(model, params, pairs)
        assert_close(found, errors._compiled(model)(params, pairs), atol=1e-12)


def test_another_split_of_about_the_same_size_compiles_nothing():
    """Neither another number of pairs, nor of those with unknown ids."""
    data = jaxmf.datasets.synthetic(num_users=60, num_items=40, num_ratings=1500)

    def evaluated(train, test):
        params = jax.tree.map(lambda leaf: leaf + 0.1, first)
        evaluate.rating(BIASED, params, test)
        evaluate.against_baselines(BIASED, params, train, test)
        jaxmf.predict(BIASED, params, data, test.to_frame())
        frame = test.to_frame().assign(user_id=np.where(test.rating > 4, -1, test.user))
        with pytest.warns(UserWarning, match="have unknown ids"):
            jaxmf.predict(BIASED, params, data, frame, on_unknown="bias")

    train, test = splits.random(data)
    first = init(BIASED, train.ratings, HYPER)
    evaluated(train, test)
    before = len(COMPILED)
    evaluated(*splits.random(data, seed=1))
    evaluated(train.take(np.arange(len(train) - 12)), test.take(np.arange(len(test) - 3)))
    assert COMPILED[before:] == []


def test_padding_changes_no_baseline(monkeypatch):
    train, test = random_ratings(folds=True), random_ratings(seed=5, num_ratings=70)
    given = BIASED, init(BIASED, train, HYPER), train, test
    found = evaluate.against_baselines(*given)
    monkeypatch.setattr("jaxmf.evaluate.errors.padded", lambda ratings: ratings)
    pd.testing.assert_frame_equal(found, evaluate.against_baselines(*given), rtol=1e-13)


def test_predict_of_an_empty_table(named):
    data, params = named
    found = jaxmf.predict(BIASED, params, data, pd.DataFrame({"user_id": [], "item_id": []}))
    assert (len(found), found.name, found.dtype) == (0, "prediction", np.float64)


@pytest.mark.parametrize("damping", [(5.0, 5.0), (0.5, 20.0)], ids=str)
def test_damped_bias_equals_the_loops(damping):
    ratings = random_ratings(folds=True)
    seen = [(u, i, r) for u, i, r, w in observations(ratings) if w]
    mean = sum(r for *_, r in seen) / len(seen)
    c, b = [], []
    for item in range(ratings.num_items):
        own = [r - mean for _, i, r in seen if i == item]
        c.append(sum(own) / (len(own) + damping[1]))
    for user in range(ratings.num_users):
        own = [r - mean - c[i] for u, i, r in seen if u == user]
        b.append(sum(own) / (len(own) + damping[0]))
    squared = [(r - mean - b[u] - c[i]) ** 2 for u, i, r in seen]
    model = models.damped_bias(*damping)
    found = evaluate.rating(model, model.init(None, ratings, Hyper()), ratings)
    assert found["mse"] == pytest.approx(sum(squared) / len(seen), rel=1e-13)


def test_global_mean_errs_by_the_standard_deviation():
    ratings, model = random_ratings(folds=True), models.global_mean()
    values = np.array([r for *_, r, w in observations(ratings) if w])
    found = evaluate.rating(model, model.init(None, ratings, Hyper()), ratings)
    assert found["rmse"] == pytest.approx(values.std(), rel=1e-13)
    assert found["mae"] == pytest.approx(np.abs(values - values.mean()).mean(), rel=1e-13)


@pytest.mark.slow
@pytest.mark.realdata
def test_biased_factorization_on_latest_small(latest_small, optimized):
    """The error of the document's settings and initial values, with the best epoch kept and a clean test part."""
    train, valid, test = (cast(part.ratings, jnp.float32) for part in splits.temporal_per_user(latest_small))
    solver = solvers.sgd()
    batch = jaxmf.prepare(solver, train, valid)
    hyper = Hyper(l2=3.677000997278053e-05, reg_exponent=1.0, learning_rate=0.012376565252378615 / 2, init_scale=0.01)
    errors = []
    for seed in range(3):
        key = jax.random.key(seed)
        fit = jaxmf.fit(key, models.biased_mf(42), solver, batch, hyper=hyper, epochs=50, patience=5)
        assert fit.params.trained.user["factors"].dtype == jnp.float32
        errors.append(evaluate.rating(fit.model, fit.params, test)["rmse"])
    assert np.mean(errors) <= 0.905
    assert np.ptp(errors) > 0
