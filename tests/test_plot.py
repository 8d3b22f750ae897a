"""Figures: what they draw is what the tables hold, and every axis and line has its name."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxmf import plot

STEP = np.array([1e-6, 1e-4, 1e-2])


def lines(axes) -> dict[str, np.ndarray]:
    """The named lines of one panel, (n, 2)."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def words(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def labelled(figure) -> list:
    """The panels that are seen, after a look at what each figure must have."""
    assert isinstance(figure, Figure)
    seen = [axes for axes in figure.axes if axes.get_visible()]
    assert all(axes.get_xlabel() for axes in seen)
    assert seen[0].get_ylabel()
    return seen


def test_step_sizes():
    """Lines of errors, dashed ones of what is predicted, stars at the predicted optimum; an error of 0 is not drawn."""
    panels = [(dtype, place) for dtype in ("float32", "float64") for place in ("all", "user")]
    known = pd.DataFrame([(*own, scheme) for own in panels for scheme in ("forward", "central")])
    known.columns = ["dtype", "place", "scheme"]
    slopes = known.assign(predicted_step=10.0 ** -np.arange(8), predicted_error=0.25)
    curves = known.assign(size=range(8)).merge(pd.DataFrame({"step": STEP}), how="cross")
    curves = curves.assign(error=curves["size"] * curves["step"], truncation=curves["step"], rounding=1e-9)
    figure = plot.step_sizes(curves, slopes)
    titles = [f"{d}, in {p}" for d in ("float32", "float64") for p in ("all parameters", "the users' block")]
    assert [axes.get_title() for axes in labelled(figure)] == titles
    assert words(figure.legends[0]) == ["forward", "central", "predicted", "predicted optimum"]
    for number, axes in enumerate(figure.axes):
        drawn, shown = lines(axes), [line for line in axes.lines if len(np.asarray(line.get_xdata()))]
        forward = 2 * number * STEP
        np.testing.assert_allclose(drawn["forward"], np.stack([STEP, np.where(forward > 0, forward, np.nan)], axis=1))
        np.testing.assert_allclose(drawn["central"], np.stack([STEP, (2 * number + 1) * STEP], axis=1))
        dashed = [np.asarray(line.get_ydata()) for line in shown if line.get_linestyle() == "--"]
        np.testing.assert_allclose(dashed, [STEP + 1e-9] * 2)
        stars = [np.asarray(line.get_xydata())[0].tolist() for line in shown if line.get_marker() == "*"]
        np.testing.assert_allclose(stars, [[10.0**-n, 0.25] for n in (2 * number, 2 * number + 1)])


def test_remainders():
    """The k-th of them falls as h^(k+1): so does its guide, through the smallest above rounding."""
    leaves = ["user.bias", "user.factors", "item.bias", "all"]
    table = pd.DataFrame(
        [
            {
                "probe": probe,
                "leaf": leaf,
                "order": order,
                "step": h,
                "remainder": a * h ** (order + 1),
                "rounding": 1e-12,
            }
            for probe, a in (("nearby", 2), ("ratings", 7))
            for leaf in leaves
            for order in range(3)
            for h in STEP
        ]
    )
    figure = plot.remainders(table)
    panels = labelled(figure)
    assert [axes.get_title() for axes in panels] == [*leaves[:3], "all parameters"]
    orders = ["without gradient", "with gradient", "with gradient and Hessian"]
    assert words(figure.legends[0]) == [*orders, "rounding"]
    drawn = lines(panels[-1])
    for order, name in enumerate(orders):
        np.testing.assert_allclose(drawn[name], np.stack([STEP, 2 * STEP ** (order + 1)], axis=1))
        guides = [line.get_ydata() for line in panels[-1].lines if line.get_label().startswith("_")]
        np.testing.assert_allclose(guides[order], 2 * STEP ** (order + 1))


