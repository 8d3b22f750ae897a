"""The compiled programs of a fit: compiled once per shape of the data, set up, and run in chunks of epochs."""

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
from jaxmf.training.options import Options, for_model, ranking_of
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
    """Return the compiled program, the batch set up for it, the state to start from, and the seconds this took.

    Args:
      key, model, solver, batch, options: those of the fit.
      numbers: its hyperparameters, in the dtype of the ratings.
      origin: the state of an earlier fit, or parameters to start from; None calls the model's `init`.
      last: a cache that fits share, so that `setup` runs once for those for which it gives the same result.
    """
    clock, options = time.perf_counter(), for_model(options, model)
    ratings, form = batch.train, shapes(batch)
    program = _compiled(model, solver, options, form)
    setup = _compiled_constants(solver.prepare, model.draw is not None, ranking_of(options.monitor) is not None, form)
    initialize = compiled_initialize(model, ratings)
    make_state = _compiled_first_state(model, solver, options.patience, form)
    batch, origin = replicate((batch, origin), solver.machine.devices)
    if not jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        _compile_ahead(key, (program, setup, initialize, make_state), batch, numbers, origin)
    state = origin
    if not isinstance(state, FitState):
        params = initialize(key, ratings, numbers) if state is None else state
        state = replicate(make_state(params, numbers), solver.machine.devices)
    fixed = setup(batch, numbers) if last is None else last.of(setup, batch, numbers)
    batch = batch._replace(layout=None, constants=fixed)
    # Running 0 epochs compiles the program, if it was not compiled before, and leaves the state unchanged.
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
    """Run a program of `make_fit`, or a vmap of it, in chunks until all epochs are done or all fits have ended.

    Yields:
      after each chunk: the state, the history of the chunk (epochs along the last axis), and the seconds it took.
    """
    chunk = 1
    while epochs > 0 and np.any(np.asarray(state.status) == RUNNING):
        clock = time.perf_counter()
        state, history = jax.block_until_ready(program(key, batch, hyper, state, chunk))
        seconds = time.perf_counter() - clock
        names = sorted(history, key=lambda name: _COLUMNS.index(name) if name in _COLUMNS else len(_COLUMNS))
        yield state, {name: np.asarray(history[name])[..., :chunk] for name in names}, seconds
        epochs -= chunk
        chunk = max(1, min(epochs, CHUNK, int(_TICK * chunk / max(seconds, 1e-9))))


class LastConstants:
    """Cache of the constants of the last fit, which the next one reuses if `setup` reads the same for it."""

    def __init__(self) -> None:
        self._cached: tuple[list[Any], Any] | None = None
        self._lock = Lock()

    def of(self, setup: jax.stages.Wrapped, batch: Prepared, numbers: Hyper) -> Any:
        """Return `setup(batch, numbers)`, from the cache if that was made of the same arrays and of equal numbers."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return setup(batch, numbers)
        traced = setup.trace(batch, numbers).jaxpr.jaxpr
        used = {id(variable) for step in traced.eqns for variable in step.invars} | set(map(id, traced.outvars))
        leaves = zip(jax.tree.leaves((batch, numbers)), traced.invars, strict=True)
        inputs = [setup, *(leaf for leaf, variable in leaves if id(variable) in used)]
        with self._lock:
            if self._cached is None or not _same(self._cached[0], inputs):
                self._cached = inputs, setup(batch, numbers)
            return self._cached[1]


def _same(cached: list[Any], inputs: list[Any]) -> bool:
    """Return whether these are pairwise the same object or equal scalars."""
    return len(cached) == len(inputs) and all(
        a is b or (np.ndim(a) == np.ndim(b) == 0 and bool(a == b)) for a, b in zip(cached, inputs, strict=True)
    )


def _compile_ahead(
    key: jax.Array,
    programs: tuple[Any, Any, Any, Any],
    batch: Prepared,
    numbers: Hyper,
    origin: FitState | Params | None,
) -> None:
    """Compile in parallel the programs that `set_up` is about to run."""
    program, setup, initialize, make_state = programs
    ratings, state = batch.train, origin
    # XLA compiles a traced program in another thread, while Python traces the next one in this thread.
    with ThreadPoolExecutor() as executor:
        if not isinstance(state, FitState):
            params = state
            if params is None:
                params = jax.eval_shape(initialize, key, ratings, numbers)
                executor.submit(initialize.lower(key, ratings, numbers).compile)
            executor.submit(make_state.lower(params, numbers).compile)
            state = jax.eval_shape(make_state, params, numbers)
        executor.submit(setup.lower(batch, numbers).compile)
        # Shapes do not say on which device the caller has committed an array, so such a program compiles when it runs.
        if not any(getattr(leaf, "committed", False) for leaf in jax.tree.leaves((batch, origin))):
            ready = batch._replace(layout=None, constants=jax.eval_shape(setup, batch, numbers))
            program.lower(key, ready, numbers, state, 0).compile()


# Each of these has one cache entry per shape of the data, `form`. The least recently used entries are dropped.


@of_model
def _compiled_constants(prepare: Callable[[Ratings], Any], draws: bool, ranks: bool, form: Form) -> jax.stages.Wrapped:
    return once(lambda batch, hyper: constants(batch, hyper, draws, ranks), form)


def compiled_initialize(model: Model, ratings: Ratings) -> jax.stages.Wrapped:
    """Return the program `(key, ratings, hyper) -> Params` for ratings of this shape, shared by a model's solvers."""
    return _compiled_initialize(model, shapes(ratings))


@of_model
def _compiled_initialize(model: Model, form: Form) -> jax.stages.Wrapped:
    return once(lambda key, ratings, hyper: initialize(key, model, ratings, hyper), form)


@of_model
def _compiled_first_state(model: Model, solver: Solver, patience: int | None, form: Form) -> jax.stages.Wrapped:
    return once(lambda params, hyper: first_state(model, solver, params, hyper, patience), form)


@of_model
def _compiled(model: Model, solver: Solver, options: Options, form: Form) -> jax.stages.Wrapped:
    return jax.jit(make_fit(model, solver, CHUNK, *options), compiler_options=here(solver.machine.compiler_options))


def progress_bar(total: int, progress: bool, unit: str = "epoch") -> Any:
    """Return a progress bar on standard error that is cleared at the end; without `progress` it shows nothing."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not progress, leave=False)
