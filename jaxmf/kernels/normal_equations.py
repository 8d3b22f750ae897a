"""The least squares of many rows at once: exact by Cholesky's method, near by conjugate gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ROUNDING = 8  # times eps and the size of a system: a ridge below that part of its diagonal is lost in the sums

dot = partial(jnp.matmul, precision="highest")


def solve_short(X: jax.Array, t: jax.Array, ridge: jax.Array, start: jax.Array) -> jax.Array:
    """The minimizer z (m, D) of ‖t − X z‖² + Σ ridge·z² for each of m rows with c < D ratings.

    By the ratings' system, which is smaller than the normal equations and gives the same vector, with R = diag(ridge)
    and K = X R⁻¹Xᵀ:

        z = R⁻¹Xᵀ (K + I)⁻¹ t

    Where rounding would hide the ridge, S = grow · R takes its place as in `solve_normal`, about the start:

        z = c + S⁻¹Xᵀ (X S⁻¹Xᵀ + I)⁻¹ (t − X c),  c = (1 − 1 / grow) · start

    Args:
      X: (m, c, D), design rows times √w, 0 for padding.
      t: (m, c), targets times √w.
      ridge: (m, D), positive; see `floor_of_short` for one that rounding would hide.
      start: (m, D), where the rows are.

    Returns:
      (m, D).
    """
    scaled = X / ridge[:, None]
    K, grow = dot(scaled, X.mT), _grow(X, ridge)
    center = (1 - 1 / grow) * start
    identity = np.eye(K.shape[-1], dtype=K.dtype)[None]
    z = solve_system(K / grow[..., None] + identity, t - dot(X, center[..., None])[..., 0])
    return center + dot(z[:, None], scaled)[:, 0] / grow


def solve_normal(A: jax.Array, b: jax.Array, ridge: jax.Array, start: jax.Array) -> jax.Array:
    """The minimizer z (m, D) of zᵀA z − 2 b·z for each of m rows, A = XᵀX + diag(ridge) and b = Xᵀt.

    A ridge so small that rounding would hide it from the sums, as λ = 1e-6 may be in float32, leaves a matrix that is
    positive definite on paper only. There z minimizes the same plus Σ (S − ridge)·(z − start)², with the least S that
    the sums can tell from 0: the objective still never rises, and the fixed points are the same. A diagonal scale would
    not help, as the rounding errors of Cholesky's method scale with the rows and columns. In float64 S is the ridge but
    for λ near 1e-14 of the other side's squares.

    Args:
      A: (m, D, D).
      b, ridge, start: (m, D).

    Returns:
      (m, D).
    """
    more = floor(A, ridge) - ridge
    return solve_system(plus_diagonal(A, more), b + more * start)


def conjugate_gradients(
    image: Callable[[jax.Array], jax.Array],
    diagonal: jax.Array,
    residual: jax.Array,
    ridge: jax.Array,
    z: jax.Array,
    steps: int | None,
) -> jax.Array:
    """Steps of conjugate gradient from z (m, D), for the matrix A + diag(ridge) of each row, A = XᵀX + H.

    `image(z)` is A z, `diagonal` that of A, and `residual` is Xᵀt − h − A z: the ridge is added here.

    The unknowns are scaled to a unit diagonal of the matrix, so that the steps do not depend on the units of the
    ratings, in which factors and biases differ.
    """
    unit = jax.lax.rsqrt(diagonal + ridge)  # z = unit · y, and the steps are those of y

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return (a / jnp.where(b > 0, b, 1))[:, None]

    def step(_: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        z, residual, direction, energy = state
        moved = unit * direction
        pulled = unit * (image(moved) + ridge * moved)
        length = ratio(energy, jnp.sum(direction * pulled, axis=-1))
        residual = residual - length * pulled
        before, energy = energy, jnp.sum(residual**2, axis=-1)
        return z + length * moved, residual, residual + ratio(energy, before) * direction, energy

    residual = unit * (residual - ridge * z)
    # A loop compiles twice as fast as its steps one after another, and runs as fast.
    return jax.lax.fori_loop(0, steps, step, (z, residual, residual, jnp.sum(residual**2, axis=-1)))[0]


def floor(A: jax.Array, ridge: jax.Array) -> jax.Array:
    """S (m, D) of `solve_normal`: the ridge, or the least that can be told from 0 in A, the ridge included."""
    eps = _ROUNDING * jnp.finfo(A.dtype).eps * A.shape[-1]
    return jnp.maximum(ridge, eps * A.reshape(len(A), -1)[:, :: A.shape[-1] + 1])


def floor_of_short(X: jax.Array, ridge: jax.Array) -> jax.Array:
    """S (m, D) as `solve_short` has it: the ridge times a number that is alike for all unknowns of a row."""
    return _grow(X, ridge) * ridge


def _grow(X: jax.Array, ridge: jax.Array) -> jax.Array:
    """What a ridge is multiplied by (m, 1), so that the ratings' system K / grow + I keeps its I."""
    largest = jnp.sum(X**2 / ridge[:, None], axis=-1).max(axis=1, keepdims=True)
    return jnp.maximum(1, _ROUNDING * jnp.finfo(X.dtype).eps * X.shape[1] * largest)


def plus_diagonal(A: jax.Array, diagonal: jax.Array) -> jax.Array:
    """The matrices A (m, D, D) with these numbers (m, D) added to their diagonals, and nothing else touched."""
    size = A.shape[-1]
    positions = np.arange(size, dtype=np.int32) * (size + 1)
    numbers = A.reshape(len(A), -1).at[:, positions]
    added = numbers.add(diagonal, unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False)
    return added.reshape(A.shape)


def positive(ridge: jax.Array, weighted: jax.Array) -> jax.Array:
    """The ridge where it is positive and NaN elsewhere, so that a fit without a penalty ends as diverged.

    A row is left at 0 because it has no weight, whatever its penalty.
    """
    ridge = jnp.where(weighted, ridge, 1)
    # 0 / 0 where it is not positive: an infinite ridge would be a very large one, and its row 0.
    return jnp.maximum(ridge, 0) / (ridge > 0).astype(ridge.dtype)


def solve_system(A: jax.Array, b: jax.Array) -> jax.Array:
    """A⁻¹b (m, D) for each of m symmetric positive definite matrices, by Cholesky's method."""
    # LAPACK reads a matrix by columns and JAX writes it by rows. The transpose of a symmetric matrix is the same
    # matrix, already in LAPACK's order, so that nothing is reordered.
    L = jax.lax.linalg.cholesky(A.mT, symmetrize_input=False)
    solve = partial(jax.lax.linalg.triangular_solve, L, left_side=True, lower=True)
    return solve(solve(b[..., None]), transpose_a=True)[..., 0]
