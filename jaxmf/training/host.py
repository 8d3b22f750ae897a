"""The host's door to the training loop: checks first, one compiled program, epochs in chunks."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxmf.data.checks import expect
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings, padded
from jaxmf.models.model import Hyper, Model, Params, cast_hyper
from jaxmf.models.programs import Form, of_model, shapes
from jaxmf.models.xla import here, once
from jaxmf.solvers.devices import on_all, on_first
from jaxmf.solvers.solver import Solver
from jaxmf.training.checks import check_functions, check_hyper, check_key, check_monitor, check_promised, check_rank
from jaxmf.training.fingerprints import Fingerprints, check_same, fingerprints
from jaxmf.training.loop import (
    RUNNING,
    STATUS,
    FitState,
    Monitor,
    Prepared,
    check_batch,
    check_solver,
    check_static,
    constants,
    first_state,
    initialize,
    make_fit,
    result,
    start,
)
from jaxmf.training.origin import given, resumed

_COLUMNS = ("epoch", "train_loss", "objective", "valid_loss", "valid_rmse", "valid_mae", "monitor")
CHUNK = 32  # epochs per compiled program; how many of them run is traced, so one program serves any number of epochs
_TICK = 1.0  # seconds between two reports of progress


class Options(NamedTuple):
    """The static choices of `make_fit` beside the number of epochs."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    track: bool = True


class Fit(NamedTuple):
    """A fitted model. It can be copied, and pickled if the model is of `jaxmf.models` or of functions of a module.

    Attributes:
      model: the model.
      params: the parameters: with `patience` those of the best epoch on validation, else those of the last one.
      hyper: the numbers it was fitted with.
      state: for `resume`.
      history: name -> (epochs,) array: `epoch` (from 1), `seconds` since the start (without `compile_seconds`),
        `train_loss` (weighted mean of the model's loss), `objective` (the regularized sum), and with validation ratings
        `valid_loss`, `valid_rmse`, `valid_mae` (and `monitor`, if that is a function); after a divergence the last row
        is the bad epoch.
      status: "completed" (all epochs ran), "converged" (the solver's own rule), "stopped_early" (no improvement for
        `patience` epochs) or "diverged" (numbers no longer finite; contained, not raised).
      compile_seconds: time spent before the first epoch on tracing, compiling, `init` and laying the ratings out on the
        device; little when the programs were there already.
      fingerprints: of the ratings that it was fitted to and validated on, for `resume`.
    """

    model: Model
    params: Params
    hyper: Hyper
    state: FitState
    history: dict[str, np.ndarray]
    status: str
    compile_seconds: float = 0.0
    fingerprints: Fingerprints | None = None

    def to_frame(self) -> pd.DataFrame:
        """The history as a table, one row per epoch."""
        return pd.DataFrame(self.history)

    def __repr__(self) -> str:
        shown = [
            f"{name} {self.history[name][-1]:.4g}" for name in ("train_loss", "valid_rmse") if name in self.history
        ]
        end = ", ".join([self.status, *shown]) if len(self.history["epoch"]) else self.status
        return f"<Fit of {self.model!r}, {len(self.history['epoch'])} epochs: {end}>"


