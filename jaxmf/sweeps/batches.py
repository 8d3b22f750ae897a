"""Run the members of a sweep in batches of one model each: several at once under `vmap`, or one as `fit` runs it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.kernels.programs import of_model, shapes
from jaxmf.kernels.xla import here
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import Member
from jaxmf.training.loop import make_fit
from jaxmf.training.options import Options
from jaxmf.training.program import CHUNK, LastConstants, Program, run_chunks, set_up
from jaxmf.training.state import FitState, Prepared, result, start


class Shared(NamedTuple):
    """What all batches of a sweep share.

    Attributes:
      solver: the solver.
      members: all members, with `hyper.rank` as the program that they run in needs it.
      keys: the key of each member.
      folds: (k, n) training weights, or None.
      options: the static options of `make_fit`.
      max_width: maximum number of members at once; 1 runs the same program as `fit`.
      last_constants: cache of the constants of the last member that was set up.
    """

    solver: Solver
    members: list[Member]
    keys: list[jax.Array]
    folds: jax.Array | None
    options: Options
    max_width: int
    last_constants: LastConstants


class Batch(NamedTuple):
    """Members that run at once from one epoch to another.

    Attributes:
      number: index of the batch in the whole sweep.
      model: the model at the width of the members.
      width: width of the `vmap`, at least the number of members.
      members: indices of the members in the sweep.
      start, stop: number of epochs done before and afterwards.
    """

    number: int
    model: Model
    width: int
    members: list[int]
    start: int
    stop: int


class Result(NamedTuple):
    """A member's fit so far, on the host: index of its status, the epoch of its parameters, its history, its parameters
    and, if it may continue, its state.
    """

    status: int
    epoch: int
    history: dict[str, np.ndarray]
    params: Params | None
    state: FitState | None

    def at_epoch(self, name: str) -> float:
        """Return a column of the history at the epoch of the parameters; NaN if there is none."""
        row = self.history["epoch"] == self.epoch
        return float(self.history[name][row][0]) if name in self.history and row.any() else np.nan


class ReadyBatch(NamedTuple):
    """A compiled program and its arguments: key, data, hyper and the state to continue from."""

    program: Program
    key: jax.Array
    data: Any
    hyper: Hyper
    state: FitState


def set_up_batch(
    shared: Shared, batch: Batch, data: Prepared, earlier: Mapping[int, Result] | None = None
) -> ReadyBatch:
    """Compile the program of a batch, if it was not compiled before, and set up its arguments."""
    # A batch of fewer members than the width of its program is filled up with copies of its last member.
    members = batch.members + batch.members[-1:] * (batch.width - len(batch.members))
    hyper = [cast_hyper(shared.members[m].hyper, data.train.value.dtype) for m in members]
    keys = [shared.keys[m] for m in members]
    weight = None if shared.folds is None else shared.folds[np.array([shared.members[m].fold for m in members])]
    states = None if batch.start == 0 or earlier is None else [earlier[m].state for m in members]
    if batch.width == 1:
        fold_data = _of_fold(data, None if weight is None else weight[0])
        state = None if states is None else states[0]
        program, fold_data, state, _ = set_up(
            keys[0], batch.model, shared.solver, fold_data, hyper[0], shared.options, state, shared.last_constants
        )
        return ReadyBatch(program, keys[0], fold_data, hyper[0], state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper)
    key, weighted = jnp.stack(keys), (data, weight)
    make_states, program = _vmapped(batch.model, shared.solver, shared.options, shapes(weighted))
    if states is None:
        state = make_states(key, weighted, stacked)
    else:
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    # Running 0 epochs compiles the program and leaves the states unchanged.
    state, _ = program(key, weighted, stacked, state, 0)
    return ReadyBatch(program, key, weighted, stacked, state)


def fit_batch(
    shared: Shared,
    batch: Batch,
    data: Prepared,
    earlier: Mapping[int, Result] | None = None,
    ready: ReadyBatch | None = None,
) -> dict[int, Result]:
    """Fit the members of a batch and return their results. `ready` is the result of `set_up_batch`, if it was called.

    The column `seconds` of a member's history is its equal share of the batch's seconds.
    """
    program, key, batch_data, hyper, state = ready or set_up_batch(shared, batch, data, earlier)
    chunks: list[dict[str, np.ndarray]] = []
    elapsed = 0.0
    for after, chunk, seconds in run_chunks(key, program, batch_data, hyper, state, batch.stop - batch.start):
        length = chunk["epoch"].shape[-1]
        clock = (elapsed + seconds * np.arange(1, length + 1) / length) / len(batch.members)
        chunks.append(chunk | {"seconds": np.broadcast_to(clock, chunk["epoch"].shape)})
        state, elapsed = after, elapsed + seconds
    columns = {name: np.concatenate([chunk[name] for chunk in chunks], axis=-1) for name in chunks[0]}
    fitted = jax.tree.map(np.asarray, (state, columns))
    results = {}
    for slot, member in enumerate(batch.members):
        state, column = fitted if batch.width == 1 else jax.tree.map(lambda leaf, slot=slot: leaf[slot], fitted)
        history = {name: column[name][column["epoch"] > 0] for name in chunks[0]}
        if batch.start > 0 and earlier is not None:
            before = earlier[member].history
            history["seconds"] = history["seconds"] + before["seconds"][-1]
            history = {name: np.concatenate([before[name], history[name]]) for name in history}
        epoch = state.epoch if state.best is None else state.best.epoch
        params = jax.tree.map(np.asarray, result(shared.solver, state))
        results[member] = Result(int(state.status), int(epoch), history, params, state)
    return results


def program_text(shared: Shared, batch: Batch, data: Prepared) -> str:
    """Return the text of one member's program, lowered but not compiled: equal static arguments give equal texts."""
    member = batch.members[0]
    hyper = cast_hyper(shared.members[member].hyper, data.train.value.dtype)

    def run(key: jax.Array, data: Prepared, hyper: Hyper) -> Any:
        return make_fit(batch.model, shared.solver, CHUNK, *shared.options)(key, data, hyper)

    return jax.jit(run).lower(shared.keys[member], data, hyper).as_text()


def _of_fold(data: Prepared, weight: jax.Array | None) -> Prepared:
    """Return the data of a fold: its weights (n,) are those to train on, and 1 - weight those to validate on."""
    if weight is None:
        return data
    train, whole = data.train, data.train.weight
    return data._replace(train=replace(train, weight=whole * weight), valid=replace(train, weight=whole * (1 - weight)))


@of_model
def _vmapped(
    model: Model, solver: Solver, options: Options, form: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the function for the first states, and the program: `vmap` over key, fold weights, hyper and state."""
    run = make_fit(model, solver, CHUNK, *options)

    def make_state(key: jax.Array, weighted: tuple[Prepared, Any], hyper: Hyper) -> Any:
        return start(key, model, solver, _of_fold(*weighted), hyper, options.patience)

    def program(key: jax.Array, weighted: tuple[Prepared, Any], hyper: Hyper, state: Any, num_epochs: Any) -> Any:
        return run(key, _of_fold(*weighted), hyper, state, num_epochs)

    axes = (0, (None, 0), 0)
    batched = jax.vmap(program, (*axes, 0, None))
    return jax.jit(jax.vmap(make_state, axes)), jax.jit(batched, compiler_options=here(solver.machine.compiler_options))
