"""How the time and memory of an epoch grow with the number of ratings, the rank, and the members of a sweep.

    python -m experiments.scaling [--out FOLDER] [--smoke]

1. Does the time of an epoch grow like the count of its operations?
2. How many bytes does a compiled epoch need, and where does memory set the limit?
3. Do more threads help LAPACK, which solves the linear systems of ALS?

Biased factorization on synthetic ratings by `als`, `sgd` and `minibatch` with Adam. Members run one after another, as
`jaxmf.sweep` runs them on a core, or at once under `vmap`, as on an accelerator. Writes tables (CSV), a figure and
summary.md; float32. Nothing is chosen here, and no errors are compared.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import jaxmf
from experiments.setting import setting
from jaxmf import Hyper, models, plot
from jaxmf.data import Dataset, datasets
from jaxmf.files.output import markdown
from jaxmf.kernels.tiles import Layout
from jaxmf.shell.recipes import RECIPES
from jaxmf.training import start

SEED, GIB = 0, 2**30
MAX_BYTES, MAX_MEMBERS = 10 * GIB, 256  # larger programs are compiled, to count their bytes, but not run
MAX_SECONDS = 5.0  # a program that has run this long gets no further round
NUM_USERS, NUM_ITEMS = 2000, 3000
HYPER = Hyper(l2=0.1, learning_rate=0.001)
SEQUENCE, VMAP = "members in sequence", "members under vmap"
SIZES = {
    "ratings": (30_000, 100_000, 300_000, 1_000_000, 3_000_000),
    "rank": (4, 8, 16, 32, 64, 128, 256, 512),
    SEQUENCE: (1, 2, 4, 8, 16),
    VMAP: (1, 4, 16, 64, 256, 1024),
}
SMALL = {"ratings": (300, 600), SEQUENCE: (1, 2), VMAP: (1, 2)}
FIXED = {"ratings": 100_000, "rank": 16}  # the values of what does not vary
LAST = 3  # number of last points that a slope is fitted to


class Program(NamedTuple):
    """A compiled epoch `run(keys, state)`, its initial state `begin()`, and its sizes and compile time, `known`."""

    run: Callable[[jax.Array, Any], Any]
    begin: Callable[[], Any]
    known: dict[str, Any]


@cache
def data(num_ratings: int) -> Dataset:
    """Return that many ratings, always of the same users and items."""
    return datasets.synthetic(NUM_USERS, NUM_ITEMS, num_ratings, seed=SEED)


def operations(layout: Any, num_ratings: int, rank: int) -> float:
    """Count the operations of an epoch, to which its time should be proportional, with D = rank + 1 numbers per row.

    A gradient solver updates two rows per rating: n D. ALS forms one system per row, of order m = min(c, D) for c
    ratings, including those that pad its tile, and factorizes it: Σ 2 c D m + m³ / 3, which is of the order of
    n k² + (U + I) k³ if all rows have more ratings than unknowns.
    """
    D = rank + 1
    if not isinstance(layout, Layout):
        return float(num_ratings * D)
    total = 0.0
    for tiles, _ in layout:
        devices, _, at_once = tiles.rows.shape
        c = np.diff(tiles.start)[: int(tiles.ends[-1])] / at_once
        m = np.minimum(c, D)
        total += devices * at_once * float(np.sum(2.0 * c * D * m + m**3 / 3))
    return total


@cache
def compiled(name: str, ratings: int, rank: int, lanes: int) -> Program:
    """Compile the epoch of `lanes` members at once."""
    model, (solver, _), train = models.biased_mf(rank), RECIPES[name], data(ratings)
    clock = time.perf_counter()
    batch = jaxmf.prepare(solver, train)
    known: dict[str, Any] = {"prepare_seconds": time.perf_counter() - clock}
    epoch = jaxmf.make_fit(model, solver, epochs=1, track=False)

    def begin() -> Any:
        state = start(jax.random.key(SEED), model, solver, batch, HYPER)
        return state if lanes == 1 else jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), state)

    def run(keys: jax.Array, state: Any, batch: Any) -> Any:
        def step(key: jax.Array, state: Any) -> Any:
            return epoch(key, batch, HYPER, state)[0]

        return step(keys, state) if lanes == 1 else jax.vmap(step)(keys, state)

    keys = jax.random.key(SEED) if lanes == 1 else jax.random.split(jax.random.key(SEED), lanes)
    clock = time.perf_counter()
    program = jax.jit(run).lower(keys, jax.eval_shape(begin), batch).compile()
    known["compile_seconds"] = time.perf_counter() - clock
    memory = program.memory_analysis()
    sizes = {f"{part}_bytes": getattr(memory, f"{part}_size_in_bytes") for part in ("argument", "output", "temp")}
    layout = sum(leaf.nbytes for leaf in jax.tree.leaves(batch.layout))
    known |= sizes | {"bytes": sum(sizes.values()), "layout_bytes": layout}
    known["operations"] = lanes * operations(batch.layout, ratings, rank)
    return Program(lambda keys, state: jax.block_until_ready(program(keys, state, batch)), begin, known)


def measure(axis: str, value: int, base: dict[str, int], names: tuple[str, ...], rounds: int) -> pd.DataFrame:
    """Return a row per solver: bytes, and median seconds over rounds that alternate between the programs that run."""
    size = base | ({axis: value} if axis in base else {})
    members, lanes = (1 if axis in base else value), (value if axis == VMAP else 1)
    keys = jax.random.split(jax.random.key(SEED), members)
    rows, running = [], {}
    for name in names:
        program = compiled(name, size["ratings"], size["rank"], lanes)
        row = {"axis": axis, "value": value, "solver": name, **size, "members": members, "seconds": np.nan}
        row |= program.known | {"operations": program.known["operations"] * members / lanes}
        rows.append(row | {"dtype": str(data(size["ratings"]).ratings.value.dtype)})
        if program.known["bytes"] <= MAX_BYTES and members <= MAX_MEMBERS:
            running[name] = program.run, program.begin()
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds + 1):
        for name, (run, state) in running.items():
            if sum(seconds[name]) < MAX_SECONDS:
                clock = time.perf_counter()
                for key in [keys] if lanes > 1 else keys:
                    run(key, state)
                seconds[name].append(time.perf_counter() - clock)
    for row in rows:
        if row["solver"] in running:
            warm = seconds[row["solver"]][1:] or seconds[row["solver"]]
            row |= {"seconds": float(np.median(warm)), "rounds": len(warm)}
    return pd.DataFrame(rows)


def by_threads(base: dict[str, int], rank: int, rounds: int) -> pd.DataFrame:
    """Time an ALS epoch by the number of threads that LAPACK may use, in rounds that alternate."""
    program = compiled("als", base["ratings"], rank, 1)
    key, state, rows = jax.random.key(SEED), program.begin(), []
    for round_index in range(rounds):
        for threads in (1, os.cpu_count()):
            with threadpool_limits(threads, "blas"):
                clock = time.perf_counter()
                program.run(key, state)
                seconds = time.perf_counter() - clock
                rows.append({"rank": rank, "threads": threads, "round": round_index, "seconds": seconds})
    return pd.DataFrame(rows).assign(dtype=str(data(base["ratings"]).ratings.value.dtype))


def slope(x: pd.Series, y: pd.Series) -> float:
    """Fit the exponent of y in x: least squares in log-log over the last points."""
    known = y.notna()
    return float(np.polyfit(np.log(x[known][-LAST:]), np.log(y[known][-LAST:]), 1)[0])


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fitted exponents, beside those of the count of operations at the same points."""
    rows = []
    for (axis, solver), line in table.groupby(["axis", "solver"], sort=False):
        timed = line.dropna(subset="seconds")
        row = {"axis": axis, "solver": solver, "from": timed["value"].iloc[-LAST:].iloc[0], "to": timed["value"].max()}
        row |= {"seconds": slope(timed["value"], timed["seconds"])}
        row |= {"operations": slope(timed["value"], timed["operations"]), "bytes": slope(line["value"], line["bytes"])}
        rows.append(row | {"dtype": line["dtype"].iloc[0]})
    return pd.DataFrame(rows)


