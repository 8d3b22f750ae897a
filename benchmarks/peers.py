"""jaxmf beside the libraries that do the same work, alternating in one run, at the shape of MovieLens 1M.

    python benchmarks/peers.py als          a sweep of exact ALS (Cholesky) beside LensKit's BiasedMFScorer
    python benchmarks/peers.py cg           a sweep of ALS by conjugate gradient beside cmfrec's
    python benchmarks/peers.py sgd          an epoch of per-sample SGD beside cornac's MF
    python benchmarks/peers.py adam         an epoch of minibatch Adam beside the same loop in NumPy
    python benchmarks/peers.py als_sweep    16 fits by exact ALS, `jaxmf.sweep` beside LensKit one after another
    python benchmarks/peers.py sgd_sweep    64 fits by per-sample SGD, `jaxmf.sweep` beside cornac one after another
    python benchmarks/peers.py all          all of them, and one figure

Embedded data, 6,040 users, 3,706 items, a million ratings of which 90 % train, float32, two threads each; for a fit of
ALS or SGD by jaxmf these are two host devices of JAX, and in the ways "one device" one. With --smoke everything is tiny
and goes to a temporary folder. Medians of rounds that alternate between the ways, after one to warm up; compilation,
laying out the data and a library's set-up are apart. Every way minimizes the same objective, penalized by λ per rating:
ALS, exact or by conjugate gradient, and Adam factorize residuals of damped biases, as LensKit does; SGD trains biases
too. `pip install -e '.[bench]'` has the peers; one that is absent is skipped by name. Writes
results/benchmarks/peers/.
"""

import os

THREADS = 2
os.environ |= {
    f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "OPENBLAS", "MKL", "LK", "RAYON", "LK_NUM_BACKEND")
}
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])  # before JAX counts them

import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from functools import lru_cache  # noqa: E402
from importlib.metadata import version  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from itertools import product  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import jax  # noqa: E402
import limits  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402
from scipy.sparse import coo_matrix, csr_matrix  # noqa: E402
from tqdm import tqdm  # noqa: E402

import jaxmf  # noqa: E402
from jaxmf import output, plot  # noqa: E402
from jaxmf.solvers._minibatch import visiting_order  # noqa: E402

jax.config.update("jax_num_cpu_devices", THREADS)  # before anything else uses JAX

L2, RATE, DAMPING = 0.05, 0.005, 5.0
_order = jax.jit(visiting_order, static_argnums=(2, 3))
ADAM = jaxmf.Hyper(l2=L2, learning_rate=0.01)
CG_STEPS = 3
KEY = jax.random.key(0)


class Sizes(NamedTuple):
    """How much a run does, and where it writes."""

    out: Path = Path("results/benchmarks/peers")
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


class Data(NamedTuple):
    """Training and test ratings, and the same without damped biases: what they leave over."""

    train: jaxmf.Dataset
    test: jaxmf.Dataset
    train_rest: jaxmf.Dataset
    test_rest: jaxmf.Dataset


class Factors(NamedTuple):
    """A fit in NumPy: r̂ = mean + b_u + c_i + p_u·q_i."""

    P: np.ndarray
    Q: np.ndarray
    b: np.ndarray | float = 0.0
    c: np.ndarray | float = 0.0
    mean: float = 0.0


class Run(NamedTuple):
    """A fit: seconds of an epoch, of preparing the data, of compiling, and what it found."""

    seconds: float
    prepare: float
    compile: float
    factors: Factors


class Row(NamedTuple):
    """What is asked of one line of a table: at least this many times as fast as the peer, and the aim."""

    work: str
    peer: str
    at_least: dict[int, float]
    aim: dict[int, float]


Way = Callable[[int], Run]

