"""Error measures: pure, weighted functions of arrays."""

import jax
import jax.numpy as jnp

_ROW = 1024


def total(values: jax.Array) -> jax.Array:
    """Return Σ x along the last axis, in blocks: sums of 1,024 numbers, then sums of 1,024 of these sums, and so on.

    Added one after another in float32, ones would only count to 2²⁴. Zeros appended to the numbers change the last bits
    at most. On a CPU they change none if there are more than 1,024 numbers without them and at most 2²⁰ with them.

    >>> float(total(jnp.ones(2**24 + 1024, jnp.float32))) - 2**24
    1024.0
    """
    *others, size = values.shape
    rows = jnp.pad(values, (*[(0, 0) for _ in others], (0, -size % _ROW))).reshape(*others, -1, _ROW)
    # Without the barrier, XLA would merge the sums of all levels into one.
    sums = jax.lax.optimization_barrier(jnp.sum(rows, axis=-1))
    return total(sums) if sums.shape[-1] > 1 else jnp.sum(sums, axis=-1)


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Return Σ w·x / Σ w, or 0 if there is no weight.

    >>> float(weighted_mean(jnp.array([1., 5.]), jnp.array([1., 0.])))
    1.0
    """
    return weighted_sums(weight, values)[1][0]


def weighted_sums(weight: jax.Array, *values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Σ w·x and the weighted mean of each of k arrays (n,): (k,) and (k,). All are computed by one sum."""
    sums = total(jnp.stack([*(weight * array for array in values), weight]))
    return sums[:-1], sums[:-1] / jnp.where(sums[-1] > 0, sums[-1], 1)


def mse(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean squared error, Σ w (r − r̂)² / Σ w, in squared rating units."""
    return weighted_mean((value - prediction) ** 2, weight)


def rmse(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Root mean squared error, √(Σ w (r − r̂)² / Σ w), in rating units."""
    return jnp.sqrt(mse(value, prediction, weight))


def mae(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean absolute error, Σ w |r − r̂| / Σ w, in rating units."""
    return weighted_mean(jnp.abs(value - prediction), weight)
