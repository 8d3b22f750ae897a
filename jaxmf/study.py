"""The main job: every solver on one split of one data set, from verified gradients to test errors."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmf import evaluate, models, output, verify
from jaxmf.data import Dataset, splits
from jaxmf.data.checks import check_clip
from jaxmf.models import Hyper, Model
from jaxmf.persist import save
from jaxmf.recipes import BATCH_SIZE, INIT_SCALE, MODELS, RECIPES, Recipe, starting_hyper
from jaxmf.report import summary
from jaxmf.solvers import Solver
from jaxmf.solvers.sgd import fill
from jaxmf.training import Fit, check_hyper, compile_fit, fit, prepare


class WrongGradientError(Exception):
    """A gradient failed its verification; the message names model and leaf."""


def run(
    data: Dataset,
    out: Path,
    rank: int = 16,
    l2: Sequence[float] = (0.03, 0.1, 0.3),
    epochs: int = 60,
    patience: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Verify the gradients, fit the baselines, then plain and biased factorization by every solver on one split.

    λ and the number of epochs are chosen on the validation ratings; test is read once per model and solver, by the
    parameters chosen. The split is per user and temporal (70/15/15) where the data have timestamps, else random.

    Args:
      data: the ratings.
      out: folder for config.json (the manifest), gradients.csv, search.csv (every λ tried), metrics.csv (one row per
        model and solver), history.csv (every epoch of every fit), figures/ and summary.md. Finished rows are on disk
        as soon as they are there; a run that was cut off continues from them if configuration and data are the same.
      rank: width of the factors.
      l2: values of λ to choose from, per observation (ν = 1).
      epochs: most epochs per fit.
      patience: epochs without improvement of the validation RMSE before a fit stops.
      seed: of the split, where it is random, and of the initial parameters.
      progress: show progress bars on standard error.

    Returns:
      metrics.csv as a table, best validation RMSE first.

    Raises:
      ValueError: a number out of range.
      WrongGradientError: a gradient that fails its verification (the report is written first).
    """
    from tqdm import tqdm

    clock = time.perf_counter()
    train, valid, test, split = split_three(data, seed)
    configuration = {
        "job": "study",
        "split": split,
        "rank": rank,
        "l2": list(l2),
        "reg_exponent": 1.0,
        "init_scale": INIT_SCALE,
        "epochs": epochs,
        "patience": patience,
        "learning_rate": {name: recipe.learning_rate for name, recipe in RECIPES.items()},
        "batch_size": BATCH_SIZE,
        "clip": None,
    }
    manifest = output.manifest(data, configuration, seed)
    candidates = {name: make(rank) for name, make in MODELS.items()}
    for value in l2:
        check_hyper(Hyper(l2=value))
    tables = _unfinished(out, manifest)
    if not len(tables["metrics"]):
        # Else a run cut off before its first row would pass for the owner of another configuration's rows.
        for name in tables:
            (out / f"{name}.csv").unlink(missing_ok=True)
    output.write_json(out / "config.json", manifest | {"finished": False})

    batches = {name: prepare(recipe.solver, train, valid) for name, recipe in RECIPES.items()}
    todo = [(m, r) for m in MODELS for r in RECIPES if (m, r) not in _done(tables)]
    with tqdm(total=1 + len(todo) * (1 + len(l2)), disable=not progress) as bar, ThreadPoolExecutor(2) as pool:
        bar.set_description("verifying and compiling")
        verified = pool.submit(_verify, candidates, train)
        compiling = {
            (m, r): pool.submit(
                compile_fit, candidates[m], RECIPES[r].solver, batches[r], Hyper(), patience, monitor="rmse"
            )
            for m, r in todo
        }
        work: list[Future[Any]] = [verified, *compiling.values()]
        for future in as_completed(work):
            bar.update()
            if future is verified:
                _refuse_wrong(verified.result(), out, pool)
        for model in (models.global_mean(), models.damped_bias()):
            _baseline(tables, model, train, valid, test)
        for model_name, recipe_name in todo:
            recipe, fits = RECIPES[recipe_name], []
            for value in l2:
                bar.set_description(f"{model_name}, {recipe_name}, λ = {value:g}")
                hyper = starting_hyper(recipe, value)
                arguments = (jax.random.key(seed), candidates[model_name], recipe.solver, batches[recipe_name])
                fits.append(fit(*arguments, hyper=hyper, epochs=epochs, patience=patience, monitor="rmse"))
                bar.update()
            _record(tables, recipe_name, recipe, fits, compiling[model_name, recipe_name].result(), test)
            _write(out, tables)

    tables["metrics"] = tables["metrics"].sort_values("valid_rmse", ignore_index=True)
    _write(out, tables)
    _draw(out, tables)
    num_matchings, filled = fill(batches["sgd"].layout, len(train))
    manifest |= {"sgd_matchings": num_matchings, "sgd_lanes_filled": round(filled, 4)}
    manifest |= {"wall_seconds": round(time.perf_counter() - clock, 1), "finished": True}
    text = summary(
        manifest, verified.result(), tables["metrics"], tables["history"], (len(train), len(valid), len(test))
    )
    output.write_text(out / "summary.md", text)
    output.write_json(out / "config.json", manifest)
    return tables["metrics"]


