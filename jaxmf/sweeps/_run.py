"""A sweep in rungs: all members run to the first, those that are chosen to the next, and so on."""

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

from jaxmf import output
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.locks import claimed
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps import store
from jaxmf.sweeps.batches import Batch, Result, Shared, fit_batch, set_up_batch
from jaxmf.sweeps.grid import Grid, narrowed
from jaxmf.sweeps.memory import num_bytes
from jaxmf.sweeps.plan import Choices, Plan, Rungs, claim, cut, first_candidates, planned
from jaxmf.sweeps.result import Sweep, tables
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
    """Fit the members of a grid, up to the rungs that they are chosen for.

    A member that goes on does so from its state, so to the bits of one longer fit. Survivors move to the narrowest of
    a ladder of widths (`batch`, half of it, a quarter, ...) that holds them, each of which compiles once.

    Args:
      key, model, solver, train, valid, grid: as in `sweep`.
      rungs: when members are compared.
      choices: all other arguments of `sweep`.

    Returns:
      a Sweep, with the status "pruned" for members that were not selected. With `out`, rungs.csv says who went on.
    """
    with claimed(choices.out) as folder:
        plan = planned(key, model, solver, train, valid, grid, rungs, choices)
        if folder is not None:
            claim(folder, plan)
        clock = time.perf_counter()
        with progress_bar(len(plan.assignments), choices.progress, "fit") as bar:
            done = _execute(plan, None if folder is None else folder.path, bar)
        return _collect(plan, done, time.perf_counter() - clock, None if folder is None else folder.path)


@dataclass
class _Done:
    """What a sweep has come to.

    Attributes:
      results: by member, without parameters.
      kept: the parameters that are kept, by member.
      compiled: seconds that each program took to compile.
      programs: the models, with the width of their batches, that were needed.
      compared: one row for each member at each rung.
      num_batches: that there were.
    """

    results: dict[int, Result] = field(default_factory=dict)
    kept: dict[int, Params] = field(default_factory=dict)
    compiled: dict[Any, float] = field(default_factory=dict)
    programs: set[Any] = field(default_factory=set)
    compared: list[tuple[Any, ...]] = field(default_factory=list)
    num_batches: int = 0


def _execute(plan: Plan, folder: Path | None, bar: Any) -> _Done:
    """Run all members, rung by rung."""
    done, last = _Done(), len(plan.rungs.epochs) - 1
    fit = _fitter(plan.shared, done.results, done.compiled)
    several = len(plan.devices) > 1
    places = [jax.device_put(plan.data, device) if several else plan.data for device in plan.devices] * plan.workers
    states = {} if folder is None else {each: _state(each, plan.shared, shape) for each, shape in plan.shapes.items()}
    candidates = first_candidates(plan)
    for rung, stop in enumerate(plan.rungs.epochs):
        running = [n for n in candidates if n not in done.results or done.results[n].status == RUNNING]
        batches = cut(plan, running, done.results, stop, done.num_batches)
        done.num_batches += len(batches)
        done.programs |= {(batch.model, batch.width) for batch in batches}
        todo = batches
        if folder is not None:
            todo = [batch for batch in batches if not _taken(plan, folder, batch, states[batch.model], done, bar)]
        # Whatever ends the sweep, such as a full disk, ends what would still run beside it.
        with closing(_as_completed(fit, _ordered(todo, plan.shapes), places)) as fitted:
            for batch, found in fitted:
                if rung == last:
                    found = {number: each._replace(state=None) for number, each in found.items()}
                _note(plan, done, found, stop, bar)
                if folder is not None:
                    stored = {number: each._replace(params=done.kept.get(number)) for number, each in found.items()}
                    store.write(folder, batch.number, stored)
        candidates = _compare(plan, done, candidates, rung, bar)
    return done


def _taken(plan: Plan, folder: Path, batch: Batch, like: FitState, done: _Done, bar: Any) -> bool:
    """Whether the results of a batch are on disk, from where they are taken; `like` has a member's state."""
    found = store.read(folder, batch, like)
    _note(plan, done, found, batch.stop, bar)
    return bool(found)


def _note(plan: Plan, done: _Done, found: dict[int, Result], stop: int, bar: Any) -> None:
    """Keep new results, and count on the bar the members that have come to their end."""
    _keep(plan, done, found)
    final = stop == plan.rungs.epochs[-1]
    bar.update(sum(final or each.status != RUNNING for each in found.values()))


