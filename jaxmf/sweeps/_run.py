"""Run a sweep in rungs: all members run to the first rung, the selected ones to the next, and so on."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.files import output
from jaxmf.files.locks import claimed
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import store
from jaxmf.sweeps.batches import Batch, Result, Shared, fit_batch, set_up_batch
from jaxmf.sweeps.grid import Grid, narrowed
from jaxmf.sweeps.memory import num_bytes
from jaxmf.sweeps.plan import Choices, Plan, Rungs, claim, cut, first_candidates, planned
from jaxmf.sweeps.result import Sweep, tables
from jaxmf.training.options import cost_sign
from jaxmf.training.program import progress_bar
from jaxmf.training.state import RUNNING, FitState, Prepared, first_state


def run(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None,
    grid: Grid,
    rungs: Rungs,
    choices: Choices,
) -> Sweep:
    """Fit the members of a grid, each up to the last rung for which it is selected.

    A selected member continues from its state, so it gets the bits of one longer fit. The survivors move to the
    narrowest width of a ladder (`batch`, half of it, a quarter, ...) that holds them; each width compiles once.

    Args:
      key, model, solver, train, valid, grid: as in `sweep`.
      rungs: when members are compared, and how they are selected.
      choices: all other arguments of `sweep`.

    Returns:
      a Sweep, with the status "pruned" for members that were not selected. With `out`, rungs.csv lists who was selected
      at each rung.
    """
    with claimed(choices.out) as folder:
        plan = planned(key, model, solver, train, valid, grid, rungs, choices)
        if folder is not None:
            claim(folder, plan)
        clock = time.perf_counter()
        with progress_bar(len(plan.assignments), choices.progress, "fit") as bar:
            record = _execute(plan, None if folder is None else folder.path, bar)
        return _collect(plan, record, time.perf_counter() - clock, None if folder is None else folder.path)


@dataclass
class _Record:
    """The results of a sweep so far.

    Attributes:
      results: member -> result, without its parameters.
      kept: member -> the parameters that are kept.
      compiled: program -> the seconds that it took to compile.
      programs: the models that were needed, each with the width of its batches.
      compared: one row per rung and member that was compared there.
      num_batches: number of batches so far.
    """

    results: dict[int, Result] = field(default_factory=dict)
    kept: dict[int, Params] = field(default_factory=dict)
    compiled: dict[Any, float] = field(default_factory=dict)
    programs: set[Any] = field(default_factory=set)
    compared: list[tuple[Any, ...]] = field(default_factory=list)
    num_batches: int = 0


def _execute(plan: Plan, folder: Path | None, bar: Any) -> _Record:
    """Run all members, rung by rung."""
    record, last = _Record(), len(plan.rungs.epochs) - 1
    fit = _fitter(plan.shared, record.results, record.compiled)
    several = len(plan.devices) > 1
    slots = [jax.device_put(plan.data, device) if several else plan.data for device in plan.devices] * plan.workers
    states = (
        {} if folder is None else {model: _state(model, plan.shared, shape) for model, shape in plan.shapes.items()}
    )
    candidates = first_candidates(plan)
    for rung, stop in enumerate(plan.rungs.epochs):
        running = [m for m in candidates if m not in record.results or record.results[m].status == RUNNING]
        batches = cut(plan, running, record.results, stop, record.num_batches)
        record.num_batches += len(batches)
        record.programs |= {(batch.model, batch.width) for batch in batches}
        todo = batches
        if folder is not None:
            todo = [batch for batch in batches if not _read(plan, folder, batch, states[batch.model], record, bar)]
        # An error that ends the sweep, such as a full disk, also cancels the batches that wait for a thread.
        with closing(_as_completed(fit, _ordered(todo, plan.shapes), slots)) as fitted:
            for batch, results in fitted:
                if rung == last:
                    results = {member: result._replace(state=None) for member, result in results.items()}
                _add(plan, record, results, stop, bar)
                if folder is not None:
                    stored = {m: result._replace(params=record.kept.get(m)) for m, result in results.items()}
                    store.write(folder, batch.number, stored)
        candidates = _compare(plan, record, candidates, rung, bar)
    return record


def _read(plan: Plan, folder: Path, batch: Batch, like: FitState, record: _Record, bar: Any) -> bool:
    """Add the results of a batch if they are on disk, and return whether they are; `like` is a member's state."""
    results = store.read(folder, batch, like)
    _add(plan, record, results, batch.stop, bar)
    return bool(results)


def _add(plan: Plan, record: _Record, results: dict[int, Result], stop: int, bar: Any) -> None:
    """Add new results to the record, and advance the bar by the members that run no further."""
    _keep(plan, record, results)
    final = stop == plan.rungs.epochs[-1]
    bar.update(sum(final or result.status != RUNNING for result in results.values()))


