"""How the members of a sweep should run, and document 002's grid against its NumPy loop, in one run each.

    python -m benchmarks.sweep members      64 fits by minibatch Adam, and 16 each by sgd and als: in a jitted loop, by
                                            `jaxmf.sweep` with one and two workers, in batches, and padded
    python -m benchmarks.sweep grid         d = 1, 5, 20, 50 by λ = 1, 2, 4, 6 by ALS to the document's stopping rule

`members` reads MovieLens latest-small if JAXMF_DATA is set, else the embedded data; `grid` generates data of the shape
of MovieLens 100K. Rounds alternate between the ways; times are medians without compilation. Writes
results/benchmarks/sweep/.
"""

import itertools
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

import jaxmf
from benchmarks.seeds import document_sweep
from benchmarks.setting import Setting, setting, show
from experiments.setting import default_data
from jaxmf import plot

ROUNDS = 3
EPOCHS = 5
RANKS, L2 = (4, 8, 16, 32), (0.03, 0.1, 0.3, 1.0)
D, LAMBDA = (1, 5, 20, 50), (1.0, 2.0, 4.0, 6.0)
TOL, MAX_SWEEPS = 1e-3, 400


def members(here: Setting) -> None:
    """Compare seconds and compile seconds of every way to run the members of three sweeps."""
    train, valid, _ = jaxmf.splits.temporal_per_user(default_data())
    key, hyper = jax.random.key(0), jaxmf.Hyper(learning_rate=0.005, init_scale=0.01)
    sweeps: dict[str, tuple[jaxmf.solvers.Solver, dict[str, Any]]] = {
        "adam": (jaxmf.solvers.minibatch(optax.adam, 2048), {"rank": RANKS, "l2": L2, "seed": range(4)}),
        "sgd": (jaxmf.solvers.sgd(), {"rank": RANKS, "l2": L2}),
        "als": (jaxmf.solvers.als(), {"rank": RANKS, "l2": L2}),
    }
    default = "sweep"
    ways: dict[str, dict[str, Any]] = {
        default: {},
        "sweep, 1 worker": {"workers": 1},
        "sweep, padded": {"pad": True},
        "sweep, vmap of 4": {"batch": 4},
        "sweep, vmap of 16, 1 worker": {"batch": 16, "workers": 1},
    }
    rows = []
    for name, (solver, grid) in sweeps.items():
        model = jaxmf.models.biased_mf(max(RANKS))
        times: dict[str, list[float]] = {way: [] for way in ("jitted loop", *ways)}
        compiled = dict.fromkeys(times, 0.0)
        for round_index in tqdm(range(ROUNDS + 1), desc=name):  # the first round compiles
            seconds, compile_seconds, errors = loop(key, model, solver, train, valid, grid, hyper)
            times["jitted loop"].append(seconds)
            compiled["jitted loop"] = max(compiled["jitted loop"], compile_seconds)
            for way, options in ways.items():
                chosen = {"pad": False} | options
                runs = jaxmf.sweep(
                    key, model, solver, train, valid, grid=grid, hyper=hyper, epochs=EPOCHS, track=False, **chosen
                )
                times[way].append(runs.seconds)
                if round_index == 0:
                    compiled[way] = runs.compile_seconds
                difference = abs(runs.to_frame()["valid_rmse"].to_numpy(float) - errors).max()
                assert difference < 2e-3, f"{way} differs by {difference}"
        count = len(errors)
        for way, seconds_by_round in times.items():
            median = statistics.median(seconds_by_round[1:])
            row = {"solver": name, "members": count, "way": way, "seconds": median, "compile_seconds": compiled[way]}
            rows.append(row | {"faster": statistics.median(times["jitted loop"][1:]) / median})
    table = pd.DataFrame(rows).assign(dtype=str(train.ratings.value.dtype), epochs=EPOCHS)
    write(here, table, train)
    here.figure("members", draw(table))


def loop(
    key: jax.Array, model: Any, solver: Any, train: Any, valid: Any, grid: dict[str, Any], hyper: jaxmf.Hyper
) -> tuple[float, float, np.ndarray]:
    """Run the same fits as a JAX programmer would write them: one jitted program per rank, member after member."""
    batch, seconds, compile_seconds, errors = jaxmf.prepare(solver, train, valid), 0.0, 0.0, []
    programs = {}
    for rank in grid["rank"]:
        ranked = model.with_rank(rank)
        if (ranked, solver) not in _PROGRAMS:
            _PROGRAMS[ranked, solver] = jax.jit(jaxmf.make_fit(ranked, solver, EPOCHS, track=False))
        programs[rank] = _PROGRAMS[ranked, solver]
        clock = time.perf_counter()
        jax.block_until_ready(programs[rank](key, batch, hyper._replace(l2=jnp.float32(1.0))))
        compile_seconds += time.perf_counter() - clock
    for rank, l2, seed in itertools.product(grid["rank"], grid["l2"], grid.get("seed", [None])):
        seed_key = key if seed is None else jax.random.fold_in(key, seed)
        clock = time.perf_counter()
        _, history = jax.block_until_ready(programs[rank](seed_key, batch, hyper._replace(l2=jnp.float32(l2))))
        seconds += time.perf_counter() - clock
        errors.append(float(history["valid_rmse"][-1]))
    return seconds, compile_seconds, np.array(errors)


_PROGRAMS: dict[Any, Any] = {}


