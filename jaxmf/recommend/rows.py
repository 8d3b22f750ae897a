"""Solve for some rows of one side, at their exact minimum given the other side: the least squares of `als`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings, Side, counts
from jaxmf.kernels.programs import of_model
from jaxmf.kernels.tiles import half_of, single
from jaxmf.models._objective import power
from jaxmf.models.least_squares import background_of
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.solvers._als import half_step

_CELLS = 2**22  # maximum number of elements in the design of one block of rows, which bounds memory
_SHORTEST = 8  # minimum padded ratings per row; ratings and rows are padded to powers of 2, so that programs are reused


class Observed(NamedTuple):
    """Ratings on the host, as arrays (n,): user and item indices, values and weights."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray


def solved(model: Model, params: Params, observed: Observed, hyper: Hyper, side: Side, rows: np.ndarray) -> Params:
    """Return `params` with these trained rows of one side at their minimum given the other side.

    All other rows stay bit-for-bit unchanged. A row without ratings, or without weight, becomes 0, unless the model has
    a background. The n of n^ν is the sum of the weights in `observed`, which must hold all ratings of these rows.

    Args:
      model: a model with a `design`.
      params: tables on the host.
      observed: the ratings; those of other rows are ignored.
      hyper: λ, λ_b, ν and α0, cast to the dtype of the tables.
      side: the side of the rows.
      rows: (m,) their indices, without repeats.

    Cost: that of a half-step of `als` over these rows, whose ratings are padded to a power of 2; memory is bounded. A
    background is computed for each block of rows, from all rows of the other side.
    """
    like = getattr(params.trained, side)
    if not len(rows) or not jax.tree.leaves(like):
        return params
    tables = jax.tree.map(np.array, like)
    index = observed.user if side == "user" else observed.item
    count = np.bincount(index, minlength=int(rows.max()) + 1)
    if model.background is None:
        for table in jax.tree.leaves(tables):
            table[rows[count[rows] == 0]] = 0
        rows = rows[count[rows] > 0]
    by_row = _ByRow(np.argsort(index, kind="stable"), np.cumsum(count) - count, count)
    whole = None if model.background is None else _others(params, side)
    problem = _Problem(model, params, observed, hyper, side, by_row, whole)
    width_of = np.maximum(_SHORTEST, 1 << np.ceil(np.log2(np.maximum(count[rows], 1))).astype(int))
    row_size = sum(leaf[:1].size for leaf in jax.tree.leaves(like))
    for width in np.unique(width_of).tolist():
        members = rows[width_of == width]
        limit = max(1, _CELLS // (width * row_size))
        size = min(1 << (limit.bit_length() - 1), 1 << (len(members) - 1).bit_length())
        for start in range(0, len(members), size):
            block = members[start : start + size]
            part = _block(problem, block, size, width)
            for table, leaf in zip(jax.tree.leaves(tables), jax.tree.leaves(part), strict=True):
                table[block] = np.asarray(leaf)[: len(block)]
    return params._replace(trained=params.trained._replace(**{side: tables}))


class _ByRow(NamedTuple):
    """The ratings sorted by row.

    Attributes:
      order: (n,) positions of the ratings, sorted by row.
      start: (num_rows,) where the ratings of each row begin in `order`.
      num_ratings: (num_rows,) number of ratings of each row.
    """

    order: np.ndarray
    start: np.ndarray
    num_ratings: np.ndarray


class _Problem(NamedTuple):
    """The arguments of `solved`, its ratings sorted by row, and for a background all rows of the other side."""

    model: Model
    params: Params
    observed: Observed
    hyper: Hyper
    side: Side
    by_row: _ByRow
    whole: Params | None


def _others(params: Params, side: Side) -> Params:
    """Return the parameters on the device, without the rows of this side."""
    others: Params = jax.tree.map(jnp.asarray, Params(*(rows._replace(**{side: ()}) for rows in params)))
    return others


def _block(problem: _Problem, rows: np.ndarray, size: int, width: int) -> Any:
    """Return the solved rows of one block, padded to `size`.

    Each row has at most `width` ratings, and for each rating a row of the other side is gathered.
    """
    model, params, observed, hyper, side, by_row, whole = problem
    start, count = by_row.start[rows], by_row.num_ratings[rows]
    lane = np.arange(width)
    position = np.zeros((size, width), np.int64)
    inside = np.zeros((size, width), bool)
    inside[: len(rows)] = lane < count[:, None]
    position[: len(rows)] = np.where(inside[: len(rows)], start[:, None] + lane, 0)
    position = by_row.order[position.reshape(-1)]
    padded_rows = np.append(rows, np.full(size - len(rows), rows[0]))
    other: Side = "item" if side == "user" else "user"
    partner = getattr(observed, other)[position]

    def gathered(tables: Rows) -> Rows:
        """Gather the rows that the block reads of both sides."""
        own = jax.tree.map(lambda leaf: leaf[padded_rows], getattr(tables, side))
        partners = jax.tree.map(lambda leaf: leaf[partner], getattr(tables, other))
        return tables._replace(**{side: own, other: partners})

    dtype = np.result_type(*jax.tree.leaves(params.trained))
    value, weight = (column[position].astype(dtype) for column in (observed.value, observed.weight))
    small = Params(gathered(params.trained), gathered(params.fixed))
    # JAX arrays, as under `jit`: with JAX_DISABLE_JIT the model would see NumPy arrays.
    arrays = jax.tree.map(jnp.asarray, (small, value, weight * inside.reshape(-1), hyper))
    return _program(model, side, size)(*arrays, whole)


@of_model
def _program(model: Model, side: Side, size: int) -> Any:
    """Return the jitted half-step of a block: rows 0 .. size - 1 of one side, and one row of the other per rating."""

    @jax.jit
    def solve(params: Params, value: jax.Array, weight: jax.Array, hyper: Hyper, whole: Params | None) -> Any:
        solved_row, other_row = jnp.repeat(jnp.arange(size), len(value) // size), jnp.arange(len(value))
        if side == "user":
            ratings = Ratings(solved_row, other_row, value, weight, size, len(value))
        else:
            ratings = Ratings(other_row, solved_row, value, weight, len(value), size)
        half = half_of(single(other_row.reshape(size, -1)), ratings, side)
        n, background = Rows(*counts(ratings)), None
        if whole is not None:
            cells = 0 if hyper.unobserved is None else hyper.unobserved * len(jax.tree.leaves(whole)[0])
            n = jax.tree.map(lambda n: n + cells, n)  # of the solved side; the penalty of the others changes nothing
            own = (rows._replace(**{side: getattr(part, side)}) for rows, part in zip(whole, params, strict=True))
            background = background_of(model, Params(*own), hyper, side, size)
        powers = jax.tree.map(lambda n: power(n, hyper.reg_exponent), n)
        return getattr(half_step(model, params, half, powers, hyper, side, background=background).trained, side)

    return solve