def prepare(solver: Solver, train: Dataset | Ratings, valid: Dataset | Ratings | None = None) -> Prepared:
    """Lay the ratings out for a solver: once, on the host. The result serves any model and any `Hyper`.

    Args:
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items, or None.

    Returns:
      a pytree, what `run` of `make_fit` reads. Behind the ratings is padding of weight 0, up to a size of
      `jaxmf.data.ratings.rung`: data of about the same size have the same shapes, and so the same compiled programs.

    Raises:
      ValueError: no Solver, what `as_ratings` refuses, or training and validation over different users or items.
    """
    check_solver(solver)
    observed, held_out = _parts(train, valid)
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
    monitor: Monitor = "loss",
    track: bool = True,
    resume: Fit | None = None,
    progress: bool = False,
    params: Params | None = None,
) -> Fit:
    """Fit a model: `make_fit` compiled once, run in chunks of epochs, with checks before anything compiles.

    Args:
      key: from `jax.random.key` (or `PRNGKey`). The same key, data and numbers give the same bits on the same machine.
      model: the model.
      solver: the solver.
      train: training ratings, or what `prepare` made of them (then `valid` is in there).
      valid: validation ratings over the same users and items.
      hyper: the numbers; if None those of `resume`, or else `Hyper()`. Other values run the program already compiled.
      epochs: epochs to run, after those of `resume`.
      patience, min_delta, monitor, track: as in `make_fit`.
      resume: an earlier Fit of the same model, solver and data: 5 epochs resumed for 5 equal 10 to the bit, if the
        key is the same. A fit that stopped by itself stays as it is. The training ratings must be the same, in the
        same order; with `patience` the validation ratings too, since the best epoch so far was chosen on them.
        What goes on is `resume.state`: a fit whose params were edited is refused.
      progress: show a progress bar on standard error.
      params: start a new fit from these instead of what the model's `init` makes: those of another fit, of
        `recommend.update` or `fold_in`, or your own, with the structure, shapes and dtypes of the model's. Columns
        beyond `hyper.rank` start at 0 as always. `params.fixed` is taken as it is, the mean μ that the rest was trained
        beside too: for μ of these ratings, replace it by that of `model.init`.

    Returns:
      a Fit. Divergence is a status, not an exception.

    Raises:
      ValueError: an argument of another type, a number out of range, what `prepare` refuses or has made for a solver of
        another layout, a part that the solver needs and the model lacks, a promise that it relies on and the model
        breaks (`Solver.promises`), a model whose functions return other shapes than they should, `patience` without
        `valid`, a `resume` that was edited or is of another shape, of another active rank or of other ratings, or
        `params` that are of another shape or dtype, or not finite.
    """
    if resume is not None:
        expect(resume, Fit, "resume", "pass what fit returned; load returns (fit, data)")
    if resume is not None and params is not None:
        raise ValueError("fit: params start a new fit, and resume goes on with an earlier one: pass one of the two")
    if hyper is None:
        hyper = Hyper() if resume is None else resume.hyper
    check_key(key)
    check_static(model, solver, epochs, patience, min_delta, monitor)
    check_hyper(hyper)
    if isinstance(train, Prepared):
        if valid is not None:
            raise ValueError("fit: valid is already part of what prepare made; pass it to prepare instead")
        check_batch(train, solver, patience)
        ratings, held_out = train.train, train.valid
    elif patience is not None and valid is None:
        raise ValueError("patience needs validation ratings: pass valid= (jaxmf.splits makes them)")
    else:
        observed, held_out = _parts(train, valid)
        ratings, held_out = padded(observed), None if held_out is None else padded(held_out)
    # Cast here already: an int, a NumPy number and a float of the caller's then find the same compiled program.
    numbers = cast_hyper(hyper, ratings.value.dtype)
    shape = check_functions(key, model, ratings, numbers)
    check_rank(hyper, shape)
    if callable(monitor):
        check_monitor(monitor, shape, held_out)
    solver.check(model, shape, hyper, ratings.context)
    if params is not None:
        params = given(params, shape)
    other = ThreadPoolExecutor(1)  # hashing lets this thread go on
    hashed = other.submit(fingerprints, ratings, held_out)
    other.shutdown(wait=False)
    batch = train if isinstance(train, Prepared) else Prepared(ratings, held_out, solver.prepare(observed), solver)
    earlier = None
    if resume is not None:
        needed = jax.eval_shape(lambda: start(key, model, solver, batch, numbers, patience))
        earlier = resumed(resume, solver, hyper, needed)
        check_same(resume.fingerprints, hashed.result(), patience)

    def initial(ratings: Ratings) -> Params:
        return compiled_initialize(model, ratings)(key, ratings, numbers)

    if params is None:
        check_promised(model, solver, shape, numbers, ratings, initial)
    else:
        check_promised(model, solver, params, numbers, ratings, None)
    options = Options(patience, min_delta, monitor, track)
    program, batch, state, compile_seconds = begin(key, model, solver, batch, numbers, options, earlier, params)

    rows: list[pd.DataFrame] = [] if resume is None else [resume.to_frame()]
    elapsed = 0.0 if resume is None or not len(rows[0]) else float(rows[0]["seconds"].iloc[-1])
    with progress_bar(epochs, progress) as bar:
        for after, history, seconds in advance(key, program, batch, numbers, state, epochs):
            table = pd.DataFrame({name: column[history["epoch"] > 0] for name, column in history.items()})
            table.insert(1, "seconds", elapsed + seconds * np.arange(1, len(table) + 1) / len(table))
            rows.append(table)
            state, elapsed = after, elapsed + seconds
            bar.update(len(table))
            if "valid_rmse" in table:
                bar.set_postfix(valid_rmse=f"{table['valid_rmse'].iloc[-1]:.4f}", refresh=False)
    state = on_first(state, solver.machine.devices)
    whole = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({"epoch": [], "seconds": []})
    columns = {str(name): whole[name].to_numpy() for name in whole}
    return Fit(
        model, result(solver, state), hyper, state, columns, STATUS[int(state.status)], compile_seconds, hashed.result()
    )