ALS = Row("exact ALS", "LensKit", {16: 0.7, 64: 0.8, 128: 1.0}, {16: 1.2, 64: 1.5, 128: 2.0})
CG = Row("ALS by CG", "cmfrec", {64: 1.0, 128: 1.0}, {64: 2.0, 128: 2.0})
SGD = Row("per-sample SGD", "cornac", {16: 0.7, 64: 0.7}, {16: 1.5, 64: 1.5})
MINIBATCH = Row("minibatch Adam", "NumPy", {64: 2.0}, {64: 5.0})
ALS_SWEEP = Row("16 fits by exact ALS", "LensKit", {16: 1.2}, {16: 4.0})
SGD_SWEEP = Row("64 fits by per-sample SGD", "cornac", {64: 0.8}, {64: 3.0})


def als(sizes: Sizes) -> pd.DataFrame:
    """Seconds of a sweep of exact ALS, from the same start: the objectives agree after as many sweeps."""
    data, hyper = load(sizes), jaxmf.Hyper(l2=L2)
    tables = []
    for k in sizes.ranks:
        model = jaxmf.models.mf(k, None)
        solvers = {"jaxmf": jaxmf.solvers.als(devices=THREADS), "jaxmf, one device": jaxmf.solvers.als()}
        ways: dict[str, Way] = {way: by_jaxmf(model, own, data.train_rest, hyper) for way, own in solvers.items()}
        if present("lenskit"):
            ways["LensKit"] = by_lenskit(data, k, L2, start(model, data.train_rest, hyper))
        tables.append(compare(sizes, ALS, k, ways, data, True, L2, limits.als_work(limits.counts(data.train), k)))
    return write(sizes, "als", pd.concat(tables), data.train)


def cg(sizes: Sizes) -> pd.DataFrame:
    """Seconds of a sweep of ALS by conjugate gradient, and the objective beside that of exact sweeps."""
    data, hyper = load(sizes), jaxmf.Hyper(l2=L2)
    solvers = {
        "jaxmf": jaxmf.solvers.als(method="cg", steps=CG_STEPS, devices=THREADS),
        "jaxmf, exact": jaxmf.solvers.als(devices=THREADS),
    }
    tables = []
    for k in sizes.wide:
        model = jaxmf.models.mf(k, None)
        ways: dict[str, Way] = {way: by_jaxmf(model, own, data.train_rest, hyper) for way, own in solvers.items()}
        if present("cmfrec"):
            ways |= {
                "cmfrec": by_cmfrec(data.train_rest, k, True),
                "cmfrec, exact": by_cmfrec(data.train_rest, k, False),
            }
        table = compare(sizes, CG, k, ways, data, True, L2, limits.cg_work(limits.counts(data.train), k, CG_STEPS))
        exact = table.loc[table["way"] == "jaxmf, exact", "objective"].item()
        tables.append(table.assign(objective_over_exact=table["objective"] / exact - 1))
    return write(sizes, "cg", pd.concat(tables), data.train)


def sgd(sizes: Sizes) -> pd.DataFrame:
    """Seconds of an epoch of per-sample SGD with biases. The peer's threads race; its ratings lie in order of users."""
    data = load(sizes)
    hyper = jaxmf.Hyper(l2=L2, learning_rate=RATE, init_scale=0.01)
    tables = []
    for k in sizes.narrow:
        model = jaxmf.models.biased_mf(k)
        solvers = {"jaxmf": jaxmf.solvers.sgd(devices=THREADS), "jaxmf, one device": jaxmf.solvers.sgd()}
        ways: dict[str, Way] = {way: by_jaxmf(model, own, data.train, hyper) for way, own in solvers.items()}
        if present("cornac"):
            first = start(model, data.train, hyper)
            order = np.random.default_rng(0).permutation(len(data.train))
            ways["cornac"] = by_cornac(data.train, k, L2, RATE, first)
            ways["cornac, shuffled once"] = by_cornac(data.train.take(order), k, L2, RATE, first)
        table = compare(sizes, SGD, k, ways, data, False, L2, limits.sgd_work(len(data.train), k))
        tables.append(table.assign(updates_per_second=len(data.train) / table["seconds"]))
    return write(sizes, "sgd", pd.concat(tables), data.train)


