"""Verify a gradient in two more ways: by how Taylor remainders shrink, and by a step along the imaginary axis."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.kernels.programs import of_model, shapes
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.verify._probes import Probe, probes, worst
from jaxmf.verify.case import (
    Case,
    GradientReport,
    autodiff,
    bare,
    by_hand,
    check_count,
    directions,
    dot,
    everywhere,
    float64,
    hvp,
    hvp_by_hand,
    jit,
    magnitude,
    moved,
    names,
    relative,
    report,
    terms,
)

_STEPS = 2.0 ** -np.arange(1, 31)
_ROUNDING = 1e3  # a remainder counts if it exceeds the rounding of its terms this many times
_POINTS = 6  # the slope is measured on this many of the smallest remainders that count
_SLACK = 0.5  # tolerance of a slope: a wrong derivative costs 1, and the next order bends it a little
_IMAGINARY = 1e-30
# A complex step has neither truncation nor cancellation.
_LIMITS = {"autodiff_vs_complex": 1e-12, "hand_vs_complex": 1e-12}
_NOT_ANALYTIC = {"abs", "conj", "real", "imag", "sign", "floor", "ceil", "round", "is_finite"}


class NotAnalyticError(ValueError):
    """A complex step does not apply: the model's loss or penalty has no complex derivative."""


