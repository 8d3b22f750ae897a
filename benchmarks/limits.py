"""The machine's limits: work counted by formula, and the ceilings measured in the same run.

Times are compared with the roofline of Williams, Waterman and Patterson (2009): a work takes at least as long as its
operations at the speed of a matrix product, and at least as long as its bytes at the speed of a copy. The bytes are
those that the algorithm touches, with every gathered row counted once per rating, so that tables that stay in a cache
may beat the second bound.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.setting import clocked
from jaxmf import Dataset, Ratings

_FLOAT, _INDEX = 4, 4  # bytes
_MATRIX, _COPY, _ROUNDS = 2048, 1 << 28, 5  # rows, bytes, rounds


class Work(NamedTuple):
    """Operations and bytes of one epoch."""

    flops: float
    bytes: float


class Ceilings(NamedTuple):
    """Operations per second of a matrix product in float32, and bytes per second of a copy, read and written."""

    flops: float
    bytes: float


def counts(data: Dataset | Ratings) -> list[np.ndarray]:
    """Return the number of ratings of every user, and of every item."""
    return [np.bincount(data.user, minlength=data.num_users), np.bincount(data.item, minlength=data.num_items)]


def als_parts(counts: list[np.ndarray], k: int) -> dict[str, Work]:
    """Count the parts of one exact sweep. A row has c ratings (`counts`, an array per side) and k unknowns;
    m = min(c, k):

    designs     per rating, reads a row of the other side and its index, and writes the row
    products    c k (k + 1), the upper triangle of XᵀX, or for c < k, m (m + 1) k of XXᵀ; 2 c k for Xᵀt, or for the
                way back from the dual solution; reads X and writes the matrix
    solves      m³/3 + 2 m², Cholesky and two triangular solves; reads the matrix and writes the solution
    """
    c = _lengths(counts)
    m = np.minimum(c, k)
    gram = np.where(c < k, m * (m + 1) * k, c * k * (k + 1))
    return {
        "designs": Work(0.0, float(np.sum(c * (2 * _FLOAT * k + _INDEX)))),
        "products": Work(float(np.sum(gram + 2 * c * k)), _FLOAT * float(np.sum(c * k + m**2))),
        "solves": Work(float(np.sum(m**3 / 3 + 2 * m**2)), _FLOAT * float(np.sum(m**2 + k))),
    }


def als_work(counts: list[np.ndarray], k: int) -> Work:
    """Count one exact sweep: the operations of its parts, and the bytes if designs never leave a cache: per rating a
    row of the other side, its index and the rating; per row the solution.
    """
    flops = sum(part.flops for part in als_parts(counts, k).values())
    return Work(flops, float(np.sum(_lengths(counts) * (_FLOAT * k + _INDEX + _FLOAT) + _FLOAT * k)))


def cg_work(counts: list[np.ndarray], k: int, steps: int) -> Work:
    """Count one sweep of matrix-free conjugate gradient: per rating and step, and once for the first residual, a dot
    product and an addition of a row, 4 k operations; per row and step, 10 k for three vectors and two products.
    """
    c = _lengths(counts)
    touched = (steps + 1) * c * (_FLOAT * k + _INDEX + _FLOAT) + 2 * _FLOAT * k
    return Work(float(np.sum((steps + 1) * 4 * c * k + steps * 10 * k)), float(np.sum(touched)))


def sgd_work(num_ratings: int, k: int) -> Work:
    """Count one epoch of per-sample SGD with biases: a dot product (2 k) and p ← (1 − lr λ) p + (lr e) q for both rows
    (6 k); both rows are read and written.
    """
    row = k + 1
    return Work(8.0 * num_ratings * row, num_ratings * (4.0 * _FLOAT * row + 2 * _INDEX + _FLOAT))


def rows_work(num_ratings: int, k: int, added: bool = False) -> Work:
    """Count a gather of one row of k numbers per rating; or, if `added`, a scatter-add, which also reads its table."""
    return Work(float(added * num_ratings * k), num_ratings * ((3 if added else 2) * _FLOAT * float(k) + _INDEX))


def adam_work(num_ratings: int, num_rows: int, k: int, batch_size: int) -> Work:
    """Count one epoch of dense minibatch Adam: per rating 2 k for r̂ and 4 k for the gradient's rows, which are read
    twice and written once; per step and parameter 2 for the penalty and 12 for Adam, and 8 numbers: gradient, parameter
    and both moments are read and written.
    """
    dense = -(-num_ratings // batch_size) * num_rows * float(k)
    touched = num_ratings * (6.0 * _FLOAT * k + 2 * _INDEX + _FLOAT) + 8 * _FLOAT * dense
    return Work(6.0 * num_ratings * k + 14 * dense, touched)


def measure(threads: int = 1) -> Ceilings:
    """Measure the ceilings, the best of five rounds: a product of 2048 × 2048 matrices by JAX and, on a CPU, by NumPy;
    and a copy, of 256 MiB by `threads` threads on a CPU, of 1 GiB on other devices.
    """
    B = jnp.ones((_MATRIX, _MATRIX), jnp.float32)
    product = jax.jit(partial(jnp.matmul, precision="highest"))
    fastest = _best(lambda: product(B, B))
    if jax.default_backend() != "cpu":
        array = jnp.ones(4 * _COPY // _FLOAT, jnp.float32)
        copy = jax.jit(lambda x: x + 1)
        return Ceilings(2.0 * _MATRIX**3 / fastest, 8.0 * _COPY / _best(lambda: copy(array)))
    A = np.ones((_MATRIX, _MATRIX), np.float32)
    fastest = min(fastest, _best(lambda: A @ A))
    source, target = np.ones(_COPY // _FLOAT, np.float32), np.empty(_COPY // _FLOAT, np.float32)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copied = _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return Ceilings(2.0 * _MATRIX**3 / fastest, 2.0 * _COPY / copied)


def beside(work: Work, ceilings: Ceilings, seconds: float) -> dict[str, float]:
    """Return columns: the work, the speed that it reached, the ceilings, and the share of the roofline."""
    bound = max(work.flops / ceilings.flops, work.bytes / ceilings.bytes)
    return {
        "gflop": work.flops / 1e9,
        "gigabytes": work.bytes / 1e9,
        "gflops_reached": work.flops / seconds / 1e9,
        "gflops_ceiling": ceilings.flops / 1e9,
        "gigabytes_per_second_reached": work.bytes / seconds / 1e9,
        "gigabytes_per_second_ceiling": ceilings.bytes / 1e9,
        "share_of_ceiling": bound / seconds,
    }


def _lengths(counts: list[np.ndarray]) -> np.ndarray:
    """Return the number of ratings of each row of both sides, without rows that have none."""
    return np.concatenate([side[side > 0] for side in counts]).astype(float)


def _best(call: Callable[[], Any]) -> float:
    call()
    return min(clocked(call) for _ in range(_ROUNDS))
