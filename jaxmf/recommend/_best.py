"""Find the n best columns in every row of a table of scores that is never held as a whole; exact, including ties."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import padded_size, power_of_4, size_step
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.threads import blocks, num_threads

_WIDTH = 16  # columns per group, represented by their maximum in the first stage: a cache line of float32
_CACHED = 4 * 2**20  # default bytes of scores held at once on a CPU
_ON_DEVICE = 2**28  # default bytes of scores held at once elsewhere


class BestColumns(NamedTuple):
    """The best columns of each row, best first, and their scores, (rows, n); the dtype's lowest score marks padding."""

    column: np.ndarray
    score: np.ndarray


class Cells(NamedTuple):
    """Cells (row, column) of a table, (m,) each, sorted by row."""

    row: np.ndarray
    column: np.ndarray


class Scores(NamedTuple):
    """A table of scores that is never held as a whole.

    Attributes:
      score: `(queries of b rows, catalog) -> (b, columns)`; calls that pass the same object share a program.
      queries: `(rows) -> pytree`, the queries of these row indices (b,); indices from `num_rows` on are padding.
      catalog: the second argument of `score`, for `padded_size(num_columns, 1)` columns.
      num_rows: number of rows.
      num_columns: number of columns.
      excluded: cells not to rank, without repeats.
      cell_bytes: bytes of memory that `score` needs per score.
    """

    score: Callable[[Any, Any], jax.Array]
    queries: Callable[[np.ndarray], Any]
    catalog: Any
    num_rows: int
    num_columns: int
    excluded: Cells
    cell_bytes: int


def best(scores: Scores, n: int, max_memory: int | None = None) -> BestColumns:
    """Return the n columns of highest score in every row; among equal scores the lower column comes first.

    Blocks of rows are scored together, in one thread per core. Columns form groups of 16. The n groups with the highest
    maxima (the lower group first among equals) contain the n best columns, because each group that ranks before the
    group of a column x has a column that ranks before x. So only 16·n columns of a row are ranked.

    Args:
      scores: the table of scores.
      n: number of columns per row.
      max_memory: bytes of scores held at once; None for what a CPU's caches hold, or 256 MiB elsewhere.

    Returns:
      (num_rows, min(n, num_columns)) columns and scores.
    """
    num_rows, num_columns, excluded = scores.num_rows, scores.num_columns, scores.excluded
    n, width = min(int(n), num_columns), padded_size(num_columns, 1)
    on_cpu = jax.default_backend() == "cpu"
    workers = num_threads() if max_memory is None else 1
    memory = int(max_memory or 0) or (_CACHED if on_cpu else _ON_DEVICE)
    size = 1
    while 2 * size * width * scores.cell_bytes <= memory and size < num_rows:
        size *= 2
    starts = range(0, num_rows, size)
    cuts = np.searchsorted(excluded.row, [*starts, num_rows])
    num_cells = power_of_4(int(np.diff(cuts).max(initial=0)))
    program = _program(scores.score, n)

    def block(index: int) -> tuple[np.ndarray, np.ndarray]:
        start, cells = starts[index], slice(cuts[index], cuts[index + 1])
        count = cells.stop - cells.start
        cell = np.full(num_cells, size * width, np.int32)
        np.multiply(excluded.row[cells] - start, width, out=cell[:count], casting="unsafe")
        cell[:count] += excluded.column[cells]
        queries = scores.queries(np.arange(start, start + size))
        column, value = program(queries, scores.catalog, np.int32(num_columns), cell)
        keep = min(size, num_rows - start)
        return np.asarray(column)[:keep], np.asarray(value)[:keep]

    parts = list(blocks(block, len(starts), workers))
    if not parts:
        return BestColumns(np.zeros((0, n), np.int32), np.zeros((0, n)))
    return BestColumns(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def is_column(score: np.ndarray) -> np.ndarray:
    """Return where the scores of `best` belong to a column and are not padding."""
    mask: np.ndarray = score > np.finfo(score.dtype).min
    return mask


@of_model
def _program(score: Callable[[Any, Any], jax.Array], n: int) -> Any:
    """Return the jitted program of one block."""

    @jit
    def ranked(queries: Any, catalog: Any, num_columns: jax.Array, excluded: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = score(queries, catalog)
        scores, shape = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), scores.shape
        lowest = jnp.finfo(scores.dtype).min
        scores = scores.reshape(-1).at[excluded].set(lowest, mode="drop").reshape(shape)
        # Mask only columns that may be padding: a pass over all scores would take a third of the whole time.
        tail = shape[1] - size_step(shape[1], 1)
        inside = jnp.arange(tail, shape[1])[None] < num_columns
        return top(scores.at[:, tail:].set(jnp.where(inside, scores[:, tail:], lowest)), n)

    return ranked


def top(scores: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Return the n best columns in each row of a table, and their scores; among equal scores the lower comes first."""
    size, width = scores.shape
    groups = -(-width // _WIDTH)
    if groups <= 2 * n:
        score, column = jax.lax.top_k(scores, n)
        return column, score
    padding = ((0, 0), (0, groups * _WIDTH - width))
    grouped = jnp.pad(scores, padding, constant_values=jnp.finfo(scores.dtype).min).reshape(size, groups, _WIDTH)
    _, chosen = jax.lax.top_k(grouped.max(axis=-1), n)
    chosen = jnp.sort(chosen, axis=-1)  # so that the lower column comes first among equal scores
    finalists = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1).reshape(size, n * _WIDTH)
    score, index = jax.lax.top_k(finalists, n)
    return jnp.take_along_axis(chosen, index // _WIDTH, axis=1) * _WIDTH + index % _WIDTH, score
