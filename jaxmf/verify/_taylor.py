"""Two more witnesses of a gradient: how Taylor remainders shrink, and a step along the imaginary axis."""

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
_ROUNDING = 1e3  # a remainder counts if it is so many times the rounding of its terms
_POINTS = 6  # the smallest remainders that count give the slope
_SLACK = 0.5  # of a slope: a wrong derivative costs 1, and the next order bends it a little
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

    Along standard normal directions v, with g the hand-derived gradient and H the hand-derived Hessian, or those of
    autodiff where there are none, the remainders

        R₀ = |L(θ+hv) − L(θ)|    R₁ = |L(θ+hv) − L(θ) − h⟨g,v⟩|    R₂ = |L(θ+hv) − L(θ) − h⟨g,v⟩ − ½h²⟨v,Hv⟩|

    shrink like h, h² and h³; a wrong g leaves R₁ at h, and a wrong H leaves R₂ at h². The directions are in one leaf,
    or in all, and remainders are root mean squares over them, since along a single one a remainder may change its sign.
    In one leaf the built-in objectives are quadratic, and R₂ is 0.

    Args:
      model, params, ratings, hyper: as in `gradients`; the points are its probes `nearby`, where no remainder is 0
        because the point is stationary, and `ratings`, where no data hide a mistake.
      num_directions: random directions per leaf, half of them at either probe.
      seed: of the probes and the directions.

    Returns:
      a GradientReport with one row per leaf (and `all`) and order: `leaf`, `order`, `expected` slope, the `slope`
      measured in the log-log plane, the median from step to step on the smallest remainders above rounding and the
      lower one of the two probes, how many `points` there were, `dtype`, `failed`, the probes at which the slope is
      wrong, and the verdict `passed`: no slope below the expected one by more than 0.5. Where too few remainders are
      above rounding, the polynomial is exact and the slope is missing.

    Raises:
      ValueError: as `gradients`.

    Cost: 30 evaluations of the objective per leaf and direction. Float64 as in `gradients`.

    Reference: Farrell, Ham, Funke and Rognes (2013), Automated derivation of the adjoint of high-level transient finite
    element programs, section 5 (the Taylor remainder convergence test).
    """
    table, rows = remainders(model, params, ratings, hyper, num_directions, seed), []
    for (leaf, order), both in table.groupby(["leaf", "order"], sort=False):
        known = {"leaf": leaf, "order": order, "expected": order + 1}
        found = pd.DataFrame([_slope(one, name, order + 1) for name, one in both.groupby("probe", sort=False)])
        failed = ", ".join(found.loc[~found["passed"], "probe"])
        lowest = found.sort_values(["passed", "slope"], kind="stable").iloc[0]
        known |= {"slope": lowest["slope"], "points": lowest["points"], "dtype": "float64"}
        rows.append(known | {"failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows))


def _slope(line: pd.DataFrame, probe: Any, expected: int) -> dict[str, Any]:
    """The slope of one line of remainders, and whether it is steep enough."""
    step, remainder, rounding = (line[name].to_numpy() for name in ("step", "remainder", "rounding"))
    counted = np.flatnonzero(np.isfinite(remainder) & (remainder > _ROUNDING * rounding))[-_POINTS:]
    slope = np.nan
    if len(counted) >= 3:
        # The median of the slopes from one step to the next: where two orders cancel, one or two of them are off.
        slope = float(np.median(np.diff(np.log(remainder[counted])) / np.diff(np.log(step[counted]))))
    # A large step may leave the domain of a loss; the smallest one must not.
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
    """What `taylor` reads its slopes from, to be drawn; arguments and errors are its own.

    Returns:
      a table with one row per probe, leaf (and `all`), step and order: `probe`, `leaf`, `step`, `order`, the
      `remainder`, the `rounding` that it may have, and `dtype`.
    """
    check_count("num_directions", num_directions)
    random, tables = generator(seed), []
    with float64(model, params, ratings, hyper) as (trained, case):
        where = {probe.name: probe for probe in probes(model, trained, case, random)}
        # Half of the directions each.
        numbers = {"nearby": -(-num_directions // 2), "ratings": max(1, num_directions // 2)}
        for name, number in numbers.items():
            tables.append(_remainders(model, where[name], number, random).assign(probe=name))
    table = pd.concat(tables, ignore_index=True).assign(dtype="float64")
    return table[["probe", *table.columns.drop("probe")]]


def _remainders(model: Model, probe: Probe, number: int, random: np.random.Generator) -> pd.DataFrame:
    """Those at one probe, root mean squares over so many directions."""
    _, trained, case = probe
    differences, tables = _differences(bare(model)), []
    slope = by_hand(model, trained, case) or autodiff(bare(model))(trained, case)[1]
    for leaf in [*names(trained), "all"]:
        squares, roundings = np.zeros((len(_STEPS), 3)), np.zeros(len(_STEPS))
        for _ in range(number):
            v = everywhere(trained, random) if leaf == "all" else next(directions(trained, leaf, 1, random))
            bent = hvp_by_hand(model, trained, case, v) or hvp(bare(model))(trained, v, case)
            changes, sizes = map(np.asarray, differences(trained, v, case, _STEPS))
            powers = np.cumsum([0 * _STEPS, _STEPS * dot(slope, v), _STEPS**2 * dot(v, bent) / 2], axis=0)
            squares += (changes - powers).T ** 2 / number
            sizes = sizes + _STEPS * magnitude(slope, v) + _STEPS**2 * magnitude(v, bent) / 2
            roundings += np.finfo(float).eps * sizes / number
        own = pd.DataFrame({"leaf": leaf, "step": np.repeat(_STEPS, 3), "order": np.tile([0, 1, 2], len(_STEPS))})
        tables.append(own.assign(remainder=np.sqrt(squares).ravel(), rounding=np.repeat(roundings, 3)))
    return pd.concat(tables, ignore_index=True)


def complex_step(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 16,
    seed: int = 0,
) -> GradientReport:
    """Check a gradient by a step along the imaginary axis, which loses no digit: ∂L/∂v = Im L(θ + ihv) / h, h = 1e-30.

    As `gradients` does, at the same probes.

    Args:
      model, params, ratings, hyper, num_directions, seed: as in `gradients`. Loss and penalty must be analytic: sums,
        products, powers, exponentials, but no absolute values, maxima of parts, or conjugates.

    Returns:
      a GradientReport with one row per leaf: `leaf`, `size`, `directions`, the errors of the worst direction
      and probe `autodiff_vs_complex` and `hand_vs_complex` (missing without a hand-derived gradient), relative as in
      `gradients`, `dtype`, `failed`, the probes at which the leaf is wrong, and the verdict `passed`.

    Raises:
      ValueError: as `gradients`.
      NotAnalyticError: a loss or penalty that is not analytic; the message names the operation.

    Cost: about two passes over the ratings per direction. Float64 and complex128, as in `gradients`.

    Reference: Squire and Trapp (1998), Using complex variables to estimate derivatives of real functions.
    """
    check_count("num_directions", num_directions)
    random, rows = generator(seed), []

    def check(params: Params, case: Case) -> None:
        _check_analytic(bare(model), *shapes((params.trained, case)))

    with float64(model, params, ratings, hyper, check) as (trained, case):
        where = probes(model, trained, case, random)
        found = {
            probe.name: _at(model, probe, num_directions if probe.name in ("given", "nearby") else 1, random)
            for probe in where
        }
    for leaf, values in zip(names(trained), jax.tree.leaves(trained), strict=True):
        errors, failed = worst({probe: table[leaf] for probe, table in found.items()}, _LIMITS)
        row = {"leaf": leaf, "size": values.size, "directions": min(values.size, num_directions), **errors}
        rows.append(row | {"dtype": "float64", "failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows), _LIMITS)


def _at(
    model: Model, probe: Probe, num_directions: int, random: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """The errors at one probe, of every leaf."""
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
    @jit
    def differences(trained: Rows, v: Rows, case: Case, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """L(θ+hv) − L(θ) for every step, summed term by term, and the summed magnitude of what was subtracted."""
        here = terms(model, trained, case)

        def change(h: jax.Array) -> tuple[jax.Array, jax.Array]:
            there = terms(model, moved(trained, v, h), case)
            return jnp.sum(there - here), jnp.sum(abs(there) + abs(here))

        return jax.lax.map(change, steps)

    return differences


@of_model
def _complex_difference(model: Model) -> Any:
    @jit
    def step(trained: Rows, v: Rows, case: Case) -> tuple[jax.Array, jax.Array]:
        """Im L(θ + ihv) / h, and its summed magnitude."""
        imaginary = terms(model, jax.tree.map(lambda x, v: jax.lax.complex(x, _IMAGINARY * v), trained, v), case).imag
        return jnp.sum(imaginary / _IMAGINARY), jnp.sum(abs(imaginary / _IMAGINARY))

    return step


@of_model
def _check_analytic(model: Model, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    """NotAnalyticError, by tracing, naming the operation that has no complex derivative."""
    trained, case = jax.tree.unflatten(structure, leaves)
    lifted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, complex), trained)
    why = None
    try:
        traced = jax.make_jaxpr(partial(terms, model))(lifted, case)
    except TypeError as error:
        why = str(error).splitlines()[0]
    else:
        used = sorted(_NOT_ANALYTIC & set(_complex_operations(traced.jaxpr)))
        if used:
            why = f"it takes {', '.join(used)} of a number that depends on the parameters"
        elif not jnp.issubdtype(traced.out_avals[0].dtype, jnp.complexfloating):
            why = "its terms are real whatever the parameters"
    if why:
        raise NotAnalyticError(
            f"verify: a complex step does not apply to the model {model.name!r}: {why}, and that has no complex "
            "derivative. Use verify.gradients and verify.taylor, which need none"
        )


def _complex_operations(jaxpr: Any) -> Iterator[str]:
    """The names of the primitives that read complex numbers, inner programs included."""
    for equation in jaxpr.eqns:
        if any(jnp.issubdtype(x.aval.dtype, jnp.complexfloating) for x in equation.invars):
            yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _complex_operations(inner)
