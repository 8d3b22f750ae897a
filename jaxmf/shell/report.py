"""Write a study as a page that can be read without its tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxmf.files import output
from jaxmf.sweeps import Sweep
from jaxmf.training import Fit

SHOWN = ("ndcg", "recall", "capped_recall", "map", "auc", "coverage", "novelty")  # the measures of rankings to print


def summary(
    manifest: dict[str, Any],
    gradients: pd.DataFrame,
    metrics: pd.DataFrame,
    history: pd.DataFrame,
    ranking: pd.DataFrame,
    leakage: pd.DataFrame,
    runs: Sweep,
    sizes: tuple[int, int, int],
) -> str:
    """Return the Markdown of `summary.md`; every number in it is also in the tables or the manifest.

    Args:
      manifest: the manifest of the finished study.
      gradients: the verification of its gradients, one row per model and leaf.
      metrics: one row per model and solver, best validation RMSE first.
      history: every epoch of every fit.
      ranking: ranking metrics of each model and solver and of the baselines, by protocol.
      leakage: audit of the training part against the test part.
      runs: the sweep over rank and λ.
      sizes: numbers of training, validation and test ratings.
    """
    errors = gradients[["hand_vs_autodiff", "autodiff_vs_central", "hand_vs_central"]]
    k, relevant_from = manifest["configuration"]["k"], manifest["configuration"]["relevant_from"]
    parts = [
        *_opening(manifest, metrics, history, sizes),
        "## Gradients",
        f"{'Every leaf passed' if gradients['passed'].all() else 'NOT every leaf passed'}: autodiff, the hand-derived "
        "formula and central differences, in float64. Largest relative disagreements: hand-derived and autodiff "
        f"{errors['hand_vs_autodiff'].max():.1e}, autodiff and differences {errors['autodiff_vs_central'].max():.1e}.",
        output.markdown(gradients[["model", "leaf", "size", *errors, "passed"]], "{:.1e}"),
        "## Errors",
        f"λ and the epoch are the best on validation; test was read once per row. RMSE and MAE in the ratings' unit, "
        f"{manifest['dtype']}, predictions not clipped. `search.csv` has every λ tried, `history.csv` every epoch.",
        output.markdown(_errors(metrics), "{:.4f}"),
        "![Error by solver](figures/error_by_solver.png)",
        "## Rankings",
        f"Test items ranked for each user, the first {k} positions, relevant if rated {relevant_from:g} or more. "
        'Protocol "catalog" ranks all items but those that the user has in the training and validation parts, "rated" '
        "only the user's test items. Intervals of 95 % are over users; `ranking.csv` has all measures. The oracle, who "
        "knows the test ratings, shows what is attainable.",
        *(f"**{protocol}**\n\n{output.markdown(table)}" for protocol, table in _rankings(ranking)),
        "![Rankings with intervals](figures/ranking.png)",
        "### Leakage",
        "\n".join(f"- {line}" for line in audited(leakage)[1:]),
        "## Convergence",
        "![Validation RMSE by epoch and by second](figures/convergence.png)",
        "![Training against validation](figures/generalization.png)",
        "## Regularization",
        "![Validation RMSE against λ](figures/regularization.png)",
        *_closing(manifest, metrics, runs),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(
    manifest: dict[str, Any], metrics: pd.DataFrame, history: pd.DataFrame, sizes: tuple[int, int, int]
) -> list[str]:
    """Return the paragraphs on the data, and the findings in a few lines."""
    data, configuration = manifest["data"], manifest["configuration"]
    damped = float(metrics.loc[metrics["model"] == "damped_bias", "test_rmse"].iloc[0])
    fitted = metrics[metrics["solver"] != "closed form"]
    best: dict[Any, Any] = fitted.iloc[0].to_dict()
    by_model = fitted.groupby("model")["test_rmse"].first().to_dict()
    return [
        f"# Study of {data['name']}",
        f"{data['num_users']:,} users, {data['num_items']:,} items, {data['num_ratings']:,} ratings; split "
        f"{configuration['split']} into train / validation / test of {' / '.join(f'{size:,}' for size in sizes)}. The "
        f"training part fills {100 * sizes[0] / (data['num_users'] * data['num_items']):.2f} % of the matrix.",
        f"**Best on validation is {best['model']} by {best['solver']}, with a test RMSE of {best['test_rmse']:.4f}** "
        f"(λ = {best['l2']:g}, epoch {best['best_epoch']:.0f}). The damped bias baseline has {damped:.4f}, so that is "
        f"{100 * (1 - best['test_rmse'] / damped):.1f} % less.",
        f"- The best on validation without biases has a test RMSE of {by_model['mf']:.4f}, with them "
        f"{by_model['biased_mf']:.4f}.\n"
        f"- Quickest to within 0.5 % of its own best validation RMSE, among the fits of {best['model']}: "
        f"{_quickest(history, best['model'])}.\n"
        f"- {_edges(fitted, configuration['l2'])}\n"
        f"- Per-sample SGD visits {manifest['sgd_matchings']:,} matchings an epoch, "
        f"{100 * manifest['sgd_lanes_filled']:.1f} % full.",
    ]


def _errors(metrics: pd.DataFrame) -> pd.DataFrame:
    shown = metrics[["model", "solver", "l2", "best_epoch", "status", "valid_rmse", "test_rmse", "test_mae"]]
    return shown.assign(**{"seconds per epoch": metrics["seconds_per_epoch"]})


def _closing(manifest: dict[str, Any], metrics: pd.DataFrame, runs: Sweep) -> list[str]:
    """Return the paragraphs on the sweep over ranks, and on how the study was made."""
    grid = runs.to_frame()
    return [
        "## Rank",
        f"{len(runs.members)} fits of {grid['model'][0]} by {grid['solver'][0]}, every rank with every λ, by "
        f"{runs.num_programs} program(s) in {runs.seconds:.1f} s, compilation included ({runs.compile_seconds:.1f} s). "
        f"{_best_rank(grid)} `sweep.csv` has all of them.",
        "![Validation RMSE by rank and λ](figures/rank_and_l2.png)",
        "## How it was made",
        f"`{manifest['command']}` on {manifest['device']}, jax {manifest['versions']['jax']}, {manifest['dtype']}, "
        f"seed {manifest['seed']}: {manifest['wall_seconds']:.0f} s in all. The fits of these tables ran epochs for "
        f"{metrics['search_seconds'].sum():.0f} s and compiled for {metrics['compile_seconds'].sum():.0f} s, two "
        "programs at a time. `config.json` has the configuration, the data's fingerprint and all versions.",
    ]


def _rankings(ranking: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return for each protocol a table with a row per model and solver, the best NDCG first, and a few metrics."""
    tables = []
    for protocol, rows in ranking.groupby("protocol", sort=False):
        cell = rows["value"].map("{:.4f}".format) + [
            f" [{low:.4f}, {high:.4f}]" if np.isfinite(low) else ""
            for low, high in zip(rows["low"], rows["high"], strict=True)
        ]
        table = rows.assign(cell=cell).pivot_table("cell", ["model", "solver"], "metric", aggfunc="first").fillna("")
        shown = [metric for metric in ("precision", "recall", "ndcg", "auc", "coverage") if metric in table]
        tables.append((str(protocol), table.sort_values("ndcg", ascending=False)[shown].reset_index()))
    return tables


