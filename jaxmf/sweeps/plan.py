"""A sweep before anything runs: what is refused, which member runs in which program, and in which batches."""

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
from jaxmf.locks import Claimed
from jaxmf.models.checks import check_hyper
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import store
from jaxmf.sweeps.batches import Batch, Result, Shared, program_text
from jaxmf.sweeps.checks import check_all_promised, check_choices, check_padding, checked_folds, checked_shapes
from jaxmf.sweeps.grid import Assignment, Grid, Member, assign, members
from jaxmf.sweeps.memory import check_kept, memory_limit, num_bytes, within
from jaxmf.training.checks import check_key, check_monitor, check_static
from jaxmf.training.options import Monitor, Options
from jaxmf.training.program import LastConstants
from jaxmf.training.state import Prepared

Keep = Literal["best", "all", "none"]
Select = Callable[[int, Mapping[int, float]], Collection[int]]


class Keywords(TypedDict, total=False):
    """The keyword arguments of `sweep` that a search hands on."""

    folds: jax.Array | np.ndarray | None
    hyper: Hyper | None
    patience: int | None
    min_delta: float
    monitor: Monitor
    track: bool
    keep: Keep
    out: str | PathLike[str] | None
    batch: int | None
    pad: bool | None
    workers: int | None
    max_memory: int | None
    progress: bool


class Choices(NamedTuple):
    """These arguments as one value; `pad` may also be the model, wide enough for all ranks, that all members run in."""

    folds: jax.Array | np.ndarray | None = None
    hyper: Hyper | None = None
    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
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
        """Those of a single fit."""
        return Options(self.patience, self.min_delta, self.monitor, self.track)


class Rungs(NamedTuple):
    """When members are compared, and by whom.

    Attributes:
      epochs: at which members are compared, rising; the last is the most that any runs.
      entry: for each point of the grid, the rung up to which it runs before it is first compared; default all 0.
      select: `select(rung, scores)` returns the members that go on, of those that have run up to that rung; their
        scores are those of the monitored column at the epoch of their parameters, infinite where it is not finite.
        Members that enter at the next rung need not be named; those that have stopped by themselves stay in the race
        only if they are.
    """

    epochs: Sequence[int]
    entry: Sequence[int] | None = None
    select: Select | None = None


class Plan(NamedTuple):
    """A sweep before anything runs.

    Attributes:
      shared: what all batches share.
      assignments: the members, and where they run.
      entry: for each member, the rung up to which it runs before it is first compared.
      shapes: of the parameters of every model that runs.
      observed: the training ratings without padding.
      data: the ratings, and the layout of those for training.
      devices: that members are spread over.
      workers: batches at once on each device.
      score: the monitored column.
      rungs, choices: as given, `choices` with numbers for `hyper`.
      key: of the sweep.
      model: the model, before any rank of the grid.
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
    """All that is refused is refused here, and nothing compiles but what tries a user's model."""
    hyper, options = Hyper() if choices.hyper is None else choices.hyper, choices.options
    check_key(key)
    check_static(model, solver, rungs.epochs[-1], options)
    check_hyper(hyper)
    check_choices(solver, choices, valid is not None)
    observed, held_out = (as_ratings(train, "train"), None) if valid is None else as_parts(train, valid)
    folds = None if choices.folds is None else checked_folds(choices.folds, observed)
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
    if callable(options.monitor):
        check_monitor(options.monitor, next(iter(shapes.values())), held_out)
    check_all_promised(key, solver, whole, assignments, shapes)
    data = Prepared(whole, held_out, solver.prepare(observed), solver)

    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    shared, workers = _shared(key, assignments, folds, choices, data, shapes)
    entry = [0] * len(assignments)
    if rungs.entry is not None:  # all folds of a point enter together
        entry = np.repeat(rungs.entry, len(assignments) // len(rungs.entry)).tolist()
    monitored = "monitor" if callable(options.monitor) else f"valid_{options.monitor}"
    return Plan(
        shared,
        assignments,
        entry,
        shapes,
        observed,
        data,
        devices[:1] if on_cpu else devices,  # threads share its cores as well as more devices do, which would compile
        workers,
        "train_loss" if held_out is None else monitored,
        rungs,
        choices._replace(hyper=hyper),
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
) -> tuple[Shared, int]:
    """What all batches share, and how many of them run at once on each device: as many members as memory allows."""
    groups, device = _groups(assignments), jax.local_devices()[0]
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
        example = Batch(0, widest, shared.most, groups[widest][: shared.most], 0, 1)
        shared, workers = within(limit, shared, example, data, workers)
    return shared, workers


def _key(key: jax.Array, member: Member) -> jax.Array:
    """The member's own key."""
    return key if member.seed is None else jax.random.fold_in(key, member.seed)


def _groups(assignments: list[Assignment]) -> dict[Model, list[int]]:
    """The members that run as each model."""
    groups: dict[Model, list[int]] = defaultdict(list)
    for number, assignment in enumerate(assignments):
        groups[assignment.run_model].append(number)
    return groups


def first_candidates(plan: Plan) -> list[int]:
    """The members that are compared at the first rung."""
    return [number for number, rung in enumerate(plan.entry) if rung == 0]


def cut(plan: Plan, numbers: list[int], results: Mapping[int, Result], stop: int, first: int) -> list[Batch]:
    """Batches of members of one program that have run equally long, in the narrowest width that holds them."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number in numbers:
        epochs = len(results[number].history["epoch"]) if number in results else 0
        groups[plan.assignments[number].run_model, epochs].append(number)
    batches: list[Batch] = []
    for (model, epochs), batch_members in groups.items():
        width = plan.shared.most
        while width > 1 and -(-width // 2) >= len(batch_members):
            width = -(-width // 2)
        for begin in range(0, len(batch_members), width):
            some = batch_members[begin : begin + width]
            batches.append(Batch(first + len(batches), model, width, some, epochs, stop))
    return batches


def claim(folder: Claimed, plan: Plan) -> None:
    """Make the folder that of this sweep, or see that it is."""
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
