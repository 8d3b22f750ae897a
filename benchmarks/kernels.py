"""Each kernel alone, by pytest-benchmark, at the shape of MovieLens 1M.

    python -m benchmarks.kernels [--smoke] [pytest's options, such as -k half_step]

Embedded data, 6,040 users, 3,706 items, 900,000 ratings, float32, ranks 16 and 64; with --smoke everything is tiny and
goes to a temporary folder. Each kernel is compiled before it is timed, and a round ends when its result is ready. If
the work of a kernel can be counted, the machine's limit is beside it; the parts of ALS and the gathers and scatters of
rows show where the rest of a solver's time goes. Writes results/benchmarks/kernels/kernels.csv and its figure.
"""

import json
import os
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from matplotlib.figure import Figure

import jaxmf
from benchmarks import limits
from benchmarks.setting import begin, command_line
from jaxmf import plot
from jaxmf.kernels.normal_equations import dot, solve_system
from jaxmf.kernels.tiles import arrange_tiles, prepare, rows_per_tile
from jaxmf.kernels.xla import TWO_STEP_SUMS, without
from jaxmf.models._objective import objective, row_weights
from jaxmf.models._scores import products
from jaxmf.models.params import pack
from jaxmf.solvers._als import Resources, half_step
from jaxmf.solvers.solver import Problem

BATCH, STEPS = 4096, 3  # Adam's batch size, steps of conjugate gradient
OPTIONS = without(TWO_STEP_SUMS)
HYPER, KEY = jaxmf.Hyper(l2=0.05, learning_rate=0.005), jax.random.key(0)
SOLVERS = {
    "als": jaxmf.solvers.als(),
    "als-cg": jaxmf.solvers.als(method="cg"),
    "sgd": jaxmf.solvers.sgd(),
    "sgd, batches of 32": jaxmf.solvers.sgd(32),
    "minibatch Adam, 4096": jaxmf.solvers.minibatch(optax.adam, BATCH),
}


class Sizes(NamedTuple):
    """Numbers of users, items and ratings, ranks of the models, and the number of users to score."""

    num_users: int = 6040
    num_items: int = 3706
    num_ratings: int = 900_000
    ranks: tuple[int, ...] = (16, 64)
    scored: int = 1000


TINY = Sizes(num_users=200, num_items=300, num_ratings=6000, ranks=(4, 8), scored=100)