def fit_one(
    data: Dataset,
    out: Path,
    model: Model,
    solver: Solver,
    hyper: Hyper,
    epochs: int = 50,
    patience: int | None = 5,
    seed: int = 0,
    clip: evaluate.Clip = None,
    progress: bool = False,
) -> tuple[Fit, pd.DataFrame]:
    """Fit one model on one split; write config.json, metrics.csv, history.csv, figures/convergence.png and fit.npz.

    fit.npz holds the fit and its training data, see `jaxmf.load`.

    Args:
      data: the ratings, split as in `run`.
      out: folder for the results.
      model, solver, hyper, epochs, patience: as in `jaxmf.fit`.
      seed: of the split, where it is random, and of the initial parameters.
      clip: bounds for the predictions in the errors, or None.
      progress: show a progress bar on standard error.

    Returns:
      the Fit, and metrics.csv as a table: one row each for train, valid and test.

    Raises:
      ValueError: as `jaxmf.fit`, or bounds in the wrong order; before anything is written.
    """
    from jaxmf import plot

    train, valid, test, split = split_three(data, seed)
    check_clip(clip)
    key = jax.random.key(seed)
    result = fit(key, model, solver, train, valid, hyper, epochs, patience, monitor="rmse", progress=progress)
    damped = models.damped_bias()
    baseline = evaluate.rating(damped, damped.init(None, train.ratings, hyper), valid, clip)["rmse"]
    best = int(result.state.epoch if result.state.best is None else result.state.best.epoch)
    facts = {"model": model.name, "solver": solver.name, "status": result.status, "best_epoch": best}
    facts |= {"dtype": str(np.dtype(train.ratings.value.dtype)), "clip": "none" if clip is None else f"{clip}"}
    rows = [
        facts | {"part": part, "num_ratings": len(ratings)} | evaluate.rating(model, result.params, ratings, clip)
        for part, ratings in (("train", train), ("valid", valid), ("test", test))
    ]
    metrics = pd.DataFrame(rows)
    numbers = {name: value for name, value in hyper._asdict().items() if value is not None}
    configuration = {"job": "fit", "split": split, "hyper": numbers, "epochs": epochs, "patience": patience} | facts
    output.write_json(out / "config.json", output.manifest(data, configuration, seed))
    output.write_table(out / "metrics.csv", metrics)
    output.write_table(out / "history.csv", result.to_frame())
    history = result.to_frame().assign(model=model.name, solver=solver.name)
    plot.save(plot.convergence(history, baseline), out / "figures" / "convergence.png")
    save(out / "fit.npz", result, train)
    return result, metrics


def split_three(data: Dataset, seed: int) -> tuple[Dataset, Dataset, Dataset, str]:
    """Train, valid and test (70/15/15), and how they were made: per user by time where there are times, else random."""
    fractions = (0.7, 0.15, 0.15)
    if data.timestamp is None:
        train, valid, test = splits.random(data, fractions, seed)
        return train, valid, test, f"random {fractions}, seed {seed}"
    train, valid, test = splits.temporal_per_user(data, fractions)
    return train, valid, test, f"temporal_per_user {fractions}"


def _refuse_wrong(gradients: pd.DataFrame, out: Path, pool: ThreadPoolExecutor) -> None:
    """Write the report of the gradients, and stop the study if one is wrong."""
    output.write_table(out / "gradients.csv", gradients)
    if not gradients["passed"].all():
        pool.shutdown(cancel_futures=True)
        wrong = gradients.loc[~gradients["passed"], ["model", "leaf"]].agg(" ".join, axis=1)
        raise WrongGradientError(f"gradient verification failed for {', '.join(wrong)}; see {out / 'gradients.csv'}")


def _verify(candidates: dict[str, Model], train: Dataset) -> pd.DataFrame:
    tables = []
    for name, model in candidates.items():
        params = jax.jit(model.init)(jax.random.key(0), train.ratings, Hyper())
        tables.append(verify.gradients(model, params, train, Hyper()).to_frame().assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["model", *table.columns.drop("model")]]


