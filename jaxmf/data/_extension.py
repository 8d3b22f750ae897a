"""Ratings of another table under the ids of a Dataset: behind its own, where new ids follow, or in their place."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from jaxmf.data._observations import observations
from jaxmf.data.checks import listed, lookup, refuse_rows, short
from jaxmf.data.columns import source_columns
from jaxmf.data.ids import as_ids, check_storable, distinct, joined, match, type_of
from jaxmf.data.pairs import among, numbered
from jaxmf.data.times import joined_seconds
from jaxmf.data.unknown import check_on_unknown, refusal, unknown_ids

Fields = Mapping[str, Any]  # those of a Dataset, by name


def extension(known: Fields, frame: pd.DataFrame | None, item_ids: Iterable[Any]) -> dict[str, Any]:
    """The fields that change as a table, and items without ratings, go behind what is known; see `Dataset.extend`."""
    unrated = _distinct(item_ids)
    if frame is None:
        items, _ = _joined(known["item_ids"], unrated)
        return {"item_ids": items, "items": _metadata(known, items)}
    name, time, num_users, num_items = known["name"], known["timestamp"], *_sizes(known)
    source = source_columns(frame, None)
    if time is not None and "timestamp" not in source:
        raise ValueError(
            f"the new ratings have no column timestamp, and those of {name} do: add it, or drop theirs with "
            "dataclasses.replace(data, timestamp=None)"
        )
    if len(frame) == 0:
        return extension(known, None, unrated)
    columns = {ours: frame[theirs] for ours, theirs in source.items() if ours != "timestamp" or time is not None}
    remedies = 'for example frame.drop_duplicates(["user_id", "item_id"], keep="last")', "fill these or drop the rows"
    new = observations(columns, remedies=remedies)
    user_ids, user_number = _joined(known["user_ids"], new["user_ids"])
    all_items, item_number = _joined(known["item_ids"], new["item_ids"])
    all_items, _ = _joined(all_items, unrated)
    user, item = user_number[new["user"]], item_number[new["item"]]
    again = (user < num_users) & (item < num_items)
    again[again] = _rated(known, user[again], item[again])
    problem = f"a pair that {name} has a rating of"
    refuse_rows(again, columns["rating"], "rating", problem, "drop these rows, or the earlier ones")
    arrays = {"user": user, "item": item, "rating": new["rating"]}
    fields = {field: np.concatenate([known[field], array]) for field, array in arrays.items()}
    if time is not None:
        fields["timestamp"] = joined_seconds(time, new["timestamp"])
    return fields | {"user_ids": user_ids, "item_ids": all_items, "items": _metadata(known, all_items)}


def alignment(known: Fields, others: Fields, on_unknown: Literal["error", "drop"]) -> dict[str, Any]:
    """The fields that change as the ratings of others take the place of those that are known; see `Dataset.align`."""
    choices, name = ("error", "drop"), others["name"]
    check_on_unknown("align", on_unknown, choices)
    user_id, item_id = others["user_ids"][others["user"]], others["item_ids"][others["item"]]
    kept = np.ones(len(user_id), bool)
    if on_unknown == "drop":
        no_user = match(known["user_ids"], others["user_ids"])[others["user"]] < 0
        no_item = match(known["item_ids"], others["item_ids"])[others["item"]] < 0
        kept = ~(no_user | no_item)
        if not kept.any():
            raise ValueError(f"align: all {len(kept)} ratings of {name} are of ids unknown to {known['name']}")
        if not kept.all():
            which = unknown_ids(user=(user_id, no_user), item=(item_id, no_item))
            dropped = f"{np.sum(~kept)} of {len(kept)} ratings of {name} are of unknown ids and left out"
            warnings.warn(f"align: {dropped}: {which}", stacklevel=3)
    try:
        user = lookup(known["user_ids"], user_id[kept], "user")
        item = lookup(known["item_ids"], item_id[kept], "item")
    except ValueError as error:
        raise refusal("align", error, choices) from None
    time = others["timestamp"]
    fields = {"user": user, "item": item, "rating": others["rating"][kept], "name": name}
    return fields | {"timestamp": None if time is None else time[kept]}


def _sizes(known: Fields) -> tuple[int, int]:
    """Numbers of users and of items."""
    return len(known["user_ids"]), len(known["item_ids"])


def _joined(known: pd.Index, ids: pd.Index) -> tuple[pd.Index, np.ndarray]:
    """Known ids and the new ones among `ids` behind them; the numbers, int32, of `ids`."""
    number = match(known, ids)
    new = ids[number < 0]
    both = joined(known, new)
    if both is None:
        raise ValueError(
            f"column {known.name!r}: new ids are like {listed(new[:3].tolist())}, known ones like "
            f"{listed(known[:3].tolist())}, and the type {type_of(known)} does not hold {type_of(new)}: convert them "
            "to the same type"
        )
    number[number < 0] = np.arange(len(known), len(both))
    return both, number.astype(np.int32)


def _distinct(item_ids: Iterable[Any]) -> pd.Index:
    """The ids of items without ratings, each once, in the order given."""
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
    """Which of these pairs have a rating that is known."""
    num_users, num_items = _sizes(known)
    asked = np.zeros(num_users, bool)
    asked[user] = True
    near = asked[known["user"]]
    earlier = np.sort(numbered(known["user"][near], known["item"][near], num_items))
    return among(numbered(user, item, num_items), earlier)


def _metadata(known: Fields, item_ids: pd.Index) -> pd.DataFrame | None:
    """The metadata by position, missing for new items."""
    items: pd.DataFrame | None = known["items"]
    if items is None or len(item_ids) == len(items):
        return items
    return items.reset_index(drop=True).reindex(range(len(item_ids))).set_axis(item_ids).rename_axis("item_id")
