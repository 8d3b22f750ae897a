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
from jaxmf.models.least_squares import background_of, check_least_squares, ridge_of
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, pack, unpack
from jaxmf.models.promises import LEAST_SQUARES
from jaxmf.solvers._minima import View, minima
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

_CACHED = 1 << 21  # bytes of normal equations, or of designs, that a CPU works on at once: more would leave its cache
_AT_ONCE = 1 << 30  # and that other devices do
_REMEDY = "a larger l2, or float64 if that is not on yet (JAX_ENABLE_X64=1)"


class Resources(NamedTuple):
    """With what rows are solved; static.

    Attributes:
      steps: of conjugate gradient per row; None for the exact minimum.
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

    A model's `background` adds half its Hessian in a row to the matrix of every row, and to the right-hand side minus
    half its gradient where the rows are 0, both by automatic differentiation. With it, rows without ratings are solved
    too if n^ν penalizes them (`Hyper.unobserved`); without, they are 0.

    "cholesky" solves them: z is the exact minimum of the objective in that block, where the gradient is 0. "cg" takes a
    few steps of conjugate gradient from where the row is, without forming the matrix: z is nearer to the minimum, and
    after some sweeps the objective is as low. Under either the objective never rises.

    Args:
      tol: stop, with status `converged`, once the rule below holds; None runs all epochs.
      rule: with Δ = ‖change of the user block‖ + ‖change of the item block‖ (Frobenius norms) in a sweep, "relative" is
        Δ < tol · (‖user block‖ + ‖item block‖), and "difference" is |Δ_previous − Δ| < tol.
      method: "cholesky" or "cg", the faster the more unknowns a row has; `python -m benchmarks.peers cg` measures it.
      steps: of conjugate gradient per row and half-step.
      max_memory: bytes of the design rows, or of the normal equations, that are worked on at once, at least those of
        one row; None is what stays in the cache of a CPU, 2 MiB, and 1 GiB on other devices.
      devices: how many of this process solve at once; rows are dealt out, so that each has as long ones. On a CPU there
        is one, unless `jax.config.update("jax_num_cpu_devices", n)`, before anything else uses JAX, makes n of its
        cores.

    Returns:
      a Solver for models whose loss is the squared distance that `design` says, whose penalty is a diagonal quadratic
      in the rows, and whose `background`, if there is one, is a quadratic with one Hessian for all rows of a side:
      `fit` and `sweep` try that with a user's model, and refuse it by name if it is not so.

    Raises:
      ValueError: `tol`, `steps`, `max_memory` or `devices` is not positive, there are fewer devices, or `rule` or
        `method` is unknown; at `check`, the model has no `design` or one of another shape than its rows, trains
        `shared` leaves, draws, leaves a leaf without a penalty, or λ or λ_b is not positive in the dtype of the
        parameters. Where they are traced, a fit without a penalty has the status `diverged`.

    Cost: per sweep O(c · D² + D³) for a row of c ratings and D unknowns, O(c² · D + c³) where c is at most about half
    of D, by CG O(c · D · steps); memory beside the ratings: two copies of them in tiles, and `max_memory`. Rows of
    similar length are worked on together, long ones slab by slab, so that programs do not grow with the data.
    Derivatives in reverse mode are exact: of the minimum by the implicit function, of CG through its steps, with the
    designs of all ratings in memory. Sums are at least float32. On a CPU, from about 256 unknowns, one thread of LAPACK
    is faster than several (results/scaling): set OPENBLAS_NUM_THREADS=1 before Python starts.

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
        if tol is None:
            return params, state, StepInfo(jnp.array(False))
        after = params.trained
        change = _norm(jax.tree.map(jnp.subtract, after, before))
        converged = change < tol * _norm(after) if rule == "relative" else jnp.abs(state - change) < tol
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
) -> Params:
    """All rows of one side at their minimum given the other side, or nearer to it by some steps of CG.

    Args:
      model: with a `design`.
      params: of which the rows of `side` are solved.
      half: the ratings of that side in tiles, arranged.
      weight: n^ν of both sides.
      hyper: λ and λ_b, positive, and α0.
      side: whose rows.
      resources: with what; static.

    Cost: that of half a sweep of `als`.
    """
    assert model.design is not None
    like = getattr(params.trained, side)
    if not jax.tree.leaves(like):
        return params
    num_rows = len(half.tiles.place)
    # With a background, a row without ratings has a minimum too, if there is a penalty on it.
    known = half.weighted if model.background is None else half.weighted | (getattr(weight, side) > 0)
    weighted = known[:, None]
    ridge = positive(ridge_of(model, params.trained, weight, hyper, side, num_rows), weighted)
    at_once = _rows_at_once(half, ridge.shape[1], ridge.dtype, resources.max_memory)
    view, devices = View(model.design, side, resources.steps, at_once), resources.devices

    # For each row, in `minima`: (XᵀX + H + R) z = Xᵀt − h, where X and t are those of `model.design` times √w, R is the
    # ridge, and H and h are the background's.
    def share_solved(half: Half, *given: Any) -> jax.Array:
        rows, cells = jax.tree.map(lambda leaf: leaf[0], (half.tiles.rows, half.cells))
        own = half._replace(tiles=replace(half.tiles, rows=rows), cells=cells)
        return all_gather(minima(view, given[0], own, *given[1:]), devices)

    share: Any = PartitionSpec(AXIS)
    whole: Any = PartitionSpec()
    shares: Half = jax.tree.map(lambda _: whole, half)
    shares = shares._replace(tiles=replace(shares.tiles, rows=share), cells=share)
    background = background_of(model, params, hyper, side, num_rows)
    work = shard_map(share_solved, devices, (shares, *[whole] * 4))
    found = work(half, params, ridge, pack(like, num_rows), background)
    table = jnp.where(weighted, found.at[half.tiles.place].get(mode="fill", fill_value=0), 0)
    return params._replace(trained=params.trained._replace(**{side: unpack(table, like)}))


def _rows_at_once(half: Half, size: int, dtype: Any, max_memory: int | None) -> tuple[int, ...]:
    """How many of a tile's rows are worked on at once, for each kind: as many as memory allows, by halves."""
    if max_memory is None:
        max_memory = _CACHED if jax.default_backend() == "cpu" else _AT_ONCE
    found = []
    for width in half.tiles.widths:
        rows = rows_per_tile(half.tiles)
        row_bytes = size * max(width, size) * max(dtype.itemsize, 4)
        while rows % 2 == 0 and rows * row_bytes > max_memory:
            rows //= 2
        found.append(rows)
    return tuple(found)


def _norm(trained: Rows) -> jax.Array:
    return _length(trained.user) + _length(trained.item)


def _length(rows: object) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows)))
