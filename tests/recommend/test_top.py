"""The best items against loops over every pair: ties, seen items, candidate sets, unknown ids, bounded memory."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import COMPILED, FEATURES, HYPER, MODELS, init, numpy_predict, on_host, random_ratings, to_numpy

import jaxmf
from jaxmf import Dataset, Hyper, Params, Rows, models
from jaxmf.data.ratings import padded_size
from jaxmf.recommend import top_n
from jaxmf.recommend._best import top

NAMES = [f"u{number:02d}" for number in range(17)]


def dataset(num_items=13, num_ratings=90, **changes) -> Dataset:
    """Strings for users, tuples for items; the last of both has no rating."""
    r = random_ratings(num_items=num_items, num_ratings=num_ratings)
    items = pd.Index([(i % 2, i) for i in range(num_items)], name="item_id", tupleize_cols=False)
    users = pd.Index(NAMES, name="user_id")
    made = Dataset(users, items, *on_host(r))
    return replace(made, **changes)


def whole(tree, seed=0):
    """Small whole numbers in place of all others, so that sums are exact and ties are many."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.integers(-1, 2, leaf.shape), leaf.dtype), tree)


def params_of(model, data):
    """Parameters of the model with many ties, whatever the order of summing."""
    trained, fixed = init(model, data.ratings, HYPER)
    return Params(whole(trained), fixed._replace(user=whole(fixed.user), shared=whole(fixed.shared)))


def loop(score, users, items, seen, n):
    """(user, item, rank, score), best first, of equals the lower item first; `seen` are left out."""
    rows = []
    for u in users:
        left = sorted((-score(u, i), i) for i in items if (u, i) not in seen)
        rows += [(u, i, rank + 1, -value) for rank, (value, i) in enumerate(left[:n])]
    return rows


def answer(table, data):
    return list(
        zip(
            data.user_index(table["user_id"]).tolist(),
            data.item_index(table["item_id"]).tolist(),
            table["rank"].tolist(),
            table["score"].tolist(),
            strict=True,
        )
    )


def pairs(data):
    return set(zip(data.user.tolist(), data.item.tolist(), strict=True))


@pytest.mark.parametrize("n", [4, 50])
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_loop(name, n):
    data = dataset()
    params = params_of(MODELS[name], data)
    theta = to_numpy(params)
    expected = loop(lambda u, i: numpy_predict(theta, u, i), range(17), range(13), pairs(data), n)
    found = answer(top_n(MODELS[name], params, data, n=n), data)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in expected], rtol=1e-12)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("num_items", [193, 208])
def test_two_stages_are_exact(num_items, filter_seen):
    """Enough groups of items for the first stage to leave some out, and almost only ties."""
    data, model = dataset(num_items, 800), models.mf(2, None)
    params = params_of(model, data)
    P, Q = (np.asarray(rows["factors"]) for rows in params.trained[:2])
    seen = pairs(data) if filter_seen else set()
    expected = loop(lambda u, i: float(P[u] @ Q[i]), range(17), range(num_items), seen, 5)
    assert answer(top_n(model, params, data, n=5, filter_seen=filter_seen), data) == expected


@pytest.mark.parametrize("seed", range(3))
def test_top_of_a_matrix_with_excluded_columns(seed):
    rng, least = np.random.default_rng(seed), np.finfo(float).min
    scores = np.where(rng.random((30, 300)) < 0.6, least, rng.poisson(0.1, (30, 300)))
    scores[3, 40:] = scores[4] = least
    column, score = top(jnp.asarray(scores), 7)
    for row, own in enumerate(scores):
        expected = [i for _, i in sorted((-value, i) for i, value in enumerate(own))][:7]
        known = [i for i in expected if own[i] > least]
        assert column[row].tolist()[: len(known)] == known
        assert score[row].tolist() == own[expected].tolist()


