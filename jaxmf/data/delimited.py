"""Read files of delimited text: detect the separator, and name the line of whatever cannot be read."""

import csv
import gzip
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed, refuse_rows
from jaxmf.data.columns import POSITIONS, called, required, sources
from jaxmf.data.texts import IdType, ids_of

_SEPARATORS = (",", "\t", ";", "|", "::", " ")
_MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "none", "<NA>", "n/a")  # in numbers, never in ids
_SNIFFED = 100  # lines that are read first, to detect the separator and whether ids are integers
_BLOCK = 1 << 24  # bytes that are scanned at once
_WHOLE, _JOINED = "\x1e", "\x1f"  # control characters that no table contains: to read whole lines, to replace "::"
# By default, pandas before 3.1 reads some floats with an error in the last bit.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if [int(x) for x in pd.__version__.split(".")[:2]] < [3, 1] else {}
)


class Layout(NamedTuple):
    """How to read the lines of a file.

    Attributes:
      sep: separator of the columns; " " stands for any run of blanks.
      names: names of the columns, in order: the file's, or our names and positions if it has no header.
      header: whether the first line names the columns.
      text: the whole file with _JOINED in place of a `sep` longer than one character, for which pandas would use
        regular expressions, ten times slower. Quotes have no meaning in such files.
    """

    sep: str
    names: list[Any]
    header: bool
    text: str | None = None


def read_delimited(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    columns: Mapping[Any, str] | None,
    sep: str | None,
    header: bool,
    types: Mapping[str, IdType],
) -> pd.DataFrame:
    """Read the table in a file of text: ids as integers or text, numbers as numbers, all other columns as text.

    Args:
      path: the file.
      needed, optional: our names of its columns; among these, `rating`, `timestamp` and `weight` hold numbers.
      columns, sep, header: as in `jaxmf.data.tables.read_table`.
      types: types of the ids, by our names.

    Returns:
      The table. Ids are text, character by character, or integers if that loses nothing.

    Raises:
      ValueError: the file is not such a table.
    """
    layout, rows = find_layout(path, needed, optional, columns, sep, header)
    if len(layout.sep) > 1:
        layout = layout._replace(text="\n".join(_lines(path)).replace(layout.sep, _JOINED))
    source = sources(layout.names, columns if header else None, needed, optional)
    position = {name: layout.names.index(label) for name, label in source.items()}
    numbers = [position[name] for name in ("rating", "timestamp", "weight") if name in position]
    ids = [position[name] for name in ("user_id", "item_id") if name in position]
    missing = {column: list(_MISSING) for column in numbers} | {column: [""] for column in ids}
    likely = _integers_likely(rows, ids) and not any(kind is str for kind in types.values())
    text = set(range(len(layout.names))) - missing.keys()
    frame = _parsed(path, layout, missing, text if likely else text | set(ids))
    reread = {column for column in numbers if not pd.api.types.is_any_real_numeric_dtype(frame[column].dtype)}
    if likely and not (
        all(pd.api.types.is_integer_dtype(frame[column].dtype) for column in ids) and _integers_plain(path, layout)
    ):
        reread |= set(ids)
    if reread:  # as text, because parsing these columns as numbers would change what the file says
        frame[sorted(reread)] = _parsed(path, layout, missing, reread, only=sorted(reread))
    start = 2 if header else 1
    frame.index = pd.RangeIndex(start, start + len(frame), name="line")
    frame.columns = pd.Index(layout.names, tupleize_cols=False)
    for name in {"rating", "weight"} & source.keys():
        frame[source[name]] = _numbers(frame[source[name]], name)
    return frame