def adam(sizes: Sizes) -> pd.DataFrame:
    """Seconds of an epoch of dense minibatch Adam; both take the same batches from the same start."""
    data, k = load(sizes), sizes.narrow[-1]
    model = jaxmf.models.mf(k, None)
    ways: dict[str, Way] = {
        "jaxmf": by_jaxmf(model, jaxmf.solvers.minibatch(optax.adam, sizes.batch_size), data.train_rest, ADAM),
        "NumPy": by_numpy(data.train_rest, sizes.batch_size, start(model, data.train_rest, ADAM)),
    }
    rows = sizes.num_users + sizes.num_items
    work = limits.adam_work(len(data.train), rows, k, sizes.batch_size)
    table = compare(sizes, MINIBATCH, k, ways, data, True, L2, work)
    return write(sizes, "adam", table.assign(batch_size=sizes.batch_size), data.train)


def als_sweep(sizes: Sizes) -> pd.DataFrame:
    """Seconds of 16 fits by exact ALS, 4 ranks by 4 penalties, set-up of the peer's fits included."""
    data, hyper = load(sizes), jaxmf.Hyper()
    grid = {"rank": sizes.sweep_ranks, "l2": (0.03, 0.05, 0.1, 0.2)}

    first = {k: start(jaxmf.models.mf(k, None), data.train_rest, hyper) for k in sizes.sweep_ranks}

    def peer(point: dict[str, Any], epochs: int) -> Run:
        return by_lenskit(data, point["rank"], point["l2"], first[point["rank"]])(epochs)

    wide = jaxmf.models.mf(max(sizes.sweep_ranks), None)
    found = sweeps(sizes, ALS_SWEEP, wide, jaxmf.solvers.als(), data, True, hyper, grid, "lenskit", peer)
    return write(sizes, "als_sweep", found, data.train)


def sgd_sweep(sizes: Sizes) -> pd.DataFrame:
    """Seconds of 64 fits by per-sample SGD, 4 ranks by 4 penalties by 4 learning rates."""
    data, hyper = load(sizes), jaxmf.Hyper(init_scale=0.01)
    rates = (0.00125, 0.0025, 0.005, 0.01)
    grid = {"rank": sizes.sweep_ranks, "l2": (0.01, 0.02, 0.05, 0.1), "learning_rate": rates}

    first = {k: start(jaxmf.models.biased_mf(k), data.train, hyper) for k in sizes.sweep_ranks}

    def peer(point: dict[str, Any], epochs: int) -> Run:
        k = point["rank"]
        return by_cornac(data.train, k, point["l2"], point["learning_rate"], first[k])(epochs)

    wide = jaxmf.models.biased_mf(max(sizes.sweep_ranks))
    found = sweeps(sizes, SGD_SWEEP, wide, jaxmf.solvers.sgd(), data, False, hyper, grid, "cornac", peer)
    return write(sizes, "sgd_sweep", found, data.train)


def everything(sizes: Sizes) -> pd.DataFrame:
    """All tables, one after another, and one figure."""
    table = pd.concat([job(sizes) for job in (als, cg, sgd, adam, als_sweep, sgd_sweep)], ignore_index=True)
    plot.save(draw(table), sizes.out / "figures" / "all.png")
    return table


def load(sizes: Sizes) -> Data:
    """The embedded data, split, and the residuals of the training part's damped biases."""
    whole = jaxmf.datasets.synthetic(sizes.num_users, sizes.num_items, sizes.num_ratings, seed=0)
    train, test = jaxmf.splits.random(whole, fractions=(0.9, 0.1), seed=0)
    bias = jaxmf.models.damped_bias(DAMPING, DAMPING)
    params = bias.init(None, train.ratings, jaxmf.Hyper())

    def rest(part: jaxmf.Dataset) -> jaxmf.Dataset:
        return replace(part, rating=part.rating - np.asarray(bias.predict(params, part.ratings), float))

    return Data(train, test, rest(train), rest(test))


def start(model: jaxmf.Model, train: jaxmf.Dataset, hyper: jaxmf.Hyper) -> Factors:
    """Where a fit by `KEY` starts."""
    return in_numpy(jax.jit(model.init)(jax.random.fold_in(KEY, 0), train.ratings, hyper))


