"""The Python loops of the documents that jaxmf grew out of, against jaxmf's solvers, in one run.

    python -m benchmarks.seeds

Per-sample SGD with biases at k = 42: the document's loop with its clipping, a lean Python loop of the same updates, and
`solvers.sgd`. ALS at k = 50: the document's loop over rows of a dense matrix, and `solvers.als`. Data: MovieLens
latest-small if JAXMF_DATA is set, else the embedded data. Rounds alternate between the competitors; medians are
reported, and compilation separately. Writes results/benchmarks/seeds/.
"""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import pandas as pd

import jaxmf
from benchmarks.setting import alternate, bars, clocked, setting, show
from experiments.setting import default_data

ROUNDS = 7
EPOCHS = 5  # per measurement of jaxmf, since a fit also runs many epochs in one program
LEARNING_RATE, L2 = 0.012376565252378615, 3.677000997278053e-05


def document_sgd(user: np.ndarray, item: np.ndarray, value: np.ndarray, k: int, sizes: tuple[int, int]) -> float:
    """Run one epoch of the document's loop, including its clipping of updates; return the seconds."""
    random = np.random.default_rng(0)
    P, Q = random.normal(scale=0.01, size=(sizes[0], k)), random.normal(scale=0.01, size=(sizes[1], k)).T
    b_u, b_i, mu, clip_value = np.zeros(sizes[0]), np.zeros(sizes[1]), value.mean(), 5.0
    order = random.permutation(len(value))
    rows, cols, values = user[order], item[order], value[order]
    clock = time.perf_counter()
    for idx in range(len(rows)):
        u, i = rows[idx], cols[idx]
        prediction = mu + b_u[u] + b_i[i] + np.dot(P[u, :], Q[:, i])
        error = values[idx] - prediction
        delta_b_u = LEARNING_RATE * (error - L2 * b_u[u])
        delta_b_i = LEARNING_RATE * (error - L2 * b_i[i])
        b_u[u] += np.clip(delta_b_u, -clip_value, clip_value)
        b_i[i] += np.clip(delta_b_i, -clip_value, clip_value)
        delta_P = LEARNING_RATE * (error * Q[:, i] - L2 * P[u, :])
        delta_Q = LEARNING_RATE * (error * P[u, :] - L2 * Q[:, i])
        P[u, :] += np.clip(delta_P, -clip_value, clip_value)
        Q[:, i] += np.clip(delta_Q, -clip_value, clip_value)
    return time.perf_counter() - clock


def lean_sgd(user: np.ndarray, item: np.ndarray, value: np.ndarray, k: int, sizes: tuple[int, int]) -> float:
    """Run one epoch of the same updates, written for speed in plain Python; return the seconds."""
    random = np.random.default_rng(0)
    P = list(random.normal(scale=0.01, size=(sizes[0], k)))
    Q = list(random.normal(scale=0.01, size=(sizes[1], k)))
    b_u, b_i, mu = [0.0] * sizes[0], [0.0] * sizes[1], float(value.mean())
    order = random.permutation(len(value))
    ratings = list(zip(user[order].tolist(), item[order].tolist(), value[order].tolist(), strict=True))
    rate, decay = LEARNING_RATE, 1 - LEARNING_RATE * L2
    clock = time.perf_counter()
    for u, i, r in ratings:
        p, q = P[u], Q[i]
        step = rate * (r - mu - b_u[u] - b_i[i] - float(p.dot(q)))
        b_u[u] = decay * b_u[u] + step
        b_i[i] = decay * b_i[i] + step
        P[u], Q[i] = decay * p + step * q, decay * q + step * p
    return time.perf_counter() - clock


def document_als(dense: np.ndarray, k: int, l2: float) -> float:
    """Run one sweep of the document's ALS; return the seconds."""
    random = np.random.default_rng(0)
    U, V = random.random((dense.shape[0], k)), random.random((dense.shape[1], k))
    return clocked(lambda: document_sweep(dense, U, V, l2))


