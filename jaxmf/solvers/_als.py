"""Alternating least squares: the exact minimizer of the objective in one side's rows at a time."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels._memoize import memoize
from jaxmf.kernels.devices import AXIS, all_gather, check_devices, shard_map
from jaxmf.kernels.normal_equations import positive
from jaxmf.kernels.tiles import Half, Halves, Layout, arrange_tiles, prepare_for, rows_per_tile
from jaxmf.kernels.xla import TWO_STEP_SUMS, without
from jaxmf.models.least_squares import Quadratic, background_of, check_least_squares, ridge_of
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, pack, unpack
from jaxmf.models.promises import LEAST_SQUARES
from jaxmf.solvers._exact import exact
from jaxmf.solvers._near import near
from jaxmf.solvers._shared import solve_shared
from jaxmf.solvers._slabs import View
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

_CACHED = 1 << 21  # bytes of normal equations or design rows that a CPU works on at once; more would not fit its cache
_AT_ONCE = 1 << 30  # and that other devices work on at once
_REMEDY = "a larger l2, or float64 if that is not on yet (JAX_ENABLE_X64=1)"


class Resources(NamedTuple):
    """How rows are solved; static.

    Attributes:
      steps: number of conjugate gradient steps per row; None for the exact minimum.
      max_memory, devices: as in `als`.
    """

    steps: int | None = None
    max_memory: int | None = None
    devices: int = 1


EXACTLY = Resources()


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

    A model's `background` adds half its Hessian in one row to every row's matrix, and subtracts half its gradient, at
    rows of 0, from the right-hand side; both come from automatic differentiation. With a background, rows without
    ratings are solved too if n^ν penalizes them (`Hyper.unobserved`); without one, they are 0.

    "cholesky" solves the equations: z is the exact minimum of the objective in that block, where the gradient is 0.
    "cg" takes a few steps of conjugate gradient from the row's current value, without forming the matrix: z comes
    nearer to the minimum, and after some sweeps the objective is as low. With either, the objective never rises.

    A model may train `shared` leaves too, such as the weights E of item features in `ials`: they follow the items in
    every sweep, by conjugate gradients on the objective, see `solvers/_shared.py`.

    Args:
      tol: stop with status `converged` once the rule below holds; None runs all epochs.
      rule: with Δ = ‖change of the user block‖ + ‖change of the item block‖ (Frobenius norms) in a sweep, "relative" is
        Δ < tol · (‖user block‖ + ‖item block‖), and "difference" is |Δ_previous − Δ| < tol.
      method: "cholesky", or "cg", which is faster for rows of many unknowns (`python -m benchmarks.peers cg`).
      steps: number of conjugate gradient steps per row and half-step.
      max_memory: bytes of design rows or normal equations that are worked on at once, but at least one row; None is
        2 MiB on a CPU, which stay in its cache, and 1 GiB on other devices.
      devices: number of local devices that solve at once; rows are dealt out so that all get rows of similar length. A
        CPU is one device unless `jax.config.update("jax_num_cpu_devices", n)` makes its cores n devices, before
        anything else uses JAX.

    Returns:
      a Solver for models whose loss is the squared distance that `design` describes, whose penalty is a diagonal
      quadratic in the rows, whose `background`, if any, is a quadratic with the same Hessian for all rows of a side,
      and whose objective is a quadratic in the trained `shared` leaves, if any. `fit` and `sweep` check this with a
      user's model, and name the model if they refuse it.

    Raises:
      ValueError: `tol`, `steps`, `max_memory` or `devices` is not positive, there are too few devices, or `rule` or
        `method` is unknown; at `check`, the model has no `design` or one whose shape differs from its rows, draws,
        leaves a leaf without a penalty, or λ or λ_b is not positive in the dtype of the parameters. Where λ and λ_b are
        traced, a fit without a penalty gets the status `diverged`.

    Cost: per sweep and row of c ratings and D unknowns O(c · D² + D³), or O(c² · D + c³) if c is at most about D / 2;
    by CG O(c · D · steps). Memory: besides the ratings, two copies of them in tiles, and `max_memory`. Rows of similar
    length are worked on together, long rows slab by slab, so that programs do not grow with the data. Reverse-mode
    derivatives are exact: those of the minimum by the implicit function theorem, those of CG through its steps, with
    the design rows of all ratings in memory. Sums are at least in float32. On a CPU with about 256 unknowns and more,
    one LAPACK thread is faster than several (results/scaling): set OPENBLAS_NUM_THREADS=1 before Python starts.

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
    resources = Resources(None if method == "cholesky" else steps, max_memory, devices)

    def init(model: Model, params: Params, hyper: Hyper) -> jax.Array:
        dtype = jax.tree.leaves(params.trained)[0].dtype
        return jnp.array(jnp.finfo(dtype).max, dtype)

    def step(
        key: jax.Array, model: Model, params: Params, state: jax.Array, problem: Problem, hyper: Hyper
    ) -> tuple[Params, jax.Array, StepInfo]:
        before = params.trained
        for side in ("user", "item"):
            half = getattr(problem.constants, side)
            params = half_step(model, params, half, problem.weight, hyper, side, resources)
        if jax.tree.leaves(params.trained.shared):
            params = solve_shared(model, params, problem.ratings, problem.weight, hyper, resources.steps)
        if tol is None:
            return params, state, StepInfo(jnp.array(False))
        after = params.trained
        change = _block_norms(jax.tree.map(jnp.subtract, after, before))
        converged = change < tol * _block_norms(after) if rule == "relative" else jnp.abs(state - change) < tol
        return params, change, StepInfo(converged)

    def setup(ratings: Ratings, layout: Layout, hyper: Hyper) -> Halves:
        return arrange_tiles(layout, ratings, devices)

    name, column_seconds = ("als", 1e-8) if method == "cholesky" else ("als-cg", 1e-9)
    machine = Machine(without(TWO_STEP_SUMS), devices, column_seconds)
    return Solver(
        prepare_for(devices),
        init,
        step,
        check_least_squares,
        name,
        setup,
        machine=machine,
        remedy=_REMEDY,
        promises=LEAST_SQUARES,
    )


def half_step(
    model: Model,
    params: Params,
    half: Half,
    weight: Rows,
    hyper: Hyper,
    side: Side,
    resources: Resources = EXACTLY,
    background: Quadratic | None = None,
) -> Params:
    """Move all rows of one side to their minimum given the other side, or some CG steps towards it.

    Args:
      model: with a `design`.
      params: the parameters, whose rows of `side` are solved.
      half: the ratings of that side in tiles.
      weight: n^ν of both sides.
      hyper: λ and λ_b, positive, and α0.
      side: whose rows.
      resources: how; static.
      background: the model's background in the rows of that side; None computes it from `params`.

    Cost: that of half a sweep of `als`.
    """
    assert model.design is not None
    like, devices = getattr(params.trained, side), resources.devices
    if not jax.tree.leaves(like):
        return params
    num_rows = len(half.tiles.slot)
    # With a background, a row without ratings has a minimum too, if there is a penalty on it.
    solvable = half.weighted if model.background is None else half.weighted | (getattr(weight, side) > 0)
    ridge = ridge_of(model, params.trained, weight, hyper, side, num_rows)
    ridge = positive(ridge, solvable[:, None])
    part_rows = _part_rows(half, ridge.shape[1], ridge.dtype, resources.max_memory)
    view = View(model.design, side, resources.steps, part_rows)

    # For each row, (XᵀX + H + R) z = Xᵀt − h, where X and t are the design rows and targets times √w, R is the ridge,
    # and H and h belong to the background.
    solve_rows = exact if resources.steps is None else near

    def solve_shard(half: Half, params: Params, *others: Any) -> jax.Array:
        rows, cells = jax.tree.map(lambda leaf: leaf[0], (half.tiles.rows, half.cells))
        own_half = half._replace(tiles=replace(half.tiles, rows=rows), cells=cells)
        gathered: jax.Array = all_gather(solve_rows(view, params, own_half, *others), devices)
        return gathered

    sharded: Any = PartitionSpec(AXIS)
    replicated: Any = PartitionSpec()
    specs: Half = jax.tree.map(lambda _: replicated, half)
    specs = specs._replace(tiles=replace(specs.tiles, rows=sharded), cells=sharded)
    if background is None:
        background = background_of(model, params, hyper, side, num_rows)
    solve = shard_map(solve_shard, devices, (specs, *[replicated] * 4))
    solved = solve(half, params, ridge, pack(like, num_rows), background)
    table = jnp.where(solvable[:, None], solved.at[half.tiles.slot].get(mode="fill", fill_value=0), 0)
    return params._replace(trained=params.trained._replace(**{side: unpack(table, like)}))


def _part_rows(half: Half, size: int, dtype: Any, max_memory: int | None) -> tuple[int, ...]:
    """Return how many rows of a tile are worked on at once, by the width of slabs: halved until memory allows them."""
    if max_memory is None:
        max_memory = _CACHED if jax.default_backend() == "cpu" else _AT_ONCE
    part_rows = []
    for width in half.tiles.widths:
        rows = rows_per_tile(half.tiles)
        row_bytes = size * max(width, size) * max(dtype.itemsize, 4)
        while rows % 2 == 0 and rows * row_bytes > max_memory:
            rows //= 2
        part_rows.append(rows)
    return tuple(part_rows)


def _block_norms(trained: Rows) -> jax.Array:
    """Return the sum of the Frobenius norms of the user block, the item block and the shared leaves."""
    return _norm(trained.user) + _norm(trained.item) + _norm(trained.shared)


def _norm(rows: object) -> jax.Array:
    return jnp.sqrt(jnp.asarray(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows))))
