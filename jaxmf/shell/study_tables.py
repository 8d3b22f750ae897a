"""The tables of a study: reading those of an interrupted run, adding rows, writing them, and drawing their figures."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from jaxmf.files import output


class WrongGradientError(Exception):
    """A gradient failed its verification; the message names model and leaf."""


def begin(out: Path, manifest: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the tables of an interrupted run of the same study, or empty ones, and write the manifest."""
    tables = unfinished(out, manifest)
    if not len(tables["metrics"]):
        # If this run is interrupted before its first row, the next one must not find rows of another configuration.
        for name in tables:
            (out / f"{name}.csv").unlink(missing_ok=True)
    output.write_json(out / "config.json", manifest | {"finished": False})
    return tables


def write(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write every table that has rows."""
    for name, table in tables.items():
        if len(table):
            output.write_table(out / f"{name}.csv", table)


def refuse_wrong(gradients: pd.DataFrame, out: Path) -> None:
    """Write the report of the gradients; raise WrongGradientError if one of them is wrong."""
    output.write_table(out / "gradients.csv", gradients)
    if not gradients["passed"].all():
        wrong = gradients.loc[~gradients["passed"], ["model", "leaf"]].agg(" ".join, axis=1)
        raise WrongGradientError(f"gradient verification failed for {', '.join(wrong)}; see {out / 'gradients.csv'}")


def append(tables: dict[str, pd.DataFrame], name: str, rows: pd.DataFrame) -> None:
    """Add rows to the table of that name."""
    tables[name] = pd.concat([tables[name], rows], ignore_index=True) if len(tables[name]) else rows


def done(tables: dict[str, pd.DataFrame]) -> set[tuple[str, str]]:
    """Return the pairs of model and solver that have been fitted."""
    metrics = tables["metrics"]
    return set(zip(metrics["model"], metrics["solver"], strict=True)) if len(metrics) else set()


def unfinished(out: Path, manifest: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the tables that an interrupted run left in `out`; empty ones if data, options or versions differ."""
    names = ("metrics", "search", "history", "ranking")
    empty = {name: pd.DataFrame() for name in names}
    try:
        earlier = json.loads((out / "config.json").read_text(encoding="utf-8"))
        same = all(earlier[part] == manifest[part] for part in ("configuration", "data", "versions", "seed", "dtype"))
        if earlier["finished"] or not same:
            return empty
        tables = {name: pd.read_csv(out / f"{name}.csv") for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not written by a study, or edited
        return empty
    # A run may have died between two files: keep the pairs that every file has.
    pairs = {name: list(zip(table["model"], table["solver"], strict=True)) for name, table in tables.items()}
    complete = set.intersection(*map(set, pairs.values()))
    return {name: table[[pair in complete for pair in pairs[name]]] for name, table in tables.items()}


def draw(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Draw the figures of the tables."""
    from jaxmf import plot

    chosen = tables["history"][tables["history"]["chosen"]]
    metrics = tables["metrics"]
    baseline = float(metrics.loc[metrics["model"] == "damped_bias", "valid_rmse"].iloc[0])
    figures = {
        "convergence": partial(plot.convergence, chosen, baseline),
        "generalization": partial(plot.generalization, chosen),
        "error_by_solver": partial(plot.error_by_solver, metrics),
        "regularization": partial(plot.regularization, tables["search"]),
        "ranking": partial(plot.rankings, tables["ranking"]),
    }
    for name, figure in figures.items():
        plot.save(figure(), out / "figures" / f"{name}.png")


def draw_grid(out: Path, grid: pd.DataFrame) -> None:
    """Draw the figure of the sweep over rank and λ."""
    from jaxmf import plot

    plot.save(plot.heat_map(grid, "valid_rmse", "rank", "l2"), out / "figures" / "rank_and_l2.png")
