"""`Dataset`: ratings on the host, with the caller's ids and item metadata."""

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

    Users and items are indexed 0 .. num_users - 1 and 0 .. num_items - 1, the rows of a model's tables. From id to
    index: `data.user_index(ids)`, `data.item_index(ids)`; back: `data.user_ids[index]`, `data.item_ids[index]`.

    Ids of different types match if and only if their values are the same: 7.0 is 7 and numpy.uint8(7), but 2.0**53 is
    not 2**53 + 1, True is not 1, and "7" is not a number.

    Attributes:
      user_ids, item_ids: (num_users,) and (num_items,) ids, ordered by index.
      user, item: (n,) int32, index of each observation's user and item.
      rating: (n,) float64. A rating of 0 is data.
      timestamp: (n,) seconds since 1970, or None: int64 if all are whole, float64 if any has a fraction; today, float64
        resolves 0.24 microseconds.
      items: item metadata such as title, genres and tags, one row per entry of item_ids in that order, or None.
      name: name of the data in figures and manifests.
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
        """Make a Dataset from a DataFrame with columns user_id, item_id, rating and optionally timestamp.

        Ids are sorted, or in order of appearance if they cannot be compared.

        Args:
          frame: one row per observation, with any index; further columns are ignored.
          columns: our names by the caller's, as in `{"userId": "user_id"}`.
          items: item metadata, with a column item_id (or its name in `columns`) or indexed by item id; rows of items
            without a rating are dropped.
          name: name of the data in figures and manifests.
          duplicates: what to do with several rows of one user and item. "error" refuses them; "last" keeps the latest
            rating, and among equal or unknown times the last row's; "mean" and "sum" replace the rating in that row
            by the mean or sum of all. A UserWarning says how many rows were removed.
          missing: what to do with rows that lack an id, a rating or a time. "error" refuses them; "drop" leaves them
            out, and a UserWarning says how many.

        Raises:
          ValueError: a column is missing; the table is empty; an id is missing, or `jaxmf.save` could not write it (a
            pandas Period or a custom object: convert it, for example with astype(str)); a rating is not a finite
            number; a timestamp is neither a number of seconds nor a date (ISO 8601 text included); a user rated an
            item twice; an item has no metadata.

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
        """Make a Dataset from one array, list or Series per column; a Series is read by position, not by its labels.

        Ids are ordered as in `from_frame`; messages count rows from 0.

        Args:
          user, item: (n,) ids, of any type.
          rating: (n,) finite numbers.
          timestamp: (n,) seconds or dates, or None.
          name, duplicates, missing: as in `from_frame`.

        Raises:
          ValueError: arrays have different lengths, are empty or not one-dimensional; otherwise as `from_frame`.

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
        """Make a Dataset from a scipy.sparse matrix, users x items, whose *stored* entries are the ratings.

        An explicit zero is a rating of 0; in formats that store whole blocks (bsr) or diagonals (dia), each of their
        cells is a rating. Each row is a user and each column an item, rated or not, in this order. There are no times.

        Args:
          matrix: (num_users, num_items), in any scipy.sparse format.
          user_ids, item_ids: distinct ids of the rows and of the columns; None numbers them from 0.
          name: as in `from_frame`.

        Raises:
          ValueError: the array is dense; the matrix has no entries; a cell is stored twice; an entry is not a finite
            number; ids are too few, too many, missing or repeated. Messages name entries as (row, column).

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
        """Make a Dataset from a file of delimited text, otherwise as `from_frame`.

        Args:
          path: the file in UTF-8, with or without a byte order mark, optionally compressed in a way that pandas reads;
            its stem becomes the name. Messages give a row's line in the file, not counting blank lines.
          columns: our names by the file's, as in `{"userId": "user_id"}`. Without a header, our names by position from
            0; by default user_id, item_id, rating and, if there is a fourth column, timestamp.
          items, duplicates, missing: as in `from_frame`; empty fields are missing, as are NA, null and None in numbers.
          sep: separator of the columns, such as ";" or "::"; " " is any run of blanks. None detects it.
          header: whether the first line names the columns.
          ids: `str` keeps ids as text; `int` accepts integers only; a mapping such as `{"user_id": str}` chooses per
            column. By default a column of ids becomes integers if every id is written as Python writes an integer, and
            otherwise stays text, character by character: 007, 1e3 and NA are text.

        Raises:
          FileNotFoundError: no such file.
          ValueError: as `from_frame`, or the file is not such a table; the message starts with the path.

        Cost: that of `pandas.read_csv`, or two to six times as much if ids are text, plus `from_frame`.

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
        """Make a Dataset from a Parquet file that `pandas.read_parquet` can read, or from a folder of them.

        Args:
          path, columns, items, duplicates, missing: as in `from_csv`; messages give a row's index in the table.
          ids: as in `from_csv`, for columns of text or integers; by default their types are unchanged.

        Raises:
          ImportError: no Parquet reader is installed; the message says what to install.
          FileNotFoundError, ValueError: as `from_csv`.
        """
        frame = read_table(path, "ratings", columns, ids=ids, parquet=True)
        with of_file(path):
            return cls.from_frame(frame, columns, items, Path(path).stem, duplicates, missing)

    def __len__(self) -> int:
        """Return the number of observations, n."""
        return len(self.rating)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.num_users} users, {self.num_items} items, {len(self)} ratings>"

    @property
    def num_users(self) -> int:
        """Number of users, with or without ratings."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items, with or without ratings."""
        return len(self.item_ids)

    @property
    def ratings(self) -> Ratings:
        """The observations as a pytree on the device, in JAX's default float dtype, with weight 1; a copy each time."""
        user, item, value, weight = map(jnp.asarray, (self.user, self.item, self.rating, np.ones(len(self))))
        return Ratings(user, item, value, weight, self.num_users, self.num_items)

    def to_frame(self) -> pd.DataFrame:
        """Return the observations with the caller's ids: columns user_id, item_id, rating and, if known, timestamp."""
        columns = {"user_id": self.user_ids[self.user], "item_id": self.item_ids[self.item], "rating": self.rating}
        return pd.DataFrame(columns if self.timestamp is None else columns | {"timestamp": self.timestamp})

    def user_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the indices (int32) of the users with these ids; a ValueError names unknown ids."""
        return lookup(self.user_ids, ids, "user")

    def item_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the indices (int32) of the items with these ids; a ValueError names unknown ids."""
        return lookup(self.item_ids, ids, "item")

    def take(self, rows: np.ndarray) -> "Dataset":
        """Return the observations at `rows` (positions or a mask), with all users and items of this Dataset."""
        timestamp = None if self.timestamp is None else self.timestamp[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows], timestamp=timestamp)

    def align(self, other: "Dataset", on_unknown: Literal["error", "drop"] = "error") -> "Dataset":
        """Return the observations of another Dataset, with the users and items of this one.

        Args:
          other: ratings of any users and items.
          on_unknown: "error" refuses ids that this Dataset does not contain; "drop" leaves their ratings out, and a
            UserWarning says how many.

        Raises:
          ValueError: an argument has the wrong type, an id is unknown, or no rating is left.
        """
        expect(other, Dataset, "align: other", "Dataset.from_frame makes one of a table")
        return replace(self, **alignment(vars(self), vars(other), on_unknown))

    def extend(self, frame: pd.DataFrame | None, item_ids: Iterable[Any] = ()) -> "Dataset":
        """Return this Dataset with a table's ratings appended; known ids keep their indices, new ids follow them.

        Metadata of new items are missing (NaN).

        Args:
          frame: columns user_id, item_id, rating and, if this Dataset has them, timestamp; None for no ratings.
          item_ids: ids of items to add without a rating, after those of the table; known ids keep their indices.

        Raises:
          ValueError: as `from_frame`, except that the table may be empty; timestamps are missing though this Dataset
            has them; a pair is already rated; the type of the known ids does not represent a new one exactly, such as
            text or 7.5 among integers (7.0 is 7). Integers are widened where necessary.

        >>> data = Dataset.from_arrays(["b", "d"], [10, 20], [3, 4])
        >>> more = data.extend(pd.DataFrame({"user_id": ["a", "b"], "item_id": [10, 30], "rating": [1, 2]}))
        >>> more.user_ids.tolist(), more.user.tolist(), more.item_ids.tolist()
        (['b', 'd', 'a'], [0, 1, 2, 0], [10, 20, 30])
        """
        return replace(self, **extension(vars(self), frame, item_ids))

    def describe(self) -> dict[str, Any]:
        """Return name, sizes and fingerprint, for manifests."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items, "num_ratings": len(self)}
        return {"name": self.name, **sizes, "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 over ids and observations in order; the same in every process."""
        return fingerprint(vars(self))
