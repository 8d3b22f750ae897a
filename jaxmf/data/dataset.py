"""`Dataset`: ratings on the host, with the caller's ids and item metadata."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data import _extension, _weights
from jaxmf.data._observations import Duplicates, Missing, Rules, fingerprint, of_arrays, of_matrix, of_table
from jaxmf.data._weights import Transform
from jaxmf.data.checks import lookup
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
      rating: (n,) float64. A rating of 0 is data. In implicit feedback, each rating is 1.
      timestamp: (n,) seconds since 1970, or None: int64 if all are whole, float64 if any has a fraction; today, float64
        resolves 0.24 microseconds.
      weight: (n,) float64, finite and above 0, such as a count of plays, or None: each observation weighs 1.
      items: item metadata such as title, genres and tags, one row per entry of item_ids in that order, or None.
      name: name of the data in figures and manifests.
    """

    user_ids: pd.Index
    item_ids: pd.Index
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray | None = None
    weight: np.ndarray | None = None
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
        *,
        weight: Hashable | None = None,
        transform: Transform | None = None,
    ) -> "Dataset":
        """Make a Dataset from a DataFrame with columns user_id, item_id and optionally rating, timestamp and weight.

        Without a column rating, the data are implicit feedback: each row counts 1, so that every rating is 1.
        Ids are sorted, or in order of appearance if they cannot be compared.

        Args:
          frame: one row per observation, with any index; further columns are ignored.
          columns: our names by the caller's, as in `{"userId": "user_id"}`.
          items: item metadata, with a column item_id (or its name in `columns`) or indexed by item id; rows of items
            without a rating are dropped.
          name: name of the data in figures and manifests.
          duplicates: what to do with several rows of one user and item. "error" refuses them; "last" keeps the latest
            rating and weight, and among equal or unknown times the last row's; "mean" and "sum" put the means or sums
            of all into that row. Without ratings only weights are merged: "sum" turns a log of events into counts, as
            a row without weight counts 1. A UserWarning says how many rows were removed.
          missing: what to do with rows that lack an entry in any of our columns. "error" refuses them; "drop" leaves
            them out, and a UserWarning says how many.
          weight: the caller's name of the column weight, such as "plays", of counts or durations above 0; the same as
            `{"plays": "weight"}` in `columns`.
          transform: function of the array of weights, applied after repeated pairs are merged, such as `numpy.log1p`
            or `lambda plays: 1 + 40 * plays`; it returns as many finite numbers above 0.

        Raises:
          ValueError: a column is missing; the table is empty; an id is missing, or `jaxmf.save` could not write it (a
            pandas Period or a custom object: convert it, for example with astype(str)); a rating is not a finite
            number, or a weight not one above 0; a timestamp is neither a number of seconds nor a date (ISO 8601 text
            included); a user rated an item twice; an item has no metadata; transform fails.

        Cost: time O(n log n), memory O(n).

        >>> frame = pd.DataFrame({"who": ["b", "a", "b"], "item_id": [10, 20, 20], "plays": [3, 1, 7]})
        >>> data = Dataset.from_frame(frame, columns={"who": "user_id"}, weight="plays", transform=np.sqrt)
        >>> data.user_ids.tolist(), data.user.tolist(), data.rating.tolist(), data.weight.round(1).tolist()
        (['a', 'b'], [1, 0, 1], [1.0, 1.0, 1.0], [1.7, 1.0, 2.6])
        """
        return cls(**of_table(frame, columns, items, weight, Rules(duplicates, missing, transform)), name=name)

    @classmethod
    def from_arrays(
        cls,
        user: Iterable[Any],
        item: Iterable[Any],
        rating: Iterable[float] | None = None,
        timestamp: Iterable[Any] | None = None,
        weight: Iterable[float] | None = None,
        name: str = "arrays",
        duplicates: Duplicates = "error",
        missing: Missing = "error",
        *,
        transform: Transform | None = None,
    ) -> "Dataset":
        """Make a Dataset from one array, list or Series per column; a Series is read by position, not by its labels.

        Args:
          user, item: (n,) ids, of any type, ordered as in `from_frame`; messages count rows from 0.
          rating: (n,) finite numbers, or None: each row counts 1.
          timestamp: (n,) seconds or dates, or None.
          weight: (n,) finite numbers above 0, or None.
          name, duplicates, missing, transform: as in `from_frame`.

        Raises:
          ValueError: arrays have different lengths, are empty or not one-dimensional; otherwise as `from_frame`.

        >>> Dataset.from_arrays(["b", "a", "b"], [10, 10, 20], [3, 0, 4.5])
        <Dataset arrays: 2 users, 2 items, 3 ratings>
        """
        named = {"user": user, "item": item, "rating": rating, "timestamp": timestamp, "weight": weight}
        return cls(**of_arrays(named, Rules(duplicates, missing, transform)), name=name)

    @classmethod
    def from_scipy(
        cls,
        matrix: Any,
        user_ids: Iterable[Any] | None = None,
        item_ids: Iterable[Any] | None = None,
        name: str = "scipy",
        *,
        entries: Literal["rating", "weight"] = "rating",
        transform: Transform | None = None,
    ) -> "Dataset":
        """Make a Dataset from a scipy.sparse matrix, users x items, whose *stored* entries are the ratings.

        An explicit zero is a rating of 0; in formats that store whole blocks (bsr) or diagonals (dia), each of their
        cells is a rating. Each row is a user and each column an item, rated or not, in this order. There are no times.

        Args:
          matrix: (num_users, num_items), in any scipy.sparse format.
          user_ids, item_ids: distinct ids of the rows and of the columns; None numbers them from 0.
          name, transform: as in `from_frame`.
          entries: what is stored: "rating", or "weight", such as counts, for implicit feedback whose ratings are all 1.

        Raises:
          ValueError: the array is dense; the matrix has no entries; a cell is stored twice; an entry is not a finite
            number, or a weight not one above 0; ids are too few, too many, missing or repeated; transform fails.
            Messages name entries as (row, column).

        >>> from scipy.sparse import coo_array
        >>> data = Dataset.from_scipy(coo_array(([4.0, 0.0], ([0, 2], [1, 0])), shape=(3, 2)), item_ids=["x", "y"])
        >>> data.to_frame().values.tolist(), data.num_users
        ([[0, 'y', 4.0], [2, 'x', 0.0]], 3)
        """
        return cls(**of_matrix(matrix, user_ids, item_ids, entries, transform), name=name)

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
        weight: Hashable | None = None,
        transform: Transform | None = None,
    ) -> "Dataset":
        """Make a Dataset from a file of delimited text, otherwise as `from_frame`.

        Args:
          path: the file in UTF-8, with or without a byte order mark, optionally compressed in a way that pandas reads;
            its stem becomes the name. Messages give a row's line in the file, not counting blank lines.
          columns: our names by the file's, as in `{"userId": "user_id"}`. Without a header, our names by position from
            0; by default user_id, item_id and, as far as there are more columns, rating and timestamp.
          items, duplicates, missing, transform: as in `from_frame`; empty fields and NA, null and None in numbers are
            missing.
          weight: as in `from_frame`; without a header, the position of the column.
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
        frame = read_table(path, "ratings", columns, sep=sep, header=header, ids=ids, weight=weight)
        columns, weight = (columns, weight) if header else (None, None)  # without a header, the table has our names
        with of_file(path):
            fields = of_table(frame, columns, items, weight, Rules(duplicates, missing, transform))
        return cls(**fields, name=Path(path).stem)

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
        weight: Hashable | None = None,
        transform: Transform | None = None,
    ) -> "Dataset":
        """Make a Dataset from a Parquet file that `pandas.read_parquet` can read, or from a folder of them.

        Args:
          path, columns, items, duplicates, missing, weight, transform: as in `from_csv`; messages give a row's index.
          ids: as in `from_csv`, for columns of text or integers; by default their types are unchanged.

        Raises:
          ImportError: no Parquet reader is installed; the message says what to install.
          FileNotFoundError, ValueError: as `from_csv`.
        """
        frame = read_table(path, "ratings", columns, ids=ids, parquet=True, weight=weight)
        with of_file(path):
            fields = of_table(frame, columns, items, weight, Rules(duplicates, missing, transform))
        return cls(**fields, name=Path(path).stem)

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
        """The observations as a pytree on the device, in JAX's default float dtype; a copy each time."""
        weights = np.ones(len(self)) if self.weight is None else self.weight
        user, item, value, weight = map(jnp.asarray, (self.user, self.item, self.rating, weights))
        return Ratings(user, item, value, weight, self.num_users, self.num_items)

    def to_frame(self) -> pd.DataFrame:
        """Return the observations with the caller's ids, in the columns that `from_frame` reads, as far as known."""
        ids = {"user_id": self.user_ids[self.user], "item_id": self.item_ids[self.item]}
        columns = {"rating": self.rating, "timestamp": self.timestamp, "weight": self.weight}
        return pd.DataFrame(ids | {name: column for name, column in columns.items() if column is not None})

    def user_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the indices (int32) of the users with these ids; a ValueError names unknown ids."""
        return lookup(self.user_ids, ids, "user")

    def item_index(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the indices (int32) of the items with these ids; a ValueError names unknown ids."""
        return lookup(self.item_ids, ids, "item")

    def take(self, rows: np.ndarray) -> "Dataset":
        """Return the observations at `rows` (positions or a mask), with all users and items of this Dataset."""
        timestamp, weight = (None if column is None else column[rows] for column in (self.timestamp, self.weight))
        taken = replace(self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows])
        return replace(taken, timestamp=timestamp, weight=weight)

    align, extend = _extension.align, _extension.extend  # methods, written in modules of their own
    binarize, with_confidence = _weights.binarize, _weights.with_confidence

    def describe(self) -> dict[str, Any]:
        """Return name, sizes, the sum of the weights if there are any, and fingerprint, for manifests."""
        sizes = {"num_users": self.num_users, "num_items": self.num_items, "num_ratings": len(self)}
        weight = {} if self.weight is None else {"total_weight": float(self.weight.sum())}
        return {"name": self.name, **sizes, **weight, "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 over ids and observations in order; the same in every process."""
        return fingerprint(vars(self))