def _quickest(history: pd.DataFrame, model: str) -> str:
    runs = history[history["chosen"] & (history["model"] == model)]
    close = runs[runs["valid_rmse"] <= 1.005 * runs.groupby("solver")["valid_rmse"].transform("min")]
    reached = close.groupby("solver").first().sort_values("seconds")
    return ", ".join(f"{row.Index} ({row.seconds:.2f} s, epoch {row.epoch:.0f})" for row in reached.itertuples())


def _best_rank(grid: pd.DataFrame) -> str:
    finite = grid[np.isfinite(grid["valid_rmse"])]
    if finite.empty:
        return "All of them diverged."
    best = finite.loc[finite["valid_rmse"].idxmin()]
    return f"Best on validation: rank {best['rank']}, λ = {best['l2']:g}, RMSE {best['valid_rmse']:.4f}."


def _edges(fitted: pd.DataFrame, grid: list[float]) -> str:
    edge = fitted[fitted["l2"].isin([min(grid), max(grid)])]
    if len(grid) < 2 or not len(edge):
        return "No λ was chosen at an edge of the grid."
    names = ", ".join(f"{row.model} by {row.solver} ({row.l2:g})" for row in edge.itertuples())
    return f"λ was chosen at an edge of the grid, so that a wider grid may do better, for {names}."