def in_numpy(params: jaxmf.Params) -> Factors:
    """The parameters of `mf` or `biased_mf`, as copies."""
    user, item = params.trained.user, params.trained.item
    mean = float(params.fixed.shared.get("mean", 0.0))
    leaves = (np.array(rows.get(name, 0.0)) for name in ("factors", "bias") for rows in (user, item))
    return Factors(*leaves, mean)


def by_jaxmf(model: jaxmf.Model, solver: Any, train: jaxmf.Dataset, hyper: jaxmf.Hyper) -> Way:
    """`jaxmf.fit`, whose history has the seconds of its epochs."""
    clock = time.perf_counter()
    batch = jax.block_until_ready(jaxmf.prepare(solver, train))
    prepare = time.perf_counter() - clock

    def run(epochs: int) -> Run:
        fit = jaxmf.fit(KEY, model, solver, batch, hyper=hyper, epochs=epochs, track=False)
        return Run(fit.history["seconds"][-1] / epochs, prepare, fit.compile_seconds, in_numpy(fit.params))

    return run


def by_lenskit(data: Data, k: int, l2: float, first: Factors) -> Way:
    """LensKit's trainer, epoch by epoch, from the given start; it takes the damped biases away itself."""
    from lenskit.als import BiasedMFScorer
    from lenskit.training import TrainingOptions

    dataset, prepare = lenskit_data(data.train)

    def run(epochs: int) -> Run:
        clock = time.perf_counter()
        scorer = BiasedMFScorer(embedding_size=k, epochs=epochs, regularization=l2, damping=DAMPING)
        trainer = scorer.create_trainer(dataset, TrainingOptions())
        users, items = scorer.users.ids(), scorer.items.ids()
        trainer.load_parameters({"user_embeddings": first.P[users], "item_embeddings": first.Q[items]})
        set_up = time.perf_counter() - clock
        clock = time.perf_counter()
        for _ in range(epochs):
            trainer.train_epoch()
        seconds = (time.perf_counter() - clock) / epochs
        P, Q = np.zeros_like(first.P), np.zeros_like(first.Q)
        P[users], Q[items] = scorer.user_embeddings, scorer.item_embeddings
        return Run(seconds, prepare + set_up, 0.0, Factors(P, Q))

    return run


@lru_cache(maxsize=1)
def lenskit_data(train: jaxmf.Dataset) -> tuple[Any, float]:
    """LensKit's dataset, and the seconds it takes."""
    from lenskit.data import from_interactions_df

    clock = time.perf_counter()
    frame = pd.DataFrame({"user_id": train.user, "item_id": train.item, "rating": train.rating.astype(np.float32)})
    return from_interactions_df(frame), time.perf_counter() - clock


def by_cmfrec(train: jaxmf.Dataset, k: int, use_cg: bool) -> Way:
    """cmfrec's CMF without biases from a start of its own: the seconds that more sweeps take beyond one."""
    from cmfrec import CMF

    clock = time.perf_counter()
    matrix = coo_matrix((train.rating.astype(np.float32), (train.user, train.item)), (train.num_users, train.num_items))
    prepare = time.perf_counter() - clock

    def timed(sweeps: int) -> tuple[float, Any]:
        model = CMF(
            k,
            L2,
            method="als",
            use_cg=use_cg,
            max_cg_steps=CG_STEPS,
            finalize_chol=False,
            user_bias=False,
            item_bias=False,
            center=False,
            scale_lam=True,
            niter=sweeps,
            precompute_for_predictions=False,
            use_float=True,
            verbose=False,
            nthreads=THREADS,
        )
        clock = time.perf_counter()
        model.fit(matrix)
        return time.perf_counter() - clock, model

    def run(epochs: int) -> Run:
        (few, _), (many, model) = timed(1), timed(epochs)
        seconds = (many - few) / (epochs - 1)
        return Run(seconds, prepare + max(few - seconds, 0.0), 0.0, Factors(np.array(model.A_), np.array(model.B_)))

    return run


