"""Shared by all figures: colors and markers, axes and limits, and how to write a file."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxmf.files.output import write

# Okabe and Ito (2008): distinguishable with all common types of color vision, and by marker in print.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"

WORDS = {
    "l2": "λ",
    "lambda_reg": "λ",
    "l2_bias": "λ of biases",
    "reg_exponent": "ν",  # noqa: RUF001
    "learning_rate": "learning rate",
    "unobserved": "α0",  # noqa: RUF001
    "rmse": "RMSE",
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "valid_rmse": "validation RMSE",
    "valid_mae": "validation MAE",
    "valid_ndcg": "validation NDCG@10",
    "train_rmse": "training RMSE",
    "test_rmse": "test RMSE",
    "train_mse": "training MSE",
    "train_mae": "training MAE",
    "test_mse": "test MSE",
    "test_mae": "test MAE",
    "seconds": "seconds, compilation excluded",
    "gap": "objective above the lowest, relative",
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write(path, lambda p: figure.savefig(p, dpi=130, metadata={"Software": None}))


def panels(rows: int, columns: int, width: float = 4.6, height: float = 3.2, sharey: bool | str = False) -> Figure:
    """Return a figure with rows × columns axes, each of this width and height in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, sharey=sharey)  # type: ignore[arg-type]
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    return figure


def styles() -> Iterator[dict[str, Any]]:
    """Cycle through line styles that differ in color and in marker."""
    return itertools.cycle(
        [{"color": c, "marker": m, "markersize": 4, "linewidth": 1.4} for c, m in zip(COLORS, MARKERS, strict=True)]
    )


def by(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Split the table into one part per value of a column, in order of appearance."""
    return [(str(name), group) for name, group in table.groupby(column, sort=False)]


def view(values: pd.Series, *more: float) -> tuple[float, float]:
    """Return axis limits that show where lines differ, not the height of the first epochs or a divergence."""
    finite = values[np.isfinite(values)]
    if finite.empty:
        finite = pd.Series(more or (0.0, 1.0))
    low, high = min(finite.min(), *more, np.inf), max(min(finite.quantile(0.97), 3 * finite.median()), *more, -np.inf)
    margin = 0.04 * (high - low) or 0.1
    return low - margin, high + margin
