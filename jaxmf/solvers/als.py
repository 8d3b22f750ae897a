"""Alternating least squares: the exact minimizer of the objective in one side's rows at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from jaxmf.data.checks import is_positive
from jaxmf.data.ratings import Ratings, take
from jaxmf.models.memoize import memoize
from jaxmf.models.model import Hyper, Model, Params, Rows, Side, bias_l2, pack, unpack
from jaxmf.solvers.solver import Problem, Solver, StepInfo

_BUCKETS = 9


class Buckets(NamedTuple):
    """The rows of one side, sorted into buckets of similar length.

    Attributes:
      rows: (m,) all rows that have ratings, bucket by bucket.
      place: (num_rows,) where each row stands in `rows`; m for a row without ratings.
      position: for each bucket the positions of its rows' ratings, (rows of the bucket, width), padded with n.
    """

    rows: jax.Array
    place: jax.Array
    position: tuple[jax.Array, ...]


class Layout(NamedTuple):
    """The ratings of every user, and of every item."""

    user: Buckets
    item: Buckets


@memoize
def als(tol: float | None = None, rule: Literal["relative", "difference"] = "relative") -> Solver:
    """Alternating least squares by Cholesky: users given items, then items given users, one sweep per epoch.

    Each row's block z (factors and bias together) solves its normal equations, with design rows d and targets t from
    `model.design`:

        (Σ w d dᵀ + n^ν diag(λ, …, λ_b)) z = Σ w t d

    which is the exact minimum of the objective in that block, so the gradient there is 0 and the objective never rises.

    Args:
      tol: stop, with status `converged`, once the rule below holds; None runs all epochs.
      rule: with Δ = ‖change of the user block‖ + ‖change of the item block‖ (Frobenius norms) in a sweep, "relative" is
        Δ < tol · (‖user block‖ + ‖item block‖), and "difference" is |Δ_previous − Δ| < tol.

    Returns:
      a Solver for models with a `design` and a penalty that is a diagonal quadratic in the rows.

    Raises:
      ValueError: `tol` is not positive, or `rule` unknown; at `check`, the model has no `design`, trains `shared`
        leaves, or λ or λ_b is not positive.

    Cost: per sweep O(c · D · m + m³) for a row of c ratings and D unknowns, m = min(c, D); memory for the design rows
    of all ratings, padded, and one m × m matrix per row. Normal equations are at least float32.

    References: Zhou et al. (2008), Large-scale parallel collaborative filtering for the Netflix prize (ν = 1); Koren,
    Bell and Volinsky (2009).
    """
    if tol is not None and not is_positive(tol):
        raise ValueError(f"als: tol must be positive or None, not {tol!r}")
    if rule not in ("relative", "difference"):
        raise ValueError(f"als: rule must be 'relative' or 'difference', not {rule!r}")

    def init(model: Model, params: Params, hyper: Hyper) -> jax.Array:
        return jnp.array(jnp.inf, jax.tree.leaves(params.trained)[0].dtype)

    def step(
        key: jax.Array, model: Model, params: Params, state: jax.Array, problem: Problem, hyper: Hyper
    ) -> tuple[Params, jax.Array, StepInfo]:
        before = params.trained
        for side in ("user", "item"):
            params = half_step(model, params, problem, hyper, side)
        after = params.trained
        change = _norm(jax.tree.map(jnp.subtract, after, before))
        if tol is None:
            converged = jnp.array(False)
        elif rule == "relative":
            converged = change < tol * _norm(after)
        else:
            converged = jnp.abs(state - change) < tol
        return params, change, StepInfo(converged)

    return Solver(prepare, init, step, _check, "als")


def prepare(ratings: Ratings) -> Layout:
    """The ratings of each row, in buckets by length. Host; O(n log n)."""
    return Layout(
        _buckets(np.asarray(ratings.user), ratings.num_users), _buckets(np.asarray(ratings.item), ratings.num_items)
    )


def half_step(model: Model, params: Params, problem: Problem, hyper: Hyper, side: Side) -> Params:
    """All rows of one side at their exact minimum given the other side."""
    assert model.design is not None
    like = getattr(params.trained, side)
    if not jax.tree.leaves(like):
        return params
    num_rows = problem.ratings.num_users if side == "user" else problem.ratings.num_items
    ridge = ridge_of(model, params.trained, problem.weight, hyper, side, num_rows)
    buckets: Buckets = getattr(problem.layout, side)
    batch = take(problem.ratings, jnp.concatenate([position.reshape(-1) for position in buckets.position]))
    blocks, first = [], 0
    for position in buckets.position:
        cells, shape = slice(first, first + position.size), position.shape
        own = jax.tree.map(lambda leaf, cells=cells: leaf[cells], batch)
        design, target = model.design(params, own, side)
        design = pack(design, position.size).reshape(*shape, -1)
        blocks.append((design, target.reshape(shape), own.weight.reshape(shape)))
        first = cells.stop
    solved = solve(blocks, ridge[buckets.rows])
    table = jnp.append(solved, jnp.zeros_like(solved[:1]), axis=0)[buckets.place]
    return params._replace(trained=params.trained._replace(**{side: unpack(table, like)}))


def solve(blocks: Sequence[tuple[jax.Array, jax.Array, jax.Array]], ridge: jax.Array) -> jax.Array:
    """The minimizer z (D,) of Σ w (t − d·z)² + Σ ridge·z² for each of many rows, at least in float32.

    With X and t weighted by √w and R = diag(ridge), z = (XᵀX + R)⁻¹ Xᵀt, or, which is the same vector and cheaper for a
    row with fewer ratings c than unknowns D, z = R⁻¹Xᵀ (X R⁻¹Xᵀ + I)⁻¹ t. Where a row has no weight, z is 0.

    Args:
      blocks: (d, t, w) of rows that are equally long, the shorter ones first: (m, c, D), (m, c) and (m, c), 0 for
        padding.
      ridge: (rows of all blocks, D), positive unless all weights of the row are 0.

    Returns:
      (rows of all blocks, D).
    """
    dtype = jnp.promote_types(ridge.dtype, jnp.float32)
    R = jnp.where(ridge == 0, 1, ridge).astype(dtype)
    dot = partial(jnp.matmul, precision="highest")
    solved: list[jax.Array] = []
    systems = []
    for design, target, weight in blocks:
        root = jnp.sqrt(weight).astype(dtype)
        X, t = root[..., None] * design.astype(dtype), root * target.astype(dtype)
        if X.shape[1] < X.shape[2]:
            first = sum(len(z) for z in solved)
            scaled = X / R[first : first + len(X), None]
            z = jax.vmap(_solve)(dot(scaled, X.mT) + jnp.eye(X.shape[1], dtype=dtype)[None], t)
            solved.append(dot(z[:, None], scaled)[:, 0])
        else:
            systems.append((dot(X.mT, X), dot(t[:, None], X)[:, 0]))
    if systems:
        # In one call: XLA takes longer to compile several than it saves by running them beside each other.
        A, b = (jnp.concatenate(parts) for parts in zip(*systems, strict=True))
        solved.append(jax.vmap(_solve)(A + jax.vmap(jnp.diag)(R[-len(b) :]), b))
    return jnp.concatenate(solved).astype(ridge.dtype)


def _solve(A: jax.Array, b: jax.Array) -> jax.Array:
    return cho_solve((jax.lax.linalg.cholesky(A, symmetrize_input=False), True), b)


def ridge_of(model: Model, trained: Rows, weight: Rows, hyper: Hyper, side: Side, num_rows: int) -> jax.Array:
    """The diagonal of the penalty's quadratic form, (rows, D): half its gradient at 1."""

    def penalty(rows: object) -> jax.Array:
        return model.penalty(trained._replace(**{side: rows}), weight, hyper)

    return pack(jax.grad(penalty)(jax.tree.map(jnp.ones_like, getattr(trained, side))), num_rows) / 2


