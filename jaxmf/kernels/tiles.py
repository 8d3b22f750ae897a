"""The ratings of one side, laid out in tiles: rows with similar numbers of ratings, whose ratings come in slabs.

A half-step loops over tiles and slabs, and their numbers are known only when it runs. So its program does not grow with
the skew of the data, and one program serves all data of about the same size.
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

# (minimum mean number of ratings per row, widths of narrow and wide slabs). Splits of one size have the same mean and
# so share their programs. A row has as many wide slabs as it fills, and one more for the rest: a narrow one if that is
# wide enough. A third width would save padding, but programs would take longer to compile.
_WIDTHS = ((128, (64, 128)), (24, (32, 64)), (0, (16, 64)))
_ROWS = 16  # of a tile on a CPU, whose caches hold what these rows need
_ROWS_ELSEWHERE = 1 << 10  # an accelerator would wait for its loop with fewer
_MAX_PADDING = 1.5  # most cells on an accelerator, relative to those in tiles of `_ROWS` rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tiles:
    """Which rows of one side are in which tile.

    Tiles come in kinds: for each slab width, rows that a single slab holds; then longer rows; then rows without
    ratings. Within a kind, rows are sorted by falling number of ratings. A slab has the shape (rows of a tile, width).

    Attributes:
      start: (max tiles + 1,) the first cell of each tile, and the end of the last tile.
      slabs: (max tiles,) number of slabs of the largest width.
      remainder: (max tiles,) width of the slab behind these, one of the smaller `widths`, or 0 if there is none.
      rows: (devices, max tiles, rows of a tile) row indices, padded with the number of rows.
      ends: cumulative number of tiles after each kind; `ends[-2]` counts those with ratings, `ends[-1]` all.
      slot: (num_rows,) position of each row among the rows of all tiles.
      widths: rising widths of slabs (static).
    """

    start: Any
    slabs: Any
    remainder: Any
    rows: Any
    ends: tuple[Any, ...]
    slot: Any
    widths: tuple[int, ...] = field(metadata={"static": True})


class SideLayout(NamedTuple):
    """One side's tiles, and for each of their cells (devices, cells) the position of its rating, n for padding."""

    tiles: Tiles
    position: Any


class Layout(NamedTuple):
    """The layouts of the users' ratings and of the items' ratings."""

    user: SideLayout
    item: SideLayout


class Half(NamedTuple):
    """What a half-step reads of one side.

    Attributes:
      tiles: its tiles.
      cells: the ratings in their cells (devices, cells).
      weighted: (num_rows,) whether each row has ratings with weight.
    """

    tiles: Tiles
    cells: Ratings
    weighted: jax.Array


class Halves(NamedTuple):
    """What the half-step of the users and that of the items read."""

    user: Half
    item: Half


def rows_per_tile(tiles: Tiles) -> int:
    """Number of rows of a tile."""
    return int(tiles.rows.shape[-1])


def prepare(ratings: Ratings, devices: int = 1) -> Layout:
    """Lay out the ratings of both sides in tiles, on the host. Cost: O(n log n)."""
    return Layout(
        _side_layout(np.asarray(ratings.user), ratings.num_users, ratings.num_items, devices),
        _side_layout(np.asarray(ratings.item), ratings.num_items, ratings.num_users, devices),
    )


@memoize
def prepare_for(devices: int) -> Callable[[Ratings], Layout]:
    """Return `prepare` for a number of devices; always the same function, so that solvers share their layouts."""
    return partial(prepare, devices=devices)


def arrange_tiles(layout: Layout, ratings: Ratings, devices: int = 1) -> Halves:
    """Gather the ratings into the tiles of both sides."""
    return Halves(*(half_of(getattr(layout, side), ratings, side, devices) for side in get_args(Side)))


def half_of(layout: SideLayout, ratings: Ratings, side: Side, devices: int = 1) -> Half:
    """Gather the ratings into the tiles of one side."""
    cells = shard(take(ratings, layout.position), devices, PartitionSpec(AXIS))
    weight = jax.ops.segment_sum(ratings.weight, getattr(ratings, side), len(layout.tiles.slot))
    return Half(layout.tiles, cells, weight > 0)


def single(position: jax.Array) -> SideLayout:
    """Return the layout of one tile with a single slab: positions (m, width) of the ratings of m rows."""
    num_rows, width = position.shape
    start, slabs, remainder, end = (jnp.array(value, jnp.int32) for value in ([0, position.size], [1], [0], 1))
    rows = jnp.arange(num_rows)
    tiles = Tiles(start, slabs, remainder, rows[None, None], (end, end, end), rows, (width,))
    return SideLayout(tiles, position.reshape(1, -1))


