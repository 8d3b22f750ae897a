"""Figures of verifications: finite-difference errors, Taylor remainders, ALS step by step, planted mistakes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxmf.plot.style import COLORS, by, panels, styles

_PLACES = {"all": "in all parameters", "user": "in the users' block", "item": "in the items' block"}
_ORDERS = ("without gradient", "with gradient", "with gradient and Hessian")


def step_sizes(curves: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Draw finite-difference errors by step, a column per place, a row per dtype; stars mark the predicted optima.

    Args:
      curves, slopes: the tables of `jaxmf.verify.differences`.
    """
    dtypes, places = list(dict.fromkeys(curves["dtype"])), list(dict.fromkeys(curves["place"]))
    figure = panels(len(dtypes), len(places), width=4, sharey="row")
    for axes, (dtype, place) in zip(figure.axes, [(d, p) for d in dtypes for p in places], strict=True):
        chosen = curves[(curves["dtype"] == dtype) & (curves["place"] == place)]
        best = slopes[(slopes["dtype"] == dtype) & (slopes["place"] == place)].set_index("scheme")
        for (scheme, curve), style in zip(by(chosen, "scheme"), styles(), strict=False):
            error = curve["error"].where(curve["error"] > 0)
            axes.plot(curve["step"], error, label=scheme, **style | {"markersize": 2.5, "linewidth": 0.8})
            predicted = curve["truncation"] + curve["rounding"]
            axes.plot(curve["step"], predicted, color=style["color"], linewidth=1, linestyle="--")
            row = best.loc[scheme]
            star = {"marker": "*", "markersize": 13, "color": style["color"], "markeredgecolor": "black"}
            axes.plot(row["predicted_step"], row["predicted_error"], linestyle="", zorder=3, **star)
        low = chosen["error"][chosen["error"] > 0].min()
        axes.set(title=f"{dtype}, {_PLACES[place]}", xlabel="step h", xscale="log", yscale="log", ylim=(low / 3, 30))
    for axes in figure.axes[:: len(places)]:
        axes.set_ylabel("relative error of the derivative")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    lines += figure.axes[0].plot([], [], "k--", linewidth=1) + figure.axes[0].plot([], [], "w*", mec="k", markersize=13)
    figure.legend(lines, [*labels, "predicted", "predicted optimum"], loc="outside upper center", ncols=5)
    return figure


