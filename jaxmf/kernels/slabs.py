"""How a half-step goes over the tiles of a side: part by part, and slab by slab in each."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.kernels.tiles import Half, rows_per_tile


class Part(NamedTuple):
    """As many rows of a tile as are worked on at once.

    Attributes:
      rows: (m,) which these are.
      place: where the first of them stands among the rows of all tiles.
      slabs: `slabs(function, carry)` is the carry after `function(carry, cells, at)` for each slab, whose `cells` are
        Ratings (m, width) that begin at cell `at`.
      short: whether the ratings' system solves these rows, each of one slab (static).
    """

    rows: jax.Array
    place: jax.Array
    slabs: Callable[[Callable[..., Any], Any], Any]
    short: bool


def over_parts(
    half: Half, at_once: tuple[int, ...], num_short: int, all_rows: bool, body: Callable[[Any, Part], Any], carry: Any
) -> Any:
    """`carry` after `body(carry, part)` for every part of every tile, of those of rows without ratings if `all_rows`.

    Tiles of a single slab of the first `num_short` widths have a loop for each width, since the shapes of what `body`
    makes depend on it. All others share one, so that it is compiled once.

    Args:
      half: the side; without the axis of devices, as one of them sees it.
      at_once: rows of a part of a tile whose slabs have each width, divisors of the rows of a tile; the last is that of
        the tiles that share a loop.
      num_short, all_rows: see above.
      body: what is done with a part.
      carry: what the first part is given.
    """
    tiles = half.tiles
    shared = tiles.ends[-1] if all_rows else tiles.ends[-2]
    loops = [*((end, number) for number, end in enumerate(tiles.ends[:num_short])), (shared, None)]
    begin = jnp.zeros_like(shared)
    for end, width in loops:
        together = at_once[-1 if width is None else width]
        parts = rows_per_tile(tiles) // together
        step = partial(_step, half, body, width, together)
        carry = jax.lax.fori_loop(begin * parts, end * parts, step, carry)
        begin = end
    return carry


class _Lanes(NamedTuple):
    """One part of a tile, counted from 0, and how many rows it has."""

    half: Half
    tile: jax.Array
    part: jax.Array
    at_once: int


def _step(
    half: Half, body: Callable[[Any, Part], Any], width: int | None, at_once: int, number: jax.Array, carry: Any
) -> Any:
    """`body` of one part of a tile, counted through all tiles. With a `width` each has a single slab of that."""
    parts = rows_per_tile(half.tiles) // at_once
    tile, part = (number, jnp.zeros_like(number)) if parts == 1 else (number // parts, number % parts)
    rows = jax.lax.dynamic_slice(half.tiles.rows, (tile, part * at_once), (1, at_once))[0]
    lanes = _Lanes(half, tile, part, at_once)
    slabs = partial(_each, lanes) if width is None else partial(_slab, lanes, half.tiles.widths[width], 0)
    return body(carry, Part(rows, number * at_once, slabs, width is not None))


def _slab(lanes: _Lanes, width: int, before: Any, function: Callable[..., Any], carry: Any) -> Any:
    """`function(carry, cells, at)` for the slab of this width that stands behind so many of the last width."""
    half, tile, part, at_once = lanes
    tiles = half.tiles
    at = tiles.first[tile] + before * rows_per_tile(tiles) * tiles.widths[-1] + part * at_once * width

    def block(leaf: jax.Array) -> jax.Array:
        cells = jax.lax.dynamic_slice_in_dim(leaf, at, at_once * width)
        return cells.reshape(at_once, width, *leaf.shape[1:])

    return function(carry, jax.tree.map(block, half.cells), at)


def _each(lanes: _Lanes, function: Callable[..., Any], carry: Any) -> Any:
    """`carry` after `function(carry, cells, at)` for each slab of these rows."""
    *others, widest = lanes.half.tiles.widths
    number, left = lanes.half.tiles.slabs[lanes.tile], lanes.half.tiles.left[lanes.tile]
    carry = jax.lax.fori_loop(
        jnp.zeros_like(number), number, lambda before, carry: _slab(lanes, widest, before, function, carry), carry
    )
    ways: list[Callable[[Any], Any]] = [lambda carry: carry]
    ways += [partial(_slab, lanes, width, number, function) for width in others]
    return jax.lax.switch(sum(left >= width for width in others), ways, carry) if others else carry


def row_of_cells(half: Half) -> jax.Array:
    """Where the row of each cell stands among the rows of all tiles; their number behind the last tile."""
    tiles = half.tiles
    at_once, width = rows_per_tile(tiles), tiles.widths[-1]
    cell = jnp.arange(half.cells.value.size, dtype=tiles.first.dtype)
    tile = jnp.searchsorted(tiles.first, cell, side="right").astype(cell.dtype) - 1
    behind = cell - tiles.first[tile] - tiles.slabs[tile] * at_once * width
    lane = jnp.where(behind < 0, behind // width % at_once, behind // jnp.maximum(tiles.left[tile], 1))
    return jnp.minimum(tile * at_once + lane, tiles.rows.size)
