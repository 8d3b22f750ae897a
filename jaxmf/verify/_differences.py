"""The error of finite differences against the step size: where truncation ends and rounding begins."""

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
from jaxmf.verify.case import Case, bare, check_count, everywhere, float64, jit, moved, relative, terms, total

# A scheme {m: a} takes Σ_m a·L(θ + m·h·v) / h for the derivative along v.
_SCHEMES = {
    "forward": {0: -1.0, 1: 1.0},
    "central": {-1: -1 / 2, 1: 1 / 2},
    "five-point": {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
}
_MULTIPLES = (-2, -1, 0, 1, 2)
_STEPS = 2.0 ** np.arange(-46, 7)
_DEGREE = 5
_CLEAR = 10.0  # one kind of error is measured where it is predicted to be so many times the other
_POINTS = 6  # fewer give no slope
_SLACK = 0.1  # of a slope of truncation; rounding scatters
_ROUNDING_SLACK = 0.3
_MARGIN = 10.0
_NEAR = 1e-4  # relative truncation up to which the polynomial speaks for a loss that is none of degree 4


class Differences(NamedTuple):
    """What `differences` found.

    Attributes:
      curves: one row per place, dtype, scheme and step: `error` measured, `truncation` and `rounding` predicted, all
        relative to the summed magnitude of the derivative's terms, root mean squares over the directions.
      slopes: one row per place, dtype and scheme: `truncation_slope` with the `expected_slope`, and `rounding_slope`,
        which should be −1, in the log-log plane, missing where there is no such error or it is never clear of the
        other; the `best_step` measured with its `best_error`, and the `predicted_step` with its `predicted_error`; the
        verdict `passed`.
      line: one row per place: the coefficients `c0` to `c5` of L(θ+hv) as a polynomial in h, relative to the summed
        magnitudes of what they consist of, the largest of all directions; 0 beyond its degree.
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

    Along θ + hv, v standard normal in `all` leaves, or only in those of `user` or `item`, L is a polynomial for the
    built-in models: of degree 4, and in one side 2. With its coefficients c_k, which repeated forward mode gives in
    float64, the scheme Σ_m a_m L(θ + mhv) / h misses the derivative c_1 by

        truncation  |Σ_{k≥2} c_k h^{k−1} Σ_m a_m m^k|        rounding  ε Σ_m |a_m| (L + Σ |θ ∂L/∂θ|)(θ + mhv) / h

    Five-point differences are exact up to degree 4 and so have no truncation error at all, and central ones none in one
    side, whatever the step.

    Args:
      model, params, ratings, hyper: as in `gradients`, rounded to float32, so that both dtypes meet one problem.
      num_directions: random directions in each place.
      seed: of the directions.

    Returns:
      a Differences. A row passes if its slopes are the expected ones, to 0.1 (rounding 0.3), and no error is ten
      times the predicted; where L is no polynomial of degree 4, of the steps whose truncation is at most 1e-4.

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
        single = jax.tree.map(partial(_floating, np.float32), (trained, case))
        for place in ("all", "user", "item"):
            if not jax.tree.leaves(trained if place == "all" else getattr(trained, place)):
                continue
            found = [_measure(bare(model), single[0], single[1], place, random) for _ in range(num_directions)]
            powers = {f"c{k}": max(c) for k, c in enumerate(zip(*(powers for powers, _ in found), strict=True))}
            line.append({"place": place} | powers)
            for dtype, scheme in found[0][1]:
                known = {"place": place, "dtype": dtype, "scheme": scheme}
                squares = sum(curve[dtype, scheme] ** 2 for _, curve in found)
                curve = np.sqrt(squares / num_directions).assign(step=_STEPS)
                curves.append(pd.DataFrame([known]).merge(curve, how="cross"))
                slopes.append(known | _slopes(curve, _SCHEMES[scheme], list(powers.values())))
    rates = pd.DataFrame(slopes)
    return Differences(pd.concat(curves, ignore_index=True), rates, pd.DataFrame(line), bool(rates["passed"].all()))


def _measure(
    model: Model, trained: Rows, case: Case, place: str, random: np.random.Generator
) -> tuple[list[float], dict[tuple[str, str], pd.DataFrame]]:
    """Along one direction: the polynomial's coefficients, and the curve of every dtype and scheme."""
    expand, evaluate = _programs(model)
    v = everywhere(trained, random)
    if place != "all":
        v = jax.tree.map(np.zeros_like, v)._replace(**{place: getattr(v, place)})
    problem32 = (trained, jax.tree.map(partial(_floating, np.float32), v), case)
    problem64 = jax.tree.map(partial(_floating, np.float64), problem32)
    c, size, wobble = (np.asarray(x) for x in expand(*problem64))
    curves = {}
    for problem in (problem32, problem64):
        dtype = jax.tree.leaves(problem[0])[0].dtype
        values = np.asarray(evaluate(*problem, jnp.asarray(np.outer(_STEPS, _MULTIPLES), dtype)), np.float64)
        for scheme, stencil in _SCHEMES.items():
            curve = _curve(stencil, values, c, wobble, float(jnp.finfo(dtype).eps))
            curves[str(dtype), scheme] = curve / (size[1] or 1)
    return [relative(x, s) for x, s in zip(c, size, strict=True)], curves


def _curve(
    stencil: dict[int, float], values: np.ndarray, c: np.ndarray, wobble: np.ndarray, eps: float
) -> pd.DataFrame:
    """Errors measured and predicted for every step. `wobble`: Σ |θ ∂L/∂θ| and Σ |v ∂L/∂θ|."""
    columns = [_MULTIPLES.index(m) for m in stencil]
    a, m = np.array(list(stencil.values())), np.array(list(stencil))
    error = np.abs(values[:, columns] @ a / _STEPS - c[1])
    truncation = np.abs(sum(c[k] * _STEPS ** (k - 1) * (a @ m**k) for k in range(2, _DEGREE + 1)))
    moved = np.abs(np.outer(_STEPS, m))
    rounding = eps * (np.abs(values[:, columns]) + wobble[0] + moved * wobble[1]) @ np.abs(a) / _STEPS
    return pd.DataFrame({"error": error, "truncation": truncation, "rounding": rounding})


def _slopes(curve: pd.DataFrame, stencil: dict[int, float], c: Sequence[float]) -> dict[str, Any]:
    step, error, truncation, rounding = (curve[name].to_numpy() for name in ("step", "error", "truncation", "rounding"))
    moments = {k: sum(a * m**k for m, a in stencil.items()) for k in range(2, _DEGREE + 1)}
    leading = [k for k, moment in moments.items() if abs(moment) > 1e-12 and c[k] != 0]
    near = truncation <= (_NEAR if c[_DEGREE] else math.inf)
    expected, clear = math.nan, np.zeros(len(step), bool)
    if leading:
        expected = leading[0] - 1
        # Up to where the next power of h is felt.
        alone = truncation[0] * (step / step[0]) ** expected
        clear = (truncation > _CLEAR * rounding) & (abs(truncation - alone) < 0.02 * truncation) & near
    # From where a step is lost in the rounding of θ, to where L itself grows.
    noisy = (rounding > _CLEAR * truncation) & (rounding < 0.5) & (rounding * step < 1.5 * rounding[0] * step[0])
    truncation_slope, rounding_slope = _slope(step[clear], error[clear]), _slope(step[noisy], error[noisy])
    best, predicted = int(error.argmin()), int((truncation + rounding).argmin())
    wrong = abs(truncation_slope - expected) > _SLACK or abs(rounding_slope + 1) > _ROUNDING_SLACK
    expected_error = truncation + rounding
    return {
        "expected_slope": expected,
        "truncation_slope": truncation_slope,
        "rounding_slope": rounding_slope,
        "best_step": step[best],
        "best_error": error[best],
        "predicted_step": step[predicted],
        "predicted_error": expected_error[predicted],
        "passed": bool(not wrong and (error[near] <= _MARGIN * expected_error[near]).all()),
    }


def _slope(step: np.ndarray, error: np.ndarray) -> float:
    """The slope in the log-log plane of the errors that are not 0, missing for too few."""
    some = error > 0
    return float(np.polyfit(np.log(step[some]), np.log(error[some]), 1)[0]) if some.sum() >= _POINTS else math.nan


def _floating(dtype: Any, leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@of_model
def _programs(model: Model) -> tuple[Any, Any]:
    @jit
    def expand(trained: Rows, v: Rows, case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The coefficients c of L(θ+hv), their summed magnitudes, and Σ |θ ∂L/∂θ| with Σ |v ∂L/∂θ|."""

        def along(h: jax.Array) -> jax.Array:
            return terms(model, moved(trained, v, h), case)

        derivatives, f = [], along
        for k in range(_DEGREE + 1):
            derivatives.append(f(jnp.zeros(())) / math.factorial(k))
            f = partial(_derivative, f)
        c = jnp.stack(derivatives)
        g = jax.grad(lambda trained: total(model, trained, case))(trained)
        wobble = [
            sum(jnp.sum(abs(a * b)) for a, b in zip(*map(jax.tree.leaves, (g, x)), strict=True)) for x in (trained, v)
        ]
        return jnp.sum(c, axis=1), jnp.sum(abs(c), axis=1), jnp.stack(wobble)

    @jit
    def evaluate(trained: Rows, v: Rows, case: Case, points: jax.Array) -> jax.Array:
        """L(θ+hv) for every h in `points`."""
        return jax.lax.map(lambda h: total(model, moved(trained, v, h), case), points.ravel()).reshape(points.shape)

    return expand, evaluate


def _derivative(f: Any, h: jax.Array) -> jax.Array:
    return jax.jvp(f, (h,), (jnp.ones_like(h),))[1]
