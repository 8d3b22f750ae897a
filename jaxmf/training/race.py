"""The members of a sweep, run to one rung of epochs after another; a choice at each rung says who goes on."""

import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf import output
from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings, padded
from jaxmf.locks import Claimed, claims_out
from jaxmf.models.memoize import how_built
from jaxmf.models.model import Hyper, Model, Params, cast_hyper, objective
from jaxmf.models.trial import drawn_rows
from jaxmf.solvers.solver import Solver
from jaxmf.training import store
from jaxmf.training.checks import check_functions, check_hyper, check_key, check_monitor, check_promised, check_rank
from jaxmf.training.chunks import Chunk, Job, Result, fit_chunk, memory_limit, num_bytes, program_text, ready, within
from jaxmf.training.grid import Grid, Placed, members, place
from jaxmf.training.host import LastConstants, Options, compiled_initialize, progress_bar
from jaxmf.training.loop import RUNNING, FitState, Monitor, Prepared, check_static, first_state, initialize
from jaxmf.training.result import Sweep, narrowed, tables

Keep = Literal["best", "all", "none"]
Select = Callable[[int, Mapping[int, float]], Collection[int]]


class Choices(TypedDict, total=False):
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


@claims_out
def race(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    grid: Grid,
    rungs: Sequence[int],
    entry: Sequence[int] | None = None,
    select: Select | None = None,
    program: Model | None = None,
    folds: jax.Array | np.ndarray | None = None,
    hyper: Hyper | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor = "loss",
    track: bool = True,
    keep: Keep = "best",
    out: str | PathLike[str] | None = None,
    batch: int | None = None,
    pad: bool | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> Sweep:
    """A sweep in rungs: all members run to the first rung, those that `select` names to the next, and so on.

    A member that goes on does so from its state, so to the bits of one longer fit. Survivors move to the narrowest of
    a ladder of widths (`batch`, half of it, a quarter, ...) that holds them, each of which compiles once.

    Args:
      key, model, solver, train, valid, grid: as in `sweep`, and so all that is not named here.
      rungs: epochs at which members are compared, rising; the last is the most that any runs.
      entry: for each point of the grid, the rung up to which it runs before it is first compared; default all 0.
      select: `select(rung, scores)` returns the members that go on, of those that have run up to that rung; their
        scores are those of the monitored column at the epoch of their parameters, infinite where it is not finite.
        Members that enter at the next rung need not be named; those that have stopped by themselves stay in the race
        only if they are.
      program: the model, wide enough for all ranks, that all members run in; default as `pad` says.

    Returns:
      a Sweep, with the status "pruned" for members that were not selected. With `out`, rungs.csv says who went on.
    """
    hyper = Hyper() if hyper is None else hyper
    check_key(key)
    check_static(model, solver, rungs[-1], patience, min_delta, monitor)
    check_hyper(hyper)
    _check_choices(keep, batch, workers, max_memory)
    if solver.machine.devices > 1:
        raise ValueError("sweep: it spreads its members over cores and devices, so the solver must have devices=1")
    if folds is None and valid is None:
        if patience is not None:
            raise ValueError(
                "sweep: patience needs validation ratings: pass valid= or folds= (jaxmf.splits makes them)"
            )
        if keep == "best" and not track:
            raise ValueError("sweep: keep='best' needs validation ratings, or track=True, to know which member is best")
    if folds is not None and valid is not None:
        raise ValueError("sweep: folds and valid exclude each other: a fold is validated on what it holds out of train")
    train, held_out = (as_ratings(train, "train"), None) if valid is None else as_parts(train, valid)
    if folds is not None:
        folds, held_out = _checked_folds(folds, train), train  # of a fold: the same ratings under other weights
    listed = members(grid, hyper, None if folds is None else len(folds))
    column_seconds = solver.machine.column_seconds * len(train.value) * rungs[-1]
    placed = place(model, listed, column_seconds, pad, program)
    whole = padded(train)
    shapes = _checked(key, solver, whole, placed)
    _check_padding(key, whole, placed)
    if held_out is not None:
        held_out = whole if held_out is train else padded(held_out)
    if callable(monitor):
        check_monitor(monitor, next(iter(shapes.values())), held_out)
    _check_promised(key, solver, whole, placed, shapes)
    prepared = Prepared(whole, held_out, solver.prepare(train), solver)
    if folds is not None:
        folds = jnp.pad(folds, ((0, 0), (0, len(whole.value) - len(train.value))))

    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    if on_cpu:
        devices = devices[:1]  # threads share its cores as well as more devices do, each of which would compile
    workers = workers or ((os.cpu_count() or 1) if on_cpu else 1)
    groups: dict[Model, list[int]] = defaultdict(list)
    for number, each in enumerate(placed):
        groups[each.program].append(number)
    most = max(map(len, groups.values()))
    job = Job(
        solver,
        [each.running for each in placed],
        [key if each.own.seed is None else jax.random.fold_in(key, each.own.seed) for each in placed],
        folds,
        Options(patience, min_delta, monitor, track),
        min(batch or (1 if on_cpu else most), most),
        LastConstants(),
    )
    limit = memory_limit(max_memory, devices[0])
    if limit is not None:
        job, workers = within(limit, job, groups, shapes, prepared, workers, keep)

    score = "train_loss" if held_out is None else "monitor" if callable(monitor) else f"valid_{monitor}"
    enters = [0] * len(placed) if entry is None else np.repeat(entry, len(placed) // len(entry)).tolist()
    field = [number for number, first in enumerate(enters) if first == 0]
    if out is not None:
        assert isinstance(out, Claimed)
        chunks = _cut(job, placed, field, {}, rungs[0], 0)
        facts = {"model": model.name, "solver": solver.name, "hyper": hyper._asdict(), "epochs": rungs[-1]}
        facts |= {"patience": patience, "min_delta": min_delta, "monitor": score, "track": track, "keep": keep}
        facts |= {"grid": [each.own.point for each in placed], "chunks": [chunk.members for chunk in chunks]}
        facts |= {"key": jax.random.key_data(key)}
        if len(rungs) > 1:
            facts |= {"rungs": list(rungs), "entry": enters}
        store.claim(out, facts, train, (prepared, folds), lambda: program_text(job, chunks[0], prepared))
    homes = [jax.device_put(prepared, device) if len(devices) > 1 else prepared for device in devices]
    states = {} if out is None else {each: _state(each, job, shape) for each, shape in shapes.items()}
    results: dict[int, Result] = {}
    kept: dict[int, Params] = {}
    compiled: dict[Any, float] = {}
    programs: set[Any] = set()
    fit = _fitter(job, results, compiled)
    ladder: list[tuple[Any, ...]] = []
    num_chunks = 0
    clock = time.perf_counter()
    with progress_bar(len(placed), progress, "fit") as bar:
        for rung, stop in enumerate(rungs):
            final = rung + 1 == len(rungs)
            running = [number for number in field if number not in results or results[number].status == RUNNING]
            chunks = _cut(job, placed, running, results, stop, num_chunks)
            num_chunks += len(chunks)
            programs |= {(chunk.model, chunk.lanes) for chunk in chunks}
            todo = []
            for chunk in chunks:
                found = {} if out is None else store.read(Path(out), chunk, states[chunk.model])
                _keep(keep, score, kept, results, found)
                bar.update(sum(final or each.status != RUNNING for each in found.values()))
                if not found:
                    todo.append(chunk)
            # Whatever ends the sweep, such as a full disk, ends what would still run beside it.
            with closing(_spread(fit, _ordered(todo, shapes), homes * workers)) as fitted:
                for chunk, done in fitted:
                    if final:
                        done = {number: each._replace(state=None) for number, each in done.items()}
                    _keep(keep, score, kept, results, done)
                    if out is not None:
                        stored = {number: each._replace(params=kept.get(number)) for number, each in done.items()}
                        store.write(Path(out), chunk.number, stored)
                    bar.update(sum(final or each.status != RUNNING for each in done.values()))
            scores = {number: results[number].at_epoch(score) for number in field}
            scores = {number: each if np.isfinite(each) else np.inf for number, each in scores.items()}
            chosen = set(field) if final or select is None else set(select(rung, scores))
            ladder += [(rung, stop, number, scores[number], number in chosen) for number in field]
            dropped = [number for number in field if number not in chosen]
            bar.update(sum(results[number].status == RUNNING for number in dropped))
            results |= {number: results[number]._replace(state=None) for number in dropped}
            field = [number for number in range(len(placed)) if number in chosen or enters[number] == rung + 1]
    seconds = time.perf_counter() - clock

    history, table = tables(placed, solver, shapes, results, rungs[-1])
    steps = pd.DataFrame(ladder, columns=["rung", "epochs", "member", "score", "selected"])
    if out is not None:
        output.write_table(Path(out) / "history.csv", history)
        output.write_table(Path(out) / "metrics.csv", table)
        if len(rungs) > 1:
            output.write_table(Path(out) / "rungs.csv", steps)
    return Sweep(
        table=table,
        history=history,
        rungs=steps,
        num_programs=len(programs) * len(devices),
        batch=job.batch,
        compile_seconds=sum(compiled.values()),
        seconds=seconds,
        members=tuple(each.own for each in placed),
        models=tuple(each.model for each in placed),
        keys=tuple(job.keys),
        kept={number: narrowed(params, placed[number]) for number, params in kept.items()},
        score=score,
    )


def _cut(
    job: Job, placed: list[Placed], numbers: list[int], results: dict[int, Result], stop: int, first: int
) -> list[Chunk]:
    """Chunks of members of one program that have run equally long, in the narrowest width that holds them."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number in numbers:
        done = len(results[number].history["epoch"]) if number in results else 0
        groups[placed[number].program, done].append(number)
    chunks: list[Chunk] = []
    for (program, done), own in groups.items():
        lanes = job.batch
        while lanes > 1 and -(-lanes // 2) >= len(own):
            lanes = -(-lanes // 2)
        for cut in range(0, len(own), lanes):
            chunks.append(Chunk(first + len(chunks), program, lanes, own[cut : cut + lanes], done, stop))
    return chunks


def _ordered(chunks: list[Chunk], shapes: dict[Model, Params]) -> list[Chunk]:
    """The widest first, or else they would run alone at last; and one chunk of every program before all others, so that
    some run while others compile.
    """
    chunks = sorted(chunks, key=lambda chunk: -num_bytes(shapes[chunk.model]))
    firsts = list({(chunk.model, chunk.lanes): chunk for chunk in reversed(chunks)}.values())
    return sorted(chunks, key=lambda chunk: chunk not in firsts)


def _fitter(
    job: Job, results: Mapping[int, Result], compiled: dict[Any, float]
) -> Callable[[Chunk, Prepared], tuple[Chunk, dict[int, Result]]]:
    """The function that fits a chunk in a thread; each program is compiled once, and the seconds noted."""
    lock = threading.Lock()
    compiling: dict[Any, threading.Lock] = defaultdict(threading.Lock)

    def fit(chunk: Chunk, home: Prepared) -> tuple[Chunk, dict[int, Result]]:
        program = chunk.model, chunk.lanes, id(home)
        with lock:
            own = compiling[program]
        begun = None
        with own:
            if program not in compiled:
                clock = time.perf_counter()
                begun = ready(job, chunk, home, results)
                compiled[program] = time.perf_counter() - clock
        return chunk, fit_chunk(job, chunk, home, results, begun)

    return fit


def _state(program: Model, job: Job, shape: Params) -> FitState:
    """The shapes of a member's state."""
    hyper = job.members[0].hyper
    return jax.eval_shape(lambda params: first_state(program, job.solver, params, hyper, job.options.patience), shape)


def _checked(key: jax.Array, solver: Solver, train: Ratings, placed: list[Placed]) -> dict[Model, Params]:
    """The shapes of every program's parameters, after all that `fit` checks before it compiles."""
    shapes: dict[Model, Params] = {}
    seen = set()
    for own, _, running, program in placed:
        numbers = cast_hyper(running.hyper, train.value.dtype)
        if program not in shapes:
            shapes[program] = check_functions(key, program, train, numbers)
        what = (program, repr(running.hyper))  # seeds and folds need no check of their own
        if what not in seen:
            seen.add(what)
            try:
                check_rank(running.hyper, shapes[program])
                solver.check(program, shapes[program], running.hyper, train.context)
            except ValueError as error:
                raise ValueError(f"sweep: {error} In the point {own.point}") from None
    return shapes


def _check_padding(key: jax.Array, train: Ratings, placed: list[Placed]) -> None:
    """ValueError if a user's model starts otherwise in a wider table, or has another objective there; a constructor of
    jaxmf's does not.
    """
    padded = {(each.model, each.program): each for each in placed if each.program is not each.model}
    for (model, program), each in padded.items():
        if how_built(program) is not None:
            continue
        alone = jax.jit(partial(initialize, key, model))(train, each.own.hyper)
        wide = jax.jit(partial(initialize, key, program))(train, each.running.hyper)
        if not all(map(np.allclose, jax.tree.leaves(alone), jax.tree.leaves(narrowed(wide, each)))):
            raise ValueError(
                f"sweep: the model {model.name!r} of rank {each.own.rank} starts otherwise in a wider table, so that a "
                "member would not be its own fit: let init draw column j with the key jax.random.fold_in(key, j), as "
                "the built-in models do, or use pad=False"
            )
        random = wide._replace(trained=drawn_rows(np.random.default_rng(0), wide.trained))
        wide = initialize(key, program._replace(init=lambda *_: random), train, each.running.hyper)  # noqa: B023
        value = jax.jit(partial(objective, program))(wide, train, each.running.hyper)
        expected = jax.jit(partial(objective, model))(narrowed(wide, each), train, each.own.hyper)
        if not np.isclose(value, expected, rtol=float(jnp.finfo(value.dtype).eps) ** 0.5):
            raise ValueError(
                f"sweep: the model {model.name!r} of rank {each.own.rank} has another objective in a wider table of "
                "which the further columns are 0, so that a member would not be its own fit: let `loss` and `penalty` "
                "read no width, or use pad=False"
            )


def _check_promised(
    key: jax.Array, solver: Solver, train: Ratings, placed: list[Placed], shapes: dict[Model, Params]
) -> None:
    """ValueError if a user's model breaks a promise that the solver relies on."""

    def initial(program: Model, numbers: Hyper, ratings: Ratings) -> Params:
        return compiled_initialize(program, ratings)(key, ratings, numbers)

    for member, _, running, program in placed:
        numbers = cast_hyper(running.hyper, train.value.dtype)
        try:
            check_promised(program, solver, shapes[program], numbers, train, partial(initial, program, numbers))
        except ValueError as error:
            raise ValueError(f"sweep: {error}. In the point {member.point}") from None


def _check_choices(keep: str, batch: int | None, workers: int | None, max_memory: int | None) -> None:
    if keep not in ("best", "all", "none"):
        raise ValueError(f"sweep: keep must be 'best', 'all' or 'none', not {keep!r}")
    for name, value in (("batch", batch), ("workers", workers), ("max_memory", max_memory)):
        if value is not None and not is_positive_integer(value):
            unit = " of bytes" if name == "max_memory" else ""
            raise ValueError(f"sweep: {name} must be a positive integer{unit} or None, not {value!r}")


def _checked_folds(folds: Any, train: Ratings) -> jax.Array:
    folds = np.asarray(folds)
    num_ratings = len(train.value)
    if folds.ndim != 2 or folds.shape[1] != num_ratings or folds.dtype.kind not in "biuf":
        raise ValueError(
            f"sweep: folds must be weights of shape (k, {num_ratings}), one row per fold and one column per training "
            f"rating, not {folds.dtype}{list(folds.shape)}; jaxmf.splits.k_fold(train, k) makes them"
        )
    weight = np.asarray(train.weight)
    for number, fold in enumerate(folds):
        if not ((fold >= 0) & (fold <= 1)).all():
            raise ValueError(f"sweep: fold {number} has weights that are not between 0 and 1")
        if not (fold * weight).any() or not ((1 - fold) * weight).any():
            raise ValueError(f"sweep: fold {number} leaves nothing to train on, or holds nothing out")
    return jnp.asarray(folds.astype(train.value.dtype))


def _spread(
    function: Callable[[Any, Any], Any], tasks: Sequence[Any], homes: Sequence[Any]
) -> Generator[Any, None, None]:
    """`function(task, home)` for every task, one task per home at a time, in the order in which they finish."""
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for home in homes:
        free.put(home)

    def run(task: Any) -> Any:
        home = free.get()
        try:
            return function(task, home)
        finally:
            free.put(home)

    with ThreadPoolExecutor(len(homes)) as pool:
        try:
            for future in as_completed([pool.submit(run, task) for task in tasks]):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _keep(keep: Keep, score: str, kept: dict[int, Params], results: dict[int, Result], new: dict[int, Result]) -> None:
    """Add new results, and move their parameters to `kept` or let go of them; of "best", the first of equals."""
    results.update({number: result._replace(params=None) for number, result in new.items()})
    offered = kept | {number: result.params for number, result in new.items() if result.params is not None}
    if keep == "best":
        found = [(results[number].at_epoch(score), number) for number in offered]
        offered = {n: offered[n] for _, n in sorted(each for each in found if np.isfinite(each[0]))[:1]}
    kept.clear()
    kept.update({} if keep == "none" else offered)