def _baseline(tables: dict[str, pd.DataFrame], model: Model, train: Dataset, valid: Dataset, test: Dataset) -> None:
    if (model.name, "closed form") in _done(tables):
        return
    params = model.init(None, train.ratings, Hyper())
    errors = {part: evaluate.rating(model, params, ratings) for part, ratings in (("valid", valid), ("test", test))}
    row = {"model": model.name, "solver": "closed form", "status": "exact", "valid_rmse": errors["valid"]["rmse"]}
    row |= {"test_rmse": errors["test"]["rmse"], "test_mae": errors["test"]["mae"]}
    _append(tables, "metrics", pd.DataFrame([row | {"dtype": str(np.dtype(train.ratings.value.dtype))}]))


def _record(
    tables: dict[str, pd.DataFrame], name: str, recipe: Recipe, fits: list[Fit], compile_seconds: float, test: Dataset
) -> None:
    """Add the fits of one model and solver to the tables; only the one best on validation meets test."""
    search, histories = [], []
    for result in fits:
        assert result.state.best is not None
        history = result.to_frame()
        search.append(
            {
                "model": result.model.name,
                "solver": name,
                "l2": result.hyper.l2,
                "status": result.status,
                "epochs": len(history),
                "best_epoch": int(result.state.best.epoch),
                "valid_rmse": float(result.state.best.score),
                "seconds": history["seconds"].iloc[-1],
            }
        )
        histories.append(history.assign(model=result.model.name, solver=name, l2=result.hyper.l2))
    found = pd.DataFrame(search)
    chosen = int(found["valid_rmse"].argmin())
    for number, history in enumerate(histories):
        history.insert(0, "chosen", number == chosen)
    best, row = fits[chosen], found.iloc[chosen].to_dict()
    errors = evaluate.rating(best.model, best.params, test)
    row |= {"learning_rate": recipe.learning_rate or np.nan, "test_rmse": errors["rmse"], "test_mae": errors["mae"]}
    row |= {"seconds_per_epoch": row["seconds"] / row["epochs"], "search_seconds": found["seconds"].sum()}
    row |= {"compile_seconds": compile_seconds, "dtype": str(best.history["train_loss"].dtype)}
    _append(tables, "metrics", pd.DataFrame([row]))
    _append(tables, "search", found)
    _append(tables, "history", pd.concat(histories))


def _write(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        output.write_table(out / f"{name}.csv", table)


def _append(tables: dict[str, pd.DataFrame], name: str, rows: pd.DataFrame) -> None:
    tables[name] = pd.concat([tables[name], rows], ignore_index=True) if len(tables[name]) else rows


def _done(tables: dict[str, pd.DataFrame]) -> set[tuple[str, str]]:
    metrics = tables["metrics"]
    return set(zip(metrics["model"], metrics["solver"], strict=True)) if len(metrics) else set()


def _unfinished(out: Path, manifest: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables that a cut-off run of the same configuration left in `out`, else empty ones."""
    names = ("metrics", "search", "history")
    empty = {name: pd.DataFrame() for name in names}
    try:
        before = json.loads((out / "config.json").read_text(encoding="utf-8"))
        same = all(before[part] == manifest[part] for part in ("configuration", "data", "versions", "seed", "dtype"))
        if before["finished"] or not same:
            return empty
        found = {name: pd.read_csv(out / f"{name}.csv") for name in names}
    except (OSError, ValueError, KeyError):
        return empty
    # A run may have died between two files: keep what every file has.
    whole = set.intersection(*(set(zip(t["model"], t["solver"], strict=True)) for t in found.values()))
    return {name: t[[pair in whole for pair in zip(t["model"], t["solver"], strict=True)]] for name, t in found.items()}


def _draw(out: Path, tables: dict[str, pd.DataFrame]) -> None:
    from jaxmf import plot

    chosen = tables["history"][tables["history"]["chosen"]]
    metrics = tables["metrics"]
    baseline = float(metrics.loc[metrics["model"] == "damped_bias", "valid_rmse"].iloc[0])
    figures = {
        "convergence": partial(plot.convergence, chosen, baseline),
        "generalization": partial(plot.generalization, chosen),
        "error_by_solver": partial(plot.error_by_solver, metrics),
        "regularization": partial(plot.regularization, tables["search"]),
    }
    for name, draw in figures.items():
        plot.save(draw(), out / "figures" / f"{name}.png")
