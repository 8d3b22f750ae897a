"""Convert ids to plain dtypes, and between dtypes of one kind, wherever the target represents them exactly."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

_TEXT = pd.Index(["text"]).dtype  # pandas' string dtype, or object in versions that do not infer one
_KINDS = {int: "number", float: "number", Decimal: "number", bool: "bool", str: "text"}
_INFERRED = {  # from the result of `infer_dtype` for objects to the dtypes to try; None lets pandas choose
    "integer": ("int64", "uint64"),
    "floating": ("float64",),
    "mixed-integer-float": ("float64",),
    "boolean": ("bool",),
    "string": (None,),
    "datetime": (None,),
    "datetime64": (None,),
    "timedelta": (None,),
    "timedelta64": (None,),
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def as_ids(values: Any) -> pd.Index:
    """Return ids in a plain dtype that represents each of them exactly.

    Args:
      values: (n,) a Series, Index, NumPy or pandas array, or any other collection.

    Returns:
      An Index (n,) of NumPy integers, floats or bools, of dates or durations, of pandas' text, or else of objects,
      in which Python scalars replace NumPy's. An Index with such a dtype is returned unchanged.

    Raises:
      ValueError: the ids are not one-dimensional.

    Cost: O(1) for an array of numbers, O(n) for objects.
    """
    if isinstance(values, pd.Index) and _is_plain(values.dtype):
        return values
    index = values if isinstance(values, pd.Index) else None
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    if isinstance(values, pd.Series | pd.Index):
        values = values.array
    if isinstance(values, pd.api.extensions.ExtensionArray):
        values = _unwrapped(values)
    elif np.ma.is_masked(values):
        values = values.astype(object).filled(None)
    elif hasattr(values, "__array__"):
        values = np.asarray(values)
    else:
        values = np.fromiter(values, object)
    if values.ndim != 1:
        raise ValueError(f"the ids have shape {values.shape}; expected one dimension: use .ravel()")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":  # no pandas Index has float16 or swapped bytes
        native = values.dtype.newbyteorder("=")
        values = values.astype(np.float32 if native == np.float16 else native, copy=False)
    if _is_plain(values.dtype):
        return pd.Index(values)
    return _inferred(np.asarray(values, object), index)


def kind_of(ids: pd.Index) -> str:
    """Return the kind of plain ids; ids of different kinds are never the same, unless one kind is "object"."""
    dtype = ids.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iuf":
        return "number"
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        return "text" if pd.api.types.infer_dtype(ids, skipna=False) == "string" else "object"
    if isinstance(dtype, pd.DatetimeTZDtype):
        return "date with a zone"
    return {"b": "bool", "M": "date", "m": "duration"}.get(getattr(dtype, "kind", ""), "text")


def kinds_of(ids: pd.Index) -> set[Any]:
    """Return the set of kinds of plain ids, that of each value where they are objects."""
    return {kind_of(ids)} if kind_of(ids) != "object" else {_KINDS.get(kind, kind) for kind in set(map(type, ids))}


def cast_ids(ids: pd.Index, dtype: Any) -> tuple[pd.Index, np.ndarray]:
    """Return plain ids in another dtype of their kind, and a mask of those that it represents exactly."""
    kind = kind_of(ids)
    if ids.dtype == dtype or kind == "text":
        return ids, np.ones(len(ids), bool)
    if kind == "number":
        numbers, fits = _cast_numbers(ids.to_numpy(), dtype)
        return pd.Index(numbers), fits
    zoned = isinstance(dtype, pd.DatetimeTZDtype)
    unit = dtype.unit if zoned else np.datetime_data(dtype)[0]
    moments = (ids.tz_convert(None) if zoned else ids).to_numpy()
    times, fits = _cast_times(moments, np.dtype(f"{dtype.kind}8[{unit}]"))
    return (pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(dtype.tz) if zoned else pd.Index(times)), fits


def _cast_numbers(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = values.astype(dtype)
        if values.dtype.kind == "f":
            return floats, floats.astype(np.float64) == values.astype(np.float64)
        back, fits = _cast_numbers(floats, values.dtype)
        return floats, fits & (back == values)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # represents both ends of the range exactly
        fits = (values >= float(low)) & (values < float(high + 1)) & (values == np.floor(values))
    else:
        fits = (values >= low) & (values <= high)
    return np.where(fits, values, 0).astype(dtype), fits


def _cast_times(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Convert dates or durations to another unit."""
    ticks, fits = values.view(np.int64), ~np.isnat(values)
    old, new = (_PER_SECOND[np.datetime_data(unit)[0]] for unit in (values.dtype, dtype))
    if new < old:
        factor = old // new
        return (ticks // factor).view(dtype), fits & (ticks % factor == 0)
    factor = new // old
    limit = np.iinfo(np.int64).max // factor
    fits &= (ticks >= -limit) & (ticks <= limit)
    return (np.where(fits, ticks, 0) * factor).view(dtype), fits


def _is_plain(dtype: Any) -> bool:
    if isinstance(dtype, np.dtype):
        return dtype.isnative and dtype.kind in "biufMm" and dtype.itemsize <= 8
    return isinstance(dtype, pd.DatetimeTZDtype) or dtype == _TEXT


def _unwrapped(values: Any) -> Any:
    """Return the values of a pandas array without masks, categories or Arrow storage."""
    if isinstance(values, pd.arrays.NumpyExtensionArray):
        return values.to_numpy()
    if _is_plain(values.dtype):
        return values
    if values.isna().any() or isinstance(values.dtype, pd.PeriodDtype | pd.IntervalDtype):
        return values.astype(object)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _unwrapped(as_ids(values.categories)[values.codes].array)
    return values.astype(_TEXT) if isinstance(values.dtype, pd.StringDtype) else values.to_numpy()


def _inferred(values: np.ndarray, index: pd.Index | None) -> pd.Index:
    """Return objects in the dtype that represents all of them exactly, or unchanged as objects."""
    for dtype in _INFERRED.get(pd.api.types.infer_dtype(values, skipna=False), ()):
        try:
            typed = pd.Index(values if dtype is None else values.astype(dtype))
        except (OverflowError, ValueError):  # too large, or text that is not valid Unicode
            continue
        if (typed.astype(object) == values).all():
            return index if index is not None and index.dtype == typed.dtype else typed
    return pd.Index(np.fromiter(map(_plain, values), object, len(values)), dtype=object)


def _plain(value: Any) -> Any:
    """Convert a NumPy scalar, or those in a tuple, to Python's."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufSU":
        return value.item()
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value
