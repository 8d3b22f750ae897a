"""The ways to fit: by jaxmf, its peers and NumPy, each from the same start; and the evaluation of their fits."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix

import jaxmf
from benchmarks import limits
from benchmarks.peers import THREADS
from jaxmf.solvers._minibatch import visiting_order

L2, RATE, DAMPING = 0.05, 0.005, 5.0
ADAM = jaxmf.Hyper(l2=L2, learning_rate=0.01)
CG_STEPS = 3
KEY = jax.random.key(0)
_order = jax.jit(visiting_order, static_argnums=(2, 3))


class Data(NamedTuple):
    """Training and test ratings, and their residuals (`rest`) after the damped biases are subtracted."""

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
    """A fit: the seconds of an epoch, of preparing the data and of compiling, and its factors."""

    seconds: float
    prepare: float
    compile: float
    factors: Factors


Way = Callable[[int], Run]


def load(num_users: int, num_items: int, num_ratings: int) -> Data:
    """Return the embedded data, split, and the residuals of the training part's damped biases."""
    data = jaxmf.datasets.synthetic(num_users, num_items, num_ratings, seed=0)
    train, test = jaxmf.splits.random(data, fractions=(0.9, 0.1), seed=0)
    bias = jaxmf.models.damped_bias(DAMPING, DAMPING)
    params = bias.init(None, train.ratings, jaxmf.Hyper())

    def residuals(part: jaxmf.Dataset) -> jaxmf.Dataset:
        return replace(part, rating=part.rating - np.asarray(bias.predict(params, part.ratings), float))

    return Data(train, test, residuals(train), residuals(test))


def start(model: jaxmf.Model, train: jaxmf.Dataset, hyper: jaxmf.Hyper) -> Factors:
    """Return the initial factors of a fit with `KEY`."""
    return in_numpy(jax.jit(model.init)(jax.random.fold_in(KEY, 0), train.ratings, hyper))


def in_numpy(params: jaxmf.Params) -> Factors:
    """Copy the parameters of `mf` or `biased_mf` to NumPy."""
    user, item = params.trained.user, params.trained.item
    mean = float(params.fixed.shared.get("mean", 0.0))
    P, Q, b, c = (np.array(rows.get(name, 0.0)) for name in ("factors", "bias") for rows in (user, item))
    return Factors(P, Q, b, c, mean)


def by_jaxmf(model: jaxmf.Model, solver: Any, train: jaxmf.Dataset, hyper: jaxmf.Hyper) -> Way:
    """Fit by `jaxmf.fit`, whose history has the seconds of its epochs."""
    clock = time.perf_counter()
    batch = jax.block_until_ready(jaxmf.prepare(solver, train))
    prepare = time.perf_counter() - clock

    def run(epochs: int) -> Run:
        fit = jaxmf.fit(KEY, model, solver, batch, hyper=hyper, epochs=epochs, track=False)
        return Run(fit.history["seconds"][-1] / epochs, prepare, fit.compile_seconds, in_numpy(fit.params))

    return run


def by_lenskit(data: Data, k: int, l2: float, initial: Factors) -> Way:
    """Fit by LensKit's trainer, epoch by epoch, from the given start; it subtracts the damped biases itself."""
    from lenskit.als import BiasedMFScorer
    from lenskit.training import TrainingOptions

    dataset, prepare = lenskit_data(data.train)

    def run(epochs: int) -> Run:
        clock = time.perf_counter()
        scorer = BiasedMFScorer(embedding_size=k, epochs=epochs, regularization=l2, damping=DAMPING)
        trainer = scorer.create_trainer(dataset, TrainingOptions())
        users, items = scorer.users.ids(), scorer.items.ids()
        trainer.load_parameters({"user_embeddings": initial.P[users], "item_embeddings": initial.Q[items]})
        setup = time.perf_counter() - clock
        clock = time.perf_counter()
        for _ in range(epochs):
            trainer.train_epoch()
        seconds = (time.perf_counter() - clock) / epochs
        P, Q = np.zeros_like(initial.P), np.zeros_like(initial.Q)
        P[users], Q[items] = scorer.user_embeddings, scorer.item_embeddings
        return Run(seconds, prepare + setup, 0.0, Factors(P, Q))

    return run


@lru_cache(maxsize=1)
def lenskit_data(train: jaxmf.Dataset) -> tuple[Any, float]:
    """Return LensKit's dataset, and the seconds that making it takes."""
    from lenskit.data import from_interactions_df

    clock = time.perf_counter()
    frame = pd.DataFrame({"user_id": train.user, "item_id": train.item, "rating": train.rating.astype(np.float32)})
    return from_interactions_df(frame), time.perf_counter() - clock


def by_cmfrec(train: jaxmf.Dataset, k: int, use_cg: bool) -> Way:
    """Fit by cmfrec's CMF without biases, from its own start; more sweeps are timed against a single one."""
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
        (one_sweep, _), (all_sweeps, model) = timed(1), timed(epochs)
        seconds = (all_sweeps - one_sweep) / (epochs - 1)
        return Run(
            seconds, prepare + max(one_sweep - seconds, 0.0), 0.0, Factors(np.array(model.A_), np.array(model.B_))
        )

    return run