def document_sweep(dense: np.ndarray, U: np.ndarray, V: np.ndarray, l2: float) -> None:
    """Run the document's loop over the rows and columns of a dense matrix, in which 0 is missing; update U and V."""
    k = U.shape[1]
    for i in range(dense.shape[0]):
        seen = np.nonzero(dense[i])[0]
        if len(seen) > 0:
            Vj, Ri = V[seen, :], dense[i, seen].reshape(-1, 1)
            U[i, :] = np.linalg.solve(Vj.T @ Vj + l2 * np.eye(k), Vj.T @ Ri).flatten()
    for j in range(dense.shape[1]):
        seen = np.nonzero(dense[:, j])[0]
        if len(seen) > 0:
            Ui, Rj = U[seen, :], dense[seen, j].reshape(-1, 1)
            V[j, :] = np.linalg.solve(Ui.T @ Ui + l2 * np.eye(k), Ui.T @ Rj).flatten()


def jaxmf_epoch(
    model: jaxmf.Model, solver: jaxmf.solvers.Solver, train: jaxmf.Dataset, hyper: jaxmf.Hyper
) -> tuple[Callable[[], float], float]:
    """Return a function that runs epochs and returns the seconds of one; and the seconds of tracing and compiling."""
    batch, key = jaxmf.prepare(solver, train), jax.random.key(0)
    run = jax.jit(jaxmf.make_fit(model, solver, epochs=EPOCHS, track=False))
    clock = time.perf_counter()
    state, _ = jax.block_until_ready(run(key, batch, hyper))
    state = state._replace(status=state.status * 0)
    jax.block_until_ready(run(key, batch, hyper, state))
    compiled = time.perf_counter() - clock

    return lambda: clocked(lambda: run(key, batch, hyper, state)) / EPOCHS, compiled


def main() -> None:
    """Run the races, print the table and write it."""
    here, data = setting("seeds", __doc__ or ""), default_data()
    train, *_ = jaxmf.splits.temporal_per_user(data)
    sizes = (data.num_users, data.num_items)
    coo = (train.user, train.item, train.rating)
    dense = np.zeros(sizes)
    dense[train.user, train.item] = train.rating
    hyper = jaxmf.Hyper(l2=L2, learning_rate=LEARNING_RATE / 2, init_scale=0.01)
    sgd, sgd_compile = jaxmf_epoch(jaxmf.models.biased_mf(42), jaxmf.solvers.sgd(), train, hyper)
    plain = jaxmf.Hyper(l2=4.0, reg_exponent=0.0)
    als, als_compile = jaxmf_epoch(jaxmf.models.mf(50, None), jaxmf.solvers.als(), train, plain)
    races: dict[str, dict[str, Callable[[], float]]] = {
        "per-sample SGD, k = 42": {
            "document's loop, clipping (float64)": lambda: document_sgd(*coo, 42, sizes),
            "lean Python loop (float64)": lambda: lean_sgd(*coo, 42, sizes),
            "jaxmf sgd (float32)": sgd,
        },
        "ALS sweep, k = 50": {
            "document's loop (float64)": lambda: document_als(dense, 50, 4.0),
            "jaxmf als (float32)": als,
        },
    }
    compiled = {"jaxmf sgd (float32)": sgd_compile, "jaxmf als (float32)": als_compile}
    rows = []
    for race, competitors in races.items():
        seconds = alternate(competitors, ROUNDS, race)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ours = medians[next(name for name in medians if name.startswith("jaxmf"))]
        for name, median in medians.items():
            rows.append({"race": race, "competitor": name, "median_seconds": median})
            rows[-1] |= {"min_seconds": min(seconds[name]), "max_seconds": max(seconds[name])}
            rows[-1] |= {"times_jaxmf": median / ours, "compile_seconds": compiled.get(name, 0.0), "rounds": ROUNDS}
    table = pd.DataFrame(rows)
    show(table)
    here.table("metrics", table)
    here.manifest("config", train.describe(), {"rounds": ROUNDS})
    labels, texts = table["race"] + "\n" + table["competitor"], table["times_jaxmf"].map("{:.1f} x".format)
    here.figure(
        "seconds", bars(labels, table["median_seconds"], texts, "median seconds per epoch (log scale)", log=True)
    )


if __name__ == "__main__":
    main()
