"""Convert ids written as text, in a file or on a command line, to integers or to known ids."""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed, refuse_rows

IdType: TypeAlias = type[str] | type[int] | pd.Index | None

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")


def ids_of(texts: Sequence[str], kind: IdType) -> tuple[list[Any], np.ndarray]:
    """Convert texts to ids of a type.

    Args:
      texts: (n,) distinct texts.
      kind: `str`, `int`, an index of known ids, or None; see `jaxmf.data.tables.read_table`.

    Returns:
      The ids, and a mask (n,) of the texts that cannot be of this type and stay text.

    Cost: O(n) at Python speed, plus O(ids) for an index of known ids that are neither integers nor text.

    >>> ids_of(["7", "12"], None)[0], ids_of(["7", "007"], None)[0], ids_of(["7", "007"], pd.Index([7]))[0]
    ([7, 12], ['7', '007'], [7, '007'])
    """
    if _is_text(kind):
        return list(texts), np.zeros(len(texts), bool)
    values: list[Any]
    if isinstance(kind, pd.Index) and not pd.api.types.is_integer_dtype(kind.dtype):
        known = {str(value): value for value in kind.tolist()}
        known |= {value: value for value in kind.tolist() if isinstance(value, str)}
        values = [known.get(text) for text in texts]
    else:
        values = _integers(texts)
    bad = np.array([value is None for value in values], bool)
    if kind is None and bad.any():
        return list(texts), bad
    return [text if value is None else value for text, value in zip(texts, values, strict=True)], bad


def retyped(ids: pd.Series, kind: IdType, name: str) -> pd.Series:
    """Convert a column of ids to the requested type, integers to text or text to integers; leave other types alone.

    Raises:
      ValueError: `kind` is str or int, and the column, or the text in some row, cannot be converted exactly.
    """
    sort = pd.api.types.infer_dtype(ids, skipna=True)
    if sort == "integer" and not _is_text(kind):
        return ids
    if sort == "integer":
        return ids.astype(object).map(str, na_action="ignore").astype(str if ids.notna().all() else object)
    if sort == "string" and not _is_text(kind):
        return _read(ids, kind, name)
    if sort not in ("string", "empty") and (kind is int or kind is str):
        raise ValueError(
            f"column {listed([ids.name])} ({name}) has dtype {ids.dtype}, which has no exact meaning as "
            f"{kind.__name__}: convert it in the table, or leave its type open"
        )
    return ids


def _read(ids: pd.Series, kind: IdType, name: str) -> pd.Series:
    """Convert a column of text by its distinct texts; missing ids stay missing."""
    codes, unique = pd.factorize(ids)
    texts = [str(text) for text in unique]
    converted, bad = ids_of(texts, kind)
    if kind is int and bad.any():
        wrong = listed([text for text, is_bad in zip(texts, bad, strict=True) if is_bad])
        remedy = "correct these rows, or keep all ids as text with ids=str"
        refuse_rows(np.append(bad, False)[codes], ids, name, f"an id that is not a plain integer ({wrong})", remedy)
    if all(isinstance(value, str) for value in converted):
        return ids
    values, has_missing = _array(converted), bool((codes < 0).any())
    gathered = pd.api.extensions.take(
        pd.array(values) if has_missing and values.dtype != object else values, codes, allow_fill=has_missing
    )
    return pd.Series(gathered, ids.index, name=ids.name)


def _is_text(kind: IdType) -> bool:
    return kind is str or (isinstance(kind, pd.Index) and pd.api.types.infer_dtype(kind) == "string")


def _integers(texts: Sequence[str]) -> list[int | None]:
    """Return each text as a 64-bit integer, or None for a text that is not an integer as Python writes it."""
    numbers = [int(text) if _INTEGER.fullmatch(text) else 0 for text in texts]
    end = 2**64 if min(numbers, default=0) >= 0 else 2**63  # all fit in uint64, or all in int64
    return [n if -(2**63) <= n < end and str(n) == text else None for n, text in zip(numbers, texts, strict=True)]


def _array(ids: list[Any]) -> np.ndarray:
    """Return integers as int64, or as uint64 if they need it, and all other ids as objects."""
    if all(isinstance(value, int) and not isinstance(value, bool) for value in ids):
        return np.array(ids, np.int64 if max(ids) < 2**63 else np.uint64)
    values = np.empty(len(ids), object)
    values[:] = ids
    return values