def grid(here: Setting) -> None:
    """Compare seconds, sweeps and objective of both in every cell, and the speedups by d and overall."""
    data = jaxmf.datasets.synthetic(num_users=943, num_items=1682, num_ratings=100_000, seed=0)
    dense = np.zeros((data.num_users, data.num_items))
    dense[data.user, data.item] = data.rating
    assert (data.rating > 0).all(), "to the document, a rating of 0 is a missing one"

    wide = uniform(max(D))
    solver = jaxmf.solvers.als(tol=TOL, rule="difference")
    hyper, key = jaxmf.Hyper(reg_exponent=0.0, init_scale=1.0), jax.random.key(0)
    points = {"rank": D, "l2": LAMBDA}
    clock = time.perf_counter()
    runs = jaxmf.sweep(
        key,
        wide,
        solver,
        data,
        grid=points,
        hyper=hyper,
        epochs=MAX_SWEEPS,
        track=False,
        pad=False,
        keep="all",
        progress=True,
    )
    wall = time.perf_counter() - clock
    table = runs.to_frame()
    rows = []
    for d, l2 in tqdm(list(itertools.product(D, LAMBDA)), desc="the document's loop"):
        start = uniform(d).init(jax.random.fold_in(key, 0), data.ratings, hyper)
        U, V = (np.array(side["factors"], float) for side in start.trained[:2])
        clock = time.perf_counter()
        sweeps, objective = document(dense, U, V, l2)
        seconds = time.perf_counter() - clock
        cell = table[(table["rank"] == d) & (table["l2"] == l2)].iloc[0]
        member = int(cell["member"])
        ours = float(jaxmf.models.objective(runs.model(member), runs.params(member), data.ratings, runs.hyper(member)))
        row = {"d": d, "l2": l2, "status": cell["status"], "sweeps": cell["epochs"], "document_sweeps": sweeps}
        row |= {"objective": ours, "document_objective": objective, "objective_ratio": ours / objective}
        row |= {"seconds": cell["seconds"], "document_seconds": seconds}
        rows.append(row)
    cells = pd.DataFrame(rows).assign(dtype=table["dtype"])
    by_d = cells.groupby("d")[["seconds", "document_seconds", "sweeps", "document_sweeps"]].sum()
    # As many cells run at a time as there are cores; compilation is not counted.
    by_d["faster"] = by_d["document_seconds"] / (by_d["seconds"] / (os.cpu_count() or 1))
    overall = {"document_seconds": cells["document_seconds"].sum(), "wall_seconds": wall}
    overall |= {"compile_seconds": runs.compile_seconds, "faster": cells["document_seconds"].sum() / wall}
    write(here, cells, data)
    for name, summary in {"grid_by_d": by_d.reset_index(), "grid_in_all": pd.DataFrame([overall])}.items():
        here.table(name, summary)
        show(summary)


def uniform(rank: int) -> jaxmf.Model:
    """Return the document's model: U·V, initially uniform between 0 and 1."""
    plain = jaxmf.models.mf(rank, None)

    def init(key: jax.Array, ratings: jaxmf.Ratings, hyper: jaxmf.Hyper) -> jaxmf.Params:
        users, items = jax.random.split(key)
        U = jax.random.uniform(users, (ratings.num_users, rank), ratings.value.dtype)
        V = jax.random.uniform(items, (ratings.num_items, rank), ratings.value.dtype)
        return jaxmf.Params(jaxmf.Rows({"factors": U}, {"factors": V}))

    return plain._replace(init=init, with_rank=uniform, name="document")


def document(dense: np.ndarray, U: np.ndarray, V: np.ndarray, l2: float) -> tuple[int, float]:
    """Run the document's loop to its stopping rule; return its sweeps and final objective, empty rows counting 0."""
    previous, sweeps = float("inf"), 0
    U[~dense.any(axis=1)], V[~dense.any(axis=0)] = 0, 0
    while sweeps < MAX_SWEEPS:
        U_before, V_before = U.copy(), V.copy()
        document_sweep(dense, U, V, l2)
        sweeps += 1
        change = float(np.linalg.norm(U - U_before) + np.linalg.norm(V - V_before))
        if abs(previous - change) < TOL:
            break
        previous = change
    error = (dense - U @ V.T)[dense > 0]
    return sweeps, float((error**2).sum() + l2 * ((U**2).sum() + (V**2).sum()))


def draw(table: pd.DataFrame) -> Figure:
    """Draw how many times as fast as the jitted loop each way is."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    names = list(dict.fromkeys(table["solver"]))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        rows = table[table["solver"] == name][::-1]
        axes.barh(rows["way"], rows["faster"], color=plot.style.COLORS[0])
        axes.axvline(1, color="gray", linestyle=":")
        axes.set(title=f"{rows['members'].iloc[0]} fits by {name}", xlabel="times as fast as the jitted loop")
    return figure


def write(here: Setting, table: pd.DataFrame, data: jaxmf.Dataset) -> None:
    """Write the table and its manifest, and print the table."""
    here.write(here.job, table, data.describe(), {"rounds": ROUNDS, "epochs": EPOCHS})
    show(table)


JOBS = {"members": members, "grid": grid}


def main() -> None:
    """Run the job named on the command line."""
    here = setting("sweep", __doc__ or "", JOBS)
    JOBS[here.job](here)


if __name__ == "__main__":
    main()
