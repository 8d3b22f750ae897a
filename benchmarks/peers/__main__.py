"""jaxmf beside the libraries that do the same work, alternating in one run, at the shape of MovieLens 1M.

    python -m benchmarks.peers als          a sweep of exact ALS (Cholesky) beside LensKit's BiasedMFScorer
    python -m benchmarks.peers cg           a sweep of ALS by conjugate gradient beside cmfrec's
    python -m benchmarks.peers sgd          an epoch of per-sample SGD beside cornac's MF
    python -m benchmarks.peers adam         an epoch of minibatch Adam beside the same loop in NumPy
    python -m benchmarks.peers als_sweep    16 fits by exact ALS, `jaxmf.sweep` beside LensKit one after another
    python -m benchmarks.peers sgd_sweep    64 fits by per-sample SGD, `jaxmf.sweep` beside cornac one after another
    python -m benchmarks.peers all          all of them, and one figure

Embedded data, 6,040 users, 3,706 items, a million ratings, 90 % of them for training, float32, two threads each. For
ALS and SGD by jaxmf, these are two host devices of JAX; the rows "one device" use one. With --smoke everything is tiny
and goes to a temporary folder. Times are medians of rounds that alternate between the libraries, after one
warm-up round; compilation, the layout of the data and a library's setup are timed separately. All minimize the same
objective, with λ per rating as the penalty: ALS, exact or by conjugate gradient, and Adam factorize the residuals of
damped biases, as LensKit does; SGD trains biases too. `pip install -e '.[bench]'` installs the libraries; a missing one
is skipped with a message. Writes results/benchmarks/peers/.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

import jaxmf
from benchmarks import limits
from benchmarks.peers import THREADS
from benchmarks.peers.ways import (
    ADAM,
    CG_STEPS,
    KEY,
    L2,
    RATE,
    Data,
    Factors,
    Run,
    Way,
    by_cmfrec,
    by_cornac,
    by_jaxmf,
    by_lenskit,
    by_numpy,
    in_numpy,
    judge,
    load,
    present,
    start,
)
from benchmarks.setting import Setting, alternate, setting, show, spread
from jaxmf import plot


class Sizes(NamedTuple):
    """The sizes of a run."""

    num_users: int = 6040
    num_items: int = 3706
    num_ratings: int = 1_000_000
    ranks: tuple[int, ...] = (16, 64, 128)
    wide: tuple[int, ...] = (64, 128)
    narrow: tuple[int, ...] = (16, 64)
    sweep_ranks: tuple[int, ...] = (8, 16, 32, 64)
    batch_size: int = 4096
    epochs: int = 10
    sweep_epochs: int = 5
    rounds: int = 3


TINY = Sizes(200, 300, 6000, (8,), (8,), (8,), (2, 4, 6, 8), batch_size=512, epochs=4, rounds=2)


class Row(NamedTuple):
    """A comparison, and its required and aimed-for speeds as multiples of the peer's, by rank or number of fits."""

    work: str
    peer: str
    at_least: dict[int, float]
    aim: dict[int, float]


ALS = Row("exact ALS", "LensKit", {16: 0.7, 64: 0.8, 128: 1.0}, {16: 1.2, 64: 1.5, 128: 2.0})
CG = Row("ALS by CG", "cmfrec", {64: 1.0, 128: 1.0}, {64: 2.0, 128: 2.0})
SGD = Row("per-sample SGD", "cornac", {16: 0.7, 64: 0.7}, {16: 1.5, 64: 1.5})
MINIBATCH = Row("minibatch Adam", "NumPy", {64: 2.0}, {64: 5.0})
ALS_SWEEP = Row("16 fits by exact ALS", "LensKit", {16: 1.2}, {16: 4.0})
SGD_SWEEP = Row("64 fits by per-sample SGD", "cornac", {64: 0.8}, {64: 3.0})


