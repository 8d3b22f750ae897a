"""The rows of one side at their minimum, or nearer to it, tile by tile, and the derivatives of that."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.floats import join_floats, no_slopes, split_floats
from jaxmf.kernels.normal_equations import (
    conjugate_gradients,
    dot,
    floor,
    floor_of_short,
    plus_diagonal,
    solve_normal,
    solve_short,
    solve_system,
)
from jaxmf.kernels.slabs import Part, over_parts, row_of_cells
from jaxmf.kernels.tiles import Half
from jaxmf.models.least_squares import Quadratic, design_rows
from jaxmf.models.params import Params
from jaxmf.models.protocols import Design


class View(NamedTuple):
    """How the rows of one side are seen and solved; static.

    Attributes:
      design: of the model.
      side: whose rows.
      steps: of conjugate gradient, or None for the exact minimum.
      at_once: for slabs of each width, how many of a tile's rows are worked on together, a divisor of all.
    """

    design: Design
    side: Side
    steps: int | None
    at_once: tuple[int, ...]


def minima(
    view: View, params: Params, half: Half, ridge: jax.Array, start: jax.Array, background: Quadratic | None = None
) -> jax.Array:
    """The new rows of all tiles, as one device solves them; sums are at least float32.

    Reverse-mode derivatives by params, ratings, ridge, start and background are those of the minimum, by the implicit
    function and tile by tile; those of conjugate gradients go through the steps as they ran, with the design rows of
    all ratings in memory. Forward mode is not supported.

    Args:
      view: what is solved, and how.
      params: the other side's rows.
      half: arranged, without the axis of devices.
      ridge: (num_rows, D), the diagonal of the penalty, positive.
      start: (num_rows, D), where the rows are.
      background: what is to be minimized beside the ratings' errors and the penalty. With it, rows without ratings are
        solved too; without, they are 0.

    Returns:
      (most tiles · rows of a tile, D), in the order of `half.tiles.rows`.
    """
    return (_exact if view.steps is None else _near)(view, params, half, ridge, start, background)


def _num_short(half: Half, size: int, background: Quadratic | None) -> int:
    """For how many of the widths rows of a single slab are solved by the ratings' system: those of at most half as many
    ratings as there are unknowns. Nearer to that it takes as long, and longer to compile. With a background none are.
    """
    return 0 if background is not None else sum(2 * width <= size for width in half.tiles.widths)


def _rows_of(table: jax.Array, rows: jax.Array, fill: float) -> jax.Array:
    """Rows of a table in the dtype of sums, and `fill` where a tile has no row."""
    dtype = jnp.promote_types(table.dtype, jnp.float32)
    return table.at[rows].get(mode="fill", fill_value=fill).astype(dtype)


def _block(view: View, params: Params, cells: Ratings, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Design rows (m, width, D), targets and weights (m, width) of a slab."""
    design, target = design_rows(view.design, params, cells, view.side)
    return design.astype(dtype), target.astype(dtype), cells.weight.astype(dtype)


