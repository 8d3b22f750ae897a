"""How the members of a sweep run: in batches of one model each, at once under `vmap` or one as `fit` does."""

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
      members: all members, with `hyper.rank` as their program needs it.
      keys: their keys.
      folds: (k, n) training weights, or None.
      options: the static choices of `make_fit`.
      most: members at once, at most; 1 runs the very program of `fit`.
      last: the ratings as the member before has set them up.
    """

    solver: Solver
    members: list[Member]
    keys: list[jax.Array]
    folds: jax.Array | None
    options: Options
    most: int
    last: LastConstants


class Batch(NamedTuple):
    """Members that run at once from one epoch to another.

    Attributes:
      number: counted through the whole sweep.
      model: the model at their width.
      width: of the `vmap`, at least as many as there are members.
      members: their numbers.
      start, stop: epochs done before and afterwards.
    """

    number: int
    model: Model
    width: int
    members: list[int]
    start: int
    stop: int


class Result(NamedTuple):
    """A member's fit so far, on the host: index of its status, the epoch of its parameters, history, parameters and, if
    it is to go on, its state.
    """

    status: int
    epoch: int
    history: dict[str, np.ndarray]
    params: Params | None
    state: FitState | None

    def at_epoch(self, name: str) -> float:
        """A column of the history at the epoch of the parameters; NaN if there is none."""
        row = self.history["epoch"] == self.epoch
        return float(self.history[name][row][0]) if name in self.history and row.any() else np.nan


class Begun(NamedTuple):
    """A compiled program, and what it takes: key, data, hyper and the state to go on from."""

    program: Program
    key: jax.Array
    data: Any
    hyper: Hyper
    state: FitState


def set_up_batch(shared: Shared, batch: Batch, data: Prepared, earlier: Mapping[int, Result] | None = None) -> Begun:
    """Compile the program of a batch, unless it is there, and set up what it takes."""
    # A batch of fewer members than its program holds is filled up with its last one.
    members = batch.members + batch.members[-1:] * (batch.width - len(batch.members))
    hyper = [cast_hyper(shared.members[m].hyper, data.train.value.dtype) for m in members]
    keys = [shared.keys[m] for m in members]
    weight = None if shared.folds is None else shared.folds[np.array([shared.members[m].fold for m in members])]
    states = None if batch.start == 0 or earlier is None else [earlier[m].state for m in members]
    if batch.width == 1:
        own = _of_fold(data, None if weight is None else weight[0])
        state = None if states is None else states[0]
        program, own, state, _ = set_up(
            keys[0], batch.model, shared.solver, own, hyper[0], shared.options, state, shared.last
        )
        return Begun(program, keys[0], own, hyper[0], state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper)
    key, weighted = jnp.stack(keys), (data, weight)
    first, program = _together(batch.model, shared.solver, shared.options, shapes(weighted))
    if states is None:
        state = first(key, weighted, stacked)
    else:
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    # A run of no epochs compiles the program and changes no bit.
    state, _ = program(key, weighted, stacked, state, 0)
    return Begun(program, key, weighted, stacked, state)


def fit_batch(
    shared: Shared,
    batch: Batch,
    data: Prepared,
    earlier: Mapping[int, Result] | None = None,
    begun: Begun | None = None,
) -> dict[int, Result]:
    """Fit the members of a batch, with a column `seconds` in their histories: an equal share of the batch's. What
    `set_up_batch` returned for it may be given as `begun`.
    """
    program, key, own, hyper, state = begun or set_up_batch(shared, batch, data, earlier)
    parts: list[dict[str, np.ndarray]] = []
    elapsed = 0.0
    for after, part, seconds in run_chunks(key, program, own, hyper, state, batch.stop - batch.start):
        length = part["epoch"].shape[-1]
        clock = (elapsed + seconds * np.arange(1, length + 1) / length) / len(batch.members)
        parts.append(part | {"seconds": np.broadcast_to(clock, part["epoch"].shape)})
        state, elapsed = after, elapsed + seconds
    columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    fitted = jax.tree.map(np.asarray, (state, columns))
    results = {}
    for place, member in enumerate(batch.members):
        state, column = fitted if batch.width == 1 else jax.tree.map(lambda leaf, place=place: leaf[place], fitted)
        history = {name: column[name][column["epoch"] > 0] for name in parts[0]}
        if batch.start > 0 and earlier is not None:
            before = earlier[member].history
            history["seconds"] = history["seconds"] + before["seconds"][-1]
            history = {name: np.concatenate([before[name], history[name]]) for name in history}
        epoch = state.epoch if state.best is None else state.best.epoch
        params = jax.tree.map(np.asarray, result(shared.solver, state))
        results[member] = Result(int(state.status), int(epoch), history, params, state)
    return results


def program_text(shared: Shared, batch: Batch, data: Prepared) -> str:
    """The program of one member, lowered but not compiled: equal for equal static choices."""
    member = batch.members[0]
    hyper = cast_hyper(shared.members[member].hyper, data.train.value.dtype)

    def run(key: jax.Array, data: Prepared, hyper: Hyper) -> Any:
        return make_fit(batch.model, shared.solver, CHUNK, *shared.options)(key, data, hyper)

    return jax.jit(run).lower(shared.keys[member], data, hyper).as_text()


def _of_fold(data: Prepared, weight: jax.Array | None) -> Prepared:
    """Train on these weights (n,), and validate on what they hold out."""
    if weight is None:
        return data
    train, own = data.train, data.train.weight
    return data._replace(train=replace(train, weight=own * weight), valid=replace(train, weight=own * (1 - weight)))


@of_model
def _together(
    model: Model, solver: Solver, options: Options, form: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The first state, and the program, of a `vmap` over key, weights of a fold, hyper and state."""
    run = make_fit(model, solver, CHUNK, *options)

    def first(key: jax.Array, weighted: tuple[Prepared, Any], hyper: Hyper) -> Any:
        return start(key, model, solver, _of_fold(*weighted), hyper, options.patience)

    def program(key: jax.Array, weighted: tuple[Prepared, Any], hyper: Hyper, state: Any, num_epochs: Any) -> Any:
        return run(key, _of_fold(*weighted), hyper, state, num_epochs)

    axes = (0, (None, 0), 0)
    together = jax.vmap(program, (*axes, 0, None))
    return jax.jit(jax.vmap(first, axes)), jax.jit(together, compiler_options=here(solver.machine.compiler_options))
