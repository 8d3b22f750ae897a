"""The host's door to the training loop: checks first, one compiled program, epochs in chunks."""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params
from jaxmf.solvers.solver import Solver
from jaxmf.training.loop import (
    RUNNING,
    STATUS,
    FitState,
    Monitor,
    Prepared,
    Saved,
    cast_hyper,
    check_static,
    first_state,
    initialize,
    make_fit,
    start,
)

_COLUMNS = ("epoch", "train_loss", "objective", "valid_loss", "valid_rmse", "valid_mae", "monitor")
CHUNK = 32  # epochs per compiled program; how many of them run is traced, so one program serves any number of epochs
_TICK = 0.25  # seconds between two reports of progress


class Options(NamedTuple):
    """The static choices of `make_fit` beside the number of epochs."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    track: bool = True


class Fit(NamedTuple):
    """A fitted model.

    Attributes:
      model: the model.
      params: the parameters: with `patience` those of the best epoch on validation, else those of the last one.
      hyper: the numbers it was fitted with.
      state: for `resume`.
      history: name -> (epochs,) array: `epoch` (from 1), `seconds` since the start (compilation excluded),
        `train_loss` (weighted mean of the model's loss), `objective` (the regularized sum), and with validation ratings
        `valid_loss`, `valid_rmse`, `valid_mae` (and `monitor`, if that is a function); after a divergence the last row
        is the bad epoch.
      status: "completed" (all epochs ran), "converged" (the solver's own rule), "stopped_early" (no improvement for
        `patience` epochs) or "diverged" (numbers no longer finite; contained, not raised).
      compile_seconds: time spent tracing and compiling in this call; about 0 when the program was there already.
    """

    model: Model
    params: Params
    hyper: Hyper
    state: FitState
    history: dict[str, np.ndarray]
    status: str
    compile_seconds: float = 0.0

    def to_frame(self) -> pd.DataFrame:
        """The history as a table, one row per epoch."""
        return pd.DataFrame(self.history)


def prepare(solver: Solver, train: Dataset | Ratings, valid: Dataset | Ratings | None = None) -> Prepared:
    """Lay the ratings out for a solver: once, on the host. The result serves any model and any `Hyper`.

    Args:
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items, or None.

    Returns:
      a pytree of fixed shapes, what `run` of `make_fit` reads.

    Raises:
      ValueError: no training ratings, or training and validation over different numbers of users or items.
    """
    train, valid = ratings_of(train, "train"), None if valid is None else ratings_of(valid, "valid")
    if valid is not None and (train.num_users, train.num_items) != (valid.num_users, valid.num_items):
        raise ValueError(
            f"prepare: train has {train.num_users} users and {train.num_items} items, valid {valid.num_users} and "
            f"{valid.num_items}. Split one Dataset with jaxmf.splits, so that both share their ids."
        )
    return Prepared(train, valid, solver.prepare(train))


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
) -> Fit:
    """Fit a model: `make_fit` compiled once, run in chunks of epochs, with checks before anything compiles.

    Args:
      key: from `jax.random.key`. The same key, data and numbers give the same bits on the same machine.
      model: the model.
      solver: the solver.
      train: training ratings, or what `prepare` made of them (then `valid` is in there).
      valid: validation ratings over the same users and items.
      hyper: the numbers; `Hyper()` if None. Other values run the program already compiled.
      epochs: epochs to run, after those of `resume`.
      patience, min_delta, monitor, track: as in `make_fit`.
      resume: an earlier Fit of the same model, solver and data: 5 epochs resumed for 5 equal 10 to the bit, if the
        key is the same. A fit that stopped by itself stays as it is.
      progress: show a progress bar on standard error.

    Returns:
      a Fit. Divergence is a status, not an exception.

    Raises:
      ValueError: a number out of range, a part that the solver needs and the model lacks, `patience` without `valid`,
        or a `resume` of another shape.
    """
    hyper = Hyper() if hyper is None else hyper
    check_static(epochs, patience, min_delta, monitor)
    check_hyper(hyper)
    if isinstance(train, Prepared):
        if valid is not None:
            raise ValueError("fit: valid is already part of what prepare made; pass it to prepare instead")
        if patience is not None and train.valid is None:
            raise ValueError("patience needs validation ratings: pass valid= to prepare (jaxmf.splits makes them)")
    elif patience is not None and valid is None:
        raise ValueError("patience needs validation ratings: pass valid= (jaxmf.splits makes them)")
    ratings = train.train if isinstance(train, Prepared) else ratings_of(train, "train")
    # Cast here already: an int, a NumPy number and a float of the caller's then find the same compiled program.
    numbers = cast_hyper(hyper, ratings.value.dtype)
    shape = jax.eval_shape(lambda: model.init(key, ratings, numbers))
    check_rank(hyper, shape)
    solver.check(model, shape, hyper)
    batch = train if isinstance(train, Prepared) else prepare(solver, ratings, valid)
    earlier = None
    if resume is not None:
        earlier = _resumed(resume, jax.eval_shape(lambda: start(key, model, solver, batch, numbers, patience)))

    options = Options(patience, min_delta, monitor, track)
    program, state, compile_seconds = begin(key, model, solver, batch, numbers, options, earlier)

    rows: list[pd.DataFrame] = [] if resume is None else [resume.to_frame()]
    elapsed = 0.0 if resume is None or not len(rows[0]) else float(rows[0]["seconds"].iloc[-1])
    with progress_bar(epochs, progress) as bar:
        for after, history, seconds in advance(program, key, batch, numbers, state, epochs):
            table = pd.DataFrame({name: column[history["epoch"] > 0] for name, column in history.items()})
            table.insert(1, "seconds", elapsed + seconds * np.arange(1, len(table) + 1) / len(table))
            rows.append(table)
            state, elapsed = after, elapsed + seconds
            bar.update(len(table))
            if "valid_rmse" in table:
                bar.set_postfix(valid_rmse=f"{table['valid_rmse'].iloc[-1]:.4f}", refresh=False)
    params = state.params if state.best is None else state.best.params
    whole = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({"epoch": [], "seconds": []})
    columns = {str(name): whole[name].to_numpy() for name in whole}
    return Fit(model, params, hyper, state, columns, STATUS[int(state.status)], compile_seconds)


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
    """
    numbers, options = cast_hyper(hyper, batch.train.value.dtype), Options(patience, min_delta, monitor, track)
    return begin(jax.random.key(0), model, solver, batch, numbers, options)[-1]


def check_hyper(hyper: Hyper) -> None:
    """ValueError naming the first number of `hyper` that is out of range."""
    ranges = {
        "l2": (lambda x: x >= 0, "at least 0"),
        "l2_bias": (lambda x: x >= 0, "at least 0, or None for l2"),
        "reg_exponent": (lambda x: 0 <= x <= 1, "between 0 (constant per row) and 1 (per observation)"),
        "learning_rate": (lambda x: x > 0, "positive"),
        "learning_rate_bias": (lambda x: x > 0, "positive, or None for learning_rate"),
        "momentum": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
        "init_scale": (lambda x: x >= 0, "at least 0"),
    }
    for name, (holds, expected) in ranges.items():
        value = getattr(hyper, name)
        if value is None and name in ("l2_bias", "learning_rate_bias"):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"hyper: {name} must be one number, not {value!r}; jaxmf.sweep takes many") from None
        if not (np.isfinite(number) and holds(number)):
            raise ValueError(f"hyper: {name} must be finite and {expected}, not {value!r}")


