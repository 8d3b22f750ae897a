"""Turn the rows of a table into the observations of a Dataset, resolving missing values and repeated pairs."""

import hashlib
import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxmf.data._weights import Transform, positive_weights, transformed
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
from jaxmf.data.columns import source_columns, with_weight
from jaxmf.data.pairs import numbered
from jaxmf.data.times import seconds

Duplicates = Literal["error", "last", "mean", "sum"]
Missing = Literal["error", "drop"]

DUPLICATES: tuple[Duplicates, ...] = ("error", "last", "mean", "sum")
MISSING: tuple[Missing, ...] = ("error", "drop")
ONE_OF_EACH = 'keep one of each with duplicates="last"|"mean"|"sum"'
COUNTED = 'count the rows of each with duplicates="sum", or keep one of each with duplicates="last"'
ADDED = 'add up their weights with duplicates="sum", or keep one of each with duplicates="last"|"mean"'
DROPPED = 'correct these rows, or leave them out with missing="drop"'


class Rules(NamedTuple):
    """What to do with the rows of a table: the arguments of `Dataset.from_frame` of these names."""

    duplicates: Duplicates = "error"
    missing: Missing = "error"
    transform: Transform | None = None


PLAIN = Rules()


def observations(
    columns: Mapping[str, pd.Series], rules: Rules = PLAIN, remedies: tuple[str | None, str] = (None, DROPPED)
) -> dict[str, Any]:
    """Return the checked fields of a Dataset that come from its rows; a UserWarning counts the rows left out.

    Args:
      columns: user_id, item_id and optionally rating, timestamp and weight.
      rules: what to do with repeated pairs, missing values and weights.
      remedies: the advice in messages about duplicates, None for that of a Dataset's constructors, and about missing
        values.

    Raises:
      ValueError: an unknown option, or rows that are not valid observations.
    """
    options = (("duplicates", rules.duplicates, DUPLICATES), ("missing", rules.missing, MISSING))
    for name, option, choices in options:
        if option not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {short(option)}")
    if rules.missing == "drop":
        columns = _present(columns)
    user, user_ids = number_ids(columns["user_id"], "user_id", remedies[1])
    item, item_ids = number_ids(columns["item_id"], "item_id", remedies[1])
    measures = {}  # what is merged if a pair is repeated; without ratings each row counts 1
    if "rating" in columns:
        measures["rating"] = finite_ratings(columns["rating"], remedies[1])
    if "weight" in columns:
        measures["weight"] = positive_weights(columns["weight"], remedies[1])
    timestamp = seconds(columns["timestamp"], remedies[1]) if "timestamp" in columns else None
    if rules.duplicates == "error":
        remedy = remedies[0] or (ONE_OF_EACH if "rating" in columns else ADDED if "weight" in columns else COUNTED)
        refuse_duplicates(columns["user_id"].index, user, item, user_ids, item_ids, remedy)
    else:
        if not measures and rules.duplicates == "sum":
            measures["weight"] = np.ones(len(user))
        kept, measures = _merged(numbered(user, item, len(item_ids)), measures, timestamp, rules.duplicates)
        user, item, timestamp = user[kept], item[kept], None if timestamp is None else timestamp[kept]
    return {
        "user_ids": user_ids,
        "item_ids": item_ids,
        "user": user,
        "item": item,
        "rating": measures.get("rating", np.ones(len(user))),
        "timestamp": timestamp,
        "weight": transformed(measures.get("weight"), rules.transform),
    }


def of_table(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None,
    items: pd.DataFrame | None,
    weight: Hashable | None,
    rules: Rules,
) -> dict[str, Any]:
    """Return the fields of a Dataset that come from a table, with the metadata of its items."""
    columns = with_weight(columns, weight)
    source = source_columns(frame, columns)
    if len(frame) == 0:
        raise ValueError("the table has no rows; expected one row per rating")
    fields = observations({ours: frame[theirs] for ours, theirs in source.items()}, rules)
    return fields | {"items": None if items is None else align_items(items, fields["item_ids"], columns or {})}