def find_layout(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    columns: Mapping[Any, str] | None,
    sep: str | None,
    header: bool,
) -> tuple[Layout, list[list[str]]]:
    """Return how to read a file, judged by its first lines, and the fields of these lines without the header.

    With a header, the separator is the one that yields the needed columns; without, the one that yields the most
    columns, equally many in every line.
    """
    lines = _lines(path, _SNIFFED)
    if not lines:
        raise ValueError("No columns to parse: the file is empty")
    records = {s: _records(lines, s) for s in _SEPARATORS} | ({} if sep is None else {sep: _records(lines, sep)})
    fits = {s: _fits(rows, needed, columns, header) for s, rows in records.items()}
    chosen = max(fits, key=lambda s: fits[s]) if sep is None else sep
    better = [s for s in fits if fits[s] > 0 >= fits[chosen]]
    hint = f"With sep={_written(better[0])} they are there. " if better else ""
    rows = records[chosen]
    if header:
        names: list[Any] = rows.pop(0)
        sources(names, columns, needed, optional, hint)
    else:
        names = _by_position(len(rows[0]), [*needed, *optional], columns)
        if missing := [name for name in required(needed, optional, columns) if name not in names]:
            hint = (
                hint
                or 'Name the separator, as in sep=";", or the positions of the columns, as in columns={0: "item_id"}'
            )
            raise ValueError(
                f"missing column {called(missing, columns)}: the first line has {len(names)} column(s), "
                f"{listed(rows[0], 12)}, and the file is read without a header. {hint.strip()}"
            )
    if rows and len(rows[0]) > len(names):
        raise _uneven(1 + header, rows[0], len(names), chosen)
    return Layout(chosen, names, header), rows