def begin(
    key: jax.Array,
    model: Model,
    solver: Solver,
    batch: Prepared,
    numbers: Hyper,
    options: Options,
    state: FitState | None = None,
) -> tuple[Callable[..., tuple[FitState, dict[str, jax.Array]]], FitState, float]:
    """The compiled program, the state to start from (`state` if given), and the seconds that compiling took."""
    clock = time.perf_counter()
    program = _compiled(model, solver, options)
    if state is None:
        params = _compiled_initialize(model)(key, batch.train, numbers)
        state = first_state(model, solver, params, numbers, options.patience)
    # A run of no epochs compiles the program and changes no bit.
    state, _ = jax.block_until_ready(program(key, batch, numbers, state, 0))
    return program, state, time.perf_counter() - clock


def advance(
    program: Callable[..., tuple[FitState, dict[str, jax.Array]]],
    key: jax.Array,
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


@lru_cache(maxsize=64)
def _compiled_initialize(model: Model) -> Callable[[jax.Array, Ratings, Hyper], Params]:
    # Apart from the epochs, so that all solvers of a model share it.
    return jax.jit(lambda key, ratings, hyper: initialize(key, model, ratings, hyper))


@lru_cache(maxsize=64)
def _compiled(model: Model, solver: Solver, options: Options) -> Callable[..., tuple[FitState, dict[str, jax.Array]]]:
    return jax.jit(make_fit(model, solver, CHUNK, *options))


def ratings_of(data: Dataset | Ratings, name: str) -> Ratings:
    """The ratings of a Dataset; a ValueError, naming the argument, if it is neither or has none."""
    ratings = data.ratings if isinstance(data, Dataset) else data
    if not isinstance(ratings, Ratings):
        raise ValueError(f"{name} must be a Dataset or its Ratings, not {type(data).__name__}")
    if ratings.value.shape[0] == 0:
        raise ValueError(f"{name} has no ratings")
    return ratings


def check_rank(hyper: Hyper, shape: Params) -> None:
    """ValueError unless the active rank, if there is one, is one that parameters of this shape have."""
    if hyper.rank is None:
        return
    factors = shape.trained.user.get("factors") if isinstance(shape.trained.user, dict) else None
    if factors is None:
        raise ValueError("hyper: rank is given, but the model trains no leaf named 'factors'; leave it None")
    width = factors.shape[-1]
    if isinstance(hyper.rank, bool) or int(hyper.rank) != hyper.rank or not 1 <= hyper.rank <= width:
        raise ValueError(f"hyper: rank must be an integer from 1 to the model's width {width}, not {hyper.rank!r}")


def _resumed(resume: Fit, expected: FitState) -> FitState:
    """The state to go on from, a loaded solver state in its structure again, if all is as this fit expects it."""
    state = resume.state
    if (state.best is None) != (expected.best is None):
        raise ValueError("resume: patience must be None in both calls or in neither")
    if isinstance(state.solver, Saved):
        state = state._replace(solver=_restored(state.solver, expected.solver))
    parts = (("parameters", state.params, expected.params), ("solver state", state.solver, expected.solver))
    for name, found, needed in parts:
        shapes = [jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", part) for part in (found, needed)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"resume: the earlier fit has {name} {shapes[0]}, this model, solver and data need {shapes[1]}"
            )
    return state


def _restored(saved: Saved, like: Any) -> Any:
    """The saved leaves in the structure of `like`, or `saved` itself where the paths are others."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if saved.leaves.keys() != set(paths):
        return saved
    return jax.tree.unflatten(jax.tree.structure(like), [saved.leaves[path] for path in paths])


def progress_bar(total: int, progress: bool, unit: str = "epoch") -> Any:
    """A progress bar on standard error that goes when it is done, or none."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not progress, leave=False)