def by_cornac(train: jaxmf.Dataset, k: int, l2: float, rate: float, initial: Factors) -> Way:
    """Fit by cornac's MF from the given start; more epochs are timed against a single one.

    Its updates `lr·(e·q − λ·p)` are ours at half that learning rate.
    """
    from cornac.models import MF

    dataset, prepare = cornac_data(train)

    def timed(epochs: int) -> tuple[float, Any]:
        arrays = {name: np.copy(leaf) for name, leaf in zip(("U", "V", "Bu", "Bi"), initial[:4], strict=True)}
        model = MF(k=k, max_iter=epochs, learning_rate=2 * rate, lambda_reg=l2, num_threads=THREADS, init_params=arrays)
        clock = time.perf_counter()
        model.fit(dataset)
        return time.perf_counter() - clock, model

    def run(epochs: int) -> Run:
        (one_sweep, _), (all_sweeps, model) = timed(1), timed(epochs)
        seconds = (all_sweeps - one_sweep) / (epochs - 1)
        factors = Factors(model.u_factors, model.i_factors, model.u_biases, model.i_biases, float(model.global_mean))
        return Run(seconds, prepare + max(one_sweep - seconds, 0.0), 0.0, factors)

    return run


@lru_cache(maxsize=2)
def cornac_data(train: jaxmf.Dataset) -> tuple[Any, float]:
    """Return cornac's dataset, and the seconds that making it takes."""
    from cornac.data import Dataset

    clock = time.perf_counter()
    ids = [dict(zip(range(n), range(n), strict=True)) for n in (train.num_users, train.num_items)]
    triples = (train.user.astype(np.int64), train.item.astype(np.int64), train.rating)
    return Dataset(train.num_users, train.num_items, *ids, triples), time.perf_counter() - clock


def by_numpy(train: jaxmf.Dataset, batch_size: int, initial: Factors) -> Way:
    """Fit by minibatch Adam as one would write it in NumPy: a sparse matrix product, which is faster than `np.add.at`,
    sums the rows of the gradient, and Adam works in place.
    """
    user, item, rating = train.user, train.item, train.rating.astype(np.float32)
    n, (decay_m, decay_v), eps = len(rating), (0.9, 0.999), 1e-8
    weights = [np.float32(L2 / n) * counts[:, None].astype(np.float32) for counts in limits.counts(train)]

    def run(epochs: int) -> Run:
        tables = P, Q = initial.P.copy(), initial.Q.copy()
        moments = [[np.zeros_like(table) for _ in range(2)] for table in tables]
        clock, step = time.perf_counter(), 0
        for epoch in range(1, epochs + 1):
            order = np.asarray(_order(jax.random.fold_in(KEY, epoch), n, n, batch_size)).ravel()[:n]
            for position in range(0, n, batch_size):
                batch = order[position : position + batch_size]
                indices = (user[batch], item[batch])
                p, q = (table[index] for table, index in zip(tables, indices, strict=True))
                error = (np.einsum("nk,nk->n", p, q) - rating[batch]) / len(batch)
                step += 1
                sides = zip(tables, weights, indices, (q, p), moments, strict=True)
                for table, weight, index, partners, (m, v) in sides:
                    lanes = np.arange(len(batch))
                    gradient = csr_matrix((error, (index, lanes)), (len(table), len(batch))) @ partners
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
        return Run((time.perf_counter() - clock) / epochs, 0.0, 0.0, Factors(P, Q))

    return run


def judge(fit: Factors, train: jaxmf.Dataset, test: jaxmf.Dataset, l2: float) -> dict[str, float]:
    """Return the objective with λ per rating in float64, and the unclipped root mean squared errors."""
    errors = [residual(fit, part) for part in (train, test)]
    users, items = (counts.astype(float) for counts in limits.counts(train))
    objective = np.sum(errors[0] ** 2)
    for counts, table, bias in ((users, fit.P, fit.b), (items, fit.Q, fit.c)):
        objective += l2 * np.sum(counts * (np.sum(table.astype(float) ** 2, axis=1) + np.asarray(bias, float) ** 2))
    train_rmse, test_rmse = (float(np.sqrt(np.mean(error**2))) for error in errors)
    return {"objective": float(objective), "train_rmse": train_rmse, "test_rmse": test_rmse}


def residual(fit: Factors, part: jaxmf.Dataset) -> np.ndarray:
    """Return r − r̂ of every rating in float64."""
    bias = np.broadcast_to(fit.b, len(fit.P))[part.user] + np.broadcast_to(fit.c, len(fit.Q))[part.item]
    product = np.einsum("nk,nk->n", fit.P[part.user], fit.Q[part.item])
    difference: np.ndarray = part.rating - fit.mean - bias - product
    return difference


def present(package: str) -> bool:
    """Return whether a peer is installed; if not, print that it is skipped."""
    installed = find_spec(package) is not None
    if not installed:
        print(f"{package} is skipped; to install it: pip install -e '.[bench]'")
    return installed
