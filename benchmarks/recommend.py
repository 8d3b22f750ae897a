"""The ten best unseen items for every user at MovieLens 1M's shape, and new users, against alternatives in one run.

    python -m benchmarks.recommend top_n     `jaxmf.recommend.top_n` against NumPy's matmul, mask and argpartition,
                                             and against `recommend` of the library implicit, if that is installed
    python -m benchmarks.recommend fold_in   `jaxmf.recommend.fold_in` of 1,000 users against NumPy, one after another

Embedded data, 6,040 users, 3,706 items, 900,000 ratings, k = 64, float32; with --smoke everything is tiny and goes to a
temporary folder. The alternatives take turns, and compilation is timed separately. `top_n` of jaxmf returns a table in
the caller's ids; the alternatives return arrays of row indices. Writes results/benchmarks/recommend/.
"""

import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

import jaxmf
from benchmarks.setting import Setting, alternate, bars, clocked, setting, show, spread

N, BLOCK, HYPER = 10, 1000, jaxmf.Hyper(l2=0.1)


class Sizes(NamedTuple):
    """The sizes of a run."""

    num_users: int = 6040
    num_items: int = 3706
    num_ratings: int = 900_000
    rank: int = 64
    new_users: int = 1000
    rounds: int = 15


TINY = Sizes(num_users=200, num_items=300, num_ratings=6000, rank=8, new_users=50, rounds=3)


def top_n(here: Setting, sizes: Sizes) -> None:
    """Compare the median seconds of all ways to recommend, in alternation, and the items that they recommend."""
    data = jaxmf.datasets.synthetic(sizes.num_users, sizes.num_items, sizes.num_ratings)
    plain, biased = jaxmf.models.mf(sizes.rank, None), jaxmf.models.biased_mf(sizes.rank)
    params = {model: model.init(jax.random.key(0), data.ratings, HYPER) for model in (plain, biased)}
    P, Q = (np.asarray(rows["factors"]) for rows in params[plain].trained[:2])
    seen = csr_matrix((np.ones(len(data), np.float32), (data.user, data.item)), (sizes.num_users, sizes.num_items))
    recommend = jaxmf.recommend.top_n
    ways: dict[str, Callable[[], Any]] = {
        "jaxmf": lambda: recommend(plain, params[plain], data, n=N),
        "jaxmf, seen items too": lambda: recommend(plain, params[plain], data, n=N, filter_seen=False),
        "jaxmf, biased_mf": lambda: recommend(biased, params[biased], data, n=N),
        "NumPy": lambda: by_argpartition(P, Q, seen),
    }
    if find_spec("implicit"):
        from implicit.cpu.als import AlternatingLeastSquares

        with threadpool_limits(1):
            peer = AlternatingLeastSquares(factors=sizes.rank)
        peer.user_factors, peer.item_factors = P, Q
        users = np.arange(sizes.num_users)

        def by_implicit() -> Any:
            with threadpool_limits(1, "blas"):  # as implicit asks for, since it has threads of its own
                return peer.recommend(users, seen, N=N, filter_already_liked_items=True)[0]

        ways["implicit"] = by_implicit
    else:
        print("implicit is skipped; to install it: pip install -e '.[bench]'")
    table = compared(ways, sizes.rounds)
    table["users_per_second"] = sizes.num_users / table["seconds"]
    ours = ways["jaxmf"]()["item_id"].to_numpy().reshape(-1, N)
    peers = {way: data.item_ids.to_numpy()[ways[way]()] for way in ("NumPy", "implicit") if way in ways}
    # Another order of summation swaps items whose scores nearly tie.
    table["same_items"] = [np.mean(ours == peers[way]) if way in peers else np.nan for way in table["way"]]
    write(here, sizes, "top_n", table, data)


