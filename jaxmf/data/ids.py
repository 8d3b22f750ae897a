"""Compare ids of any type: everything that decides whether two ids are the same goes through this module.

Two ids are the same where Python's `==` says so, with two exceptions: True is not 1, and NaN inside a tuple is itself.
So 7.0 is 7, 2.0**53 is not 2**53 + 1, and "7" is neither. pandas compares int64 with uint64 and with float64 as floats
and loses the last digits of large numbers; here a number takes another type only if that represents it exactly.
"""

from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.exact import as_ids, cast_ids, kind_of, kinds_of
from jaxmf.files import archive


def factorize(ids: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """Replace ids by indices into the distinct ids.

    Args:
      ids: (n,) plain ids, see `jaxmf.data.exact.as_ids`.

    Returns:
      (n,) int64, the index of each id; and the distinct ids, sorted, or in order of appearance where they cannot be
      compared.

    Raises:
      TypeError: ids that are not hashable.

    Cost: O(n), at Python speed for objects.
    """
    if kind_of(ids) != "object":
        codes, unique = pd.factorize(ids, sort=True, use_na_sentinel=False)
        return codes, pd.Index(unique)
    index: dict[Any, int] = {}
    codes = np.fromiter((index.setdefault(_key(value), len(index)) for value in ids), np.int64, len(ids))
    unique = ids[np.unique(codes, return_index=True)[1]]
    try:
        order = sorted(range(len(unique)), key=unique.tolist().__getitem__)
    except TypeError:
        return codes, unique
    return np.argsort(order)[codes], unique[order]


def distinct(ids: pd.Index) -> pd.Index:
    """Return the distinct plain ids in order of appearance."""
    return ids[np.sort(np.unique(factorize(ids)[0], return_index=True)[1])]


def repeated(ids: pd.Index) -> list[Any]:
    """Return the plain ids that occur more than once, each once."""
    codes, _ = factorize(ids)
    return distinct(ids[np.bincount(codes)[codes] > 1]).tolist() if len(ids) else []


def match(known: Any, wanted: Any) -> np.ndarray:
    """Return the position of each wanted id among the known ids.

    Args:
      known: (m,) distinct ids.
      wanted: (n,) ids of any type.

    Returns:
      (n,) int64, the position in `known`, or -1 for an id that is not in it.

    Raises:
      TypeError: ids that are not hashable.

    Cost: O(n + m), at Python speed for objects. If `known` is an Index, pandas caches its hash table between calls.

    >>> match([7, 2**53 + 1], [7.0, 2.0**53]).tolist(), match([7, 1], ["7", True]).tolist()
    ([0, -1], [-1, -1])
    """
    known, wanted = as_ids(known), as_ids(wanted)
    kinds = kind_of(known), kind_of(wanted)
    if "object" in kinds:
        positions = {_key(value): position for position, value in enumerate(known)}
        return np.fromiter((positions.get(_key(value), -1) for value in wanted), np.int64, len(wanted))
    if kinds[0] != kinds[1]:
        return np.full(len(wanted), -1)
    converted, fits = cast_ids(wanted, known.dtype)
    return np.where(fits, known.get_indexer(converted), -1)


def same(left: pd.Index, right: pd.Index) -> bool:
    """Return whether both hold the same ids in the same order."""
    return left is right or (len(left) == len(right) and bool((match(left, right) == np.arange(len(left))).all()))


def joined(known: pd.Index, new: pd.Index) -> pd.Index | None:
    """Append new ids to the known ones, in a dtype that represents all exactly; None if their types are incompatible.

    Numbers take the type of the known ones, or a wider one of the same sort: integers do not become floats. A mixed
    column accepts only values of the types that it already contains.
    """
    known, new = as_ids(known), as_ids(new)
    if not len(known) or not len(new):
        return (known if len(known) else new).rename(known.name)
    if kind_of(known) == "object":
        mixed = pd.Index([*known, *new], dtype=object, name=known.name)
        return mixed if kinds_of(new) <= kinds_of(known) else None
    if kind_of(known) != kind_of(new):
        return None
    for dtype in _candidates(known.dtype, new.dtype):
        (known_cast, known_fits), (new_cast, new_fits) = cast_ids(known, dtype), cast_ids(new, dtype)
        if known_fits.all() and new_fits.all():
            return known_cast.append(new_cast).rename(known.name)
    return None


def type_of(ids: pd.Index) -> str:
    """Return the name of the ids' type for messages: the dtype, or the types of the values for objects and text."""
    ids = as_ids(ids)
    if kind_of(ids) in ("object", "text"):
        return ", ".join(dict.fromkeys(type(value).__name__ for value in ids)) or "nothing"
    return str(ids.dtype)


def alike(left: pd.Index, right: pd.Index) -> bool:
    """Return whether the types of these ids allow an id of one to equal an id of the other."""
    return bool(kinds_of(as_ids(left)) & kinds_of(as_ids(right)))


def check_storable(ids: pd.Index, name: str) -> None:
    """Raise ValueError, naming the type, if `jaxmf.save` could not write these ids: better now than after a fit."""
    arrow = getattr(ids.dtype, "storage", "") == "pyarrow"  # text in Arrow is always valid Unicode
    if not arrow and (ids.dtype == object or not isinstance(ids.dtype, np.dtype)):
        archive.encode_column(ids, {}, name)


def _key(value: Any) -> Any:
    """Return the dict key of a plain value; two ids are the same if and only if their keys are equal."""
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    if isinstance(value, bool) or (isinstance(value, float) and value != value):
        return type(value), str(value)
    return value


def _candidates(known: Any, new: Any) -> list[Any]:
    """Return the dtypes that may represent both, in order of preference."""
    if isinstance(known, pd.DatetimeTZDtype):
        return [known, pd.DatetimeTZDtype(new.unit, known.tz)]
    if not isinstance(known, np.dtype) or known.kind not in "iuf":
        return [known, new]
    sort = "f" if known.kind == "f" else "iu"
    return [known, *(dtype for dtype in (new, np.result_type(known, new)) if dtype.kind in sort)]