def test_half_steps():
    table = pd.DataFrame(
        {
            "probe": ["given"] * 4 + ["weights"] * 2,
            "side": ["user", "item"] * 3,
            "objective": [8.0, 4.0, 3.0, 2.0, 1.0, 0.5],
            "solved_gradient": [1e-15, 2e-15, 3e-15, 4e-15, 5e-15, 6e-15],
            "gradient": [0.5, 0.25, 0.125, 0.0625, 0.5, 0.5],
        }
    )
    figure = plot.half_steps(table)
    objective, gradient = labelled(figure)
    assert (objective.get_ylabel(), gradient.get_ylabel()) == ("L above its lowest", "relative norm")
    assert words(objective.get_legend()) == ["users solved", "items solved"]
    np.testing.assert_array_equal(lines(objective)["users solved"], [(0.5, 6.0), (1.5, 1.0)])
    np.testing.assert_array_equal(lines(objective)["items solved"], [(1.0, 2.0), (2.0, np.nan)])
    drawn = lines(gradient)
    assert list(drawn) == ["users' gradient, solved", "items' gradient, solved", "whole gradient"]
    np.testing.assert_array_equal(drawn["items' gradient, solved"], [(1.0, 2e-15), (2.0, 4e-15)])
    np.testing.assert_array_equal(drawn["whole gradient"][:, 1], table["gradient"][:4])


def test_descents():
    """Above the lowest of all, which is on no logarithmic axis."""
    histories = {
        "als": pd.DataFrame({"epoch": [1, 2], "objective": [4.0, 2.0]}),
        "sgd": pd.DataFrame({"epoch": [1, 2, 3], "objective": [8.0, 6.0, 3.0]}),
    }
    (axes,) = labelled(plot.descents(histories))
    assert words(axes.get_legend()) == ["als", "sgd"]
    np.testing.assert_array_equal(lines(axes)["als"], [(1, 1.0), (2, np.nan)])
    np.testing.assert_array_equal(lines(axes)["sgd"], [(1, 3.0), (2, 2.0), (3, 0.5)])


