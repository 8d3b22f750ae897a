"""Ids and when two are the same: the one door through which an id of any type meets another.

Two ids are the same where Python's `==` says so, with two exceptions: True is not 1, and NaN inside a tuple is itself.
So 7.0 is 7, 2.0**53 is not 2**53 + 1, and "7" is neither. pandas compares int64 with uint64 and with float64 as floats
and loses the last digits of large numbers; here a number takes another type only where that type holds it exactly.
"""

from typing import Any

import numpy as np
import pandas as pd

from jaxmf import archive
from jaxmf.data.exact import as_ids, cast, kind_of, kinds_of


def factorize(ids: pd.Index) -> tuple[np.ndarray, pd.Index]:
    """Ids by number.

    Args:
      ids: (n,) plain ids, see `as_ids`.

    Returns:
      (n,) int64, the number of each; and the distinct ids in the order of the numbers: sorted, or in order of
      appearance where they cannot be compared.

    Raises:
      TypeError: ids that are not hashable.

    Cost: O(n); Python's speed for objects.
    """
    if kind_of(ids) != "object":
        codes, unique = pd.factorize(ids, sort=True, use_na_sentinel=False)
        return codes, pd.Index(unique)
    numbers: dict[Any, int] = {}
    codes = np.fromiter((numbers.setdefault(_key(value), len(numbers)) for value in ids), np.int64, len(ids))
    unique = ids[np.unique(codes, return_index=True)[1]]
    try:
        order = sorted(range(len(unique)), key=unique.tolist().__getitem__)
    except TypeError:
        return codes, unique
    return np.argsort(order)[codes], unique[order]


def distinct(ids: pd.Index) -> pd.Index:
    """Plain ids, each once, in order of appearance."""
    return ids[np.sort(np.unique(factorize(ids)[0], return_index=True)[1])]


def repeated(ids: pd.Index) -> list[Any]:
    """Those of plain ids that are there more than once."""
    codes, _ = factorize(ids)
    return distinct(ids[np.bincount(codes)[codes] > 1]).tolist() if len(ids) else []


def match(known: Any, wanted: Any) -> np.ndarray:
    """Where ids are among those that are known.

    Args:
      known: (m,) ids, each once.
      wanted: (n,) ids of any type.

    Returns:
      (n,) int64, the position in `known`; -1 where it is not there.

    Raises:
      TypeError: ids that are not hashable.

    Cost: O(n + m); what pandas knows of an Index `known` is kept from call to call. Python's speed for objects.

    >>> match([7, 2**53 + 1], [7.0, 2.0**53]).tolist(), match([7, 1], ["7", True]).tolist()
    ([0, -1], [-1, -1])
    """
    known, wanted = as_ids(known), as_ids(wanted)
    kinds = kind_of(known), kind_of(wanted)
    if "object" in kinds:
        numbers = {_key(value): number for number, value in enumerate(known)}
        return np.fromiter((numbers.get(_key(value), -1) for value in wanted), np.int64, len(wanted))
    if kinds[0] != kinds[1]:
        return np.full(len(wanted), -1)
    likewise, fits = cast(wanted, known.dtype)
    return np.where(fits, known.get_indexer(likewise), -1)


def same(left: pd.Index, right: pd.Index) -> bool:
    """Whether these are the same ids in the same order."""
    return left is right or (len(left) == len(right) and bool((match(left, right) == np.arange(len(left))).all()))


def joined(known: pd.Index, new: pd.Index) -> pd.Index | None:
    """New ids behind the known ones, in a dtype that holds all exactly; None where the types do not go together.

    Numbers take the type of the known ones, or a wider one of the same sort: integers do not become floats. A mixed
    column takes values of the types that it has already.
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
        (first, first_fits), (second, second_fits) = cast(known, dtype), cast(new, dtype)
        if first_fits.all() and second_fits.all():
            return first.append(second).rename(known.name)
    return None


def type_of(ids: pd.Index) -> str:
    """What messages call the type of these ids: that of the values where they are objects or text."""
    ids = as_ids(ids)
    if kind_of(ids) in ("object", "text"):
        return ", ".join(dict.fromkeys(type(value).__name__ for value in ids)) or "nothing"
    return str(ids.dtype)


def alike(left: pd.Index, right: pd.Index) -> bool:
    """Whether there could be the same id in both, by their types."""
    return bool(kinds_of(as_ids(left)) & kinds_of(as_ids(right)))


def check_storable(ids: pd.Index, name: str) -> None:
    """ValueError, naming the type, where `jaxmf.save` could not write these plain ids: better now than after a fit."""
    arrow = getattr(ids.dtype, "storage", "") == "pyarrow"  # Arrow's text is valid Unicode
    if not arrow and (ids.dtype == object or not isinstance(ids.dtype, np.dtype)):
        archive.pack_column(ids, {}, name)


def _key(value: Any) -> Any:
    """What stands for a plain value in a dict: equal keys are the same id."""
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    if isinstance(value, bool) or (isinstance(value, float) and value != value):
        return type(value), str(value)
    return value


def _candidates(known: Any, new: Any) -> list[Any]:
    """Dtypes that may hold both, the first choice first."""
    if isinstance(known, pd.DatetimeTZDtype):
        return [known, pd.DatetimeTZDtype(new.unit, known.tz)]
    if not isinstance(known, np.dtype) or known.kind not in "iuf":
        return [known, new]
    sort = "f" if known.kind == "f" else "iu"
    return [known, *(dtype for dtype in (new, np.result_type(known, new)) if dtype.kind in sort)]
