"""Figures of sweeps: heat maps, panels and curves."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxmf.plot.style import COLORS, WORDS, by, panels, styles, view
from jaxmf.training.options import cost_sign


def heat_map(table: pd.DataFrame, metric: str, rows: str, columns: str) -> Figure:
    """Draw the mean of a metric for every pair of values of two swept numbers; the best is framed.

    The best is the lowest or, of a ranking such as "valid_ndcg", the highest.

    Args:
      table: one row per member, as returned by `Sweep.to_frame`; seeds and folds are averaged.
      metric: a column of the table.
      rows, columns: columns of the two swept numbers, such as "rank" and "l2".
    """
    means = table.pivot_table(metric, rows, columns, aggfunc="mean", dropna=False)
    figure = panels(1, 1, width=1.8 + 0.8 * means.shape[1], height=1.4 + 0.45 * means.shape[0])
    axes, values = figure.axes[0], means.to_numpy(float)
    axes.grid(visible=False)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    best = low if cost_sign(metric) > 0 else high
    image = axes.imshow(values, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    figure.colorbar(image, label=WORDS.get(metric, metric))
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < (low + high) / 2 else "black"
        axes.text(column, row, f"{value:.4f}", ha="center", va="center", color=color, fontsize=8)
        if value == best:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in means.columns])
    axes.set_yticks(range(means.shape[0]), [f"{value:g}" for value in means.index])
    axes.set(xlabel=WORDS.get(columns, columns), ylabel=WORDS.get(rows, rows))
    return figure


def panel(table: pd.DataFrame, metrics: Sequence[str], x: str, lines: str | None = None) -> Figure:
    """Draw metrics against one swept number, one panel each, one line per value of another; bars are standard errors.

    Args:
      table: one row per member, as returned by `Sweep.to_frame`.
      metrics: columns of the table; missing ones are left out.
      x, lines: columns of the two swept numbers, such as "rank" and "l2"; x may also hold ordered categories.
    """
    numeric, numbered = (name is None or pd.api.types.is_numeric_dtype(table[name]) for name in (x, lines))
    metrics = [metric for metric in metrics if metric in table]
    figure = panels(-(-len(metrics) // 2), min(2, len(metrics)))
    for axes, metric in zip(figure.axes, metrics, strict=False):
        groups = [("", table)] if lines is None else by(table.sort_values(lines), lines)
        for (name, runs), style in zip(groups, styles(), strict=False):
            summary = runs.groupby(x, observed=True)[metric].agg(["mean", "sem"])
            positions = summary.index if numeric else summary.index.astype(str)
            label = (f"{WORDS.get(lines, lines)} = {name}" if numbered else name) if lines else None
            axes.errorbar(positions, summary["mean"], summary["sem"].fillna(0), label=label, capsize=3, **style)
        axes.set(xlabel=WORDS.get(x, x), ylabel=WORDS.get(metric, metric))
        if x.startswith(("l2", "learning_rate", "unobserved")) and table[x].min() > 0:
            axes.set_xscale("log")
            axes.minorticks_off()
        if numeric:
            axes.set_xticks(ticks := sorted(table[x].unique()), [f"{tick:g}" for tick in ticks])
    for axes in figure.axes[len(metrics) :]:
        axes.set_visible(False)
    if lines is not None and len(metrics) == 1:
        figure.axes[0].legend()
    elif lines is not None:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def facets(table: pd.DataFrame, metrics: Sequence[str], x: str, by_panel: str) -> Figure:
    """Draw one panel per value of one number, with one line per metric against another, all on one scale from 0.

    Args:
      table: one row per setting, with the columns in `metrics`, x and by_panel.
      metrics: columns of the table.
      x, by_panel: columns of the two numbers, such as "rank" and "l2".
    """
    groups = by(table.sort_values([by_panel, x]), by_panel)
    columns = min(2, len(groups))
    figure = panels(-(-len(groups) // columns), columns, sharey=True)
    for axes, (name, runs) in zip(figure.axes, groups, strict=False):
        for metric, style in zip(metrics, styles(), strict=False):
            axes.plot(runs[x], runs[metric], label=WORDS.get(metric, metric), **style)
        axes.set(title=f"{WORDS.get(by_panel, by_panel)} = {name}", xlabel=WORDS.get(x, x), ylabel="error")
        axes.set_xticks(ticks := sorted(table[x].unique()), [f"{tick:g}" for tick in ticks])
    figure.axes[0].set_ylim(0, None)
    columns = 4 if len(groups) > 1 else 2
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=columns)
    return figure


def landscape(planes: Mapping[str, pd.DataFrame], paths: pd.DataFrame) -> Figure:
    """Draw how far the objective is above its lowest value in planes through a solution, and paths in the last plane.

    Args:
      planes: name -> columns a, b (coordinates, on a square grid) and objective.
      paths: columns solver, epoch, a, b.
    """
    figure = panels(1, len(planes), width=5.5, height=4.6)
    for axes, (name, table) in zip(figure.axes, planes.items(), strict=False):
        grid = table.pivot_table("objective", "b", "a")
        above = np.maximum(grid.to_numpy() - np.nanmin(grid.to_numpy()), 1e-2)
        levels = np.geomspace(above.min(), above.max(), 16)
        drawn = axes.contourf(grid.columns, grid.index, above, levels=levels, norm="log", cmap="viridis")
        axes.plot(0, 0, "r*", markersize=12, label="solution of ALS")
        axes.set(xlabel=f"{name} direction 1", ylabel=f"{name} direction 2", xlim=(-2, 2), ylim=(-2, 2))
        figure.colorbar(drawn, label="objective above its lowest value here", format="{x:.3g}")
    # Colors that viridis does not contain.
    shades = iter(["white", "#E69F00", "black", "#CC79A7", "#D55E00", "#56B4E9"])
    for (solver, path), style in zip(by(paths, "solver"), styles(), strict=False):
        axes.plot(path["a"], path["b"], label=solver, **style | {"color": next(shades), "markersize": 5})
    axes.legend(fontsize=8, loc="lower right")
    return figure


def curves(history: pd.DataFrame, metric: str, settings: Sequence[str]) -> Figure:
    """Draw a metric by epoch, one line per setting, the mean over its seeds and folds that still run.

    The legend names the best seven settings.

    Args:
      history: one row per member and epoch, such as `Sweep.history`.
      metric: a column of the table.
      settings: the columns that define a setting.
    """
    figure = panels(1, 1, width=6.5, height=4)
    axes = figure.axes[0]
    words = [WORDS.get(name, name) for name in settings]
    rows = history[list(settings)].to_numpy(object)
    parts = ([v if isinstance(v, str) else f"{w} = {v:g}" for w, v in zip(words, row, strict=True)] for row in rows)
    names = [", ".join(part) for part in parts]
    means = history.assign(setting=names).pivot_table(metric, "epoch", "setting", aggfunc="mean", dropna=False)
    sign = cost_sign(metric)
    order = (sign * means).min().sort_values().index
    for name in order[len(COLORS) :]:
        axes.plot(means.index, means[name], color="lightgray", linewidth=1)
    for name, style in zip(order[: len(COLORS)], styles(), strict=False):
        axes.plot(means.index, means[name], label=name or metric, markevery=max(1, len(means) // 8), **style)
    axes.set(xlabel="epoch", ylabel=WORDS.get(metric, metric))
    if sign > 0:  # a ranking starts low, and that belongs to the picture
        axes.set_ylim(*view(history[metric]))
    named = len(settings) == 1 and history[settings[0]].map(type).eq(str).all()
    axes.legend(fontsize=8, title=words[0] if named else None)
    return figure
