"""Each kernel alone, by pytest-benchmark, at the shape of MovieLens 1M.

    python benchmarks/kernels.py [--smoke] [pytest's options, such as -k half_step]

Embedded data, 6,040 users, 3,706 items, 900,000 ratings, float32, ranks 16 and 64; with --smoke everything is tiny and
goes to a temporary folder. Compiled before it is timed; a round ends when its result is there. Writes the table
results/benchmarks/kernels/kernels.csv and its figure.
"""

import json
import sys
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import pytest
from matplotlib.figure import Figure

import jaxmf
from jaxmf import output, plot
from jaxmf.models.model import objective, row_weights
from jaxmf.solvers.als import descend, half_step, prepare, solve
from jaxmf.solvers.solver import Problem

SMOKE = "--smoke" in sys.argv
SHAPE = (200, 300, 6000) if SMOKE else (6040, 3706, 900_000)
RANKS = (4, 8) if SMOKE else (16, 64)
USERS = 100 if SMOKE else 1000
HYPER, KEY = jaxmf.Hyper(l2=0.05, learning_rate=0.005), jax.random.key(0)
SOLVERS = {
    "als": jaxmf.solvers.als(),
    "als-cg": jaxmf.solvers.als(method="cg"),
    "sgd": jaxmf.solvers.sgd(),
    "sgd, batches of 32": jaxmf.solvers.sgd(32),
    "minibatch Adam, 4096": jaxmf.solvers.minibatch(optax.adam, 4096),
}


@lru_cache
def data() -> jaxmf.Ratings:
    """The ratings."""
    return jaxmf.datasets.synthetic(*SHAPE).ratings


@lru_cache
def layout(prepare: Any) -> Any:
    """What a solver makes of them."""
    return prepare(data())


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
    """`timed(function, *arguments)`: `function(params, ratings, *arguments)`, compiled apart, with options of XLA's."""
    params = model.init(KEY, data(), HYPER)

    def run(function: Any, *arguments: Any, options: Any = ()) -> None:
        clock = time.perf_counter()
        program = jax.jit(function, compiler_options=dict(options)).lower(params, data(), *arguments).compile()
        benchmark.extra_info |= {"k": rank, "compile_seconds": time.perf_counter() - clock}
        benchmark.pedantic(
            lambda: jax.block_until_ready(program(params, data(), *arguments)), rounds=7, warmup_rounds=1
        )

    return run


@pytest.mark.parametrize("name", SOLVERS)
def test_epoch(timed: Any, model: jaxmf.Model, name: str) -> None:
    """One epoch of a solver, of ratings that are arranged."""
    solver = SOLVERS[name]
    state = solver.init(model, model.init(KEY, data(), HYPER), HYPER)

    def problem(ratings: jaxmf.Ratings, layout: Any) -> Problem:
        return Problem(ratings, row_weights(ratings, HYPER.reg_exponent), layout)

    def epoch(params: jaxmf.Params, ratings: jaxmf.Ratings, layout: Any, state: Any) -> Any:
        return solver.step(KEY, model, params, state, problem(ratings, layout), HYPER)[0]

    arranged = jax.jit(lambda ratings, layout: solver.arrange(problem(ratings, layout), HYPER))
    timed(epoch, arranged(data(), layout(solver.prepare)), state, options=solver.compiler_options)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_half_step(timed: Any, model: jaxmf.Model, side: Any, method: str) -> None:
    """All rows of one side by ALS."""
    rows: Any = solve if method == "cholesky" else partial(descend, steps=3)

    def half(params: jaxmf.Params, ratings: jaxmf.Ratings, layout: Any) -> Any:
        problem = Problem(ratings, row_weights(ratings, HYPER.reg_exponent), layout)
        return half_step(model, params, problem, HYPER, side, rows)

    timed(half, layout(prepare))


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
    assert model.gradient is not None
    timed(lambda params, ratings: model.gradient(params, ratings, row_weights(ratings, 1.0), HYPER))


def test_hvp_by_hand(timed: Any, model: jaxmf.Model) -> None:
    """The Hessian times a direction by the model's formula."""
    assert model.hvp is not None
    timed(lambda params, ratings: model.hvp(params, ratings, row_weights(ratings, 1.0), HYPER, params.trained))


def test_predict(timed: Any, model: jaxmf.Model) -> None:
    """Predictions of all ratings."""
    timed(lambda params, ratings: model.predict(params, ratings.user, ratings.item))


def test_scores(timed: Any, model: jaxmf.Model) -> None:
    """Scores of every item for 1,000 users."""
    timed(lambda params, ratings: model.scores(params, jnp.arange(USERS)))


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
        rows.append({"kernel": kernel, "k": extra["k"]} | seconds | {"compile_seconds": extra["compile_seconds"]})
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
