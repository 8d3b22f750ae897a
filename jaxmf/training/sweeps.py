"""Sweeps: many fits of one model by one solver, one compiled program per width of the factors."""

import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf import output
from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts, as_ratings
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params, bias_l2
from jaxmf.solvers.solver import Solver
from jaxmf.training import store
from jaxmf.training.checks import check_functions, check_hyper, check_key, check_monitor, check_rank
from jaxmf.training.chunks import Chunk, Job, Result, fit_chunk, memory, program_text, ready
from jaxmf.training.grid import NUMBERS, Grid, Member, members
from jaxmf.training.host import Options, progress_bar
from jaxmf.training.loop import STATUS, Monitor, Prepared, cast_hyper, check_static

Keep = Literal["best", "all", "none"]

# What decides between one program for all ranks and one for each; benchmarks/sweep.py measures both.
_SECONDS_PER_COLUMN = 1e-8  # of an epoch, per rating and column of the factors
_COMPILE_SECONDS = 2.0


@dataclass(frozen=True)
class Sweep:
    """The fits of a sweep, in the order of its grid.

    Attributes:
      table: one row per member, see `to_frame`.
      history: one row per member and epoch, a tidy table: `member`, the names of the grid, and the columns of
        `Fit.history`.
      num_programs: programs that were needed, one per width of the factors (and per device).
      batch: members that ran at once under `vmap`.
      compile_seconds: time spent tracing and compiling; about 0 where the programs were there already.
      seconds: time spent fitting, in this call; a resumed sweep does not count what it found on disk.
      members, models, keys: what each was fitted with.
      kept: parameters on the host, by member.
      score: the column that decides which member is best.
    """

    table: pd.DataFrame
    history: pd.DataFrame
    num_programs: int
    batch: int
    compile_seconds: float
    seconds: float
    members: tuple[Member, ...]
    models: tuple[Model, ...]
    keys: tuple[jax.Array, ...]
    kept: dict[int, Params]
    score: str

    def to_frame(self) -> pd.DataFrame:
        """One row per member, a tidy table; those of several sweeps concatenate.

        Columns: `member`, `model`, `solver`, `rank`, the numbers of `Hyper` (those not given as what they mean),
        `extra.NAME`, `seed` and `fold` (missing where the sweep has none), `status`, `epochs` that ran, `epoch` whose
        parameters these are (the best on validation with `patience`), the columns of `Fit.history` at that epoch,
        `seconds` (a share of what ran at once), and `dtype`.
        """
        return self.table.copy()

    def best(self, metric: str | None = None) -> int:
        """The member with the lowest value of a metric; the first of equals.

        Args:
          metric: a column of `to_frame`, or "rmse", "mae" or "loss" for those of the validation ratings. Default: what
            the sweep monitored, or the training loss if there were no validation ratings.

        Raises:
          ValueError: no such column, or no member with a finite value of it.
        """
        name = self.score if metric is None else metric
        column = name if name in self.table else f"valid_{name}"
        if column not in self.table or not pd.api.types.is_numeric_dtype(self.table[column]):
            numeric = self.table.select_dtypes("number").columns.tolist()
            raise ValueError(f"best: no metric {name!r}; expected one of {', '.join(numeric)}")
        values = self.table[column].to_numpy(float)
        if not np.isfinite(values).any():
            raise ValueError(f"best: no member has a finite {column}; see the column status of to_frame()")
        return int(np.where(np.isfinite(values), values, np.inf).argmin())

    def params(self, member: int) -> Params:
        """The parameters of a member, at its own rank; a ValueError if `keep` let go of them."""
        self._check(member)
        if member not in self.kept:
            kept = f"only those of member {', '.join(map(str, self.kept))}" if self.kept else "none"
            raise ValueError(
                f"params: those of member {member} were not kept, {kept}. Sweep with keep='all', or fit it: "
                f"jaxmf.fit(runs.key({member}), runs.model({member}), solver, ..., hyper=runs.hyper({member}))"
            )
        return jax.tree.map(jnp.asarray, self.kept[member])

    def model(self, member: int) -> Model:
        """The model of a member, at its rank."""
        self._check(member)
        return self.models[member]

    def hyper(self, member: int) -> Hyper:
        """The numbers of a member."""
        self._check(member)
        return self.members[member].hyper

    def key(self, member: int) -> jax.Array:
        """The key of a member: `fold_in(key, seed)`, or the sweep's own where the grid has no seed."""
        self._check(member)
        return self.keys[member]

    def summary(self, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Mean and standard error of every metric over seeds and folds, for each setting.

        Args:
          by: columns that say what a setting is; default: the names of the grid but `seed` and `fold`.

        Returns:
          one row per setting: the columns `by`, `num_members`, `num_diverged`, and for each metric its mean and, with
          the suffix `_se`, its standard error (sample standard deviation / √num_members; missing for one member). A
          member without a finite metric makes the setting's mean missing.

        Raises:
          ValueError: an unknown column.
        """
        if by is None:
            by = [name for name in self.members[0].point if name not in ("seed", "fold")]
        by = [by] if isinstance(by, str) else list(by)
        unknown = [name for name in by if name not in self.table]
        if unknown:
            raise ValueError(
                f"summary: no column {', '.join(unknown)}; expected some of {', '.join(map(str, self.table))}"
            )
        given = {*by, *self.members[0].point, "member", "epoch"}
        metrics = [str(name) for name in self.history if name not in given]
        groups = self.table.groupby(by or (lambda _: 0), sort=False, dropna=False)
        columns: dict[str, Any] = {"num_members": groups.size()}
        columns["num_diverged"] = groups["status"].agg(lambda status: int((status == "diverged").sum()))
        for name in metrics:
            columns[name] = groups[name].agg(lambda values: values.mean(skipna=False))
            columns[f"{name}_se"] = groups[name].agg(lambda values: values.sem(skipna=False))
        return pd.DataFrame(columns).reset_index(drop=not by)

    def _check(self, member: int) -> None:
        if not 0 <= member < len(self.members):
            raise ValueError(f"no member {member}; they are numbered from 0 to {len(self.members) - 1}")


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
    placed = _place(model, members(grid, hyper, None if folds is None else len(folds)), len(train.value) * epochs, pad)
    shapes = _checked(key, solver, train, placed)
    if callable(monitor):
        check_monitor(monitor, next(iter(shapes.values())), held_out)
    prepared = Prepared(train, held_out, solver.prepare(train), solver)

    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    workers = workers or (-(-(os.cpu_count() or 1) // len(devices)) if on_cpu else 1)
    groups: dict[Model, list[int]] = {}
    for number, place in enumerate(placed):
        groups.setdefault(place.program, []).append(number)
    most = max(map(len, groups.values()))
    job = Job(
        solver,
        [place.running for place in placed],
        [key if place.own.seed is None else jax.random.fold_in(key, place.own.seed) for place in placed],
        folds,
        epochs,
        Options(patience, min_delta, monitor, track),
        min(batch or (1 if on_cpu else most), most),
    )
    limit = _limit(max_memory, devices[0])
    if limit is not None:
        job, workers = _within(limit, job, groups, shapes, prepared, workers, keep)
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
        facts |= {"grid": [place.own.point for place in placed], "chunks": [chunk.members for chunk in chunks]}
        facts |= {"key": jax.random.key_data(key)}
        store.claim(Path(out), facts, train, (prepared, folds), lambda: program_text(job, chunks[0], prepared))
        for chunk in chunks:
            results |= store.read(Path(out), chunk.number, shapes[chunk.model])
        _keep(keep, score, kept, results)

    lock = threading.Lock()

    def work(chunk: Chunk, home: Prepared) -> int:
        done = fit_chunk(job, chunk, home)
        with lock:
            results.update(done)
            _keep(keep, score, kept, results)
            stored = {number: result._replace(params=kept.get(number)) for number, result in done.items()}
        if out is not None:
            store.write(Path(out), chunk.number, stored)
        return len(done)

    todo = [chunk for chunk in chunks if not results.keys() >= set(chunk.members)]
    homes = [jax.device_put(prepared, device) if len(devices) > 1 else prepared for device in devices]
    firsts = {chunk.model: chunk for chunk in reversed(todo)}.values()
    with progress_bar(len(placed), progress, "fit") as bar:
        bar.update(len(results))
        clock = time.perf_counter()
        # Each program on each device, whichever thread does it.
        for _ in _spread(
            lambda task, _: ready(job, *task), [(c, home) for c in firsts for home in homes], homes * workers
        ):
            pass
        compiled = time.perf_counter()
        for number in _spread(work, todo, homes * workers):
            bar.update(number)
    finished = time.perf_counter()

    history, table = _tables(placed, solver, shapes, results)
    if out is not None:
        output.write_table(Path(out) / "history.csv", history)
        output.write_table(Path(out) / "metrics.csv", table)
    return Sweep(
        table=table,
        history=history,
        num_programs=len(groups) * len(devices),
        batch=job.batch,
        compile_seconds=compiled - clock,
        seconds=finished - compiled,
        members=tuple(place.own for place in placed),
        models=tuple(place.model for place in placed),
        keys=tuple(job.keys),
        kept={number: _narrowed(params, placed[number]) for number, params in kept.items()},
        score=score,
    )


class _Place(NamedTuple):
    """A member and the model at its rank, as a user knows them, and what runs: its numbers in which program."""

    own: Member
    model: Model
    running: Member
    program: Model


def _place(model: Model, listed: list[Member], work: int, pad: bool | None) -> list[_Place]:
    """Each member in the program of its own rank, or all in that of the largest; `work`: ratings × epochs."""
    ranks = {member.rank for member in listed if member.rank is not None}
    if not ranks:
        return [_Place(member, model, member, model) for member in listed]
    active = [member._replace(hyper=member.hyper._replace(rank=member.rank)) for member in listed]
    if model.with_rank is None:
        return [_Place(member, model, member, model) for member in active]
    if pad is None:
        columns = sum(max(ranks) - (member.rank or 0) for member in listed)
        pad = columns * work * _SECONDS_PER_COLUMN < (len(ranks) - 1) * _COMPILE_SECONDS
    models = {rank: model.with_rank(rank) for rank in ranks}
    wide = models[max(ranks)]
    return [
        _Place(member, models[member.rank or 0], *((same, wide) if pad else (member, models[member.rank or 0])))
        for member, same in zip(listed, active, strict=True)
    ]


def _checked(key: jax.Array, solver: Solver, train: Ratings, placed: list[_Place]) -> dict[Model, Params]:
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


def _limit(max_memory: int | None, device: jax.Device) -> int | None:
    if max_memory is not None or device.platform == "cpu":
        return max_memory
    stats = device.memory_stats()
    return int(0.8 * stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def _within(
    limit: int,
    job: Job,
    groups: dict[Model, list[int]],
    shapes: dict[Model, Params],
    prepared: Prepared,
    workers: int,
    keep: Keep,
) -> tuple[Job, int]:
    """The job with as many members at once, and as many workers, as `limit` bytes allow, judged by the widest model."""
    widest = max(groups, key=lambda program: _bytes(shapes[program]))
    if keep == "all" and (total := sum(_bytes(shapes[p]) * len(numbers) for p, numbers in groups.items())) > limit:
        raise ValueError(
            f"sweep: the parameters of all {len(job.members)} members take {_readable(total)}, more than max_memory "
            f"{_readable(limit)}: use keep='best', or a larger max_memory"
        )
    asked = (job.batch, workers)
    while (needed := memory(job, Chunk(0, widest, groups[widest][: job.batch]), prepared)) * workers > limit:
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
            stacklevel=3,
        )
    return job, workers


def _bytes(shapes: Params) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _readable(size: float) -> str:
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    return next((f"{size / unit:.1f} {name}" for name, unit in units if size >= unit), f"{size:.0f} bytes")


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


def _keep(keep: Keep, score: str, kept: dict[int, Params], results: dict[int, Result]) -> None:
    """Move the parameters of the results to `kept`, or let go of them; of "best", the first of equals."""
    offered = kept | {number: result.params for number, result in results.items() if result.params is not None}
    if keep == "best":
        found = [(result.at_epoch(score), number) for number, result in results.items()]
        best = min((each for each in found if np.isfinite(each[0])), default=(0.0, -1))[1]
        offered = {number: params for number, params in offered.items() if number == best}
    kept.clear()
    kept.update({} if keep == "none" else offered)
    results.update({number: result._replace(params=None) for number, result in results.items()})


def _narrowed(params: Params, place: _Place) -> Params:
    """The columns of the member's own rank, where it ran in a wider program."""
    if place.program is place.model:
        return params

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf[..., : place.own.rank] if getattr(path[-1], "key", None) == "factors" else leaf

    return params._replace(trained=jax.tree_util.tree_map_with_path(cut, params.trained))


def _tables(
    placed: list[_Place], solver: Solver, shapes: dict[Model, Params], results: dict[int, Result]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The history of all members, one row per epoch, and the table of members."""
    histories, rows = [], []
    for number, (own, model, _, program) in enumerate(placed):
        status, epoch, columns, _ = results[number]
        history = pd.DataFrame({"member": number, **own.point, **columns})
        histories.append(history)
        tables = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes[program].trained)
            if "factors" in str(path[-1])
        ]
        width = tables[0].shape[-1] if tables else None
        ranks = (own.rank, own.hyper.rank, width)
        hyper = own.hyper._replace(l2_bias=bias_l2(own.hyper))
        if hyper.learning_rate_bias is None:
            hyper = hyper._replace(learning_rate_bias=hyper.learning_rate)
        rows.append(
            {"member": number, "model": model.name, "solver": solver.name}
            | {"rank": next((int(rank) for rank in ranks if rank is not None), None)}
            | {name: float(getattr(hyper, name)) for name in NUMBERS}
            | {f"extra.{name}": value for name, value in hyper.extra.items()}
            | {"seed": own.seed, "fold": own.fold, "status": STATUS[status], "epochs": len(history), "epoch": epoch}
            | {name: results[number].at_epoch(name) for name in columns if name not in ("epoch", "seconds")}
            | {"seconds": columns["seconds"][-1], "dtype": str(jax.tree.leaves(shapes[program])[0].dtype)}
        )
    table = pd.DataFrame(rows)
    return pd.concat(histories, ignore_index=True), table.astype(dict.fromkeys(("rank", "seed", "fold"), "Int64"))
