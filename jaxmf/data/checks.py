"""Validate arguments, columns, ids and arrays; each error says what is wrong, where, and what to do about it."""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from jaxmf.data.exact import as_ids
from jaxmf.data.ids import alike, check_storable, distinct, factorize, match, repeated, type_of

_MAX_SHOWN = 5  # offending rows or ids that a message lists
_MAX_CHARACTERS = 60  # characters of a value that a message shows


def expect(value: Any, kind: type, name: str, remedy: str) -> None:
    """Raise ValueError, with the remedy, unless `value`, which messages call `name`, is an instance of `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, not {type(value).__name__}: {remedy}")


def is_positive_integer(value: Any) -> bool:
    """Return whether `value` is 1, 2, ..., a Python or NumPy integer; True does not count."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def is_positive(value: Any) -> bool:
    """Return whether `value` is a single number above 0, from Python or NumPy."""
    return isinstance(value, Real) and float(value) > 0


def is_finite_number(value: Any) -> bool:
    """Return whether `value` is a single finite number, from Python or NumPy; True does not count."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def check_clip(clip: Any) -> None:
    """Raise ValueError unless `clip` is None or a pair of numbers (low, high) with low < high."""
    is_pair = isinstance(clip, list | tuple) and len(clip) == 2 and all(isinstance(bound, Real) for bound in clip)
    if clip is not None and not (is_pair and clip[0] < clip[1]):
        raise ValueError(f"clip must be (low, high) with low < high, such as (1, 5), or None, not {clip!r}")


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's random generator with this seed; raise ValueError unless `seed` is an integer of at least 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(
            f"seed must be an integer of at least 0, not {seed!r:.50}: only functions that run in JAX take a key"
        )
    return np.random.default_rng(seed)


def short(value: Any) -> str:
    """Return the repr of a value for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


def listed(labels: Iterable[Any], shown: int = _MAX_SHOWN) -> str:
    """Return the first few labels for a message, each truncated if it is long."""
    labels = list(labels)
    return ", ".join(map(short, labels[:shown])) + (", ..." if len(labels) > shown else "")


def refuse_rows(bad: np.ndarray, values: pd.Series, column: str, problem: str, remedy: str) -> None:
    """Raise ValueError if any row is bad, with the column, the labels of the first bad rows, and their count."""
    if bad.any():
        name = short(values.name) if values.name == column else f"{short(values.name)} ({column})"
        labels = listed(values.index[bad].tolist())
        # Tables from files are indexed by the lines that their rows come from.
        unit = "line" if values.index.name == "line" else "index"
        raise ValueError(f"column {name}: {problem} in {bad.sum()} row(s), at {unit} {labels}; {remedy}")


def array_column(values: Any, name: str) -> pd.Series:
    """Return one argument of `from_arrays` as a column, indexed from 0."""
    if name in ("user", "item") and isinstance(values, list | tuple):
        return pd.Series(values, name=name, dtype=object)  # pandas may merge 2**53 and 2**53 + 1 into one float
    if isinstance(values, pd.MultiIndex):
        values = values.to_flat_index()
    if isinstance(values, (pd.Series, pd.Index)):
        values = values.array  # columns match by position, so labels must not align
    elif not isinstance(values, (list, tuple, pd.api.extensions.ExtensionArray)):
        values = np.asanyarray(values)  # but not a list: NumPy turns a list of tuples into a two-dimensional array
        if values.ndim != 1:
            raise ValueError(
                f"{name} has shape {values.shape}; expected one dimension, one entry per rating: use .ravel(), or "
                "Dataset.from_scipy for a matrix"
            )
    return pd.Series(values, name=name, copy=True)  # the caller's array may change later


def equal_lengths(columns: Iterable[pd.Series]) -> None:
    """Raise ValueError unless all columns have the same length, and that is not 0."""
    lengths = {str(column.name): len(column) for column in columns}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"arrays of different lengths: {text}; expected one entry per rating in each")
    if not any(lengths.values()):
        raise ValueError("the arrays are empty; expected one entry per rating")


