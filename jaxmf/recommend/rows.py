"""Rows of one side at their exact minimum given the other side: the least squares of `als`, for some of the rows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.programs import of_model
from jaxmf.kernels.tiles import half_of, single
from jaxmf.models._objective import row_weights
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.solvers._als import half_step

_CELLS = 2**22  # numbers in the design of one block of rows: bounds memory
_SHORTEST = 8  # ratings of a row; lengths and numbers of rows grow by powers of 2, so that programs are found again


class Observed(NamedTuple):
    """Ratings on the host, one array each: rows of users and items, values, weights."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray


def solved(model: Model, params: Params, observed: Observed, hyper: Hyper, side: Side, rows: np.ndarray) -> Params:
    """Params whose trained `rows` of one side are at their minimum given the other side; all others keep their bits.

    A row without ratings, or without weight, becomes 0. n^ν is of the weights in `observed`, which must hold all
    ratings of these rows.

    Args:
      model: with a `design`.
      params: tables on the host.
      observed: the ratings; those of other rows are passed over.
      hyper: λ, λ_b and ν, cast to the dtype of the tables.
      side: whose rows.
      rows: (m,) their numbers, each once.

    Cost: as a half-step of `als` over these rows, whose ratings are padded to a power of 2; memory is bounded.
    """
    like = getattr(params.trained, side)
    if not len(rows) or not jax.tree.leaves(like):
        return params
    tables = jax.tree.map(np.array, like)
    index = observed.user if side == "user" else observed.item
    count = np.bincount(index, minlength=int(rows.max()) + 1)
    for table in jax.tree.leaves(tables):
        table[rows[count[rows] == 0]] = 0
    rows = rows[count[rows] > 0]
    by_row = _ByRow(np.argsort(index, kind="stable"), np.cumsum(count) - count, count)
    problem = _Problem(model, params, observed, hyper, side, by_row)
    width_of = np.maximum(_SHORTEST, 1 << np.ceil(np.log2(count[rows])).astype(int))
    numbers = sum(leaf[:1].size for leaf in jax.tree.leaves(like))
    for width in np.unique(width_of).tolist():
        members = rows[width_of == width]
        most = max(1, _CELLS // (width * numbers))
        size = min(1 << (most.bit_length() - 1), 1 << (len(members) - 1).bit_length())
        for first in range(0, len(members), size):
            block = members[first : first + size]
            part = _block(problem, block, size, width)
            for table, leaf in zip(jax.tree.leaves(tables), jax.tree.leaves(part), strict=True):
                table[block] = np.asarray(leaf)[: len(block)]
    return params._replace(trained=params.trained._replace(**{side: tables}))


class _ByRow(NamedTuple):
    """The ratings sorted by row.

    Attributes:
      order: (n,) positions of the ratings.
      start: (num_rows,) where in `order` those of each row begin.
      num_ratings: (num_rows,) how many each row has.
    """

    order: np.ndarray
    start: np.ndarray
    num_ratings: np.ndarray


class _Problem(NamedTuple):
    """The arguments of `solved`, and its ratings sorted by row."""

    model: Model
    params: Params
    observed: Observed
    hyper: Hyper
    side: Side
    by_row: _ByRow


def _block(problem: _Problem, rows: np.ndarray, size: int, width: int) -> Any:
    """The solved rows of one block, padded to `size`: each has at most `width` ratings, and each rating a row of the
    other side.
    """
    model, params, observed, hyper, side, by_row = problem
    start, count = by_row.start[rows], by_row.num_ratings[rows]
    lane = np.arange(width)
    position = np.zeros((size, width), np.int64)
    inside = np.zeros((size, width), bool)
    inside[: len(rows)] = lane < count[:, None]
    position[: len(rows)] = np.where(inside[: len(rows)], start[:, None] + lane, 0)
    position = by_row.order[position.reshape(-1)]
    number = np.append(rows, np.full(size - len(rows), rows[0]))
    other: Side = "item" if side == "user" else "user"
    partner = getattr(observed, other)[position]

    def gathered(tables: Rows) -> Rows:
        picks = {side: number, other: partner}
        return tables._replace(
            **{each: jax.tree.map(lambda leaf: leaf[index], getattr(tables, each)) for each, index in picks.items()}  # noqa: B023
        )

    dtype = np.result_type(*jax.tree.leaves(params.trained))
    value, weight = (column[position].astype(dtype) for column in (observed.value, observed.weight))
    small = Params(gathered(params.trained), gathered(params.fixed))
    # Of JAX already, as under `jit`: with JAX_DISABLE_JIT the model would find NumPy's.
    arrays = jax.tree.map(jnp.asarray, (small, value, weight * inside.reshape(-1), hyper))
    return _program(model, side, size)(*arrays)


@of_model
def _program(model: Model, side: Side, size: int) -> Any:
    """The compiled half-step of a block: rows 0 .. size - 1 of one side, and of the other one row per rating."""

    @jax.jit
    def solve(params: Params, value: jax.Array, weight: jax.Array, hyper: Hyper) -> Any:
        own, other = jnp.repeat(jnp.arange(size), len(value) // size), jnp.arange(len(value))
        if side == "user":
            ratings = Ratings(own, other, value, weight, size, len(value))
        else:
            ratings = Ratings(other, own, value, weight, len(value), size)
        half = half_of(single(other.reshape(size, -1)), ratings, side)
        powers = row_weights(ratings, hyper.reg_exponent)
        return getattr(half_step(model, params, half, powers, hyper, side).trained, side)

    return solve
