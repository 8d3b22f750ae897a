"""Solvers, sweeps and recommendations on the device that JAX finds, at the shapes of MovieLens 1M and 20M.

    python -m benchmarks.device [--smoke] [WORK ...]     run all works, or those named: als, cg, sgd, adam, sweep,
                                                         top_n, contention

Embedded data, float32. Each work runs in a separate process, so that its memory peak is not that of another: resident
memory, or the device's memory if the device counts it. Compilation and the layout of the data are timed separately; if
the operations of a work can be counted, its physical limit is beside it. Writes
results/benchmarks/device/PLATFORM.csv, and a figure of all platforms that have a table: run it on a CPU and on a GPU to
compare the two. With --smoke everything is tiny and goes to a temporary folder.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxmf
from benchmarks import limits
from benchmarks.setting import begin, clocked, command_line
from jaxmf import plot

KEY = jax.random.key(0)
HYPER = jaxmf.Hyper(l2=0.05, learning_rate=0.005, init_scale=0.01)
K, BATCH, N = 64, 4096, 10


class Shape(NamedTuple):
    """Numbers of users, items and ratings, of epochs to time, of members of the sweeps, and their rank."""

    num_users: int
    num_items: int
    num_ratings: int
    epochs: int
    members: tuple[int, ...]
    rank: int


SHAPES = {
    "1M": Shape(6040, 3706, 1_000_000, 4, (64, 1024), 16),
    "20M": Shape(138_493, 26_744, 20_000_000, 2, (), 16),
    "smoke": Shape(200, 300, 6000, 2, (2, 4), 4),
}


def solver_row(solver: Any, data: jaxmf.Dataset, shape: Shape, work: limits.Work) -> list[dict[str, Any]]:
    """Return a row with the seconds of an epoch of one fit, and its final training error."""
    model = jaxmf.models.biased_mf(K)
    clock = time.perf_counter()
    batch = jax.block_until_ready(jaxmf.prepare(solver, data))
    prepare = time.perf_counter() - clock
    timed = partial(jaxmf.fit, KEY, model, solver, batch, hyper=HYPER, track=False)
    first = timed(epochs=1)
    fit = timed(epochs=shape.epochs, resume=first)
    seconds = (fit.history["seconds"][-1] - first.history["seconds"][-1]) / shape.epochs
    error = float(np.sqrt(jaxmf.models.mean_loss(model, fit.params, batch.train)))
    row = {"k": K, "prepare_seconds": prepare, "compile_seconds": first.compile_seconds, "train_rmse": error}
    return [{"seconds": seconds, **row, **limits.beside(work, limits.measure(os.cpu_count() or 1), seconds)}]


def als(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time exact ALS."""
    return solver_row(jaxmf.solvers.als(), data, shape, limits.als_work(limits.counts(data), K))


