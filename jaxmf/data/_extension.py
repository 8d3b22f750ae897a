"""More ratings, of known ids and of new ones, behind the ratings that there are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxmf.data._observations import observations
from jaxmf.data.checks import listed, refuse_rows, short
from jaxmf.data.columns import source_columns
from jaxmf.data.ids import as_ids, check_storable, distinct, joined, match, type_of
from jaxmf.data.pairs import among, numbered
from jaxmf.data.times import joined_seconds

if TYPE_CHECKING:
    from jaxmf.data.dataset import Dataset


def extension(data: "Dataset", frame: pd.DataFrame | None, item_ids: Iterable[Any]) -> dict[str, Any]:
    """The fields of `data` with the ratings of a table, and items without ratings, behind what it has; see `extend`."""
    unrated = _distinct(item_ids)
    if frame is None:
        items, _ = _joined(data.item_ids, unrated)
        return {"item_ids": items, "items": _metadata(data, items)}
    source = source_columns(frame, None)
    if data.timestamp is not None and "timestamp" not in source:
        raise ValueError(
            f"the new ratings have no column timestamp, and those of {data.name} do: add it, or drop theirs with "
            "dataclasses.replace(data, timestamp=None)"
        )
    if len(frame) == 0:
        return extension(data, None, unrated)
    named = {ours: frame[theirs] for ours, theirs in source.items() if getattr(data, ours, "id") is not None}
    remedies = 'for example frame.drop_duplicates(["user_id", "item_id"], keep="last")', "fill these or drop the rows"
    new = observations(named, remedies=remedies)
    (users, user), (items, item) = _joined(data.user_ids, new["user_ids"]), _joined(data.item_ids, new["item_ids"])
    items, _ = _joined(items, unrated)
    user, item = user[new["user"]], item[new["item"]]
    again = (user < data.num_users) & (item < data.num_items)
    again[again] = _rated(data, user[again], item[again])
    problem = f"a pair that {data.name} has a rating of"
    refuse_rows(again, named["rating"], "rating", problem, "drop these rows, or the earlier ones")
    fields = {"user": user, "item": item, "rating": new["rating"]}
    fields = {name: np.concatenate([getattr(data, name), column]) for name, column in fields.items()}
    if data.timestamp is not None:
        fields["timestamp"] = joined_seconds(data.timestamp, new["timestamp"])
    return fields | {"user_ids": users, "item_ids": items, "items": _metadata(data, items)}


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


def _rated(data: "Dataset", user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Which of these pairs `data` has a rating of."""
    asked = np.zeros(data.num_users, bool)
    asked[user] = True
    own = asked[data.user]
    earlier = np.sort(numbered(data.user[own], data.item[own], data.num_items))
    return among(numbered(user, item, data.num_items), earlier)


def _metadata(data: "Dataset", item_ids: pd.Index) -> pd.DataFrame | None:
    """The metadata by position, missing for new items."""
    if data.items is None or len(item_ids) == data.num_items:
        return data.items
    return data.items.reset_index(drop=True).reindex(range(len(item_ids))).set_axis(item_ids).rename_axis("item_id")
