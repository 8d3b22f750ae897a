"""Error measures: pure, weighted functions of arrays."""

import jax
import jax.numpy as jnp

_ROW = 1024


def total(values: jax.Array) -> jax.Array:
    """Σ x along the last axis, by 1,024 numbers and then by 1,024 of these sums, until one is left.

    One after another, float32 would count ones to 2²⁴ only. Zeros behind the numbers change last bits at most, and none
    on a CPU where there are more than 1,024 numbers before and not more than 2²⁰ after.

    >>> float(total(jnp.ones(2**24 + 1024, jnp.float32))) - 2**24
    1024.0
    """
    *others, size = values.shape
    rows = jnp.pad(values, (*[(0, 0) for _ in others], (0, -size % _ROW))).reshape(*others, -1, _ROW)
    # Without the barrier XLA makes one sum of several.
    sums = jax.lax.optimization_barrier(jnp.sum(rows, axis=-1))
    return total(sums) if sums.shape[-1] > 1 else jnp.sum(sums, axis=-1)


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Σ w·x / Σ w, and 0 where no weight is left.

    >>> float(weighted_mean(jnp.array([1., 5.]), jnp.array([1., 0.])))
    1.0
    """
    return weighted_sums(weight, values)[1][0]


def weighted_sums(weight: jax.Array, *values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ w·x and the weighted mean of each of k arrays (n,), by one sum of all: (k,) and (k,)."""
    sums = total(jnp.stack([*(weight * each for each in values), weight]))
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