def test_mutants():
    table = pd.DataFrame(
        {
            "mutant": ["wrong sign", "missing 2"],
            "leaves": ["user.bias", "item.factors"],
            "elements": ["user.bias", "item.factors"],
            "complex_step": [None, "item.bias"],
            "check_grads": ["?", ""],
            "dtype": "float64",
            "passed": True,
        }
    )
    figure = plot.mutants(table)
    (axes,) = figure.axes
    assert words(figure.legends[0]) == ["missed", "noticed", "leaves named"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["elements", "complex step", "check grads"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["wrong sign", "missing 2"]
    assert axes.images[0].get_array().tolist() == [[2, 0, 1], [2, 1, 0]]
    assert [text.get_text() for text in axes.texts] == [
        *("leaves named", "missed", "noticed"),
        *("leaves named", "noticed", "missed"),
    ]


def test_agreement():
    errors = pd.DataFrame({"comparison": ["hand"] * 3 + ["other"], "error": [1e-16, 0.0, 4e-16, 1e-9]})
    figure = plot.agreement(errors, {"hand": 1e-10, "other": 1e-6})
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert words(figure.legends[0]) == ["median", "limit"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hand", "other"]
    drawn = [points for line in axes.lines if (points := np.asarray(line.get_xdata()).tolist())]
    assert drawn == [[1e-16, 1e-19, 4e-16], [1e-16] * 2, [1e-10] * 2, [1e-9], [1e-9] * 2, [1e-6] * 2]


def test_bands():
    """A row per metric, a column per x; the band of a line holds its lowest and highest."""
    table = pd.DataFrame({"solver": ["als"] * 3 + ["sgd"] * 3, "epoch": [1, 2, 3] * 2, "seconds": np.arange(1.0, 7.0)})
    for metric, values in (("gap", 10.0 ** -np.arange(6)), ("test_rmse", np.linspace(1.0, 0.9, 6))):
        table = table.assign(**{metric: values, f"{metric}_low": values / 2, f"{metric}_high": values * 2})
    figure = plot.bands(table, ("gap", "test_rmse"), ("epoch", "seconds"), log=("gap", "seconds"))
    panels = labelled(figure)
    assert words(figure.legends[0]) == ["als", "sgd"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "log"] * 2
    assert [axes.get_yscale() for axes in panels] == ["log", "log", "linear", "linear"]
    assert [axes.get_ylabel() for axes in panels[::2]] == ["objective above the lowest, relative", "test RMSE"]
    for axes, (metric, x) in zip(
        panels, [(m, x) for m in ("gap", "test_rmse") for x in ("epoch", "seconds")], strict=True
    ):
        own = table[table["solver"] == "sgd"]
        np.testing.assert_array_equal(lines(axes)["sgd"], own[[x, metric]])
        edges = axes.collections[1].get_paths()[0].vertices
        assert {tuple(edge) for edge in own[[x, f"{metric}_low"]].to_numpy()} <= {tuple(edge) for edge in edges}
        assert edges[:, 1].max() == own[f"{metric}_high"].max()


def test_scaling():
    """A missing time is not drawn; theory is dashed where there is one."""
    sizes = {"axis": ["ratings"] * 3 + ["rank"] * 3, "value": [10, 100, 1000, 2, 4, 8], "solver": "als"}
    table = pd.DataFrame(sizes | {"seconds": [1.0, 2.0, np.nan, 3.0, 4.0, 5.0], "bytes": np.arange(1.0, 7.0)})
    table["seconds_theory"] = 2 * table["value"]
    figure = plot.scaling(table)
    panels = labelled(figure)
    assert [axes.get_xlabel() for axes in panels] == ["ratings", "rank"] * 2
    assert [axes.get_ylabel() for axes in panels[::2]] == ["seconds, compilation excluded", "bytes"]
    assert words(figure.legends[0]) == ["als", "theory"]
    assert {axes.get_xscale() for axes in panels} == {axes.get_yscale() for axes in panels} == {"log"}
    for axes, (metric, axis) in zip(
        panels, [(m, a) for m in ("seconds", "bytes") for a in ("ratings", "rank")], strict=True
    ):
        own = table[table["axis"] == axis]
        np.testing.assert_array_equal(lines(axes)["als"], own[["value", metric]])
        dashed = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
        np.testing.assert_array_equal(dashed, [own["seconds_theory"]] * (metric == "seconds"))


def test_heat_map_frames_the_best():
    """The lowest error, and the highest ranking."""
    cells = pd.DataFrame(
        {"l2": [0.1, 0.1, 1.0, 1.0], "unobserved": [0.1, 1.0, 0.1, 1.0], "value": [0.3, 0.1, 0.2, 0.4]}
    )
    for metric, corner in (("valid_loss", (0.5, -0.5)), ("valid_ndcg", (0.5, 0.5)), ("valid_recall@20", (0.5, 0.5))):
        axes = plot.heat_map(cells.rename(columns={"value": metric}), metric, "l2", "unobserved").axes[0]
        assert [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)] == [corner]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("α0", "λ")


SWEPT = pd.DataFrame(
    {"unobserved": [0.1, 0.1, 1.0, 1.0], "l2": [0.01, 0.1] * 2, "valid_ndcg": [0.2, 0.4, 0.1, 0.3], "valid_rmse": 1.0}
)


@pytest.mark.parametrize(("metric", "best"), [("valid_ndcg", (1, 0)), ("valid_loss", (0, 1))])
def test_a_heat_map_frames_the_best(metric, best):
    """The lowest error, or the highest ranking."""
    figure = plot.heat_map(SWEPT.rename(columns={"valid_ndcg": metric}), metric, "unobserved", "l2")
    axes = figure.axes[0]
    frame: Any = axes.patches[0]
    assert len(axes.patches) == 1
    assert frame.get_xy() == (best[0] - 0.5, best[1] - 0.5)
    assert axes.get_ylabel() == "α0"


def test_curves_of_a_ranking_name_the_highest_and_show_the_first_epochs():
    epochs, settings = np.arange(1, 41), range(9)
    history = pd.DataFrame(
        [{"l2": l2, "epoch": epoch, "valid_ndcg": (1 + l2) * epoch / 400} for l2 in settings for epoch in epochs]
    )
    axes = plot.curves(history, "valid_ndcg", ["l2"]).axes[0]
    assert words(axes.get_legend()) == [f"λ = {l2}" for l2 in range(8, 1, -1)]
    low, high = axes.get_ylim()
    assert low < history["valid_ndcg"].min() < history["valid_ndcg"].max() < high


def test_convergence_of_a_ranking_beside_popularity():
    epochs = np.arange(1, 41)
    history = pd.DataFrame({"model": "ials", "solver": "als", "epoch": epochs, "seconds": epochs / 10})
    figure = plot.convergence(history.assign(valid_ndcg=epochs / 100), 0.05, "valid_ndcg", "popularity")
    for axes in labelled(figure):
        assert lines(axes)["popularity"][:, 1].tolist() == [0.05, 0.05]
        assert axes.get_ylim()[0] < 0.01
        assert axes.get_ylim()[1] > 0.4
        assert axes.get_ylabel() == "validation NDCG@10"
