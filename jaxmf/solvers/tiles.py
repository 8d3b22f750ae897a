"""The ratings of a side in tiles: so many rows of similar length at once, their ratings slab by slab.

The program of a half-step loops over tiles and slabs as many times as it is told when it runs. So it does not grow with
the skew of the data, and serves all data of about the same size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.ratings import Ratings, rung, take
from jaxmf.models.memoize import memoize
from jaxmf.models.model import Side
from jaxmf.solvers.devices import AXIS, split

# Ratings of a row in a slab: rows up to these lengths have one, longer ones as many as they need. More kinds would be
# padded less, and compile longer.
_SHORT, _WIDTH = (64, 128), 256
_ROWS = 16  # of a tile on a CPU, whose caches hold what they need
_ROWS_ELSEWHERE = 1 << 10  # an accelerator would wait for its loop


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Half:
    """The ratings of one side's rows, first those of short rows by their width, each kind by length.

    Attributes:
      cells: (devices, cells) positions of ratings, padded with n; or, once they are arranged, the Ratings there. A slab
        is (rows of a tile, width) of them, a tile one slab or several.
      first: (most tiles + 1,) the cell at which each tile begins, and behind the last tile where that ends.
      rows: (devices, most tiles, rows of a tile) which these are, padded with the number of rows.
      ends: for each kind the tile behind its last one, and behind them those of rows without ratings, which have no
        slab, so that the last is the number of tiles.
      place: (num_rows,) where each row stands among the rows of all tiles.
      weighted: (num_rows,) whether a row has ratings of some weight, once they are arranged.
      widths: ratings of a row in a slab, for each kind (static).
      slabs: whether the last kind has tiles of several slabs (static).
    """

    cells: Any
    first: Any
    rows: Any
    ends: tuple[Any, ...]
    place: Any
    weighted: Any
    widths: tuple[int, ...] = field(metadata={"static": True})
    slabs: bool = field(metadata={"static": True})


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


def arranged(layout: Layout, ratings: Ratings, devices: int = 1) -> Layout:
    """The layout with the ratings themselves in its tiles."""
    return Layout(*(half_arranged(getattr(layout, side), ratings, side, devices) for side in get_args(Side)))


def half_arranged(half: Half, ratings: Ratings, side: Side, devices: int = 1) -> Half:
    """The ratings of one side in its tiles."""
    cells = split(take(ratings, half.cells), devices, PartitionSpec(AXIS))
    weight = jax.ops.segment_sum(ratings.weight, getattr(ratings, side), len(half.place))
    return replace(half, cells=cells, weighted=weight > 0)


def single(cells: jax.Array, rows: jax.Array) -> Half:
    """One tile of one slab: positions (m, width) of the ratings of `rows` (m,), which are 0 .. m - 1."""
    first, end, width = jnp.array([0, cells.size], jnp.int32), jnp.array(1, jnp.int32), cells.shape[1]
    return Half(cells.reshape(1, -1), first, rows[None, None], (end, end), rows, None, (width,), False)


def _half(row: np.ndarray, num_rows: int, devices: int) -> Half:
    n, count = len(row), np.bincount(row, minlength=num_rows)
    at_once = _ROWS if jax.default_backend() == "cpu" else _ROWS_ELSEWHERE
    at_once = min(at_once, 1 << (num_rows - 1).bit_length())  # a power of 2, which memory may halve
    widths = (*_SHORT, _WIDTH)
    kind = np.where(count > 0, np.searchsorted(_SHORT, count), len(widths))
    # Tiles of each kind, and how many there may be at most, whatever the lengths.
    dealt, sizes, ends = [], [], []
    for number, width in enumerate((*widths, _WIDTH)):
        rows = np.flatnonzero(kind == number)
        rows = rows[np.argsort(-count[rows], kind="stable")]
        own = np.append(rows, np.full(-len(rows) % (at_once * devices), num_rows)).reshape(-1, at_once, devices)
        dealt.append(own)
        sizes.append(-(-np.append(count, 0)[own[:, 0, 0]] // width) * width)
        ends.append(sum(map(len, dealt)))
    most = num_rows // (at_once * devices) + len(widths) + 1
    tiles = np.pad(np.concatenate(dealt), ((0, most - ends[-1]), (0, 0), (0, 0)), constant_values=num_rows)
    tiles = tiles.transpose(2, 0, 1).astype(np.int32)
    lengths = np.concatenate(sizes)
    first = np.cumsum(np.pad(lengths * at_once, (1, most - ends[-1])))
    # A coarse ladder, since data of one size differ in how much of their tiles is padding; and room for any one slab.
    step, size = rung(n) // 4, max(first[-1], at_once * _WIDTH)
    cells = np.full((devices, -(-size // step) * step), n, np.int32)
    _fill(
        cells, row, count, tiles, first, np.repeat(np.array((*widths, _WIDTH), np.int32), [len(own) for own in dealt])
    )
    place = np.empty(num_rows + 1, np.int32)
    place[tiles.ravel()] = np.arange(tiles.size)
    half = Half(cells, first.astype(np.int32), tiles, tuple(map(np.int32, ends)), place[:-1], None, widths, True)
    return jax.tree.map(jnp.asarray, half)


def _fill(
    cells: np.ndarray, row: np.ndarray, count: np.ndarray, tiles: np.ndarray, first: np.ndarray, width: np.ndarray
) -> None:
    """Put the position of every rating where its row's slabs in the cells are."""
    at_once = tiles.shape[2]
    device, tile, lane = np.unravel_index(np.arange(tiles.size), tiles.shape)
    own = tiles.ravel() < len(count)
    home = np.empty((3, len(count)), np.int32)  # half the memory of int64, for all ratings below
    home[:, tiles.ravel()[own]] = device[own], tile[own], lane[own]
    order = np.argsort(row, kind="stable")
    nth = (np.arange(len(row)) - (np.cumsum(count) - count)[row[order]]).astype(np.int32)
    device, tile, lane = home[:, row[order]]
    slab, column = np.divmod(nth, width[tile])
    cells[device, first[tile] + (slab * at_once + lane) * width[tile] + column] = order
