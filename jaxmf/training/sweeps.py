"""Sweeps: many fits of one model by one solver, one compiled program per width of the factors."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf import output
from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params
from jaxmf.solvers.solver import Solver
from jaxmf.training import store
from jaxmf.training.checks import check_functions, check_hyper, check_key, check_monitor, check_rank
from jaxmf.training.chunks import Chunk, Job, Result, fit_chunk, memory_limit, num_bytes, program_text, ready, within
from jaxmf.training.grid import Grid, Placed, members, place
from jaxmf.training.host import Options, progress_bar
from jaxmf.training.loop import Monitor, Prepared, cast_hyper, check_static
from jaxmf.training.result import Sweep, narrowed, tables

Keep = Literal["best", "all", "none"]


def sweep(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings | None = None,
    *,
    grid: Grid,
    folds: jax.Array | np.ndarray | None = None,
    hyper: Hyper | None = None,
    epochs: int = 50,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor = "loss",
    track: bool = True,
    keep: Keep = "best",
    out: str | Path | None = None,
    batch: int | None = None,
    pad: bool | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> Sweep:
    """Fit every member of a grid: each equals its own `fit`, and one program serves all members of a width.

    Args:
      key: from `jax.random.key`. A member with `seed` s has the key `fold_in(key, s)`; without seeds all have `key`.
      model: the model; the `rank` of a member overrides its width.
      solver: the solver.
      train: training ratings.
      valid: validation ratings over the same users and items; not together with `folds`.
      grid: name -> values, of which all combinations are fitted, or a list of points: `rank`, `seed`, `fold`, any
        number of `Hyper`, and `extra.NAME`.
      folds: (k, n) training weights of k folds of `train`, as `splits.k_fold` makes them. Each member is fitted on the
        weights of its fold and validated on 1 - weight; all folds are taken if the grid does not name `fold`.
      hyper: the numbers that the grid does not name; `Hyper()` if None.
      epochs, patience, min_delta, monitor, track: as in `fit`.
      keep: whose parameters are kept: of the "best" member by the monitored score (without validation, by the training
        loss), of "all", or of "none".
      out: folder on disk for the members that are finished: a sweep that was killed goes on from there, to the same
        bits, when it is called again with the same arguments. It also gets metrics.csv and history.csv at the end.
      batch: members at once under `vmap`; their number changes the last bits. Default: 1 on a CPU, where a member then
        has the bits of its own `fit`; all that fit into memory elsewhere. benchmarks/sweep.py measures it.
      pad: True fits all ranks at the largest width by one program, False each rank at its own; None does whichever
        costs less by the number of ratings, epochs and members.
      workers: batches that run at once on each device. Default: one per core on a CPU, 1 elsewhere. All local devices
        are used; they do not talk to each other.
      max_memory: most bytes that the programs running at once may take on a device, and that kept parameters may take;
        a batch that needs more is cut, with a warning. Default: no bound on a CPU, 80 % of the memory elsewhere.
      progress: show a progress bar on standard error.

    Returns:
      a Sweep. A member that diverges is a row with that status, and changes no other.

    Raises:
      ValueError: an unknown name, an empty list or a value out of range in the grid, `fold` together with `valid`,
        a number that the solver refuses, or an `out` that holds another sweep; all before anything compiles. One
        member, or the parameters kept, that need more than `max_memory`.

    Cost: that of the fits, less what a second core or device takes over; one compilation per width and device.
    """
    hyper = Hyper() if hyper is None else hyper
    check_key(key)
    check_static(model, solver, epochs, patience, min_delta, monitor)
    check_hyper(hyper)
    _check_choices(keep, batch, workers, max_memory)
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
    placed = place(model, members(grid, hyper, None if folds is None else len(folds)), len(train.value) * epochs, pad)
    shapes = _checked(key, solver, train, placed)
    if callable(monitor):
        check_monitor(monitor, next(iter(shapes.values())), held_out)
    prepared = Prepared(train, held_out, solver.prepare(train), solver)

    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    workers = workers or (-(-(os.cpu_count() or 1) // len(devices)) if on_cpu else 1)
    groups: dict[Model, list[int]] = {}
    for number, each in enumerate(placed):
        groups.setdefault(each.program, []).append(number)
    most = max(map(len, groups.values()))
    job = Job(
        solver,
        [each.running for each in placed],
        [key if each.own.seed is None else jax.random.fold_in(key, each.own.seed) for each in placed],
        folds,
        epochs,
        Options(patience, min_delta, monitor, track),
        min(batch or (1 if on_cpu else most), most),
    )
    limit = memory_limit(max_memory, devices[0])
    if limit is not None:
        job, workers = within(limit, job, groups, shapes, prepared, workers, keep)
    chunks: list[Chunk] = []
    for program, numbers in groups.items():
        for first in range(0, len(numbers), job.batch):
            chunks.append(Chunk(len(chunks), program, numbers[first : first + job.batch]))

    score = "train_loss" if prepared.valid is None else "monitor" if callable(monitor) else f"valid_{monitor}"
    results: dict[int, Result] = {}
    kept: dict[int, Params] = {}
    if out is not None:
        facts = {"model": model.name, "solver": solver.name, "hyper": hyper._asdict(), "epochs": epochs}
        facts |= {"patience": patience, "min_delta": min_delta, "monitor": score, "track": track, "keep": keep}
        facts |= {"grid": [each.own.point for each in placed], "chunks": [chunk.members for chunk in chunks]}
        facts |= {"key": jax.random.key_data(key)}
        store.claim(Path(out), facts, train, (prepared, folds), lambda: program_text(job, chunks[0], prepared))
        for chunk in chunks:
            _keep(keep, score, kept, results, store.read(Path(out), chunk.number, shapes[chunk.model]))

    # The widest first, or else they would run alone at last; and one chunk of every program before all others, so that
    # some run while others compile.
    todo = [chunk for chunk in chunks if not results.keys() >= set(chunk.members)]
    todo.sort(key=lambda chunk: -num_bytes(shapes[chunk.model]))
    firsts = list({chunk.model: chunk for chunk in reversed(todo)}.values())
    todo.sort(key=lambda chunk: chunk not in firsts)
    homes = [jax.device_put(prepared, device) if len(devices) > 1 else prepared for device in devices]
    compiling = {(chunk.model, id(home)): threading.Lock() for chunk in firsts for home in homes}
    compiled: dict[Any, float] = {}
    lock = threading.Lock()

    def work(chunk: Chunk, home: Prepared) -> int:
        program = chunk.model, id(home)
        with compiling[program]:
            if program not in compiled:
                clock = time.perf_counter()
                ready(job, chunk, home)
                compiled[program] = time.perf_counter() - clock
        done = fit_chunk(job, chunk, home)
        with lock:
            _keep(keep, score, kept, results, done)
            stored = {number: result._replace(params=kept.get(number)) for number, result in done.items()}
        if out is not None:
            store.write(Path(out), chunk.number, stored)
        return len(done)

    clock = time.perf_counter()
    with progress_bar(len(placed), progress, "fit") as bar:
        bar.update(len(results))
        for number in _spread(work, todo, homes * workers):
            bar.update(number)
    seconds = time.perf_counter() - clock

    history, table = tables(placed, solver, shapes, results)
    if out is not None:
        output.write_table(Path(out) / "history.csv", history)
        output.write_table(Path(out) / "metrics.csv", table)
    return Sweep(
        table=table,
        history=history,
        num_programs=len(groups) * len(devices),
        batch=job.batch,
        compile_seconds=sum(compiled.values()),
        seconds=seconds,
        members=tuple(each.own for each in placed),
        models=tuple(each.model for each in placed),
        keys=tuple(job.keys),
        kept={number: narrowed(params, placed[number]) for number, params in kept.items()},
        score=score,
    )


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
                solver.check(program, shapes[program], running.hyper)
            except ValueError as error:
                raise ValueError(f"sweep: {error} In the point {own.point}") from None
    return shapes


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
    return jnp.asarray(folds, train.value.dtype)


def _spread(function: Callable[[Any, Any], Any], tasks: Sequence[Any], homes: Sequence[Any]) -> Iterator[Any]:
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
