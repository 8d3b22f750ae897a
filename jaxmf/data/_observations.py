"""The rows of a table as the observations of a Dataset: what to do about missing values and repeated pairs."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from jaxmf.data.checks import finite_ratings, listed, number_ids, short
from jaxmf.data.pairs import numbered
from jaxmf.data.times import seconds

Duplicates = Literal["error", "last", "mean", "sum"]
Missing = Literal["error", "drop"]

DUPLICATES: tuple[Duplicates, ...] = ("error", "last", "mean", "sum")
MISSING: tuple[Missing, ...] = ("error", "drop")
ONE_OF_EACH = 'keep one of each with duplicates="last"|"mean"|"sum"'
DROPPED = 'correct these rows, or leave them out with missing="drop"'


def observations(
    columns: Mapping[str, pd.Series],
    duplicates: Duplicates = "error",
    missing: Missing = "error",
    remedies: tuple[str, str] = (ONE_OF_EACH, DROPPED),
) -> dict[str, Any]:
    """The fields of a Dataset that come from its rows, checked; a UserWarning counts the rows that are left out.

    Args:
      columns: user_id, item_id, rating and perhaps timestamp.
      duplicates, missing: as in `Dataset.from_frame`.
      remedies: what messages advise about duplicates and about missing values.

    Raises:
      ValueError: an option of another name, or rows that are not observations.
    """
    for name, option, known in (("duplicates", duplicates, DUPLICATES), ("missing", missing, MISSING)):
        if option not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {short(option)}")
    if missing == "drop":
        columns = _present(columns)
    user, user_ids = number_ids(columns["user_id"], "user_id", remedies[1])
    item, item_ids = number_ids(columns["item_id"], "item_id", remedies[1])
    rating = finite_ratings(columns["rating"], remedies[1])
    timestamp = seconds(columns["timestamp"], remedies[1]) if "timestamp" in columns else None
    if duplicates == "error":
        refuse_duplicates(columns["rating"].index, user, item, user_ids, item_ids, remedies[0])
    else:
        kept, rating = _merged(numbered(user, item, len(item_ids)), rating, timestamp, duplicates)
        user, item, timestamp = user[kept], item[kept], None if timestamp is None else timestamp[kept]
    return {
        "user_ids": user_ids,
        "item_ids": item_ids,
        "user": user,
        "item": item,
        "rating": rating,
        "timestamp": timestamp,
    }


def refuse_duplicates(
    labels: pd.Index, user: np.ndarray, item: np.ndarray, user_ids: pd.Index, item_ids: pd.Index, remedy: str
) -> None:
    """Raise if a user rated an item more than once."""
    pair = pd.Series(numbered(user, item, len(item_ids)))
    repeated = pair.duplicated().to_numpy()
    if repeated.any():
        first = int(np.flatnonzero(repeated)[0])
        rows = listed(labels[(pair == pair[first]).to_numpy()].tolist())
        at = labels.name if labels.name == "line" else "index"
        user_id, item_id = user_ids[user[[first]]].tolist(), item_ids[item[[first]]].tolist()
        raise ValueError(
            f"{repeated.sum()} row(s) repeat a (user, item) pair; the first is user {short(user_id[0])} with item "
            f"{short(item_id[0])}, at {at} {rows}. Expected each pair once: {remedy}"
        )


def _present(columns: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """The rows in which nothing is missing."""
    gaps = np.logical_or.reduce([column.isna().to_numpy() for column in columns.values()])
    if not gaps.any():
        return dict(columns)
    if gaps.all():
        raise ValueError(f'missing="drop" leaves no row: all {len(gaps)} lack an id, a rating or a time')
    warnings.warn(f"{gaps.sum()} of {len(gaps)} rows lack an id, a rating or a time, and are left out", stacklevel=4)
    return {name: _without_gaps(column[~gaps]) for name, column in columns.items()}


def _without_gaps(values: pd.Series) -> pd.Series:
    """The column in the type that it would have had without the rows that were dropped."""
    numpy = getattr(values.dtype, "numpy_dtype", None)
    integers = numpy is not None and numpy.kind in "iu" and isinstance(values.dtype, pd.api.extensions.ExtensionDtype)
    return values.astype(numpy) if integers else values


def _merged(
    pair: np.ndarray, rating: np.ndarray, timestamp: np.ndarray | None, how: Duplicates
) -> tuple[np.ndarray, np.ndarray]:
    """The row of each pair that is kept, its latest and of equal times the last, in order; and the ratings of these."""
    order = np.lexsort((pair,) if timestamp is None else (timestamp, pair))
    last = np.append(pair[order][1:] != pair[order][:-1], True)
    if last.all():
        return np.arange(len(pair)), rating
    number = np.cumsum(last) - last  # of each row's pair, in the order of the pairs
    kept, value = order[last], rating[order[last]]
    if how != "last":
        value = np.bincount(number, rating[order])
    if how == "mean":
        value /= np.bincount(number)
    said = {"last": "the last rating", "mean": "the mean rating", "sum": "the sum of the ratings"}[how]
    repeated = len(pair) - len(kept)
    warnings.warn(f"{repeated} of {len(pair)} rows repeat a (user, item) pair: {said} is kept", stacklevel=4)
    in_order = np.argsort(kept)
    return kept[in_order], value[in_order]
