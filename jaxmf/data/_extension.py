"""Bring other ratings into a Dataset's ids, to append them (`extend`) or to replace its own (`align`)."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from jaxmf.data._observations import observations
from jaxmf.data.checks import expect, listed, lookup, refuse_rows, short
from jaxmf.data.columns import NEEDED, source_columns
from jaxmf.data.exact import as_ids
from jaxmf.data.ids import check_storable, distinct, joined, match, type_of
from jaxmf.data.pairs import among, numbered
from jaxmf.data.times import joined_seconds
from jaxmf.data.unknown import check_on_unknown, refusal, unknown_ids

if TYPE_CHECKING:
    from jaxmf.data.dataset import Dataset

Fields = Mapping[str, Any]  # the fields of a Dataset by name, as `vars` gives them


def align(self: "Dataset", other: "Dataset", on_unknown: Literal["error", "drop"] = "error") -> "Dataset":
    """Return the observations of another Dataset, with the users and items of this one.

    Args:
      other: ratings of any users and items.
      on_unknown: "error" refuses ids that this Dataset does not contain; "drop" leaves their ratings out, and a
        UserWarning says how many.

    Raises:
      ValueError: an argument has the wrong type, an id is unknown, or no rating is left.
    """
    expect(other, type(self), "align: other", "Dataset.from_frame makes one of a table")
    return replace(self, **alignment(vars(self), vars(other), on_unknown))


def extend(self: "Dataset", frame: pd.DataFrame | None, item_ids: Iterable[Any] = ()) -> "Dataset":
    """Return this Dataset with a table's ratings appended; known ids keep their indices, new ids follow them.

    Metadata of new items are missing (NaN).

    Args:
      frame: columns user_id, item_id, rating (unless all ratings here are 1), if this Dataset has them timestamp, and
        optionally weight, by default 1; None for no ratings. Weights are taken as they are: apply the `transform` of
        the earlier ones first.
      item_ids: ids of items to add without a rating, after those of the table; known ids keep their indices.

    Raises:
      ValueError: as `from_frame`, except that the table may be empty; timestamps are missing though this Dataset has
        them; a pair is already rated; the type of the known ids does not represent a new one exactly, such as text or
        7.5 among integers (7.0 is 7). Integers are widened where necessary.

    >>> from jaxmf.data import Dataset
    >>> data = Dataset.from_arrays(["b", "d"], [10, 20], [3, 4])
    >>> more = data.extend(pd.DataFrame({"user_id": ["a", "b"], "item_id": [10, 30], "rating": [1, 2]}))
    >>> more.user_ids.tolist(), more.user.tolist(), more.item_ids.tolist()
    (['b', 'd', 'a'], [0, 1, 2, 0], [10, 20, 30])
    """
    return replace(self, **extension(vars(self), frame, item_ids))


def extension(known: Fields, frame: pd.DataFrame | None, item_ids: Iterable[Any]) -> dict[str, Any]:
    """Return the fields that change when a table, and items without ratings, are appended; see `Dataset.extend`."""
    unrated = _distinct(item_ids)
    if frame is None:
        items, _ = _joined(known["item_ids"], unrated)
        return {"item_ids": items, "items": _metadata(known, items)}
    name, time, num_users, num_items = known["name"], known["timestamp"], *_sizes(known)
    rated = not (known["rating"] == 1).all()  # else each row may count 1, without a column of ratings
    source = source_columns(frame, None, (*NEEDED, "rating") if rated else NEEDED)
    if time is not None and "timestamp" not in source:
        raise ValueError(
            f"the new ratings have no column timestamp, but those of {name} do: add it, or drop theirs with "
            "dataclasses.replace(data, timestamp=None)"
        )
    if len(frame) == 0:
        return extension(known, None, unrated)
    columns = {ours: frame[theirs] for ours, theirs in source.items() if ours != "timestamp" or time is not None}
    remedies = 'for example frame.drop_duplicates(["user_id", "item_id"], keep="last")', "fill these or drop the rows"
    new = observations(columns, remedies=remedies)
    user_ids, user_index = _joined(known["user_ids"], new["user_ids"])
    all_items, item_index = _joined(known["item_ids"], new["item_ids"])
    all_items, _ = _joined(all_items, unrated)
    user, item = user_index[new["user"]], item_index[new["item"]]
    repeated = (user < num_users) & (item < num_items)
    repeated[repeated] = _rated(known, user[repeated], item[repeated])
    problem, column = f"a pair that {name} already has a rating for", "rating" if "rating" in columns else "item_id"
    refuse_rows(repeated, columns[column], column, problem, "drop these rows, or the earlier ratings")
    arrays = {"user": user, "item": item, "rating": new["rating"]}
    fields = {field: np.concatenate([known[field], array]) for field, array in arrays.items()}
    if time is not None:
        fields["timestamp"] = joined_seconds(time, new["timestamp"])
    if known["weight"] is not None or new["weight"] is not None:
        fields["weight"] = np.concatenate([_weights(known), _weights(new)])
    return fields | {"user_ids": user_ids, "item_ids": all_items, "items": _metadata(known, all_items)}


def alignment(known: Fields, other: Fields, on_unknown: Literal["error", "drop"]) -> dict[str, Any]:
    """Return the fields that change when the ratings of `other` replace those of `known`; see `Dataset.align`."""
    choices, name = ("error", "drop"), other["name"]
    check_on_unknown("align", on_unknown, choices)
    user_id, item_id = other["user_ids"][other["user"]], other["item_ids"][other["item"]]
    kept = np.ones(len(user_id), bool)
    if on_unknown == "drop":
        unknown_user = match(known["user_ids"], other["user_ids"])[other["user"]] < 0
        unknown_item = match(known["item_ids"], other["item_ids"])[other["item"]] < 0
        kept = ~(unknown_user | unknown_item)
        if not kept.any():
            raise ValueError(f"align: all {len(kept)} ratings of {name} have ids unknown to {known['name']}")
        if not kept.all():
            unknown = unknown_ids(user=(user_id, unknown_user), item=(item_id, unknown_item))
            dropped = f"{np.sum(~kept)} of {len(kept)} ratings of {name} have unknown ids and are left out"
            warnings.warn(f"align: {dropped}: {unknown}", stacklevel=3)
    try:
        user = lookup(known["user_ids"], user_id[kept], "user")
        item = lookup(known["item_ids"], item_id[kept], "item")
    except ValueError as error:
        raise refusal("align", error, choices) from None
    columns = {name: other[name] for name in ("rating", "timestamp", "weight")}
    fields = {name: None if column is None else column[kept] for name, column in columns.items()}
    return fields | {"user": user, "item": item, "name": other["name"]}


def _weights(fields: Fields) -> np.ndarray:
    """Return the weight of each observation, 1 where there are no weights."""
    weight: np.ndarray | None = fields["weight"]
    return np.ones(len(fields["rating"])) if weight is None else weight


def _sizes(known: Fields) -> tuple[int, int]:
    """Return (num_users, num_items)."""
    return len(known["user_ids"]), len(known["item_ids"])


def _joined(known: pd.Index, ids: pd.Index) -> tuple[pd.Index, np.ndarray]:
    """Return the known ids followed by the new ones among `ids`, and the index (int32) of each of `ids` in that."""
    index = match(known, ids)
    new = ids[index < 0]
    combined = joined(known, new)
    if combined is None:
        raise ValueError(
            f"column {known.name!r}: new ids are like {listed(new[:3].tolist())}, known ones like "
            f"{listed(known[:3].tolist())}, and the type {type_of(known)} does not hold {type_of(new)}: convert them "
            "to the same type"
        )
    index[index < 0] = np.arange(len(known), len(combined))
    return combined, index.astype(np.int32)


def _distinct(item_ids: Iterable[Any]) -> pd.Index:
    """Return the ids of items without ratings, each once, in the given order."""
    if not pd.api.types.is_list_like(item_ids):
        raise ValueError(f"expected a list of item ids, got {short(item_ids)}; for one item pass [{short(item_ids)}]")
    try:
        ids = as_ids(item_ids)
        if ids.isna().any():
            raise ValueError(f"item_ids: missing id at position {listed(np.flatnonzero(ids.isna()).tolist())}: drop it")
        ids = distinct(ids)
    except TypeError as error:
        raise ValueError("item_ids: ids must be hashable, such as numbers, strings or tuples") from error
    check_storable(ids, "item_ids")
    return ids


def _rated(known: Fields, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return a mask of the pairs that have a known rating; sorts only the known ratings of these users."""
    num_users, num_items = _sizes(known)
    queried = np.zeros(num_users, bool)
    queried[user] = True
    candidates = queried[known["user"]]
    earlier = np.sort(numbered(known["user"][candidates], known["item"][candidates], num_items))
    return among(numbered(user, item, num_items), earlier)


def _metadata(known: Fields, item_ids: pd.Index) -> pd.DataFrame | None:
    """Return the item metadata for `item_ids`, in that order, with missing values for new items."""
    items: pd.DataFrame | None = known["items"]
    if items is None or len(item_ids) == len(items):
        return items
    return items.reset_index(drop=True).reindex(range(len(item_ids))).set_axis(item_ids).rename_axis("item_id")
