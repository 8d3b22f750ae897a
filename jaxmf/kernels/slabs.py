"""Loops over the tiles of a side: part by part, and within each part slab by slab."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.kernels.tiles import Half, rows_per_tile


class Part(NamedTuple):
    """Rows of one tile that are worked on at once.

    Attributes:
      rows: (m,) their indices.
      slot: the position of the first of them among the rows of all tiles.
      slabs: `slabs(function, carry)` returns the carry after `function(carry, cells, start)` for each slab, where
        `cells` are Ratings (m, width) and `start` is the first cell.
      short: whether these rows, which have one slab each, are solved by the dual system (static).
    """

    rows: jax.Array
    slot: jax.Array
    slabs: Callable[[Callable[..., Any], Any], Any]
    short: bool


def over_parts(
    half: Half, part_rows: tuple[int, ...], num_short: int, all_rows: bool, body: Callable[[Any, Part], Any], carry: Any
) -> Any:
    """Return the carry after `body(carry, part)` for every part of every tile.

    The first `num_short` kinds of tiles, which have a single slab, get a loop each, because the shapes within `body`
    depend on the width. All other tiles share one loop, so that it is compiled once.

    Args:
      half: the side, without the axis of devices, as one device sees it.
      part_rows: rows of a part, by the width of slabs, divisors of the rows of a tile; the last entry is for the loop
        that is shared.
      num_short: number of single-slab kinds whose rows are solved by the dual system.
      all_rows: whether to visit rows without ratings, too.
      body: the work on one part.
      carry: the carry for the first part.
    """
    tiles = half.tiles
    last = tiles.ends[-1] if all_rows else tiles.ends[-2]
    loops = [*((end, index) for index, end in enumerate(tiles.ends[:num_short])), (last, None)]
    start = jnp.zeros_like(last)
    for end, width_index in loops:
        rows = part_rows[-1 if width_index is None else width_index]
        parts = rows_per_tile(tiles) // rows
        step = partial(_step, half, body, width_index, rows)
        carry = jax.lax.fori_loop(start * parts, end * parts, step, carry)
        start = end
    return carry


class _Lanes(NamedTuple):
    """A part of a tile, both by index, and its number of rows."""

    half: Half
    tile: jax.Array
    part: jax.Array
    num_rows: int


def _step(
    half: Half,
    body: Callable[[Any, Part], Any],
    width_index: int | None,
    num_rows: int,
    index: jax.Array,
    carry: Any,
) -> Any:
    """Run `body` on one part, indexed through all tiles. With a `width_index`, it has a single slab of that width."""
    parts = rows_per_tile(half.tiles) // num_rows
    tile, part = (index, jnp.zeros_like(index)) if parts == 1 else (index // parts, index % parts)
    rows = jax.lax.dynamic_slice(half.tiles.rows, (tile, part * num_rows), (1, num_rows))[0]
    lanes = _Lanes(half, tile, part, num_rows)
    if width_index is None:
        slabs = partial(_all_slabs, lanes)
    else:
        slabs = partial(_slab, lanes, half.tiles.widths[width_index], 0)
    return body(carry, Part(rows, index * num_rows, slabs, width_index is not None))


def _slab(lanes: _Lanes, width: int, before: Any, function: Callable[..., Any], carry: Any) -> Any:
    """Call `function` on the slab of this width that stands behind `before` slabs of the largest width."""
    half, tile, part, num_rows = lanes
    tiles = half.tiles
    start = tiles.start[tile] + before * rows_per_tile(tiles) * tiles.widths[-1] + part * num_rows * width

    def block(leaf: jax.Array) -> jax.Array:
        cells = jax.lax.dynamic_slice_in_dim(leaf, start, num_rows * width)
        return cells.reshape(num_rows, width, *leaf.shape[1:])

    return function(carry, jax.tree.map(block, half.cells), start)


def _all_slabs(lanes: _Lanes, function: Callable[..., Any], carry: Any) -> Any:
    """Return the carry after `function(carry, cells, start)` for each slab of these rows."""
    *narrow, widest = lanes.half.tiles.widths
    num_slabs, remainder = lanes.half.tiles.slabs[lanes.tile], lanes.half.tiles.remainder[lanes.tile]
    carry = jax.lax.fori_loop(
        jnp.zeros_like(num_slabs), num_slabs, lambda before, carry: _slab(lanes, widest, before, function, carry), carry
    )
    branches: list[Callable[[Any], Any]] = [lambda carry: carry]
    branches += [partial(_slab, lanes, width, num_slabs, function) for width in narrow]
    return jax.lax.switch(sum(remainder >= width for width in narrow), branches, carry) if narrow else carry


def row_of_cells(half: Half) -> jax.Array:
    """Return the position of each cell's row among the rows of all tiles, and their number behind the last tile."""
    tiles = half.tiles
    tile_rows, width = rows_per_tile(tiles), tiles.widths[-1]
    cell = jnp.arange(half.cells.value.size, dtype=tiles.start.dtype)
    tile = jnp.searchsorted(tiles.start, cell, side="right").astype(cell.dtype) - 1
    behind = cell - tiles.start[tile] - tiles.slabs[tile] * tile_rows * width
    lane = jnp.where(behind < 0, behind // width % tile_rows, behind // jnp.maximum(tiles.remainder[tile], 1))
    return jnp.minimum(tile * tile_rows + lane, tiles.rows.size)
