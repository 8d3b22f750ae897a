"""Write arrays and a header to one file: a zip of .npy members and a readable header.json, without pickle."""

import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import UUID

import jax
import numpy as np
import pandas as pd

from jaxmf.files import output

Arrays = dict[str, Any]  # NumPy arrays by name; `to_jax` replaces them by JAX arrays


def _decimal(text: str) -> Decimal:
    """Parse a Decimal; raise ValueError for other text."""
    try:
        return Decimal(text)
    except ArithmeticError as error:
        raise ValueError(f"{text!r:.50} is not a decimal number: the file was changed") from error


FORMAT, VERSION = "jaxmf.fit", 1  # the format that `save` writes; other kinds of files have their own name

HEADER = "header.json"
_LEVEL = 1  # deflate level: faster than the default, and ids and ratings become hardly larger
_PLAIN = "biufcMm"  # kinds of dtype that a column stores unchanged: numbers, dates, durations
_PLAIN_DTYPE = re.compile(r"[<>|]([biufc][0-9]{1,2}|[mM]8(\[[0-9]{0,6}[a-zA-Z]{1,7}\])?)")
_NARROW_DTYPE = re.compile(r"(bfloat|float|int|uint)[0-9]{1,2}(_[a-z0-9]{1,12})?")  # the dtypes of ml_dtypes
_SPARSE = ("csr_array", "csr_matrix", "csc_array", "csc_matrix")
_SAMPLE = 1 << 16  # bytes; an array is compressed only if its first bytes shrink to less than half; factors do not
_AS_TEXT: dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]] = {  # types JSON lacks: to text and back
    bytes: (bytes.hex, bytes.fromhex),
    Decimal: (str, _decimal),
    UUID: (str, UUID),
    date: (date.isoformat, date.fromisoformat),
}


def write(path: Path, header: dict[str, Any], arrays: Arrays, form: str = FORMAT, durable: bool = False) -> None:
    """Write a header and arrays to one file, atomically, for `members.read`. `numpy.load(path)` opens it too.

    Args:
      path: the file; its folder is created if it does not exist.
      header: JSON, to which format, versions, and the arrays' dtypes and shapes are added.
      arrays: arrays by name, as added by `put`.
      form: name of the format, which `members.read` must be given.
      durable: wait, some milliseconds, until the file is on disk: even a power cut leaves the old file or the new one.

    Raises:
      OSError: from the file system.
    """
    versions = {"format": form, "version": VERSION, "jaxmf": metadata.version("jaxmf")}
    shapes = {name: " ".join(map(str, (dtype_name(array.dtype), *array.shape))) for name, array in arrays.items()}
    header = versions | header | {"arrays": shapes}
    text = json.dumps(header, indent=2, ensure_ascii=False)
    output.write(path, lambda temporary: _write(temporary, text, arrays, durable))


def _write(path: Path, header: str, arrays: Arrays, durable: bool) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_member(HEADER, compress=True), header.encode(), compresslevel=_LEVEL)
        for name, array in arrays.items():
            member = _member(f"{name}.npy", compress=_shrinks(array))
            with archive.open(member, "w", force_zip64=True) as file:
                content = np.asarray(array, order="C").view(stored(array.dtype))  # row-major, whatever the layout
                np.lib.format.write_array(file, content, allow_pickle=False)
    if durable:
        with open(path, "rb+") as written:
            os.fsync(written.fileno())


def put(arrays: Arrays | None, name: str, array: Any) -> str:
    """Add an array under `name`, made fit for a file and unique; return the name used."""
    if isinstance(array, jax.Array) and jax.numpy.issubdtype(array.dtype, jax.dtypes.extended):
        raise ValueError(
            f"{name} has dtype {array.dtype}, which no file can hold: keep jax.random.key_data of a key instead"
        )
    array = np.asarray(array)
    try:
        if arrays is None or named_dtype(dtype_name(array.dtype)) != array.dtype:
            raise ValueError("it would not be read back unchanged")
    except ValueError as error:
        raise ValueError(
            f"{name} is an array of {array.dtype}, which cannot be stored without pickle: use plain numbers"
        ) from error
    name = re.sub(r"[^\w.-]+", "_", name)
    while name in arrays:
        name += "_"
    arrays[name] = array
    return name


