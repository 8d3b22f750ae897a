"""Find the columns user_id, item_id, rating, timestamp and weight in a table, under the caller's names."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from jaxmf.data.checks import expect, listed, short

NEEDED = ("user_id", "item_id")
OPTIONAL = ("rating", "timestamp", "weight")
POSITIONS = ("user_id", "item_id", "rating", "timestamp")  # of the columns in a file without a header, by default
_MEASURES = ("rating", "weight")  # without them each row counts 1, so they must not be missing by mistake
_MAX_SHOWN = 12  # columns of a table that a message lists


def sources(
    labels: Iterable[Any],
    columns: Mapping[Any, str] | None,
    needed: Iterable[str] = NEEDED,
    optional: Iterable[str] = OPTIONAL,
    hint: str = "",
) -> dict[str, Any]:
    """Return the table's label of each needed column, and of the optional columns that are present, by our names.

    Args:
      labels: the labels of the table's columns.
      columns: our names by the table's labels.
      needed: our names of the columns that must be present.
      optional: our names of the columns that may be present. A rating or weight that `columns` names must be.
      hint: further advice in the message about a missing column.

    Raises:
      ValueError: a column is missing or present more than once.
    """
    if columns is not None:
        expect(columns, Mapping, "columns", 'expected the table\'s names and ours, as in {"userId": "user_id"}')
    needed, labels = tuple(needed), list(labels)
    optional = tuple(optional)
    source: dict[str, list[Any]] = {name: [] for name in (*needed, *optional)}
    for label in labels:
        target = (columns or {}).get(label, label)
        if target in source:
            source[target].append(label)
    missing = [name for name in required(needed, optional, columns) if not source[name]]
    if missing:
        remedy = ", ".join(f'"your name": "{name}"' for name in missing)
        raise ValueError(
            f"missing column {called(missing, columns)}; found [{listed(labels, _MAX_SHOWN)}]. {hint}Rename with "
            f"columns={{{remedy}}}, or rename the table's columns"
        )
    for name, matches in source.items():
        if len(matches) > 1:
            raise ValueError(
                f"column {name} is present {len(matches)} times, as [{listed(matches)}]; expected it once: drop one"
            )
    return {name: matches[0] for name, matches in source.items() if matches}


def required(needed: Iterable[str], optional: Iterable[str], columns: Mapping[Any, str] | None) -> list[str]:
    """Return our names of the columns that must be present: the needed ones, and the measures that `columns` names."""
    named = set((columns or {}).values())
    return [*needed, *(name for name in optional if name in _MEASURES and name in named)]


def called(names: Iterable[str], columns: Mapping[Any, str] | None) -> str:
    """Return our names for a message, each in parentheses after the names that `columns` gives it, if any."""
    given = {name: [label for label, ours in (columns or {}).items() if ours == name] for name in names}
    return ", ".join(f"{listed(labels)} ({name})" if labels else name for name, labels in given.items())


def with_weight(columns: Mapping[Any, str] | None, weight: Any, header: bool = True) -> Mapping[Any, str] | None:
    """Return `columns` with the column of weights that the argument `weight` names, if it is not None.

    Raises:
      ValueError: `weight` is not the name of a column, or its position without a header, or `columns` names it too.
    """
    if weight is None:
        return columns
    if columns is not None:
        expect(columns, Mapping, "columns", 'expected the table\'s names and ours, as in {"userId": "user_id"}')
    if pd.api.types.is_list_like(weight) and not isinstance(weight, tuple):
        raise ValueError(
            f'weight must be the name of a column, as in weight="plays", not {type(weight).__name__}: make the weights '
            "a column of the table, or use Dataset.from_arrays"
        )
    if not header and not (isinstance(weight, int) and not isinstance(weight, bool) and weight >= 0):
        raise ValueError(f"weight must be a position from 0 if there is no header, such as 2, not {short(weight)}")
    if columns is not None and (weight in columns or "weight" in columns.values()):
        raise ValueError(
            f"weight={short(weight)} and columns={short(dict(columns))} both say which column holds the weights, or "
            "what it holds: name it in one of them"
        )
    positions = {} if header else dict(enumerate(POSITIONS))
    return {**(positions if columns is None else columns), weight: "weight"}


def source_columns(
    frame: pd.DataFrame, columns: Mapping[Any, str] | None, needed: Iterable[str] = NEEDED
) -> dict[str, Any]:
    """Return the frame's label of each column that a Dataset reads, by our names."""
    expect(
        frame,
        pd.DataFrame,
        "from_frame: frame",
        "pandas.DataFrame(...) makes one; Dataset.from_arrays, from_scipy, from_csv and from_parquet take other inputs",
    )
    return sources(frame.columns, columns, needed, OPTIONAL)
