"""A Dataset as arrays and a header, and back: ids, observations, and item metadata with their types."""

from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.files import archive
from jaxmf.files.archive import Arrays

Packed = dict[str, Any]

_OBSERVATIONS = ("user", "item", "rating", "timestamp", "weight")


def pack_data(data: Dataset, arrays: Arrays) -> Packed:
    """Move the arrays of a Dataset to `arrays`, and return the rest for the header."""
    packed: Packed = {"name": data.name, "user_ids": None, "item_ids": None, "items": None}
    for name in _OBSERVATIONS:
        array = getattr(data, name)
        packed[name] = None if array is None else archive.put(arrays, f"data.{name}", array)
    for name in ("user_ids", "item_ids"):
        packed[name] = _pack_index(getattr(data, name), arrays, f"data.{name}")
    if data.items is not None:
        packed["items"] = _pack_frame(data.items, arrays, "data.items")
    return packed


def unpack_data(packed: Packed, arrays: Arrays) -> Dataset:
    """Restore a Dataset that `pack_data` packed."""

    def ids(name: str) -> pd.Index:
        return _unpack_index(packed[name], arrays)

    def observed(name: str) -> Any:
        return None if packed[name] is None else np.asarray(arrays[packed[name]])

    return Dataset(
        ids("user_ids"),
        ids("item_ids"),
        **{name: observed(name) for name in _OBSERVATIONS},
        items=None if packed["items"] is None else _unpack_frame(packed["items"], arrays),
        name=packed["name"],
    )


def _pack_frame(frame: pd.DataFrame, arrays: Arrays, name: str) -> Packed:
    columns = [
        archive.encode_column(frame.iloc[:, i], arrays, f"{name}.{label}") for i, label in enumerate(frame.columns)
    ]
    index, labels = (_pack_index(getattr(frame, part), arrays, f"{name}.{part}") for part in ("index", "columns"))
    return {"index": index, "labels": labels, "columns": columns}


def _unpack_frame(packed: Packed, arrays: Arrays) -> pd.DataFrame:
    index = _unpack_index(packed["index"], arrays)
    columns = dict(enumerate(archive.decode_column(column, arrays) for column in packed["columns"]))
    frame = pd.DataFrame(columns, range(len(index)))
    return frame.set_axis(index).set_axis(_unpack_index(packed["labels"], arrays), axis=1)


def _pack_index(index: pd.Index, arrays: Arrays, name: str) -> Packed:
    if index.nlevels > 1:
        raise ValueError(f"{name} has {index.nlevels} levels; expected one: use tuples, as in index.to_flat_index()")
    return {"name": archive.encode(index.name, None, f"{name}.name"), **archive.encode_column(index, arrays, name)}


def _unpack_index(packed: Packed, arrays: Arrays) -> pd.Index:
    values = archive.decode_column(packed, arrays)
    return pd.Index(values, dtype=values.dtype, name=archive.decode(packed["name"], arrays))