def by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by key path, in the order of the tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def encode(value: Any, arrays: Arrays | None, name: str) -> Any:
    """Return a value as JSON, with its arrays moved to `arrays`; `decode` restores the same value and types.

    Args:
      value: None, pd.NA, bools, numbers, strings, bytes, dates, decimals, UUIDs, NumPy scalars, and lists, tuples and
        string-keyed dicts of these; with `arrays` also NumPy and JAX arrays and SciPy's CSR and CSC matrices.
      arrays: receives the arrays; None refuses arrays.
      name: name of the value in messages and members.

    Raises:
      ValueError: the value holds anything else; the message says where it is and its type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [encode(x, arrays, name) for x in value]
    if kind is tuple:
        return {"tuple": [encode(x, arrays, name) for x in value]}
    if kind in _AS_TEXT:
        to_text, _ = _AS_TEXT[kind]
        return {kind.__name__: to_text(value)}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: encode(x, arrays, f"{name}.{key}") for key, x in value.items()}}
    if value is pd.NA:
        return {"missing": "NA"}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return {"scalar": encode(value.item(), None, name), "dtype": value.dtype.str}
    if isinstance(value, jax.Array):
        return {"jax": put(arrays, name, value)}
    if kind is np.ndarray:
        return {"numpy": put(arrays, name, value)}
    if getattr(value, "format", None) in ("csr", "csc") and kind.__module__.startswith("scipy.sparse"):
        parts = [put(arrays, f"{name}.{part}", getattr(value, part)) for part in ("data", "indices", "indptr")]
        return {"sparse": kind.__name__, "shape": list(value.shape), "parts": parts}
    raise ValueError(
        f"{name} holds a {kind.__module__}.{kind.__qualname__}, which cannot be stored without pickle: convert it to "
        "numbers, strings or arrays"
    )


def decode(packed: Any, arrays: Arrays) -> Any:
    """Restore the value that `encode` returned as JSON."""
    if isinstance(packed, list):
        return [decode(x, arrays) for x in packed]
    if not isinstance(packed, dict):
        return packed
    kind, content = next(iter(packed.items()))
    for text_type, (_, from_text) in _AS_TEXT.items():
        if kind == text_type.__name__:
            return from_text(content)
    match kind:
        case "float" if content in ("nan", "inf", "-inf"):
            return float(content)
        case "tuple":
            return tuple(decode(x, arrays) for x in content)
        case "dict":
            return {key: decode(x, arrays) for key, x in content.items()}
        case "missing":
            return pd.NA
        case "scalar":
            return named_dtype(packed["dtype"]).type(decode(content, arrays))
        case "jax":
            return to_jax(arrays, content)
        case "numpy":
            return np.asarray(arrays[content])
        case "sparse":
            return _sparse(content, [arrays[part] for part in packed["parts"]], tuple(packed["shape"]))
    raise KeyError(kind)


def _sparse(name: str, parts: list[np.ndarray], shape: tuple[int, ...]) -> Any:
    import scipy.sparse

    if name not in _SPARSE:
        raise ValueError(f"{name!r:.40} is none of {', '.join(_SPARSE)}: the file was changed")
    matrix = getattr(scipy.sparse, name)(tuple(parts), shape)
    matrix.check_format(full_check=True)  # raises unless indices are in range and pointers never decrease
    return matrix


def to_jax(arrays: Arrays, name: str) -> jax.Array:
    """Return an array of a file on the default device; raise ValueError, naming it, if JAX would narrow its dtype.

    The device array replaces the host array in `arrays`, so that an array shared by several trees is held once.
    """
    array = arrays[name]
    on_device = jax.numpy.asarray(array)
    if on_device.dtype != array.dtype:
        raise ValueError(
            f"{name} is {array.dtype}, which JAX converts to {on_device.dtype} while 64-bit types are disabled: load "
            "it under `with jax.enable_x64(True):`, or after jax.config.update('jax_enable_x64', True)"
        )
    arrays[name] = on_device
    return on_device


def encode_column(values: pd.Series | pd.Index, arrays: Arrays, name: str) -> dict[str, str]:
    """Return a column as JSON, with numbers and dates in an array, all else as JSON text in an array of bytes.

    Raises:
      ValueError: the values could not be restored exactly; the message names the column and their type.

    Cost: O(n). Objects are encoded, decoded and encoded again, to verify that they can be restored.
    """
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in _PLAIN:
        return {"dtype": dtype.str, "values": put(arrays, name, values.to_numpy())}
    if isinstance(dtype, pd.DatetimeTZDtype):
        if _find_dtype(str(dtype)) != dtype:
            raise ValueError(
                f"{name} has dtype {dtype}, whose time zone has no standard name: convert it, for example with "
                "dt.tz_convert('Europe/Berlin') or to UTC"
            )
        utc = pd.Series(values).dt.tz_convert(None)
        return {"dtype": str(dtype), "values": put(arrays, name, utc.to_numpy())}
    text = _text(values, name)
    packed = {"dtype": str(dtype), "values": put(arrays, name, np.frombuffer(text, np.uint8))}
    if isinstance(dtype, pd.StringDtype) and _find_dtype(str(dtype)) == dtype:
        return packed
    try:
        restored = decode_column(packed, arrays)
    except TypeError:
        restored = None
    if restored is None or restored.dtype != dtype or _text(restored, name) != text:
        raise ValueError(f"{name} has dtype {dtype}, which cannot be stored exactly: convert it with astype(object)")
    return packed


def decode_column(packed: dict[str, str], arrays: Arrays) -> pd.Series:
    """Restore the column that `encode_column` returned as JSON."""
    dtype, values = pd.api.types.pandas_dtype(packed["dtype"]), np.asarray(arrays[packed["values"]])
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pd.Series(pd.DatetimeIndex(values).tz_localize("UTC").tz_convert(dtype.tz))
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        if dtype.kind not in _PLAIN or dtype != values.dtype:
            raise ValueError(f"a column of {dtype} is stored as {values.dtype}: the file was changed")
        return pd.Series(values)
    return pd.Series(decode(json.loads(values.tobytes().decode()), {}), dtype=dtype)


def _find_dtype(name: str) -> Any:
    """Return pandas' dtype of that name, or None if there is none."""
    try:
        return pd.api.types.pandas_dtype(name)
    except TypeError:
        return None