def _norm(trained: Rows) -> jax.Array:
    return _length(trained.user) + _length(trained.item)


def _length(rows: object) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows)))


def _check(model: Model, params: Params, hyper: Hyper) -> None:
    if model.design is None:
        raise ValueError(
            f"als: the model {model.name!r} has no `design`, so its rows have no normal equations. Give the model a "
            "`design`, or use solvers.sgd or solvers.minibatch."
        )
    if jax.tree.leaves(params.trained.shared):
        raise ValueError(
            f"als: the model {model.name!r} trains `shared` leaves, which belong to no row. Use solvers.minibatch, or "
            "move those leaves to `fixed`."
        )
    check_design(model, params)
    for name, value in (("l2", hyper.l2), ("l2_bias", bias_l2(hyper))):
        if not value > 0:
            raise ValueError(
                f"als: {name} must be positive, not {value}: without a penalty a row with fewer ratings than unknowns "
                "has no unique minimum. Use a small positive number, or a gradient solver."
            )
    one_row = jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape[1:]), leaf.dtype), params.trained)
    one = jnp.ones(1, jnp.result_type(*jax.tree.leaves(one_row)))
    ridge = jax.grad(lambda trained: model.penalty(trained, Rows(one, one), hyper) + 0.0)(one_row)
    for path, leaf in jax.tree_util.tree_leaves_with_path(ridge):
        if not bool((leaf > 0).all()):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"als: the penalty of the model {model.name!r} leaves {name} free, so a row with fewer ratings than "
                "unknowns has no unique minimum. Penalize it, or use a gradient solver."
            )