def _side_layout(row: np.ndarray, num_rows: int, longest: int, devices: int) -> SideLayout:
    """Lay out a side whose rows have at most about `longest` ratings."""
    n, count = len(row), np.bincount(row, minlength=num_rows)
    tiles = _tiles(count, devices)
    step = _room(padded_size(n), num_rows, longest, tiles.widths, rows_per_tile(tiles), devices)
    used = int(tiles.start[-1]) + rows_per_tile(tiles) * tiles.widths[-1]  # the last slab is read at full width, too
    position = np.full((devices, -(-used // step) * step), n, np.int32)
    _fill(position, tiles, row, count)
    layout: SideLayout = jax.tree.map(jnp.asarray, SideLayout(tiles, position))
    return layout


def _room(n: int, num_rows: int, longest: int, widths: tuple[int, ...], tile_rows: int, devices: int) -> int:
    """Return how many cells a device needs for n ratings of the rows, whatever their distribution, but for rare ones.

    It depends only on numbers that all splits of one size share, while the number of cells in use depends on chance.
    Padding is worst if every row has one rating more than a slab of some width holds. All rows of a tile have as many
    slabs as the longest one, which is at most as long as the shortest row of the tile before, so that their padding
    fits into the room of that tile; only the first tile of each kind has no tile before it. If some row has `longest`
    ratings, that tile is long: room for it is added, up to half of what the rows need.
    """
    mean = n / num_rows
    worst = [0, 1, *(width + 1 for width in widths[:-1])]
    rows = num_rows * (np.interp(mean, worst, [0, *widths]) + max(0, mean - worst[-1])) / devices
    first_tiles = tile_rows * (sum(widths) + widths[-1])
    return int(rows + first_tiles + min(tile_rows * (longest + widths[-1]), rows / 2))


def _tiles(count: np.ndarray, devices: int) -> Tiles:
    """Put rows with these numbers of ratings into tiles."""
    num_rows, widths = len(count), _widths(count)
    tile_rows = _tile_rows(count, widths, devices)
    # The kinds: a single slab of each width, longer rows, and rows without ratings.
    kind_of_row = np.where(count > 0, np.searchsorted(widths, count), len(widths) + 1)
    kinds = []
    for kind in range(len(widths) + 2):
        rows = np.flatnonzero(kind_of_row == kind)
        rows = rows[np.argsort(-count[rows], kind="stable")]
        padding = np.full(-len(rows) % (tile_rows * devices), num_rows)
        kinds.append(np.append(rows, padding).reshape(-1, tile_rows, devices))
    ends = np.cumsum([len(tiles) for tiles in kinds])
    max_tiles = num_rows // (tile_rows * devices) + len(kinds)  # whatever the numbers of ratings
    table = np.pad(np.concatenate(kinds), ((0, max_tiles - ends[-1]), (0, 0), (0, 0)), constant_values=num_rows)
    longest = np.append(count, 0)[table[:, 0, 0]]
    slabs, remainder = _slabs(longest, widths)
    start = np.cumsum(np.append(0, (slabs * widths[-1] + remainder) * tile_rows))
    if start[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"als: {count.sum()} ratings take {start[-1]} cells on a device; expected at most 2³¹ - 1. Use more devices"
        )
    table = table.transpose(2, 0, 1).astype(np.int32)
    slot = np.empty(num_rows + 1, np.int32)
    slot[table.ravel()] = np.arange(table.size)
    start, slabs, remainder = (array.astype(np.int32) for array in (start, slabs, remainder))
    return Tiles(start, slabs, remainder, table, tuple(map(np.int32, ends)), slot[:-1], widths)


def _tile_rows(count: np.ndarray, widths: tuple[int, ...], devices: int) -> int:
    """Choose the rows of a tile: a power of 2, which `max_memory` may halve.

    All rows of a tile have as many slabs as its longest one. So where few rows are long, tiles have fewer rows on an
    accelerator, too.
    """
    enough = 1 << (len(count) - 1).bit_length()
    if jax.default_backend() == "cpu":
        return min(_ROWS, enough)
    falling = np.sort(count)[::-1]

    def num_cells(tile_rows: int) -> int:
        slabs, remainder = _slabs(falling[:: tile_rows * devices], widths)
        return tile_rows * int((slabs * widths[-1] + remainder).sum())

    tile_rows = min(_ROWS_ELSEWHERE, enough)
    while tile_rows > _ROWS and num_cells(tile_rows) > _MAX_PADDING * num_cells(_ROWS):
        tile_rows //= 2
    return tile_rows


def _widths(count: np.ndarray) -> tuple[int, ...]:
    """Choose the widths of slabs by the mean number of ratings of a row."""
    return next(widths for minimum, widths in _WIDTHS if count.mean() >= minimum)


def _slabs(count: np.ndarray, widths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return how many slabs of the largest width the rows have, and the width of the one behind them, or 0."""
    slabs, left = np.divmod(count, widths[-1])
    remainder = np.array([0, *widths])[np.searchsorted([0, *widths], left)]
    full = remainder == widths[-1]
    return slabs + full, np.where(full, 0, remainder)


def _fill(position: np.ndarray, tiles: Tiles, row: np.ndarray, count: np.ndarray) -> None:
    """Write the position of every rating into a cell of its row's slabs."""
    tile_rows, widest = rows_per_tile(tiles), tiles.widths[-1]
    device, tile, lane = (index.astype(np.int32) for index in np.unravel_index(tiles.slot, tiles.rows.shape))
    order = np.argsort(row, kind="stable")
    row = row[order]
    nth = (np.arange(len(row)) - (np.cumsum(count) - count)[row]).astype(np.int32)
    slab, column = np.divmod(nth, widest)
    width = np.where(slab < tiles.slabs[tile[row]], widest, tiles.remainder[tile[row]])
    offset = slab * tile_rows * widest + lane[row] * width + column
    position[device[row], tiles.start[tile[row]] + offset] = order
