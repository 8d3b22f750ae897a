"""Known features of the items, dense or sparse, and their products with weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array, issparse

from jaxmf.data.ratings import Ratings

MAX_SOLVED = 256  # weights of a user that are solved jointly; a sweep's cost grows with their cube


class SparseRows(NamedTuple):
    """A sparse matrix by rows, padded to the longest row: `column` and `value` (num_rows, longest), padding 0 and 0.0.

    Gathering rows of both arrays gathers rows of the matrix, so that a batch has the same form.
    """

    column: jax.Array
    value: jax.Array


def as_matrix(features: Any, who: str = "content_mf") -> Any:
    """Return features as a NumPy or CSR array (num_items, F).

    Raise a ValueError, starting with `who`, unless they are a matrix of finite numbers, with at least one row and one
    column.
    """
    matrix: Any = csr_array(features) if issparse(features) else np.asarray(features)
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "biuf":
        raise ValueError(
            f"{who}: features must be a matrix of numbers with one row per item, not {type(features).__name__} of "
            f"shape {matrix.shape} and dtype {matrix.dtype}; jaxmf.content.tfidf makes one"
        )
    if not np.isfinite(matrix.data if issparse(matrix) else matrix).all():
        raise ValueError(f"{who}: features has NaN or infinite entries; expected finite numbers")
    return matrix


def check_features(who: str, matrix: Any, num_items: int) -> None:
    """Raise a ValueError, starting with `who`, unless there is one row per item."""
    if matrix.shape[0] != num_items:
        raise ValueError(
            f"{who}: features has {matrix.shape[0]} rows, the ratings have {num_items} items. Expected one row per "
            "item in the order of Dataset.item_ids, as jaxmf.content.tfidf makes them"
        )


def to_device(matrix: Any, dtype: Any) -> jax.Array | SparseRows:
    """Put a matrix that `as_matrix` returned on the device."""
    if not issparse(matrix):
        return jnp.asarray(np.asarray(matrix, dtype))
    length = np.diff(matrix.indptr)
    lane = np.arange(max(1, length.max()))
    inside = lane < length[:, None]
    column, value = np.zeros(inside.shape, np.int32), np.zeros(inside.shape)
    column[inside], value[inside] = matrix.indices, matrix.data
    return SparseRows(jnp.asarray(column), jnp.asarray(value.astype(dtype)))


def project(weights: jax.Array, x: jax.Array | SparseRows, users: jax.Array, items: jax.Array) -> jax.Array:
    """Return a_u·x_i (n,) for weights a (num_users, F) and index arrays (n,)."""
    if isinstance(x, SparseRows):
        return jnp.sum(weights[users[:, None], x.column[items]] * x.value[items], axis=-1)
    return jnp.sum(weights[users] * x[items], axis=-1)


def project_all(weights: jax.Array, x: jax.Array | SparseRows) -> jax.Array:
    """Return a·x_i (m, num_items) for rows a (m, F) and every item; if sparse, in steps of one nonzero per item."""
    if not isinstance(x, SparseRows):
        return jnp.matmul(weights, x.T, precision="highest")

    def add(total: jax.Array, lane: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        column, value = lane
        return total + weights[:, column] * value[None], None

    zeros = jnp.zeros((weights.shape[0], x.value.shape[0]), weights.dtype)
    return jax.lax.scan(add, zeros, (x.column.T, x.value.T))[0]


def pull_back(error: jax.Array, x: jax.Array | SparseRows, ratings: Ratings, shape: tuple[int, ...]) -> jax.Array:
    """Return Σ_i e_ui x_i per user, (num_users, F): the transpose of `project`."""
    if isinstance(x, SparseRows):
        cell = (ratings.user[:, None], x.column[ratings.item])
        return jnp.zeros(shape, error.dtype).at[cell].add(error[:, None] * x.value[ratings.item])
    return jax.ops.segment_sum(error[:, None] * x[ratings.item], ratings.user, shape[0])


def dense_rows(x: jax.Array | SparseRows, items: jax.Array, width: int) -> jax.Array:
    """Return x_i (n, F) for normal equations; raise a ValueError if F is above `MAX_SOLVED`."""
    if width > MAX_SOLVED:
        raise ValueError(
            f"content_mf: normal equations solve all weights of a user jointly, at most {MAX_SOLVED}, and there are "
            f"{width} features. Reduce them by truncated SVD, as jaxmf.content.tfidf(..., components=64) does, or use "
            "solvers.sgd or solvers.minibatch"
        )
    if isinstance(x, SparseRows):
        row = jnp.arange(items.shape[0])[:, None]
        return jnp.zeros((items.shape[0], width), x.value.dtype).at[row, x.column[items]].add(x.value[items])
    return x[items]
