"""Which column of a table is which of ours."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from jaxmf.data.checks import expect, listed

RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_SHOWN = 12  # so many columns of a table a message lists


def sources(
    found: Iterable[Any],
    columns: Mapping[Any, str] | None,
    needed: Iterable[str] = RATING_COLUMNS[:3],
    optional: Iterable[str] = RATING_COLUMNS[3:],
    hint: str = "",
) -> dict[str, Any]:
    """The table's own name of each column that is needed, and of the optional ones that are there.

    Args:
      found: the columns of the table.
      columns: the caller's names of columns and ours.
      needed: our names of columns that must be there.
      optional: our names of columns that may be there.
      hint: what else could be done about a missing column.

    Raises:
      ValueError: a column that is missing or there more than once.
    """
    if columns is not None:
        expect(columns, Mapping, "columns", 'expected the table\'s names and ours, as in {"userId": "user_id"}')
    needed, found = tuple(needed), list(found)
    source: dict[str, list[Any]] = {name: [] for name in (*needed, *optional)}
    for column in found:
        target = (columns or {}).get(column, column)
        if target in source:
            source[target].append(column)
    missing = [name for name in needed if not source[name]]
    if missing:
        remedy = ", ".join(f'"your name": "{name}"' for name in missing)
        raise ValueError(
            f"missing column {', '.join(missing)}; found [{listed(found, _SHOWN)}]. {hint}Rename with "
            f"columns={{{remedy}}}, or rename the table's columns"
        )
    for name, own in source.items():
        if len(own) > 1:
            raise ValueError(f"column {name} is there {len(own)} times, as [{listed(own)}]; expected it once: drop one")
    return {name: own[0] for name, own in source.items() if own}


def source_columns(frame: pd.DataFrame, columns: Mapping[Any, str] | None) -> dict[str, Any]:
    """The frame's own name of each column that a Dataset reads."""
    expect(
        frame,
        pd.DataFrame,
        "from_frame: frame",
        "pandas.DataFrame(...) makes one; Dataset.from_arrays, from_scipy, from_csv and from_parquet take other things",
    )
    return sources(frame.columns, columns)
