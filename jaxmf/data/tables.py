"""Read tables from files: one reader for every caller, with errors that name the file, the column and the line."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.columns import NEEDED, OPTIONAL, sources, with_weight
from jaxmf.data.delimited import find_layout, read_delimited
from jaxmf.data.texts import IdType, retyped

Kind = Literal["ratings", "pairs", "items"]
Ids: TypeAlias = IdType | Mapping[str, IdType] | None

_NEEDED = {"ratings": NEEDED, "pairs": NEEDED, "items": ("item_id",)}


def read_table(
    path: str | Path,
    kind: Kind,
    columns: Mapping[Any, str] | None = None,
    *,
    sep: str | None = None,
    header: bool = True,
    ids: Ids = None,
    parquet: bool | None = None,
    weight: Hashable | None = None,
) -> pd.DataFrame:
    """Read the table in a file of delimited text, in a Parquet file, or in a folder of Parquet files.

    Args:
      path: the file. Text may be compressed in a way that pandas reads, and may start with a byte order mark.
      kind: the columns that are read: "ratings" user_id, item_id and, if present, rating, timestamp and weight; "pairs"
        user_id and item_id; "items" item_id. All but the optional ones are needed, as are those that `columns` calls
        rating or weight.
      columns: our names by the file's, as in `{"userId": "user_id"}`; without a header, our names by position from 0.
      sep: separator of the columns; None tries comma, tab, semicolon, "|", "::" and blanks.
      header: whether the first line names the columns. Without a header, `columns` defaults to user_id, item_id,
        rating, timestamp, in that order, as far as this kind of table has them.
      ids: type of the ids. `str` keeps the text; `int` accepts integers only; an index of known ids, such as
        `data.user_ids`, converts a text to the known id that is written like it, or else to an id of the same type,
        and leaves the text if that is impossible. A mapping from "user_id" and "item_id" chooses per column. With None
        (default), a column of delimited text becomes integers if *every* entry is written as Python writes an integer,
        and otherwise stays text, character by character (007, 1e3, +1 and NA are text); Parquet ids keep their type.
      parquet: whether the file is Parquet; None infers it from a folder, a suffix .parquet or Parquet's first bytes.
      weight: the column of weights, as `{weight: "weight"}` in `columns` would name it; None if `columns` names all.

    Returns:
      The table, with columns named as in the file (without a header: our names, and positions for further columns).
      For "ratings" only our columns, with rating, weight and time as numbers if they are numeric; for the other kinds
      all columns, with those that are not ids as text, character by character. For text files, the index is the line of
      each row, not counting blank lines.

    Raises:
      FileNotFoundError: no such file.
      ImportError: no Parquet reader is installed; the message says what to install.
      ValueError: a column is missing, a line has more fields than the first, or an id or a rating has the wrong type;
        the message starts with the path.

    Cost: that of `pandas.read_csv`, or twice as much if ids are text.
    """
    path = Path(path)
    needed = _NEEDED[kind]
    _check(ids, sep)
    columns = with_weight(columns, weight, header)
    optional = OPTIONAL if kind == "ratings" else ()
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
            if typed and types[name] is None:  # a Parquet file has its own types
                continue
            frame[source[name]] = retyped(frame[source[name]], types[name], name)
        return frame[list(source.values())] if kind == "ratings" else frame
    except ValueError as error:  # the errors of pandas' parsers are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


def labels(
    path: Path, columns: Mapping[Any, str] | None = None, *, sep: str | None = None, header: bool = True
) -> list[Any]:
    """Return the labels of all columns of the table of ratings in a file, in order; the arguments are `read_table`'s.

    Without a header these are our names, and positions for further columns.
    """
    if is_parquet(path):
        return list(read_parquet(path).columns)
    return find_layout(path, NEEDED, OPTIONAL, columns, sep, header)[0].names


@contextmanager
def of_file(path: str | Path) -> Iterator[None]:
    """Prefix the message of a ValueError raised in this context with the path of the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_parquet(path: Path) -> bool:
    """Return whether this is a folder, or a file with a suffix .parquet or the first bytes of Parquet."""
    if path.is_dir() or ".parquet" in path.suffixes:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_parquet(path: Path) -> pd.DataFrame:
    """Call `pandas.read_parquet`; say what to install if it has no engine, and raise ValueError for a damaged file."""
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'jaxmf[parquet]'") from error
    except OSError as error:
        if error.errno is None and error.filename is None and not isinstance(error, FileNotFoundError):
            raise ValueError(str(error)) from error  # Arrow reports a damaged file this way
        raise


def _check(ids: Ids, sep: str | None) -> None:
    for kind in ids.values() if isinstance(ids, Mapping) else [ids]:
        if not (kind is None or kind is str or kind is int or isinstance(kind, pd.Index)):
            raise ValueError(
                f"ids must be str, int, or a mapping of these by user_id and item_id, not {listed([kind])}"
            )
    if sep is not None and not (isinstance(sep, str) and sep and "\n" not in sep):
        raise ValueError(f'sep must be a string such as ";", or None to detect it, not {listed([sep])}')