def check_design(model: Model, params: Params) -> None:
    """ValueError, the model's own or one that shows both, if a side's design does not have the shape of its rows."""
    assert model.design is not None
    index: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    number: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    one = Ratings(index, index, number, number, num_users=1, num_items=1)
    for side, rows in (("user", params.trained.user), ("item", params.trained.item)):
        design, _ = jax.eval_shape(partial(model.design, side=side), params, one)
        found, needed = (jax.tree.map(lambda leaf: leaf.shape[1:], tree) for tree in (design, rows))
        if jax.tree.leaves(rows) and found != needed:
            raise ValueError(
                f"als: the `design` of the model {model.name!r} has {found} per rating for a row of the {side}s, which "
                f"is {needed}. Expected the leaves of the row, each with a leading axis of ratings."
            )


def _buckets(row: np.ndarray, num_rows: int) -> Buckets:
    count = np.bincount(row, minlength=num_rows)
    start = np.concatenate([[0], np.cumsum(count)])
    order = np.append(np.argsort(row, kind="stable"), len(row)).astype(np.int32)
    members, position, below = [], [], 0
    for width in _widths(count[count > 0]):
        rows = np.flatnonzero((count > below) & (count <= width))
        lane = np.arange(width)
        members.append(rows)
        position.append(jnp.asarray(order[np.where(lane < count[rows, None], start[rows, None] + lane, len(row))]))
        below = width
    rows = np.concatenate(members)
    place = np.full(num_rows, len(rows))
    place[rows] = np.arange(len(rows))
    return Buckets(jnp.asarray(rows, jnp.int32), jnp.asarray(place, jnp.int32), tuple(position))


def _widths(count: np.ndarray) -> list[int]:
    """At most `_BUCKETS` widths that pad rows of these lengths least in all, by dynamic programming.

    Candidates are the lengths there are, thinned to steps of 5 %; every bucket costs compile time.
    """
    steps = np.unique(np.round(np.log(count) / np.log(1.05)), return_inverse=True)[1]
    grid = np.array([count[steps == s].max() for s in range(steps.max() + 1)])
    rows = np.append(0, np.cumsum(np.bincount(steps)))
    # padded[i, j]: cells of one bucket of the candidates i to j.
    padded = np.triu(grid[None, :] * (rows[None, 1:] - rows[:-1, None])).astype(float)
    padded[np.tril_indices(len(grid), -1)] = np.inf
    best, first = padded[0], [np.zeros(len(grid), int)]
    for _ in range(_BUCKETS - 1):
        total = np.append(0, best[:-1])[:, None] + padded
        best, first = total.min(axis=0), [*first, total.argmin(axis=0)]
    widths, last = [], len(grid) - 1
    for choice in reversed(first):
        if last >= 0:
            widths.append(int(grid[last]))
            last = choice[last] - 1
    return widths[::-1]