@pytest.mark.parametrize("num_items", [13, 17, 193])
def test_what_pads_the_items_is_no_item(num_items):
    """Rows of zeros would be the best."""
    data, model = dataset(num_items, 150), models.damped_bias()
    params = model.init(None, data.ratings, Hyper())
    user, item = ({"bias": jnp.full_like(rows["bias"], -1.0)} for rows in params.trained[:2])
    found = top_n(model, Params(Rows(user, item)), data, n=5, filter_seen=False)
    assert data.item_index(found["item_id"]).tolist() == 17 * [0, 1, 2, 3, 4]
    every = top_n(model, Params(Rows(user, item)), data, n=num_items + 1, filter_seen=False)
    assert len(every) == 17 * num_items


def test_some_users_in_their_order_and_some_candidates():
    data = dataset()
    params = params_of(MODELS["biased"], data)
    theta = to_numpy(params)
    users, items = [16, 3, 3, 0], [11, 2, 12, 7, 2]
    found = top_n(
        MODELS["biased"], params, data, users=data.user_ids[users], n=3, candidates=[data.item_ids[i] for i in items]
    )
    expected = loop(lambda u, i: numpy_predict(theta, u, i), users, sorted(set(items)), pairs(data), 3)
    assert [row[:3] for row in answer(found, data)] == [row[:3] for row in expected]
    assert list(found.columns) == ["user_id", "item_id", "rank", "score"]
    assert found["user_id"].iloc[0] == "u16"


def test_ratings_in_any_order_and_some_of_them_excluded():
    data = dataset()
    params = params_of(MODELS["mf"], data)
    mixed = data.take(np.random.default_rng(0).permutation(len(data)))
    pd.testing.assert_frame_equal(top_n(MODELS["mf"], params, data), top_n(MODELS["mf"], params, mixed))


def test_who_has_seen_everything_gets_nothing():
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [5, 6, 6], "rating": [3.0, 4.0, 5.0]})
    data, model = Dataset.from_frame(frame), models.damped_bias()
    params = model.init(None, data.ratings, Hyper())
    found = top_n(model, params, data)
    assert found[["user_id", "item_id", "rank"]].to_numpy().tolist() == [[2, 5, 1]]
    assert len(top_n(model, params, data, users=[1])) == 0
    assert len(top_n(model, params, data, users=[])) == 0


def test_params_may_lie_on_the_host():
    data = dataset()
    params = params_of(MODELS["biased"], data)
    tables = [top_n(MODELS["biased"], jax.tree.map(convert, params), data) for convert in (np.asarray, jnp.asarray)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("max_memory", [1, 5000])
def test_bounded_memory_changes_nothing(max_memory):
    data = dataset(200, 800)
    params = init(MODELS["biased"], data.ratings, HYPER)
    table = top_n(MODELS["biased"], params, data)
    # A product of one row is summed in another order than one of many.
    found = top_n(MODELS["biased"], params, data, max_memory=max_memory)
    pd.testing.assert_frame_equal(table, found, rtol=1e-13, atol=1e-15)


def test_a_model_without_scores_or_rows():
    data = dataset()
    own = MODELS["biased"]._replace(embed=None, name="mine")
    params = params_of(own, data)
    pd.testing.assert_frame_equal(top_n(own, params, data), top_n(MODELS["biased"], params, data))
    mean = models.global_mean()
    found = top_n(mean, mean.init(None, data.ratings, Hyper()), data, users=["u16"], n=2)
    assert data.item_index(found["item_id"]).tolist() == [0, 1]


def test_single_precision_stays_so():
    data = dataset()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), init(MODELS["biased"], data.ratings, HYPER))
    assert top_n(MODELS["biased"], params, data)["score"].dtype == np.float32