def cg(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time ALS by conjugate gradient."""
    return solver_row(jaxmf.solvers.als(method="cg"), data, shape, limits.cg_work(limits.counts(data), K, 3))


def sgd(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time per-sample SGD. Matchings larger than the default, 256 here, have empty lanes: users and items run out."""
    return solver_row(jaxmf.solvers.sgd(), data, shape, limits.sgd_work(len(data), K))


def adam(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time minibatch Adam."""
    work = limits.adam_work(len(data), data.num_users + data.num_items, K, BATCH)
    return [
        row | {"batch_size": BATCH} for row in solver_row(jaxmf.solvers.minibatch(optax.adam, BATCH), data, shape, work)
    ]


def sweep(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time an epoch of all members of a sweep by each solver, as `jaxmf.sweep` runs them on this device."""
    solvers = {
        "als": jaxmf.solvers.als(),
        "sgd": jaxmf.solvers.sgd(256),
        "adam": jaxmf.solvers.minibatch(optax.adam, BATCH),
    }
    rows = []
    for members in shape.members:
        for name, solver in solvers.items():
            grid = {"l2": np.geomspace(0.01, 1.0, members)}
            problem = KEY, jaxmf.models.biased_mf(shape.rank), solver, data
            runs = jaxmf.sweep(*problem, grid=grid, hyper=HYPER, epochs=1, track=False, keep="none", progress=True)
            setting = {"k": shape.rank, "solver": name, "members": members, "batch": runs.batch}
            rows.append(
                {"seconds": runs.seconds - runs.compile_seconds, **setting, "compile_seconds": runs.compile_seconds}
            )
    return rows


def top_n(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time the ten best unseen items of every user, as a table in the caller's ids."""
    model = jaxmf.models.biased_mf(K)
    params = model.init(KEY, data.ratings, HYPER)

    run = partial(jaxmf.recommend.top_n, model, params, data, n=N)
    first = clocked(run)
    seconds = statistics.median(clocked(run) for _ in range(3))
    return [{"seconds": seconds, "k": K, "compile_seconds": first - seconds}]


def contention(data: jaxmf.Dataset, shape: Shape) -> list[dict[str, Any]]:
    """Time adding a row of k numbers for every rating to its item: with the items' actual popularity, with equally
    popular items, and with ratings sorted by item, as ALS has them.
    """
    random = np.random.default_rng(0)
    ways = {
        "by user": data.item,
        "by user, equally popular items": random.integers(data.num_items, size=len(data)),
        "sorted by item": np.sort(data.item),
    }
    rows = []
    for name, item in ways.items():
        ordered = name == "sorted by item"

        @jax.jit
        def add(values: jax.Array, item: jax.Array, ordered: bool = ordered) -> jax.Array:
            rows = jnp.broadcast_to(values[:, None], (len(values), K)) * jnp.arange(1.0, K + 1)[None]
            return jax.ops.segment_sum(rows, item, data.num_items, indices_are_sorted=ordered)

        run = partial(add, jnp.asarray(data.rating, jnp.float32), jnp.asarray(item, jnp.int32))
        seconds = [clocked(run) for _ in range(4)]
        rows.append({"seconds": min(seconds), "k": K, "order": name, "compile_seconds": seconds[0] - min(seconds)})
    return rows


WORKS: dict[str, Callable[[jaxmf.Dataset, Shape], list[dict[str, Any]]]] = {
    work.__name__: work for work in (als, cg, sgd, adam, sweep, top_n, contention)
}


def one(work: str, size: str, path: str) -> None:
    """Run one work in this process, and print its rows as JSON."""
    with np.load(path) as saved:
        data = jaxmf.Dataset.from_arrays(saved["user"], saved["item"], saved["rating"])
    rows = WORKS[work](data, SHAPES[size])
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps([{"work": work, "size": size, "num_ratings": len(data), **row, "peak_bytes": peak} for row in rows])
    )


def draw(table: pd.DataFrame) -> Figure:
    """Draw the seconds of each work on each platform."""
    parts = [table[name].astype(object).fillna("") for name in ("work", "size", "solver", "order")]
    counts = [table[name].map(f"{{:.0f}} {word}".format, na_action="ignore") for name, word in WORDS.items()]
    parts += [column.astype(object).fillna("") for column in counts]
    labels = pd.Series([", ".join(filter(None, row)) for row in zip(*parts, strict=True)])
    order = list(dict.fromkeys(labels))
    figure = Figure(figsize=(8, 1 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots()
    for platform, color in zip(table["platform"].unique(), plot.style.COLORS, strict=False):
        mask = (table["platform"] == platform).to_numpy()
        axes.plot(
            table["seconds"][mask], [order.index(label) for label in labels[mask]], "o", color=color, label=platform
        )
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds of an epoch, or of the whole call")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


WORDS = {"batch_size": "at once", "members": "members"}


def main() -> None:
    """Run the works one after another, each in a process, and write the table after each."""
    parser = command_line("device", __doc__ or "", smoke=True)
    parser.add_argument(
        "works", nargs="*", metavar="WORK", help=f"works to run, out of {', '.join(WORKS)}; default: all"
    )
    about = "run one work in this process, on the ratings in a file, and print its rows as JSON"
    parser.add_argument("--one", nargs=3, metavar=("WORK", "SIZE", "FILE"), help=about)
    arguments = parser.parse_args()
    if unknown := set(arguments.works) - set(WORKS):
        parser.error(f"unknown work {', '.join(sorted(unknown))}; expected some of {', '.join(WORKS)}")
    if arguments.one:
        return one(*arguments.one)
    here, works, platform = (
        begin("device", smoke=arguments.smoke),
        arguments.works or list(WORKS),
        jax.devices()[0].platform,
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in ["smoke"] if here.smoke else ["1M", "20M"]:
            path = str(Path(folder) / f"{size}.npz")
            data = jaxmf.datasets.synthetic(*SHAPES[size][:3], seed=0)
            np.savez(path, user=data.user, item=data.item, rating=data.rating.astype(np.float32))
            here.manifest(f"{platform}_{size}", data.describe(), {"works": works})
            del data
            for work in tqdm(works, desc=size):
                command = [sys.executable, "-m", "benchmarks.device", "--one", work, size, path]
                process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                if process.returncode:
                    rows.append({"work": work, "size": size, "error": f"ended with {process.returncode}"})
                else:
                    rows += json.loads(process.stdout.splitlines()[-1])
                table = pd.DataFrame(rows).assign(
                    platform=platform, device=jax.devices()[0].device_kind, dtype="float32", jax=jax.__version__
                )
                here.table(platform, table)
    merged = pd.concat([pd.read_csv(path) for path in sorted(here.out.glob("*.csv"))], ignore_index=True)
    for name in ("solver", "order", *WORDS):
        merged[name] = merged.get(name, np.nan)
    here.figure("device", draw(merged.dropna(subset="seconds").reset_index(drop=True)))


if __name__ == "__main__":
    main()
