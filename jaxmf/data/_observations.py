"""Turn the rows of a table into the observations of a Dataset, resolving missing values and repeated pairs."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from jaxmf.data.checks import (
    align_items,
    array_column,
    equal_lengths,
    finite_ratings,
    given_ids,
    listed,
    matrix_entries,
    number_ids,
    short,
)
from jaxmf.data.columns import source_columns
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
    """Return the checked fields of a Dataset that come from its rows; a UserWarning counts the rows left out.

    Args:
      columns: user_id, item_id, rating and optionally timestamp.
      duplicates, missing: as in `Dataset.from_frame`.
      remedies: the advice in messages about duplicates and about missing values.

    Raises:
      ValueError: an unknown option, or rows that are not valid observations.
    """
    for name, option, options in (("duplicates", duplicates, DUPLICATES), ("missing", missing, MISSING)):
        if option not in options:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, not {short(option)}")
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


def of_table(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None,
    items: pd.DataFrame | None,
    duplicates: Duplicates,
    missing: Missing,
) -> dict[str, Any]:
    """Return the fields of a Dataset that come from a table, with the metadata of its items."""
    source = source_columns(frame, columns)
    if len(frame) == 0:
        raise ValueError("the table has no rows; expected one row per rating")
    fields = observations({ours: frame[theirs] for ours, theirs in source.items()}, duplicates, missing)
    return fields | {"items": None if items is None else align_items(items, fields["item_ids"], columns or {})}


def of_arrays(named: Mapping[str, Any], duplicates: Duplicates, missing: Missing) -> dict[str, Any]:
    """Return the fields of a Dataset that come from the arrays user, item, rating and optionally timestamp."""
    columns = {
        {"user": "user_id", "item": "item_id"}.get(name, name): array_column(values, name)
        for name, values in named.items()
        if name != "timestamp" or values is not None
    }
    equal_lengths(columns.values())
    return observations(columns, duplicates, missing)


def of_matrix(matrix: Any, user_ids: Iterable[Any] | None, item_ids: Iterable[Any] | None) -> dict[str, Any]:
    """Return the fields of a Dataset that come from the stored entries of a sparse matrix."""
    user, item, values = matrix_entries(matrix)
    row_ids = given_ids(user_ids, matrix.shape[0], "user_id", "row")
    column_ids = given_ids(item_ids, matrix.shape[1], "item_id", "column")
    remedy = "drop the others, or add them up with matrix.sum_duplicates()"
    refuse_duplicates(values.index, user, item, row_ids, column_ids, remedy)
    ids = {"user_ids": row_ids, "item_ids": column_ids}
    return ids | {"user": user, "item": item, "rating": finite_ratings(values)}


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return 16 hex digits of the SHA-256 over the ids and observations of a Dataset, in order."""
    digest = hashlib.sha256()
    for ids in (fields["user_ids"], fields["item_ids"]):
        digest.update(repr(ids.tolist()).encode())
    timestamp = fields["timestamp"]
    time_dtype = "<f8" if timestamp is not None and timestamp.dtype.kind == "f" else "<i8"
    for name, dtype in (("user", "<i4"), ("item", "<i4"), ("rating", "<f8"), ("timestamp", time_dtype)):
        array = fields[name]
        digest.update(b"none" if array is None else np.ascontiguousarray(array, dtype).tobytes())
    return digest.hexdigest()[:16]


def refuse_duplicates(
    labels: pd.Index, user: np.ndarray, item: np.ndarray, user_ids: pd.Index, item_ids: pd.Index, remedy: str
) -> None:
    """Raise ValueError if a user rated an item more than once."""
    pair = pd.Series(numbered(user, item, len(item_ids)))
    repeated = pair.duplicated().to_numpy()
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        same_pair = listed(labels[(pair == pair[row]).to_numpy()].tolist())
        unit = labels.name if labels.name == "line" else "index"
        user_id, item_id = user_ids[user[[row]]].tolist(), item_ids[item[[row]]].tolist()
        raise ValueError(
            f"{repeated.sum()} row(s) repeat a (user, item) pair; the first is user {short(user_id[0])} with item "
            f"{short(item_id[0])}, at {unit} {same_pair}. Expected each pair once: {remedy}"
        )


def _present(columns: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Return the rows in which nothing is missing; a UserWarning counts the others."""
    gaps = np.logical_or.reduce([column.isna().to_numpy() for column in columns.values()])
    if not gaps.any():
        return dict(columns)
    if gaps.all():
        raise ValueError(f'missing="drop" leaves no row: all {len(gaps)} lack an id, a rating or a time')
    warnings.warn(f"{gaps.sum()} of {len(gaps)} rows lack an id, a rating or a time, and are left out", stacklevel=4)
    return {name: _without_gaps(column[~gaps]) for name, column in columns.items()}


def _without_gaps(values: pd.Series) -> pd.Series:
    """Return the column in the dtype that it would have without the dropped rows: nullable integers become plain."""
    plain = getattr(values.dtype, "numpy_dtype", None)
    integers = plain is not None and plain.kind in "iu" and isinstance(values.dtype, pd.api.extensions.ExtensionDtype)
    return values.astype(plain) if integers else values


def _merged(
    pair: np.ndarray, rating: np.ndarray, timestamp: np.ndarray | None, how: Duplicates
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row kept for each distinct pair, ascending, and the rating of each.

    The kept row is the pair's latest, and the last of those with equal or unknown times.
    """
    order = np.lexsort((pair,) if timestamp is None else (timestamp, pair))
    last = np.append(pair[order][1:] != pair[order][:-1], True)
    if last.all():
        return np.arange(len(pair)), rating
    group = np.cumsum(last) - last  # the distinct pair that each row in `order` belongs to
    kept, value = order[last], rating[order[last]]
    if how != "last":
        value = np.bincount(group, rating[order])
    if how == "mean":
        value /= np.bincount(group)
    result = {"last": "the last rating", "mean": "the mean rating", "sum": "the sum of the ratings"}[how]
    repeated = len(pair) - len(kept)
    warnings.warn(f"{repeated} of {len(pair)} rows repeat a (user, item) pair: {result} is kept", stacklevel=4)
    in_order = np.argsort(kept)
    return kept[in_order], value[in_order]
