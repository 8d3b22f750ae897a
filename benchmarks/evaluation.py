"""Evaluation in numbers: whether its intervals hold, what a known protocol says, and how long it takes.

    python benchmarks/evaluation.py coverage     how often 95 % intervals contain the truth, in 2,000 repeats each, by
                                                 percentiles (as the library has them) and by BCa
    python benchmarks/evaluation.py seconds      rankings among all items beside an epoch of sgd, on the same data and
                                                 in the shape of MovieLens 1M

`seconds` reads MovieLens latest-small where JAXMF_DATA has it, else the embedded data. Medians of 5
rounds, compilation apart. Writes results/benchmarks/evaluation/.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

import jaxmf
from jaxmf import evaluate, output

OUT = Path("results/benchmarks/evaluation")
REPEATS, RESAMPLES, CHUNK = 2000, 1000, 50
ROUNDS = 5
K = 10


def coverage() -> None:
    """Write and print the share of repeats whose interval contains the true mean, for several kinds of values."""
    kinds: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]]] = {
        "precision: binomial(10, beta(1, 4)) / 10": (0.2, lambda rng, n: rng.binomial(10, rng.beta(1, 4, n)) / 10),
        "hit rate: bernoulli(0.3)": (0.3, lambda rng, n: rng.binomial(1, 0.3, n) * 1.0),
        "auc: beta(6, 2)": (0.75, lambda rng, n: rng.beta(6, 2, n)),
        "difference: normal(0, 0.1), 70 % ties": (0.0, lambda rng, n: rng.normal(0, 0.1, n) * (rng.random(n) < 0.3)),
    }
    rows = []
    with tqdm(total=len(kinds) * 2 * 2 * REPEATS) as bar:
        for kind, (truth, draw) in kinds.items():
            for num_users in (50, 200):
                for method in ("percentile", "BCa"):
                    rng, covered, width = np.random.default_rng(0), 0, 0.0
                    for seed in range(REPEATS // CHUNK):
                        low, high = interval(draw(rng, (CHUNK, num_users)), method, seed)
                        covered += int(np.sum((low <= truth) & (truth <= high)))
                        width += float(np.sum(high - low))
                        bar.update(CHUNK)
                    row = {"values": kind, "num_users": num_users, "method": method, "repeats": REPEATS}
                    rows.append(row | {"covered": covered / REPEATS, "mean_width": width / REPEATS})
    table = pd.DataFrame(rows)
    write("coverage", table, {"repeats": REPEATS, "resamples": RESAMPLES})


def interval(values: np.ndarray, method: str, seed: int) -> Any:
    """95 % intervals of each row's mean: the library's own by percentiles, scipy's by any other method."""
    if method == "percentile":
        names = [f"row {row}" for row in range(len(values))]
        table = pd.DataFrame(
            {"model": np.repeat(names, values.shape[1]), "protocol": "rated", "k": K, "threshold": 0.0}
        )
        table["user_id"] = np.tile(np.arange(values.shape[1]), len(values))
        table[list(evaluate.measures.METRICS)] = np.nan
        found = evaluate.summarize(table.assign(precision=values.ravel()), resamples=RESAMPLES, seed=seed)
        return found["low"].to_numpy(), found["high"].to_numpy()
    random = np.random.default_rng(seed)
    return stats.bootstrap(
        (values,), np.mean, axis=1, n_resamples=RESAMPLES, method=method, random_state=random
    ).confidence_interval


def seconds() -> None:
    """Write and print seconds of an epoch, of a ranking of all items, and of the parts around it."""
    real = bool(os.environ.get("JAXMF_DATA"))
    whole = jaxmf.datasets.movielens("ml-latest-small") if real else jaxmf.datasets.synthetic()
    small = jaxmf.splits.temporal_per_user(whole)[::2]
    wide = jaxmf.datasets.synthetic(num_users=6040, num_items=3706, num_ratings=1_000_209, seed=0)
    rows = []
    for name, (train, test) in {whole.name: small, "the shape of ML-1M": jaxmf.splits.random(wide)}.items():
        model, solver, key = jaxmf.models.biased_mf(16), jaxmf.solvers.sgd(), jax.random.key(0)
        hyper = jaxmf.Hyper(learning_rate=0.005, init_scale=0.01)
        fit = jaxmf.fit(key, model, solver, train, hyper=hyper, epochs=10, track=False)
        given = (model, fit.params, train, test, K)
        ways: dict[str, Callable[[], Any]] = {
            "all items, the model": lambda given=given: evaluate.ranking_by_user(*given, baselines=False),
            "all items, with baselines": lambda given=given: evaluate.ranking_by_user(*given),
            "all items, with baselines and intervals": lambda given=given: evaluate.ranking(*given),
            "test items, with baselines and intervals": lambda given=given: evaluate.ranking(*given, "rated"),
        }
        epoch = float(np.median(np.diff(fit.history["seconds"])))
        about = {"data": name, "users": train.num_users, "items": train.num_items, "test ratings": len(test)}
        about["dtype"] = str(fit.params.trained.user["factors"].dtype)
        rows.append(about | {"what": "one epoch of sgd", "seconds": epoch, "epochs": 1.0})
        for what, way in ways.items():
            taken = []
            for _ in tqdm(range(ROUNDS + 1), desc=what, leave=False):  # the first round compiles
                clock = time.perf_counter()
                way()
                taken.append(time.perf_counter() - clock)
            median = statistics.median(taken[1:])
            row = {"what": what, "seconds": median, "epochs": median / epoch, "first call": taken[0]}
            rows.append(about | row)
    write("seconds", pd.DataFrame(rows), {"rounds": ROUNDS, "k": K})


def write(name: str, table: pd.DataFrame, configuration: dict[str, Any]) -> None:
    """The table and its manifest on disk, and the table in print."""
    output.write_table(OUT / f"{name}.csv", table)
    manifest = output.manifest({}, {"job": f"benchmarks/evaluation.py {name}"} | configuration, 0)
    output.write_json(OUT / f"{name}.json", manifest)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


if __name__ == "__main__":
    {"coverage": coverage, "seconds": seconds}[sys.argv[1]]()
