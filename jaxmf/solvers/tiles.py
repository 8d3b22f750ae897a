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

# Ratings of a row in a slab. Rows have as many slabs of the last width as they fill, and for what is left one more, or
# a narrow one if that holds it. With more than two widths less would be padding, and programs would compile longer.
_WIDEST, _NARROW = 128, (64, 32, 16)
_ROWS = 16  # of a tile on a CPU, whose caches hold what they need
_ROWS_ELSEWHERE = 1 << 10  # an accelerator would wait for its loop


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Half:
    """The ratings of one side's rows, first those of short rows by their width, each kind by length.

    Attributes:
      cells: (devices, cells) positions of ratings, padded with n; or, once they are arranged, the Ratings there. A slab
        is (rows of a tile, width) of them. A tile has slabs of the last of `widths`, then one of another or none.
      first: (most tiles + 1,) the cell at which each tile begins, and behind the last tile where that ends.
      rows: (devices, most tiles, rows of a tile) which these are, padded with the number of rows.
      ends: the tile behind those of a single slab, for each width; behind all that have ratings; and the number of
        tiles, the last of which are of rows without ratings and have no slab.
      place: (num_rows,) where each row stands among the rows of all tiles.
      weighted: (num_rows,) whether a row has ratings of some weight, once they are arranged.
      widths: of slabs, rising (static).
    """

    cells: Any
    first: Any
    rows: Any
    ends: tuple[Any, ...]
    place: Any
    weighted: Any
    widths: tuple[int, ...] = field(metadata={"static": True})


class Layout(NamedTuple):
    """The ratings of every user, and of every item."""

    user: Half
    item: Half


def in_tile(half: Half) -> int:
    """Rows of a tile."""
    return int(half.rows.shape[-1])


def slabs_of(half: Half, tile: Any) -> tuple[Any, Any]:
    """How many slabs of the last width a tile has, and how wide the one behind them is, or 0."""
    cells = (half.first[tile + 1] - half.first[tile]) // in_tile(half)
    return cells // half.widths[-1], cells % half.widths[-1]


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
    return Half(cells.reshape(1, -1), first, rows[None, None], (end, end, end), rows, None, (width,))


def _half(row: np.ndarray, num_rows: int, devices: int) -> Half:
    n, count = len(row), np.bincount(row, minlength=num_rows)
    at_once = _ROWS if jax.default_backend() == "cpu" else _ROWS_ELSEWHERE
    at_once = min(at_once, 1 << (num_rows - 1).bit_length())  # a power of 2, which memory may halve
    widths = _widths(count)
    # Tiles of rows that one slab of each width holds, of longer rows, and of rows without ratings.
    kind = np.where(count > 0, np.searchsorted(widths, count), len(widths) + 1)
    dealt = []
    for number in range(len(widths) + 2):
        rows = np.flatnonzero(kind == number)
        rows = rows[np.argsort(-count[rows], kind="stable")]
        dealt.append(np.append(rows, np.full(-len(rows) % (at_once * devices), num_rows)).reshape(-1, at_once, devices))
    ends = np.cumsum([len(own) for own in dealt])
    # As many tiles as there may be, whatever the lengths.
    most = num_rows // (at_once * devices) + len(dealt)
    tiles = np.pad(np.concatenate(dealt), ((0, most - ends[-1]), (0, 0), (0, 0)), constant_values=num_rows)
    longest = np.append(count, 0)[tiles[:, 0, 0]]
    first = np.cumsum(np.append(0, _cells(longest, widths) * at_once)).astype(np.int32)
    tiles = tiles.transpose(2, 0, 1).astype(np.int32)
    # A coarse ladder with room for one more slab, since data of one size differ in how much of their tiles is padding.
    step, size = rung(n) // 2, first[-1] + at_once * widths[-1]
    cells = np.full((devices, -(-size // step) * step), n, np.int32)
    place = np.empty(num_rows + 1, np.int32)
    place[tiles.ravel()] = np.arange(tiles.size)
    half = Half(cells, first, tiles, tuple(map(np.int32, ends)), place[:-1], None, widths)
    _fill(half, row, count)
    return jax.tree.map(jnp.asarray, half)


def _widths(count: np.ndarray) -> tuple[int, ...]:
    """The widths of slabs with which rows of so many ratings have the fewest cells."""
    return min(((narrow, _WIDEST) for narrow in _NARROW), key=lambda widths: _cells(count, widths).sum())


def _cells(count: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """How many cells the slabs of a row of so many ratings have."""
    slabs, left = np.divmod(count, widths[-1])
    return slabs * widths[-1] + np.array([0, *widths])[np.searchsorted([0, *widths], left)]


def _fill(half: Half, row: np.ndarray, count: np.ndarray) -> None:
    """Put the position of every rating where its row's slabs in the cells are."""
    at_once, widest = in_tile(half), half.widths[-1]
    device, tile, lane = (own.astype(np.int32) for own in np.unravel_index(half.place, half.rows.shape))
    order = np.argsort(row, kind="stable")
    row = row[order]
    nth = (np.arange(len(row)) - (np.cumsum(count) - count)[row]).astype(np.int32)
    slabs, left = (own[tile[row]].astype(np.int32) for own in slabs_of(half, np.arange(len(half.first) - 1)))
    slab, column = np.divmod(nth, widest)
    at = slab * at_once * widest + lane[row] * np.where(slab < slabs, widest, left) + column
    half.cells[device[row], half.first[tile[row]] + at] = order
