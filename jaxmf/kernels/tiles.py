"""The ratings of a side in tiles: so many rows of similar length at once, their ratings slab by slab.

The program of a half-step loops over tiles and slabs as many times as it is told when it runs. So it does not grow with
the skew of the data, and serves all data of about the same size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.ratings import Ratings, Side, padded_size, take
from jaxmf.kernels._memoize import memoize
from jaxmf.kernels.devices import AXIS, shard

# The narrow and the wide slabs, in ratings of a row, where rows have at least so many ratings on average. Splits of
# one size share that mean, and so their programs. A row has as many wide slabs as it fills, and for
# what is left one more, or a narrow one if that holds it. With a third width there would be less padding, but programs
# would take longer to compile.
_WIDTHS = ((128, (64, 128)), (24, (32, 64)), (0, (16, 64)))
_ROWS = 16  # of a tile on a CPU, whose caches hold what they need
_ROWS_ELSEWHERE = 1 << 10  # an accelerator would wait for its loop
_PADDED = 1.5  # times the cells with as many rows of a tile as on a CPU, which it may have at most


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tiles:
    """Which rows of one side are in which tile: first rows that one slab holds, by its width, then longer rows, then
    rows without ratings, the longest of each kind first.

    Attributes:
      first: (most tiles + 1,) the cell at which each tile begins, and behind the last tile where that ends.
      slabs: (most tiles,) how many slabs of the last of `widths` each has. A slab is (rows of a tile, width) of cells.
      left: (most tiles,) how wide the slab behind these is, which is another of `widths`, or 0 for none.
      rows: (devices, most tiles, rows of a tile) which these are, padded with the number of rows.
      ends: how many tiles there are up to and with those of a single slab of each width; with all that have ratings;
        and in all, the last being of rows without ratings, which have no slab.
      place: (num_rows,) where each row stands among the rows of all tiles.
      widths: of slabs, rising (static).
    """

    first: Any
    slabs: Any
    left: Any
    rows: Any
    ends: tuple[Any, ...]
    place: Any
    widths: tuple[int, ...] = field(metadata={"static": True})


class SideLayout(NamedTuple):
    """One side's layout: its tiles, and the positions of the ratings in their cells (devices, cells), padded with n."""

    tiles: Tiles
    position: Any


class Layout(NamedTuple):
    """The layout of the users' ratings, and of the items'."""

    user: SideLayout
    item: SideLayout


class Half(NamedTuple):
    """What a half-step reads of one side: its tiles, the ratings in their cells (devices, cells), and for each row
    whether it has ratings of some weight (num_rows,).
    """

    tiles: Tiles
    cells: Ratings
    weighted: jax.Array


class Halves(NamedTuple):
    """What the half-step of the users reads, and that of the items."""

    user: Half
    item: Half


def rows_per_tile(tiles: Tiles) -> int:
    """Rows of a tile."""
    return int(tiles.rows.shape[-1])


def prepare(ratings: Ratings, devices: int = 1) -> Layout:
    """The ratings of each row, in tiles by length. Host; O(n log n)."""
    return Layout(
        _placed(np.asarray(ratings.user), ratings.num_users, ratings.num_items, devices),
        _placed(np.asarray(ratings.item), ratings.num_items, ratings.num_users, devices),
    )


@memoize
def prepare_for(devices: int) -> Callable[[Ratings], Layout]:
    """`prepare` for so many devices: one function, so that solvers share their layouts."""
    return partial(prepare, devices=devices)


def arrange_tiles(layout: Layout, ratings: Ratings, devices: int = 1) -> Halves:
    """The ratings in the tiles of both sides."""
    return Halves(*(half_of(getattr(layout, side), ratings, side, devices) for side in get_args(Side)))


def half_of(placed: SideLayout, ratings: Ratings, side: Side, devices: int = 1) -> Half:
    """The ratings in the tiles of one side."""
    cells = shard(take(ratings, placed.position), devices, PartitionSpec(AXIS))
    weight = jax.ops.segment_sum(ratings.weight, getattr(ratings, side), len(placed.tiles.place))
    return Half(placed.tiles, cells, weight > 0)


def single(position: jax.Array) -> SideLayout:
    """One tile of one slab: positions (m, width) of the ratings of m rows."""
    num_rows, width = position.shape
    first, slabs, left, end = (jnp.array(number, jnp.int32) for number in ([0, position.size], [1], [0], 1))
    rows = jnp.arange(num_rows)
    tiles = Tiles(first, slabs, left, rows[None, None], (end, end, end), rows, (width,))
    return SideLayout(tiles, position.reshape(1, -1))


