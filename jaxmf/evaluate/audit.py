"""Audit a split for leakage: pairs in both parts, ratings from the future, users and items that only the test has."""

import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.pairs import among, numbered
from jaxmf.data.ratings import Ratings


def leakage(train: Dataset | Ratings, test: Dataset | Ratings) -> pd.DataFrame:
    """Audit a split for leakage; return one row per check:

    - "test pairs in train": pairs of a user and an item in both parts, whose answer the model has seen. Verdict "leak".
    - "test ratings before the user's last training rating": the model knows what the user rated later. "leak".
    - "training ratings after the first test rating": the model knows, from all users, what was rated later, such as
      which items became popular. "leak"; only a split along global time, `splits.temporal`, has none.
    - "users only in test", "items only in test", and their test ratings: no leak, but their predictions are a fallback,
      not learned. "cold".

    A check that counts nothing is "ok". The checks of time are "unknown" where a part has no timestamps, which Ratings
    never have. Equal times are neither before nor after.

    Args:
      train: training ratings.
      test: held-out ratings over the same users and items. In both parts, ratings of weight 0 are ignored.

    Returns:
      a tidy table: check, count, total (how many were checked), share (count / total), verdict. count and share are
      NaN where the verdict is "unknown".

    Raises:
      ValueError: what `as_ratings` refuses, or parts over different users or items.

    Cost: O(n log n) on the host.

    Reference: Meng et al. (2020), Exploring data splitting strategies for the evaluation of recommendation models.
    Ji et al. (2023), A critical study on data leakage in recommender system offline evaluation.

    >>> train = Dataset.from_arrays([1, 1, 2], ["a", "b", "a"], [3.0, 4.0, 5.0], timestamp=[10, 30, 20])
    >>> test = train.align(Dataset.from_arrays([1, 2], ["a", "b"], [3.0, 1.0], timestamp=[20, 40]))
    >>> audit = leakage(train, test)
    >>> audit["count"].astype(int).tolist(), audit["verdict"].tolist()[:4]
    ([1, 1, 1, 0, 0, 0, 0], ['leak', 'leak', 'leak', 'ok'])
    """
    seen, held_out = as_parts(train, test, ("train", "test"))
    observed, tested = np.asarray(seen.weight) > 0, np.asarray(held_out.weight) > 0
    user, item = np.asarray(seen.user)[observed], np.asarray(seen.item)[observed]
    test_user, test_item = np.asarray(held_out.user)[tested], np.asarray(held_out.item)[tested]
    pair, test_pair = (numbered(*ids, seen.num_items) for ids in ((user, item), (test_user, test_item)))
    rows: list[tuple[str, float, int, float, str]]
    rows = [_row("test pairs in train", among(test_pair, np.sort(pair)), "leak")]

    past, future = (part.timestamp if isinstance(part, Dataset) else None for part in (train, test))
    names = ("test ratings before the user's last training rating", "training ratings after the first test rating")
    if past is None or future is None:
        totals = (len(test_user), len(user))
        rows += [(name, np.nan, total, np.nan, "unknown") for name, total in zip(names, totals, strict=True)]
    else:
        earliest = np.iinfo(np.int64).min if past.dtype.kind == "i" else -np.inf
        last = np.full(seen.num_users, earliest, past.dtype)
        np.maximum.at(last, user, past)
        rows += [_row(names[0], future < last[test_user], "leak"), _row(names[1], past > future.min(), "leak")]

    for side, ids, test_ids in (("users", user, test_user), ("items", item, test_item)):
        rows.append(_row(f"{side} only in test", ~np.isin(np.unique(test_ids), ids), "cold"))
        rows.append(_row(f"test ratings of {side} only in test", ~np.isin(test_ids, ids), "cold"))
    return pd.DataFrame(rows, columns=["check", "count", "total", "share", "verdict"])


def _row(check: str, hits: np.ndarray, verdict: str) -> tuple[str, int, int, float, str]:
    """Return the row of a check, given which of the checked pairs, ratings or ids it applies to."""
    return check, int(hits.sum()), len(hits), float(hits.mean()), verdict if hits.any() else "ok"
