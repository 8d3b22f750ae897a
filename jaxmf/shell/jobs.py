"""The jobs of the command line: a fit, a sweep or a verification, from the split to tables and figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmf import evaluate, models, verify
from jaxmf.data import Dataset, splits
from jaxmf.data.checks import check_clip
from jaxmf.files import output
from jaxmf.files.locks import Claimed
from jaxmf.models import Hyper, Model
from jaxmf.models.checks import check_hyper
from jaxmf.persist import save
from jaxmf.shell.answers import beside_popularity, watched_popularity
from jaxmf.solvers import Solver
from jaxmf.sweeps import Sweep, sweep
from jaxmf.sweeps.grid import Grid
from jaxmf.training import Fit, fit
from jaxmf.training.options import cost_sign

Baseline = tuple[float, str, str]  # a baseline's value of a column of the history, and its name
_THREE = (0.7, 0.15, 0.15)  # shares of train, valid and test


def fit_one(
    data: Dataset,
    out: Path,
    model: Model | Callable[[Dataset], Model],
    solver: Solver,
    hyper: Hyper,
    seed: int = 0,
    clip: evaluate.Clip = None,
    **options: Any,
) -> tuple[Fit, dict[str, pd.DataFrame]]:
    """Fit one model on one split; write config.json, metrics.csv, leakage.csv, history.csv, a figure and fit.npz.

    fit.npz holds the fit and its training data, see `jaxmf.load`. For a model of preferences, metrics.csv has measures
    of rankings beside those of popularity, and ranking.csv their intervals.

    Args:
      data: the ratings, split by `split_three`.
      out: folder for the results.
      model: the model, or a function that makes it from the training part of the split, for a model that reads words
        of the training items.
      solver, hyper: as in `jaxmf.fit`.
      seed: seed of the split, if it is random, and of the initial parameters.
      clip: bounds that predictions are clipped to before errors are computed, or None; for a model of ratings.
      options: further arguments of `jaxmf.fit`, such as epochs and patience.

    Returns:
      the Fit, and the tables that were written: "metrics", one row each for train, valid and test, or for a model of
      preferences for each of valid and test one row of the model and one of popularity; "leakage", the audit of train
      against test; "history"; and for a model of preferences "ranking".

    Raises:
      ValueError: as `jaxmf.fit`, or if the bounds are in the wrong order; before anything is written.
    """
    from jaxmf import plot

    parts, split = _split(data, _THREE, seed)
    train, valid, test = parts
    check_clip(clip)
    model = model if isinstance(model, Model) else model(train)
    monitor = monitor_of(model)
    result = fit(jax.random.key(seed), model, solver, train, valid, hyper, monitor=monitor, **options)
    best = int(result.state.epoch if result.state.best is None else result.state.best.epoch)
    facts = {"model": model.name, "solver": solver.name, "status": result.status, "best_epoch": best}
    facts |= {"dtype": str(np.dtype(train.ratings.value.dtype)), "clip": "none" if clip is None else f"{clip}"}
    tables, baseline = (_rankings if monitor == "ndcg" else _errors)(result, parts, facts, clip)
    numbers = {name: value for name, value in hyper._asdict().items() if value is not None}
    limits = {name: options[name] for name in ("epochs", "patience") if name in options}
    configuration = {"job": "fit", "split": split, "hyper": numbers} | limits | facts
    output.write_json(out / "config.json", output.manifest(data.describe(), configuration, seed))
    tables |= {"leakage": evaluate.leakage(train, test), "history": result.to_frame()}
    for name, table in tables.items():
        output.write_table(out / f"{name}.csv", table)
    history = result.to_frame().assign(model=model.name, solver=solver.name)
    plot.save(plot.convergence(history, *baseline), out / "figures" / "convergence.png")
    save(out / "fit.npz", result, train)
    return result, tables


def monitor_of(model: Model) -> str:
    """Return what fits of a model watch: the error of ratings, or for a model of preferences a ranking."""
    return "ndcg" if model.predicts == "preference" else "rmse"


def _errors(
    result: Fit, parts: tuple[Dataset, ...], facts: dict[str, Any], clip: evaluate.Clip
) -> tuple[dict[str, pd.DataFrame], Baseline]:
    """Return the table of errors, one row for each part, and the baseline of the figure."""
    model, params = result.model, result.params
    rows = [
        facts | {"part": part, "num_ratings": len(ratings)} | evaluate.rating(model, params, ratings, clip)
        for part, ratings in zip(("train", "valid", "test"), parts, strict=True)
    ]
    train, valid, _ = parts
    damped = models.damped_bias()
    error = evaluate.rating(damped, damped.init(None, train.ratings, result.hyper), valid, clip)["rmse"]
    return {"metrics": pd.DataFrame(rows)}, (error, "valid_rmse", "damped bias")


def _rankings(
    result: Fit, parts: tuple[Dataset, ...], facts: dict[str, Any], clip: evaluate.Clip
) -> tuple[dict[str, pd.DataFrame], Baseline]:
    """Return the measures of the rankings of validation and test items, in a row per model, and with their intervals.

    Among the test items, those of the validation part are no candidates. Scores are not clipped.
    """
    train, valid, test = parts
    tables = [
        beside_popularity(result.model, result.params, train, part, exclude).assign(part=name)
        for name, part, exclude in (("valid", valid, None), ("test", test, valid))
    ]
    ranking = pd.concat(tables, ignore_index=True)
    ranking = ranking[["part", *ranking.columns.drop("part")]].rename(columns={"threshold": "relevant_from"})
    metrics = ranking.pivot_table("value", ["part", "model", "k", "relevant_from"], "metric", sort=False)
    metrics = metrics.reset_index().rename_axis(columns=None)
    own = metrics["model"] == result.model.name
    for name in ("dtype", "best_epoch", "status", "solver"):
        metrics.insert(2, name, pd.Series(facts[name], metrics.index).where(own))
    return {"metrics": metrics, "ranking": ranking}, (watched_popularity(train, valid), "valid_ndcg", "popularity")


def sweep_grid(
    data: Dataset,
    out: Path | Claimed,
    model: Model | Callable[[Dataset], Model],
    solver: Solver,
    grid: Grid,
    hyper: Hyper,
    folds: int | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Sweep, pd.DataFrame]:
    """Fit a grid; write what `jaxmf.sweep` writes, summary.csv with a row per setting, and figures.

    The test part of the split is not used: it is reserved for the setting that is chosen.

    Args:
      data: the ratings, split by `split_three`.
      out: folder for the results; finished members are saved there, and an interrupted sweep continues from them.
      model: as in `fit_one`.
      solver, grid, hyper: as in `jaxmf.sweep`.
      folds: number of folds of the training and validation parts together to validate on; None for the validation part.
      seed: seed of the split, if it is random, of the folds and of the key.
      options: further arguments of `jaxmf.sweep`, such as epochs and patience.

    Returns:
      the Sweep, and the table in summary.csv, best mean score on validation first: the lowest RMSE, or the highest NDCG
      for a model of preferences.

    Raises:
      ValueError: as `jaxmf.sweep`.
    """
    valid, weights = None, None
    if folds is None:
        (train, valid, _), _ = _split(data, _THREE, seed)
    else:
        (train, _), _ = _split(data, (0.7 + 0.15, 0.15), seed)
        weights = splits.k_fold(train, folds, seed)
    model = model if isinstance(model, Model) else model(train)
    runs = sweep(
        jax.random.key(seed),
        model,
        solver,
        train,
        valid,
        grid=grid,
        folds=weights,
        hyper=hyper,
        monitor=monitor_of(model),
        out=out,
        **options,
    )
    summary = runs.summary().sort_values(runs.score, ascending=cost_sign(runs.score) > 0, ignore_index=True)
    folder = Path(out)
    output.write_table(folder / "summary.csv", summary)
    _draw(runs, summary, folder / "figures")
    return runs, summary


def _draw(runs: Sweep, summary: pd.DataFrame, folder: Path) -> None:
    """Draw the score of a sweep: over two swept numbers, against one, and by epoch.

    If more than two numbers vary, the map shows two of them where all others have their best values.
    """
    from jaxmf import plot

    table, score = runs.to_frame(), runs.score
    swept = [name for name in runs.members[0].point if name not in ("seed", "fold")]
    varied = [name for name in swept if len(table[name].unique()) > 1]
    axes = swept if len(swept) == 2 else varied
    if len(axes) > 2:
        axes = ["unobserved", "l2"] if {"unobserved", "l2"} <= set(axes) else axes[:2]
        others = [name for name in varied if name not in axes]
        table = table.merge(summary[others].head(1))
    if len(axes) == 2:
        plot.save(plot.heat_map(table, score, *axes), folder / "heat_map.png")
    metrics = [name for name in ("train_loss", "valid_loss", "valid_rmse", "valid_mae", score) if name in table]
    if swept:
        plot.save(
            plot.panel(runs.to_frame(), list(dict.fromkeys(metrics)), *(varied or swept)[:2]), folder / "panel.png"
        )
    plot.save(plot.curves(runs.history, score, swept), folder / "curves.png")


def verify_models(
    data: Dataset,
    candidates: Mapping[str, Model | Callable[[Dataset], Model]],
    hyper: Hyper,
    seed: int = 0,
    out: Path | None = None,
    progress: bool = False,
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Run every check of `jaxmf.verify` that needs only a model and a point, at the initial parameters.

    Args:
      data: the ratings.
      candidates: the models by name, or functions that make them from the ratings.
      hyper: as in `jaxmf.verify.gradients`; a model without `background` has no use of `unobserved`.
      seed: seed of the initial parameters and of the directions.
      out: folder for config.json, a CSV per check, including `jaxmf.verify.differences`, and figures; or None.
      progress: show a progress bar on standard error.

    Returns:
      the tables of `gradients`, `hessian`, `taylor`, `complex_step` and, with `out`, `differences`, each with a column
      `model`; and a sentence for every check that does not apply to a model.

    Raises:
      ValueError: as `jaxmf.verify.gradients`.
    """
    from tqdm import tqdm

    from jaxmf import plot

    tables: dict[str, list[pd.DataFrame]] = {}
    refusals = []
    check_hyper(hyper)
    checks = (verify.gradients, verify.hessian, verify.taylor, verify.complex_step)
    bar = tqdm(total=len(candidates) * (len(checks) + (out is not None)), disable=not progress)
    for name, candidate in candidates.items():
        model = candidate if isinstance(candidate, Model) else candidate(data)
        numbers = hyper if model.background is not None else hyper._replace(unobserved=None)
        arguments = (model, model.init(jax.random.key(seed), data.ratings, numbers), data, numbers)
        for check in checks:
            bar.set_description(f"{name}, {check.__name__}")
            try:
                table = check(*arguments, seed=seed).to_frame()
            except verify.NotAnalyticError as error:
                refusals.append(str(error))
            else:
                tables.setdefault(check.__name__, []).append(table.assign(model=name))
            bar.update()
        if out is not None:
            bar.set_description(f"{name}, differences")
            differences = verify.differences(*arguments, seed=seed)
            tables.setdefault("differences", []).append(differences.slopes.assign(model=name))
            file_name = f"{name.replace(':', '.')}.png"
            figure = plot.step_sizes(differences.curves, differences.slopes)
            plot.save(figure, out / "figures" / f"step_sizes-{file_name}")
            figure = plot.remainders(verify.remainders(*arguments, seed=seed))
            plot.save(figure, out / "figures" / f"remainders-{file_name}")
            bar.update()
    bar.close()
    merged = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    merged = {name: table[["model", *table.columns.drop("model")]] for name, table in merged.items()}
    if out is not None:
        given = {name: value for name, value in hyper._asdict().items() if value is not None}
        configuration = {"job": "verify", "models": list(candidates), "hyper": given}
        output.write_json(out / "config.json", output.manifest(data.describe(), configuration, seed))
        for name, table in merged.items():
            output.write_table(out / f"{name}.csv", table)
    return merged, refusals


def split_three(data: Dataset, seed: int) -> tuple[Dataset, Dataset, Dataset, str]:
    """Split 70/15/15 into train, valid and test, per user by time if there are timestamps, else at random; say how."""
    (train, valid, test), description = _split(data, _THREE, seed)
    return train, valid, test, description


def _split(data: Dataset, fractions: tuple[float, ...], seed: int) -> tuple[tuple[Dataset, ...], str]:
    if data.timestamp is None:
        return splits.random(data, fractions, seed), f"random {fractions}, seed {seed}"
    return splits.temporal_per_user(data, fractions), f"temporal_per_user {fractions}"