def by_cornac(train: jaxmf.Dataset, k: int, l2: float, rate: float, first: Factors) -> Way:
    """cornac's MF from the given start: the seconds that more epochs take beyond one.

    Its updates `lr·(e·q − λ·p)` are ours at half that learning rate.
    """
    from cornac.models import MF

    dataset, prepare = cornac_data(train)

    def timed(epochs: int) -> tuple[float, Any]:
        given = {name: leaf.copy() for name, leaf in zip(("U", "V", "Bu", "Bi"), first[:4], strict=True)}
        model = MF(k=k, max_iter=epochs, learning_rate=2 * rate, lambda_reg=l2, num_threads=THREADS, init_params=given)
        clock = time.perf_counter()
        model.fit(dataset)
        return time.perf_counter() - clock, model

    def run(epochs: int) -> Run:
        (few, _), (many, model) = timed(1), timed(epochs)
        seconds = (many - few) / (epochs - 1)
        found = Factors(model.u_factors, model.i_factors, model.u_biases, model.i_biases, float(model.global_mean))
        return Run(seconds, prepare + max(few - seconds, 0.0), 0.0, found)

    return run


@lru_cache(maxsize=2)
def cornac_data(train: jaxmf.Dataset) -> tuple[Any, float]:
    """cornac's dataset, and the seconds it takes."""
    from cornac.data import Dataset

    clock = time.perf_counter()
    ids = [dict(zip(range(n), range(n), strict=True)) for n in (train.num_users, train.num_items)]
    triples = (train.user.astype(np.int64), train.item.astype(np.int64), train.rating)
    return Dataset(train.num_users, train.num_items, *ids, triples), time.perf_counter() - clock


def by_numpy(train: jaxmf.Dataset, batch_size: int, first: Factors) -> Way:
    """Minibatch Adam as one writes it in NumPy, rows of the gradient summed by a sparse matrix product, which is faster
    than `np.add.at`; Adam works in place.
    """
    user, item, rating = train.user, train.item, train.rating.astype(np.float32)
    n, (decay_m, decay_v), eps = len(rating), (0.9, 0.999), 1e-8
    weights = [np.float32(L2 / n) * own[:, None].astype(np.float32) for own in limits.counts(train)]

    def run(epochs: int) -> Run:
        tables = [first.P.copy(), first.Q.copy()]
        moments = [[np.zeros_like(table) for _ in range(2)] for table in tables]
        clock, step = time.perf_counter(), 0
        for epoch in range(1, epochs + 1):
            order = np.asarray(_order(jax.random.fold_in(KEY, epoch), n, n, batch_size)).ravel()[:n]
            for at in range(0, n, batch_size):
                batch = order[at : at + batch_size]
                index = (user[batch], item[batch])
                p, q = (table[own] for table, own in zip(tables, index, strict=True))
                error = (np.einsum("nk,nk->n", p, q) - rating[batch]) / len(batch)
                step += 1
                for table, weight, own, others, (m, v) in zip(tables, weights, index, (q, p), moments, strict=True):
                    lanes = np.arange(len(batch))
                    gradient = csr_matrix((error, (own, lanes)), (len(table), len(batch))) @ others
                    gradient += weight * table
                    gradient *= 2
                    m *= decay_m
                    m += (1 - decay_m) * gradient
                    v *= decay_v
                    gradient *= gradient
                    v += (1 - decay_v) * gradient
                    scale = np.sqrt(v / (1 - decay_v**step))
                    scale += eps
                    table -= ADAM.learning_rate / (1 - decay_m**step) * m / scale
        return Run((time.perf_counter() - clock) / epochs, 0.0, 0.0, Factors(*tables))

    return run


