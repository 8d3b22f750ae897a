"""Neighbors against loops over every pair of rows."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, MODELS, init, on_host, random_ratings

from jaxmf import Dataset
from jaxmf.recommend import similar_items, similar_users


def dataset(num_items=13, num_ratings=90):
    """Strings for users, tuples for items; the last of both has no rating, and so a row of zeros."""
    r = random_ratings(num_items=num_items, num_ratings=num_ratings)
    items = pd.Index([(i % 2, i) for i in range(num_items)], name="item_id", tupleize_cols=False)
    users = pd.Index([f"u{number:02d}" for number in range(17)], name="user_id")
    return Dataset(users, items, *on_host(r))


def loop(rows, asked, n):
    """(row, neighbor, rank, cosine): without itself and rows of zeros, of equals the lower first."""
    found = []
    for a in asked:
        own = []
        for b in range(len(rows)):
            length = np.sqrt(np.sum(rows[a] ** 2)) * np.sqrt(np.sum(rows[b] ** 2))
            if a != b and length > 0:
                own.append((-np.sum(rows[a] * rows[b]) / length, b))
        found += [(a, b, rank + 1, -cosine) for rank, (cosine, b) in enumerate(sorted(own)[:n])]
    return found


@pytest.mark.parametrize("num_items", [13, 200])
def test_similar_items_equal_the_loop(num_items):
    data = dataset(num_items, 6 * num_items)
    params = init(MODELS["biased"], data.ratings, HYPER)
    asked = [num_items - 1, 4, 0, 4]
    table = similar_items(MODELS["biased"], params, data, items=[data.item_ids[i] for i in asked], n=3)
    expected = loop(np.asarray(params.trained.item["factors"]), asked, 3)
    assert len(expected) == 9  # an item without ratings has no neighbors
    assert list(table.columns) == ["item_id", "similar_item_id", "rank", "similarity"]
    ids = (data.item_index(table[name]).tolist() for name in ("item_id", "similar_item_id"))
    assert list(zip(*ids, table["rank"].tolist(), strict=True)) == [row[:3] for row in expected]
    np.testing.assert_allclose(table["similarity"], [row[3] for row in expected], rtol=1e-12)


def test_similar_users_are_all_but_those_without_direction():
    data = dataset()
    params = init(MODELS["mf"], data.ratings, HYPER)
    table = similar_users(MODELS["mf"], params, data, n=99)
    expected = loop(np.asarray(params.trained.user["factors"]), range(17), 99)
    assert len(table) == 16 * 15
    assert table["similar_user_id"].tolist() == data.user_ids[[row[1] for row in expected]].tolist()
    assert "u16" not in set(table["user_id"]) | set(table["similar_user_id"])


def test_equal_directions_come_by_number_whatever_their_length():
    data = dataset()
    params = init(MODELS["mf"], data.ratings, HYPER)
    rows = np.zeros((13, 3))
    rows[[2, 5, 7, 11], 0] = [1, 8, 2, 4]
    params = params._replace(trained=params.trained._replace(item={"factors": jnp.asarray(rows)}))
    table = similar_items(MODELS["mf"], params, data, items=[data.item_ids[7]])
    assert data.item_index(table["similar_item_id"]).tolist() == [2, 5, 11]
    assert table["similarity"].tolist() == [1.0, 1.0, 1.0]


def test_another_leaf():
    data = dataset()
    params = init(MODELS["content"], data.ratings, HYPER)
    weights = np.random.default_rng(0).normal(size=(17, 5))
    user = params.trained.user | {"content": jnp.asarray(weights)}
    params = params._replace(trained=params.trained._replace(user=user))
    table = similar_users(MODELS["content"], params, data, n=2, leaf="content")
    expected = loop(weights, range(17), 2)
    assert data.user_index(table["similar_user_id"]).tolist() == [row[1] for row in expected]


def test_single_precision_stays_so():
    data = dataset()
    params = init(MODELS["mf"], random_ratings(dtype=jnp.float32), HYPER)
    assert similar_items(MODELS["mf"], params, data)["similarity"].dtype == np.float32
