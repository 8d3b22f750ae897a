"""The tables of a study: what a run that was cut off left of them, and their figures."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd


def append(tables: dict[str, pd.DataFrame], name: str, rows: pd.DataFrame) -> None:
    """Add rows to the table of that name."""
    tables[name] = pd.concat([tables[name], rows], ignore_index=True) if len(tables[name]) else rows


def done(tables: dict[str, pd.DataFrame]) -> set[tuple[str, str]]:
    """The models with the solvers that have been fitted."""
    metrics = tables["metrics"]
    return set(zip(metrics["model"], metrics["solver"], strict=True)) if len(metrics) else set()


def unfinished(out: Path, manifest: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables that a cut-off run of the same configuration left in `out`, else empty ones."""
    names = ("metrics", "search", "history", "ranking")
    empty = {name: pd.DataFrame() for name in names}
    try:
        before = json.loads((out / "config.json").read_text(encoding="utf-8"))
        same = all(before[part] == manifest[part] for part in ("configuration", "data", "versions", "seed", "dtype"))
        if before["finished"] or not same:
            return empty
        found = {name: pd.read_csv(out / f"{name}.csv") for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it is somebody else's, or was changed
        return empty
    # A run may have died between two files: keep what every file has.
    whole = set.intersection(*(set(zip(t["model"], t["solver"], strict=True)) for t in found.values()))
    return {name: t[[pair in whole for pair in zip(t["model"], t["solver"], strict=True)]] for name, t in found.items()}


def draw(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    """The figures of the tables."""
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
    """The figure of the sweep over rank and λ."""
    from jaxmf import plot

    plot.save(plot.heat_map(grid, "valid_rmse", "rank", "l2"), out / "figures" / "rank_and_l2.png")