def _compare(plan: Plan, done: _Done, candidates: list[int], rung: int, bar: Any) -> list[int]:
    """The members that run to the next rung, each row of the comparison noted."""
    stop, select = plan.rungs.epochs[rung], plan.rungs.select
    scores = {number: done.results[number].at_epoch(plan.score) for number in candidates}
    scores = {number: score if np.isfinite(score) else np.inf for number, score in scores.items()}
    final = stop == plan.rungs.epochs[-1]
    chosen = set(candidates if select is None or final else select(rung, scores))
    done.compared += [(rung, stop, number, scores[number], number in chosen) for number in candidates]
    dropped = [number for number in candidates if number not in chosen]
    bar.update(sum(done.results[number].status == RUNNING for number in dropped))
    done.results.update({number: done.results[number]._replace(state=None) for number in dropped})
    return [number for number, enters in enumerate(plan.entry) if number in chosen or enters == rung + 1]


def _collect(plan: Plan, done: _Done, seconds: float, folder: Path | None) -> Sweep:
    """The tables, in the folder too, and the parameters that were kept."""
    assignments = plan.assignments
    history, table = tables(assignments, plan.shared.solver, plan.shapes, done.results, plan.rungs.epochs[-1])
    compared = pd.DataFrame(done.compared, columns=["rung", "epochs", "member", "score", "selected"])
    if folder is not None:
        output.write_table(folder / "history.csv", history)
        output.write_table(folder / "metrics.csv", table)
        if len(plan.rungs.epochs) > 1:
            output.write_table(folder / "rungs.csv", compared)
    return Sweep(
        table=table,
        history=history,
        rungs=compared,
        num_programs=len(done.programs) * len(plan.devices),
        batch=plan.shared.most,
        compile_seconds=sum(done.compiled.values()),
        seconds=seconds,
        members=tuple(each.member for each in assignments),
        models=tuple(each.model for each in assignments),
        keys=tuple(plan.shared.keys),
        kept={number: narrowed(params, assignments[number]) for number, params in done.kept.items()},
        score=plan.score,
    )


def _ordered(batches: list[Batch], shapes: dict[Model, Params]) -> list[Batch]:
    """The widest first, or else they would run alone at last; and one batch of every program before all others, so that
    some run while others compile.
    """
    batches = sorted(batches, key=lambda batch: -num_bytes(shapes[batch.model]))
    firsts = list({(batch.model, batch.width): batch for batch in reversed(batches)}.values())
    return sorted(batches, key=lambda batch: batch not in firsts)


def _fitter(
    shared: Shared, results: Mapping[int, Result], compiled: dict[Any, float]
) -> Callable[[Batch, Prepared], tuple[Batch, dict[int, Result]]]:
    """The function that fits a batch in a thread; each program is compiled once, and the seconds noted."""
    lock = threading.Lock()
    compiling: dict[Any, threading.Lock] = defaultdict(threading.Lock)

    def fit(batch: Batch, data: Prepared) -> tuple[Batch, dict[int, Result]]:
        program = batch.model, batch.width, id(data)
        with lock:
            own = compiling[program]
        begun = None
        with own:
            if program not in compiled:
                clock = time.perf_counter()
                begun = set_up_batch(shared, batch, data, results)
                compiled[program] = time.perf_counter() - clock
        return batch, fit_batch(shared, batch, data, results, begun)

    return fit


def _state(model: Model, shared: Shared, shape: Params) -> FitState:
    """The shapes of a member's state."""
    hyper, patience = shared.members[0].hyper, shared.options.patience
    return jax.eval_shape(lambda params: first_state(model, shared.solver, params, hyper, patience), shape)


def _as_completed(
    function: Callable[[Any, Any], Any], tasks: Sequence[Any], places: Sequence[Any]
) -> Generator[Any, None, None]:
    """`function(task, place)` for every task, one task per place at a time, in the order in which they finish."""
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for place in places:
        free.put(place)

    def call(task: Any) -> Any:
        place = free.get()
        try:
            return function(task, place)
        finally:
            free.put(place)

    with ThreadPoolExecutor(len(places)) as pool:
        try:
            for future in as_completed([pool.submit(call, task) for task in tasks]):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _keep(plan: Plan, done: _Done, new: dict[int, Result]) -> None:
    """Add new results, and keep their parameters or let go of them; of "best", the first of equals."""
    done.results.update({number: result._replace(params=None) for number, result in new.items()})
    offered = done.kept | {number: result.params for number, result in new.items() if result.params is not None}
    if plan.choices.keep == "best":
        found = [(done.results[number].at_epoch(plan.score), number) for number in offered]
        offered = {n: offered[n] for _, n in sorted(each for each in found if np.isfinite(each[0]))[:1]}
    done.kept = {} if plan.choices.keep == "none" else offered
