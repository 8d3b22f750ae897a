"""Predictions in the caller's ids, errors against loops, baselines, and the error that biased factorization reaches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, MODELS, init, numpy_predict, observations, random_ratings, to_numpy

import jaxmf
from jaxmf import Dataset, Hyper, evaluate, models, solvers, splits
from jaxmf.data.ratings import cast

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
    params = BIASED.init(jax.random.key(0), train.ratings, HYPER)
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