def _rooted(view: View, params: Params, cells: Ratings, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Design rows (m, width, D) and targets (m, width) of a slab, times √w."""
    design, target, weight = _block(view, params, cells, dtype)
    root = jnp.sqrt(weight)
    return root[..., None] * design, root * target


def _normal(
    view: View, params: Params, part: Part, background: Quadratic | None, ridge: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """XᵀX + H + diag(ridge) and Xᵀt − h, summed over the slabs of rows with this ridge (m, D)."""

    def add(carry: Any, cells: Ratings, at: Any) -> Any:
        A, b = carry
        X, t = _rooted(view, params, cells, ridge.dtype)
        # Products along the last axis of both matrices take a CPU half as long as those along others, so Xᵀ is written.
        Xt = jax.lax.optimization_barrier(X.mT)
        return A + dot(Xt, Xt.mT), b + dot(Xt, t[..., None])[..., 0]

    # The sums start with the ridge, since to add it to them would be another pass over all numbers of the matrices.
    R = jnp.where(np.eye(ridge.shape[1], dtype=bool)[None], ridge[..., None], 0)
    if background is None:
        return part.slabs(add, (R, jnp.zeros_like(ridge)))
    slope = _rows_of(background.slope, part.rows, 0)
    return part.slabs(add, (R + background.curvature.astype(R.dtype)[None], -slope))


def _written(table: jax.Array, part: Part, z: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(table, z.astype(table.dtype), part.place, 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exact(
    view: View, params: Params, half: Half, ridge: jax.Array, start: jax.Array, background: Quadratic | None
) -> jax.Array:
    def body(table: jax.Array, part: Part) -> jax.Array:
        R, before = _rows_of(ridge, part.rows, 1), _rows_of(start, part.rows, 0)
        if part.short:
            X, t = part.slabs(lambda _, cells, at: _rooted(view, params, cells, R.dtype), None)
            z = solve_short(X, t, R, before)
        else:
            z = solve_normal(*_normal(view, params, part, background, R), R, before)
        return _written(table, part, z)

    empty = jnp.zeros((half.tiles.rows.size, ridge.shape[1]), ridge.dtype)
    num_short = _num_short(half, ridge.shape[1], background)
    return over_parts(half, view.at_once, num_short, background is not None, body, empty)


def _exact_forward(view: View, *given: Any) -> Any:
    z = _exact(view, *given)
    return z, (*given, z)


def _exact_backward(view: View, kept: Any, slope: jax.Array) -> Any:
    """Where F(z, θ) = XᵀW(X z − t) + H z + h + R z + (S − R)(z − start) is 0, dz = −(XᵀWX + H + S)⁻¹ dF, S taken as
    constant.
    """
    params, half, ridge, start, background, solution = kept
    floats, others = split_floats(params)

    def body(carry: Any, part: Part) -> Any:
        R, before = _rows_of(ridge, part.rows, 1), _rows_of(start, part.rows, 0)
        if part.short:
            X, _ = part.slabs(lambda _, cells, at: _rooted(view, params, cells, R.dtype), None)
            S = floor_of_short(X, R)
            A = plus_diagonal(dot(X.mT, X), S)
        else:
            A, _ = _normal(view, params, part, background, R)
            S = floor(A, R)
            A = plus_diagonal(A, S - R)
        own = (jax.lax.dynamic_slice_in_dim(table, part.place, len(R), 0) for table in (solution, slope))
        z, pull = (table.astype(R.dtype) for table in own)
        y = solve_system(A, pull)

        def loss(floats: list[jax.Array], value: jax.Array, weight: jax.Array, cells: Ratings) -> jax.Array:
            cells = replace(cells, value=value, weight=weight)
            X, t, w = _block(view, join_floats(floats, others), cells, R.dtype)
            image, error = dot(X, y[..., None])[..., 0], dot(X, z[..., None])[..., 0] - t
            return -jnp.sum(w * image * error)

        def add(carry: Any, cells: Ratings, at: jax.Array) -> Any:
            by_params, *by_cells = carry
            more, *slopes = jax.grad(loss, argnums=(0, 1, 2))(floats, cells.value, cells.weight, cells)
            by_cells = [
                jax.lax.dynamic_update_slice_in_dim(table, leaf.ravel(), at, 0)
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
        half, view.at_once, num_short, background is not None, body, zeros
    )
    by_params, by_half = join_floats(by_floats, no_slopes(others)), _slope_of(half, by_value, by_weight)
    return by_params, by_half, by_ridge, by_start, by_background


_exact.defvjp(_exact_forward, _exact_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _near(
    view: View, params: Params, half: Half, ridge: jax.Array, start: jax.Array, background: Quadratic | None
) -> jax.Array:
    def body(table: jax.Array, part: Part) -> jax.Array:
        R, z = _rows_of(ridge, part.rows, 1), _rows_of(start, part.rows, 0)

        def begin(carry: Any, cells: Ratings, at: Any) -> Any:
            residual, diagonal = carry
            X, t = _rooted(view, params, cells, R.dtype)
            residual = residual + dot((t - dot(X, z[..., None])[..., 0])[:, None], X)[:, 0]
            return residual, diagonal + jnp.sum(X**2, axis=1)

        def image(direction: jax.Array) -> jax.Array:
            def add(carry: jax.Array, cells: Ratings, at: Any) -> jax.Array:
                X, _ = _rooted(view, params, cells, R.dtype)
                return carry + dot(dot(X, direction[..., None]).mT, X)[:, 0]

            return part.slabs(add, _image(background, direction))

        h, diagonal = _slope_and_diagonal(background, part.rows, R)
        residual, diagonal = part.slabs(begin, (-h - _image(background, z), diagonal))
        return _written(table, part, conjugate_gradients(image, diagonal, residual, R, z, view.steps))

    empty = jnp.zeros((half.tiles.rows.size, ridge.shape[1]), ridge.dtype)
    return over_parts(half, view.at_once, 0, background is not None, body, empty)


def _image(background: Quadratic | None, z: jax.Array) -> jax.Array:
    """H z of rows z (m, D)."""
    return jnp.zeros_like(z) if background is None else dot(z, background.curvature.astype(z.dtype))


def _slope_and_diagonal(background: Quadratic | None, rows: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h of these rows (m, D), and the diagonal of H for each."""
    if background is None:
        return jnp.zeros_like(like), jnp.zeros_like(like)
    diagonal = jnp.diagonal(background.curvature).astype(like.dtype)
    return _rows_of(background.slope, rows, 0), jnp.broadcast_to(diagonal, like.shape)


def _near_forward(view: View, *given: Any) -> Any:
    return _near(view, *given), given


def _near_backward(view: View, kept: Any, slope: jax.Array) -> Any:
    """The same steps over all ratings at once, which JAX differentiates."""
    params, half, ridge, start, background = kept
    (floats, others), own, rows = split_floats(params), row_of_cells(half), half.tiles.rows.ravel()

    def steps(
        floats: list[jax.Array],
        value: jax.Array,
        weight: jax.Array,
        ridge: jax.Array,
        start: jax.Array,
        background: Quadratic | None,
    ) -> jax.Array:
        R, z = _rows_of(ridge, rows, 1), _rows_of(start, rows, 0)
        cells = replace(half.cells, value=value, weight=weight)
        X, t, w = _block(view, join_floats(floats, others), cells, R.dtype)

        def back(error: jax.Array) -> jax.Array:
            return jax.ops.segment_sum((w * error)[:, None] * X, own, len(rows))

        def forward(z: jax.Array) -> jax.Array:
            return jnp.sum(X * z.at[own].get(mode="fill", fill_value=0), axis=1)

        def image(z: jax.Array) -> jax.Array:
            return back(forward(z)) + _image(background, z)

        h, diagonal = _slope_and_diagonal(background, rows, R)
        diagonal = diagonal + jax.ops.segment_sum(w[:, None] * X**2, own, len(rows))
        residual = back(t - forward(z)) - h - _image(background, z)
        return conjugate_gradients(image, diagonal, residual, R, z, view.steps).astype(ridge.dtype)

    given = floats, half.cells.value, half.cells.weight, ridge, start, background
    by_floats, by_value, by_weight, *others_by = jax.vjp(steps, *given)[1](slope)
    return join_floats(by_floats, no_slopes(others)), _slope_of(half, by_value, by_weight), *others_by


_near.defvjp(_near_forward, _near_backward)


def _slope_of(half: Half, by_value: jax.Array, by_weight: jax.Array) -> Half:
    none = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), half)
    return none._replace(cells=replace(none.cells, value=by_value, weight=by_weight))
