"""Fit a model: check the arguments, compile one program, and run it in chunks of epochs."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
import pandas as pd

from jaxmf.data.checks import expect
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings, padded
from jaxmf.kernels.devices import unreplicate
from jaxmf.models.checks import check_hyper, check_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.solvers.solver import Solver
from jaxmf.training._fingerprints import check_same, fingerprints
from jaxmf.training.checks import (
    check_batch,
    check_functions,
    check_key,
    check_monitor,
    check_promised,
    check_ratings,
    check_solver,
    check_static,
)
from jaxmf.training.fitted import Fit, watched_columns
from jaxmf.training.options import Monitor, Options
from jaxmf.training.origin import given, resumed
from jaxmf.training.program import CHUNK, compiled_initialize, progress_bar, run_chunks, set_up
from jaxmf.training.state import STATUS, FitState, Prepared, result, start

T = TypeVar("T")


def prepare(solver: Solver, train: Dataset | Ratings, valid: Dataset | Ratings | None = None) -> Prepared:
    """Lay out the ratings for a solver, once, on the host. The result serves any model and any `Hyper`.

    Args:
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items, or None.

    Returns:
      a pytree, the `batch` that `run` of `make_fit` takes. The ratings are padded with weight 0 to a size of
      `jaxmf.data.ratings.padded_size`, so that data of about the same size have the same shapes and share programs.

    Raises:
      ValueError: `solver` is not a Solver, `as_ratings` refuses the ratings, or training and validation ratings are
        over different users or items.
    """
    check_solver(solver)
    observed, held_out = _observed(train, valid)
    return Prepared(padded(observed), None if held_out is None else padded(held_out), solver.prepare(observed), solver)


def fit(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings | Prepared,
    valid: Dataset | Ratings | None = None,
    hyper: Hyper | None = None,
    epochs: int = 50,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor | None = None,
    track: bool = True,
    resume: Fit | None = None,
    progress: bool = False,
    params: Params | None = None,
) -> Fit:
    """Fit a model: check the arguments, compile `make_fit` once, and run it in chunks of epochs.

    Args:
      key: from `jax.random.key` (or `PRNGKey`). The same key, data and hyperparameters give the same bits on the same
        machine.
      model: the model.
      solver: the solver.
      train: training ratings, or the result of `prepare` (which then includes `valid`).
      valid: validation ratings over the same users and items.
      hyper: the hyperparameters; if None, those of `resume`, or else `Hyper()`. Other values run the same compiled
        program.
      epochs: number of epochs to run, after those of `resume`.
      patience, min_delta, monitor, track: as in `make_fit`.
      resume: an earlier Fit of the same model, solver and data, to continue: with the same key, 5 epochs and 5 more
        equal 10 bit for bit. A fit that stopped by itself is returned unchanged. The training ratings must be the same,
        in the same order; with `patience` the validation ratings too, since the best epoch so far was chosen on them.
        The fit continues from `resume.state`, so one whose `params` were edited is refused.
      progress: show a progress bar on standard error.
      params: start a new fit from these parameters instead of those of the model's `init`. They may come from another
        fit, from `recommend.update` or `fold_in`, or from you, and must have the structure, shapes and dtypes of the
        model's own. Columns beyond `hyper.rank` start at 0 as always. `params.fixed` is used unchanged, including the
        mean μ of the ratings that the parameters were trained on: for μ of these ratings, take it from `model.init`.

    Returns:
      a Fit. Divergence is a status, not an exception.

    Raises:
      ValueError: an argument of the wrong type; a number out of range; ratings that `prepare` refuses, or has laid out
        for a solver of another layout; a model that lacks a part that the solver needs, breaks a promise that the
        solver relies on (`Solver.promises`), or has functions that return wrong shapes; `patience` without `valid`; a
        `resume` that was edited, or differs in shapes, active rank or ratings; `params` of another shape or dtype, or
        not finite.
    """
    options = Options(patience, min_delta, monitor, track)
    if resume is not None:
        expect(resume, Fit, "resume", "pass what fit returned; load returns (fit, data)")
    if resume is not None and params is not None:
        raise ValueError("fit: params start a new fit, and resume continues an earlier one: pass one of the two")
    if hyper is None:
        hyper = Hyper() if resume is None else resume.hyper
    check_key(key)
    check_static(model, solver, epochs, options)
    check_hyper(hyper)
    batch, observed = _without_layout(solver, train, valid, patience)
    ratings = batch.train
    check_ratings(model, ratings)
    # Cast before anything is traced, so that an int, a float and a NumPy number find the same compiled program.
    numbers = cast_hyper(hyper, ratings.value.dtype)
    shape = check_functions(key, model, ratings, numbers)
    check_rank(hyper, shape)
    check_monitor(monitor, model, shape, batch.valid, ratings)
    solver.check(model, shape, hyper, ratings.context)
    origin: FitState | Params | None = None if params is None else given(params, shape)
    hashed = _in_background(fingerprints, ratings, batch.valid)
    if observed is not None:
        batch = batch._replace(layout=solver.prepare(observed))
    if resume is not None:
        needed = jax.eval_shape(lambda: start(key, model, solver, batch, numbers, patience))
        origin = resumed(resume, solver, hyper, needed)
        check_same(resume.fingerprints, hashed.result(), patience)

    def initialize(ratings: Ratings) -> Params:
        initial: Params = compiled_initialize(model, ratings)(key, ratings, numbers)
        return initial

    if isinstance(origin, Params):
        check_promised(model, solver, origin, numbers, ratings, None)
    else:
        check_promised(model, solver, shape, numbers, ratings, initialize)
    program, batch, state, compile_seconds = set_up(key, model, solver, batch, numbers, options, origin)
    earlier = [] if resume is None else [resume.to_frame()]
    with progress_bar(epochs, progress) as bar:
        state, history = _run_to_end(run_chunks(key, program, batch, numbers, state, epochs), state, earlier, bar)
    state = unreplicate(state, solver.machine.devices)
    return Fit(
        model, result(solver, state), hyper, state, history, STATUS[int(state.status)], compile_seconds, hashed.result()
    )


def compile_fit(
    model: Model,
    solver: Solver,
    batch: Prepared,
    hyper: Hyper,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor | None = None,
    track: bool = True,
) -> float:
    """Compile ahead of time the programs that `fit` runs for these arguments; several threads may do so at once.

    Args:
      model, solver, hyper, patience, min_delta, monitor, track: as in `fit`; the values of `hyper` do not matter.
      batch: the result of `prepare`.

    Returns:
      the seconds it took; about 0 if the programs were compiled before.

    Raises:
      ValueError: as `fit`, where the values of the ratings are not needed to tell.
    """
    options = Options(patience, min_delta, monitor, track)
    check_static(model, solver, CHUNK, options)
    check_hyper(hyper)
    check_batch(batch, solver, patience)
    numbers = cast_hyper(hyper, batch.train.value.dtype)
    return set_up(jax.random.key(0), model, solver, batch, numbers, options)[-1]


def _observed(train: Dataset | Ratings, valid: Dataset | Ratings | None) -> tuple[Ratings, Ratings | None]:
    """Return the ratings of the training and the validation part, without padding."""
    return (as_ratings(train, "train"), None) if valid is None else as_parts(train, valid)


def _without_layout(
    solver: Solver, train: Dataset | Ratings | Prepared, valid: Dataset | Ratings | None, patience: int | None
) -> tuple[Prepared, Ratings | None]:
    """Return a batch without its layout, and the ratings to lay out; or, if `prepare` made `train`, that and None."""
    if isinstance(train, Prepared):
        if valid is not None:
            raise ValueError("fit: valid is already part of what prepare made; pass it to prepare instead")
        check_batch(train, solver, patience)
        return train, None
    if patience is not None and valid is None:
        raise ValueError("patience needs validation ratings: pass valid= (jaxmf.splits makes them)")
    observed, held_out = _observed(train, valid)
    return Prepared(padded(observed), None if held_out is None else padded(held_out), None, solver), observed


def _in_background(function: Callable[..., T], *args: Any) -> Future[T]:
    """Call a function in another thread and return its future; hashing releases the GIL, so this thread goes on."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(function, *args)
    executor.shutdown(wait=False)
    return future


def _run_to_end(
    chunks: Iterator[tuple[FitState, dict[str, np.ndarray], float]],
    state: FitState,
    earlier: list[pd.DataFrame],
    bar: Any,
) -> tuple[FitState, dict[str, np.ndarray]]:
    """Run all chunks, advancing the bar; return the last state, and the history appended to the earlier ones."""
    elapsed = float(earlier[0]["seconds"].iloc[-1]) if earlier and len(earlier[0]) else 0.0
    tables = list(earlier)
    for after, history, seconds in chunks:
        table = pd.DataFrame({name: column[history["epoch"] > 0] for name, column in history.items()})
        table.insert(1, "seconds", elapsed + seconds * np.arange(1, len(table) + 1) / len(table))
        tables.append(table)
        state, elapsed = after, elapsed + seconds
        bar.update(len(table))
        if shown := watched_columns(table):
            bar.set_postfix({name: f"{table[name].iloc[-1]:.4f}" for name in shown}, refresh=False)
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"epoch": [], "seconds": []})
    return state, {str(name): joined[name].to_numpy() for name in joined}