def taylor(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 4,
    seed: int = 0,
) -> GradientReport:
    """Check gradient and Hessian by the remainder of the Taylor polynomial, order by order.

    Along standard normal directions v, with g and H the hand-derived gradient and Hessian, or else those of autodiff,
    the remainders

        R₀ = |L(θ+hv) − L(θ)|    R₁ = |L(θ+hv) − L(θ) − h⟨g,v⟩|    R₂ = |L(θ+hv) − L(θ) − h⟨g,v⟩ − ½h²⟨v,Hv⟩|

    shrink like h, h² and h³; with a wrong g, R₁ shrinks only like h, and with a wrong H, R₂ only like h². The
    directions are within one leaf, or within all. Remainders are root mean squares over directions, since along a
    single one a remainder may change its sign. Within one leaf the built-in objectives are quadratic, so R₂ is 0.

    Args:
      model, params, ratings, hyper: as in `gradients`; the points are its probes `nearby`, which is not stationary, so
        that no remainder is 0 for that reason, and `ratings`, whose data hide no mistake.
      num_directions: number of random directions per leaf, half of them at each probe.
      seed: seed of the probes and the directions.

    Returns:
      a GradientReport with one row per leaf (and `all`) and order: `leaf`, `order`, the `expected` slope, the measured
      `slope` in the log-log plane, which is the median from step to step over the smallest remainders above rounding,
      and the lower one of the two probes, the number of `points` used, `dtype`, `failed`, which lists the probes at
      which the slope is wrong, and the verdict `passed`: no slope is more than 0.5 below the expected one. Where too
      few remainders are above rounding, the polynomial is exact and the slope is missing.

    Raises:
      ValueError: as `gradients`.

    Cost: 30 evaluations of the objective per leaf and direction. Float64 as in `gradients`.

    Reference: Farrell, Ham, Funke and Rognes (2013), Automated derivation of the adjoint of high-level transient finite
    element programs, section 5 (the Taylor remainder convergence test).
    """
    table, rows = remainders(model, params, ratings, hyper, num_directions, seed), []
    for (leaf, order), group in table.groupby(["leaf", "order"], sort=False):
        row = {"leaf": leaf, "order": order, "expected": order + 1}
        slopes = pd.DataFrame([_slope(line, name, order + 1) for name, line in group.groupby("probe", sort=False)])
        failed = ", ".join(slopes.loc[~slopes["passed"], "probe"])
        lowest = slopes.sort_values(["passed", "slope"], kind="stable").iloc[0]
        row |= {"slope": lowest["slope"], "points": lowest["points"], "dtype": "float64"}
        rows.append(row | {"failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows))


def _slope(line: pd.DataFrame, probe: Any, expected: int) -> dict[str, Any]:
    """Return the slope of one line of remainders, and whether it is steep enough."""
    step, remainder, rounding = (line[name].to_numpy() for name in ("step", "remainder", "rounding"))
    counted = np.flatnonzero(np.isfinite(remainder) & (remainder > _ROUNDING * rounding))[-_POINTS:]
    slope = np.nan
    if len(counted) >= 3:
        # The median over successive steps is robust: where two orders cancel, one or two of the slopes are wrong.
        slope = float(np.median(np.diff(np.log(remainder[counted])) / np.diff(np.log(step[counted]))))
    # A large step may leave the domain of the loss, but the smallest one must not.
    passed = bool(np.isfinite(remainder[step.argmin()]) and not slope < expected - _SLACK)
    return {"probe": probe, "slope": slope, "points": len(counted), "passed": passed}


def remainders(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the remainders whose slopes `taylor` measures, for plots; same arguments and errors as `taylor`.

    Returns:
      a table with one row per probe, leaf (and `all`), step and order: `probe`, `leaf`, `step`, `order`, the
      `remainder`, its estimated `rounding` error, and `dtype`.
    """
    check_count("num_directions", num_directions)
    random, tables = generator(seed), []
    with float64(model, params, ratings, hyper) as (trained, case):
        points = {probe.name: probe for probe in probes(model, trained, case, random)}
        counts = {"nearby": -(-num_directions // 2), "ratings": max(1, num_directions // 2)}
        for name, count in counts.items():
            tables.append(_remainders(model, points[name], count, random).assign(probe=name))
    table = pd.concat(tables, ignore_index=True).assign(dtype="float64")
    return table[["probe", *table.columns.drop("probe")]]


def _remainders(model: Model, probe: Probe, num_directions: int, random: np.random.Generator) -> pd.DataFrame:
    """Return the remainders at one probe, as root mean squares over the directions."""
    _, trained, case = probe
    differences, tables = _differences(bare(model)), []
    slope = by_hand(model, trained, case) or autodiff(bare(model))(trained, case)[1]
    for leaf in [*names(trained), "all"]:
        squares, roundings = np.zeros((len(_STEPS), 3)), np.zeros(len(_STEPS))
        for _ in range(num_directions):
            v = everywhere(trained, random) if leaf == "all" else next(directions(trained, leaf, 1, random))
            curvature = hvp_by_hand(model, trained, case, v) or hvp(bare(model))(trained, v, case)
            changes, sizes = map(np.asarray, differences(trained, v, case, _STEPS))
            polynomials = np.cumsum([0 * _STEPS, _STEPS * dot(slope, v), _STEPS**2 * dot(v, curvature) / 2], axis=0)
            squares += (changes - polynomials).T ** 2 / num_directions
            sizes = sizes + _STEPS * magnitude(slope, v) + _STEPS**2 * magnitude(v, curvature) / 2
            roundings += np.finfo(float).eps * sizes / num_directions
        table = pd.DataFrame({"leaf": leaf, "step": np.repeat(_STEPS, 3), "order": np.tile([0, 1, 2], len(_STEPS))})
        tables.append(table.assign(remainder=np.sqrt(squares).ravel(), rounding=np.repeat(roundings, 3)))
    return pd.concat(tables, ignore_index=True)


def complex_step(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 16,
    seed: int = 0,
) -> GradientReport:
    """Check a gradient by a step along the imaginary axis: ∂L/∂v = Im L(θ + ihv) / h with h = 1e-30.

    The step has no rounding error from cancellation. It is taken at the same probes as in `gradients`.

    Args:
      model, params, ratings, hyper, num_directions, seed: as in `gradients`. Loss and penalty must be analytic: sums,
        products, powers, exponentials, but no absolute values, maxima of parts, or conjugates.

    Returns:
      a GradientReport with one row per leaf: `leaf`, `size`, the number of `directions`, the largest errors over
      directions and probes, `autodiff_vs_complex` and `hand_vs_complex` (missing without a hand-derived gradient),
      relative as in `gradients`, `dtype`, `failed`, which lists the probes at which the leaf is wrong, and the verdict
      `passed`.

    Raises:
      ValueError: as `gradients`.
      NotAnalyticError: the loss or penalty is not analytic; the message names the operation.

    Cost: about two passes over the ratings per direction. Float64 and complex128, as in `gradients`.

    Reference: Squire and Trapp (1998), Using complex variables to estimate derivatives of real functions.
    """
    check_count("num_directions", num_directions)
    random, rows = generator(seed), []

    def check(params: Params, case: Case) -> None:
        _check_analytic(bare(model), *shapes((params.trained, case)))

    with float64(model, params, ratings, hyper, check) as (trained, case):
        tables = {
            probe.name: _compare(model, probe, num_directions if probe.name in ("given", "nearby") else 1, random)
            for probe in probes(model, trained, case, random)
        }
    for leaf, values in zip(names(trained), jax.tree.leaves(trained), strict=True):
        errors, failed = worst({probe: table[leaf] for probe, table in tables.items()}, _LIMITS)
        row = {"leaf": leaf, "size": values.size, "directions": min(values.size, num_directions), **errors}
        rows.append(row | {"dtype": "float64", "failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows), _LIMITS)


def _compare(
    model: Model, probe: Probe, num_directions: int, random: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """Return the errors of every leaf at one probe."""
    _, point, case = probe
    step = _complex_difference(bare(model))
    auto, hand = autodiff(bare(model))(point, case)[1], by_hand(model, point, case)
    table: dict[str, dict[str, list[float]]] = {}
    for leaf in names(point):
        errors = table[leaf] = {name: [] for name in _LIMITS}
        for v in directions(point, leaf, num_directions, random):
            derivative, size = map(float, step(point, v, case))
            errors["autodiff_vs_complex"].append(relative(dot(auto, v) - derivative, size))
            if hand is not None:
                errors["hand_vs_complex"].append(relative(dot(hand, v) - derivative, size))
    return table


@of_model
def _differences(model: Model) -> Any:
    """Return the jitted `differences` of a bare model."""

    @jit
    def differences(trained: Rows, v: Rows, case: Case, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return L(θ+hv) − L(θ) for every step, summed term by term, and the summed magnitudes of both operands."""
        here = terms(model, trained, case)

        def change(h: jax.Array) -> tuple[jax.Array, jax.Array]:
            there = terms(model, moved(trained, v, h), case)
            return jnp.sum(there - here), jnp.sum(abs(there) + abs(here))

        changes: tuple[jax.Array, jax.Array] = jax.lax.map(change, steps)
        return changes

    return differences


@of_model
def _complex_difference(model: Model) -> Any:
    """Return the jitted complex step of a bare model."""

    @jit
    def step(trained: Rows, v: Rows, case: Case) -> tuple[jax.Array, jax.Array]:
        """Return Im L(θ + ihv) / h, and its summed magnitude."""
        imaginary = terms(model, jax.tree.map(lambda x, v: jax.lax.complex(x, _IMAGINARY * v), trained, v), case).imag
        return jnp.sum(imaginary / _IMAGINARY), jnp.sum(abs(imaginary / _IMAGINARY))

    return step


@of_model
def _check_analytic(model: Model, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    """Raise NotAnalyticError if tracing finds an operation without a complex derivative, and name it."""
    trained, case = jax.tree.unflatten(structure, leaves)
    lifted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, complex), trained)
    reason = None
    try:
        traced = jax.make_jaxpr(partial(terms, model))(lifted, case)
    except TypeError as error:
        reason = str(error).splitlines()[0]
    else:
        used = sorted(_NOT_ANALYTIC & set(_complex_operations(traced.jaxpr)))
        if used:
            reason = f"it takes {', '.join(used)} of a number that depends on the parameters"
        elif not jnp.issubdtype(traced.out_avals[0].dtype, jnp.complexfloating):
            reason = "its terms are real whatever the parameters"
    if reason:
        raise NotAnalyticError(
            f"verify: a complex step does not apply to the model {model.name!r}: {reason}, and that has no complex "
            "derivative. Use verify.gradients and verify.taylor, which need none"
        )


def _complex_operations(jaxpr: Any) -> Iterator[str]:
    """Yield the names of the primitives that read complex numbers, nested jaxprs included."""
    for equation in jaxpr.eqns:
        if any(jnp.issubdtype(x.aval.dtype, jnp.complexfloating) for x in equation.invars):
            yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _complex_operations(inner)
