"""Alternating least squares: the exact minimizer of the objective in one side's rows at a time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.ratings import Ratings, take
from jaxmf.models.memoize import how_built, memoize
from jaxmf.models.model import Hyper, Model, Params, Rows, Side, bias_l2, pack, traced_shape, unpack
from jaxmf.models.programs import of_model
from jaxmf.models.promises import DIAGONAL_PENALTY, MASKED_COLUMNS, SQUARED_LOSS
from jaxmf.models.xla import TWO_STEP_SUMS, once, without
from jaxmf.solvers.devices import AXIS, check_devices, of_all, split, spread
from jaxmf.solvers.solver import Problem, Solver, StepInfo

_BUCKETS, _WORTH = 16, 1 << 15  # most buckets of a side, and the cells that one more must save: it costs compile time
_CACHED = 1 << 23  # bytes of designs that a CPU works on at once: more would leave its cache
_AT_ONCE = 1 << 30  # and that other devices do
_SMALL = 1 << 26  # bytes of designs that are worked on in one go after all, since that compiles twice as fast
_REMEDY = "a larger l2, or float64 if that is not on yet (JAX_ENABLE_X64=1)"
_ROUNDING = 8  # times eps and the size of a system: a ridge below that part of its diagonal is lost in the sums
PROMISES = (DIAGONAL_PENALTY, SQUARED_LOSS, MASKED_COLUMNS)

Block = tuple[jax.Array, jax.Array, jax.Array]
Solve = Callable[[Sequence[Block], jax.Array, jax.Array], jax.Array]


class Buckets(NamedTuple):
    """The rows of one side, sorted into buckets of similar length.

    Attributes:
      rows: (m,) all rows that have ratings, bucket by bucket; each bucket is filled up to a multiple of the devices.
      place: (num_rows,) where each row stands in `rows`; m for a row without ratings.
      position: for each bucket the positions of its rows' ratings, (rows of the bucket, width), padded with n; or, once
        they are arranged, the Ratings there, of that shape.
    """

    rows: jax.Array
    place: jax.Array
    position: tuple[Any, ...]


class Layout(NamedTuple):
    """The ratings of every user, and of every item."""

    user: Buckets
    item: Buckets


@memoize
def als(
    tol: float | None = None,
    rule: Literal["relative", "difference"] = "relative",
    method: Literal["cholesky", "cg"] = "cholesky",
    steps: int = 3,
    max_memory: int | None = None,
    devices: int = 1,
) -> Solver:
    """Alternating least squares: users given items, then items given users, one sweep per epoch.

    Each row's block z (factors and bias together) solves its normal equations, with design rows d and targets t from
    `model.design`:

        (Σ w d dᵀ + n^ν diag(λ, …, λ_b)) z = Σ w t d

    "cholesky" solves them: z is the exact minimum of the objective in that block, where the gradient is 0. "cg" takes a
    few steps of conjugate gradient from where the row is, without forming the matrix: z is nearer to the minimum, and
    after some sweeps the objective is as low. Under either the objective never rises.

    Args:
      tol: stop, with status `converged`, once the rule below holds; None runs all epochs.
      rule: with Δ = ‖change of the user block‖ + ‖change of the item block‖ (Frobenius norms) in a sweep, "relative" is
        Δ < tol · (‖user block‖ + ‖item block‖), and "difference" is |Δ_previous − Δ| < tol.
      method: "cholesky" or "cg", the faster the more unknowns a row has; `python benchmarks/peers.py cg` measures it.
      steps: of conjugate gradient per row and half-step.
      max_memory: bytes of the design rows that are worked on at once, at least those of one row; None is what stays in
        the cache of a CPU, 8 MiB, if there are more than 64 MiB, and 1 GiB on other devices.
      devices: how many of this process solve at once, each some of the rows of every bucket. On a CPU there is one,
        unless `jax.config.update("jax_num_cpu_devices", n)`, before anything else uses JAX, makes n of its cores.

    Returns:
      a Solver for models whose loss is the squared distance that `design` says, and whose penalty is a diagonal
      quadratic in the rows: `fit` and `sweep` try that with a user's model, and refuse it by name if it is not so.

    Raises:
      ValueError: `tol`, `steps`, `max_memory` or `devices` is not positive, there are fewer devices, or `rule` or
        `method` is unknown; at `check`, the model has no `design`, trains `shared` leaves, or λ or λ_b is not positive
        in the dtype of the parameters. Where they are traced, a fit without a penalty has the status `diverged`.

    Cost: per sweep O(c · D · m + m³) for a row of c ratings and D unknowns, m = min(c, D), by CG O(c · D · steps);
    memory beside the ratings: `max_memory`, and an m × m matrix for each row that is worked on. Sums are at least
    float32. On a CPU, from about 256 unknowns, one thread of LAPACK is faster than several (results/scaling): set
    OPENBLAS_NUM_THREADS=1 before Python starts.

    References: Zhou et al. (2008), Large-scale parallel collaborative filtering for the Netflix prize (ν = 1); Koren,
    Bell and Volinsky (2009); Takács, Pilászy and Tikk (2011), Applications of the conjugate gradient method for
    implicit feedback collaborative filtering.
    """
    if tol is not None and not is_positive(tol):
        raise ValueError(f"als: tol must be positive or None, not {tol!r}")
    if rule not in ("relative", "difference"):
        raise ValueError(f"als: rule must be 'relative' or 'difference', not {rule!r}")
    if method not in ("cholesky", "cg"):
        raise ValueError(f"als: method must be 'cholesky' or 'cg', not {method!r}")
    for name, number in (("steps", steps), ("max_memory", max_memory)):
        if number is not None and not is_positive_integer(number):
            raise ValueError(f"als: {name} must be a positive integer, not {number!r}")
    check_devices("als", devices)
    rows: Solve = solve if method == "cholesky" else partial(descend, steps=steps)

    def init(model: Model, params: Params, hyper: Hyper) -> jax.Array:
        dtype = jax.tree.leaves(params.trained)[0].dtype
        return jnp.array(jnp.finfo(dtype).max, dtype)

    def step(
        key: jax.Array, model: Model, params: Params, state: jax.Array, problem: Problem, hyper: Hyper
    ) -> tuple[Params, jax.Array, StepInfo]:
        before = params.trained
        for side in ("user", "item"):
            params = half_step(model, params, problem, hyper, side, rows, max_memory, devices)
        after = params.trained
        change = _norm(jax.tree.map(jnp.subtract, after, before))
        if tol is None:
            converged = jnp.array(False)
        elif rule == "relative":
            converged = change < tol * _norm(after)
        else:
            converged = jnp.abs(state - change) < tol
        return params, change, StepInfo(converged)

    name, arrange = "als" if method == "cholesky" else "als-cg", partial(_arrange, devices=devices)
    options = without(TWO_STEP_SUMS)
    return Solver(_prepare(devices), init, step, _check, name, arrange, options, devices, _REMEDY, PROMISES)


def prepare(ratings: Ratings, devices: int = 1) -> Layout:
    """The ratings of each row, in buckets by length. Host; O(n log n)."""
    return Layout(
        _buckets(np.asarray(ratings.user), ratings.num_users, devices),
        _buckets(np.asarray(ratings.item), ratings.num_items, devices),
    )


@memoize
def _prepare(devices: int) -> Callable[[Ratings], Layout]:
    # One function for so many devices, so that solvers share their layouts.
    return partial(prepare, devices=devices)


def solve(blocks: Sequence[Block], ridge: jax.Array, start: jax.Array | None = None) -> jax.Array:
    """The minimizer z (D,) of Σ w (t − d·z)² + Σ ridge·z² for each of many rows, at least in float32.

    With X and t weighted by √w and R = diag(ridge), z = (XᵀX + R)⁻¹ Xᵀt, or, which is the same vector and cheaper for a
    row with fewer ratings c than unknowns D, z = R⁻¹Xᵀ (X R⁻¹Xᵀ + I)⁻¹ t.

    A ridge so small that rounding would hide it from the sums, as λ = 1e-6 may be in float32, leaves a matrix that is
    positive definite on paper only. There z minimizes the same sum plus Σ (S − ridge)·(z − start)², with the least S
    that the sums can tell from 0: the objective still never rises, and the fixed points are the same. A diagonal scale
    would not help, as the rounding errors of Cholesky's method scale with the rows and columns. In float64 S is the
    ridge but for λ near 1e-14 of the other side's squares.

    Args:
      blocks: (d, t, w) of rows that are equally long, the shorter ones first: (m, c, D), (m, c) and (m, c), 0 for
        padding.
      ridge: (rows of all blocks, D), positive.
      start: (rows of all blocks, D), where the rows are; 0 if None.

    Returns:
      (rows of all blocks, D).
    """
    dtype = jnp.promote_types(ridge.dtype, jnp.float32)
    R, before = ridge.astype(dtype), (jnp.zeros_like(ridge) if start is None else start).astype(dtype)
    dot, eps = partial(jnp.matmul, precision="highest"), _ROUNDING * jnp.finfo(dtype).eps
    solved: list[jax.Array] = []
    systems = []
    for design, target, weight in blocks:
        root = jnp.sqrt(weight).astype(dtype)
        X, t = root[..., None] * design.astype(dtype), root * target.astype(dtype)
        count, size = X.shape[1:]
        if count < size:
            first = sum(len(z) for z in solved)
            rows = slice(first, first + len(X))
            scaled = X / R[rows, None]
            K = dot(scaled, X.mT)
            # S is `grow` times the ridge, alike for all unknowns, so that K / grow + I is the matrix.
            grow = jnp.maximum(1, eps * count * jnp.diagonal(K, axis1=1, axis2=2).max(axis=1))[:, None]
            center = (1 - 1 / grow) * before[rows]
            A = K / grow[..., None] + jnp.eye(count, dtype=dtype)[None]
            z = jax.vmap(_solve)(A, t - dot(X, center[..., None])[..., 0])
            solved.append(center + dot(z[:, None], scaled)[:, 0] / grow)
        else:
            A = dot(X.mT, X)
            systems.append((A, dot(t[:, None], X)[:, 0], jnp.diagonal(A, axis1=1, axis2=2)))
    if systems:
        A, b, diagonal = (jnp.concatenate(parts) for parts in zip(*systems, strict=True))
        R, before = R[-len(b) :], before[-len(b) :]
        S = jnp.maximum(R, eps * A.shape[-1] * diagonal)
        A = A + S[..., None] * jnp.eye(A.shape[-1], dtype=dtype)[None]
        solved.append(jax.vmap(_solve)(A, b + (S - R) * before))
    return jnp.concatenate(solved).astype(ridge.dtype)


def descend(blocks: Sequence[Block], ridge: jax.Array, start: jax.Array, steps: int) -> jax.Array:
    """Steps of conjugate gradient from `start` towards what `solve` returns.

    The unknowns are scaled to a unit diagonal of the matrix, so that the steps do not depend on the units of the
    ratings, in which factors and biases differ.

    Args:
      blocks, ridge: as in `solve`.
      start: (rows of all blocks, D).
      steps: how many.

    Returns:
      (rows of all blocks, D).
    """
    dtype = jnp.promote_types(ridge.dtype, jnp.float32)
    R = ridge.astype(dtype)
    found, first = [], 0
    for design, target, weight in blocks:
        root, rows = jnp.sqrt(weight).astype(dtype), slice(first, first + len(design))
        X, t = root[..., None] * design.astype(dtype), root * target.astype(dtype)
        found.append(_descend(X, t, R[rows], start[rows].astype(dtype), steps))
        first = rows.stop
    return jnp.concatenate(found).astype(ridge.dtype)


def _descend(X: jax.Array, t: jax.Array, R: jax.Array, z: jax.Array, steps: int) -> jax.Array:
    dot = partial(jnp.matmul, precision="highest")
    unit = jax.lax.rsqrt(jnp.sum(X**2, axis=1) + R)  # z = unit · y, and the steps are those of y

    def forward(z: jax.Array) -> jax.Array:
        return dot(X, z[..., None])[..., 0]

    def back(e: jax.Array) -> jax.Array:
        return dot(e[:, None], X)[:, 0]

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return (a / jnp.where(b > 0, b, 1))[:, None]

    def step(_: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        z, residual, direction, energy = state
        image = unit * (back(forward(unit * direction)) + R * (unit * direction))
        length = ratio(energy, jnp.sum(direction * image, axis=-1))
        z = z + length * (unit * direction)
        residual = residual - length * image
        before, energy = energy, jnp.sum(residual**2, axis=-1)
        return z, residual, residual + ratio(energy, before) * direction, energy

    residual = unit * (back(t - forward(z)) - R * z)
    # A loop compiles twice as fast as its steps one after another, and runs as fast.
    return jax.lax.fori_loop(0, steps, step, (z, residual, residual, jnp.sum(residual**2, axis=-1)))[0]


def half_step(
    model: Model,
    params: Params,
    problem: Problem,
    hyper: Hyper,
    side: Side,
    solve: Solve = solve,
    max_memory: int | None = None,
    devices: int = 1,
) -> Params:
    """All rows of one side at their exact minimum given the other side, or as near as `solve` comes."""
    view = model.design
    assert view is not None
    like = getattr(params.trained, side)
    if not jax.tree.leaves(like):
        return params
    num_rows = problem.ratings.num_users if side == "user" else problem.ratings.num_items
    buckets = _arranged(getattr(problem.layout, side), problem.ratings)
    ridge = ridge_of(model, params.trained, problem.weight, hyper, side, num_rows)[buckets.rows]
    start = pack(like, num_rows)[buckets.rows]
    ends = np.cumsum([len(cells.value) for cells in buckets.position])
    rows = [
        (cells, ridge[end - len(cells.value) : end], start[end - len(cells.value) : end])
        for cells, end in zip(buckets.position, ends, strict=True)
    ]
    row_bytes = ridge.shape[1] * max(ridge.dtype.itemsize, 4)
    total = row_bytes * sum(cells.value.size for cells in buckets.position)
    if max_memory is None:
        max_memory = _AT_ONCE if jax.default_backend() != "cpu" else total if total <= _SMALL else _CACHED
    most = None if total <= max_memory else max(1, max_memory // (devices * row_bytes))
    work = spread(
        partial(_solved, design=view, side=side, solve=solve, most=most, devices=devices),
        devices,
        (PartitionSpec(AXIS), PartitionSpec()),
    )
    table = jnp.concatenate([*work(rows, params), jnp.zeros_like(ridge[:1])])[buckets.place]
    return params._replace(trained=params.trained._replace(**{side: unpack(table, like)}))


def _solved(
    rows: list[Any], params: Params, design: Any, side: Side, solve: Solve, most: int | None, devices: int
) -> list[jax.Array]:
    """The new rows of each bucket, (rows, D), of which every device solves its own; at most `most` cells at once."""

    def block(cells: Ratings) -> Block:
        shape = cells.value.shape
        own = jax.tree.map(jnp.ravel, cells)
        view, target = design(params, own, side)
        return pack(view, own.value.size).reshape(*shape, -1), target.reshape(shape), cells.weight

    def minima(cells: Sequence[Ratings], ridge: jax.Array, start: jax.Array) -> jax.Array:
        # A row is left at 0 because it has no weight, whatever its penalty.
        weighted = jnp.concatenate([own.weight.sum(axis=1, keepdims=True) > 0 for own in cells])
        ridge = _positive(jnp.where(weighted, ridge, 1))
        return jnp.where(weighted, solve([block(own) for own in cells], ridge, start), 0)

    if most is None:
        cells, ridge, start = zip(*rows, strict=True)
        z = minima(cells, jnp.concatenate(ridge), jnp.concatenate(start))
        return of_all(jnp.split(z, np.cumsum([len(own) for own in ridge])[:-1]), devices)
    found = []
    for cells, *rest in rows:
        parts = _parts((cells, *rest), max(1, most // cells.value.shape[1]))
        z = jax.lax.map(lambda part: minima(part[:1], *part[1:]), parts)
        found.append(z.reshape(-1, z.shape[-1])[: len(cells.value)])
    return of_all(found, devices)


def _arrange(problem: Problem, hyper: Hyper, devices: int) -> Layout:
    """The ratings themselves in the buckets."""
    sides = [_arranged(own, problem.ratings) for own in problem.layout]
    return Layout(*(own._replace(position=split(own.position, devices, PartitionSpec(AXIS))) for own in sides))


def _arranged(buckets: Buckets, ratings: Ratings) -> Buckets:
    if isinstance(buckets.position[0], Ratings):
        return buckets
    # All at once, which compiles faster than bucket by bucket.
    cells = take(ratings, jnp.concatenate([position.reshape(-1) for position in buckets.position]))
    ends = np.cumsum([position.size for position in buckets.position])
    parts = [
        jax.tree.map(lambda leaf, at=slice(end - own.size, end), own=own: leaf[at].reshape(own.shape), cells)
        for own, end in zip(buckets.position, ends, strict=True)
    ]
    return buckets._replace(position=tuple(parts))


def _parts(rows: Any, most: int) -> Any:
    """The arrays of a bucket in equal parts of at most `most` rows, filled up with empty rows."""
    count = len(rows[0].value)
    number = -(-count // most)
    size = -(-count // number)
    padding = ((0, number * size - count), (0, 0))
    return jax.tree.map(lambda leaf: jnp.pad(leaf, padding).reshape(number, size, -1), rows)


def _positive(ridge: jax.Array) -> jax.Array:
    """The ridge where it is positive, NaN elsewhere, so that a fit without a penalty ends as diverged."""
    # The root of -1, and no NaN as such: a healthy program has none for JAX_DEBUG_NANS to find.
    return ridge * jnp.sqrt(jnp.where(ridge > 0, 1, -1).astype(ridge.dtype))


def _solve(A: jax.Array, b: jax.Array) -> jax.Array:
    """A⁻¹b, by the Cholesky factor L of A with b below it: its last row is L⁻¹b, one triangular solve less.

    The corner has no say as long as it is more than bᵀA⁻¹b, which is at most Σ w t².
    """
    corner = jnp.full((1, 1), float(jnp.finfo(A.dtype).max) ** 0.8, A.dtype)
    L = jax.lax.linalg.cholesky(jnp.block([[A, b[:, None]], [b[None], corner]]), symmetrize_input=False)
    # Lᵀ times (A⁻¹b, −1) is 0 but for the last number.
    right = jnp.zeros((len(L), 1), A.dtype).at[-1, 0].set(-L[-1, -1])
    return jax.lax.linalg.triangular_solve(L, right, left_side=True, lower=True, transpose_a=True)[:-1, 0]


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
    dtype = jnp.result_type(*jax.tree.leaves(params.trained))
    paths = jax.tree_util.tree_leaves_with_path(params.trained)
    biased = any(jax.tree_util.keystr(path[-1:], simple=True) == "bias" for path, _ in paths)
    for name, value in (("l2", hyper.l2), *([("l2_bias", bias_l2(hyper))] if biased else [])):
        if not np.asarray(value, dtype) >= jnp.finfo(dtype).tiny:
            where = f" in {dtype}" if value > 0 else ""
            raise ValueError(
                f"als: {name} must be positive{where}, not {value}: without a penalty a row with fewer ratings than "
                "unknowns has no unique minimum. Use a small positive number, or a gradient solver."
            )
    if how_built(model) is not None:
        return
    one_row = jax.tree.map(lambda leaf: np.ones((1, *leaf.shape[1:]), leaf.dtype), params.trained)
    for path, held in jax.tree_util.tree_leaves_with_path(_holds(model.penalty)(one_row, hyper)):
        if not held:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"als: the penalty of the model {model.name!r} leaves {name} free, so a row with fewer ratings than "
                "unknowns has no unique minimum. Penalize it, or use a gradient solver."
            )


@of_model
def _holds(penalty: Callable[..., jax.Array]) -> jax.stages.Wrapped:
    """Whether the penalty pulls at all numbers of each leaf of rows of ones."""

    def holds(trained: Rows, hyper: Hyper) -> Any:
        one = jnp.ones(1, jnp.result_type(*jax.tree.leaves(trained)))
        ridge = jax.grad(lambda trained: penalty(trained, Rows(one, one), hyper) + 0.0)(trained)
        return jax.tree.map(lambda leaf: (leaf > 0).all(), ridge)

    return once(holds)


def check_design(model: Model, params: Params) -> None:
    """ValueError, the model's own or one that shows both, if a side's design does not have the shape of its rows."""
    assert model.design is not None
    index: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    number: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    one = Ratings(index, index, number, number, num_users=1, num_items=1)
    takes = "It takes params (trained, fixed), ratings (user, item, value, weight, num_users, num_items) and side"
    for side, rows in (("user", params.trained.user), ("item", params.trained.item)):
        who = f"als: design of the model {model.name!r}"
        design, _ = traced_shape(who, partial(model.design, side=side), params, one, remedy=takes, words=ValueError)
        found, needed = (jax.tree.map(lambda leaf: leaf.shape[1:], tree) for tree in (design, rows))
        if jax.tree.leaves(rows) and found != needed:
            raise ValueError(
                f"als: the `design` of the model {model.name!r} has {found} per rating for a row of the {side}s, which "
                f"is {needed}. Expected the leaves of the row, each with a leading axis of ratings."
            )


def _buckets(row: np.ndarray, num_rows: int, devices: int) -> Buckets:
    count = np.bincount(row, minlength=num_rows)
    start = np.concatenate([[0], np.cumsum(count)])
    order = np.append(np.argsort(row, kind="stable"), len(row)).astype(np.int32)
    place = np.full(num_rows, -1)
    members, position, below, first = [], [], 0, 0
    for width in _widths(count[count > 0]):
        rows = np.flatnonzero((count > below) & (count <= width))
        lane = np.arange(width)
        own = order[np.where(lane < count[rows, None], start[rows, None] + lane, len(row))]
        place[rows] = first + np.arange(len(rows))
        filled = -len(rows) % devices
        members.append(np.pad(rows, (0, filled)))
        position.append(jnp.asarray(np.pad(own, ((0, filled), (0, 0)), constant_values=len(row))))
        first, below = first + len(members[-1]), width
    rows = np.concatenate(members)
    place[place < 0] = len(rows)
    return Buckets(jnp.asarray(rows.astype(np.int32)), jnp.asarray(place.astype(np.int32)), tuple(position))


def _widths(count: np.ndarray) -> list[int]:
    """The widths that pad rows of these lengths least in all, by dynamic programming: as many as are worth it.

    Candidates are the lengths there are, thinned to steps of 5 %.
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
        if best[-1] - total[:, -1].min() < _WORTH:
            break
        best, first = total.min(axis=0), [*first, total.argmin(axis=0)]
    widths, last = [], len(grid) - 1
    for choice in reversed(first):
        if last >= 0:
            widths.append(int(grid[last]))
            last = choice[last] - 1
    return widths[::-1]
