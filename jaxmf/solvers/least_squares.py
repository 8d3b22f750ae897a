"""The least squares of one side's rows, tile by tile: exact by Cholesky's method, near by conjugate gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Params, Side, pack
from jaxmf.solvers.tiles import Tiles

_ROUNDING = 8  # times eps and the size of a system: a ridge below that part of its diagonal is lost in the sums

dot = partial(jnp.matmul, precision="highest")


class View(NamedTuple):
    """How the rows of one side are seen and solved; static.

    Attributes:
      design: of the model.
      side: whose rows.
      steps: of conjugate gradient, or None for the exact minimum.
      rows: how many at once, a divisor of those of a tile.
    """

    design: Callable[..., tuple[Any, jax.Array]]
    side: Side
    steps: int | None
    rows: int


def solve(X: jax.Array, t: jax.Array, ridge: jax.Array, start: jax.Array) -> jax.Array:
    """The minimizer z (m, D) of ‖t − X z‖² + Σ ridge·z² for each of m rows with c ratings.

    For c ≥ D by the normal equations, see `solve_normal`; for a row with fewer ratings than unknowns by the ratings'
    system, which is smaller and gives the same vector, with R = diag(ridge) and K = X R⁻¹Xᵀ:

        z = R⁻¹Xᵀ (K + I)⁻¹ t

    Args:
      X: (m, c, D), design rows times √w, 0 for padding.
      t: (m, c), targets times √w.
      ridge: (m, D), positive.
      start: (m, D), where the rows are.

    Returns:
      (m, D).
    """
    count, size = X.shape[1:]
    if count >= size:
        return solve_normal(dot(X.mT, X), dot(t[:, None], X)[:, 0], ridge, start)
    scaled = X / ridge[:, None]
    K = dot(scaled, X.mT)
    # S is `grow` times the ridge, alike for all unknowns, so that K / grow + I is the matrix.
    largest = jnp.diagonal(K, axis1=1, axis2=2).max(axis=1)[:, None]
    grow = jnp.maximum(1, _ROUNDING * jnp.finfo(X.dtype).eps * count * largest)
    center = (1 - 1 / grow) * start
    one = jnp.ones_like(K[..., 0])
    z = jax.vmap(_solve)(_with_diagonal(K / grow[..., None], one), t - dot(X, center[..., None])[..., 0])
    return center + dot(z[:, None], scaled)[:, 0] / grow


def solve_normal(A: jax.Array, b: jax.Array, ridge: jax.Array, start: jax.Array) -> jax.Array:
    """The minimizer z (m, D) of zᵀA z − 2 b·z + Σ ridge·z² for each of m rows, A = XᵀX and b = Xᵀt.

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
    S = _floor(A, ridge)
    return jax.vmap(_solve)(_with_diagonal(A, S), b + (S - ridge) * start)


def minima(view: View, params: Params, tiles: Tiles, ridge: jax.Array, start: jax.Array) -> jax.Array:
    """The new rows of these tiles, as one device solves them; sums are at least float32.

    A row without weight becomes 0. Reverse-mode derivatives by params, ratings, ridge and start are those of the
    minimum, by the implicit function and tile by tile; those of conjugate gradients go through the steps as they ran,
    with the design rows of all ratings in memory. Forward mode is not supported.

    Args:
      view: what is solved, and how.
      params: the other side's rows.
      tiles: arranged, without the axis of devices.
      ridge: (num_rows, D), the diagonal of the penalty.
      start: (num_rows, D), where the rows are.

    Returns:
      (tiles · rows of a tile, D), in the order of `tiles.rows`.
    """
    return (_exact if view.steps is None else _near)(view, params, tiles, ridge, start)


def _over_tiles(view: View, tiles: Tiles, body: Callable[..., Any], carry: Any) -> Any:
    """`carry` after `body(carry, rows, slabs, place)` for every tile, or for every part of one that memory allows.

    `body` is given the part's `rows` (m,), the position `place` of the first of them among the rows of all tiles, and a
    loop over the part's slabs: `slabs(function, carry)` is the carry after `function(carry, cells, at)` for each slab,
    whose `cells` are Ratings (m, width), cut out at the index `at`.
    """
    parts = tiles.rows.shape[1] // view.rows

    def step(number: jax.Array, carry: Any) -> Any:
        tile, part = number // parts, number % parts * view.rows
        rows = jax.lax.dynamic_slice(tiles.rows, (tile, part), (1, view.rows))[0]

        def at(slab: jax.Array) -> tuple[Ratings, tuple[jax.Array, ...]]:
            where = (slab, part, jnp.zeros_like(part))

            def cut(leaf: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice(leaf, where, (1, view.rows, leaf.shape[2]))[0]

            return jax.tree.map(cut, tiles.cells), where

        def slabs(function: Callable[..., Any], carry: Any) -> Any:
            if _in_one_slab(tiles):
                return function(carry, *at(tile))
            return jax.lax.fori_loop(
                tiles.first[tile], tiles.first[tile + 1], lambda slab, carry: function(carry, *at(slab)), carry
            )

        return body(carry, rows, slabs, number * view.rows)

    # Indices are int32 as those in the tiles, with float64 too.
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(tiles.rows.shape[0] * parts), step, carry)


