"""Write a study of implicit feedback as a page that can be read without its tables."""

from typing import Any

import numpy as np
import pandas as pd

from jaxmf.files import output
from jaxmf.shell.report import audited


def summary(
    manifest: dict[str, Any],
    gradients: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    leakage: pd.DataFrame,
    sizes: tuple[int, int, int],
) -> str:
    """Return the Markdown of `summary.md`; every number in it is also in the tables or the manifest.

    Args:
      manifest: the manifest of the finished study.
      gradients: the verification of its gradients, one row per model and leaf.
      tables: "metrics", "search" and "ranking" of the study.
      leakage: audit of the training part against the test part.
      sizes: numbers of training, validation and test observations.
    """
    errors = gradients[["hand_vs_autodiff", "autodiff_vs_central", "hand_vs_central"]]
    metrics, search, k = tables["metrics"], tables["search"], manifest["configuration"]["k"]
    parts = [
        *_opening(manifest, tables, sizes),
        "## Gradients",
        f"{'Every leaf passed' if gradients['passed'].all() else 'NOT every leaf passed'}: autodiff, the hand-derived "
        "formula and central differences, in float64, where the items that a loss draws are drawn once. Largest "
        f"relative disagreements: hand-derived and autodiff {errors['hand_vs_autodiff'].max():.1e}, autodiff and "
        f"differences {errors['autodiff_vs_central'].max():.1e}.",
        output.markdown(gradients[["model", "leaf", "size", *errors, "passed"]], "{:.1e}"),
        "## Rankings",
        f"All items but those that the user has in the training and validation parts are ranked; what the user has in "
        f"the test part is relevant, and the first {k} positions count. Intervals of 95 % are over users. Capped "
        "recall divides by what fits into these positions. All ratings are equal, so item means tie, which is measured "
        "as a random order. The oracle, who knows the test part, shows what is attainable; `ranking.csv` has all "
        "measures.",
        output.markdown(_rankings(tables["ranking"])),
        "![Rankings with intervals](figures/ranking.png)",
        "λ, α0 and the epoch are the best by the NDCG on validation, of at most 200 users; "
        "test was read once per row. "
        "`search.csv` has every setting tried, `history.csv` every epoch.",
        output.markdown(_chosen(metrics)),
        "![Validation NDCG by epoch and by second](figures/convergence.png)",
        "## The weight of what is not observed",
        _unobserved(search[search["model"] == "ials"]),
        "![Validation NDCG by α0 and λ](figures/unobserved_and_l2.png)",
        "## Leakage",
        "\n".join(f"- {line}" for line in audited(leakage)[1:]),
        "## How it was made",
        f"`{manifest['command']}` on {manifest['device']}, jax {manifest['versions']['jax']}, {manifest['dtype']}, "
        f"seed {manifest['seed']}: {manifest['wall_seconds']:.0f} s in all. The fits ran epochs for "
        f"{metrics['search_seconds'].sum():.0f} s and compiled for {metrics['compile_seconds'].sum():.0f} s. "
        "`config.json` has the configuration, the data's fingerprint and all versions.",
    ]
    return "\n\n".join(parts) + "\n"


