"""Figures of studies and sweeps: labelled, colour-blind safe, drawn without a display."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from jaxmf.output import write

# Okabe and Ito (2008): distinguishable with every common colour vision, and by marker in print.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*"

_WORDS = {
    "l2": "λ",
    "l2_bias": "λ of biases",
    "reg_exponent": "ν",  # noqa: RUF001
    "learning_rate": "learning rate",
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "valid_rmse": "validation RMSE",
    "valid_mae": "validation MAE",
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write(path, lambda p: figure.savefig(p, dpi=130, metadata={"Software": None}))


def convergence(history: pd.DataFrame, baseline: float) -> Figure:
    """Validation RMSE by epoch and by second, one row of panels per model, one line per solver.

    Args:
      history: columns model, solver, epoch, seconds, valid_rmse.
      baseline: validation RMSE of the damped bias baseline, drawn as a horizontal line.
    """
    models = list(dict.fromkeys(history["model"]))
    figure = _figure(len(models), 2, sharey="row")
    for row, model in enumerate(models):
        for column, (x, label) in enumerate([("epoch", "epoch"), ("seconds", "seconds, compilation excluded")]):
            axes = figure.axes[2 * row + column]
            for (solver, runs), style in zip(
                _groups(history[history["model"] == model], "solver"), _styles(), strict=False
            ):
                axes.plot(runs[x], runs["valid_rmse"], label=solver, markevery=max(1, len(runs) // 8), **style)
            axes.axhline(baseline, color="gray", linestyle=":", label="damped bias")
            axes.set(title=f"{model} by {x.rstrip('s')}", xlabel=label, ylabel="validation RMSE")
            if np.isfinite(axes.dataLim.minposx):  # nothing to scale if every fit diverged at once
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(*_view(history[history["model"] == model]["valid_rmse"], baseline))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def generalization(history: pd.DataFrame) -> Figure:
    """Training against validation RMSE by epoch, one panel per model and solver."""
    groups = list(history.groupby(["model", "solver"], sort=False))
    columns = history["solver"].nunique()
    figure = _figure(-(-len(groups) // columns), columns, width=2.7, sharey=True)
    for axes, ((model, solver), runs) in zip(figure.axes, groups, strict=False):
        train = np.sqrt(runs["train_loss"])
        axes.plot(runs["epoch"], train, color=_COLORS[0], label="training")
        axes.plot(runs["epoch"], runs["valid_rmse"], color=_COLORS[1], linestyle="--", label="validation")
        axes.fill_between(runs["epoch"], train, runs["valid_rmse"], color="gray", alpha=0.2, linewidth=0)
        best = runs[runs["valid_rmse"] == runs["valid_rmse"].min()].head(1)  # none if it diverged at once
        axes.plot(best["epoch"], best["valid_rmse"], "k*", markersize=9, label="best on validation")
        axes.set(title=f"{model}, {solver}", xlabel="epoch")
    for axes in figure.axes[::columns]:
        axes.set_ylabel("RMSE")
    figure.axes[0].set_ylim(*_view(pd.concat([np.sqrt(history["train_loss"]), history["valid_rmse"]])))
    figure.axes[0].legend(fontsize=8)
    return figure


def error_by_solver(metrics: pd.DataFrame) -> Figure:
    """Test and validation RMSE of every model and solver, best last.

    Args:
      metrics: columns model, solver, valid_rmse, test_rmse.
    """
    table = metrics.sort_values("test_rmse", ascending=False).reset_index(drop=True)
    figure = _figure(1, 1, width=7.5, height=0.9 + 0.3 * len(table))
    axes = figure.axes[0]
    for name, style in zip(("valid_rmse", "test_rmse"), _styles(), strict=False):
        label = {"valid_rmse": "validation", "test_rmse": "test"}[name]
        axes.plot(table[name], table.index, **style | {"linestyle": ""}, label=label)
    axes.hlines(table.index, table["valid_rmse"], table["test_rmse"], color="lightgray", zorder=0)
    axes.set(yticks=table.index, yticklabels=table["model"] + ", " + table["solver"], xlabel="RMSE")
    for y, value in enumerate(table["test_rmse"]):
        axes.annotate(f"{value:.4f}", (value, y), (7, -3), textcoords="offset points", fontsize=8)
    axes.margins(x=0.12)
    axes.legend()
    return figure


def regularization(search: pd.DataFrame) -> Figure:
    """Best validation RMSE against λ, one panel per model, one line per solver."""
    models = list(dict.fromkeys(search["model"]))
    figure = _figure(1, len(models))
    for axes, model in zip(figure.axes, models, strict=True):
        for (solver, runs), style in zip(_groups(search[search["model"] == model], "solver"), _styles(), strict=False):
            axes.plot(runs["l2"], runs["valid_rmse"], label=solver, **style)
        axes.set(title=model, xscale="log", xlabel="λ, per observation", ylabel="best validation RMSE")
        axes.set_xticks(ticks := sorted(search["l2"].unique()), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    figure.axes[0].legend()
    return figure


def heat_map(table: pd.DataFrame, metric: str, rows: str, columns: str) -> Figure:
    """The mean of a metric for every pair of two swept numbers; the lowest is framed.

    Args:
      table: one row per member, as `Sweep.to_frame` gives it; over seeds and folds it is averaged.
      metric: a column of it.
      rows, columns: the two numbers, such as "rank" and "l2".
    """
    means = table.pivot_table(metric, rows, columns, aggfunc="mean", dropna=False)
    figure = _figure(1, 1, width=1.8 + 0.8 * means.shape[1], height=1.4 + 0.45 * means.shape[0])
    axes, values = figure.axes[0], means.to_numpy(float)
    axes.grid(visible=False)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    image = axes.imshow(values, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, label=_WORDS.get(metric, metric))
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < (low + high) / 2 else "black"
        axes.text(column, row, f"{value:.4f}", ha="center", va="center", color=color, fontsize=8)
        if value == low:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in means.columns])
    axes.set_yticks(range(means.shape[0]), [f"{value:g}" for value in means.index])
    axes.set(xlabel=_WORDS.get(columns, columns), ylabel=_WORDS.get(rows, rows))
    return figure


def panel(table: pd.DataFrame, metrics: Sequence[str], x: str, lines: str | None = None) -> Figure:
    """Metrics against one swept number, a panel each, one line per value of another; bars are standard errors.

    Args:
      table: one row per member, as `Sweep.to_frame` gives it.
      metrics: columns of it; those that it lacks are left out.
      x, lines: the two numbers, such as "rank" and "l2".
    """
    metrics = [metric for metric in metrics if metric in table]
    figure = _figure(-(-len(metrics) // 2), min(2, len(metrics)))
    for axes, metric in zip(figure.axes, metrics, strict=False):
        groups = [("", table)] if lines is None else _groups(table.sort_values(lines), lines)
        for (name, runs), style in zip(groups, _styles(), strict=False):
            found = runs.groupby(x)[metric].agg(["mean", "sem"])
            label = f"{_WORDS.get(lines, lines)} = {name}" if lines else None
            axes.errorbar(found.index, found["mean"], found["sem"].fillna(0), label=label, capsize=3, **style)
        axes.set(xlabel=_WORDS.get(x, x), ylabel=_WORDS.get(metric, metric))
        axes.set_xticks(ticks := sorted(table[x].unique()), [f"{tick:g}" for tick in ticks])
    for axes in figure.axes[len(metrics) :]:
        axes.set_visible(False)
    if lines is not None:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def curves(history: pd.DataFrame, metric: str, settings: Sequence[str]) -> Figure:
    """A metric by epoch, one line per setting, the best seven named: the mean of its seeds and folds that still run.

    Args:
      history: one row per member and epoch, as `Sweep.history`.
      metric: a column of it.
      settings: the columns that say what a setting is.
    """
    figure = _figure(1, 1, width=6.5, height=4)
    axes = figure.axes[0]
    words = [_WORDS.get(name, name) for name in settings]
    rows = history[list(settings)].itertuples(index=False)
    names = [", ".join(f"{word} = {value:g}" for word, value in zip(words, row, strict=True)) for row in rows]
    means = history.assign(setting=names).pivot_table(metric, "epoch", "setting", aggfunc="mean", dropna=False)
    order = means.min().sort_values().index
    for name in order[len(_COLORS) :]:
        axes.plot(means.index, means[name], color="lightgray", linewidth=1)
    for name, style in zip(order[: len(_COLORS)], _styles(), strict=False):
        axes.plot(means.index, means[name], label=name or metric, markevery=max(1, len(means) // 8), **style)
    axes.set(xlabel="epoch", ylabel=_WORDS.get(metric, metric), ylim=_view(history[metric]))
    axes.legend(fontsize=8)
    return figure


def _figure(rows: int, columns: int, width: float = 4.6, height: float = 3.2, sharey: bool | str = False) -> Figure:
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, sharey=sharey)  # type: ignore[arg-type]
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    return figure


def _styles() -> itertools.cycle:
    return itertools.cycle(
        [{"color": c, "marker": m, "markersize": 4, "linewidth": 1.4} for c, m in zip(_COLORS, _MARKERS, strict=True)]
    )


def _groups(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), group) for name, group in table.groupby(column, sort=False)]


def _view(values: pd.Series, *more: float) -> tuple[float, float]:
    """Limits that show where the lines differ, not the first epochs' height or a divergence."""
    finite = values[np.isfinite(values)]
    if finite.empty:
        finite = pd.Series(more or (0.0, 1.0))
    low, high = min(finite.min(), *more, np.inf), max(min(finite.quantile(0.97), 3 * finite.median()), *more, -np.inf)
    margin = 0.04 * (high - low) or 0.1
    return low - margin, high + margin
