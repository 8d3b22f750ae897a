"""The rows of one side at their exact minimum, tile by tile, and the derivatives of that."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.array_types import Array, Float
from jaxmf.kernels.floats import join_floats, no_slopes, split_floats
from jaxmf.kernels.normal_equations import (
    dot,
    floor,
    floor_of_short,
    plus_diagonal,
    solve_normal,
    solve_short,
    solve_system,
)
from jaxmf.kernels.slabs import Part, over_parts
from jaxmf.kernels.tiles import Half
from jaxmf.models.least_squares import Quadratic
from jaxmf.models.params import Params
from jaxmf.solvers._slabs import View, cotangent_of, gather_rows, slab_of, weighted_slab, write_rows


def _num_short(half: Half, size: int, background: Quadratic | None) -> int:
    """Return for how many widths the rows of a single slab are solved by the dual system: none with a background.

    These are the widths of at most half the number of unknowns. Beyond that the dual system takes as long as the normal
    equations, and longer to compile.
    """
    return 0 if background is not None else sum(2 * width <= size for width in half.tiles.widths)


def _normal(
    view: View, params: Params, part: Part, background: Quadratic | None, ridge: Float[Array, "m D"]
) -> tuple[Float[Array, "m D D"], Float[Array, "m D"]]:
    """Return A = XᵀX + H + diag(ridge) and b = Xᵀt − h, summed over the slabs of the rows."""

    def add(carry: Any, cells: Ratings, start: Any) -> Any:
        A, b = carry
        X, t = weighted_slab(view, params, cells, ridge.dtype)
        # On a CPU, products along the last axes of both matrices take half as long as others. So Xᵀ is written out.
        Xt = jax.lax.optimization_barrier(X.mT)
        return A + dot(Xt, Xt.mT), b + dot(Xt, t[..., None])[..., 0]

    # The sums start with the ridge, since adding it to them would be another pass over the matrices.
    A = jnp.where(np.eye(ridge.shape[1], dtype=bool)[None], ridge[..., None], 0)
    b = jnp.zeros_like(ridge)
    if background is not None:
        slope = gather_rows(background.slope, part.rows, 0)
        A, b = A + background.curvature.astype(A.dtype)[None], -slope
    A, b = part.slabs(add, (A, b))
    return A, b


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def exact(
    view: View,
    params: Params,
    half: Half,
    ridge: Float[Array, "num_rows D"],
    start: Float[Array, "num_rows D"],
    background: Quadratic | None,
) -> Float[Array, "slots D"]:
    """Return the minimum of all rows, in the slots of the tiles, as one device solves them.

    Reverse-mode derivatives come from the implicit function theorem, tile by tile. Forward mode is not supported.

    Args:
      view: what is solved, and how.
      params: with the other side's rows.
      half: the ratings in tiles, without the axis of devices.
      ridge: the diagonal of the penalty, positive.
      start: the rows before.
      background: a quadratic that is minimized along with the errors of the ratings and the penalty. With it, rows
        without ratings are solved too; without it, they are 0.
    """

    def body(table: jax.Array, part: Part) -> jax.Array:
        R, before = gather_rows(ridge, part.rows, 1), gather_rows(start, part.rows, 0)
        if part.short:
            X, t = part.slabs(lambda _, cells, start: weighted_slab(view, params, cells, R.dtype), None)
            z = solve_short(X, t, R, before)
        else:
            z = solve_normal(*_normal(view, params, part, background, R), R, before)
        return write_rows(table, part, z)

    empty = jnp.zeros((half.tiles.rows.size, ridge.shape[1]), ridge.dtype)
    num_short = _num_short(half, ridge.shape[1], background)
    solution: jax.Array = over_parts(half, view.part_rows, num_short, background is not None, body, empty)
    return solution


def _exact_forward(view: View, *arguments: Any) -> Any:
    z = exact(view, *arguments)
    return z, (*arguments, z)


def _exact_backward(view: View, residuals: Any, cotangent: jax.Array) -> Any:
    """Apply the implicit function theorem to F(z, θ) = XᵀW(X z − t) + H z + h + R z + (S − R)(z − start) = 0.

    dz = −(XᵀWX + H + S)⁻¹ dF, where S is treated as constant.
    """
    params, half, ridge, start, background, solution = residuals
    floats, others = split_floats(params)

    def body(carry: Any, part: Part) -> Any:
        R, before = gather_rows(ridge, part.rows, 1), gather_rows(start, part.rows, 0)
        if part.short:
            X, _ = part.slabs(lambda _, cells, start: weighted_slab(view, params, cells, R.dtype), None)
            S = floor_of_short(X, R)
            A = plus_diagonal(dot(X.mT, X), S)
        else:
            A, _ = _normal(view, params, part, background, R)
            S = floor(A, R)
            A = plus_diagonal(A, S - R)
        tables = (jax.lax.dynamic_slice_in_dim(table, part.slot, len(R), 0) for table in (solution, cotangent))
        z, pull = (table.astype(R.dtype) for table in tables)
        y = solve_system(A, pull)

        def loss(floats: list[jax.Array], value: jax.Array, weight: jax.Array, cells: Ratings) -> jax.Array:
            cells = replace(cells, value=value, weight=weight)
            X, t, w = slab_of(view, join_floats(floats, others), cells, R.dtype)
            image, error = dot(X, y[..., None])[..., 0], dot(X, z[..., None])[..., 0] - t
            return -jnp.sum(w * image * error)

        def add(carry: Any, cells: Ratings, start: jax.Array) -> Any:
            by_params, *by_cells = carry
            more, *slopes = jax.grad(loss, argnums=(0, 1, 2))(floats, cells.value, cells.weight, cells)
            by_cells = [
                jax.lax.dynamic_update_slice_in_dim(table, leaf.ravel(), start, 0)
                for table, leaf in zip(by_cells, slopes, strict=True)
            ]
            return jax.tree.map(jnp.add, by_params, more), *by_cells

        by_ridge, by_start, by_background, *sums = carry
        moved = jnp.where(S > R, before, z)
        by_ridge = by_ridge.at[part.rows].add((-y * moved).astype(by_ridge.dtype), mode="drop")
        by_start = by_start.at[part.rows].add((y * (S - R)).astype(by_start.dtype), mode="drop")
        if by_background is not None:
            by_curvature, by_slope = by_background
            by_background = Quadratic(
                by_curvature - dot(y.mT, z).astype(by_curvature.dtype),
                by_slope.at[part.rows].add(-y.astype(by_slope.dtype), mode="drop"),
            )
        return by_ridge, by_start, by_background, *part.slabs(add, tuple(sums))

    zeros = jax.tree.map(jnp.zeros_like, (ridge, start, background, floats, half.cells.value, half.cells.weight))
    num_short = _num_short(half, ridge.shape[1], background)
    by_ridge, by_start, by_background, by_floats, by_value, by_weight = over_parts(
        half, view.part_rows, num_short, background is not None, body, zeros
    )
    by_params, by_half = join_floats(by_floats, no_slopes(others)), cotangent_of(half, by_value, by_weight)
    return by_params, by_half, by_ridge, by_start, by_background


exact.defvjp(_exact_forward, _exact_backward)
