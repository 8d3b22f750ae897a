"""TF-IDF of the items' words: the formula, and what it is fitted on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse

from jaxmf import Dataset, content, datasets, splits

ITEMS = pd.DataFrame(
    {
        "genres": ["Drama|War", "War", "The Drama", "Comedy"],
        "tags": ["slow war", None, "", "slow"],
        "year": [1, 2, 3, 4],
    },
    index=["a", "b", "c", "d"],
)


@pytest.fixture
def data() -> Dataset:
    frame = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": list("abcd"), "rating": [3.0, 4.0, 5.0, 1.0]})
    return Dataset.from_frame(frame, items=ITEMS, name="mine")


def test_the_formula(data):
    """Rated: a, b and c. "the" is a stop word, and d, which is not rated, adds no term and no count."""
    found = content.tfidf(data.take(np.array([0, 1, 2])))
    assert issparse(found)
    idf = {term: 1 + np.log((1 + 3) / (1 + df)) for term, df in (("drama", 2), ("slow", 1), ("war", 2))}
    counts = np.array([[1, 1, 2], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    expected = counts * np.array(list(idf.values()))
    np.testing.assert_allclose(found.toarray(), expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-12)


def test_the_columns_and_the_number_of_terms(data):
    assert content.tfidf(data, columns=["tags"]).shape == (4, 2)
    frequent = content.tfidf(data, max_features=1).toarray()
    np.testing.assert_array_equal(frequent, [[1], [1], [0], [0]])


def test_the_columns_that_are_there_are_read(data):
    alone = replace(data, items=data.items[["year", "tags"]])
    np.testing.assert_array_equal(content.tfidf(alone).toarray(), content.tfidf(data, columns=["tags"]).toarray())


def test_a_column_of_numbers_with_gaps(data):
    years = data.items.assign(year=[1999, None, 1999, 2001])
    np.testing.assert_array_equal(
        content.tfidf(replace(data, items=years), columns=["year"]).toarray(), [[1, 0], [0, 0], [1, 0], [0, 1]]
    )


def test_an_item_without_words_is_a_row_of_zeros(data):
    np.testing.assert_array_equal(content.tfidf(data, columns=["tags"]).toarray()[1:3], 0)


def test_truncated_svd_keeps_what_it_can():
    data = datasets.synthetic(num_users=40, num_items=60, num_ratings=900)
    terms, reduced = content.tfidf(data).toarray(), content.tfidf(data, components=10)
    assert reduced.shape == (60, 10)
    assert reduced.dtype == np.float64
    left = np.linalg.svd(terms, compute_uv=False)
    assert np.sum(reduced**2) == pytest.approx(np.sum(left[:10] ** 2), rel=0.02)
    np.testing.assert_array_equal(reduced, content.tfidf(data, components=10))


@pytest.mark.parametrize(("rated", "features"), [([0, 1, 2], 3), ([0, 2], 2)], ids=["terms", "items"])
def test_no_more_components_than_terms_or_rated_items(data, rated, features):
    terms, reduced = (content.tfidf(data.take(np.array(rated)), components=k) for k in (None, 64))
    assert reduced.shape == (4, features)
    np.testing.assert_allclose((reduced @ reduced.T)[rated], (terms @ terms.T).toarray()[rated], atol=1e-12)


def test_only_rated_items_have_a_say():
    data = datasets.synthetic(num_users=40, num_items=60, num_ratings=900)
    train = data.take(data.item < 30)
    shouting = data.items.assign(tags=np.where(np.arange(60) < 30, data.items["tags"], "zzz"))
    for components in (None, 5):
        calm, loud = (content.tfidf(d, components=components) for d in (train, replace(train, items=shouting)))
        calm, loud = (x.toarray() if issparse(x) else x for x in (calm, loud))
        np.testing.assert_array_equal(calm[:30], loud[:30])
    assert np.any(calm[30:] != loud[30:])


@pytest.mark.realdata
def test_the_document_s_terms(latest_small):
    assert content.tfidf(latest_small).shape == (9724, 1675)
    train, *_ = splits.temporal_per_user(latest_small)
    found = content.tfidf(train)
    assert found.shape[0] == 9724
    assert found.shape[1] < 1675