def _in_one_slab(tiles: Tiles) -> bool:
    """Whether each tile has all of its ratings in one slab, so that no loop over slabs is needed."""
    return tiles.cells.value.shape[0] == tiles.rows.shape[0]


def _rows_of(table: jax.Array, rows: jax.Array, fill: float) -> jax.Array:
    """Rows of a table in the dtype of sums, and `fill` where a tile has no row."""
    dtype = jnp.promote_types(table.dtype, jnp.float32)
    return table.at[rows].get(mode="fill", fill_value=fill).astype(dtype)


def _block(view: View, params: Params, cells: Ratings, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Design rows (m, width, D), targets and weights (m, width) of a slab."""
    shape = cells.value.shape
    design, target = view.design(params, jax.tree.map(jnp.ravel, cells), view.side)
    return (
        pack(design, cells.value.size).reshape(*shape, -1).astype(dtype),
        target.reshape(shape).astype(dtype),
        cells.weight.astype(dtype),
    )


def _rooted(view: View, params: Params, cells: Ratings, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Design rows and targets times √w, and which rows have weight (m, 1)."""
    design, target, weight = _block(view, params, cells, dtype)
    root = jnp.sqrt(weight)
    return root[..., None] * design, root * target, weight.sum(axis=1, keepdims=True) > 0


def _normal(view: View, params: Params, slabs: Any, like: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """XᵀX, Xᵀt and which rows have weight, summed over the slabs of rows that are like these (m, D)."""

    def add(carry: Any, cells: Ratings, at: Any) -> Any:
        A, b, weighted = carry
        X, t, here = _rooted(view, params, cells, like.dtype)
        return A + dot(X.mT, X), b + dot(t[:, None], X)[:, 0], weighted | here

    empty = jnp.zeros((*like.shape, like.shape[1]), like.dtype), jnp.zeros_like(like), jnp.zeros((len(like), 1), bool)
    return slabs(add, empty)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exact(view: View, params: Params, tiles: Tiles, ridge: jax.Array, start: jax.Array) -> jax.Array:
    def body(table: jax.Array, rows: jax.Array, slabs: Any, place: jax.Array) -> jax.Array:
        R, before = _rows_of(ridge, rows, 1), _rows_of(start, rows, 0)
        if _in_one_slab(tiles):
            X, t, weighted = slabs(lambda _, cells, at: _rooted(view, params, cells, R.dtype), None)
            z = solve(X, t, _positive(R, weighted), before)
        else:
            A, b, weighted = _normal(view, params, slabs, R)
            z = solve_normal(A, b, _positive(R, weighted), before)
        return jax.lax.dynamic_update_slice_in_dim(table, jnp.where(weighted, z, 0).astype(table.dtype), place, 0)

    return _over_tiles(view, tiles, body, jnp.zeros((tiles.rows.size, ridge.shape[1]), ridge.dtype))


def _exact_forward(view: View, params: Params, tiles: Tiles, ridge: jax.Array, start: jax.Array) -> Any:
    z = _exact(view, params, tiles, ridge, start)
    return z, (params, tiles, ridge, start, z)


def _exact_backward(view: View, kept: Any, slope: jax.Array) -> Any:
    """Where F(z, θ) = XᵀW(X z − t) + R z + (S − R)(z − start) is 0, dz = −(XᵀWX + S)⁻¹ dF, S taken as constant."""
    params, tiles, ridge, start, solution = kept
    floats, others = _split(params)

    def body(carry: Any, rows: jax.Array, slabs: Any, place: jax.Array) -> Any:
        R, before = _rows_of(ridge, rows, 1), _rows_of(start, rows, 0)
        A, _, weighted = _normal(view, params, slabs, R)
        R = _positive(R, weighted)
        S = _floor(A, R)
        z, pull = (jax.lax.dynamic_slice_in_dim(table, place, len(R), 0).astype(R.dtype) for table in (solution, slope))
        y = jnp.where(weighted, jax.vmap(_solve)(_with_diagonal(A, S), jnp.where(weighted, pull, 0)), 0)

        def loss(floats: list[jax.Array], value: jax.Array, weight: jax.Array, cells: Ratings) -> jax.Array:
            cells = replace(cells, value=value, weight=weight)
            X, t, w = _block(view, _joined(floats, others), cells, R.dtype)
            image, error = dot(X, y[..., None])[..., 0], dot(X, z[..., None])[..., 0] - t
            return -jnp.sum(w * image * error)

        def add(carry: Any, cells: Ratings, at: Any) -> Any:
            by_params, by_value, by_weight = carry
            given = floats, cells.value, cells.weight
            more, value, weight = jax.grad(loss, argnums=(0, 1, 2))(*given, cells)
            by_value, by_weight = (
                jax.lax.dynamic_update_slice(table, leaf[None], at)
                for table, leaf in ((by_value, value), (by_weight, weight))
            )
            return jax.tree.map(jnp.add, by_params, more), by_value, by_weight

        by_ridge, by_start, *sums = carry
        moved = jnp.where(S > R, before, z)
        by_ridge = by_ridge.at[rows].add((-y * moved).astype(by_ridge.dtype), mode="drop")
        by_start = by_start.at[rows].add((y * (S - R)).astype(by_start.dtype), mode="drop")
        return by_ridge, by_start, *slabs(add, tuple(sums))

    zeros = jax.tree.map(jnp.zeros_like, (ridge, start, floats, tiles.cells.value, tiles.cells.weight))
    by_ridge, by_start, by_floats, by_value, by_weight = _over_tiles(view, tiles, body, zeros)
    return _joined(by_floats, _no_slope(others)), _slope_of(tiles, by_value, by_weight), by_ridge, by_start


_exact.defvjp(_exact_forward, _exact_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _near(view: View, params: Params, tiles: Tiles, ridge: jax.Array, start: jax.Array) -> jax.Array:
    def body(table: jax.Array, rows: jax.Array, slabs: Any, place: jax.Array) -> jax.Array:
        R, z = _rows_of(ridge, rows, 1), _rows_of(start, rows, 0)

        def begin(carry: Any, cells: Ratings, at: Any) -> Any:
            residual, diagonal, weighted = carry
            X, t, here = _rooted(view, params, cells, R.dtype)
            residual = residual + dot((t - dot(X, z[..., None])[..., 0])[:, None], X)[:, 0]
            return residual, diagonal + jnp.sum(X**2, axis=1), weighted | here

        def image(direction: jax.Array) -> jax.Array:
            def add(carry: jax.Array, cells: Ratings, at: Any) -> jax.Array:
                X, _, _ = _rooted(view, params, cells, R.dtype)
                return carry + dot(dot(X, direction[..., None]).mT, X)[:, 0]

            return slabs(add, jnp.zeros_like(direction))

        residual, diagonal, weighted = slabs(
            begin, (jnp.zeros_like(R), jnp.zeros_like(R), jnp.zeros((len(R), 1), bool))
        )
        R = _positive(R, weighted)
        z = _descend(image, diagonal, residual, R, z, view.steps)
        return jax.lax.dynamic_update_slice_in_dim(table, jnp.where(weighted, z, 0).astype(table.dtype), place, 0)

    return _over_tiles(view, tiles, body, jnp.zeros((tiles.rows.size, ridge.shape[1]), ridge.dtype))


def _descend(
    image: Callable[[jax.Array], jax.Array],
    diagonal: jax.Array,
    residual: jax.Array,
    ridge: jax.Array,
    z: jax.Array,
    steps: int | None,
) -> jax.Array:
    """Steps of conjugate gradient from z (m, D), where the residual is Xᵀ(t − X z) and `image(z)` is XᵀX z.

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


def _near_forward(view: View, params: Params, tiles: Tiles, ridge: jax.Array, start: jax.Array) -> Any:
    return _near(view, params, tiles, ridge, start), (params, tiles, ridge, start)


def _near_backward(view: View, kept: Any, slope: jax.Array) -> Any:
    """The same steps over all ratings at once, which JAX differentiates."""
    params, tiles, ridge, start = kept
    floats, others = _split(params)
    size = tiles.rows.shape[1]
    slab = jnp.arange(tiles.cells.value.shape[0])
    tile = jnp.searchsorted(tiles.first, slab, side="right") - 1
    own = (tile[:, None, None] * size + jnp.arange(size)[None, :, None]) + jnp.zeros_like(tiles.cells.user)
    own, rows = own.ravel(), tiles.rows.ravel()

    def steps(
        floats: list[jax.Array], value: jax.Array, weight: jax.Array, ridge: jax.Array, start: jax.Array
    ) -> jax.Array:
        R, z = _rows_of(ridge, rows, 1), _rows_of(start, rows, 0)
        cells = jax.tree.map(jnp.ravel, replace(tiles.cells, value=value, weight=weight))
        X, t, w = _block(view, _joined(floats, others), cells, R.dtype)

        def back(error: jax.Array) -> jax.Array:
            return jax.ops.segment_sum((w * error)[:, None] * X, own, len(rows))

        def forward(z: jax.Array) -> jax.Array:
            return jnp.sum(X * z[own], axis=1)

        weighted = jax.ops.segment_sum(w, own, len(rows))[:, None] > 0
        R = _positive(R, weighted)
        diagonal = jax.ops.segment_sum(w[:, None] * X**2, own, len(rows))
        found = _descend(lambda z: back(forward(z)), diagonal, back(t - forward(z)), R, z, view.steps)
        return jnp.where(weighted, found, 0).astype(ridge.dtype)

    by_floats, by_value, by_weight, by_ridge, by_start = jax.vjp(
        steps, floats, tiles.cells.value, tiles.cells.weight, ridge, start
    )[1](slope)
    return _joined(by_floats, _no_slope(others)), _slope_of(tiles, by_value, by_weight), by_ridge, by_start


_near.defvjp(_near_forward, _near_backward)


def _split(tree: Any) -> tuple[list[jax.Array], Any]:
    """The leaves that have derivatives, and the tree without them."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    others = [None if has else leaf for has, leaf in zip(real, leaves, strict=True)]
    return [leaf for has, leaf in zip(real, leaves, strict=True) if has], (structure, others)


def _joined(floats: list[jax.Array], others: Any) -> Any:
    structure, leaves = others
    floats = list(floats)
    return jax.tree.unflatten(structure, [floats.pop(0) if leaf is None else leaf for leaf in leaves])


def _no_slope(others: Any) -> Any:
    structure, leaves = others
    return structure, [None if leaf is None else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]


def _slope_of(tiles: Tiles, by_value: jax.Array, by_weight: jax.Array) -> Tiles:
    none = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), tiles)
    return none._replace(cells=replace(none.cells, value=by_value, weight=by_weight))


def _floor(A: jax.Array, ridge: jax.Array) -> jax.Array:
    """The ridge, or the least that the sums can tell from 0."""
    eps = _ROUNDING * jnp.finfo(A.dtype).eps * A.shape[-1]
    return jnp.maximum(ridge, eps * jnp.diagonal(A, axis1=1, axis2=2))


def _with_diagonal(A: jax.Array, diagonal: jax.Array) -> jax.Array:
    return A + diagonal[..., None] * jnp.eye(A.shape[-1], dtype=A.dtype)[None]


def _positive(ridge: jax.Array, weighted: jax.Array) -> jax.Array:
    """The ridge where it is positive, NaN elsewhere, so that a fit without a penalty ends as diverged.

    A row is left at 0 because it has no weight, whatever its penalty.
    """
    ridge = jnp.where(weighted, ridge, 1)
    # The root of -1, and no NaN as such: a healthy program has none for JAX_DEBUG_NANS to find.
    return ridge * jnp.sqrt(jnp.where(ridge > 0, 1, -1).astype(ridge.dtype))


def _solve(A: jax.Array, b: jax.Array) -> jax.Array:
    """A⁻¹b, by the Cholesky factor L of A with b below it: its last row is L⁻¹b, one triangular solve less.

    The corner has no say as long as it is more than bᵀA⁻¹b, which is at most Σ w t².
    """
    corner = jnp.full((1, 1), float(jnp.finfo(A.dtype).max) ** 0.8, A.dtype)
    L = jax.lax.linalg.cholesky(jnp.block([[A, b[:, None]], [b[None], corner]]), symmetrize_input=False)
    # Lᵀ times (A⁻¹b, −1) is 0 but for the last number.
    right = jnp.zeros((len(L), 1), A.dtype).at[-1, 0].set(-L[-1, -1])
    return jax.lax.linalg.triangular_solve(L, right, left_side=True, lower=True, transpose_a=True)[:-1, 0]