def als(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time a sweep of exact ALS from the same start; after equally many sweeps the objectives agree."""
    data, hyper = load(*sizes[:3]), jaxmf.Hyper(l2=L2)
    tables = []
    for k in sizes.ranks:
        model = jaxmf.models.mf(k, None)
        solvers = {"jaxmf": jaxmf.solvers.als(devices=THREADS), "jaxmf, one device": jaxmf.solvers.als()}
        ways: dict[str, Way] = {way: by_jaxmf(model, solver, data.train_rest, hyper) for way, solver in solvers.items()}
        if present("lenskit"):
            ways["LensKit"] = by_lenskit(data, k, L2, start(model, data.train_rest, hyper))
        tables.append(compare(sizes, ALS, k, ways, data, True, L2, limits.als_work(limits.counts(data.train), k)))
    return write(here, sizes, "als", pd.concat(tables), data.train)


def cg(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time a sweep of ALS by conjugate gradient, and compare its objective with that of exact sweeps."""
    data, hyper = load(*sizes[:3]), jaxmf.Hyper(l2=L2)
    solvers = {
        "jaxmf": jaxmf.solvers.als(method="cg", steps=CG_STEPS, devices=THREADS),
        "jaxmf, exact": jaxmf.solvers.als(devices=THREADS),
    }
    tables = []
    for k in sizes.wide:
        model = jaxmf.models.mf(k, None)
        ways: dict[str, Way] = {way: by_jaxmf(model, solver, data.train_rest, hyper) for way, solver in solvers.items()}
        if present("cmfrec"):
            ways |= {
                "cmfrec": by_cmfrec(data.train_rest, k, True),
                "cmfrec, exact": by_cmfrec(data.train_rest, k, False),
            }
        table = compare(sizes, CG, k, ways, data, True, L2, limits.cg_work(limits.counts(data.train), k, CG_STEPS))
        exact = table.loc[table["way"] == "jaxmf, exact", "objective"].item()
        tables.append(table.assign(objective_over_exact=table["objective"] / exact - 1))
    return write(here, sizes, "cg", pd.concat(tables), data.train)


def sgd(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time an epoch of per-sample SGD with biases. The peer's threads race, and its ratings are sorted by user."""
    data = load(*sizes[:3])
    hyper = jaxmf.Hyper(l2=L2, learning_rate=RATE, init_scale=0.01)
    tables = []
    for k in sizes.narrow:
        model = jaxmf.models.biased_mf(k)
        solvers = {"jaxmf": jaxmf.solvers.sgd(devices=THREADS), "jaxmf, one device": jaxmf.solvers.sgd()}
        ways: dict[str, Way] = {way: by_jaxmf(model, solver, data.train, hyper) for way, solver in solvers.items()}
        if present("cornac"):
            initial = start(model, data.train, hyper)
            order = np.random.default_rng(0).permutation(len(data.train))
            ways["cornac"] = by_cornac(data.train, k, L2, RATE, initial)
            ways["cornac, shuffled once"] = by_cornac(data.train.take(order), k, L2, RATE, initial)
        table = compare(sizes, SGD, k, ways, data, False, L2, limits.sgd_work(len(data.train), k))
        tables.append(table.assign(updates_per_second=len(data.train) / table["seconds"]))
    return write(here, sizes, "sgd", pd.concat(tables), data.train)


def adam(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time an epoch of dense minibatch Adam; both use the same batches from the same start."""
    data, k = load(*sizes[:3]), sizes.narrow[-1]
    model = jaxmf.models.mf(k, None)
    ways: dict[str, Way] = {
        "jaxmf": by_jaxmf(model, jaxmf.solvers.minibatch(optax.adam, sizes.batch_size), data.train_rest, ADAM),
        "NumPy": by_numpy(data.train_rest, sizes.batch_size, start(model, data.train_rest, ADAM)),
    }
    num_rows = sizes.num_users + sizes.num_items
    work = limits.adam_work(len(data.train), num_rows, k, sizes.batch_size)
    table = compare(sizes, MINIBATCH, k, ways, data, True, L2, work)
    return write(here, sizes, "adam", table.assign(batch_size=sizes.batch_size), data.train)


def als_sweep(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time 16 fits by exact ALS, 4 ranks by 4 penalties, including the setup of the peer's fits."""
    data, hyper = load(*sizes[:3]), jaxmf.Hyper()
    grid = {"rank": sizes.sweep_ranks, "l2": (0.03, 0.05, 0.1, 0.2)}
    initial = {k: start(jaxmf.models.mf(k, None), data.train_rest, hyper) for k in sizes.sweep_ranks}

    def peer(point: dict[str, Any], epochs: int) -> Run:
        return by_lenskit(data, point["rank"], point["l2"], initial[point["rank"]])(epochs)

    wide = jaxmf.models.mf(max(sizes.sweep_ranks), None)
    table = sweeps(sizes, ALS_SWEEP, wide, jaxmf.solvers.als(), data, True, hyper, grid, "lenskit", peer)
    return write(here, sizes, "als_sweep", table, data.train)


def sgd_sweep(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Time 64 fits by per-sample SGD, 4 ranks by 4 penalties by 4 learning rates."""
    data, hyper = load(*sizes[:3]), jaxmf.Hyper(init_scale=0.01)
    rates = (0.00125, 0.0025, 0.005, 0.01)
    grid = {"rank": sizes.sweep_ranks, "l2": (0.01, 0.02, 0.05, 0.1), "learning_rate": rates}
    initial = {k: start(jaxmf.models.biased_mf(k), data.train, hyper) for k in sizes.sweep_ranks}

    def peer(point: dict[str, Any], epochs: int) -> Run:
        k = point["rank"]
        return by_cornac(data.train, k, point["l2"], point["learning_rate"], initial[k])(epochs)

    wide = jaxmf.models.biased_mf(max(sizes.sweep_ranks))
    table = sweeps(sizes, SGD_SWEEP, wide, jaxmf.solvers.sgd(), data, False, hyper, grid, "cornac", peer)
    return write(here, sizes, "sgd_sweep", table, data.train)


def everything(here: Setting, sizes: Sizes) -> pd.DataFrame:
    """Make all tables, one after another, and one figure."""
    table = pd.concat([job(here, sizes) for job in (als, cg, sgd, adam, als_sweep, sgd_sweep)], ignore_index=True)
    here.figure("all", draw(table))
    return table


def compare(
    sizes: Sizes, row: Row, k: int, ways: dict[str, Way], data: Data, residuals: bool, l2: float, work: limits.Work
) -> pd.DataFrame:
    """Return the median seconds of an epoch of every way, alternating by round, and the quality of its fit."""
    train, test = (data.train_rest, data.test_rest) if residuals else (data.train, data.test)
    calls = {way: partial(run, sizes.epochs) for way, run in ways.items()}
    runs = alternate(calls, sizes.rounds + 1, f"{row.work}, k = {k}")  # the first round warms up
    ceilings, rows = limits.measure(THREADS), []
    for way, rounds in runs.items():
        record: dict[str, Any] = {"work": row.work, "k": k, "way": way} | spread([run.seconds for run in rounds[1:]])
        record |= judge(rounds[-1].factors, train, test, l2)
        record |= {"prepare_seconds": statistics.median(run.prepare for run in rounds[1:])}
        record |= {"compile_seconds": rounds[0].compile if way.startswith("jaxmf") else np.nan}
        if way == "jaxmf":
            record |= limits.beside(work, ceilings, record["seconds"])
        rows.append(record)
    return finish(pd.DataFrame(rows), row, k, sizes.epochs, sizes.rounds)


def sweeps(
    sizes: Sizes,
    row: Row,
    model: jaxmf.Model,
    solver: Any,
    data: Data,
    residuals: bool,
    hyper: jaxmf.Hyper,
    grid: dict[str, Any],
    package: str,
    peer: Callable[[dict[str, Any], int], Run],
) -> pd.DataFrame:
    """Return the seconds of all fits of a grid together, by `jaxmf.sweep` and by the peer, and their mean quality.

    The first sweep of jaxmf compiles: `first_seconds` are its seconds by the clock, and `times_with_compiling` says how
    many times as long the peer takes.
    """
    train, test = (data.train_rest, data.test_rest) if residuals else (data.train, data.test)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    seconds: dict[str, list[float]] = {way: [] for way in ("jaxmf", *([row.peer] if present(package) else []))}
    judged: dict[str, pd.DataFrame] = {}
    first_seconds = compile_seconds = np.nan
    for round_index in tqdm(range(sizes.rounds + 1), desc=row.work):
        runs = jaxmf.sweep(
            KEY, model, solver, train, grid=grid, hyper=hyper, epochs=sizes.sweep_epochs, track=False, keep="all"
        )
        if round_index == 0:  # which compiles
            first_seconds, compile_seconds = runs.seconds, runs.compile_seconds
            fits = [in_numpy(runs.params(member)) for member in range(len(points))]
            judged["jaxmf"] = judge_all(fits, points, train, test)
            if row.peer in seconds:
                peer(points[0], 2)
            continue
        seconds["jaxmf"].append(runs.seconds)
        if row.peer in seconds:
            clock = time.perf_counter()
            fits = [peer(point, sizes.sweep_epochs).factors for point in points]
            seconds[row.peer].append(time.perf_counter() - clock)
            judged[row.peer] = judge_all(fits, points, train, test)
    rows = [
        {"work": row.work, "k": len(points), "way": way}
        | spread(times)
        | judged[way].mean().to_dict()
        | {"best_test_rmse": judged[way]["test_rmse"].min()}
        | ({"compile_seconds": compile_seconds, "first_seconds": first_seconds} if way == "jaxmf" else {})
        for way, times in seconds.items()
    ]
    table = finish(pd.DataFrame(rows), row, len(points), sizes.sweep_epochs, sizes.rounds)
    with_compiling = table["first_seconds"].fillna(table["seconds"]) / first_seconds
    return table.rename(columns={"k": "fits"}).assign(times_with_compiling=with_compiling)


def judge_all(
    fits: list[Factors], points: list[dict[str, Any]], train: jaxmf.Dataset, test: jaxmf.Dataset
) -> pd.DataFrame:
    """Return the table of `judge` for every fit of a sweep."""
    return pd.DataFrame([judge(fit, train, test, point["l2"]) for fit, point in zip(fits, points, strict=True)])


def finish(table: pd.DataFrame, row: Row, size: int, epochs: int, rounds: int) -> pd.DataFrame:
    """Add each way's multiple of the seconds of jaxmf, what is required of the peer's, and what all rows share."""
    ours = table["way"] == "jaxmf"
    base = table.loc[ours, "seconds"].item() if ours.any() else np.nan
    table = table.assign(times_of_jaxmf=table["seconds"] / base)
    for column, required in (("at_least", row.at_least), ("aim", row.aim)):
        table[column] = np.where(table["way"] == row.peer, required.get(size, np.nan), np.nan)
    return table.assign(
        epochs=epochs, rounds=rounds, dtype="float32", threads=THREADS, device=jax.devices()[0].platform
    )


def write(here: Setting, sizes: Sizes, name: str, table: pd.DataFrame, data: jaxmf.Dataset) -> pd.DataFrame:
    """Write the table, its manifest and its figure, and print the table."""
    peers = {package: version(package) for package in ("lenskit", "cmfrec", "cornac") if find_spec(package)}
    here.write(name, table, data.describe(), {"threads": THREADS, "l2": L2} | peers | sizes._asdict())
    show(table, turned=True)
    here.figure(name, draw(table))
    return table


def draw(table: pd.DataFrame) -> Figure:
    """Draw each other way's multiple of the seconds of jaxmf; ticks mark the required multiple and the aim."""
    rows = table[(table["way"] != "jaxmf") & table["times_of_jaxmf"].notna()]
    figure = Figure(figsize=(8, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ranks = rows["k"] if "k" in rows else pd.Series(np.nan, rows.index)
    labels = [
        f"{work}{'' if np.isnan(k) else f', k = {k:.0f}'}: {way}"
        for work, k, way in zip(rows["work"], ranks, rows["way"], strict=True)
    ]
    position = np.arange(len(rows))
    bars = axes.barh(position, rows["times_of_jaxmf"], color=plot.style.COLORS[0])
    axes.bar_label(bars, fmt="{:.2g}", padding=3)
    for column, color in (("at_least", plot.style.COLORS[4]), ("aim", plot.style.COLORS[2])):
        axes.scatter(rows[column], position, marker="|", s=200, color=color, zorder=3, label=column.replace("_", " "))
    axes.axvline(1, color="gray", linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(position, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("times the seconds of jaxmf (right of 1: jaxmf is faster)")
    if len(rows):
        axes.legend(fontsize="small")
    return figure


JOBS: dict[str, Callable[[Setting, Sizes], pd.DataFrame]] = {
    "als": als,
    "cg": cg,
    "sgd": sgd,
    "adam": adam,
    "als_sweep": als_sweep,
    "sgd_sweep": sgd_sweep,
    "all": everything,
}


def main() -> None:
    """Run the job named on the command line."""
    here = setting("peers", __doc__ or "", JOBS, smoke=True)
    JOBS[here.job](here, TINY if here.smoke else Sizes())


if __name__ == "__main__":
    main()
