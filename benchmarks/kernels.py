"""Each kernel alone, by pytest-benchmark, at the shape of MovieLens 1M.

    python benchmarks/kernels.py [--smoke] [pytest's options, such as -k half_step]

Embedded data, 6,040 users, 3,706 items, 900,000 ratings, float32, ranks 16 and 64; with --smoke everything is tiny and
goes to a temporary folder. Compiled before it is timed; a round ends when its result is there. The machine's limit is
beside each kernel whose work limits.py counts; the parts of ALS and the rows of ratings say where the rest of a
solver's time is. Writes the table results/benchmarks/kernels/kernels.csv and its figure.
"""

import json
import os
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import limits
import numpy as np
import optax
import pandas as pd
import pytest
from matplotlib.figure import Figure

import jaxmf
from jaxmf import output, plot
from jaxmf.kernels.normal_equations import dot, solve_system
from jaxmf.kernels.tiles import arranged, in_tile, prepare
from jaxmf.kernels.xla import TWO_STEP_SUMS, without
from jaxmf.models.model import objective, pack, products, row_weights
from jaxmf.solvers._als import half_step
from jaxmf.solvers.solver import Problem

SMOKE = "--smoke" in sys.argv
SHAPE = (200, 300, 6000) if SMOKE else (6040, 3706, 900_000)
RANKS = (4, 8) if SMOKE else (16, 64)
USERS, BATCH, STEPS = 100 if SMOKE else 1000, 4096, 3  # scored, of Adam, of conjugate gradient
OPTIONS = without(TWO_STEP_SUMS)
HYPER, KEY = jaxmf.Hyper(l2=0.05, learning_rate=0.005), jax.random.key(0)
SOLVERS = {
    "als": jaxmf.solvers.als(),
    "als-cg": jaxmf.solvers.als(method="cg"),
    "sgd": jaxmf.solvers.sgd(),
    "sgd, batches of 32": jaxmf.solvers.sgd(32),
    "minibatch Adam, 4096": jaxmf.solvers.minibatch(optax.adam, BATCH),
}


@lru_cache
def data() -> jaxmf.Ratings:
    """The ratings."""
    return jaxmf.datasets.synthetic(*SHAPE).ratings


@lru_cache
def layout(prepare: Any) -> Any:
    """What a solver makes of them."""
    return prepare(data())


@lru_cache
def counts() -> dict[str, np.ndarray]:
    """Ratings of each user and of each item."""
    return dict(zip(("user", "item"), limits.counts(data()), strict=True))


@lru_cache
def ceilings() -> limits.Ceilings:
    """What the machine allows."""
    return limits.measure(os.cpu_count() or 1)


def work_of_epoch(name: str, k: int) -> limits.Work:
    """Operations and bytes of one epoch of a solver."""
    n, rows = SHAPE[2], [*counts().values()]
    if name.startswith("sgd"):
        return limits.sgd_work(n, k)
    if name.startswith("minibatch"):
        return limits.adam_work(n, SHAPE[0] + SHAPE[1], k, BATCH)
    return limits.als_work(rows, k) if name == "als" else limits.cg_work(rows, k, STEPS)


@pytest.fixture(params=RANKS, ids="k={}".format)
def rank(request: pytest.FixtureRequest) -> Any:
    """The rank of the model."""
    return request.param


@pytest.fixture
def model(rank: int) -> jaxmf.Model:
    """Factorization with biases."""
    return jaxmf.models.biased_mf(rank)


@pytest.fixture
def timed(benchmark: Any, model: jaxmf.Model, rank: int) -> Any:
    """`timed(function, *arguments)`: `function(params, ratings, *arguments)`, compiled apart and as in most solvers."""
    params = model.init(KEY, data(), HYPER)

    def run(function: Any, *arguments: Any, work: limits.Work | None = None, options: Any = OPTIONS) -> None:
        clock = time.perf_counter()
        program = jax.jit(function, compiler_options=dict(options)).lower(params, data(), *arguments).compile()
        benchmark.extra_info |= {"k": rank, "compile_seconds": time.perf_counter() - clock, "work": work}
        benchmark.pedantic(
            lambda: jax.block_until_ready(program(params, data(), *arguments)), rounds=7, warmup_rounds=1
        )

    return run


