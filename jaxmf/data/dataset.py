"""`Dataset`: ratings in the caller's world, with the ids they came with."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.ratings import Ratings

_SHOWN = 5  # how many offending rows or ids a message lists


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Observed ratings on the host, with the caller's ids and item metadata. Not a pytree: see `ratings`.

    Rows of models and arrays are numbered 0 .. num_users - 1 and 0 .. num_items - 1. From id to number:
    `data.user_index(ids)`, `data.item_index(ids)`; from number to id: `data.user_ids[index]`, `data.item_ids[index]`.

    Attributes:
      user_ids: (num_users,) ids of the users, in the order of their numbers.
      item_ids: (num_items,) ids of the items, in the order of their numbers.
      user: (n,) int32, number of each observation's user.
      item: (n,) int32, number of each observation's item.
      rating: (n,) float64. A rating of 0 is data.
      timestamp: (n,) int64 seconds, or None.
      items: item metadata such as title, genres and tags, one row per entry of item_ids in that order, or None.
      name: what figures and manifests call this data.
    """

    user_ids: pd.Index
    item_ids: pd.Index
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray | None = None
    items: pd.DataFrame | None = None
    name: str = "data"

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        columns: Mapping[str, str] | None = None,
        items: pd.DataFrame | None = None,
        name: str = "frame",
    ) -> "Dataset":
        """A Dataset from a DataFrame with columns user_id, item_id, rating and, if it has one, timestamp.

        Args:
          frame: one row per observation; any index, further columns are ignored.
          columns: the caller's column names, as in `{"userId": "user_id"}`.
          items: item metadata, with a column item_id (or its name in `columns`) or indexed by item id; rows of items
            without a rating are dropped.
          name: what figures and manifests call this data.

        Returns:
          A Dataset whose ids are sorted, or in order of appearance where they cannot be compared.

        Raises:
          ValueError: a missing column; an empty table; a missing id; a rating that is not a finite number; a timestamp
            that is neither a number of seconds nor a date; an item rated twice by one user; an item without metadata.

        Cost: time O(n log n), memory O(n).

        >>> frame = pd.DataFrame({"who": ["b", "a"], "item_id": [10, 20], "rating": [3.0, 0.0]})
        >>> data = Dataset.from_frame(frame, columns={"who": "user_id"})
        >>> data.user_ids.tolist(), data.user.tolist(), data.item_ids[data.item].tolist()
        (['a', 'b'], [1, 0], [10, 20])
        """
        source = _source_columns(frame, columns)
        if len(frame) == 0:
            raise ValueError("the table has no rows; expected one row per rating")
        user, user_ids = _number_ids(frame[source["user_id"]], "user_id")
        item, item_ids = _number_ids(frame[source["item_id"]], "item_id")
        rating = _finite_ratings(frame[source["rating"]])
        timestamp = _seconds(frame[source["timestamp"]]) if "timestamp" in source else None
        _refuse_duplicates(frame.index, user, item, user_ids, item_ids, source)
        if items is not None:
            items = _align_items(items, item_ids, columns or {})
        return cls(user_ids, item_ids, user, item, rating, timestamp, items, name)

    @classmethod
    def from_csv(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> "Dataset":
        """A Dataset from a CSV file with a header line (CRLF or LF); arguments and errors as in `from_frame`.

        Args:
          path: the file, also compressed as pandas can read it; its stem becomes the name.
          columns: the file's column names, as in `{"userId": "user_id"}`.

        Returns:
          The Dataset; rows in messages count data lines from 0.

        Raises:
          FileNotFoundError: no such file.
          ValueError: as `from_frame`, or a file that is not a table; the message starts with the path.

        Cost: that of `pandas.read_csv` and `from_frame`.
        """
        path = Path(path)
        try:
            return cls.from_frame(pd.read_csv(path), columns, name=path.stem)
        except ValueError as error:  # pandas' parser errors are ValueErrors too
            raise ValueError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self.rating)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.num_users} users, {self.num_items} items, {self.num_ratings} ratings>"

    @property
    def num_users(self) -> int:
        """Number of users, rated or not."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items, rated or not."""
        return len(self.item_ids)

    @property
    def num_ratings(self) -> int:
        """Number of observations, n; also `len(data)`."""
        return len(self.rating)

    @property
    def ratings(self) -> Ratings:
        """The observations as a pytree on the device, in JAX's default float, all of weight 1; a copy each time."""
        return Ratings(
            user=jnp.asarray(self.user),
            item=jnp.asarray(self.item),
            value=jnp.asarray(self.rating, dtype=float),
            weight=jnp.ones(len(self), dtype=float),
            num_users=self.num_users,
            num_items=self.num_items,
        )

    def to_frame(self) -> pd.DataFrame:
        """The observations as a DataFrame of the caller's ids: user_id, item_id, rating and, if known, timestamp."""
        columns = {"user_id": self.user_ids[self.user], "item_id": self.item_ids[self.item], "rating": self.rating}
        if self.timestamp is not None:
            columns["timestamp"] = self.timestamp
        return pd.DataFrame(columns)

    def user_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Numbers, int32, of the users with these ids; a ValueError names the ids that are unknown."""
        return _lookup(self.user_ids, ids, "user")

    def item_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Numbers, int32, of the items with these ids; a ValueError names the ids that are unknown."""
        return _lookup(self.item_ids, ids, "item")

    def take(self, rows: np.ndarray) -> "Dataset":
        """The observations at positions `rows` (numbers or a mask), with all users and items of this Dataset."""
        timestamp = None if self.timestamp is None else self.timestamp[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows], timestamp=timestamp)

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over ids and observations in order; the same in every process, for manifests."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            digest.update(repr(ids.tolist()).encode())
        for array, dtype in ((self.user, "<i4"), (self.item, "<i4"), (self.rating, "<f8"), (self.timestamp, "<i8")):
            digest.update(b"none" if array is None else np.ascontiguousarray(array, dtype).tobytes())
        return digest.hexdigest()[:16]


