"""What a split gives away: pairs in both parts, ratings from the future, users and items that only the test has."""

import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.pairs import among, numbered
from jaxmf.data.ratings import Ratings


def leakage(train: Dataset | Ratings, test: Dataset | Ratings) -> pd.DataFrame:
    """Audit of a split, one row per question:

    - "test pairs in train": the same user with the same item; the model has seen the answer. Verdict "leak".
    - "test ratings before the user's last training rating": the model knows what the user rated later. "leak".
    - "training ratings after the first test rating": the model knows, from all users, what was rated later, such as
      which items became popular. "leak"; only a split along global time, `splits.temporal`, has none.
    - "users only in test", "items only in test", and the test ratings that they have: no leak, but their predictions
      are a fallback and not the model's. "cold".

    A question that finds nothing is "ok"; those about time are "unknown" where a part has no timestamps, as Ratings
    have none. Equal times are neither before nor after.

    Args:
      train: training ratings.
      test: held-out ratings over the same users and items. Ratings of weight 0 are not there, in either.

    Returns:
      a tidy table: check, count, total (what the count is out of), share (count / total), verdict. count and share are
      NaN where the verdict is "unknown".

    Raises:
      ValueError: what `as_ratings` refuses, or parts over other users or items.

    Cost: O(n log n) on the host.

    Reference: Meng et al. (2020), Exploring data splitting strategies for the evaluation of recommendation models.
    Ji et al. (2023), A critical study on data leakage in recommender system offline evaluation.

    >>> train = Dataset.from_arrays([1, 1, 2], ["a", "b", "a"], [3.0, 4.0, 5.0], timestamp=[10, 30, 20])
    >>> test = train.align(Dataset.from_arrays([1, 2], ["a", "b"], [3.0, 1.0], timestamp=[20, 40]))
    >>> found = leakage(train, test)
    >>> found["count"].astype(int).tolist(), found["verdict"].tolist()[:4]
    ([1, 1, 1, 0, 0, 0, 0], ['leak', 'leak', 'leak', 'ok'])
    """
    seen, held_out = as_parts(train, test, ("train", "test"))
    known, asked = np.asarray(seen.weight) > 0, np.asarray(held_out.weight) > 0
    user, item = np.asarray(seen.user)[known], np.asarray(seen.item)[known]
    test_user, test_item = np.asarray(held_out.user)[asked], np.asarray(held_out.item)[asked]
    pair, test_pair = (numbered(*own, seen.num_items) for own in ((user, item), (test_user, test_item)))
    rows: list[tuple[str, float, int, float, str]]
    rows = [_row("test pairs in train", among(test_pair, np.sort(pair)), "leak")]

    past, future = (part.timestamp if isinstance(part, Dataset) else None for part in (train, test))
    names = ("test ratings before the user's last training rating", "training ratings after the first test rating")
    if past is None or future is None:
        totals = (len(test_user), len(user))
        rows += [(name, np.nan, total, np.nan, "unknown") for name, total in zip(names, totals, strict=True)]
    else:
        least = np.iinfo(np.int64).min if past.dtype.kind == "i" else -np.inf
        last = np.full(seen.num_users, least, past.dtype)
        np.maximum.at(last, user, past)
        rows += [_row(names[0], future < last[test_user], "leak"), _row(names[1], past > future.min(), "leak")]

    for side, trained, tested in (("users", user, test_user), ("items", item, test_item)):
        rows.append(_row(f"{side} only in test", ~np.isin(np.unique(tested), trained), "cold"))
        rows.append(_row(f"test ratings of {side} only in test", ~np.isin(tested, trained), "cold"))
    return pd.DataFrame(rows, columns=["check", "count", "total", "share", "verdict"])


def _row(check: str, found: np.ndarray, verdict: str) -> tuple[str, int, int, float, str]:
    return check, int(found.sum()), len(found), float(found.mean()), verdict if found.any() else "ok"