def compare(
    sizes: Sizes, row: Row, k: int, ways: dict[str, Way], data: Data, rest: bool, l2: float, work: limits.Work
) -> pd.DataFrame:
    """Median seconds of an epoch of every way, one after another in each round, and what each found."""
    train, test = (data.train_rest, data.test_rest) if rest else (data.train, data.test)
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for _ in tqdm(range(sizes.rounds + 1), desc=f"{row.work}, k = {k}"):  # the first round warms up
        for way, run in ways.items():
            runs[way].append(run(sizes.epochs))
    ceilings, rows = limits.measure(THREADS), []
    for way, own in runs.items():
        seconds = [run.seconds for run in own[1:]]
        middle = statistics.median(seconds)
        found = {"work": row.work, "k": k, "way": way, "seconds": middle}
        found |= {"min_seconds": min(seconds), "max_seconds": max(seconds)}
        found |= judge(own[-1].factors, train, test, l2)
        found |= {"prepare_seconds": statistics.median(run.prepare for run in own[1:])}
        found |= {"compile_seconds": own[0].compile if way.startswith("jaxmf") else np.nan}
        if way == "jaxmf":
            found |= limits.beside(work, ceilings, middle)
        rows.append(found)
    return finish(pd.DataFrame(rows), row, k, sizes.epochs, sizes.rounds)


def sweeps(
    sizes: Sizes,
    row: Row,
    model: jaxmf.Model,
    solver: Any,
    data: Data,
    rest: bool,
    hyper: jaxmf.Hyper,
    grid: dict[str, Any],
    package: str,
    peer: Callable[[dict[str, Any], int], Run],
) -> pd.DataFrame:
    """Seconds of all fits of a grid in all, by `jaxmf.sweep` and by the peer, and how good they are on average.

    The first sweep of jaxmf compiles: its seconds, by the clock, are in `first_seconds`, and how many times these the
    peer takes in `times_with_compiling`.
    """
    train, test = (data.train_rest, data.test_rest) if rest else (data.train, data.test)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    seconds: dict[str, list[float]] = {"jaxmf": []} | ({row.peer: []} if present(package) else {})
    judged: dict[str, pd.DataFrame] = {}
    first_seconds = compile_seconds = np.nan
    for number in tqdm(range(sizes.rounds + 1), desc=row.work):
        runs = jaxmf.sweep(
            KEY, model, solver, train, grid=grid, hyper=hyper, epochs=sizes.sweep_epochs, track=False, keep="all"
        )
        if number == 0:  # which compiles
            first_seconds, compile_seconds = runs.seconds, runs.compile_seconds
            own = [in_numpy(runs.params(member)) for member in range(len(points))]
            judged["jaxmf"] = judge_all(own, points, train, test)
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
        {"work": row.work, "k": len(points), "way": way, "seconds": statistics.median(own)}
        | {"min_seconds": min(own), "max_seconds": max(own)}
        | judged[way].mean().to_dict()
        | {"best_test_rmse": judged[way]["test_rmse"].min()}
        | ({"compile_seconds": compile_seconds, "first_seconds": first_seconds} if way == "jaxmf" else {})
        for way, own in seconds.items()
    ]
    table = finish(pd.DataFrame(rows), row, len(points), sizes.sweep_epochs, sizes.rounds)
    with_compiling = table["first_seconds"].fillna(table["seconds"]) / first_seconds
    return table.rename(columns={"k": "fits"}).assign(times_with_compiling=with_compiling)


def judge(fit: Factors, train: jaxmf.Dataset, test: jaxmf.Dataset, l2: float) -> dict[str, float]:
    """The objective with λ per rating in float64, and the root mean squared errors, unclipped."""
    errors = [residual(fit, part) for part in (train, test)]
    users, items = (own.astype(float) for own in limits.counts(train))
    objective = np.sum(errors[0] ** 2)
    for own, table, bias in ((users, fit.P, fit.b), (items, fit.Q, fit.c)):
        objective += l2 * np.sum(own * (np.sum(table.astype(float) ** 2, axis=1) + np.asarray(bias, float) ** 2))
    train_rmse, test_rmse = (float(np.sqrt(np.mean(error**2))) for error in errors)
    return {"objective": float(objective), "train_rmse": train_rmse, "test_rmse": test_rmse}


def residual(fit: Factors, part: jaxmf.Dataset) -> np.ndarray:
    """r − r̂ of every rating, float64."""
    bias = np.broadcast_to(fit.b, len(fit.P))[part.user] + np.broadcast_to(fit.c, len(fit.Q))[part.item]
    return part.rating - fit.mean - bias - np.einsum("nk,nk->n", fit.P[part.user], fit.Q[part.item])