def _source_columns(frame: pd.DataFrame, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """The frame's own name of each column that a Dataset reads."""
    found: dict[str, list[Any]] = {name: [] for name in ("user_id", "item_id", "rating", "timestamp")}
    for column in frame.columns:
        target = (columns or {}).get(column, column)
        if target in found:
            found[target].append(column)
    missing = [name for name in ("user_id", "item_id", "rating") if not found[name]]
    if missing:
        remedy = ", ".join(f'"your name": "{name}"' for name in missing)
        raise ValueError(
            f"missing column {', '.join(missing)}; found {list(frame.columns)}. "
            f"Rename with columns={{{remedy}}}, or rename the table's columns"
        )
    for name, sources in found.items():
        if len(sources) > 1:
            raise ValueError(f"column {name} is there {len(sources)} times, as {sources}; expected it once: drop one")
    return {name: sources[0] for name, sources in found.items() if sources}


def _first(labels: Iterable[Any]) -> str:
    """The first few labels for a message."""
    labels = list(labels)
    return ", ".join(map(repr, labels[:_SHOWN])) + (", ..." if len(labels) > _SHOWN else "")


def _refuse_rows(bad: np.ndarray, values: pd.Series, column: str, problem: str, remedy: str) -> None:
    """Raise if any row is bad, naming the column, the first rows by their labels, and how many there are."""
    if bad.any():
        what = repr(values.name) if values.name == column else f"{values.name!r} ({column})"
        rows = _first(values.index[bad].tolist())
        raise ValueError(f"column {what}: {problem} in {bad.sum()} row(s), at index {rows}; {remedy}")


def _number_ids(ids: pd.Series, column: str) -> tuple[np.ndarray, pd.Index]:
    """Each row's id as a number, and the ids in the order of the numbers."""
    remedy = "every rating needs an id: fill these or drop the rows"
    _refuse_rows(ids.isna().to_numpy(), ids, column, "missing id", remedy)
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.astype(ids.cat.categories.dtype)  # unused categories are not ids
    try:
        try:
            codes, unique = pd.factorize(ids, sort=True)
        except TypeError:  # ids that cannot be compared stay in order of appearance
            codes, unique = pd.factorize(ids)
    except TypeError as error:
        raise ValueError(f"column {ids.name!r}: ids must be hashable, such as numbers, strings or tuples") from error
    return codes.astype(np.int32), pd.Index(unique, name=column, tupleize_cols=False)


def _finite_ratings(values: pd.Series) -> np.ndarray:
    """Ratings as float64."""
    inferred = values.infer_objects()
    if not pd.api.types.is_any_real_numeric_dtype(inferred.dtype):
        raise ValueError(
            f"column {values.name!r} (rating) has dtype {values.dtype}, starting with {_first(values.head(2))}; "
            "expected numbers: convert it, for example with pandas.to_numeric"
        )
    rating = inferred.to_numpy(dtype=np.float64, na_value=np.nan)
    remedy = "expected finite numbers (0 is a rating): drop these rows or correct them"
    _refuse_rows(~np.isfinite(rating), values, "rating", "NaN or infinite rating", remedy)
    return rating


def _seconds(values: pd.Series) -> np.ndarray:
    """Timestamps as whole seconds, int64; dates count from 1970 in UTC."""
    inferred = values.infer_objects()
    remedy = "expected seconds or dates in every row: drop these rows, or the column"
    _refuse_rows(inferred.isna().to_numpy(), values, "timestamp", "missing time", remedy)
    if pd.api.types.is_datetime64_any_dtype(inferred.dtype):
        return inferred.to_numpy("datetime64[s]").astype(np.int64)
    if not pd.api.types.is_any_real_numeric_dtype(inferred.dtype):
        raise ValueError(
            f"column {values.name!r} (timestamp) has dtype {values.dtype}, starting with {_first(values.head(2))}; "
            "expected seconds or dates: convert it, for example with pandas.to_datetime, or drop the column"
        )
    if pd.api.types.is_float_dtype(inferred.dtype):
        floats = inferred.to_numpy(np.float64)
        _refuse_rows(~(np.abs(floats) < 2.0**63), values, "timestamp", "infinite time", remedy)
        return np.floor(floats).astype(np.int64)
    return inferred.to_numpy(np.int64)


def _refuse_duplicates(
    labels: pd.Index,
    user: np.ndarray,
    item: np.ndarray,
    user_ids: pd.Index,
    item_ids: pd.Index,
    source: Mapping[str, Any],
) -> None:
    """Raise if a user rated an item more than once."""
    pair = pd.Series(user.astype(np.int64) * len(item_ids) + item)
    repeated = pair.duplicated().to_numpy()
    if repeated.any():
        first = int(np.flatnonzero(repeated)[0])
        rows = _first(labels[(pair == pair[first]).to_numpy()].tolist())
        user_id, item_id = user_ids[user[[first]]].tolist(), item_ids[item[[first]]].tolist()
        raise ValueError(
            f"{repeated.sum()} row(s) repeat a (user, item) pair; the first is user {user_id[0]!r} with item "
            f"{item_id[0]!r}, at index {rows}. Expected each pair once: for example "
            f'frame.drop_duplicates(["{source["user_id"]}", "{source["item_id"]}"], keep="last")'
        )


def _align_items(items: pd.DataFrame, item_ids: pd.Index, columns: Mapping[str, str]) -> pd.DataFrame:
    """Metadata in the order of item_ids."""
    own_name = next((column for column in items.columns if columns.get(column, column) == "item_id"), None)
    if own_name is not None:
        items = items.set_index(own_name)
    if not items.index.is_unique:
        repeated = _first(items.index[items.index.duplicated()].unique().tolist())
        raise ValueError(f"items: more than one row for item {repeated}; expected one: use drop_duplicates")
    missing = item_ids[items.index.get_indexer(item_ids) < 0]
    if len(missing):
        raise ValueError(
            f"items: no row for {len(missing)} rated item(s): {_first(missing.tolist())}; index the table by "
            "item id and add these rows, for example with items.reindex(frame[...].unique())"
        )
    return items.loc[item_ids].rename_axis("item_id")


def _lookup(known: pd.Index, ids: Iterable[Any], kind: str) -> np.ndarray:
    """Positions of ids in the index of known ids."""
    if not pd.api.types.is_list_like(ids):
        raise ValueError(f"expected a list of {kind} ids, got {ids!r}; for one {kind} pass [{ids!r}]")
    wanted = pd.Index(list(ids), tupleize_cols=False)
    index = known.get_indexer(wanted)
    unknown = wanted[index < 0].unique()
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} unknown {kind} id(s): {_first(unknown.tolist())}; known ids are like "
            f"{_first(known[:3].tolist())} ({kind}_ids). Drop them, or check their type"
        )
    return index.astype(np.int32)