def _opening(manifest: dict[str, Any], tables: dict[str, pd.DataFrame], sizes: tuple[int, int, int]) -> list[str]:
    """Return the paragraphs on the data, and the findings in a few lines."""
    data, configuration, k = manifest["data"], manifest["configuration"], manifest["configuration"]["k"]
    weight = data.get("total_weight")
    weighed = "" if weight is None else f", {weight / data['num_ratings']:.1f} each in weight on average"
    metrics = tables["metrics"].set_index("model")
    fitted = metrics[metrics["solver"] != "closed form"].sort_values("valid_ndcg", ascending=False)
    best, popular = fitted.iloc[0], metrics.loc["popularity"]
    others = ", ".join(f"{name} {_with_interval(row)}" for name, row in fitted.iloc[1:].iterrows())
    return [
        f"# Study of {data['name']}",
        f"{data['num_users']:,} users, {data['num_items']:,} items, {data['num_ratings']:,} observations{weighed}; "
        f"split {configuration['split']} into train / validation / test of "
        f"{' / '.join(f'{size:,}' for size in sizes)}. The "
        f"training part fills {100 * sizes[0] / (data['num_users'] * data['num_items']):.2f} % of the matrix.",
        f"**Best on validation is {best.name} by {best['solver']}, with a test NDCG@{k} of {_with_interval(best)}** "
        f"({_setting(best)}, epoch {best['best_epoch']:.0f}). Popularity has {_with_interval(popular)}, so that is "
        f"{best['test_ndcg'] / popular['test_ndcg']:.1f} times as much.",
        f"- The others, in the order of validation: {others}.\n"
        f"- Of all items, {best.name} puts {best['test_coverage']:.1%} among somebody's first {k}, popularity "
        f"{popular['test_coverage']:.1%}.\n"
        f"- {_edges(fitted, configuration)}",
    ]


def _with_interval(row: pd.Series) -> str:
    return f"{row['test_ndcg']:.4f} [{row['test_ndcg_low']:.4f}, {row['test_ndcg_high']:.4f}]"


def _setting(row: Any) -> str:
    """Return "α0 = 0.3, λ = 0.03", without α0 if the model has none."""
    weight = "" if pd.isna(row["unobserved"]) else f"α0 = {row['unobserved']:g}, "
    return f"{weight}λ = {row['l2']:g}"


def _rankings(ranking: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a row per model, the best NDCG first, and a few measures with their intervals."""
    cell = ranking["value"].map("{:.4f}".format) + [
        f" [{low:.4f}, {high:.4f}]" if np.isfinite(low) else ""
        for low, high in zip(ranking["low"], ranking["high"], strict=True)
    ]
    table = ranking.assign(cell=cell).pivot_table("cell", ["model", "solver"], "metric", aggfunc="first").fillna("")
    shown = [metric for metric in ("ndcg", "recall", "capped_recall", "map", "auc", "coverage") if metric in table]
    return table.sort_values("ndcg", ascending=False)[shown].reset_index()


def _chosen(metrics: pd.DataFrame) -> pd.DataFrame:
    fitted = metrics[metrics["solver"] != "closed form"]
    shown = fitted[["model", "solver", "unobserved", "l2", "best_epoch", "status", "valid_ndcg", "test_ndcg"]]
    return shown.assign(**{"seconds per epoch": fitted["seconds_per_epoch"]})


def _unobserved(search: pd.DataFrame) -> str:
    """Return sentences on the settings of iALS: the best and the worst, and what the loss would have chosen."""
    finite = search[np.isfinite(search["valid_ndcg"])]
    best, worst = finite.loc[finite["valid_ndcg"].idxmax()], finite.loc[finite["valid_ndcg"].idxmin()]
    by_loss = finite.loc[finite["valid_loss"].idxmin()]
    return (
        f"Of {len(search)} settings of ials, {_setting(best)} has the highest NDCG on validation, "
        f"{best['valid_ndcg']:.4f}, and {_setting(worst)} the lowest, {worst['valid_ndcg']:.4f}. The loss of "
        f"validation observations would have chosen {_setting(by_loss)}, with an NDCG of {by_loss['valid_ndcg']:.4f}: "
        "it does not count what the model says of items that nobody chose."
    )


def _edges(fitted: pd.DataFrame, configuration: dict[str, Any]) -> str:
    """Return a sentence on the numbers that were chosen at an edge of their grid."""
    words = {"l2": "λ", "unobserved": "α0"}
    at_edge = [
        f"{word} of {model} ({row[name]:g})"
        for model, row in fitted.iterrows()
        for name, word in words.items()
        if len(configuration[name]) > 1 and row[name] in (min(configuration[name]), max(configuration[name]))
    ]
    if not at_edge:
        return "No number was chosen at an edge of its grid."
    return f"Chosen at an edge of the grid, so that a wider one may do better: {', '.join(at_edge)}."
