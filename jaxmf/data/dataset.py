"""`Dataset`: ratings in the caller's world, with the ids they came with."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data._extension import extension
from jaxmf.data._observations import Duplicates, Missing, observations, refuse_duplicates
from jaxmf.data.checks import (
    align_items,
    array_column,
    equal_lengths,
    expect,
    finite_ratings,
    given_ids,
    lookup,
    matrix_entries,
)
from jaxmf.data.columns import source_columns
from jaxmf.data.ids import match
from jaxmf.data.ratings import Ratings
from jaxmf.data.tables import Ids, read_table
from jaxmf.data.unknown import check_on_unknown, refusal, unknown_ids


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Observed ratings on the host, with the caller's ids and item metadata. Not a pytree: see `ratings`.

    Rows of models and arrays are numbered 0 .. num_users - 1 and 0 .. num_items - 1. From id to number:
    `data.user_index(ids)`, `data.item_index(ids)`; from number to id: `data.user_ids[index]`, `data.item_ids[index]`.

    An id is found by the same id of any type, and only by it: 7.0 is 7 and numpy.uint8(7), but 2.0**53 is not
    2**53 + 1, True is not 1, and "7" is no number.

    Attributes:
      user_ids: (num_users,) ids of the users, in the order of their numbers.
      item_ids: (num_items,) ids of the items, in the order of their numbers.
      user: (n,) int32, number of each observation's user.
      item: (n,) int32, number of each observation's item.
      rating: (n,) float64. A rating of 0 is data.
      timestamp: (n,) seconds since 1970, or None: int64 where all are whole, float64 where one has a fraction, which
        tells today's moments apart from 0.24 microseconds on.
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
        duplicates: Duplicates = "error",
        missing: Missing = "error",
    ) -> "Dataset":
        """A Dataset from a DataFrame with columns user_id, item_id, rating and, if it has one, timestamp.

        Args:
          frame: one row per observation; any index, further columns are ignored.
          columns: the caller's column names, as in `{"userId": "user_id"}`.
          items: item metadata, with a column item_id (or its name in `columns`) or indexed by item id; rows of items
            without a rating are dropped.
          name: what figures and manifests call this data.
          duplicates: what to do about rows of the same user and item. "error" refuses them; "last" keeps the rating of
            the latest time, and of equal or unknown times that of the last row; "mean" and "sum" keep that of all, in
            the row that "last" would keep. A UserWarning says how many rows went.
          missing: what to do about rows without an id, a rating or a time. "error" refuses them; "drop" leaves them
            out, and a UserWarning says how many.

        Returns:
          A Dataset whose ids are sorted, or in order of appearance where they cannot be compared.

        Raises:
          ValueError: a missing column; an empty table; an id that is missing or that `jaxmf.save` could not write (a
            Period of pandas, or an object of your own: convert it, for example with astype(str)); a rating that is not
            a finite number; a timestamp that is neither a number of seconds nor a date (also text, as ISO 8601 writes
            it); an item rated twice by one user; an item without metadata.

        Cost: time O(n log n), memory O(n).

        >>> frame = pd.DataFrame({"who": ["b", "a"], "item_id": [10, 20], "rating": [3.0, 0.0]})
        >>> data = Dataset.from_frame(frame, columns={"who": "user_id"})
        >>> data.user_ids.tolist(), data.user.tolist(), data.item_ids[data.item].tolist()
        (['a', 'b'], [1, 0], [10, 20])
        """
        source = source_columns(frame, columns)
        if len(frame) == 0:
            raise ValueError("the table has no rows; expected one row per rating")
        named = {ours: frame[theirs] for ours, theirs in source.items()}
        checked = observations(named, duplicates, missing)
        if items is not None:
            items = align_items(items, checked["item_ids"], columns or {})
        return cls(**checked, items=items, name=name)

    @classmethod
    def from_arrays(
        cls,
        user: Iterable[Any],
        item: Iterable[Any],
        rating: Iterable[float],
        timestamp: Iterable[Any] | None = None,
        name: str = "arrays",
        duplicates: Duplicates = "error",
        missing: Missing = "error",
    ) -> "Dataset":
        """A Dataset from one array, list or Series per column; a Series counts by position, not by its labels.

        Args:
          user: (n,) ids of the users, of any type.
          item: (n,) ids of the items, of any type.
          rating: (n,) finite numbers.
          timestamp: (n,) seconds or dates, or None.
          name: what figures and manifests call this data.
          duplicates, missing: as in `from_frame`.

        Returns:
          The Dataset, with ids in the order that `from_frame` gives them; rows in messages count from 0.

        Raises:
          ValueError: arrays of different lengths, empty ones or ones of another dimension; else as `from_frame`.

        Cost: that of `from_frame`.

        >>> Dataset.from_arrays(["b", "a", "b"], [10, 10, 20], [3, 0, 4.5])
        <Dataset arrays: 2 users, 2 items, 3 ratings>
        """
        given = {"user": user, "item": item, "rating": rating} | ({} if timestamp is None else {"timestamp": timestamp})
        arrays = {argument: array_column(values, argument) for argument, values in given.items()}
        equal_lengths(arrays.values())
        named = {
            {"user": "user_id", "item": "item_id"}.get(argument, argument): arrays[argument] for argument in arrays
        }
        return cls(**observations(named, duplicates, missing), name=name)

    @classmethod
    def from_scipy(
        cls,
        matrix: Any,
        user_ids: Iterable[Any] | None = None,
        item_ids: Iterable[Any] | None = None,
        name: str = "scipy",
    ) -> "Dataset":
        """A Dataset from a scipy.sparse matrix, users x items, whose *stored* entries are the ratings.

        An explicit zero is a rating of 0; in formats that store whole blocks (bsr) or diagonals (dia), every cell of
        them is a rating. Each row is a user and each column an item, rated or not.

        Args:
          matrix: (num_users, num_items), of any scipy.sparse format.
          user_ids: ids of the rows, each its own; 0 .. num_users - 1 if None.
          item_ids: ids of the columns, each its own; 0 .. num_items - 1 if None.
          name: what figures and manifests call this data.

        Returns:
          The Dataset, with ids and observations in the matrix' order and no timestamps.

        Raises:
          ValueError: a dense array; a matrix without entries; a cell stored twice; an entry that is not a finite
            number; ids that are too few, too many, missing or repeated. Entries are named as (row, column).

        Cost: time O(n log n), memory O(n).

        >>> from scipy.sparse import coo_array
        >>> data = Dataset.from_scipy(coo_array(([4.0, 0.0], ([0, 2], [1, 0])), shape=(3, 2)), item_ids=["x", "y"])
        >>> data.to_frame().values.tolist(), data.num_users
        ([[0, 'y', 4.0], [2, 'x', 0.0]], 3)
        """
        row, column, values = matrix_entries(matrix)
        ids_of_users = given_ids(user_ids, matrix.shape[0], "user_id", "row")
        ids_of_items = given_ids(item_ids, matrix.shape[1], "item_id", "column")
        remedy = "drop the others, or add them up with matrix.sum_duplicates()"
        refuse_duplicates(values.index, row, column, ids_of_users, ids_of_items, remedy)
        return cls(ids_of_users, ids_of_items, row, column, finite_ratings(values), name=name)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        columns: Mapping[Any, str] | None = None,
        items: pd.DataFrame | None = None,
        *,
        sep: str | None = None,
        header: bool = True,
        ids: Ids = None,
        duplicates: Duplicates = "error",
        missing: Missing = "error",
    ) -> "Dataset":
        """A Dataset from a file of delimited text; what is not said here is as in `from_frame`.

        Args:
          path: the file in UTF-8, with or without a byte order mark, also compressed as pandas can read it; its stem
            becomes the name.
          columns: the file's names and ours, as in `{"userId": "user_id"}`. Without a header, positions from 0 and our
            names; by default user_id, item_id, rating and, if there is a fourth column, timestamp.
          items: item metadata, as in `from_frame`.
          sep: what separates the columns, such as ";" or "::"; " " is any run of blanks. None finds it.
          header: whether the first line names the columns.
          ids: `str` keeps ids as text, `int` takes integers and refuses all else, a mapping such as
            `{"user_id": str}` has one of these for a column. By default a column of ids becomes integers if every one
            of them is written as Python writes an integer, and is text, character by character, if not: 007, 1e3 and NA
            are text.
          duplicates, missing: as in `from_frame`. An empty field is missing; in numbers NA, NaN, null and None are too.

        Returns:
          The Dataset. Messages call rows by their lines in the file, where blank ones are not counted.

        Raises:
          FileNotFoundError: no such file.
          ValueError: as `from_frame`, or a file that is not such a table; the message starts with the path.

        Cost: that of `pandas.read_csv`, two to six times that where ids are text, and `from_frame`.

        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile("w", suffix=".dat") as file:
        ...     _ = file.write("1::007::4.5")
        ...     file.flush()
        ...     Dataset.from_csv(file.name, header=False).item_ids.tolist()
        ['007']
        """
        frame = read_table(path, "ratings", columns, sep=sep, header=header, ids=ids)
        return of_table(path, frame, columns if header else None, items, duplicates, missing)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        columns: Mapping[str, str] | None = None,
        items: pd.DataFrame | None = None,
        *,
        ids: Ids = None,
        duplicates: Duplicates = "error",
        missing: Missing = "error",
    ) -> "Dataset":
        """A Dataset from a Parquet file, or a folder of them; arguments and errors as in `from_frame`.

        Args:
          path: the file, as `pandas.read_parquet` can read it; its stem becomes the name.
          columns: the file's column names, as in `{"userId": "user_id"}`.
          items: item metadata, as in `from_frame`.
          ids: as in `from_csv`, for columns of text or integers; by default they stay what they are.
          duplicates, missing: as in `from_frame`.

        Returns:
          The Dataset; rows in messages are those of the table that the file holds.

        Raises:
          FileNotFoundError: no such file.
          ImportError: nothing installed that reads Parquet; the message says what to install.
          ValueError: as `from_frame`, or a file that is not Parquet; the message starts with the path.

        Cost: that of `pandas.read_parquet` and `from_frame`.
        """
        frame = read_table(path, "ratings", columns, ids=ids, parquet=True)
        return of_table(path, frame, columns, items, duplicates, missing)

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
            value=jnp.asarray(self.rating),
            weight=jnp.asarray(np.ones(len(self))),
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
        return lookup(self.user_ids, ids, "user")

    def item_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Numbers, int32, of the items with these ids; a ValueError names the ids that are unknown."""
        return lookup(self.item_ids, ids, "item")

    def take(self, rows: np.ndarray) -> "Dataset":
        """The observations at positions `rows` (numbers or a mask), with all users and items of this Dataset."""
        timestamp = None if self.timestamp is None else self.timestamp[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows], timestamp=timestamp)

    def align(self, other: "Dataset", on_unknown: Literal["error", "drop"] = "error") -> "Dataset":
        """The observations of another Dataset with this one's users and items.

        Args:
          other: ratings over any users and items.
          on_unknown: "error" refuses ids that this Dataset does not know; "drop" leaves their ratings out, and a
            UserWarning says how many.

        Raises:
          ValueError: an argument of another type, an unknown id, or no rating that is left.
        """
        expect(other, Dataset, "align: other", "Dataset.from_frame makes one of a table")
        choices = ("error", "drop")
        check_on_unknown("align", on_unknown, choices)
        if on_unknown == "drop":
            user = match(self.user_ids, other.user_ids)[other.user]
            item = match(self.item_ids, other.item_ids)[other.item]
            known = (user >= 0) & (item >= 0)
            if not known.any():
                raise ValueError(f"align: all {len(other)} ratings of {other.name} are of ids unknown to {self.name}")
            if not known.all():
                ids = other.user_ids[other.user], other.item_ids[other.item]
                which = unknown_ids(user=(ids[0], user < 0), item=(ids[1], item < 0))
                dropped = f"{np.sum(~known)} of {len(other)} ratings of {other.name} are of unknown ids and left out"
                warnings.warn(f"align: {dropped}: {which}", stacklevel=2)
            other = other.take(known)
        try:
            user, item = self.user_index(other.user_ids[other.user]), self.item_index(other.item_ids[other.item])
        except ValueError as error:
            raise refusal("align", error, choices) from None
        return replace(self, user=user, item=item, rating=other.rating, timestamp=other.timestamp, name=other.name)

    def extend(self, frame: pd.DataFrame | None, item_ids: Iterable[Any] = ()) -> "Dataset":
        """This Dataset with the ratings of a table behind its own; known ids keep their numbers, new ones follow.

        Args:
          frame: columns user_id, item_id, rating and, if this Dataset has them, timestamp; None for no ratings.
          item_ids: ids of items that get a number without a rating, behind those of the table; known ones have theirs.

        Returns:
          The Dataset; metadata of new items are missing (NaN).

        Raises:
          ValueError: as `from_frame`, but a table without rows will do; no timestamp where this Dataset has them; a
            pair that is rated already; new ids that the type of the known ones does not hold exactly, such as text or
            7.5 among integers, while 7.0 is 7. Integers become wider ones where they must.

        Cost: O(n).

        >>> data = Dataset.from_arrays(["b", "d"], [10, 20], [3, 4])
        >>> more = data.extend(pd.DataFrame({"user_id": ["a", "b"], "item_id": [10, 30], "rating": [1, 2]}))
        >>> more.user_ids.tolist(), more.user.tolist(), more.item_ids.tolist()
        (['b', 'd', 'a'], [0, 1, 2, 0], [10, 20, 30])
        """
        return replace(self, **extension(self, frame, item_ids))

    def describe(self) -> dict[str, Any]:
        """Name, sizes and fingerprint, for manifests."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items, "num_ratings": len(self)}
        return {"name": self.name, **sizes, "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over ids and observations in order; the same in every process, for manifests."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            digest.update(repr(ids.tolist()).encode())
        time = "<f8" if self.timestamp is not None and self.timestamp.dtype.kind == "f" else "<i8"
        for array, dtype in ((self.user, "<i4"), (self.item, "<i4"), (self.rating, "<f8"), (self.timestamp, time)):
            digest.update(b"none" if array is None else np.ascontiguousarray(array, dtype).tobytes())
        return digest.hexdigest()[:16]


def of_table(path: str | Path, frame: pd.DataFrame, columns: Any, items: Any, *options: Any) -> Dataset:
    """A Dataset from what a file holds; what is wrong with it is a ValueError that starts with the path."""
    try:
        return Dataset.from_frame(frame, columns, items, Path(path).stem, *options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
