"""Least squares of many rows at once: exact by Cholesky's method, approximate by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.kernels.array_types import Array, Bool, Float

_ROUNDING = 8  # times eps and the size of a system: a ridge below that part of the diagonal is lost to rounding

dot = partial(jnp.matmul, precision="highest")


def solve_short(
    X: Float[Array, "m c D"], t: Float[Array, "m c"], ridge: Float[Array, "m D"], start: Float[Array, "m D"]
) -> Float[Array, "m D"]:
    """Return the minimizer z of ‖t − X z‖² + Σ ridge·z² for each of m rows with fewer ratings than unknowns, c < D.

    It solves the dual system, which is smaller than the normal equations and has the same solution. With
    R = diag(ridge) and K = X R⁻¹Xᵀ:

        z = R⁻¹Xᵀ (K + I)⁻¹ t

    Where rounding would hide the ridge, S = grow · R replaces it as in `solve_normal`, with the start as the center:

        z = c + S⁻¹Xᵀ (X S⁻¹Xᵀ + I)⁻¹ (t − X c),  c = (1 − 1 / grow) · start

    Args:
      X: design rows times √w, 0 for padding.
      t: targets times √w.
      ridge: positive; see `floor_of_short` for a ridge that rounding would hide.
      start: the rows before.
    """
    scaled = X / ridge[:, None]
    K, grow = dot(scaled, X.mT), _grow(X, ridge)
    center = (1 - 1 / grow) * start
    identity = np.eye(K.shape[-1], dtype=K.dtype)[None]
    z = solve_system(K / grow[..., None] + identity, t - dot(X, center[..., None])[..., 0])
    return center + dot(z[:, None], scaled)[:, 0] / grow


def solve_normal(
    A: Float[Array, "m D D"], b: Float[Array, "m D"], ridge: Float[Array, "m D"], start: Float[Array, "m D"]
) -> Float[Array, "m D"]:
    """Return the minimizer z of zᵀA z − 2 b·z for each of m rows, with A = XᵀX + diag(ridge) and b = Xᵀt.

    A very small ridge, such as λ = 1e-6 in float32, may be lost to rounding in the sums, so that the matrix is positive
    definite on paper only. There z minimizes the same function plus Σ (S − ridge)·(z − start)², with the smallest S
    that the sums can tell from 0: the objective still never rises, and the fixed points are the same. Scaling the
    diagonal would not help, because the rounding errors of Cholesky's method scale with the rows and columns. In
    float64, S equals the ridge unless λ is as small as about 1e-14 of the squares on the diagonal.
    """
    more = floor(A, ridge) - ridge
    return solve_system(plus_diagonal(A, more), b + more * start)


def conjugate_gradients(
    image: Callable[[jax.Array], jax.Array],
    diagonal: Float[Array, "m D"],
    residual: Float[Array, "m D"],
    ridge: Float[Array, "m D"],
    z: Float[Array, "m D"],
    steps: int | None,
) -> Float[Array, "m D"]:
    """Take some steps of conjugate gradient from z, for each row's matrix A + diag(ridge), A = XᵀX + H.

    The unknowns are scaled so that the matrix has a unit diagonal. So the steps do not depend on the units of the
    ratings, in which factors and biases differ.

    Args:
      image: returns A z for z.
      diagonal: the diagonal of A.
      residual: Xᵀt − h − A z, to which the ridge's part is added here.
      ridge: positive.
      z: where to start.
      steps: number of steps.
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
    state = z, residual, residual, jnp.sum(residual**2, axis=-1)
    # A loop compiles twice as fast as unrolled steps, and runs as fast.
    solution: jax.Array = jax.lax.fori_loop(0, steps, step, state)[0]
    return solution


def floor(A: Float[Array, "m D D"], ridge: Float[Array, "m D"]) -> Float[Array, "m D"]:
    """Return S of `solve_normal`: the ridge, or the smallest one that rounding in A (ridge included) leaves visible."""
    eps = _ROUNDING * jnp.finfo(A.dtype).eps * A.shape[-1]
    return jnp.maximum(ridge, eps * A.reshape(len(A), -1)[:, :: A.shape[-1] + 1])


def floor_of_short(X: Float[Array, "m c D"], ridge: Float[Array, "m D"]) -> Float[Array, "m D"]:
    """Return S of `solve_short`: the ridge times one factor per row."""
    return _grow(X, ridge) * ridge


def _grow(X: Float[Array, "m c D"], ridge: Float[Array, "m D"]) -> Float[Array, "m 1"]:
    """Return the factor by which each row's ridge grows, so that rounding in K / grow + I leaves the I visible."""
    largest = jnp.sum(X**2 / ridge[:, None], axis=-1).max(axis=1, keepdims=True)
    return jnp.maximum(1, _ROUNDING * jnp.finfo(X.dtype).eps * X.shape[1] * largest)


def plus_diagonal(A: Float[Array, "m D D"], diagonal: Float[Array, "m D"]) -> Float[Array, "m D D"]:
    """Add numbers to the diagonals of the matrices without touching anything else."""
    size = A.shape[-1]
    positions = np.arange(size, dtype=np.int32) * (size + 1)
    numbers = A.reshape(len(A), -1).at[:, positions]
    added = numbers.add(diagonal, unique_indices=True, mode="promise_in_bounds", wrap_negative_indices=False)
    return added.reshape(A.shape)


def positive(ridge: Float[Array, "m D"], weighted: Bool[Array, "m 1"]) -> Float[Array, "m D"]:
    """Return the ridge where it is positive and NaN elsewhere, so that a fit without a penalty ends as `diverged`.

    Rows without weight get a ridge of 1: they are set to 0 because they have no weight, whatever their penalty is.
    """
    ridge = jnp.where(weighted, ridge, 1)
    # This is 0 / 0 where the ridge is not positive: with an infinite one instead, the row would be 0.
    return jnp.maximum(ridge, 0) / (ridge > 0).astype(ridge.dtype)


def solve_system(A: Float[Array, "m n n"], b: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Return A⁻¹b for each of m symmetric positive definite matrices, by Cholesky's method."""
    # LAPACK reads a matrix by columns and JAX writes it by rows. The transpose of a symmetric matrix is the same
    # matrix, already in LAPACK's order, so that nothing is reordered.
    L = jax.lax.linalg.cholesky(A.mT, symmetrize_input=False)
    solve = partial(jax.lax.linalg.triangular_solve, L, left_side=True, lower=True)
    return solve(solve(b[..., None]), transpose_a=True)[..., 0]