def judge_all(
    fits: list[Factors], points: list[dict[str, Any]], train: jaxmf.Dataset, test: jaxmf.Dataset
) -> pd.DataFrame:
    """`judge` of every fit of a sweep."""
    return pd.DataFrame([judge(fit, train, test, point["l2"]) for fit, point in zip(fits, points, strict=True)])


def finish(table: pd.DataFrame, row: Row, number: int, epochs: int, rounds: int) -> pd.DataFrame:
    """How many times the seconds of jaxmf each way takes, beside what is asked, and what all rows share."""
    own = table["way"] == "jaxmf"
    base = table.loc[own, "seconds"].item() if own.any() else np.nan
    table = table.assign(times_of_jaxmf=table["seconds"] / base)
    asked = table["way"] == row.peer
    table.loc[asked, ["at_least", "aim"]] = row.at_least.get(number, np.nan), row.aim.get(number, np.nan)
    return table.assign(
        epochs=epochs, rounds=rounds, dtype="float32", threads=THREADS, device=jax.devices()[0].platform
    )


def present(package: str) -> bool:
    """Whether a peer is there; if not, say so."""
    found = find_spec(package) is not None
    if not found:
        print(f"{package} is skipped: pip install -e '.[bench]' has it")
    return found


def write(sizes: Sizes, name: str, table: pd.DataFrame, data: jaxmf.Dataset) -> pd.DataFrame:
    """The table, its manifest and its figure on disk, and the table in print."""
    output.write_table(sizes.out / f"{name}.csv", table)
    peers = {package: version(package) for package in ("lenskit", "cmfrec", "cornac") if find_spec(package)}
    configuration = {"job": f"benchmarks/peers.py {name}", "threads": THREADS, "l2": L2} | peers | sizes._asdict()
    del configuration["out"]
    output.write_json(sizes.out / f"{name}.json", output.manifest(data.describe(), configuration, seed=0))
    print(table.T.to_string(header=False, float_format="{:.4g}".format, na_rep=""))
    plot.save(draw(table), sizes.out / "figures" / f"{name}.png")
    return table


def draw(table: pd.DataFrame) -> Figure:
    """How many times the seconds of jaxmf each other way takes; ticks mark what is asked for, and the aim."""
    rows = table[(table["way"] != "jaxmf") & table["times_of_jaxmf"].notna()]
    figure = Figure(figsize=(8, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    number = rows["k"] if "k" in rows else pd.Series(np.nan, rows.index)
    labels = [
        f"{work}{'' if np.isnan(k) else f', k = {k:.0f}'}: {way}"
        for work, k, way in zip(rows["work"], number, rows["way"], strict=True)
    ]
    place = np.arange(len(rows))
    bars = axes.barh(place, rows["times_of_jaxmf"], color=plot.style.COLORS[0])
    axes.bar_label(bars, fmt="{:.2g}", padding=3)
    for column, color in (("at_least", plot.style.COLORS[4]), ("aim", plot.style.COLORS[2])):
        axes.scatter(rows[column], place, marker="|", s=200, color=color, zorder=3, label=column.replace("_", " "))
    axes.axvline(1, color="gray", linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(place, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("times the seconds of jaxmf (right of 1: jaxmf is faster)")
    if len(rows):
        axes.legend(fontsize="small")
    return figure


def tiny() -> Sizes:
    """The sizes of a smoke run, and a temporary folder, which it names."""
    out = Path(tempfile.mkdtemp(prefix="jaxmf-peers-"))
    print(f"writes to {out}")
    return Sizes(out, 200, 300, 6000, (8,), (8,), (8,), (2, 4, 6, 8), batch_size=512, epochs=4, rounds=2)


JOBS: dict[str, Callable[[Sizes], pd.DataFrame]] = {
    "als": als,
    "cg": cg,
    "sgd": sgd,
    "adam": adam,
    "als_sweep": als_sweep,
    "sgd_sweep": sgd_sweep,
    "all": everything,
}

if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--smoke"]
    JOBS[arguments[0]](tiny() if "--smoke" in sys.argv else Sizes())
