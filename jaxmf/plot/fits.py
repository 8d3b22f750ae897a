"""Figures of fits: convergence, generalization, errors, rankings, regularization and scaling."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jaxmf.plot.style import COLORS, WORDS, by, panels, styles, view
from jaxmf.training.options import cost_sign


def convergence(
    history: pd.DataFrame, baseline: float, metric: str = "valid_rmse", baseline_name: str = "damped bias"
) -> Figure:
    """Draw a validation metric by epoch and by second, one row of panels per model, one line per solver.

    Args:
      history: columns model, solver, epoch, seconds, and the metric.
      baseline: the metric of a baseline, drawn as a horizontal line.
      metric: a column of the history, such as "valid_ndcg".
      baseline_name: name of the baseline in the legend.
    """
    models = list(dict.fromkeys(history["model"]))
    figure = panels(len(models), 2, sharey="row")
    for row, model in enumerate(models):
        of_model = history[history["model"] == model]
        for column, (x, label) in enumerate([("epoch", "epoch"), ("seconds", "seconds, compilation excluded")]):
            axes = figure.axes[2 * row + column]
            for (solver, runs), style in zip(by(of_model, "solver"), styles(), strict=False):
                axes.plot(runs[x], runs[metric], label=solver, markevery=max(1, len(runs) // 8), **style)
            axes.axhline(baseline, color="gray", linestyle=":", label=baseline_name)
            axes.set(title=f"{model} by {x.rstrip('s')}", xlabel=label, ylabel=WORDS.get(metric, metric))
            if np.isfinite(axes.dataLim.minposx):  # false if every fit diverged in its first epoch
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
            if cost_sign(metric) > 0:  # a ranking starts low, and that belongs to the picture
                axes.set_ylim(*view(of_model[metric], baseline))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def bands(table: pd.DataFrame, metrics: Sequence[str], xs: Sequence[str], log: Sequence[str] = ()) -> Figure:
    """Draw metrics against one or more quantities, one row of panels per metric, one line with a band per solver.

    Args:
      table: columns solver, those in `metrics` and `xs`, and each metric's band, `METRIC_low` and `METRIC_high`.
      metrics, xs: columns of the table, such as "test_rmse" and "epoch".
      log: the metrics and xs with a logarithmic axis.
    """
    figure = panels(len(metrics), len(xs), width=5.4, height=3.8, sharey="row")
    for axes, (metric, x) in zip(figure.axes, [(metric, x) for metric in metrics for x in xs], strict=True):
        for (solver, runs), style in zip(by(table, "solver"), styles(), strict=False):
            marked = np.unique(np.geomspace(1, len(runs), 9).astype(int)) - 1
            axes.plot(runs[x], runs[metric], label=solver, markevery=marked.tolist(), **style)
            band = runs[f"{metric}_low"], runs[f"{metric}_high"]
            axes.fill_between(runs[x], *band, color=style["color"], alpha=0.2, linewidth=0)
        axes.set(xlabel=WORDS.get(x, x), xscale="log" if x in log else "linear")
        axes.set_yscale("log" if metric in log else "linear")
        if x in log:
            axes.xaxis.set_major_formatter("{x:g}")
        if metric not in log:
            axes.set_ylim(*view(table[metric]))
    for axes, metric in zip(figure.axes[:: len(xs)], metrics, strict=True):
        axes.set_ylabel(WORDS.get(metric, metric))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=7)
    return figure


def generalization(history: pd.DataFrame) -> Figure:
    """Draw training and validation RMSE by epoch, one panel per model and solver."""
    groups = list(history.groupby(["model", "solver"], sort=False))
    columns = history["solver"].nunique()
    figure = panels(-(-len(groups) // columns), columns, width=2.7, sharey=True)
    for axes, ((model, solver), runs) in zip(figure.axes, groups, strict=False):
        train = np.sqrt(runs["train_loss"])
        axes.plot(runs["epoch"], train, color=COLORS[0], label="training")
        axes.plot(runs["epoch"], runs["valid_rmse"], color=COLORS[1], linestyle="--", label="validation")
        axes.fill_between(runs["epoch"], train, runs["valid_rmse"], color="gray", alpha=0.2, linewidth=0)
        best = runs[runs["valid_rmse"] == runs["valid_rmse"].min()].head(1)  # empty if it diverged in its first epoch
        axes.plot(best["epoch"], best["valid_rmse"], "k*", markersize=9, label="best on validation")
        axes.set(title=f"{model}, {solver}", xlabel="epoch")
    for axes in figure.axes[::columns]:
        axes.set_ylabel("RMSE")
    figure.axes[0].set_ylim(*view(pd.concat([np.sqrt(history["train_loss"]), history["valid_rmse"]])))
    figure.axes[0].legend(fontsize=8)
    return figure


def error_by_solver(metrics: pd.DataFrame) -> Figure:
    """Draw test and validation RMSE of every model and solver, best last.

    Args:
      metrics: columns model, solver, valid_rmse, test_rmse.
    """
    table = metrics.sort_values("test_rmse", ascending=False).reset_index(drop=True)
    figure = panels(1, 1, width=7.5, height=0.9 + 0.3 * len(table))
    axes = figure.axes[0]
    for name, style in zip(("valid_rmse", "test_rmse"), styles(), strict=False):
        label = {"valid_rmse": "validation", "test_rmse": "test"}[name]
        axes.plot(table[name], table.index, **style | {"linestyle": ""}, label=label)
    axes.hlines(table.index, table["valid_rmse"], table["test_rmse"], color="lightgray", zorder=0)
    axes.set(yticks=table.index, yticklabels=table["model"] + ", " + table["solver"], xlabel="RMSE")
    for y, value in enumerate(table["test_rmse"]):
        axes.annotate(f"{value:.4f}", (value, y), (7, -3), textcoords="offset points", fontsize=8)
    axes.margins(x=0.12)
    axes.legend()
    return figure


def rankings(ranking: pd.DataFrame, metrics: Sequence[str] = ("precision", "recall", "auc", "ndcg")) -> Figure:
    """Draw ranking measures with their intervals, one row of panels per protocol, one line per model and solver.

    Args:
      ranking: columns model, solver, protocol, metric, value, low, high, and k unless the metrics' names have it, as
        "ndcg@20". The oracle, far off, is left out.
      metrics: the metrics to draw; models are sorted by the last one under the first protocol, the highest on top.
    """
    shown = ranking[ranking["metric"].isin(metrics) & (ranking["model"] != "oracle")]
    protocols = by(shown, "protocol")
    table = protocols[0][1]
    names = table[table["metric"] == metrics[-1]].sort_values("value")[["model", "solver"]]
    height = {pair: y for y, pair in enumerate(names.itertuples(index=False, name=None))}
    figure = panels(len(protocols), len(metrics), width=2.6, height=0.9 + 0.2 * len(names), sharey=True)
    for row, (protocol, table) in enumerate(protocols):
        for axes, metric in zip(figure.axes[row * len(metrics) :], metrics, strict=False):
            values = table[table["metric"] == metric]
            y = [height[pair] for pair in zip(values["model"], values["solver"], strict=True)]
            baseline = (values["solver"] == "closed form").to_numpy()
            for chosen, color in ((~baseline, COLORS[0]), (baseline, "gray")):
                part = values[chosen]
                reach = (part["value"] - part["low"], part["high"] - part["value"])
                axes.errorbar(part["value"], np.array(y)[chosen], xerr=reach, fmt="o", color=color, markersize=4)
            cutoff = "" if metric == "auc" or "@" in metric else f"@{values['k'].iloc[0]}"
            axes.set(title=f"{metric}{cutoff}, {protocol}", yticks=range(len(names)))
    for axes in figure.axes[:: len(metrics)]:
        axes.set_yticklabels([model if solver == "closed form" else f"{model}, {solver}" for model, solver in height])
    return figure


def regularization(search: pd.DataFrame) -> Figure:
    """Draw the best validation RMSE against λ, one panel per model, one line per solver."""
    models = list(dict.fromkeys(search["model"]))
    figure = panels(1, len(models))
    for axes, model in zip(figure.axes, models, strict=True):
        for (solver, runs), style in zip(by(search[search["model"] == model], "solver"), styles(), strict=False):
            axes.plot(runs["l2"], runs["valid_rmse"], label=solver, **style)
        axes.set(title=model, xscale="log", xlabel="λ, per observation", ylabel="best validation RMSE")
        axes.set_xticks(ticks := sorted(search["l2"].unique()), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    figure.axes[0].legend()
    return figure


def scaling(table: pd.DataFrame, metrics: Sequence[str] = ("seconds", "bytes")) -> Figure:
    """Draw costs against sizes in log-log axes, a row of panels per metric, a column per axis, one line per solver.

    Args:
      table: columns axis (what varies), value, solver, those in `metrics` and, if there is a theory of a metric,
        `METRIC_theory`, drawn as dashed lines.
      metrics: columns of the table; missing values are not drawn.
    """
    columns = by(table, "axis")
    figure = panels(len(metrics), len(columns), width=3.4, height=3, sharey="row")
    for axes, (metric, (axis, runs)) in zip(figure.axes, [(m, c) for m in metrics for c in columns], strict=True):
        for (solver, line), style in zip(by(runs, "solver"), styles(), strict=False):
            axes.plot(line["value"], line[metric], label=solver, **style)
            if f"{metric}_theory" in line:
                axes.plot(line["value"], line[f"{metric}_theory"], color=style["color"], linestyle="--", linewidth=1)
        axes.set(xlabel=axis, xscale="log", yscale="log")
    for axes, metric in zip(figure.axes[:: len(columns)], metrics, strict=True):
        axes.set_ylabel(WORDS.get(metric, metric))
    lines, labels = figure.axes[0].get_legend_handles_labels()
    if any(f"{metric}_theory" in table for metric in metrics):
        lines += figure.axes[0].plot([], [], "k--", linewidth=1)
        labels.append("theory")
    figure.legend(lines, labels, loc="outside upper center", ncols=6)
    return figure
