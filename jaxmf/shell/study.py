"""The study: every solver on one split of one data set, from verified gradients to test errors and rankings."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxmf import evaluate, models, verify
from jaxmf.data import Dataset
from jaxmf.files import output
from jaxmf.kernels._matchings import fill
from jaxmf.models import Hyper, Model, Params
from jaxmf.models.checks import check_hyper
from jaxmf.shell.answers import K, rankings, relevance
from jaxmf.shell.jobs import split_three
from jaxmf.shell.recipes import BATCH_SIZE, INIT_SCALE, MODELS, RECIPES, starting_hyper
from jaxmf.shell.report import summary
from jaxmf.shell.study_tables import WrongGradientError, append, begin, done, draw, draw_grid, refuse_wrong, write
from jaxmf.sweeps import Sweep, sweep
from jaxmf.training import Fit, Prepared, compile_fit, fit, prepare


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
    """Verify the gradients, fit the baselines, then fit plain and biased factorization by every solver on one split.

    λ and the number of epochs are chosen on the validation ratings; the test ratings are used once per model and
    solver, for the chosen parameters. The split (70/15/15) is per user by time if there are timestamps, else random.

    Args:
      data: the ratings.
      out: folder for config.json (the manifest), gradients.csv, leakage.csv (audit of the split), search.csv (every λ
        tried), metrics.csv (one row per model and solver), ranking.csv (metrics of their rankings of test items, with
        intervals, beside baselines), history.csv (every epoch of every fit), sweep.csv (biased factorization by `sgd`,
        every rank with every λ), figures/ and summary.md. Rows are written as soon as they are finished; an
        interrupted run continues from them if configuration and data are the same.
      rank: number of factors.
      l2: values of λ to choose from, per rating (ν = 1).
      epochs: maximum number of epochs per fit.
      patience: epochs without improvement of the validation RMSE before a fit stops.
      seed: seed of the split, if it is random, and of the initial parameters.
      progress: show progress bars on standard error.

    Returns:
      the table in metrics.csv, best validation RMSE first.

    Raises:
      ValueError: if a number is out of range.
      WrongGradientError: if a gradient fails its verification; the report is written first.
    """
    from tqdm import tqdm

    clock = time.perf_counter()
    study = _begin(data, out, rank, l2, epochs, patience, seed)
    tables = study.tables
    todo = [(m, r) for m in MODELS for r in RECIPES if (m, r) not in done(tables)]
    with tqdm(total=2 + len(todo) * (1 + len(l2)), disable=not progress) as bar, ThreadPoolExecutor(2) as pool:
        bar.set_description("verifying and compiling")
        gradients, compile_seconds = _verify_and_compile(study, todo, pool, bar)
        for model, recipe in todo:
            fits = []
            for value in l2:
                bar.set_description(f"{model}, {recipe}, λ = {value:g}")
                fits.append(_fit(study, model, recipe, value))
                bar.update()
            best = _record(study, recipe, fits, compile_seconds[model, recipe])
            _rank(study, best.model, best.params, recipe)
            write(out, tables)
        tables["metrics"] = tables["metrics"].sort_values("valid_rmse", ignore_index=True)
        write(out, tables)
        drawing = pool.submit(draw, out, tables)
        bar.set_description("every rank with every λ")
        runs = _every_rank(study, rank)
        bar.update()
    drawing.result()
    output.write_table(out / "sweep.csv", runs.to_frame())
    draw_grid(out, runs.to_frame())
    num_matchings, filled = fill(study.batches["sgd"].layout)
    manifest = study.manifest | {"sgd_matchings": num_matchings, "sgd_lanes_filled": round(filled, 4)}
    manifest |= {"wall_seconds": round(time.perf_counter() - clock, 1), "finished": True}
    sizes = len(study.train), len(study.valid), len(study.test)
    parts = tables["metrics"], tables["history"], tables["ranking"], study.leakage
    output.write_text(out / "summary.md", summary(manifest, gradients, *parts, runs, sizes))
    output.write_json(out / "config.json", manifest)
    return tables["metrics"]


class _Study(NamedTuple):
    """The inputs of all stages of a study, and the tables that the stages add rows to."""

    out: Path
    train: Dataset
    valid: Dataset
    test: Dataset
    leakage: pd.DataFrame
    manifest: dict[str, Any]
    candidates: dict[str, Model]
    batches: dict[str, Prepared]
    tables: dict[str, pd.DataFrame]
    l2: Sequence[float]
    epochs: int
    patience: int
    seed: int


def _begin(data: Dataset, out: Path, rank: int, l2: Sequence[float], epochs: int, patience: int, seed: int) -> _Study:
    """Split and lay out the data, write the manifest, and read the tables of an interrupted run."""
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
    tables = begin(out, manifest)
    leakage = evaluate.leakage(train, test)
    output.write_table(out / "leakage.csv", leakage)
    batches = {name: prepare(recipe.solver, train, valid) for name, recipe in RECIPES.items()}
    return _Study(out, train, valid, test, leakage, manifest, candidates, batches, tables, l2, epochs, patience, seed)


def _verify_and_compile(
    study: _Study, todo: list[tuple[str, str]], pool: ThreadPoolExecutor, bar: Any
) -> tuple[pd.DataFrame, dict[tuple[str, str], float]]:
    """Return the report of the gradients and the compile seconds of each program; fit the baselines meanwhile.

    The baselines report no times, so they may run while programs compile on the same cores.
    """
    verified = pool.submit(_verify, study.candidates, study.train)
    options: dict[str, Any] = {"patience": study.patience, "monitor": "rmse"}
    compiling = {
        (m, r): pool.submit(compile_fit, study.candidates[m], RECIPES[r].solver, study.batches[r], Hyper(), **options)
        for m, r in todo
    }
    for model in (models.global_mean(), models.damped_bias()):
        _baseline(study, model)
    mean = models.global_mean()
    _rank(study, mean, mean.init(None, study.train.ratings, Hyper()), "closed form")
    work: list[Future[Any]] = [verified, *compiling.values()]
    for future in as_completed(work):
        bar.update()
        if future is verified:
            try:
                refuse_wrong(verified.result(), study.out)
            except WrongGradientError:
                pool.shutdown(cancel_futures=True)
                raise
    return verified.result(), {pair: future.result() for pair, future in compiling.items()}


def _fit(study: _Study, model: str, recipe: str, l2: float) -> Fit:
    return fit(
        jax.random.key(study.seed),
        study.candidates[model],
        RECIPES[recipe].solver,
        study.batches[recipe],
        hyper=starting_hyper(RECIPES[recipe], l2),
        epochs=study.epochs,
        patience=study.patience,
        monitor="rmse",
    )


def _every_rank(study: _Study, rank: int) -> Sweep:
    """Fit biased factorization by `sgd` at several ranks up to this one, each with every λ."""
    recipe, ranks = RECIPES["sgd"], sorted({max(1, rank // part) for part in (8, 4, 2, 1)})
    return sweep(
        jax.random.key(study.seed),
        study.candidates["biased_mf"],
        recipe.solver,
        study.train,
        study.valid,
        grid={"rank": ranks, "l2": list(study.l2)},
        hyper=starting_hyper(recipe, study.l2[0]),
        epochs=study.epochs,
        patience=study.patience,
        monitor="rmse",
        keep="none",
    )


def _verify(candidates: dict[str, Model], train: Dataset) -> pd.DataFrame:
    tables = []
    for name, model in candidates.items():
        params = jax.jit(model.init)(jax.random.key(0), train.ratings, Hyper())
        tables.append(verify.gradients(model, params, train, Hyper()).to_frame().assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["model", *table.columns.drop("model")]]


def _baseline(study: _Study, model: Model) -> None:
    if (model.name, "closed form") in done(study.tables):
        return
    params, parts = model.init(None, study.train.ratings, Hyper()), (("valid", study.valid), ("test", study.test))
    errors = {part: evaluate.rating(model, params, ratings) for part, ratings in parts}
    row = {"model": model.name, "solver": "closed form", "status": "exact", "valid_rmse": errors["valid"]["rmse"]}
    row |= {"test_rmse": errors["test"]["rmse"], "test_mae": errors["test"]["mae"]}
    dtype = str(np.dtype(study.train.ratings.value.dtype))
    append(study.tables, "metrics", pd.DataFrame([row | {"dtype": dtype}]))


def _record(study: _Study, name: str, fits: list[Fit], compile_seconds: float) -> Fit:
    """Add the fits of one model and solver to the tables; test only the best on validation, and return it."""
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
                # If the first epoch diverged, there is no best epoch.
                "valid_rmse": float(result.state.best.score) if int(result.state.best.epoch) else np.inf,
                "seconds": history["seconds"].iloc[-1],
            }
        )
        histories.append(history.assign(model=result.model.name, solver=name, l2=result.hyper.l2))
    search_table = pd.DataFrame(search)
    chosen = int(search_table["valid_rmse"].argmin())
    for index, history in enumerate(histories):
        history.insert(0, "chosen", index == chosen)
    best, row = fits[chosen], search_table.iloc[chosen].to_dict()
    errors = evaluate.rating(best.model, best.params, study.test)
    row |= {
        "learning_rate": RECIPES[name].learning_rate or np.nan,
        "test_rmse": errors["rmse"],
        "test_mae": errors["mae"],
    }
    row |= {"seconds_per_epoch": row["seconds"] / row["epochs"], "search_seconds": search_table["seconds"].sum()}
    row |= {"compile_seconds": compile_seconds, "dtype": str(best.history["train_loss"].dtype)}
    append(study.tables, "metrics", pd.DataFrame([row]))
    append(study.tables, "search", search_table)
    append(study.tables, "history", pd.concat(histories))
    return best


def _rank(study: _Study, model: Model, params: Params, solver: str) -> None:
    """Add one fit's rankings of test items; the global mean itself, whose scores all tie, gets no rows."""
    configuration = study.manifest["configuration"]
    options = {"k": configuration["k"], "threshold": configuration["relevant_from"]}
    options["baselines"] = solver == "closed form"
    ranking = rankings(model, params, study.train, study.test, study.valid, **options)
    ranking.insert(1, "solver", solver)
    append(study.tables, "ranking", ranking[ranking["model"] != "global_mean"])