def _text(values: pd.Series | pd.Index, name: str) -> bytes:
    """Return values as JSON text; raise ValueError, naming the column, if one cannot be encoded."""
    try:
        return json.dumps(encode(values.tolist(), None, name), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds a string that is not valid Unicode: {error.object[:20]!r}") from error


def _member(name: str, compress: bool) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # has a fixed date, so that equal content gives equal bytes
    member.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    return member


def _shrinks(array: np.ndarray) -> bool:
    sample = array.ravel()[: _SAMPLE // max(1, array.itemsize)].tobytes()
    return len(zlib.compress(sample, _LEVEL)) < 0.5 * len(sample)


def stored(dtype: np.dtype) -> np.dtype:
    """Return the dtype in the file: bfloat16 and the like, unknown to NumPy's format, are stored as integer bits."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def dtype_name(dtype: np.dtype) -> str:
    """Return the name of a dtype in a header."""
    return dtype.name if dtype.kind == "V" else dtype.str


def named_dtype(name: str) -> np.dtype:
    """Return the dtype of that name; raise ValueError unless it is a small dtype of numbers, dates or durations."""
    if _PLAIN_DTYPE.fullmatch(name) or _NARROW_DTYPE.fullmatch(name):
        try:
            dtype = np.dtype(name)
        except TypeError:
            dtype = None
        if dtype is not None and (dtype.kind in _PLAIN or (dtype.kind == "V" and dtype.itemsize <= 2)):
            return dtype
    raise ValueError(f"{name:.80} is not a dtype of plain numbers")
