"""Find the columns user_id, item_id, rating and timestamp in a table, under the caller's names."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from jaxmf.data.checks import expect, listed

RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_MAX_SHOWN = 12  # columns of a table that a message lists


def sources(
    labels: Iterable[Any],
    columns: Mapping[Any, str] | None,
    needed: Iterable[str] = RATING_COLUMNS[:3],
    optional: Iterable[str] = RATING_COLUMNS[3:],
    hint: str = "",
) -> dict[str, Any]:
    """Return the table's label of each needed column, and of the optional columns that are present, by our names.

    Args:
      labels: the labels of the table's columns.
      columns: our names by the table's labels.
      needed: our names of the columns that must be present.
      optional: our names of the columns that may be present.
      hint: further advice in the message about a missing column.

    Raises:
      ValueError: a column is missing or present more than once.
    """
    if columns is not None:
        expect(columns, Mapping, "columns", 'expected the table\'s names and ours, as in {"userId": "user_id"}')
    needed, labels = tuple(needed), list(labels)
    source: dict[str, list[Any]] = {name: [] for name in (*needed, *optional)}
    for label in labels:
        target = (columns or {}).get(label, label)
        if target in source:
            source[target].append(label)
    missing = [name for name in needed if not source[name]]
    if missing:
        remedy = ", ".join(f'"your name": "{name}"' for name in missing)
        raise ValueError(
            f"missing column {', '.join(missing)}; found [{listed(labels, _MAX_SHOWN)}]. {hint}Rename with "
            f"columns={{{remedy}}}, or rename the table's columns"
        )
    for name, matches in source.items():
        if len(matches) > 1:
            raise ValueError(
                f"column {name} is present {len(matches)} times, as [{listed(matches)}]; expected it once: drop one"
            )
    return {name: matches[0] for name, matches in source.items() if matches}


def source_columns(frame: pd.DataFrame, columns: Mapping[Any, str] | None) -> dict[str, Any]:
    """Return the frame's label of each column that a Dataset reads, by our names."""
    expect(
        frame,
        pd.DataFrame,
        "from_frame: frame",
        "pandas.DataFrame(...) makes one; Dataset.from_arrays, from_scipy, from_csv and from_parquet take other inputs",
    )
    return sources(frame.columns, columns)
