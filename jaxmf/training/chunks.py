"""How the members of a sweep run: in chunks of one model each, at once under `vmap` or one as `fit` does."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.models.model import Hyper, Model, Params, cast_hyper
from jaxmf.models.programs import of_model, shapes
from jaxmf.models.xla import here
from jaxmf.solvers.solver import Solver
from jaxmf.training.grid import Member
from jaxmf.training.host import CHUNK, LastConstants, Options, advance, begin
from jaxmf.training.loop import FitState, Prepared, make_fit, result, start


class Job(NamedTuple):
    """What all chunks of a sweep share.

    Attributes:
      solver: the solver.
      members: all members, with `hyper.rank` as their program needs it.
      keys: their keys.
      folds: (k, n) training weights, or None.
      options: the static choices of `make_fit`.
      batch: most members at once; 1 runs the very program of `fit`.
      last: the ratings as the member before has set them up.
    """

    solver: Solver
    members: list[Member]
    keys: list[jax.Array]
    folds: jax.Array | None
    options: Options
    batch: int
    last: LastConstants


class Chunk(NamedTuple):
    """Members that run at once from one epoch to another.

    Attributes:
      number: counted through the whole sweep.
      model: the model at their width.
      lanes: width of the `vmap`, at least as many as there are members.
      members: their numbers.
      start, stop: epochs done before and afterwards.
    """

    number: int
    model: Model
    lanes: int
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


def ready(
    job: Job, chunk: Chunk, batch: Prepared, earlier: Mapping[int, Result] | None = None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The compiled program of a chunk, and what it takes: key, batch, hyper and the state to go on from."""
    # One program for all chunks of a width: a short one is filled up with its last member.
    lanes = chunk.members + chunk.members[-1:] * (chunk.lanes - len(chunk.members))
    hyper = [cast_hyper(job.members[m].hyper, batch.train.value.dtype) for m in lanes]
    weight = None if job.folds is None else job.folds[np.array([job.members[m].fold for m in lanes])]
    states = None if chunk.start == 0 or earlier is None else [earlier[m].state for m in lanes]
    if chunk.lanes == 1:
        own = _of_fold(batch, None if weight is None else weight[0])
        state = None if states is None else states[0]
        key = job.keys[lanes[0]]
        program, own, state, _ = begin(key, chunk.model, job.solver, own, hyper[0], job.options, state, last=job.last)
        return program, (key, own, hyper[0], state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper)
    key, weighted = jnp.stack([job.keys[m] for m in lanes]), (batch, weight)
    first, program = _together(chunk.model, job.solver, job.options, shapes(weighted))
    if states is None:
        state = first(key, weighted, stacked)
    else:
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    # A run of no epochs compiles the program and changes no bit.
    state, _ = program(key, weighted, stacked, state, 0)
    return program, (key, weighted, stacked, state)


def fit_chunk(
    job: Job,
    chunk: Chunk,
    batch: Prepared,
    earlier: Mapping[int, Result] | None = None,
    begun: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
) -> dict[int, Result]:
    """Fit the members of a chunk, with a column `seconds` in their histories: an equal share of the chunk's. What was
    `ready` for it may be given as `begun`.
    """
    program, (key, own, hyper, state) = begun or ready(job, chunk, batch, earlier)
    parts: list[dict[str, np.ndarray]] = []
    elapsed = 0.0
    for after, part, seconds in advance(key, program, own, hyper, state, chunk.stop - chunk.start):
        length = part["epoch"].shape[-1]
        clock = (elapsed + seconds * np.arange(1, length + 1) / length) / len(chunk.members)
        parts.append(part | {"seconds": np.broadcast_to(clock, part["epoch"].shape)})
        state, elapsed = after, elapsed + seconds
    columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    fitted = jax.tree.map(np.asarray, (state, columns))
    results = {}
    for lane, member in enumerate(chunk.members):
        state, column = fitted if chunk.lanes == 1 else jax.tree.map(lambda leaf, lane=lane: leaf[lane], fitted)
        history = {name: column[name][column["epoch"] > 0] for name in parts[0]}
        if chunk.start > 0 and earlier is not None:
            before = earlier[member].history
            history["seconds"] = history["seconds"] + before["seconds"][-1]
            history = {name: np.concatenate([before[name], history[name]]) for name in history}
        epoch = state.epoch if state.best is None else state.best.epoch
        params = jax.tree.map(np.asarray, result(job.solver, state))
        results[member] = Result(int(state.status), int(epoch), history, params, state)
    return results