def studied(metrics: pd.DataFrame) -> str:
    """Return what `jaxmf study` prints: how the models of a study of ratings, or of likes, compare."""
    columns = ["model", "solver", "unobserved", "l2", "best_epoch", "valid_rmse", "test_rmse", "valid_ndcg"]
    columns += ["test_ndcg", "test_ndcg_low", "test_ndcg_high", "seconds_per_epoch"]
    shown = metrics[[name for name in columns if name in metrics]]
    text: str = shown.to_string(index=False, na_rep="", float_format="{:.4f}".format)
    return text


def told(result: Fit, tables: dict[str, pd.DataFrame], out: Path) -> str:
    """Return what `jaxmf fit` prints: the metrics, the audit of the split, and how the fit ended."""
    metrics, ending = tables["metrics"], f"{result.status} after {len(result.to_frame())} epochs; results in {out}"
    if "ranking" in tables:
        ending = f"{_against_popularity(tables['ranking'], result.model.name)}\n{ending}"
        metrics = metrics[["part", "model", *SHOWN]]
    table = metrics.to_string(index=False, float_format="{:.4f}".format)
    return "\n\n".join([table, "\n".join(audited(tables["leakage"])), ending])


def _against_popularity(ranking: pd.DataFrame, model: str) -> str:
    """Return a sentence on the NDCG of test items, of a model and of popularity."""
    test = ranking[(ranking["part"] == "test") & (ranking["metric"] == "ndcg")].set_index("model")
    own = test.loc[model]
    return (
        f"NDCG@{own['k']} on test: {model} {own['value']:.4f} [{own['low']:.4f}, {own['high']:.4f}], popularity "
        f"{test.loc['popularity', 'value']:.4f}"
    )


def swept(runs: Sweep, summary: pd.DataFrame, out: Path) -> str:
    """Return what `jaxmf sweep` prints: the best settings, and what the sweep took."""
    numbers = [name for name in runs.members[0].point if name not in ("seed", "fold")]
    columns = [*numbers, "num_members", "num_diverged", runs.score, f"{runs.score}_se"]
    columns += [name for name in ("valid_mae",) if name in summary]
    table = summary[columns].head(10).to_string(index=False, na_rep="", float_format="{:.4f}".format)
    return (
        f"{table}\n\n{len(runs.members)} fits by {runs.num_programs} program(s) in {runs.seconds:.1f} s, compilation "
        f"included ({runs.compile_seconds:.1f} s); results in {out}"
    )


def ranked(ranking: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return `evaluate.ranking`'s table for reading: by protocol, metrics by model, and the first model's interval."""
    first_model = ranking["model"].iloc[0]
    tables = {}
    for (protocol, k, threshold), rows in ranking.groupby(["protocol", "k", "threshold"], sort=False):
        intervals = rows[rows["model"] == first_model].set_index("metric")
        values = rows.pivot_table("value", "metric", "model", sort=False, aggfunc="first").reindex(intervals.index)
        values.insert(1, "low", intervals["low"])
        values.insert(2, "high", intervals["high"])
        table = values.assign(num_users=intervals["num_users"]).reset_index().rename_axis(columns=None)
        tables[f"{protocol}, k = {k}, relevant from {threshold:g}"] = table
    return tables


def audited(leakage: pd.DataFrame) -> list[str]:
    """Return the findings in a table of `evaluate.leakage`, one line each, after a heading."""
    findings = leakage[leakage["verdict"] != "ok"]
    lines = [
        f"{row.verdict}: {row.check}"
        + (" (no timestamps)" if row.verdict == "unknown" else f": {row.count:,.0f} of {row.total:,} ({row.share:.1%})")
        for row in findings.itertuples(name="Row")
    ]
    return ["Leakage audit:", *(lines or ["nothing found"])]