def compile_fit(
    model: Model,
    solver: Solver,
    batch: Prepared,
    hyper: Hyper,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor = "loss",
    track: bool = True,
) -> float:
    """Compile what `fit` will run for these arguments, ahead of time; several threads may do so at once.

    Args:
      model, solver, hyper, patience, min_delta, monitor, track: as in `fit`; the values of `hyper` do not matter.
      batch: what `prepare` returned.

    Returns:
      seconds taken; about 0 when the program was there already.

    Raises:
      ValueError: as `fit`, of what does not need the ratings' values.
    """
    check_static(model, solver, CHUNK, patience, min_delta, monitor)
    check_hyper(hyper)
    check_batch(batch, solver, patience)
    numbers, options = cast_hyper(hyper, batch.train.value.dtype), Options(patience, min_delta, monitor, track)
    return begin(jax.random.key(0), model, solver, batch, numbers, options)[-1]


def _parts(train: Dataset | Ratings, valid: Dataset | Ratings | None) -> tuple[Ratings, Ratings | None]:
    return (as_ratings(train, "train"), None) if valid is None else as_parts(train, valid)


def begin(
    key: jax.Array,
    model: Model,
    solver: Solver,
    batch: Prepared,
    numbers: Hyper,
    options: Options,
    state: FitState | None = None,
    params: Params | None = None,
    last: "LastConstants | None" = None,
) -> tuple[Callable[..., tuple[FitState, dict[str, jax.Array]]], Prepared, FitState, float]:
    """The compiled program, the batch set up for it, the state to start from (`state`, or that of `params`, if
    given), and the seconds that this took. Fits that share `last` set up the batch once, if it comes to the same.
    """
    clock = time.perf_counter()
    ratings, form = batch.train, shapes(batch)
    program = _compiled(model, solver, options, form)
    setup = _compiled_constants(solver.prepare, model.draw is not None, form)
    initialize = compiled_initialize(model, ratings)
    first = _compiled_first(model, solver, options.patience, form)
    batch, state = on_all((batch, state), solver.machine.devices)
    if not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        _compile_ahead(key, (program, setup, initialize, first), ratings, batch, numbers, state, params)
    if state is None:
        params = initialize(key, ratings, numbers) if params is None else params
        state = on_all(first(params, numbers), solver.machine.devices)
    found = setup(batch, numbers) if last is None else last.of(setup, batch, numbers)
    batch = batch._replace(layout=None, constants=found)
    # A run of no epochs compiles the program, unless it is, and changes no bit.
    state, _ = jax.block_until_ready(program(key, batch, numbers, state, 0))
    return program, batch, state, time.perf_counter() - clock