@pytest.mark.parametrize("name", ["biased", "mf-user-mean", "content"])
def test_unknown_ids(name):
    data, model = dataset(), MODELS[name]
    params = params_of(model, data)
    known = [data.item_ids[3], data.item_ids[1]]
    asked: dict[str, Any] = {
        "users": ["u05", "new", "newer", "new"],
        "candidates": [*known, "x"],
        "n": 3,
        "filter_seen": False,
    }
    with pytest.warns(UserWarning, match="unknown to train") as warned:
        dropped = top_n(model, params, data, **asked, on_unknown="drop")
    assert [str(w.message).split(":")[1] for w in warned] == [
        " 2 of 3 users are unknown to train and left out",
        " 1 of 3 candidates are unknown to train and left out",
    ]
    assert {w.filename for w in warned} == {__file__}
    assert dropped.attrs == {"unknown_users": 2, "unknown_candidates": 1}
    expected = top_n(model, params, data, users=["u05"], candidates=known, n=3, filter_seen=False)
    assert expected.attrs == {"unknown_users": 0, "unknown_candidates": 0}
    pd.testing.assert_frame_equal(dropped, expected)
    with pytest.warns(UserWarning, match="from the known terms: ('new', 'newer'|'x')"):
        found = top_n(model, params, data, **asked, on_unknown="bias")
    theta = to_numpy(params)
    mean = theta["m"][data.user].mean() if name == "mf-user-mean" else theta["m"][0]
    scores = {
        (user, item): (theta["m"][5] if user == "u05" else mean)
        + (theta["b"][5] if user == "u05" else 0)
        + (theta["c"][i] if i is not None else 0)
        + (theta["P"][5] @ theta["Q"][i] + theta["A"][5] @ theta["X"][i] if user == "u05" and i is not None else 0)
        for user in ("u05", "new", "newer")
        for item, i in ((known[1], 1), (known[0], 3), ("x", None))
    }
    rows = []
    for user in asked["users"]:
        own = [item for who, item in scores if who == user]
        best = [own[k] for _, k in sorted((-scores[user, item], k) for k, item in enumerate(own))]
        rows += [(user, item, rank + 1) for rank, item in enumerate(best)]
    assert list(zip(found["user_id"], found["item_id"], found["rank"], strict=True)) == rows
    np.testing.assert_allclose(found["score"], [scores[row[:2]] for row in rows], rtol=1e-12)


def test_calls_of_similar_size_share_a_program():
    data = dataset(200, 800)
    params = init(MODELS["biased"], data.ratings, HYPER)
    top_n(MODELS["biased"], params, data, users=NAMES[:8], candidates=data.item_ids[:150])
    top_n(MODELS["biased"], params, data, users=NAMES[:16])
    before = len(COMPILED)
    top_n(MODELS["biased"], params, data, users=NAMES[8:15], candidates=data.item_ids[20:168])
    top_n(MODELS["biased"], params, data.take(np.arange(0, 800, 2)), users=NAMES[:16])  # half as many pairs are seen
    assert COMPILED[before:] == []


def test_padded_sizes():
    for size in range(1, 5000):
        assert size <= padded_size(size, 1) <= 1.125 * size + 1
        assert padded_size(padded_size(size, 1), 1) == padded_size(size, 1)
    assert len({padded_size(size, 1) for size in range(1, 2**20 + 1)}) < 160


def test_worker_threads_give_the_bits_of_one(monkeypatch):
    data = jaxmf.datasets.synthetic(num_users=300, num_items=60, num_ratings=3000)
    params = init(MODELS["biased"], data.ratings, HYPER)
    monkeypatch.setattr("jaxmf.recommend._best._CACHED", 16 * 64 * 8)
    table = top_n(MODELS["biased"], params, data)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    pd.testing.assert_frame_equal(table, top_n(MODELS["biased"], params, data), check_exact=True)


def test_features_of_a_subset_of_items_are_theirs():
    """Candidates are gathered with all their rows, sparse features among them."""
    data = dataset()
    params = params_of(MODELS["content"], data)
    some = top_n(MODELS["content"], params, data, candidates=data.item_ids[[12, 4, 9]], filter_seen=False)
    every = top_n(MODELS["content"], params, data, n=13, filter_seen=False)
    every = every[every["item_id"].isin(data.item_ids[[12, 4, 9]])].reset_index(drop=True)
    assert FEATURES[[12, 4, 9]].any()
    pd.testing.assert_frame_equal(some.drop(columns="rank"), every.drop(columns="rank"))