def memory(job: Job, chunk: Chunk, batch: Prepared) -> int:
    """Bytes on the device that the program of this chunk takes, by XLA's own account: arguments, results and work."""
    program, arguments = ready(job, chunk, batch)
    found = program.lower(*arguments, 0).compile().memory_analysis()  # type: ignore[attr-defined]
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def program_text(job: Job, chunk: Chunk, batch: Prepared) -> str:
    """The program of one member, lowered but not compiled: equal for equal static choices."""
    member = chunk.members[0]
    hyper = cast_hyper(job.members[member].hyper, batch.train.value.dtype)

    def run(key: jax.Array, batch: Prepared, hyper: Hyper) -> Any:
        return make_fit(chunk.model, job.solver, CHUNK, *job.options)(key, batch, hyper)

    return jax.jit(run).lower(job.keys[member], batch, hyper).as_text()


def _of_fold(batch: Prepared, weight: jax.Array | None) -> Prepared:
    """Train on these weights (n,), and validate on what they hold out."""
    if weight is None:
        return batch
    train, own = batch.train, batch.train.weight
    return batch._replace(train=replace(train, weight=own * weight), valid=replace(train, weight=own * (1 - weight)))


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


def memory_limit(max_memory: int | None, device: jax.Device) -> int | None:
    """`max_memory`, or else what an accelerator has to spare; None for no bound."""
    if max_memory is not None or device.platform == "cpu":
        return max_memory
    stats = device.memory_stats()
    return int(0.8 * stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def within(
    limit: int,
    job: Job,
    groups: dict[Model, list[int]],
    shapes: dict[Model, Params],
    prepared: Prepared,
    workers: int,
    keep: str,
) -> tuple[Job, int]:
    """The job with as many members at once, and as many workers, as `limit` bytes allow, judged by the widest model."""
    widest = max(groups, key=lambda program: num_bytes(shapes[program]))
    if keep == "all" and (total := sum(num_bytes(shapes[p]) * len(numbers) for p, numbers in groups.items())) > limit:
        raise ValueError(
            f"sweep: the parameters of all {len(job.members)} members take {_readable(total)}, more than max_memory "
            f"{_readable(limit)}: use keep='best', or a larger max_memory"
        )
    asked = (job.batch, workers)
    while (needed := memory(job, _example(job, widest, groups[widest]), prepared)) * workers > limit:
        if workers > 1:
            workers = max(1, min(workers - 1, limit // needed))
        elif job.batch > 1:
            job = job._replace(batch=max(1, min(job.batch // 2, job.batch * limit // needed)))
        else:
            raise ValueError(
                f"sweep: one member takes {_readable(needed)}, more than max_memory {_readable(limit)}: use a smaller "
                "rank, or a larger max_memory"
            )
    if (job.batch, workers) != asked:
        warnings.warn(
            f"sweep: to stay below {_readable(limit)}, {job.batch} of {len(job.members)} members at once in {workers} "
            f"worker(s), not {asked[0]} in {asked[1]}",
            stacklevel=4,
        )
    return job, workers


def _example(job: Job, model: Model, members: list[int]) -> Chunk:
    return Chunk(0, model, job.batch, members[: job.batch], 0, 1)


def num_bytes(shapes: Params) -> int:
    """Size of parameters of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _readable(size: float) -> str:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next((f"{size / unit:.1f} {name}" for name, unit in units if size >= unit), f"{size:.0f} bytes")
