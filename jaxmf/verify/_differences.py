"""Measure the error of finite differences by step size: where truncation ends and rounding begins."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.kernels.programs import of_model
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.verify.case import Case, bare, check_count, everywhere, float64, jit, moved, objective_at, relative, terms

# A scheme {m: a} estimates the derivative along v by Σ_m a·L(θ + m·h·v) / h.
_SCHEMES = {
    "forward": {0: -1.0, 1: 1.0},
    "central": {-1: -1 / 2, 1: 1 / 2},
    "five-point": {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
}
_MULTIPLES = (-2, -1, 0, 1, 2)
_STEPS = 2.0 ** np.arange(-46, 7)
_DEGREE = 5
_DOMINANCE = 10.0  # the slope of one error is measured where its prediction exceeds this many times the other's
_POINTS = 6  # minimum number of points for a slope
_SLACK = 0.1  # tolerance of the truncation slope
_ROUNDING_SLACK = 0.3  # rounding errors scatter more
_MARGIN = 10.0  # an error may be at most this many times its prediction
_NEAR = 1e-4  # relative truncation up to which the polynomial predicts a loss that is not one of degree 4


class Differences(NamedTuple):
    """Result of `differences`.

    Attributes:
      curves: one row per place, dtype, scheme and step: the measured `error` and the predicted `truncation` and
        `rounding`, all relative to the summed magnitude of the derivative's terms, as root mean squares over the
        directions.
      slopes: one row per place, dtype and scheme: `truncation_slope` with its `expected_slope`, and `rounding_slope`,
        which should be −1, in the log-log plane; each is missing where that error is absent or never dominates the
        other. Then the measured `best_step` with its `best_error`, the `predicted_step` with its `predicted_error`, and
        the verdict `passed`.
      line: one row per place: the coefficients `c0` to `c5` of L(θ+hv) as a polynomial in h, each relative to the
        summed magnitude of its terms, the largest over the directions; 0 beyond the polynomial's degree.
      passed: whether every row of `slopes` passed.
    """

    curves: pd.DataFrame
    slopes: pd.DataFrame
    line: pd.DataFrame
    passed: bool


def differences(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 4,
    seed: int = 0,
) -> Differences:
    """Measure the error of forward, central and five-point differences against the step, in float32 and float64.

    Along θ + hv, with v standard normal in `all` leaves or only in those of `user` or `item`, the L of a built-in model
    is a polynomial of degree 4, or 2 within one side. With its coefficients c_k, computed in float64 by repeated
    forward mode, the error of the scheme Σ_m a_m L(θ + mhv) / h for the derivative c_1 is predicted as

        truncation  |Σ_{k≥2} c_k h^{k−1} Σ_m a_m m^k|        rounding  ε Σ_m |a_m| (L + Σ |θ ∂L/∂θ|)(θ + mhv) / h

    Five-point differences are exact up to degree 4, so they have no truncation error at any step, nor have central ones
    within one side.

    Args:
      model, params, ratings, hyper: as in `gradients`, rounded to float32, so that both dtypes solve the same problem.
      num_directions: number of random directions per place.
      seed: seed of the directions.

    Returns:
      a Differences. A row passes if its slopes are within 0.1 (rounding: 0.3) of the expected ones and no error exceeds
      ten times its prediction; where L is not a polynomial of degree 4, only steps whose truncation is at most 1e-4
      count.

    Raises:
      ValueError: as `gradients`.

    Cost: 1,590 evaluations of the objective per direction. Runs inside `jax.enable_x64(True)` and leaves the setting
    as it was.

    References: Higham (2002), Accuracy and stability of numerical algorithms, section 1.14; Nocedal and Wright (2006),
    Numerical optimization, section 8.1.
    """
    check_count("num_directions", num_directions)
    random = generator(seed)
    curves, slopes, line = [], [], []
    with float64(model, params, ratings, hyper) as (trained, case):
        single = jax.tree.map(partial(_cast_floating, np.float32), (trained, case))
        for place in ("all", "user", "item"):
            if not jax.tree.leaves(trained if place == "all" else getattr(trained, place)):
                continue
            measured = [_measure(bare(model), single[0], single[1], place, random) for _ in range(num_directions)]
            coefficients = {f"c{k}": max(c) for k, c in enumerate(zip(*(c for c, _ in measured), strict=True))}
            line.append({"place": place} | coefficients)
            for dtype, scheme in measured[0][1]:
                labels = {"place": place, "dtype": dtype, "scheme": scheme}
                squares = sum(curve[dtype, scheme] ** 2 for _, curve in measured)
                curve = np.sqrt(squares / num_directions).assign(step=_STEPS)
                curves.append(pd.DataFrame([labels]).merge(curve, how="cross"))
                slopes.append(labels | _slopes(curve, _SCHEMES[scheme], list(coefficients.values())))
    table = pd.DataFrame(slopes)
    return Differences(pd.concat(curves, ignore_index=True), table, pd.DataFrame(line), bool(table["passed"].all()))


def _measure(
    model: Model, trained: Rows, case: Case, place: str, random: np.random.Generator
) -> tuple[list[float], dict[tuple[str, str], pd.DataFrame]]:
    """Return the polynomial's coefficients along one random direction, and the curve of every dtype and scheme."""
    expand, evaluate = _programs(model)
    v = everywhere(trained, random)
    if place != "all":
        v = jax.tree.map(np.zeros_like, v)._replace(**{place: getattr(v, place)})
    problem32 = (trained, jax.tree.map(partial(_cast_floating, np.float32), v), case)
    problem64 = jax.tree.map(partial(_cast_floating, np.float64), problem32)
    c, size, sensitivity = (np.asarray(x) for x in expand(*problem64))
    curves = {}
    for problem in (problem32, problem64):
        dtype = jax.tree.leaves(problem[0])[0].dtype
        values = np.asarray(evaluate(*problem, jnp.asarray(np.outer(_STEPS, _MULTIPLES), dtype)), np.float64)
        for scheme, stencil in _SCHEMES.items():
            curve = _curve(stencil, values, c, sensitivity, float(jnp.finfo(dtype).eps))
            curves[str(dtype), scheme] = curve / (size[1] or 1)
    return [relative(x, s) for x, s in zip(c, size, strict=True)], curves


