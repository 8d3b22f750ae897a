"""ALS of the library implicit, searched and fitted as `ials` is in experiments.implicit_feedback."""

import time
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from experiments.implicit_measures import Split, validated
from jaxmf import Model, Params, Rows, models
from jaxmf.data import Dataset

NAME = "ALS of implicit"


class Peer(NamedTuple):
    """The arguments of implicit: the rank, the confidence of a like, the penalty of a row, and the iterations."""

    rank: int
    alpha: float
    regularization: float
    iterations: int


def is_installed() -> bool:
    """Return whether the library can be imported."""
    return find_spec("implicit") is not None


def fit(peer: Peer, likes: Dataset, seed: int) -> tuple[Model, Params, float]:
    """Fit its default, three steps of conjugate gradient per row; return its factors as a model, and the seconds.

    It minimizes Σ c_ui (p_ui − r̂_ui)² + λ (Σ ‖p_u‖² + Σ ‖q_i‖²) over all cells, with p = 1 and c = alpha for likes and
    p = 0 and c = 1 elsewhere: the objective of `ials` with α0 = 1 / (alpha − 1), ν = 0, and all of it divided by α0.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    cells = (np.ones(len(likes), np.float32), (likes.user, likes.item))
    matrix = csr_matrix(cells, shape=(likes.num_users, likes.num_items))
    names = {"factors": peer.rank, "alpha": peer.alpha, "regularization": peer.regularization}
    with threadpool_limits(1, "blas"):  # as implicit asks for, since it has threads of its own
        its = AlternatingLeastSquares(**names, iterations=peer.iterations, random_state=seed)
        clock = time.perf_counter()
        its.fit(matrix, show_progress=False)
    seconds = time.perf_counter() - clock
    factors: Any = ({"factors": jnp.asarray(rows)} for rows in (its.user_factors, its.item_factors))
    return models.ials(peer.rank), Params(Rows(*factors)), seconds


def tried(peers: list[Peer], split: Split, seed: int) -> pd.DataFrame:
    """Fit every setting; return a table with the NDCG@10 of all validation users."""
    rows = []
    for peer in tqdm(peers, desc=NAME):
        model, params, seconds = fit(peer, split.train, seed)
        weight = 1 / (peer.alpha - 1)
        ours = {"rank": peer.rank, "unobserved": weight, "l2": peer.regularization * weight, "reg_exponent": 0.0}
        rows.append({**ours, **peer._asdict(), "epoch": peer.iterations, "seconds": seconds})
        rows[-1]["valid_ndcg"] = validated(model, params, split)
    return pd.DataFrame(rows)


def search(
    split: Split,
    unobserved: tuple[float, ...],
    penalties: tuple[float, ...],
    ranks: tuple[int, ...],
    iterations: int,
    seed: int,
) -> tuple[pd.DataFrame, Peer]:
    """Try as many settings as `search_ials` does; return the table, and the best.

    These are every α0 and λ at the first rank, four penalties around those of the three best, and the three best of all
    at the other ranks. A penalty λ at ν = 1 becomes λ s for every row, with s the geometric mean of |I| and |U|.
    """
    s = (split.train.num_users * split.train.num_items) ** 0.5
    cells = [Peer(ranks[0], 1 + 1 / weight, s * l2, iterations) for weight, l2 in product(unobserved, penalties)]
    table = tried(cells, split, seed)
    between = product(best_of(table, 3), (0.6, 0.8, 1.25, 1.6))
    nearer = [peer._replace(regularization=factor * peer.regularization) for peer, factor in between]
    table = pd.concat([table, tried(nearer, split, seed)], ignore_index=True)
    others = [peer._replace(rank=rank) for rank, peer in product(ranks[1:], best_of(table, 3))]
    table = pd.concat([table, tried(others, split, seed)], ignore_index=True)
    return table, best_of(table, 1)[0]


def best_of(table: pd.DataFrame, n: int) -> list[Peer]:
    """Return the n settings with the highest NDCG@10 on validation."""
    best = table.nlargest(n, "valid_ndcg")[list(Peer._fields)]
    return [Peer(int(rank), alpha, penalty, int(count)) for rank, alpha, penalty, count in best.to_numpy().tolist()]