def in_words(results: dict[str, Any]) -> list[str]:
    """Return the paragraphs of summary.md; every number in them is also in a table beside it."""
    table, fitted = results["measurements"], results["slopes"]
    exponents = [
        f"- **{axis}: "
        + ", ".join(f"{row.solver} {row.seconds:.2f} ({row.operations:.2f})" for row in rows.itertuples())
        + "**"
        for axis, rows in fitted.groupby("axis", sort=False)
    ]
    left_out = [
        f"{row.solver} at {row.value:,} ({row.axis}), {row.bytes / GIB:.1f} GiB"
        for row in table[table["seconds"].isna()].itertuples()
    ]
    timed = table.dropna(subset="seconds")
    last = timed.loc[timed.groupby(["axis", "solver"], sort=False)["value"].idxmax()]
    last = last.assign(**{"MiB": last["bytes"] / 2**20, "MiB of layout": last["layout_bytes"] / 2**20})
    largest = timed.loc[timed["bytes"].idxmax()]
    threads = results["threads"].groupby("threads")["seconds"].agg(["median", "min", "max"])
    spans = ", ".join(
        f"{row.median:.2g} s with {row.Index} ({row.min:.2g} to {row.max:.2g})" for row in threads.itertuples()
    )
    return [
        "# Scaling of an epoch",
        f"Biased factorization of synthetic ratings by {NUM_USERS:,} users of {NUM_ITEMS:,} items; "
        f"{results['base']['ratings']:,} ratings, rank {results['base']['rank']} and one member where they do not "
        "vary; float32. The exponent of the time of an epoch, fitted to the last "
        f"{LAST} points of each line, and in brackets that of the count of operations at the same points:",
        "\n".join(exponents),
        f"- Largest that ran: {largest['bytes'] / GIB:.1f} GiB, {largest['solver']} at {largest['value']:,} "
        f"({largest['axis']}). "
        f"More than {MAX_BYTES / GIB:g} GiB or {MAX_MEMBERS} members are compiled but not run: "
        f"{'; '.join(left_out) or 'none'}.\n"
        f"- LAPACK has one thread here. An ALS epoch at rank {results['threads']['rank'].iloc[0]} by threads, median "
        f"and span: {spans}. OPENBLAS_NUM_THREADS=1 sets it.",
        "![Time and memory of an epoch](figures/scaling.png)",
        f"Seconds are medians of {results['rounds']} warm rounds that alternate between the solvers, of fewer where "
        f"they take more than {MAX_SECONDS:g} s, for all members; they are this machine's, and swing with its load. "
        "Dashed is the count of operations, through the last point: n (k + 1) for the gradient solvers, as the number "
        "of Adam's dense steps grows with n too; for ALS the sum of 2 c D m + m³ / 3 over all rows of c ratings, those "
        "that pad its tile included, D = k + 1 unknowns and m = min(c, D), at most of the order of n k² + "
        "(U + I) k³. Bytes are XLA's account of the compiled epoch: arguments (ratings, layout and state), results and "
        "temporaries.",
        "## Exponents",
        markdown(fitted, "{:.2f}"),
        "## The last point of every line",
        markdown(
            last[["axis", "value", "solver", "seconds", "compile_seconds", "prepare_seconds", "MiB", "MiB of layout"]],
            "{:.3g}",
        ),
    ]