def _curve(
    stencil: dict[int, float], values: np.ndarray, c: np.ndarray, sensitivity: np.ndarray, eps: float
) -> pd.DataFrame:
    """Return measured and predicted errors for every step; `sensitivity` holds Σ |θ ∂L/∂θ| and Σ |v ∂L/∂θ|."""
    columns = [_MULTIPLES.index(m) for m in stencil]
    a, m = np.array(list(stencil.values())), np.array(list(stencil))
    error = np.abs(values[:, columns] @ a / _STEPS - c[1])
    truncation = np.abs(sum(c[k] * _STEPS ** (k - 1) * (a @ m**k) for k in range(2, _DEGREE + 1)))
    offsets = np.abs(np.outer(_STEPS, m))
    rounding = eps * (np.abs(values[:, columns]) + sensitivity[0] + offsets * sensitivity[1]) @ np.abs(a) / _STEPS
    return pd.DataFrame({"error": error, "truncation": truncation, "rounding": rounding})


def _slopes(curve: pd.DataFrame, stencil: dict[int, float], coefficients: Sequence[float]) -> dict[str, Any]:
    """Return the slopes, the best steps and the verdict of one curve."""
    step, error, truncation, rounding = (curve[name].to_numpy() for name in ("step", "error", "truncation", "rounding"))
    moments = {k: sum(a * m**k for m, a in stencil.items()) for k in range(2, _DEGREE + 1)}
    leading = [k for k, moment in moments.items() if abs(moment) > 1e-12 and coefficients[k] != 0]
    predictable = truncation <= (_NEAR if coefficients[_DEGREE] else math.inf)
    expected, in_truncation = math.nan, np.zeros(len(step), bool)
    if leading:
        expected = leading[0] - 1
        # Only up to the steps at which the next power of h matters.
        leading_term = truncation[0] * (step / step[0]) ** expected
        in_truncation = (
            (truncation > _DOMINANCE * rounding) & (abs(truncation - leading_term) < 0.02 * truncation) & predictable
        )
    # Only steps that are not lost in the rounding of θ, and at which L itself has not grown.
    in_rounding = (
        (rounding > _DOMINANCE * truncation) & (rounding < 0.5) & (rounding * step < 1.5 * rounding[0] * step[0])
    )
    truncation_slope, rounding_slope = (
        _slope(step[in_truncation], error[in_truncation]),
        _slope(step[in_rounding], error[in_rounding]),
    )
    best_index, predicted_index = int(error.argmin()), int((truncation + rounding).argmin())
    wrong = abs(truncation_slope - expected) > _SLACK or abs(rounding_slope + 1) > _ROUNDING_SLACK
    expected_error = truncation + rounding
    return {
        "expected_slope": expected,
        "truncation_slope": truncation_slope,
        "rounding_slope": rounding_slope,
        "best_step": step[best_index],
        "best_error": error[best_index],
        "predicted_step": step[predicted_index],
        "predicted_error": expected_error[predicted_index],
        "passed": bool(not wrong and (error[predictable] <= _MARGIN * expected_error[predictable]).all()),
    }


def _slope(step: np.ndarray, error: np.ndarray) -> float:
    """Return the slope of the nonzero errors in the log-log plane, NaN if there are too few."""
    nonzero = error > 0
    if nonzero.sum() < _POINTS:
        return math.nan
    return float(np.polyfit(np.log(step[nonzero]), np.log(error[nonzero]), 1)[0])


def _cast_floating(dtype: Any, leaf: Any) -> jax.Array:
    """Return the leaf as an array, cast to this dtype if it is floating."""
    array = jnp.asarray(leaf)
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


@of_model
def _programs(model: Model) -> tuple[Any, Any]:
    """Return the jitted `expand` and `evaluate` of a bare model."""

    @jit
    def expand(trained: Rows, v: Rows, case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the coefficients c of L(θ+hv), their summed magnitudes, and Σ |θ ∂L/∂θ| with Σ |v ∂L/∂θ|."""

        def along(h: jax.Array) -> jax.Array:
            return terms(model, moved(trained, v, h), case)

        derivatives, f = [], along
        for k in range(_DEGREE + 1):
            derivatives.append(f(jnp.zeros(())) / math.factorial(k))
            f = partial(_derivative, f)
        c = jnp.stack(derivatives)
        g = jax.grad(lambda trained: objective_at(model, trained, case))(trained)
        sensitivity = [
            sum(jnp.sum(abs(a * b)) for a, b in zip(*map(jax.tree.leaves, (g, x)), strict=True)) for x in (trained, v)
        ]
        return jnp.sum(c, axis=1), jnp.sum(abs(c), axis=1), jnp.stack(sensitivity)

    @jit
    def evaluate(trained: Rows, v: Rows, case: Case, points: jax.Array) -> jax.Array:
        """Return L(θ+hv) for every h in `points`."""
        values: jax.Array = jax.lax.map(lambda h: objective_at(model, moved(trained, v, h), case), points.ravel())
        return values.reshape(points.shape)

    return expand, evaluate


def _derivative(f: Any, h: jax.Array) -> jax.Array:
    tangent: jax.Array = jax.jvp(f, (h,), (jnp.ones_like(h),))[1]
    return tangent