def of_arrays(named: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return the fields of a Dataset that come from the arrays user, item and optionally rating, timestamp, weight."""
    columns = {
        {"user": "user_id", "item": "item_id"}.get(name, name): array_column(values, name)
        for name, values in named.items()
        if name in ("user", "item") or values is not None
    }
    equal_lengths(columns.values())
    return observations(columns, rules)


def of_matrix(
    matrix: Any,
    user_ids: Iterable[Any] | None,
    item_ids: Iterable[Any] | None,
    entries: Literal["rating", "weight"],
    transform: Transform | None,
) -> dict[str, Any]:
    """Return the fields of a Dataset that come from the stored entries of a sparse matrix."""
    if entries not in ("rating", "weight"):
        raise ValueError(f"entries must be 'rating' or 'weight', what the matrix holds, not {short(entries)}")
    user, item, values = matrix_entries(matrix, entries)
    row_ids = given_ids(user_ids, matrix.shape[0], "user_id", "row")
    column_ids = given_ids(item_ids, matrix.shape[1], "item_id", "column")
    remedy = "drop the others, or add them up with matrix.sum_duplicates()"
    refuse_duplicates(values.index, user, item, row_ids, column_ids, remedy)
    fields = {"user_ids": row_ids, "item_ids": column_ids, "user": user, "item": item}
    if entries == "rating":
        if transform is not None:
            raise ValueError('transform needs weights, and the entries are ratings: pass entries="weight"')
        return fields | {"rating": finite_ratings(values)}
    weight = positive_weights(values, zeros="leave them out with matrix = matrix.tocsr(); matrix.eliminate_zeros()")
    return fields | {"rating": np.ones(len(values)), "weight": transformed(weight, transform)}


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
    if fields["weight"] is not None:
        digest.update(b"weight" + np.ascontiguousarray(fields["weight"], "<f8").tobytes())
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
    lacking = ", ".join(["an id", *(f"a {name}" for name in ("rating", "weight") if name in columns)]) + " or a time"
    if gaps.all():
        raise ValueError(f'missing="drop" leaves no row: all {len(gaps)} lack {lacking}')
    warnings.warn(f"{gaps.sum()} of {len(gaps)} rows lack {lacking}, and are left out", stacklevel=4)
    return {name: _without_gaps(column[~gaps]) for name, column in columns.items()}


def _without_gaps(values: pd.Series) -> pd.Series:
    """Return the column in the dtype that it would have without the dropped rows: nullable integers become plain."""
    plain = getattr(values.dtype, "numpy_dtype", None)
    integers = plain is not None and plain.kind in "iu" and isinstance(values.dtype, pd.api.extensions.ExtensionDtype)
    return values.astype(plain) if integers else values


def _merged(
    pair: np.ndarray, measures: Mapping[str, np.ndarray], timestamp: np.ndarray | None, how: Duplicates
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the row kept for each distinct pair, ascending, and the measures of each: ratings, weights, or both.

    The kept row is the pair's latest, and the last of those with equal or unknown times.
    """
    order = np.lexsort((pair,) if timestamp is None else (timestamp, pair))
    last = np.append(pair[order][1:] != pair[order][:-1], True)
    if last.all():
        return np.arange(len(pair)), dict(measures)
    group = np.cumsum(last) - last  # the distinct pair that each row in `order` belongs to
    kept = order[last]
    in_order = np.argsort(kept)

    def merged(values: np.ndarray) -> np.ndarray:
        result: np.ndarray = values[order[last]] if how == "last" else np.bincount(group, values[order])
        return (result / np.bincount(group) if how == "mean" else result)[in_order]

    one, all_of = " and ".join(measures), " and of the ".join(f"{name}s" for name in measures)
    merging = {"last": f"the last {one}", "mean": f"the mean {one}", "sum": f"the sum of the {all_of}"}
    result = merging[how] if measures else "the last row"
    repeated = len(pair) - len(kept)
    warnings.warn(f"{repeated} of {len(pair)} rows repeat a (user, item) pair: {result} is kept", stacklevel=4)
    return kept[in_order], {name: merged(values) for name, values in measures.items()}