def main() -> None:
    """Run the study."""
    here = setting("scaling", __doc__ or "", lambda: data(300))
    names, sizes, rounds = (("als",), SMALL, 1) if here.smoke else (("als", "sgd", "adam"), SIZES, 5)
    base = {"ratings": 300, "rank": 2} if here.smoke else FIXED
    about = {"sizes": sizes, "base": base, "solvers": names, "rounds": rounds, "most_bytes": MAX_BYTES}
    manifest = here._replace(data=data(base["ratings"])).begin(about, SEED)
    points = [(axis, value) for axis, values in sizes.items() for value in values]
    with threadpool_limits(1, "blas"):
        rows = [measure(axis, value, base, names, rounds) for axis, value in tqdm(points)]
    table = pd.concat(rows, ignore_index=True)
    threads = by_threads(base, 2 if here.smoke else 256, rounds)
    results = about | {"measurements": table, "slopes": slopes(table), "threads": threads}
    for name in ("measurements", "slopes", "threads"):
        here.table(name, results[name])
    # Scale the count of operations so that its line goes through the last measured time.
    last = table.dropna(subset="seconds").groupby(["axis", "solver"]).last()
    factor = (last["seconds"] / last["operations"]).rename("factor").reset_index()
    drawn = table.merge(factor, how="left").assign(seconds_theory=lambda t: t["operations"] * t["factor"])
    label = {"seconds": "seconds per epoch", "bytes": "bytes of the program"}
    drawn = drawn.rename(columns=label | {"seconds_theory": f"{label['seconds']}_theory"})
    here.figure("scaling", plot.scaling(drawn, list(label.values())))
    here.finish(manifest, in_words(results))


if __name__ == "__main__":
    main()
