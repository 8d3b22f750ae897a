"""Checks of arguments, columns, ids and arrays on their way in; each message says what, where and what to do."""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from jaxmf.data.ids import alike, as_ids, check_storable, distinct, factorize, match, repeated, type_of

_SHOWN = 5  # how many offending rows or ids a message lists
_LONG = 60  # characters of a value that a message shows


def expect(value: Any, kind: type, name: str, remedy: str) -> None:
    """ValueError, with what to do, unless `value`, the argument that messages call `name`, is of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, not {type(value).__name__}: {remedy}")


def is_positive_integer(value: Any) -> bool:
    """Whether `value` is 1, 2, ..., of Python or NumPy; True is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def is_positive(value: Any) -> bool:
    """Whether `value` is one number above 0, of Python or NumPy."""
    return isinstance(value, Real) and float(value) > 0


def check_clip(clip: Any) -> None:
    """ValueError unless `clip` is None or a pair of numbers (low, high) in that order."""
    numbers = isinstance(clip, list | tuple) and len(clip) == 2 and all(isinstance(bound, Real) for bound in clip)
    if clip is not None and not (numbers and clip[0] < clip[1]):
        raise ValueError(f"clip must be (low, high) with low < high, such as (1, 5), or None, not {clip!r}")


def generator(seed: int) -> np.random.Generator:
    """NumPy's generator of this seed."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {seed!r:.50}: only what runs in JAX takes a key")
    return np.random.default_rng(seed)


def short(value: Any) -> str:
    """A value for a message, which is cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def listed(labels: Iterable[Any], shown: int = _SHOWN) -> str:
    """The first few labels for a message, none of them at length."""
    labels = list(labels)
    return ", ".join(map(short, labels[:shown])) + (", ..." if len(labels) > shown else "")


def refuse_rows(bad: np.ndarray, values: pd.Series, column: str, problem: str, remedy: str) -> None:
    """Raise if any row is bad, naming the column, the first rows by their labels, and how many there are."""
    if bad.any():
        what = short(values.name) if values.name == column else f"{short(values.name)} ({column})"
        rows = listed(values.index[bad].tolist())
        # Tables from files are indexed by the lines that their rows come from.
        at = "line" if values.index.name == "line" else "index"
        raise ValueError(f"column {what}: {problem} in {bad.sum()} row(s), at {at} {rows}; {remedy}")


def array_column(values: Any, name: str) -> pd.Series:
    """One argument of `from_arrays` as a column, numbered from 0."""
    if name in ("user", "item") and isinstance(values, list | tuple):
        return pd.Series(values, name=name, dtype=object)  # pandas would make one float of 2**53 and 2**53 + 1
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    if isinstance(values, (pd.Series, pd.Index)):
        values = values.array  # by position: labels must not align
    elif not isinstance(values, (list, tuple, pd.api.extensions.ExtensionArray)):
        values = np.asanyarray(values)  # a list stays one: of tuples, NumPy would make a table
        if values.ndim != 1:
            raise ValueError(
                f"{name} has shape {values.shape}; expected one dimension, one entry per rating: use .ravel(), or "
                "Dataset.from_scipy for a matrix"
            )
    return pd.Series(values, name=name, copy=True)  # the caller's array may change later


def equal_lengths(columns: Iterable[pd.Series]) -> None:
    """Raise unless all columns have the same length, and one that is not 0."""
    lengths = {str(column.name): len(column) for column in columns}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"arrays of different lengths: {found}; expected one entry per rating in each")
    if not any(lengths.values()):
        raise ValueError("the arrays are empty; expected one entry per rating")