def remainders(table: pd.DataFrame) -> Figure:
    """Draw Taylor remainders by step, one panel per leaf; thin lines have slopes 1, 2 and 3, dotted ones are rounding.

    Args:
      table: the table of `jaxmf.verify.remainders`; only its first probe is drawn.
    """
    table = table[table["probe"] == table["probe"].iloc[0]]
    leaves = by(table, "leaf")
    columns = min(3, len(leaves))
    figure = panels(-(-len(leaves) // columns), columns, width=4, sharey=True)
    for axes, (leaf, part) in zip(figure.axes, leaves, strict=False):
        for (order, line), style in zip(by(part, "order"), styles(), strict=False):
            shown = line[line["remainder"] > 0]
            axes.plot(shown["step"], shown["remainder"], label=_ORDERS[int(order)], **style | {"linewidth": 0})
            clear = line[line["remainder"] > 1e3 * line["rounding"]]
            if len(clear):
                # Through the smallest remainder above rounding, where higher orders are negligible.
                anchor = clear.loc[clear["step"].idxmin()]
                guide = anchor["remainder"] * (line["step"] / anchor["step"]) ** (int(order) + 1)
                axes.plot(line["step"], guide, color=style["color"], linewidth=0.8)
        axes.plot(part["step"], part["rounding"], "k:", linewidth=1, label="rounding")
        name = "all parameters" if leaf == "all" else leaf
        axes.set(title=name, xlabel="step h", xscale="log", yscale="log", ylim=(part["rounding"].min() / 30, None))
    for axes in figure.axes[len(leaves) :]:
        axes.set_visible(False)
    for axes in figure.axes[::columns]:
        axes.set_ylabel("Taylor remainder")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def half_steps(table: pd.DataFrame) -> Figure:
    """Draw ALS by half-steps: the objective above its lowest value, and the gradients of the solved block and of all.

    Args:
      table: the table of `jaxmf.verify.half_steps`; only its probe `given` is drawn.
    """
    table = table[table["probe"] == "given"]
    figure = panels(1, 2)
    sweeps = np.arange(1, len(table) + 1) / 2
    for axes in figure.axes:
        axes.set(xlabel="sweep", yscale="log")
    above = table["objective"] - table["objective"].min()
    for side, style in zip(("user", "item"), styles(), strict=False):
        of_side = (table["side"] == side).to_numpy()
        points = style | {"linestyle": ""}
        figure.axes[0].plot(sweeps[of_side], above.where(above > 0)[of_side], label=f"{side}s solved", **points)
        figure.axes[1].plot(
            sweeps[of_side], table["solved_gradient"][of_side], label=f"{side}s' gradient, solved", **points
        )
    figure.axes[1].plot(sweeps, table["gradient"], color=COLORS[2], label="whole gradient")
    figure.axes[0].set(title="Objective", ylabel="L above its lowest")
    figure.axes[1].set(title="Gradient", ylabel="relative norm")
    for axes in figure.axes:
        axes.legend()
    return figure


def descents(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how far every solver's objective is above the lowest of all, by epoch.

    Args:
      histories: name -> table with columns epoch and objective, such as `Fit.to_frame` returns.
    """
    figure = panels(1, 1, width=6.5, height=4)
    axes = figure.axes[0]
    lowest = min(history["objective"].min() for history in histories.values())
    for (name, history), style in zip(histories.items(), styles(), strict=False):
        excess = history["objective"] / lowest - 1
        interval = max(1, len(history) // 10)
        axes.plot(history["epoch"], excess.where(excess > 0), label=name, markevery=interval, **style)
    axes.set(xlabel="epoch", ylabel="objective above the lowest, relative", xscale="log", yscale="log")
    axes.legend()
    return figure


def mutants(table: pd.DataFrame) -> Figure:
    """Draw planted mistakes against methods: missed, noticed, or noticed with exactly the right leaves named.

    Args:
      table: the table of `jaxmf.verify.mutants`.
    """
    methods = [name for name in table.columns if name not in ("mutant", "leaves", "dtype", "passed")]
    noticed = table[methods].notna() & (table[methods] != "")
    named = table[methods].eq(table["leaves"], axis=0)
    words = ("missed", "noticed", "leaves named")
    figure = panels(1, 1, width=2.2 + 1.1 * len(methods), height=1.2 + 0.36 * len(table))
    axes = figure.axes[0]
    axes.grid(visible=False)
    colors = (COLORS[4], COLORS[1], COLORS[2])
    axes.imshow(noticed.to_numpy(int) + named.to_numpy(int), cmap=ListedColormap(colors), vmin=0, vmax=2, aspect="auto")
    for (row, column), value in np.ndenumerate(noticed.to_numpy(int) + named.to_numpy(int)):
        axes.text(column, row, words[value], ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(methods)), [name.replace("_", " ") for name in methods])
    axes.set_yticks(range(len(table)), table["mutant"])
    axes.set_xticks(np.arange(len(methods) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(table) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    patches = [Patch(color=color, label=word) for color, word in zip(colors, words, strict=True)]
    figure.legend(handles=patches, loc="outside upper center", ncols=3)
    return figure


def agreement(errors: pd.DataFrame, limits: Mapping[str, float]) -> Figure:
    """Draw the spread of relative errors over many problems, one row per comparison, with its limit.

    Args:
      errors: columns comparison and error.
      limits: comparison -> limit.
    """
    figure = panels(1, 1, width=7.5, height=1.2 + 0.42 * len(limits))
    axes = figure.axes[0]
    for row, (comparison, limit) in enumerate(limits.items()):
        values = errors.loc[errors["comparison"] == comparison, "error"].to_numpy()
        lifted = np.maximum(values, 1e-19)  # so that exact agreement is visible
        spread = np.random.default_rng(row).uniform(-0.3, 0.3, len(values))
        axes.plot(lifted, row + spread, ".", markersize=2, alpha=0.35, color=COLORS[0])
        axes.plot([np.median(lifted)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=2)
        axes.plot([limit] * 2, [row - 0.4, row + 0.4], color=COLORS[4], linewidth=2)
    axes.plot([], [], color="black", linewidth=2, label="median")
    axes.plot([], [], color=COLORS[4], linewidth=2, label="limit")
    axes.set_yticks(range(len(limits)), [name.replace("_", " ") for name in limits])
    axes.set(xscale="log", xlabel="relative error (0 is drawn at 1e-19)")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2)
    return figure