def _placed(row: np.ndarray, num_rows: int, longest: int, devices: int) -> SideLayout:
    """The layout of a side whose rows have at most about `longest` ratings."""
    n, count = len(row), np.bincount(row, minlength=num_rows)
    tiles = _tiles(count, devices)
    step = _room(padded_size(n), num_rows, longest, tiles.widths, rows_per_tile(tiles), devices)
    used = int(tiles.first[-1]) + rows_per_tile(tiles) * tiles.widths[-1]  # a slab is read whole, the last one too
    position = np.full((devices, -(-used // step) * step), n, np.int32)
    _fill(position, tiles, row, count)
    return jax.tree.map(jnp.asarray, SideLayout(tiles, position))


def _room(n: int, num_rows: int, longest: int, widths: tuple[int, ...], at_once: int, devices: int) -> int:
    """How many cells of a device hold n ratings of so many rows, however they are spread, up to rare exceptions.

    It follows from numbers that all splits of one size share, where the cells in use depend on chance. Rows have most
    padding if each has one rating more than a slab of some width would hold. Rows of a tile have as many slabs as its
    longest, which takes room of the tile before; only the first of each kind has none before it, and that is long if
    some row has `longest` ratings, for which up to half as much room is added as rows take.
    """
    mean = n / num_rows
    begin = [0, 1, *(width + 1 for width in widths[:-1])]
    rows = num_rows * (np.interp(mean, begin, [0, *widths]) + max(0, mean - begin[-1])) / devices
    first_tiles = at_once * (sum(widths) + widths[-1])
    return int(rows + first_tiles + min(at_once * (longest + widths[-1]), rows / 2))


def _tiles(count: np.ndarray, devices: int) -> Tiles:
    """The tiles of rows of so many ratings."""
    num_rows, widths = len(count), _widths(count)
    at_once = _at_once(count, widths, devices)
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
    table = np.pad(np.concatenate(dealt), ((0, most - ends[-1]), (0, 0), (0, 0)), constant_values=num_rows)
    longest = np.append(count, 0)[table[:, 0, 0]]
    slabs, left = _slabs(longest, widths)
    first = np.cumsum(np.append(0, (slabs * widths[-1] + left) * at_once))
    if first[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"als: {count.sum()} ratings take {first[-1]} cells on a device, which are at most 2³¹ - 1")
    table = table.transpose(2, 0, 1).astype(np.int32)
    place = np.empty(num_rows + 1, np.int32)
    place[table.ravel()] = np.arange(table.size)
    first, slabs, left = (each.astype(np.int32) for each in (first, slabs, left))
    return Tiles(first, slabs, left, table, tuple(map(np.int32, ends)), place[:-1], widths)


def _at_once(count: np.ndarray, widths: tuple[int, ...], devices: int) -> int:
    """Rows of a tile: a power of 2, which memory may halve. All have slabs for the longest, so that where few rows are
    long, an accelerator has fewer rows of a tile too.
    """
    enough = 1 << (len(count) - 1).bit_length()
    if jax.default_backend() == "cpu":
        return min(_ROWS, enough)
    falling = np.sort(count)[::-1]

    def cells(rows: int) -> int:
        return rows * _cells(falling[:: rows * devices], widths)

    rows = min(_ROWS_ELSEWHERE, enough)
    while rows > _ROWS and cells(rows) > _PADDED * cells(_ROWS):
        rows //= 2
    return rows


def _widths(count: np.ndarray) -> tuple[int, ...]:
    """The widths of slabs for rows of so many ratings."""
    return next(widths for least, widths in _WIDTHS if count.mean() >= least)


def _cells(count: np.ndarray, widths: tuple[int, ...]) -> int:
    """How many cells the slabs of rows of so many ratings have."""
    slabs, left = _slabs(count, widths)
    return int((slabs * widths[-1] + left).sum())


def _slabs(count: np.ndarray, widths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How many slabs of the last width rows of so many ratings have, and how wide the one behind them is, or 0."""
    slabs, left = np.divmod(count, widths[-1])
    behind = np.array([0, *widths])[np.searchsorted([0, *widths], left)]
    full = behind == widths[-1]
    return slabs + full, np.where(full, 0, behind)


def _fill(position: np.ndarray, tiles: Tiles, row: np.ndarray, count: np.ndarray) -> None:
    """Put the position of every rating where its row's slabs in the cells are."""
    at_once, widest = rows_per_tile(tiles), tiles.widths[-1]
    device, tile, lane = (own.astype(np.int32) for own in np.unravel_index(tiles.place, tiles.rows.shape))
    order = np.argsort(row, kind="stable")
    row = row[order]
    nth = (np.arange(len(row)) - (np.cumsum(count) - count)[row]).astype(np.int32)
    slab, column = np.divmod(nth, widest)
    width = np.where(slab < tiles.slabs[tile[row]], widest, tiles.left[tile[row]])
    at = slab * at_once * widest + lane[row] * width + column
    position[device[row], tiles.first[tile[row]] + at] = order