@pytest.mark.parametrize("name", SOLVERS)
def test_epoch(timed: Any, model: jaxmf.Model, rank: int, name: str) -> None:
    """One epoch of a solver that is set up."""
    solver = SOLVERS[name]
    state = solver.init(model, model.init(KEY, data(), HYPER), HYPER)

    def epoch(params: jaxmf.Params, ratings: jaxmf.Ratings, constants: Any, state: Any) -> Any:
        problem = Problem(ratings, row_weights(ratings, HYPER.reg_exponent), constants)
        return solver.step(KEY, model, params, state, problem, HYPER)[0]

    constants = jax.jit(solver.setup)(data(), layout(solver.prepare), HYPER)
    timed(epoch, constants, state, work=work_of_epoch(name, rank), options=solver.machine.compiler_options)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_half_step(timed: Any, model: jaxmf.Model, rank: int, side: Any, method: str) -> None:
    """All rows of one side by ALS."""
    own = [counts()[side]]

    def solved(params: jaxmf.Params, ratings: jaxmf.Ratings, half: Any) -> Any:
        weight = row_weights(ratings, HYPER.reg_exponent)
        return half_step(model, params, half, weight, HYPER, side, None if method == "cholesky" else STEPS)

    work = limits.als_work(own, rank) if method == "cholesky" else limits.cg_work(own, rank, STEPS)
    timed(solved, getattr(jax.jit(arranged)(layout(prepare), data()), side), work=work)


@pytest.mark.parametrize("part", ["designs", "products", "solves"])
def test_users_by_als(timed: Any, model: jaxmf.Model, rank: int, part: str) -> None:
    """A part of exact ALS, for the users: the designs X of each slab of a tile; XᵀX and Xᵀt; the solutions of the
    normal equations. All tiles at once, which a fit never does.
    """
    half = jax.jit(arranged)(layout(prepare), data()).user
    widths, first, at_once = half.tiles.widths, np.asarray(half.tiles.first), in_tile(half.tiles)
    tiles = np.arange(int(half.tiles.ends[-2]))
    slabs, left = np.asarray(half.tiles.slabs)[tiles], np.asarray(half.tiles.left)[tiles]
    cells, belongs = [], []  # of each width: its slabs (slabs, rows of a tile, width), and the tiles that these are of
    for width in widths:
        if width == widths[-1]:
            own = np.repeat(tiles, slabs)
            before = np.arange(len(own)) - np.repeat(np.cumsum(slabs) - slabs, slabs)
        else:
            own = tiles[left == width]
            before = slabs[own]
        at = (first[own] + before * at_once * widths[-1])[:, None] + np.arange(at_once * width)
        cells.append(jax.tree.map(lambda leaf, at=at, w=width: leaf[0, at].reshape(-1, at_once, w), half.cells))
        belongs.append(own)

    def design(params: jaxmf.Params, own: jaxmf.Ratings) -> jax.Array:
        view, _ = model.design(params, jax.tree.map(jnp.ravel, own), "user")
        return pack(view, own.value.size).reshape(*own.value.shape, -1)

    def designs(params: jaxmf.Params, ratings: jaxmf.Ratings, cells: Any) -> Any:
        return [design(params, own) for own in cells]

    def products(params: jaxmf.Params, ratings: jaxmf.Ratings, designs: Any, cells: Any) -> Any:
        return [
            (dot(X.mT, X), dot(own.value[..., None, :], X)[..., 0, :]) for X, own in zip(designs, cells, strict=True)
        ]

    def solves(params: jaxmf.Params, ratings: jaxmf.Ratings, system: Any) -> Any:
        A, b = system
        return solve_system(A + jnp.eye(A.shape[-1])[None, None], b)

    def of_tiles(systems: Any) -> Any:
        """The sums over the slabs of each tile."""
        sums = [
            jax.tree.map(lambda leaf, own=own: jax.ops.segment_sum(leaf, own, len(tiles)), system)
            for system, own in zip(systems, belongs, strict=True)
        ]
        return jax.tree.map(lambda *leaves: sum(leaves), *sums)

    params, work = model.init(KEY, data(), HYPER), limits.als_parts([counts()["user"]], rank)[part]
    if part == "designs":
        return timed(designs, cells, work=work)
    X = jax.jit(designs)(params, data(), cells)
    if part == "products":
        return timed(products, X, cells, work=work)
    timed(solves, of_tiles(jax.jit(products)(params, data(), X, cells)), work=work)