def sizes_of(config: pytest.Config) -> Sizes:
    """Return the sizes that pytest's options ask for."""
    return TINY if config.getoption("--smoke") else Sizes()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every kernel at every rank."""
    if "rank" in metafunc.fixturenames:
        metafunc.parametrize("rank", sizes_of(metafunc.config).ranks, ids="k={}".format)


@pytest.fixture(scope="module")
def sizes(request: pytest.FixtureRequest) -> Sizes:
    """Return the sizes."""
    return sizes_of(request.config)


@pytest.fixture(scope="module")
def ratings(sizes: Sizes) -> jaxmf.Ratings:
    """Return the ratings."""
    return jaxmf.datasets.synthetic(sizes.num_users, sizes.num_items, sizes.num_ratings).ratings


@pytest.fixture(scope="module")
def counts(ratings: jaxmf.Ratings) -> list[np.ndarray]:
    """Return the number of ratings of each user and of each item."""
    return limits.counts(ratings)


@pytest.fixture(scope="module")
def layout(ratings: jaxmf.Ratings) -> Any:
    """Return a function `layout(prepare)` that lays out the ratings, once for all tests of a solver."""
    return lru_cache(lambda prepare: prepare(ratings))


def work_of_epoch(name: str, counts: list[np.ndarray], k: int) -> limits.Work:
    """Return the operations and bytes of one epoch of a solver."""
    num_ratings = int(counts[0].sum())
    if name.startswith("sgd"):
        return limits.sgd_work(num_ratings, k)
    if name.startswith("minibatch"):
        return limits.adam_work(num_ratings, sum(map(len, counts)), k, BATCH)
    return limits.als_work(counts, k) if name == "als" else limits.cg_work(counts, k, STEPS)


@pytest.fixture
def model(rank: int) -> jaxmf.Model:
    """Return biased factorization."""
    return jaxmf.models.biased_mf(rank)


@pytest.fixture
def timed(benchmark: Any, model: jaxmf.Model, ratings: jaxmf.Ratings, rank: int) -> Any:
    """Return `timed(function, *arguments)`, which compiles `function(params, ratings, *arguments)`, then times it."""
    params = model.init(KEY, ratings, HYPER)

    def run(function: Any, *arguments: Any, work: limits.Work | None = None, options: Any = OPTIONS) -> None:
        clock = time.perf_counter()
        program = jax.jit(function, compiler_options=dict(options)).lower(params, ratings, *arguments).compile()
        benchmark.extra_info |= {"k": rank, "compile_seconds": time.perf_counter() - clock, "work": work}
        benchmark.pedantic(
            lambda: jax.block_until_ready(program(params, ratings, *arguments)), rounds=7, warmup_rounds=1
        )

    return run


@pytest.mark.parametrize("name", SOLVERS)
def test_epoch(
    timed: Any, model: jaxmf.Model, ratings: jaxmf.Ratings, counts: list[np.ndarray], layout: Any, rank: int, name: str
) -> None:
    """Time one epoch of a solver, after its setup."""
    solver = SOLVERS[name]
    state = solver.init(model, model.init(KEY, ratings, HYPER), HYPER)

    def epoch(params: jaxmf.Params, ratings: jaxmf.Ratings, constants: Any, state: Any) -> Any:
        problem = Problem(ratings, row_weights(ratings, HYPER.reg_exponent), constants)
        return solver.step(KEY, model, params, state, problem, HYPER)[0]

    constants = jax.jit(solver.setup)(ratings, layout(solver.prepare), HYPER)
    timed(epoch, constants, state, work=work_of_epoch(name, counts, rank), options=solver.machine.compiler_options)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_half_step(
    timed: Any,
    model: jaxmf.Model,
    ratings: jaxmf.Ratings,
    counts: list[np.ndarray],
    layout: Any,
    rank: int,
    side: Any,
    method: str,
) -> None:
    """Time one half-step of ALS: all rows of one side."""
    side_counts = [counts[("user", "item").index(side)]]
    resources = Resources(None if method == "cholesky" else STEPS)

    def solved(params: jaxmf.Params, ratings: jaxmf.Ratings, half: Any) -> Any:
        weight = row_weights(ratings, HYPER.reg_exponent)
        return half_step(model, params, half, weight, HYPER, side, resources)

    work = limits.als_work(side_counts, rank) if method == "cholesky" else limits.cg_work(side_counts, rank, STEPS)
    timed(solved, getattr(jax.jit(arrange_tiles)(layout(prepare), ratings), side), work=work)


@pytest.mark.parametrize("part", ["designs", "products", "solves"])
def test_users_by_als(
    timed: Any, model: jaxmf.Model, ratings: jaxmf.Ratings, counts: list[np.ndarray], layout: Any, rank: int, part: str
) -> None:
    """Time a part of exact ALS, for the users: the designs X of each slab of a tile; XᵀX and Xᵀt; or the solutions of
    the normal equations. All tiles are computed at once, which a fit never does.
    """
    split = model.design
    assert split is not None
    half = jax.jit(arrange_tiles)(layout(prepare), ratings).user
    widths, start, at_once = half.tiles.widths, np.asarray(half.tiles.start), rows_per_tile(half.tiles)
    tiles = np.arange(int(half.tiles.ends[-2]))
    slabs, remainder = np.asarray(half.tiles.slabs)[tiles], np.asarray(half.tiles.remainder)[tiles]
    cells, tile_indices = [], []  # for each width: its slabs (slabs, rows of a tile, width), and the tile of each slab
    for width in widths:
        if width == widths[-1]:
            tile_index = np.repeat(tiles, slabs)
            preceding = np.arange(len(tile_index)) - np.repeat(np.cumsum(slabs) - slabs, slabs)
        else:
            tile_index = tiles[remainder == width]
            preceding = slabs[tile_index]
        cell = (start[tile_index] + preceding * at_once * widths[-1])[:, None] + np.arange(at_once * width)
        cells.append(jax.tree.map(lambda leaf, i=cell, w=width: leaf[0, i].reshape(-1, at_once, w), half.cells))
        tile_indices.append(tile_index)

    def design(params: jaxmf.Params, slab: jaxmf.Ratings) -> jax.Array:
        view, _ = split(params, jax.tree.map(jnp.ravel, slab), "user")
        return pack(view, slab.value.size).reshape(*slab.value.shape, -1)

    def designs(params: jaxmf.Params, ratings: jaxmf.Ratings, cells: Any) -> Any:
        return [design(params, slab) for slab in cells]

    def products(params: jaxmf.Params, ratings: jaxmf.Ratings, designs: Any, cells: Any) -> Any:
        return [
            (dot(X.mT, X), dot(slab.value[..., None, :], X)[..., 0, :]) for X, slab in zip(designs, cells, strict=True)
        ]

    def solves(params: jaxmf.Params, ratings: jaxmf.Ratings, system: Any) -> Any:
        A, b = system
        return solve_system(A + jnp.eye(A.shape[-1])[None, None], b)

    def of_tiles(systems: Any) -> Any:
        """Sum the systems over the slabs of each tile."""
        sums = [
            jax.tree.map(lambda leaf, index=index: jax.ops.segment_sum(leaf, index, len(tiles)), system)
            for system, index in zip(systems, tile_indices, strict=True)
        ]
        return jax.tree.map(lambda *leaves: sum(leaves), *sums)

    params, work = model.init(KEY, ratings, HYPER), limits.als_parts(counts[:1], rank)[part]
    if part == "designs":
        timed(designs, cells, work=work)
        return
    X = jax.jit(designs)(params, ratings, cells)
    if part == "products":
        timed(products, X, cells, work=work)
        return
    timed(solves, of_tiles(jax.jit(products)(params, ratings, X, cells)), work=work)


@pytest.mark.parametrize("way", ["read", "added"])
def test_rows_of_ratings(timed: Any, sizes: Sizes, rank: int, way: str) -> None:
    """Time a gather of the item's factors for every rating, or a scatter-add of rows of that size to the items."""

    def read(params: jaxmf.Params, ratings: jaxmf.Ratings) -> jax.Array:
        rows: jax.Array = params.trained.item["factors"][ratings.item]
        return rows

    def added(params: jaxmf.Params, ratings: jaxmf.Ratings, rows: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(rows, ratings.item, ratings.num_items)

    work = limits.rows_work(sizes.num_ratings, rank, added=way == "added")
    if way == "read":
        timed(read, work=work)
    else:
        timed(added, jnp.ones((sizes.num_ratings, rank)), work=work)


def test_objective(timed: Any, model: jaxmf.Model) -> None:
    """Time the objective."""
    timed(lambda params, ratings: objective(model, params, ratings, HYPER))


def test_gradient_by_autodiff(timed: Any, model: jaxmf.Model) -> None:
    """Time the objective's gradient by `jax.grad`."""

    def gradient(params: jaxmf.Params, ratings: jaxmf.Ratings) -> Any:
        return jax.grad(lambda trained: objective(model, params._replace(trained=trained), ratings, HYPER))(
            params.trained
        )

    timed(gradient)


def test_gradient_by_hand(timed: Any, model: jaxmf.Model) -> None:
    """Time the objective's gradient by the model's formula."""
    by_hand = model.by_hand
    assert by_hand is not None
    timed(lambda params, ratings: by_hand.gradient(params, ratings, row_weights(ratings, 1.0), HYPER))


def test_hvp_by_hand(timed: Any, model: jaxmf.Model) -> None:
    """Time the Hessian times a direction, by the model's formula."""
    assert model.by_hand is not None
    hvp = model.by_hand.hvp
    assert hvp is not None
    timed(lambda params, ratings: hvp(params, ratings, row_weights(ratings, 1.0), HYPER, params.trained))


def test_predict(timed: Any, model: jaxmf.Model) -> None:
    """Time the predictions of all ratings."""
    timed(lambda params, ratings: model.predict(params, ratings))


def test_scores(timed: Any, model: jaxmf.Model, sizes: Sizes) -> None:
    """Time the scores of every item for 1,000 users."""
    embed = model.embed
    assert embed is not None
    timed(lambda params, ratings: products(embed, params, jnp.arange(sizes.scored)))


def test_init(timed: Any, model: jaxmf.Model) -> None:
    """Time the initialization of the parameters."""
    timed(lambda params, ratings: model.init(KEY, ratings, HYPER))


def table(path: Path, num_ratings: int) -> pd.DataFrame:
    """Return a row for each benchmark in pytest-benchmark's JSON."""
    rows, ceilings = [], limits.measure(os.cpu_count() or 1)
    for result in json.loads(path.read_text("utf-8"))["benchmarks"]:
        stats, extra = result["stats"], result["extra_info"]
        choices = [str(value) for name, value in (result["params"] or {}).items() if name != "rank"]
        kernel = " ".join([result["name"].partition("[")[0].removeprefix("test_").replace("_", " "), *choices])
        seconds = {"seconds": stats["median"], "min_seconds": stats["min"], "max_seconds": stats["max"]}
        row = {"kernel": kernel, "k": extra["k"]} | seconds | {"compile_seconds": extra["compile_seconds"]}
        limit = limits.beside(limits.Work(*extra["work"]), ceilings, stats["median"]) if extra["work"] else {}
        rows.append(row | limit)
    return pd.DataFrame(rows).assign(num_ratings=num_ratings, dtype="float32", device=jax.devices()[0].platform)


def draw(table: pd.DataFrame) -> Figure:
    """Draw the median seconds of each kernel, with a mark for each rank."""
    figure = Figure(figsize=(7, 1 + 0.3 * table["kernel"].nunique()), layout="constrained")
    axes = figure.subplots()
    order = table.groupby("kernel")["seconds"].max().sort_values().index
    for (k, rows), color in zip(table.groupby("k"), plot.style.COLORS, strict=False):
        axes.plot(rows["seconds"], order.get_indexer(rows["kernel"]), "o", color=color, label=f"k = {k}")
    axes.set_yticks(range(len(order)), order)
    axes.set(xscale="log", xlabel=f"seconds for {table['num_ratings'].iloc[0]:,} ratings, compilation apart")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    return figure


def main() -> int:
    """Run pytest on this file, and write the table of its times."""
    parser = command_line("kernels", __doc__ or "", smoke=True)
    arguments, options = parser.parse_known_args()
    here, sizes = begin("kernels", smoke=arguments.smoke), TINY if arguments.smoke else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options += ["-n", "0", "--benchmark-disable-gc", f"--benchmark-json={report}"]
        code = pytest.main([__file__, *options, *(["--smoke"] if arguments.smoke else [])])
        results = table(report, sizes.num_ratings)
    described = {name: getattr(sizes, name) for name in ("num_users", "num_items", "num_ratings")}
    here.write("kernels", results, described, {"ranks": sizes.ranks})
    here.figure("kernels", draw(results))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