def _compare(plan: Plan, record: _Record, candidates: list[int], rung: int, bar: Any) -> list[int]:
    """Compare the candidates at a rung, record the comparison, and return the members that run to the next rung."""
    stop, select = plan.rungs.epochs[rung], plan.rungs.select
    sign = cost_sign(plan.score)
    scores = {member: record.results[member].at_epoch(plan.score) for member in candidates}
    costs = {member: sign * score if np.isfinite(score) else np.inf for member, score in scores.items()}
    final = stop == plan.rungs.epochs[-1]
    selected = set(candidates if select is None or final else select(rung, costs))
    record.compared += [(rung, stop, member, sign * costs[member], member in selected) for member in candidates]
    dropped = [member for member in candidates if member not in selected]
    bar.update(sum(record.results[member].status == RUNNING for member in dropped))
    record.results.update({member: record.results[member]._replace(state=None) for member in dropped})
    return [member for member, entry in enumerate(plan.entry) if member in selected or entry == rung + 1]


def _collect(plan: Plan, record: _Record, seconds: float, folder: Path | None) -> Sweep:
    """Return the Sweep, and write its tables into the folder if there is one."""
    assignments = plan.assignments
    history, table = tables(assignments, plan.shared.solver, plan.shapes, record.results, plan.rungs.epochs[-1])
    compared = pd.DataFrame(record.compared, columns=["rung", "epochs", "member", "score", "selected"])
    if folder is not None:
        output.write_table(folder / "history.csv", history)
        output.write_table(folder / "metrics.csv", table)
        if len(plan.rungs.epochs) > 1:
            output.write_table(folder / "rungs.csv", compared)
    return Sweep(
        table=table,
        history=history,
        rungs=compared,
        num_programs=len(record.programs) * len(plan.devices),
        batch=plan.shared.max_width,
        compile_seconds=sum(record.compiled.values()),
        seconds=seconds,
        members=tuple(assignment.member for assignment in assignments),
        models=tuple(assignment.model for assignment in assignments),
        keys=tuple(plan.shared.keys),
        kept={member: narrowed(params, assignments[member]) for member, params in record.kept.items()},
        score=plan.score,
    )


def _ordered(batches: list[Batch], shapes: dict[Model, Params]) -> list[Batch]:
    """Sort batches by decreasing size of their parameters, since a large one that starts last would run alone; but put
    one batch of each program before all others, so that some run while others compile.
    """
    batches = sorted(batches, key=lambda batch: -num_bytes(shapes[batch.model]))
    leading = list({(batch.model, batch.width): batch for batch in reversed(batches)}.values())
    return sorted(batches, key=lambda batch: batch not in leading)


def _fitter(
    shared: Shared, results: Mapping[int, Result], compiled: dict[Any, float]
) -> Callable[[Batch, Prepared], tuple[Batch, dict[int, Result]]]:
    """Return the function that fits a batch in a thread. It compiles each program once, and notes the seconds."""
    lock = threading.Lock()
    compiling: dict[Any, threading.Lock] = defaultdict(threading.Lock)

    def fit(batch: Batch, data: Prepared) -> tuple[Batch, dict[int, Result]]:
        program = batch.model, batch.width, id(data)
        with lock:
            program_lock = compiling[program]
        ready = None
        with program_lock:
            if program not in compiled:
                clock = time.perf_counter()
                ready = set_up_batch(shared, batch, data, results)
                compiled[program] = time.perf_counter() - clock
        return batch, fit_batch(shared, batch, data, results, ready)

    return fit


def _state(model: Model, shared: Shared, shape: Params) -> FitState:
    """Return the shapes of a member's state."""
    hyper, patience = shared.members[0].hyper, shared.options.patience
    state: FitState = jax.eval_shape(lambda params: first_state(model, shared.solver, params, hyper, patience), shape)
    return state


def _as_completed(
    function: Callable[[Any, Any], Any], tasks: Sequence[Any], slots: Sequence[Any]
) -> Generator[Any, None, None]:
    """Yield `function(task, slot)` for every task as it finishes, with at most one task in a slot at a time."""
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    def call(task: Any) -> Any:
        slot = free.get()
        try:
            return function(task, slot)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            for future in as_completed([pool.submit(call, task) for task in tasks]):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _keep(plan: Plan, record: _Record, new: dict[int, Result]) -> None:
    """Add new results, and keep the parameters that `keep` asks for; with "best", the first member among equals."""
    record.results.update({member: result._replace(params=None) for member, result in new.items()})
    params = record.kept | {member: result.params for member, result in new.items() if result.params is not None}
    if plan.choices.keep == "best":
        costs = [(cost_sign(plan.score) * record.results[member].at_epoch(plan.score), member) for member in params]
        params = {member: params[member] for _, member in sorted(c for c in costs if np.isfinite(c[0]))[:1]}
    record.kept = {} if plan.choices.keep == "none" else params
