"""Error measures: pure, weighted functions of arrays."""

import jax
import jax.numpy as jnp


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Σ w·x / Σ w, and 0 where no weight is left.

    >>> float(weighted_mean(jnp.array([1., 5.]), jnp.array([1., 0.])))
    1.0
    """
    total = jnp.sum(weight)
    return jnp.sum(weight * values) / jnp.where(total > 0, total, 1)


def mse(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean squared error, Σ w (r − r̂)² / Σ w, in squared rating units."""
    return weighted_mean((value - prediction) ** 2, weight)


def rmse(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Root mean squared error, √(Σ w (r − r̂)² / Σ w), in rating units."""
    return jnp.sqrt(mse(value, prediction, weight))


def mae(value: jax.Array, prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean absolute error, Σ w |r − r̂| / Σ w, in rating units."""
    return weighted_mean(jnp.abs(value - prediction), weight)