def matrix_entries(matrix: Any) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Row, column and value of every stored entry of a scipy.sparse matrix; the values are labeled (row, column)."""
    if not sparse.issparse(matrix):
        raise ValueError(
            f"expected a scipy.sparse matrix or array, got {type(matrix).__name__}. Where 0 means unrated: "
            "scipy.sparse.coo_array(matrix); else list the ratings with Dataset.from_arrays"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"the matrix has shape {matrix.shape}; expected two dimensions, users x items: reshape it")
    if matrix.format == "dia":  # SciPy's own conversion drops zeros
        column = np.arange(matrix.data.shape[1]) + 0 * matrix.offsets[:, None]
        row = column - matrix.offsets[:, None]
        stored = (row >= 0) & (row < matrix.shape[0]) & (column < matrix.shape[1])
        row, column, value = row[stored], column[stored], matrix.data[stored]
    else:
        entries = matrix.tocoo(copy=False)
        row, column, value = entries.row, entries.col, entries.data
    if len(value) == 0:
        raise ValueError(
            f"the matrix of shape {matrix.shape} has no stored entries; expected one per rating (a 0 that is stored "
            "is a rating)"
        )
    levels: Any = [pd.RangeIndex(size) for size in matrix.shape]
    codes: Any = [row, column]
    cells = pd.MultiIndex(levels, codes, verify_integrity=False)
    values = pd.Series(value, index=cells, name="rating", copy=True)  # the matrix may change later
    return row.astype(np.int32), column.astype(np.int32), values


def given_ids(ids: Iterable[Any] | None, count: int, column: str, axis: str) -> pd.Index:
    """The caller's ids of a matrix' rows or columns, in that order, or 0 .. count - 1."""
    if ids is None:
        return pd.RangeIndex(count, name=column)
    try:
        index = as_ids(ids).rename(column).copy(deep=True)  # the caller's array may change later
        again = repeated(index)
    except TypeError as error:
        raise ValueError(f"{column}s: ids must be hashable, such as numbers, strings or tuples") from error
    if len(index) != count:
        raise ValueError(f"{column}s: {len(index)} id(s) for {count} {axis}s of the matrix; expected one per {axis}")
    missing = np.flatnonzero(index.isna())
    if len(missing):
        raise ValueError(
            f"{column}s: missing id in {len(missing)} place(s), at index {listed(missing.tolist())}; expected an id "
            f"for every {axis}: fill these or drop the {axis}s"
        )
    if again:
        raise ValueError(
            f"{column}s: {len(again)} id(s) repeated: {listed(again)}; expected another for each "
            f"{axis}: number them, or merge these {axis}s"
        )
    check_storable(index, f"{column}s")
    return index


def number_ids(ids: pd.Series, column: str, remedy: str) -> tuple[np.ndarray, pd.Index]:
    """Each row's id as a number, and the ids in the order of the numbers; `remedy` is for rows without an id."""
    remedy = f"every rating needs an id: {remedy}"
    refuse_rows(ids.isna().to_numpy(), ids, column, "missing id", remedy)
    try:
        plain = as_ids(ids)
        refuse_rows(plain.isna(), ids, column, "missing id", remedy)  # NaN in a column of Arrow is not its gap
        codes, unique = factorize(plain)
    except TypeError as error:
        raise ValueError(
            f"column {short(ids.name)}: ids must be hashable, such as numbers, strings or tuples"
        ) from error
    check_storable(unique, f"column {short(ids.name)}")
    return codes.astype(np.int32), unique.rename(column)


def finite_ratings(values: pd.Series, remedy: str = "drop these rows or correct them") -> np.ndarray:
    """Ratings as float64; `remedy` is for rows without one."""
    inferred = values.infer_objects()
    if not pd.api.types.is_any_real_numeric_dtype(inferred.dtype):
        raise ValueError(
            f"column {short(values.name)} (rating) has dtype {values.dtype}, starting with {listed(values.head(2))}; "
            "expected numbers: convert it, for example with pandas.to_numeric or astype(float)"
        )
    rating = inferred.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isnan(rating).any():
        remedy = "correct these rows"  # an infinite rating is not missing
    remedy = f"expected finite numbers (0 is a rating): {remedy}"
    refuse_rows(~np.isfinite(rating), values, "rating", "NaN or infinite rating", remedy)
    return rating


def align_items(items: pd.DataFrame, item_ids: pd.Index, columns: Mapping[str, str]) -> pd.DataFrame:
    """Metadata in the order of item_ids."""
    expect(items, pd.DataFrame, "items", "expected a table of metadata with a column item_id, one row per item")
    own_name = next((column for column in items.columns if columns.get(column, column) == "item_id"), None)
    if own_name is not None:
        items = items.set_index(own_name)
    index = as_ids(items.index)
    if again := repeated(index):
        raise ValueError(f"items: more than one row for item {listed(again)}; expected one: use drop_duplicates")
    row = match(index, item_ids)
    if (row < 0).any():
        missing = item_ids[row < 0]
        raise ValueError(
            f"items: no row for {len(missing)} rated item(s): {listed(missing.tolist())}{_types(index, missing)}; "
            "index the table by item id and add these rows, for example with items.reindex(frame[...].unique())"
        )
    return items.iloc[row].set_axis(item_ids)


def lookup(known: pd.Index, ids: Iterable[Any], kind: str) -> np.ndarray:
    """Positions of ids in the index of known ids."""
    if not pd.api.types.is_list_like(ids):
        raise ValueError(f"expected a list of {kind} ids, got {short(ids)}; for one {kind} pass [{short(ids)}]")
    try:
        wanted = as_ids(ids)
        index = match(known, wanted)
        unknown = distinct(wanted[index < 0])
    except TypeError as error:
        raise ValueError(f"{kind} ids must be hashable, as those of {kind}_ids: numbers, strings or tuples") from error
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} unknown {kind} id(s): {listed(unknown.tolist())}; known ids are like "
            f"{listed(known[:3].tolist())} ({kind}_ids){_types(known, unknown)}. Drop them, or check their type"
        )
    return index.astype(np.int32)


def _types(known: pd.Index, others: pd.Index) -> str:
    """What to say of two sorts of ids of which none can be the same."""
    return "" if alike(known, others) else f", of the type {type_of(known)}, and these of the type {type_of(others)}"
