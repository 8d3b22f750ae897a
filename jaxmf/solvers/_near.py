"""The rows of one side some conjugate gradient steps nearer to their minimum, and the derivatives of that."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.array_types import Array, Float, Int
from jaxmf.kernels.floats import join_floats, no_slopes, split_floats
from jaxmf.kernels.normal_equations import conjugate_gradients, dot
from jaxmf.kernels.slabs import Part, over_parts, row_of_cells
from jaxmf.kernels.tiles import Half
from jaxmf.models.least_squares import Quadratic
from jaxmf.models.params import Params
from jaxmf.solvers._slabs import View, cotangent_of, gather_rows, slab_of, weighted_slab, write_rows


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def near(
    view: View,
    params: Params,
    half: Half,
    ridge: Float[Array, "num_rows D"],
    start: Float[Array, "num_rows D"],
    background: Quadratic | None,
) -> Float[Array, "slots D"]:
    """Return all rows, in the slots of the tiles, after `view.steps` conjugate gradient steps from the start.

    Arguments are those of `exact`. Reverse-mode derivatives go through the steps, with the design rows of all ratings
    in memory. Forward mode is not supported.
    """

    def body(table: jax.Array, part: Part) -> jax.Array:
        R, z = gather_rows(ridge, part.rows, 1), gather_rows(start, part.rows, 0)

        def first_pass(carry: Any, cells: Ratings, start: Any) -> Any:
            residual, diagonal = carry
            X, t = weighted_slab(view, params, cells, R.dtype)
            residual = residual + dot((t - dot(X, z[..., None])[..., 0])[:, None], X)[:, 0]
            return residual, diagonal + jnp.sum(X**2, axis=1)

        def image(direction: jax.Array) -> Any:
            def add(carry: jax.Array, cells: Ratings, start: Any) -> jax.Array:
                X, _ = weighted_slab(view, params, cells, R.dtype)
                return carry + dot(dot(X, direction[..., None]).mT, X)[:, 0]

            return part.slabs(add, _background_image(background, direction))

        h, diagonal = _slope_and_diagonal(background, part.rows, R)
        residual, diagonal = part.slabs(first_pass, (-h - _background_image(background, z), diagonal))
        return write_rows(table, part, conjugate_gradients(image, diagonal, residual, R, z, view.steps))

    empty = jnp.zeros((half.tiles.rows.size, ridge.shape[1]), ridge.dtype)
    solution: jax.Array = over_parts(half, view.part_rows, 0, background is not None, body, empty)
    return solution


def _background_image(background: Quadratic | None, z: Float[Array, "m D"]) -> Float[Array, "m D"]:
    """Return H z of rows z."""
    return jnp.zeros_like(z) if background is None else dot(z, background.curvature.astype(z.dtype))


def _slope_and_diagonal(
    background: Quadratic | None, rows: Int[Array, " m"], like: Float[Array, "m D"]
) -> tuple[Float[Array, "m D"], Float[Array, "m D"]]:
    """Return h of these rows, and the diagonal of H for each of them."""
    if background is None:
        return jnp.zeros_like(like), jnp.zeros_like(like)
    diagonal = jnp.diagonal(background.curvature).astype(like.dtype)
    return gather_rows(background.slope, rows, 0), jnp.broadcast_to(diagonal, like.shape)


def _near_forward(view: View, *arguments: Any) -> Any:
    return near(view, *arguments), arguments


def _near_backward(view: View, residuals: Any, cotangent: jax.Array) -> Any:
    """Differentiate the same steps, taken over all ratings at once, by JAX."""
    params, half, ridge, start, background = residuals
    (floats, others), row, rows = split_floats(params), row_of_cells(half), half.tiles.rows.ravel()

    def steps(
        floats: list[jax.Array],
        value: jax.Array,
        weight: jax.Array,
        ridge: jax.Array,
        start: jax.Array,
        background: Quadratic | None,
    ) -> jax.Array:
        R, z = gather_rows(ridge, rows, 1), gather_rows(start, rows, 0)
        cells = replace(half.cells, value=value, weight=weight)
        X, t, w = slab_of(view, join_floats(floats, others), cells, R.dtype)

        def back(error: jax.Array) -> jax.Array:
            return jax.ops.segment_sum((w * error)[:, None] * X, row, len(rows))

        def forward(z: jax.Array) -> jax.Array:
            return jnp.sum(X * z.at[row].get(mode="fill", fill_value=0), axis=1)

        def image(z: jax.Array) -> jax.Array:
            return back(forward(z)) + _background_image(background, z)

        h, diagonal = _slope_and_diagonal(background, rows, R)
        diagonal = diagonal + jax.ops.segment_sum(w[:, None] * X**2, row, len(rows))
        residual = back(t - forward(z)) - h - _background_image(background, z)
        return conjugate_gradients(image, diagonal, residual, R, z, view.steps).astype(ridge.dtype)

    arguments = floats, half.cells.value, half.cells.weight, ridge, start, background
    by_floats, by_value, by_weight, *by_others = jax.vjp(steps, *arguments)[1](cotangent)
    by_params = join_floats(by_floats, no_slopes(others))
    return by_params, cotangent_of(half, by_value, by_weight), *by_others


near.defvjp(_near_forward, _near_backward)
