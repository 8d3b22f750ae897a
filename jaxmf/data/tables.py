"""Tables in files: one reader for every way in, with errors that name the file, the column and the line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.columns import RATING_COLUMNS, sources
from jaxmf.data.delimited import read_delimited
from jaxmf.data.texts import IdType, retyped

Kind = Literal["ratings", "pairs", "items"]
Ids: TypeAlias = IdType | Mapping[str, IdType] | None

_NEEDED = {"ratings": ("user_id", "item_id", "rating"), "pairs": ("user_id", "item_id"), "items": ("item_id",)}


def read_table(
    path: str | Path,
    kind: Kind,
    columns: Mapping[Any, str] | None = None,
    *,
    sep: str | None = None,
    header: bool = True,
    ids: Ids = None,
    parquet: bool | None = None,
) -> pd.DataFrame:
    """The table in a file of delimited text, in a Parquet file, or in a folder of Parquet files.

    Args:
      path: the file. Text may be compressed as pandas can read it, and start with a byte order mark.
      kind: what it must have: "ratings" user_id, item_id and rating, "pairs" user_id and item_id, "items" item_id.
      columns: the file's names and ours, as in `{"userId": "user_id"}`; without a header, positions from 0 and ours.
      sep: what separates the columns; None tries comma, tab, semicolon, "|", "::" and blanks.
      header: whether the first line names the columns. Without, `columns` is by default user_id, item_id, rating,
        timestamp, in that order, as far as this kind of table has them.
      ids: the type of the ids: `str` keeps the text; `int` takes integers and refuses all else; an index of ids that
        are known, such as `data.user_ids`, makes of a text the known id that is written so, or else one of the same
        type, or leaves the text if it cannot be one. A mapping from "user_id" and "item_id" has one of these for each.
        None, the rule where nothing is said: in delimited text a column becomes integers if *every* entry is written as
        Python writes an integer, and stays text, character by character, if not (007, 1e3, +1 and NA are text); in
        Parquet the ids are what the file says.
      parquet: whether it is Parquet; None for a folder, a suffix .parquet or the first bytes of Parquet.

    Returns:
      The table, its columns under the file's names (ours and further positions without a header). Of "ratings" only
      our columns, rating and time as numbers where they are; of the others all columns, those that are not ids as
      text, character by character. The index of text is the line that a row comes from, blank ones not counted.

    Raises:
      FileNotFoundError: no such file.
      ImportError: nothing installed that reads Parquet; the message says what to install.
      ValueError: not such a table: a missing column, a line with more fields than the first, an id or a rating of
        another type; the message starts with the path.

    Cost: that of `pandas.read_csv`, twice where ids are text.
    """
    path = Path(path)
    needed = _NEEDED[kind]
    _check(ids, sep)
    optional = tuple(name for name in RATING_COLUMNS if name not in needed) if kind == "ratings" else ()
    types = {name: ids.get(name) if isinstance(ids, Mapping) else ids for name in ("user_id", "item_id")}
    try:
        typed = is_parquet(path) if parquet is None else parquet
        if typed:
            frame = read_parquet(path)
        else:
            frame = read_delimited(path, needed, optional, columns, sep, header, types)
            columns = columns if header else None
        source = sources(frame.columns, columns, needed, optional)
        for name in source.keys() & types.keys():
            if typed and types[name] is None:  # such a file says itself what its ids are
                continue
            frame[source[name]] = retyped(frame[source[name]], types[name], name)
        return frame[list(source.values())] if kind == "ratings" else frame
    except ValueError as error:  # the parsers' own errors are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def of_file(path: str | Path) -> Iterator[None]:
    """What is wrong with the table of a file is a ValueError that starts with the path."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_parquet(path: Path) -> bool:
    """Whether this is a folder, or a file with a suffix .parquet or the first bytes of Parquet."""
    if path.is_dir() or ".parquet" in path.suffixes:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_parquet(path: Path) -> pd.DataFrame:
    """`pandas.read_parquet`, with the remedy where it has no engine, and a ValueError for a damaged file."""
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'jaxmf[parquet]'") from error
    except OSError as error:
        if error.errno is None and error.filename is None and not isinstance(error, FileNotFoundError):
            raise ValueError(str(error)) from error  # Arrow's word for a damaged file
        raise


def _check(ids: Ids, sep: str | None) -> None:
    for kind in ids.values() if isinstance(ids, Mapping) else [ids]:
        if not (kind is None or kind is str or kind is int or isinstance(kind, pd.Index)):
            raise ValueError(
                f"ids must be str, int, or a mapping of these by user_id and item_id, not {listed([kind])}"
            )
    if sep is not None and not (isinstance(sep, str) and sep and "\n" not in sep):
        raise ValueError(f'sep must be a string such as ";", or None to find it, not {listed([sep])}')
