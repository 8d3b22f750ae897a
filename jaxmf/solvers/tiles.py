"""The ratings of a side in tiles: so many rows of similar length at once, their ratings slab by slab.

The program of a half-step loops over tiles and slabs, so it does not grow with the skew of the data.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.ratings import Ratings, take
from jaxmf.models.memoize import memoize
from jaxmf.solvers.devices import AXIS, split
from jaxmf.solvers.solver import Problem

# Ratings of a row in a slab: rows up to these lengths have one, longer ones as many as they need. More kinds would be
# padded less, and compile longer.
_SHORT, _WIDTH = (64, 128), 256
_ROWS = 16  # of a tile on a CPU, whose caches hold what they need
_ROWS_ELSEWHERE = 1 << 12  # an accelerator would wait for its loop


class Tiles(NamedTuple):
    """Rows by length, the longest first.

    Attributes:
      cells: (devices, slabs, rows of a tile, width) positions of ratings, padded with n; or, once they are arranged,
        the Ratings there, of that shape.
      first: (tiles + 1,) the slab at which each tile begins, and the number of slabs.
      rows: (devices, tiles, rows of a tile) which these are, padded with the number of rows.
    """

    cells: Any
    first: Any
    rows: Any


class Half(NamedTuple):
    """The ratings of one side's rows.

    Attributes:
      tiles: those of short rows by their width, then those of long rows.
      place: (num_rows,) where each row stands among the rows of all tiles; their number for a row without ratings.
    """

    tiles: tuple[Tiles, ...]
    place: Any


class Layout(NamedTuple):
    """The ratings of every user, and of every item."""

    user: Half
    item: Half


def prepare(ratings: Ratings, devices: int = 1) -> Layout:
    """The ratings of each row, in tiles by length. Host; O(n log n)."""
    return Layout(
        _half(np.asarray(ratings.user), ratings.num_users, devices),
        _half(np.asarray(ratings.item), ratings.num_items, devices),
    )


@memoize
def prepare_for(devices: int) -> Callable[[Ratings], Layout]:
    """`prepare` for so many devices: one function, so that solvers share their layouts."""
    return partial(prepare, devices=devices)


def arrange(problem: Problem, devices: int) -> Layout:
    """The ratings themselves in the tiles."""
    return Layout(*(arranged(half, problem.ratings, devices) for half in problem.layout))


def arranged(half: Half, ratings: Ratings, devices: int = 1) -> Half:
    """The ratings of one side in its tiles, as they are if they are there already."""
    if isinstance(half.tiles[0].cells, Ratings):
        return half
    # All at once, which compiles faster than one after another.
    positions = [tiles.cells for tiles in half.tiles]
    cells = take(ratings, jnp.concatenate([position.reshape(-1) for position in positions]))
    ends = np.cumsum([position.size for position in positions])
    shaped = [
        jax.tree.map(lambda leaf, end=end, p=position: leaf[end - p.size : end].reshape(p.shape), cells)
        for position, end in zip(positions, ends, strict=True)
    ]
    shares = [split(own, devices, PartitionSpec(AXIS)) for own in shaped]
    return half._replace(tiles=tuple(tiles._replace(cells=own) for tiles, own in zip(half.tiles, shares, strict=True)))


def single(cells: jax.Array, rows: jax.Array) -> Tiles:
    """One tile of one slab: positions (m, width) of the ratings of `rows` (m,)."""
    return Tiles(cells[None, None], jnp.array([0, 1], jnp.int32), rows[None, None])


def _half(row: np.ndarray, num_rows: int, devices: int) -> Half:
    count = np.bincount(row, minlength=num_rows)
    start = np.cumsum(count) - count
    order = np.append(np.argsort(row, kind="stable"), len(row)).astype(np.int32)
    at_once = _ROWS if jax.default_backend() == "cpu" else _ROWS_ELSEWHERE
    tiles: list[Tiles] = []
    above = 0
    for width, longest in (*zip(_SHORT, _SHORT, strict=True), (_WIDTH, len(row))):
        rows = np.flatnonzero((count > above) & (count <= longest))
        above = longest
        if len(rows):
            rows = rows[np.argsort(-count[rows], kind="stable")]
            size = min(at_once, 1 << (len(rows) - 1).bit_length())  # a power of 2, which memory may halve
            tiles.append(_tiles(rows, count, start, order, num_rows, width, size, devices))
    rows = np.concatenate([own.rows.ravel() for own in tiles])
    place = np.full(num_rows + 1, len(rows), np.int32)
    place[rows] = np.arange(len(rows))
    half = Half(tuple(tiles), np.where(count > 0, place[:-1], np.int32(len(rows))))
    return jax.tree.map(jnp.asarray, half)


def _tiles(
    rows: np.ndarray,
    count: np.ndarray,
    start: np.ndarray,
    order: np.ndarray,
    num_rows: int,
    width: int,
    at_once: int,
    devices: int,
) -> Tiles:
    """These rows, sorted by length, in tiles of so many on each device; on the host."""
    size = at_once * devices
    num_slabs = -(-count[rows[::size]] // width)
    first = np.append(0, np.cumsum(num_slabs))
    dealt = np.append(rows, np.full(-len(rows) % size, num_rows)).reshape(-1, at_once, devices).transpose(2, 0, 1)
    tile = np.repeat(np.arange(len(num_slabs)), num_slabs)
    lane = ((np.arange(first[-1]) - first[tile])[:, None] * width + np.arange(width))[None, :, None]
    own, count, start = dealt[:, tile, :, None], np.append(count, 0), np.append(start, 0)
    cells = order[np.where(lane < count[own], start[own] + lane, len(order) - 1)]
    return Tiles(cells, first.astype(np.int32), dealt.astype(np.int32))
