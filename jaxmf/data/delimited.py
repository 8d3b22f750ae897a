"""Files of delimited text: what separates their columns, and which of their lines are not like the others."""

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
from jaxmf.data.columns import sources
from jaxmf.data.texts import IdType, ids_of

_SEPARATORS = (",", "\t", ";", "|", "::", " ")
_MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "none", "<NA>", "n/a")  # of numbers, never of ids
_SNIFFED = 100  # lines that are looked at before the file is read
_BLOCK = 1 << 24  # bytes that are looked at together
_WHOLE, _JOINED = "\x1e", "\x1f"  # control characters that no table has, to read lines whole and to stand for "::"
# pandas before 3.1 reads floats a bit off if not told otherwise.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if [int(x) for x in pd.__version__.split(".")[:2]] < [3, 1] else {}
)


class Layout(NamedTuple):
    """How the lines of a file are to be read.

    Attributes:
      sep: what separates the columns; " " stands for any run of blanks.
      names: of the columns, in order: the file's, or ours and positions where it has no header.
      header: whether the first line names the columns.
      text: the whole file with _JOINED for `sep`, where that is longer than one character; pandas reads such files by
        regular expressions, ten times slower. Quotes mean nothing in them.
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
    """The table in a file of text: ids as integers or text, numbers as numbers, all other columns as text.

    Args:
      path: the file.
      needed, optional: our names of its columns; of these, `rating` and `timestamp` hold numbers.
      columns, sep, header: as in `jaxmf.data.tables.read_table`.
      types: of the ids, by our name.

    Returns:
      the table. Ids are text, character by character, or integers where that says the same.

    Raises:
      ValueError: no such table.
    """
    layout, rows = find_layout(path, needed, optional, columns, sep, header)
    if len(layout.sep) > 1:
        layout = layout._replace(text="\n".join(_lines(path)).replace(layout.sep, _JOINED))
    source = sources(layout.names, columns if header else None, needed, optional)
    position = {name: layout.names.index(own) for name, own in source.items()}
    numbers = [position[name] for name in ("rating", "timestamp") if name in position]
    ids = [position[name] for name in ("user_id", "item_id") if name in position]
    missing = {at: list(_MISSING) for at in numbers} | {at: [""] for at in ids}
    likely = _integers_likely(rows, ids) and not any(kind is str for kind in types.values())
    others = set(range(len(layout.names))) - missing.keys()
    frame = _parsed(path, layout, missing, others if likely else others | set(ids))
    again = {at for at in numbers if not pd.api.types.is_any_real_numeric_dtype(frame[at].dtype)}
    if likely and not (
        all(pd.api.types.is_integer_dtype(frame[at].dtype) for at in ids) and _integers_plain(path, layout)
    ):
        again |= set(ids)
    if again:  # what the parser takes for numbers is not what the file says
        frame[sorted(again)] = _parsed(path, layout, missing, again, only=sorted(again))
    first = 2 if header else 1
    frame.index = pd.RangeIndex(first, first + len(frame), name="line")
    frame.columns = pd.Index(layout.names, tupleize_cols=False)
    if "rating" in source:
        frame[source["rating"]] = _numbers(frame[source["rating"]], "rating")
    return frame


def find_layout(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    columns: Mapping[Any, str] | None,
    sep: str | None,
    header: bool,
) -> tuple[Layout, list[list[str]]]:
    """How to read a file, from its first lines; and these, field by field, without the header.

    With a header, what separates the columns is what gives those that are needed; without, what gives most columns, as
    many in every line.
    """
    lines = _lines(path, _SNIFFED)
    if not lines:
        raise ValueError("No columns to parse: the file is empty")
    records = {s: _records(lines, s) for s in _SEPARATORS} | ({} if sep is None else {sep: _records(lines, sep)})
    fits = {s: _fits(rows, needed, columns, header) for s, rows in records.items()}
    chosen = max(fits, key=lambda s: fits[s]) if sep is None else sep
    others = [s for s in fits if fits[s] > 0 >= fits[chosen]]
    hint = f"With sep={_written(others[0])} they are there. " if others else ""
    rows = records[chosen]
    if header:
        names: list[Any] = rows.pop(0)
        sources(names, columns, needed, optional, hint)
    else:
        names = _by_position(len(rows[0]), [*needed, *optional], columns)
        if missing := [name for name in needed if name not in names]:
            hint = (
                hint
                or 'Name what separates the columns, as in sep=";", or their positions, as in columns={0: "item_id"}'
            )
            raise ValueError(
                f"missing column {', '.join(missing)}: the first line has {len(names)} column(s), "
                f"{listed(rows[0], 12)}, and no names were asked for. {hint.strip()}"
            )
    if rows and len(rows[0]) > len(names):
        raise _uneven(1 + header, rows[0], len(names), chosen)
    return Layout(chosen, names, header), rows


def _lines(path: Path, count: int | None = None) -> list[str]:
    """The first lines that are not blank, decompressed and without a byte order mark."""
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
    return table[0].tolist()


def _records(lines: Sequence[str], sep: str) -> list[list[str]]:
    """The fields of lines."""
    if sep == " ":
        return [line.split() for line in lines]
    if len(sep) > 1:
        return [line.split(sep) for line in lines]
    try:
        return list(csv.reader((f"{line}\n" for line in lines), delimiter=sep))
    except csv.Error:  # a field that is very long
        return [line.split(sep) for line in lines]


def _fits(rows: list[list[str]], needed: Sequence[str], columns: Mapping[Any, str] | None, header: bool) -> float:
    """How well a separator reads these lines: above 0 if it may be the one."""
    widths = [len(row) for row in rows]
    if header:
        names = [(columns or {}).get(name, name) for name in rows[0]] if isinstance(columns or {}, Mapping) else []
        return widths[0] if set(needed) <= set(names) else -1 / widths[0]
    least = max([len(needed), *(k + 1 for k in columns or {} if isinstance(k, int))])
    return widths[0] if widths[0] >= least and len(set(widths)) == 1 else -1 / widths[0]


def _by_position(width: int, ours: Sequence[str], columns: Mapping[Any, str] | None) -> list[Any]:
    """Names of the columns of a file without a header: ours, or positions."""
    columns = dict(enumerate(ours)) if columns is None else columns
    if not isinstance(columns, Mapping) or not all(isinstance(k, int) and k >= 0 for k in columns):
        raise ValueError(
            "columns must be positions from 0 and our names where there is no header, as in "
            f'{{1: "user_id", 0: "item_id", 2: "rating"}}, not {listed([columns])}'
        )
    return [columns.get(position, position) for position in range(width)]


def _parsed(
    path: Path, layout: Layout, missing: Mapping[int, list[str]], text: set[int], only: Sequence[int] | None = None
) -> pd.DataFrame:
    """The columns by position: those of `text` as they are but for what is missing, others as the parser reads them."""
    width = len(layout.names)
    options: dict[str, Any] = {"sep": r"\s+" if layout.sep == " " else layout.sep}
    if layout.text is not None:
        options = {"sep": _JOINED, "quoting": csv.QUOTE_NONE}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # of mixed columns, which are read again as text
            return pd.read_csv(
                path if layout.text is None else io.StringIO(layout.text),
                header=0 if layout.header else None,
                names=range(width),
                usecols=only,
                index_col=False,
                dtype=dict.fromkeys(text, str),
                na_values={at: marks for at, marks in missing.items() if only is None or at in only},
                keep_default_na=False,
                encoding="utf-8-sig",
                engine="c",
                **options,
                **_EXACT,
            )
    except pd.errors.ParserError as error:
        for number, record in enumerate(_records(_lines(path), layout.sep), 1):
            if len(record) > width:
                raise _uneven(number, record, width, layout.sep) from error
        raise
    except UnicodeDecodeError as error:
        raise _not_text(error) from error


def _not_text(error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"the file is not text in UTF-8 ({error.reason}): save it as CSV in UTF-8")


def _uneven(line: int, record: Sequence[str], width: int, sep: str) -> ValueError:
    other = _written(";" if sep == "," else ",")
    return ValueError(
        f"line {line} has {len(record)} fields, {listed(record)}, and the first line {width}. A field that holds "
        f"{sep!r} needs quotes; if something else separates the columns, name it, as in sep={other}"
    )


def _written(sep: str) -> str:
    """A separator as Python writes it, in double quotes."""
    return f'"{sep}"'.replace("\t", r"\t")


def _numbers(values: pd.Series, name: str) -> pd.Series:
    """A column as numbers, which it must be but for gaps."""
    numbers = pd.to_numeric(values, errors="coerce")
    bad = (numbers.isna() & values.notna()).to_numpy()
    if bad.any():
        problem = f"no number ({listed(values[bad].unique())})"
        remedy = "expected numbers such as 4 or 3.5: correct these rows, or name the right column with columns="
        refuse_rows(bad, values, name, problem, f'{remedy}{{"your name": "{name}"}}')
    return numbers


def _integers_likely(rows: Sequence[Sequence[str]], positions: Sequence[int]) -> bool:
    """Whether the ids of the first rows are all integers, as Python writes them."""
    return all(not ids_of([row[at] for row in rows if at < len(row)], None)[1].any() for at in positions)


def _integers_plain(path: Path, layout: Layout) -> bool:
    """Whether no integer in the file is written otherwise than Python writes it; False also where this is not known.

    pandas reads 007, +7 and " 7" as the integer 7, and so a column of integers may be the ids of others. This looks at
    the bytes that stand beside separators and ends of lines, which costs less than a column of text.
    """
    sep = layout.sep if layout.text is None else _JOINED
    if sep == " " or ord(sep) > 127 or {".bz2", ".zip", ".xz", ".zst", ".tar"} & set(path.suffixes):
        return False
    every = np.arange(256)
    edges, blanks, digits = (np.isin(every, list(some)) for some in (f'{sep}\r\n"'.encode(), b" \t\v\f", b"0123456789"))
    blanks &= ~edges
    for block in _blocks(path, layout.text):
        edge = np.flatnonzero(edges[block[1:-2]]) + 1
        before, after, second = block[edge - 1], block[edge + 1], block[edge + 2]
        zero = (after == ord("0")) & digits[second] | (after == ord("-")) & (second == ord("0"))
        if (zero | (after == ord("+")) | blanks[after] | blanks[before]).any():
            return False
    return True


def _blocks(path: Path, text: str | None) -> Iterator[np.ndarray]:
    """The bytes of a file, each block with the last three of the one before; ends of lines stand around the whole."""
    open_file: Any = gzip.open if path.suffix == ".gz" else open
    tail = b"\n\n"
    with open_file(path, "rb") if text is None else io.BytesIO(text.encode()) as file:
        while block := file.read(_BLOCK):
            yield np.frombuffer(tail + block.removeprefix(b"\xef\xbb\xbf"), np.uint8)
            tail = (tail + block)[-3:]
    yield np.frombuffer(tail + b"\n\n\n", np.uint8)
