"""Compute item features from the words of their metadata, for models that use more than ratings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmf.data.checks import expect, is_positive_integer, listed
from jaxmf.data.dataset import Dataset

_COLUMNS = ("genres", "tags")


def tfidf(
    data: Dataset,
    columns: Sequence[str] | None = None,
    max_features: int = 5000,
    components: int | None = None,
    seed: int = 0,
) -> Any:
    """Return the TF-IDF of each item's words; vocabulary and weights come from the items rated in `data`.

        tfidf(t, i) = tf(t, i) · (1 + ln((1 + n) / (1 + df(t)))),   each row scaled to length 1

    with tf the number of times that term t occurs among the item's words, and df the number of the n rated items that
    contain it. Pass the training part of a split, so that items rated only in other parts do not influence vocabulary
    and weights; they still get rows.

    Args:
      data: the ratings, with item metadata in `data.items`.
      columns: the columns of the metadata whose words are joined; None reads genres and tags, or whichever of the two
        is present. Words are runs of two or more letters or digits, in lower case and without English stop words.
      max_features: maximum number of terms; the most frequent ones are kept.
      components: reduce the terms to this many features by truncated SVD, or to the number of terms or of rated items
        if that is smaller; None keeps the terms.
      seed: seed of the randomized SVD.

    Returns:
      A sparse CSR array (num_items, terms), or with `components` an array (num_items, components), float64, in the
      order of `data.item_ids`. An item without words has a row of zeros.

    Raises:
      ValueError: there is no metadata, a column is missing, there are no words, or a number is out of range.

    Cost: O(words); the SVD O(nonzeros · components).

    Reference: Manning, Raghavan and Schütze (2008), Introduction to information retrieval, sections 6.2 and 18.4.

    >>> from jaxmf.data import datasets
    >>> tfidf(datasets.synthetic(5, 4, 20), components=2).shape
    (4, 2)
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    expect(data, Dataset, "content.tfidf: data", "Dataset.from_frame makes one of a table, with its items=")
    if isinstance(columns, str):
        raise ValueError(f"content.tfidf: columns must be a sequence of names, not {columns!r}: use [{columns!r}]")
    if data.items is None:
        raise ValueError(f"content.tfidf: {data.name} has no item metadata; give Dataset.from_frame a table as items=")
    if columns is None:
        columns = [name for name in _COLUMNS if name in data.items] or _COLUMNS
    missing = [name for name in columns if name not in data.items]
    if missing or not columns:
        absent, present = listed(missing) or "to read", listed(data.items.columns, 12)
        raise ValueError(
            f"content.tfidf: the items of {data.name} have no column {absent}; found [{present}]. Name the columns to "
            "read in columns="
        )
    for name, count in (("max_features", max_features), ("components", components)):
        if count is not None and not is_positive_integer(count):
            raise ValueError(f"content.tfidf: {name} must be a positive integer, not {count!r}")
    cells = data.items[list(columns)]
    words = cells.astype(str).where(cells.notna(), "").agg(" ".join, axis=1).to_numpy()
    rated = np.unique(data.item)
    vectorizer = TfidfVectorizer(stop_words="english", max_features=max_features)
    try:
        vectorizer.fit(words[rated])
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        names = ", ".join(columns)
        raise ValueError(
            f"content.tfidf: no words in the columns {names} of the rated items of {data.name}; name columns "
            "with words in columns="
        ) from error
    terms = vectorizer.transform(words)
    if components is None:
        return terms
    svd = TruncatedSVD(min(components, *terms[rated].shape), random_state=seed)
    return svd.fit(terms[rated]).transform(terms)