class LastConstants:
    """What no epoch changes, of the fit before: the same for the next one, if all that `setup` reads is."""

    def __init__(self) -> None:
        self._known: tuple[list[Any], Any] | None = None
        self._lock = Lock()

    def of(self, setup: jax.stages.Wrapped, batch: Prepared, numbers: Hyper) -> Any:
        """`setup(batch, numbers)`: what is known, if it was made of the same arrays and of equal numbers."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return setup(batch, numbers)
        traced = setup.trace(batch, numbers).jaxpr.jaxpr
        used = {id(variable) for step in traced.eqns for variable in step.invars} | set(map(id, traced.outvars))
        leaves = zip(jax.tree.leaves((batch, numbers)), traced.invars, strict=True)
        read = [setup, *(leaf for leaf, variable in leaves if id(variable) in used)]
        with self._lock:
            if self._known is None or not _same(self._known[0], read):
                self._known = read, setup(batch, numbers)
            return self._known[1]


def _same(known: list[Any], read: list[Any]) -> bool:
    """Whether these are the same objects, or equal numbers."""
    return len(known) == len(read) and all(
        a is b or (np.ndim(a) == np.ndim(b) == 0 and bool(a == b)) for a, b in zip(known, read, strict=True)
    )


def _compile_ahead(
    key: jax.Array,
    programs: tuple[Any, Any, Any, Any],
    ratings: Ratings,
    batch: Prepared,
    numbers: Hyper,
    state: FitState | None,
    params: Params | None,
) -> None:
    """Compile what `begin` is about to run, side by side."""
    program, setup, initialize, first = programs
    # XLA compiles on other threads what Python has traced, while Python traces the next program.
    with ThreadPoolExecutor() as others:
        if state is None:
            shape = params
            if params is None:
                shape = jax.eval_shape(initialize, key, ratings, numbers)
                others.submit(initialize.lower(key, ratings, numbers).compile)
            others.submit(first.lower(shape, numbers).compile)
        others.submit(setup.lower(batch, numbers).compile)
        # Of arrays that lie on a device of the caller's choice, shapes do not say where.
        if not any(getattr(leaf, "committed", False) for leaf in jax.tree.leaves((batch, state, params))):
            begun = jax.eval_shape(first, shape, numbers) if state is None else state
            ready = batch._replace(layout=None, constants=jax.eval_shape(setup, batch, numbers))
            program.lower(key, ready, numbers, begun, 0).compile()


def advance(
    key: jax.Array,
    program: Callable[..., tuple[FitState, dict[str, jax.Array]]],
    batch: Prepared,
    hyper: Hyper,
    state: FitState,
    epochs: int,
) -> Iterator[tuple[FitState, dict[str, np.ndarray], float]]:
    """Run a program of `make_fit`, or a vmap of it, in chunks of epochs until they are done or nothing runs any more.

    Yields:
      after each chunk: the state, the history of the chunk, epochs along the last axis, and the seconds it took.
    """
    chunk = 1
    while epochs > 0 and np.any(np.asarray(state.status) == RUNNING):
        clock = time.perf_counter()
        state, history = jax.block_until_ready(program(key, batch, hyper, state, chunk))
        seconds = time.perf_counter() - clock
        yield state, {name: np.asarray(history[name])[..., :chunk] for name in _COLUMNS if name in history}, seconds
        epochs -= chunk
        chunk = max(1, min(epochs, CHUNK, int(_TICK * chunk / max(seconds, 1e-9))))


# A program for each shape of data has an entry of its own, the last few of which are kept: `form` is that shape.


@of_model
def _compiled_constants(prepare: Callable[[Ratings], Any], draws: bool, form: Form) -> jax.stages.Wrapped:
    return once(lambda batch, hyper: constants(batch, hyper, draws), form)


def compiled_initialize(model: Model, ratings: Ratings) -> jax.stages.Wrapped:
    """The program `(key, ratings, hyper) -> Params` for ratings of this shape, which all solvers of a model share."""
    return _compiled_initialize(model, shapes(ratings))


@of_model
def _compiled_initialize(model: Model, form: Form) -> jax.stages.Wrapped:
    return once(lambda key, ratings, hyper: initialize(key, model, ratings, hyper), form)


@of_model
def _compiled_first(model: Model, solver: Solver, patience: int | None, form: Form) -> jax.stages.Wrapped:
    return once(lambda params, hyper: first_state(model, solver, params, hyper, patience), form)


@of_model
def _compiled(model: Model, solver: Solver, options: Options, form: Form) -> jax.stages.Wrapped:
    return jax.jit(make_fit(model, solver, CHUNK, *options), compiler_options=here(solver.machine.compiler_options))


def progress_bar(total: int, progress: bool, unit: str = "epoch") -> Any:
    """A progress bar on standard error that goes when it is done, or none."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not progress, leave=False)
