"""`Dataset`: ratings in the caller's world, with the ids they came with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data._extension import alignment, extension
from jaxmf.data._observations import Duplicates, Missing, fingerprint, of_arrays, of_matrix, of_table
from jaxmf.data.checks import expect, lookup
from jaxmf.data.ratings import Ratings
from jaxmf.data.tables import Ids, of_file, read_table


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Observed ratings on the host, with the caller's ids and item metadata. Not a pytree: see `ratings`.

    Rows of models and arrays are numbered 0 .. num_users - 1 and 0 .. num_items - 1. From id to number:
    `data.user_index(ids)`, `data.item_index(ids)`; from number to id: `data.user_ids[index]`, `data.item_ids[index]`.

    An id is found by the same id of any type, and only by it: 7.0 is 7 and numpy.uint8(7), but 2.0**53 is not
    2**53 + 1, True is not 1, and "7" is no number.

    Attributes:
      user_ids, item_ids: (num_users,) and (num_items,) ids, in the order of their numbers.
      user, item: (n,) int32, numbers of each observation's user and item.
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

        Its ids are sorted, or in order of appearance where they cannot be compared.

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
        return cls(**of_table(frame, columns, items, duplicates, missing), name=name)

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

        Ids are in the order that `from_frame` gives them; rows in messages count from 0.

        Args:
          user, item: (n,) ids, of any type.
          rating, timestamp: (n,) finite numbers, and seconds, dates or None.
          name, duplicates, missing: as in `from_frame`.

        Raises:
          ValueError: arrays of different lengths, empty ones or ones of another dimension; else as `from_frame`.

        >>> Dataset.from_arrays(["b", "a", "b"], [10, 10, 20], [3, 0, 4.5])
        <Dataset arrays: 2 users, 2 items, 3 ratings>
        """
        named = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
        return cls(**of_arrays(named, duplicates, missing), name=name)

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
        them is a rating. Each row is a user and each column an item, rated or not, in this order. There are no times.

        Args:
          matrix: (num_users, num_items), of any scipy.sparse format.
          user_ids, item_ids: ids of the rows and of the columns, each its own; their numbers from 0 on if None.
          name: as in `from_frame`.

        Raises:
          ValueError: a dense array; a matrix without entries; a cell stored twice; an entry that is not a finite
            number; ids that are too few, too many, missing or repeated. Entries are named as (row, column).

        >>> from scipy.sparse import coo_array
        >>> data = Dataset.from_scipy(coo_array(([4.0, 0.0], ([0, 2], [1, 0])), shape=(3, 2)), item_ids=["x", "y"])
        >>> data.to_frame().values.tolist(), data.num_users
        ([[0, 'y', 4.0], [2, 'x', 0.0]], 3)
        """
        return cls(**of_matrix(matrix, user_ids, item_ids), name=name)

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
            becomes the name. Messages call rows by their lines in it, where blank ones are not counted.
          columns: the file's names and ours, as in `{"userId": "user_id"}`. Without a header, positions from 0 and our
            names; by default user_id, item_id, rating and, if there is a fourth column, timestamp.
          items, duplicates, missing: as in `from_frame`; empty fields are missing, as are NA, null and None in numbers.
          sep: what separates the columns, such as ";" or "::"; " " is any run of blanks. None finds it.
          header: whether the first line names the columns.
          ids: `str` keeps ids as text, `int` takes integers and refuses all else, a mapping such as
            `{"user_id": str}` has one of these for a column. By default a column of ids becomes integers if every one
            of them is written as Python writes an integer, and is text, character by character, if not: 007, 1e3 and NA
            are text.

        Raises:
          FileNotFoundError: no such file.
          ValueError: as `from_frame`, or a file that is not such a table; the message starts with the path.

        Cost: that of `pandas.read_csv`, two to six times that where ids are text, and `from_frame`.

        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile("w", suffix=".dat") as file:
        ...     print("1::007::4.5", file=file, flush=True)
        ...     Dataset.from_csv(file.name, header=False).item_ids.tolist()
        ['007']
        """
        frame = read_table(path, "ratings", columns, sep=sep, header=header, ids=ids)
        with of_file(path):
            return cls.from_frame(frame, columns if header else None, items, Path(path).stem, duplicates, missing)

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
        """A Dataset from a Parquet file as `pandas.read_parquet` can read it, or from a folder of them.

        Args:
          path, columns, items, duplicates, missing: as in `from_csv`; rows in messages are those of the file's table.
          ids: as in `from_csv`, for columns of text or integers; by default they stay what they are.

        Raises:
          ImportError: nothing installed that reads Parquet; the message says what to install.
          FileNotFoundError, ValueError: as `from_csv`.
        """
        frame = read_table(path, "ratings", columns, ids=ids, parquet=True)
        with of_file(path):
            return cls.from_frame(frame, columns, items, Path(path).stem, duplicates, missing)

    def __len__(self) -> int:
        """Number of observations, n."""
        return len(self.rating)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.num_users} users, {self.num_items} items, {len(self)} ratings>"

    @property
    def num_users(self) -> int:
        """Number of users, rated or not."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items, rated or not."""
        return len(self.item_ids)

    @property
    def ratings(self) -> Ratings:
        """The observations as a pytree on the device, in JAX's default float, all of weight 1; a copy each time."""
        user, item, value, weight = map(jnp.asarray, (self.user, self.item, self.rating, np.ones(len(self))))
        return Ratings(user, item, value, weight, self.num_users, self.num_items)

    def to_frame(self) -> pd.DataFrame:
        """The observations as a DataFrame of the caller's ids: user_id, item_id, rating and, if known, timestamp."""
        columns = {"user_id": self.user_ids[self.user], "item_id": self.item_ids[self.item], "rating": self.rating}
        return pd.DataFrame(columns if self.timestamp is None else columns | {"timestamp": self.timestamp})

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
        return replace(self, **alignment(vars(self), vars(other), on_unknown))

    def extend(self, frame: pd.DataFrame | None, item_ids: Iterable[Any] = ()) -> "Dataset":
        """This Dataset with the ratings of a table behind its own; known ids keep their numbers, new ones follow.

        Metadata of new items are missing (NaN).

        Args:
          frame: columns user_id, item_id, rating and, if this Dataset has them, timestamp; None for no ratings.
          item_ids: ids of items that get a number without a rating, behind those of the table; known ones have theirs.

        Raises:
          ValueError: as `from_frame`, but a table without rows will do; no timestamp where this Dataset has them; a
            pair that is rated already; new ids that the type of the known ones does not hold exactly, such as text or
            7.5 among integers, while 7.0 is 7. Integers become wider ones where they must.

        >>> data = Dataset.from_arrays(["b", "d"], [10, 20], [3, 4])
        >>> more = data.extend(pd.DataFrame({"user_id": ["a", "b"], "item_id": [10, 30], "rating": [1, 2]}))
        >>> more.user_ids.tolist(), more.user.tolist(), more.item_ids.tolist()
        (['b', 'd', 'a'], [0, 1, 2, 0], [10, 20, 30])
        """
        return replace(self, **extension(vars(self), frame, item_ids))

    def describe(self) -> dict[str, Any]:
        """Name, sizes and fingerprint, for manifests."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items, "num_ratings": len(self)}
        return {"name": self.name, **sizes, "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over ids and observations in order; the same in every process, for manifests."""
        return fingerprint(vars(self))
