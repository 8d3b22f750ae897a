"""Plan a sweep before anything runs: check its arguments, and assign its members to programs and batches."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings, padded
from jaxmf.files.locks import Claimed
from jaxmf.models.checks import check_hyper
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import store
from jaxmf.sweeps.batches import Batch, Result, Shared, program_text
from jaxmf.sweeps.checks import check_all_promised, check_choices, check_padding, checked_folds, checked_shapes
from jaxmf.sweeps.grid import Assignment, Grid, Member, assign, members
from jaxmf.sweeps.memory import check_kept, memory_limit, num_bytes, within
from jaxmf.training.checks import check_key, check_monitor, check_ratings, check_static
from jaxmf.training.options import Monitor, Options, column_of, for_model
from jaxmf.training.program import LastConstants
from jaxmf.training.state import Prepared

Keep = Literal["best", "all", "none"]
Select = Callable[[int, Mapping[int, float]], Collection[int]]


class Keywords(TypedDict, total=False):
    """The keyword arguments of `sweep` that a search passes on."""

    folds: jax.Array | np.ndarray | None
    hyper: Hyper | None
    patience: int | None
    min_delta: float
    monitor: Monitor | None
    track: bool
    keep: Keep
    out: str | PathLike[str] | None
    batch: int | None
    pad: bool | None
    workers: int | None
    max_memory: int | None
    progress: bool


class Choices(NamedTuple):
    """The arguments of `Keywords` as one value; `pad` may also be a model, wide enough for all ranks, that all use."""

    folds: jax.Array | np.ndarray | None = None
    hyper: Hyper | None = None
    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor | None = None
    track: bool = True
    keep: Keep = "best"
    out: str | PathLike[str] | None = None
    batch: int | None = None
    pad: bool | Model | None = None
    workers: int | None = None
    max_memory: int | None = None
    progress: bool = False

    @property
    def options(self) -> Options:
        """Return the options of a single fit."""
        return Options(self.patience, self.min_delta, self.monitor, self.track)


class Rungs(NamedTuple):
    """When members are compared, and how they are selected.

    Attributes:
      epochs: the epochs at which members are compared, increasing; the last is the maximum number of epochs.
      entry: for each point of the grid, the rung at which it is first compared, up to which it runs; default: all 0.
      select: `select(rung, costs)` returns those of the members at this rung that continue. `costs` maps each of them
        to the monitored column at the epoch of its parameters, with the sign by which lower is better, and infinite
        where that is not finite. Members that enter at the next rung need not be returned; a member that has stopped by
        itself stays in the race only if it is.
    """

    epochs: Sequence[int]
    entry: Sequence[int] | None = None
    select: Select | None = None


class Plan(NamedTuple):
    """A sweep before anything runs.

    Attributes:
      shared: what all batches share.
      assignments: the members, and the program that each runs in.
      entry: for each member, the rung at which it is first compared, up to which it runs.
      shapes: the shapes of the parameters, for every model that runs.
      observed: the training ratings without padding.
      data: the ratings, and the layout of the training ratings.
      devices: the devices that the members are spread over.
      workers: number of batches that run at once on each device.
      score: the monitored column.
      rungs, choices: as passed to `run`, but `choices.hyper` is not None.
      key: the key of the sweep.
      model: the model that was passed to the sweep, whose rank the grid may override.
    """

    shared: Shared
    assignments: list[Assignment]
    entry: list[int]
    shapes: dict[Model, Params]
    observed: Ratings
    data: Prepared
    devices: list[jax.Device]
    workers: int
    score: str
    rungs: Rungs
    choices: Choices
    key: jax.Array
    model: Model


def planned(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None,
    grid: Grid,
    rungs: Rungs,
    choices: Choices,
) -> Plan:
    """Check all arguments of a sweep and return its plan.

    Only the programs that try a user's model are compiled, and those that measure a batch if memory is limited.
    """
    hyper = Hyper() if choices.hyper is None else choices.hyper
    check_key(key)
    check_static(model, solver, rungs.epochs[-1], choices.options)
    options = for_model(choices.options, model)
    check_hyper(hyper)
    check_choices(solver, choices, valid is not None)
    observed, held_out = (as_ratings(train, "train"), None) if valid is None else as_parts(train, valid)
    folds = None if choices.folds is None else checked_folds(choices.folds, observed)
    check_ratings(model, observed)
    listed = members(grid, hyper, None if folds is None else len(folds))
    column_seconds = solver.machine.column_seconds * len(observed.value) * rungs.epochs[-1]
    assignments = assign(model, listed, column_seconds, choices.pad)
    whole = padded(observed)
    shapes = checked_shapes(key, solver, whole, assignments)
    check_padding(key, whole, assignments)
    if folds is not None:  # a fold is validated on the same ratings under other weights
        folds, held_out = jnp.pad(folds, ((0, 0), (0, len(whole.value) - len(observed.value)))), whole
    elif held_out is not None:
        held_out = padded(held_out)
    check_monitor(choices.monitor, model, next(iter(shapes.values())), held_out, whole if folds is None else None)
    check_all_promised(key, solver, whole, assignments, shapes)
    data = Prepared(whole, held_out, solver.prepare(observed), solver)

    devices = jax.local_devices()
    if devices[0].platform == "cpu":  # threads use all cores of a CPU, without a compilation for each device
        devices = devices[:1]
    choices = choices._replace(hyper=hyper, monitor=options.monitor)
    shared, workers = _shared(key, assignments, folds, choices, data, shapes, devices[0])
    entry = [0] * len(assignments)
    if rungs.entry is not None:  # all folds of a point enter together
        entry = np.repeat(rungs.entry, len(assignments) // len(rungs.entry)).tolist()
    return Plan(
        shared,
        assignments,
        entry,
        shapes,
        observed,
        data,
        devices,
        workers,
        "train_loss" if held_out is None else column_of(options.monitor),
        rungs,
        choices,
        key,
        model,
    )


def _shared(
    key: jax.Array,
    assignments: list[Assignment],
    folds: jax.Array | None,
    choices: Choices,
    data: Prepared,
    shapes: dict[Model, Params],
    device: jax.Device,
) -> tuple[Shared, int]:
    """Return what all batches share, and how many run at once on each device; memory limits their width and number."""
    groups = _groups(assignments)
    largest = max(map(len, groups.values()))
    on_cpu = device.platform == "cpu"
    workers = choices.workers or ((os.cpu_count() or 1) if on_cpu else 1)
    shared = Shared(
        data.solver,
        [assignment.run_member for assignment in assignments],
        [_key(key, assignment.member) for assignment in assignments],
        folds,
        choices.options,
        min(choices.batch or (1 if on_cpu else largest), largest),
        LastConstants(),
    )
    if (limit := memory_limit(choices.max_memory, device)) is not None:
        if choices.keep == "all":
            check_kept(limit, shapes, groups)
        widest = max(groups, key=lambda model: num_bytes(shapes[model]))
        example = Batch(0, widest, shared.max_width, groups[widest][: shared.max_width], 0, 1)
        shared, workers = within(limit, shared, example, data, workers)
    return shared, workers


def _key(key: jax.Array, member: Member) -> jax.Array:
    """Return the key of a member."""
    return key if member.seed is None else jax.random.fold_in(key, member.seed)


def _groups(assignments: list[Assignment]) -> dict[Model, list[int]]:
    """Return the indices of the members that run in the program of each model."""
    groups: dict[Model, list[int]] = defaultdict(list)
    for index, assignment in enumerate(assignments):
        groups[assignment.run_model].append(index)
    return groups


def first_candidates(plan: Plan) -> list[int]:
    """Return the indices of the members that are compared at the first rung."""
    return [index for index, rung in enumerate(plan.entry) if rung == 0]


def cut(plan: Plan, running: list[int], results: Mapping[int, Result], stop: int, num_batches: int) -> list[Batch]:
    """Cut the running members into batches that run until the epoch `stop`, numbered from `num_batches`.

    The members of a batch share a program and have run for the same number of epochs. The width is the narrowest of the
    ladder that holds them, or the maximum width.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index in running:
        epochs = len(results[index].history["epoch"]) if index in results else 0
        groups[plan.assignments[index].run_model, epochs].append(index)
    batches: list[Batch] = []
    for (model, epochs), group in groups.items():
        width = plan.shared.max_width
        while width > 1 and -(-width // 2) >= len(group):
            width = -(-width // 2)
        for begin in range(0, len(group), width):
            batch_members = group[begin : begin + width]
            batches.append(Batch(num_batches + len(batches), model, width, batch_members, epochs, stop))
    return batches


def claim(folder: Claimed, plan: Plan) -> None:
    """Record in the folder that it belongs to this sweep, or check that it does."""
    shared, rungs, choices = plan.shared, plan.rungs, plan.choices
    assert choices.hyper is not None
    batches = cut(plan, first_candidates(plan), {}, rungs.epochs[0], 0)
    facts = {
        "model": plan.model.name,
        "solver": shared.solver.name,
        "hyper": choices.hyper._asdict(),
        "epochs": rungs.epochs[-1],
        "patience": choices.patience,
        "min_delta": choices.min_delta,
        "monitor": plan.score,
        "track": choices.track,
        "keep": choices.keep,
        "grid": [assignment.member.point for assignment in plan.assignments],
        "batches": [batch.members for batch in batches],
        "key": jax.random.key_data(plan.key),
    }
    if len(rungs.epochs) > 1:
        facts |= {"rungs": list(rungs.epochs), "entry": plan.entry}
    arrays = plan.data, shared.folds
    store.claim(folder, facts, plan.observed, arrays, lambda: program_text(shared, batches[0], plan.data))