@pytest.mark.parametrize("way", ["read", "added"])
def test_rows_of_ratings(timed: Any, rank: int, way: str) -> None:
    """The item's factors of every rating, read; and rows of that size, added to the items."""

    def read(params: jaxmf.Params, ratings: jaxmf.Ratings) -> jax.Array:
        return params.trained.item["factors"][ratings.item]

    def added(params: jaxmf.Params, ratings: jaxmf.Ratings, rows: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(rows, ratings.item, ratings.num_items)

    work = limits.rows_work(SHAPE[2], rank, added=way == "added")
    if way == "read":
        timed(read, work=work)
    else:
        timed(added, jnp.ones((SHAPE[2], rank)), work=work)


def test_objective(timed: Any, model: jaxmf.Model) -> None:
    """The objective."""
    timed(lambda params, ratings: objective(model, params, ratings, HYPER))


def test_gradient_by_autodiff(timed: Any, model: jaxmf.Model) -> None:
    """Its gradient by `jax.grad`."""

    def gradient(params: jaxmf.Params, ratings: jaxmf.Ratings) -> Any:
        return jax.grad(lambda trained: objective(model, params._replace(trained=trained), ratings, HYPER))(
            params.trained
        )

    timed(gradient)


def test_gradient_by_hand(timed: Any, model: jaxmf.Model) -> None:
    """Its gradient by the model's formula."""
    assert model.by_hand is not None
    timed(lambda params, ratings: model.by_hand.gradient(params, ratings, row_weights(ratings, 1.0), HYPER))


def test_hvp_by_hand(timed: Any, model: jaxmf.Model) -> None:
    """The Hessian times a direction by the model's formula."""
    assert model.by_hand is not None
    assert model.by_hand.hvp is not None
    timed(lambda params, ratings: model.by_hand.hvp(params, ratings, row_weights(ratings, 1.0), HYPER, params.trained))


def test_predict(timed: Any, model: jaxmf.Model) -> None:
    """Predictions of all ratings."""
    timed(lambda params, ratings: model.predict(params, ratings))


def test_scores(timed: Any, model: jaxmf.Model) -> None:
    """Scores of every item for 1,000 users."""
    assert model.embed is not None
    timed(lambda params, ratings: products(model.embed, params, jnp.arange(USERS)))


def test_init(timed: Any, model: jaxmf.Model) -> None:
    """Parameters to start from."""
    timed(lambda params, ratings: model.init(KEY, ratings, HYPER))


def table(path: Path) -> pd.DataFrame:
    """A row for each benchmark of pytest-benchmark's JSON."""
    rows = []
    for found in json.loads(path.read_text("utf-8"))["benchmarks"]:
        stats, extra = found["stats"], found["extra_info"]
        choices = [str(value) for name, value in (found["params"] or {}).items() if name != "rank"]
        kernel = " ".join([found["name"].partition("[")[0].removeprefix("test_").replace("_", " "), *choices])
        seconds = {"seconds": stats["median"], "min_seconds": stats["min"], "max_seconds": stats["max"]}
        row = {"kernel": kernel, "k": extra["k"]} | seconds | {"compile_seconds": extra["compile_seconds"]}
        limit = limits.beside(limits.Work(*extra["work"]), ceilings(), stats["median"]) if extra["work"] else {}
        rows.append(row | limit)
    return pd.DataFrame(rows).assign(num_ratings=SHAPE[2], dtype="float32", device=jax.devices()[0].platform)


def draw(found: pd.DataFrame) -> Figure:
    """Median seconds of each kernel, a mark for each rank."""
    figure = Figure(figsize=(7, 1 + 0.3 * found["kernel"].nunique()), layout="constrained")
    axes = figure.subplots()
    order = found.groupby("kernel")["seconds"].max().sort_values().index
    for (k, own), color in zip(found.groupby("k"), plot.style.COLORS, strict=False):
        axes.plot(own["seconds"], order.get_indexer(own["kernel"]), "o", color=color, label=f"k = {k}")
    axes.set_yticks(range(len(order)), order)
    axes.set(xscale="log", xlabel=f"seconds for {SHAPE[2]:,} ratings, compilation apart")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


def main() -> int:
    """Run pytest on this file, and write the table of what it timed."""
    out = Path(tempfile.mkdtemp(prefix="jaxmf-kernels-")) if SMOKE else Path("results/benchmarks/kernels")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = [option for option in sys.argv[1:] if option != "--smoke"]
        code = pytest.main([__file__, "-n", "0", "--benchmark-disable-gc", f"--benchmark-json={report}", *options])
        found = table(report)
    output.write_table(out / "kernels.csv", found)
    described = {"num_users": SHAPE[0], "num_items": SHAPE[1], "num_ratings": SHAPE[2]}
    output.write_json(out / "kernels.json", output.manifest(described, {"job": "benchmarks/kernels.py"}, 0))
    plot.save(draw(found), out / "figures" / "kernels.png")
    print(f"writes to {out}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
