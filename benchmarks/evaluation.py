"""Benchmarks of evaluation: whether its intervals have their nominal coverage, and how long it takes.

    python -m benchmarks.evaluation coverage     how often 95 % intervals contain the truth, in 2,000 repeats each: the
                                                 library's, and percentiles of bootstrap means
    python -m benchmarks.evaluation seconds      rankings of all items beside an epoch of sgd, on the same data and at
                                                 the shape of MovieLens 1M

`seconds` reads MovieLens latest-small if JAXMF_DATA is set, else the embedded data. Times are medians of 5 rounds,
without compilation. Writes results/benchmarks/evaluation/.
"""

import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

import jaxmf
from benchmarks.setting import Setting, clocked, setting, show
from experiments.setting import default_data
from jaxmf import evaluate
from jaxmf.evaluate.intervals import interval

REPEATS, RESAMPLES, CHUNK = 2000, 1000, 100
USERS = (20, 50, 200, 1000)
ROUNDS = 5
K = 10


# Name -> (true mean, function that draws values, whether the values are differences).
KINDS: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, int]], np.ndarray], bool]] = {
    "precision: binomial(10, beta(1, 4)) / 10": (0.2, lambda r, n: r.binomial(10, r.beta(1, 4, n)) / 10, False),
    "precision: binomial(10, beta(1, 19)) / 10": (0.05, lambda r, n: r.binomial(10, r.beta(1, 19, n)) / 10, False),
    "ndcg: beta(1.5, 3.5), 60 % zeros": (0.12, lambda r, n: r.beta(1.5, 3.5, n) * (r.random(n) < 0.4), False),
    "ndcg: beta(1.5, 3.5), 85 % zeros": (0.045, lambda r, n: r.beta(1.5, 3.5, n) * (r.random(n) < 0.15), False),
    "hit rate: bernoulli(0.3)": (0.3, lambda r, n: r.binomial(1, 0.3, n) * 1.0, False),
    "hit rate: bernoulli(0.05)": (0.05, lambda r, n: r.binomial(1, 0.05, n) * 1.0, False),
    "auc: beta(6, 2)": (0.75, lambda r, n: r.beta(6, 2, n), False),
    "difference: normal(0, 0.1), 70 % ties": (0.0, lambda r, n: r.normal(0, 0.1, n) * (r.random(n) < 0.3), True),
    "difference: beta(1, 4), 90 % ties": (0.02, lambda r, n: r.beta(1, 4, n) * (r.random(n) < 0.1), True),
}


def coverage(here: Setting) -> None:
    """Measure the share of repeats whose interval contains the true mean, for several kinds of values."""
    rows = []
    with tqdm(total=len(KINDS) * len(USERS) * REPEATS) as bar:
        for (kind, (truth, draw, signed)), num_users in itertools.product(KINDS.items(), USERS):
            rng = np.random.default_rng(0)
            bounds: dict[str, list[Any]] = {"library": [], "percentile": []}
            for _ in range(REPEATS // CHUNK):
                values = draw(rng, (CHUNK, num_users))
                bounds["library"].append([interval(x, 0.95, (-1 if signed else 0, 1), not signed)[1:3] for x in values])
                bounds["percentile"].append(percentiles(values, rng))
                bar.update(CHUNK)
            for method, chunks in bounds.items():
                low, high = np.concatenate(chunks).T
                row = {"values": kind, "num_users": num_users, "method": method, "repeats": REPEATS}
                row["covered"] = float(np.mean((low <= truth) & (truth <= high)))
                rows.append(row | {"mean_width": float(np.mean(high - low))})
    write(here, pd.DataFrame(rows), {"repeats": REPEATS, "resamples": RESAMPLES})


def percentiles(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return 95 % intervals of each row's mean, as percentiles of the means of resampled users."""
    size = values.shape[1]
    counts = rng.multinomial(size, np.full(size, 1 / size), RESAMPLES)
    bounds: np.ndarray = np.quantile(values @ counts.T / size, [0.025, 0.975], axis=1).T
    return bounds


def seconds(here: Setting) -> None:
    """Time an epoch, rankings of all items without and with baselines and intervals, and a ranking of test items."""
    whole = default_data()
    small = jaxmf.splits.temporal_per_user(whole)[::2]
    wide = jaxmf.datasets.synthetic(num_users=6040, num_items=3706, num_ratings=1_000_209, seed=0)
    rows = []
    for name, (train, test) in {whole.name: small, "the shape of ML-1M": jaxmf.splits.random(wide)}.items():
        model, solver, key = jaxmf.models.biased_mf(16), jaxmf.solvers.sgd(), jax.random.key(0)
        hyper = jaxmf.Hyper(learning_rate=0.005, init_scale=0.01)
        fit = jaxmf.fit(key, model, solver, train, hyper=hyper, epochs=10, track=False)
        arguments = (model, fit.params, train, test, K)
        ways: dict[str, Callable[[], Any]] = {
            "all items, the model": partial(evaluate.ranking_by_user, *arguments, baselines=False),
            "all items, with baselines": partial(evaluate.ranking_by_user, *arguments),
            "all items, with baselines and intervals": partial(evaluate.ranking, *arguments),
            "test items, with baselines and intervals": partial(evaluate.ranking, *arguments, "rated"),
        }
        epoch = float(np.median(np.diff(fit.history["seconds"])))
        about = {"data": name, "users": train.num_users, "items": train.num_items, "test ratings": len(test)}
        about["dtype"] = str(fit.params.trained.user["factors"].dtype)
        rows.append(about | {"what": "one epoch of sgd", "seconds": epoch, "epochs": 1.0})
        for name_of_way, way in ways.items():
            # The first call compiles.
            times = [clocked(way) for _ in tqdm(range(ROUNDS + 1), desc=name_of_way, leave=False)]
            median = statistics.median(times[1:])
            row = {"what": name_of_way, "seconds": median, "epochs": median / epoch, "first call": times[0]}
            rows.append(about | row)
    write(here, pd.DataFrame(rows), {"rounds": ROUNDS, "k": K})


def write(here: Setting, table: pd.DataFrame, configuration: dict[str, Any]) -> None:
    """Write the table and its manifest, and print the table."""
    here.write(here.job, table, {}, configuration)
    show(table)


JOBS = {"coverage": coverage, "seconds": seconds}


def main() -> None:
    """Run the job named on the command line."""
    here = setting("evaluation", __doc__ or "", JOBS)
    JOBS[here.job](here)


if __name__ == "__main__":
    main()