def _lines(path: Path, count: int | None = None) -> list[str]:
    """Return the first `count` non-blank lines, or all, decompressed and without a byte order mark."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=_WHOLE,
                names=[0],
                index_col=False,
                nrows=count,
                quoting=csv.QUOTE_NONE,
                dtype=str,
                na_filter=False,
                encoding="utf-8-sig",
                engine="c",
            )
    except pd.errors.EmptyDataError:
        return []
    except UnicodeDecodeError as error:
        raise _not_text(error) from error
    lines: list[str] = table[0].tolist()
    return lines


def _records(lines: Sequence[str], sep: str) -> list[list[str]]:
    """Split each line into its fields."""
    if sep == " ":
        return [line.split() for line in lines]
    if len(sep) > 1:
        return [line.split(sep) for line in lines]
    try:
        return list(csv.reader((f"{line}\n" for line in lines), delimiter=sep))
    except csv.Error:  # a field exceeds the csv module's limit
        return [line.split(sep) for line in lines]


def _fits(rows: list[list[str]], needed: Sequence[str], columns: Mapping[Any, str] | None, header: bool) -> float:
    """Score how well a separator splits these lines: above 0 if it may be the right one."""
    widths = [len(row) for row in rows]
    columns = columns if isinstance(columns, Mapping) else {}
    if header:
        return widths[0] if set(needed) <= {columns.get(name, name) for name in rows[0]} else -1 / widths[0]
    positions = [k for k, name in columns.items() if isinstance(k, int) and name != "timestamp"]
    min_width = max([len(needed), *(k + 1 for k in positions)])  # a column of times may be absent
    return widths[0] if widths[0] >= min_width and len(set(widths)) == 1 else -1 / widths[0]


def _by_position(width: int, names: Sequence[str], columns: Mapping[Any, str] | None) -> list[Any]:
    """Return the names of the columns of a file without a header: our names, or positions."""
    columns = dict(enumerate(name for name in POSITIONS if name in names)) if columns is None else columns
    if not isinstance(columns, Mapping) or not all(isinstance(k, int) and k >= 0 for k in columns):
        raise ValueError(
            "columns must map positions from 0 to our names if there is no header, as in "
            f'{{1: "user_id", 0: "item_id", 2: "rating"}}, not {listed([columns])}'
        )
    return [columns.get(position, position) for position in range(width)]


def _parsed(
    path: Path, layout: Layout, missing: Mapping[int, list[str]], text: set[int], only: Sequence[int] | None = None
) -> pd.DataFrame:
    """Read the columns by position: those in `text` as text, others as inferred; the texts in `missing` become NaN."""
    width = len(layout.names)
    options: dict[str, Any] = {"sep": r"\s+" if layout.sep == " " else layout.sep}
    if layout.text is not None:
        options = {"sep": _JOINED, "quoting": csv.QUOTE_NONE}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # mixed columns are read again as text
            return pd.read_csv(
                path if layout.text is None else io.StringIO(layout.text),
                header=0 if layout.header else None,
                names=range(width),
                usecols=only,
                index_col=False,
                dtype=dict.fromkeys(text, str),
                na_values={column: marks for column, marks in missing.items() if only is None or column in only},
                keep_default_na=False,
                encoding="utf-8-sig",
                engine="c",
                **options,
                **_EXACT,
            )
    except pd.errors.ParserError as error:
        for line, record in enumerate(_records(_lines(path), layout.sep), 1):
            if len(record) > width:
                raise _uneven(line, record, width, layout.sep) from error
        raise
    except UnicodeDecodeError as error:
        raise _not_text(error) from error


def _not_text(error: UnicodeDecodeError) -> ValueError:
    """Return the error for a file in another encoding."""
    return ValueError(f"the file is not text in UTF-8 ({error.reason}): save it as CSV in UTF-8")


def _uneven(line: int, record: Sequence[str], width: int, sep: str) -> ValueError:
    """Return the error for a line with more fields than the first."""
    alternative = _written(";" if sep == "," else ",")
    return ValueError(
        f"line {line} has {len(record)} fields, {listed(record)}, but the first line has {width}. A field that "
        f"contains {sep!r} needs quotes; if the separator is another one, name it, as in sep={alternative}"
    )


def _written(sep: str) -> str:
    """Return a separator as a Python literal in double quotes."""
    return f'"{sep}"'.replace("\t", r"\t")


def _numbers(values: pd.Series, name: str) -> pd.Series:
    """Convert a column to numbers, keeping missing values; raise ValueError for any other text."""
    numbers = pd.to_numeric(values, errors="coerce")
    bad = (numbers.isna() & values.notna()).to_numpy()
    if bad.any():
        problem = f"not a number ({listed(values[bad].unique())})"
        remedy = "expected numbers such as 4 or 3.5: correct these rows, or name the right column with columns="
        refuse_rows(bad, values, name, problem, f'{remedy}{{"your name": "{name}"}}')
    return numbers


def _integers_likely(rows: Sequence[Sequence[str]], positions: Sequence[int]) -> bool:
    """Return whether all ids in the first rows are integers, as Python writes them."""
    return all(not ids_of([row[column] for row in rows if column < len(row)], None)[1].any() for column in positions)


def _integers_plain(path: Path, layout: Layout) -> bool:
    """Return whether every integer in the file is written as Python writes it; False also if that cannot be told.

    pandas reads 007, +7 and " 7" as the integer 7 and would thus merge different ids. This scans the bytes next to
    separators and line ends, which costs less than reading a column as text.
    """
    sep = layout.sep if layout.text is None else _JOINED
    if sep == " " or ord(sep) > 127 or {".bz2", ".zip", ".xz", ".zst", ".tar"} & set(path.suffixes):
        return False
    classes = (f'{sep}\r\n"'.encode(), b" \t\v\f", b"0123456789")
    edges, blanks, digits = (np.isin(np.arange(256), list(members)) for members in classes)
    blanks &= ~edges
    for block in _blocks(path, layout.text):
        edge = np.flatnonzero(edges[block[1:-2]]) + 1
        before, after, second = block[edge - 1], block[edge + 1], block[edge + 2]
        zero = (after == ord("0")) & digits[second] | (after == ord("-")) & (second == ord("0"))
        if (zero | (after == ord("+")) | blanks[after] | blanks[before]).any():
            return False
    return True


def _blocks(path: Path, text: str | None) -> Iterator[np.ndarray]:
    """Yield the bytes of a file in blocks that overlap by three bytes, with line ends added around the whole."""
    open_file: Any = gzip.open if path.suffix == ".gz" else open
    tail = b"\n\n"
    with open_file(path, "rb") if text is None else io.BytesIO(text.encode()) as file:
        while block := file.read(_BLOCK):
            yield np.frombuffer(tail + block.removeprefix(b"\xef\xbb\xbf"), np.uint8)
            tail = (tail + block)[-3:]
    yield np.frombuffer(tail + b"\n\n\n", np.uint8)
