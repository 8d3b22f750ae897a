"""The compiled programs of a fit: built once for each shape of the data, set up, and run in chunks of epochs."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import jax
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.devices import replicate
from jaxmf.kernels.programs import Form, of_model, shapes
from jaxmf.kernels.xla import here, once
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.solvers.solver import Solver
from jaxmf.training.loop import make_fit
from jaxmf.training.options import Options
from jaxmf.training.state import RUNNING, FitState, Prepared, constants, first_state, initialize

Program = Callable[..., tuple[FitState, dict[str, jax.Array]]]

CHUNK = 32  # epochs per compiled program; how many of them run is traced, so one program serves any number of epochs
_COLUMNS = ("epoch", "train_loss", "objective", "valid_loss", "valid_rmse", "valid_mae", "monitor")
_TICK = 1.0  # seconds between two reports of progress


def set_up(
    key: jax.Array,
    model: Model,
    solver: Solver,
    batch: Prepared,
    numbers: Hyper,
    options: Options,
    origin: FitState | Params | None = None,
    last: "LastConstants | None" = None,
) -> tuple[Program, Prepared, FitState, float]:
    """The compiled program, the batch set up for it, the state to start from, and the seconds that this took.

    Args:
      key, model, solver, batch, numbers, options: of the fit; `numbers` in the dtype of the ratings.
      origin: the state of an earlier fit, or parameters to start from; None for those that the model's `init` makes.
      last: fits that share it set up the batch once, if that comes to the same.
    """
    clock = time.perf_counter()
    ratings, form = batch.train, shapes(batch)
    program = _compiled(model, solver, options, form)
    setup = _compiled_constants(solver.prepare, model.draw is not None, form)
    initialize = compiled_initialize(model, ratings)
    first = _compiled_first(model, solver, options.patience, form)
    batch, origin = replicate((batch, origin), solver.machine.devices)
    if not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        _compile_ahead(key, (program, setup, initialize, first), batch, numbers, origin)
    state = origin
    if not isinstance(state, FitState):
        params = initialize(key, ratings, numbers) if state is None else state
        state = replicate(first(params, numbers), solver.machine.devices)
    found = setup(batch, numbers) if last is None else last.of(setup, batch, numbers)
    batch = batch._replace(layout=None, constants=found)
    # A run of no epochs compiles the program, unless it is, and changes no bit.
    state, _ = jax.block_until_ready(program(key, batch, numbers, state, 0))
    return program, batch, state, time.perf_counter() - clock


def run_chunks(
    key: jax.Array,
    program: Program,
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
    batch: Prepared,
    numbers: Hyper,
    origin: FitState | Params | None,
) -> None:
    """Compile what `set_up` is about to run, side by side."""
    program, setup, initialize, first = programs
    ratings, begun = batch.train, origin
    # XLA compiles on other threads what Python has traced, while Python traces the next program.
    with ThreadPoolExecutor() as others:
        if not isinstance(begun, FitState):
            params = begun
            if params is None:
                params = jax.eval_shape(initialize, key, ratings, numbers)
                others.submit(initialize.lower(key, ratings, numbers).compile)
            others.submit(first.lower(params, numbers).compile)
            begun = jax.eval_shape(first, params, numbers)
        others.submit(setup.lower(batch, numbers).compile)
        # Of arrays that lie on a device of the caller's choice, shapes do not say where.
        if not any(getattr(leaf, "committed", False) for leaf in jax.tree.leaves((batch, origin))):
            ready = batch._replace(layout=None, constants=jax.eval_shape(setup, batch, numbers))
            program.lower(key, ready, numbers, begun, 0).compile()


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
