"""What the objective adds to the squared errors, as a quadratic form in the rows of one side."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Side
from jaxmf.models.model import Hyper, Model, Params, Rows, pack, unpack


class Quadratic(NamedTuple):
    """A function Σ_rows (zᵀ H z + 2 h·z) + constant of one side's rows z.

    Attributes:
      curvature: H (D, D), alike for all rows.
      slope: h (num_rows, D).
    """

    curvature: jax.Array
    slope: jax.Array


def ridge_of(model: Model, trained: Rows, weight: Rows, hyper: Hyper, side: Side, num_rows: int) -> jax.Array:
    """The diagonal of the penalty's quadratic form, (num_rows, D): half its gradient at 1."""

    def penalty(rows: object) -> jax.Array:
        return model.penalty(trained._replace(**{side: rows}), weight, hyper)

    return pack(jax.grad(penalty)(jax.tree.map(jnp.ones_like, getattr(trained, side))), num_rows) / 2


def background_of(model: Model, params: Params, hyper: Hyper, side: Side, num_rows: int) -> Quadratic | None:
    """The model's `background` as a function of one side's rows: half its Hessian in one of them, and half its gradient
    where all are 0. None without a `background`.
    """
    background = model.background
    if background is None:
        return None
    like, fixed = getattr(params.trained, side), getattr(params.fixed, side)

    def of_rows(rows: Any, fixed: Any) -> jax.Array:
        trained = params.trained._replace(**{side: rows})
        return background(Params(trained, params.fixed._replace(**{side: fixed})), hyper)

    def of_one(z: jax.Array) -> jax.Array:
        return of_rows(unpack(z[None], like), jax.tree.map(lambda leaf: leaf[:1], fixed))

    zeros = jax.tree.map(jnp.zeros_like, like)
    slope = pack(jax.grad(of_rows)(zeros, fixed), num_rows) / 2
    return Quadratic(jax.hessian(of_one)(jnp.zeros_like(slope[0])) / 2, slope)