def by_argpartition(P: np.ndarray, Q: np.ndarray, seen: csr_matrix) -> np.ndarray:
    """Recommend to blocks of users by matmul, mask, argpartition, and a sort of the ten."""
    blocks = []
    for start in range(0, len(P), BLOCK):
        scores = P[start : start + BLOCK] @ Q.T
        bounds = seen.indptr[start : start + len(scores) + 1]
        scores[np.repeat(np.arange(len(scores)), np.diff(bounds)), seen.indices[bounds[0] : bounds[-1]]] = -np.inf
        best = np.argpartition(scores, -N, axis=1)[:, -N:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        blocks.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(blocks)


def fold_in(here: Setting, sizes: Sizes) -> None:
    """Compare the median seconds of folding in the last users, and the resulting factors."""
    data = jaxmf.datasets.synthetic(sizes.num_users, sizes.num_items, sizes.num_ratings)
    old = data.user < sizes.num_users - sizes.new_users
    known = jaxmf.Dataset.from_frame(data.take(old).to_frame())
    new = data.take(~old & np.isin(data.item_ids[data.item], known.item_ids)).to_frame()
    fit = jaxmf.fit(jax.random.key(0), jaxmf.models.biased_mf(sizes.rank), jaxmf.solvers.als(), known, None, HYPER, 2)
    fold = jaxmf.recommend.fold_in
    ways: dict[str, Callable[[], Any]] = {
        "jaxmf": lambda: fold(fit.model, fit.params, HYPER, known, new)[0].trained.user["factors"],
        "NumPy, one by one": lambda: by_solve(fit.params, known, new),
    }
    table = compared(ways, max(1, sizes.rounds // 3))
    ours, theirs = (np.asarray(ways[way]())[-sizes.new_users :] for way in ways)
    table["users_per_second"] = sizes.new_users / table["seconds"]
    table["largest_difference"] = np.abs(ours - theirs).max()
    write(here, sizes, "fold_in", table, data)


def by_solve(params: jaxmf.Params, known: jaxmf.Dataset, new: pd.DataFrame) -> np.ndarray:
    """Solve the normal equations of one user after another, by `numpy.linalg.solve`."""
    item = {name: np.asarray(leaf) for name, leaf in params.trained.item.items()}
    design = np.append(item["factors"], np.ones((len(item["bias"]), 1), item["bias"].dtype), axis=1)
    target = (new["rating"] - float(params.fixed.shared["mean"])).to_numpy(design.dtype)
    items = known.item_index(new["item_id"])
    solutions = []
    for rows in new.groupby("user_id").indices.values():
        X, t = design[items[rows]], target[rows] - item["bias"][items[rows]]
        penalty = HYPER.l2 * len(rows) * np.eye(X.shape[1], dtype=X.dtype)
        solutions.append(np.linalg.solve(X.T @ X + penalty, X.T @ t)[:-1])
    return np.stack(solutions)


def compared(ways: dict[str, Callable[[], Any]], rounds: int) -> pd.DataFrame:
    """Return the median seconds of every way, alternating by round, and the extra seconds of its first call."""
    first = {way: clocked(call) for way, call in ways.items()}
    seconds = alternate({way: partial(clocked, call) for way, call in ways.items()}, rounds)
    rows = [
        {"way": way, "rounds": rounds} | spread(times) | {"first_call_seconds": first[way] - statistics.median(times)}
        for way, times in seconds.items()
    ]
    table = pd.DataFrame(rows)
    return table.assign(times_of_jaxmf=table["seconds"] / table["seconds"].iloc[0], dtype="float32")


def write(here: Setting, sizes: Sizes, name: str, table: pd.DataFrame, data: jaxmf.Dataset) -> None:
    """Write the table, its manifest and its figure, and print the table."""
    peers = {"implicit": version("implicit")} if "implicit" in set(table["way"]) else {}
    here.write(name, table, data.describe(), {"n": N} | peers | sizes._asdict())
    show(table)
    texts = table["users_per_second"].map("{:,.0f}".format)
    here.figure(name, bars(table["way"], table["users_per_second"], texts, "users per second"))


JOBS = {"top_n": top_n, "fold_in": fold_in}


def main() -> None:
    """Run the job named on the command line."""
    here = setting("recommend", __doc__ or "", JOBS, smoke=True)
    JOBS[here.job](here, TINY if here.smoke else Sizes())


if __name__ == "__main__":
    main()
