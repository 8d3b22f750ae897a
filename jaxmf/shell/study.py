"""The main job: every solver on one split of one data set, from verified gradients to test errors and rankings."""

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
from jaxmf.data import Dataset
from jaxmf.kernels._matchings import fill
from jaxmf.models import Hyper, Model, Params
from jaxmf.models.checks import check_hyper
from jaxmf.shell.answers import rankings, relevance
from jaxmf.shell.jobs import split_three
from jaxmf.shell.recipes import BATCH_SIZE, INIT_SCALE, MODELS, RECIPES, Recipe, starting_hyper
from jaxmf.shell.report import summary
from jaxmf.sweeps import sweep
from jaxmf.training import Fit, compile_fit, fit, prepare

K = 10  # positions of a ranking that count


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
      out: folder for config.json (the manifest), gradients.csv, leakage.csv (audit of the split), search.csv (every λ
        tried), metrics.csv (one row per model and solver), ranking.csv (measures of their rankings of test items, with
        intervals, beside baselines), history.csv (every epoch of every fit), sweep.csv (biased factorization by `sgd`,
        every rank with every λ), figures/ and summary.md. Finished rows are on disk as soon as they are there; a run
        that was cut off continues from them if configuration and data are the same.
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
        "k": K,
        "relevant_from": relevance(train, test),
    }
    manifest = output.manifest(data.describe(), configuration, seed)
    candidates = {name: make(rank) for name, make in MODELS.items()}
    for value in l2:
        check_hyper(Hyper(l2=value))
    tables = _unfinished(out, manifest)
    if not len(tables["metrics"]):
        # Else a run cut off before its first row would pass for the owner of another configuration's rows.
        for name in tables:
            (out / f"{name}.csv").unlink(missing_ok=True)
    output.write_json(out / "config.json", manifest | {"finished": False})
    leakage = evaluate.leakage(train, test)
    output.write_table(out / "leakage.csv", leakage)

    batches = {name: prepare(recipe.solver, train, valid) for name, recipe in RECIPES.items()}
    todo = [(m, r) for m in MODELS for r in RECIPES if (m, r) not in _done(tables)]
    with tqdm(total=2 + len(todo) * (1 + len(l2)), disable=not progress) as bar, ThreadPoolExecutor(2) as pool:
        bar.set_description("verifying and compiling")
        verified = pool.submit(_verify, candidates, train)
        compiling = {
            (m, r): pool.submit(
                compile_fit, candidates[m], RECIPES[r].solver, batches[r], Hyper(), patience, monitor="rmse"
            )
            for m, r in todo
        }
        # The baselines report no times, so they can run while programs compile on the same cores.
        for model in (models.global_mean(), models.damped_bias()):
            _baseline(tables, model, train, valid, test)
        mean = models.global_mean()
        _rank(tables, manifest, mean, mean.init(None, train.ratings, Hyper()), "closed form", train, valid, test)
        work: list[Future[Any]] = [verified, *compiling.values()]
        for future in as_completed(work):
            bar.update()
            if future is verified:
                _refuse_wrong(verified.result(), out, pool)
        for model_name, recipe_name in todo:
            recipe, fits = RECIPES[recipe_name], []
            for value in l2:
                bar.set_description(f"{model_name}, {recipe_name}, λ = {value:g}")
                hyper = starting_hyper(recipe, value)
                arguments = (jax.random.key(seed), candidates[model_name], recipe.solver, batches[recipe_name])
                fits.append(fit(*arguments, hyper=hyper, epochs=epochs, patience=patience, monitor="rmse"))
                bar.update()
            best = _record(tables, recipe_name, recipe, fits, compiling[model_name, recipe_name].result(), test)
            _rank(tables, manifest, best.model, best.params, recipe_name, train, valid, test)
            _write(out, tables)

        tables["metrics"] = tables["metrics"].sort_values("valid_rmse", ignore_index=True)
        _write(out, tables)
        drawing = pool.submit(_draw, out, tables)
        bar.set_description("every rank with every λ")
        recipe, ranks = RECIPES["sgd"], sorted({max(1, rank // part) for part in (8, 4, 2, 1)})
        runs = sweep(
            jax.random.key(seed),
            candidates["biased_mf"],
            recipe.solver,
            train,
            valid,
            grid={"rank": ranks, "l2": list(l2)},
            hyper=starting_hyper(recipe, l2[0]),
            epochs=epochs,
            patience=patience,
            monitor="rmse",
            keep="none",
        )
        bar.update()

    drawing.result()
    output.write_table(out / "sweep.csv", runs.to_frame())
    _draw_grid(out, runs.to_frame())
    num_matchings, filled = fill(batches["sgd"].layout)
    manifest |= {"sgd_matchings": num_matchings, "sgd_lanes_filled": round(filled, 4)}
    manifest |= {"wall_seconds": round(time.perf_counter() - clock, 1), "finished": True}
    text = summary(
        manifest,
        verified.result(),
        tables["metrics"],
        tables["history"],
        tables["ranking"],
        leakage,
        runs,
        (len(train), len(valid), len(test)),
    )
    output.write_text(out / "summary.md", text)
    output.write_json(out / "config.json", manifest)
    return tables["metrics"]


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
) -> Fit:
    """Add the fits of one model and solver to the tables; only the one best on validation, returned, meets test."""
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
                # Of a fit whose first epoch diverged, no epoch was the best.
                "valid_rmse": float(result.state.best.score) if int(result.state.best.epoch) else np.inf,
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
    return best


def _rank(
    tables: dict[str, pd.DataFrame],
    manifest: dict[str, Any],
    model: Model,
    params: Params,
    solver: str,
    train: Dataset,
    valid: Dataset,
    test: Dataset,
) -> None:
    """Add the rankings of test items by one fit; those of the global mean, which tie, are left to the baselines."""
    choices = manifest["configuration"]
    options = {"k": choices["k"], "threshold": choices["relevant_from"]}
    found = rankings(model, params, train, test, valid, baselines=solver == "closed form", **options)
    found.insert(1, "solver", solver)
    _append(tables, "ranking", found[found["model"] != "global_mean"])


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
    names = ("metrics", "search", "history", "ranking")
    empty = {name: pd.DataFrame() for name in names}
    try:
        before = json.loads((out / "config.json").read_text(encoding="utf-8"))
        same = all(before[part] == manifest[part] for part in ("configuration", "data", "versions", "seed", "dtype"))
        if before["finished"] or not same:
            return empty
        found = {name: pd.read_csv(out / f"{name}.csv") for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it is somebody else's, or was changed
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
        "ranking": partial(plot.rankings, tables["ranking"]),
    }
    for name, draw in figures.items():
        plot.save(draw(), out / "figures" / f"{name}.png")


def _draw_grid(out: Path, grid: pd.DataFrame) -> None:
    from jaxmf import plot

    plot.save(plot.heat_map(grid, "valid_rmse", "rank", "l2"), out / "figures" / "rank_and_l2.png")