def matrix_entries(matrix: Any, name: str = "rating") -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Return the row, column and value of each stored entry of a scipy.sparse matrix, values indexed (row, column).

    `name` is what the entries are, "rating" or "weight".
    """
    if not sparse.issparse(matrix):
        raise ValueError(
            f"expected a scipy.sparse matrix or array, got {type(matrix).__name__}. If 0 means unrated, pass "
            "scipy.sparse.coo_array(matrix); otherwise list the ratings with Dataset.from_arrays"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"the matrix has shape {matrix.shape}; expected two dimensions, users x items: reshape it")
    if matrix.format == "dia":  # SciPy's conversion would drop stored zeros
        column = np.arange(matrix.data.shape[1]) + 0 * matrix.offsets[:, None]
        row = column - matrix.offsets[:, None]
        stored = (row >= 0) & (row < matrix.shape[0]) & (column < matrix.shape[1])
        row, column, value = row[stored], column[stored], matrix.data[stored]
    else:
        entries = matrix.tocoo(copy=False)
        row, column, value = entries.row, entries.col, entries.data
    if len(value) == 0:
        raise ValueError(
            f"the matrix of shape {matrix.shape} has no stored entries; expected one per {name}"
            f"{' (a stored 0 is a rating)' if name == 'rating' else ''}"
        )
    levels: Any = [pd.RangeIndex(size) for size in matrix.shape]
    codes: Any = [row, column]
    cells = pd.MultiIndex(levels, codes, verify_integrity=False)
    values = pd.Series(value, index=cells, name=name, copy=True)  # the matrix may change later
    return row.astype(np.int32), column.astype(np.int32), values


def given_ids(ids: Iterable[Any] | None, count: int, column: str, axis: str) -> pd.Index:
    """Return the caller's ids of a matrix's rows or columns, checked, or 0 .. count - 1 if `ids` is None."""
    if ids is None:
        return pd.RangeIndex(count, name=column)
    try:
        index = as_ids(ids).rename(column).copy(deep=True)  # the caller's array may change later
        repeated_ids = repeated(index)
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
    if repeated_ids:
        raise ValueError(
            f"{column}s: {len(repeated_ids)} id(s) repeated: {listed(repeated_ids)}; expected a different id for each "
            f"{axis}: number them, or merge these {axis}s"
        )
    check_storable(index, f"{column}s")
    return index


def number_ids(ids: pd.Series, column: str, remedy: str) -> tuple[np.ndarray, pd.Index]:
    """Return the index (int32) of each row's id, and the distinct ids by index; `remedy` is for rows without an id."""
    remedy = f"every rating needs an id: {remedy}"
    refuse_rows(ids.isna().to_numpy(), ids, column, "missing id", remedy)
    try:
        plain = as_ids(ids)
        refuse_rows(plain.isna(), ids, column, "missing id", remedy)  # an Arrow column may hold NaN that is not null
        codes, unique = factorize(plain)
    except TypeError as error:
        raise ValueError(
            f"column {short(ids.name)}: ids must be hashable, such as numbers, strings or tuples"
        ) from error
    check_storable(unique, f"column {short(ids.name)}")
    return codes.astype(np.int32), unique.rename(column)


def finite_ratings(values: pd.Series, remedy: str = "drop these rows or correct them") -> np.ndarray:
    """Return the ratings as float64; `remedy` is for rows without one."""
    rating = as_numbers(values, "rating")
    if not np.isnan(rating).any():
        remedy = "correct these rows"  # an infinite rating is not missing
    remedy = f"expected finite numbers (0 is a rating): {remedy}"
    refuse_rows(~np.isfinite(rating), values, "rating", "NaN or infinite rating", remedy)
    return rating


def as_numbers(values: pd.Series, column: str) -> np.ndarray:
    """Return a column, which we call `column`, as float64, with NaN for missing values."""
    inferred = values.infer_objects()
    if not pd.api.types.is_any_real_numeric_dtype(inferred.dtype):
        raise ValueError(
            f"column {short(values.name)} ({column}) has dtype {values.dtype}, starting with {listed(values.head(2))}; "
            "expected numbers: convert it, for example with pandas.to_numeric or astype(float)"
        )
    numbers: np.ndarray = inferred.to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers


def align_items(items: pd.DataFrame, item_ids: pd.Index, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of item metadata in the order of `item_ids`."""
    expect(items, pd.DataFrame, "items", "expected a table of metadata with a column item_id, one row per item")
    id_column = next((column for column in items.columns if columns.get(column, column) == "item_id"), None)
    if id_column is not None:
        items = items.set_index(id_column)
    index = as_ids(items.index)
    if repeated_ids := repeated(index):
        raise ValueError(f"items: more than one row for item {listed(repeated_ids)}; expected one: use drop_duplicates")
    row = match(index, item_ids)
    if (row < 0).any():
        missing = item_ids[row < 0]
        raise ValueError(
            f"items: no row for {len(missing)} rated item(s): {listed(missing.tolist())}{_types(index, missing)}; "
            "index the table by item id and add these rows, for example with items.reindex(frame[...].unique())"
        )
    return items.iloc[row].set_axis(item_ids)


def lookup(known: pd.Index, ids: Iterable[Any], kind: str) -> np.ndarray:
    """Return the positions (int32) of `ids` in the index of known ids; raise ValueError if any is unknown."""
    if not pd.api.types.is_list_like(ids):
        raise ValueError(f"expected a list of {kind} ids, got {short(ids)}; for one {kind} pass [{short(ids)}]")
    try:
        wanted = as_ids(ids)
        index = match(known, wanted)
        unknown = distinct(wanted[index < 0])
    except TypeError as error:
        raise ValueError(
            f"{kind} ids must be hashable, like those in {kind}_ids: numbers, strings or tuples"
        ) from error
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} unknown {kind} id(s): {listed(unknown.tolist())}; known ids are like "
            f"{listed(known[:3].tolist())} ({kind}_ids){_types(known, unknown)}. Drop them, or check their type"
        )
    return index.astype(np.int32)


def _types(known: pd.Index, unknown: pd.Index) -> str:
    """Return the part of a message that names both types, if no id of one type can equal an id of the other."""
    return "" if alike(known, unknown) else f", of type {type_of(known)}, and these of type {type_of(unknown)}"
