"""Verify a gradient, leaf by leaf: five independent derivatives of one objective, at points that hide no mistake."""

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
from jaxmf.verify._probes import Probe, of_columns, probes, worst
from jaxmf.verify.case import (
    Case,
    GradientReport,
    autodiff,
    bare,
    by_hand,
    check_count,
    directions,
    dot,
    float64,
    jit,
    magnitude,
    moved,
    names,
    powers,
    relative,
    report,
    terms,
)

# The rounding of float64 sums; for differences, truncation and cancellation too.
LIMITS = {
    "hand_vs_autodiff": 1e-10,
    "autodiff_vs_jvp": 1e-13,
    "jvp_vs_vjp": 1e-13,
    "autodiff_vs_central": 1e-6,
    "hand_vs_central": 1e-6,
    # The rounding of float32 sums of up to _SUMMED terms; half precision is a hundred times less exact.
    "float32_vs_float64": 1e-4,
}
_SUMMED = 4096
_ROUNDING = 8  # relative rounding error of a term, the square of a sum of a few products, in units of eps
_STEP = 1e-4  # step of a central difference, for directions of unit scale per coordinate


def gradients(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 4,
    seed: int = 0,
) -> GradientReport:
    """Check a model's gradient: autodiff, the hand-derived formula, forward mode and central differences must agree.

    For every trained leaf and direction v, with L = Σ_j t_j the sum of the objective's terms (one per observation, and
    one for the penalty and the background, if any) and J the terms' Jacobian,

        autodiff  ⟨jax.grad L, v⟩    hand     ⟨model.by_hand.gradient, v⟩
        jvp       Σ_j (Jv)_j         central  Σ_j [t_j(θ+hv) − t_j(θ−hv)] / 2h

    are compared relative to Σ_j |(Jv)_j|, which is not 0 at a stationary point. The hand-derived gradient is also
    compared element by element, and J with its transpose: ⟨u, Jv⟩ = ⟨Jᵀu, v⟩ for a random u (the dot-product test).
    The differences are taken term by term, so that large terms do not cancel digits. The scale of their errors includes
    the rounding error of the terms, 8 ε Σ_j |t_j| / h, so that rounding alone does not fail the check.

    The given data can hide a mistake: if all weights are 1, a gradient that ignores weights is right, and if λ_b = λ,
    so is one that confuses the two. So all comparisons are made at several probes: `given`, everything as given;
    `nearby`, the parameters perturbed at random; `weights`, weights drawn at random, some of them 0; `numbers`, λ, λ_b,
    ν and the other floating numbers of `hyper` drawn at random; `ratings`, other pairs, values and fixed parameters as
    well, with repeated pairs, values of 0 and rows without ratings; `rank`, ν = 0 and an active rank of half the width,
    beyond which the columns of `factors` are 0. At the last two, autodiff and the hand-derived gradient are evaluated
    in float32 as well.

    Args:
      model: the model; without a hand-derived gradient, the columns that need one are missing.
      params: the point at which to check.
      ratings: the observations, with weights.
      hyper: λ, λ_b, ν and user-defined numbers.
      num_directions: number of random directions per leaf at `given` and `nearby`, one at the other probes; a leaf with
        at most that many elements is checked in every coordinate.
      seed: seed of the directions and the probes.

    Returns:
      a GradientReport with one row per leaf: `leaf`, `size`, the number of `directions`, the largest errors over
      directions and probes, `hand_vs_autodiff`, `autodiff_vs_jvp`, `jvp_vs_vjp`, `autodiff_vs_central`,
      `hand_vs_central` and `float32_vs_float64`, the `dtype` of all but the last, `failed`, which lists the probes at
      which the leaf is wrong (or "float32"), and the verdict `passed`.

    Raises:
      ValueError: an argument has the wrong type, a number is out of range, parameters are not finite, the model trains
        nothing, the ratings are over different numbers of users or items, a function of the model fails or returns the
        wrong shape, a hand-derived function lacks a leaf, or `num_directions` is not a positive integer.

    Cost: five passes over the ratings per direction. The ratings are padded with copies of weight 0, so that ratings of
    about the same size share programs. Runs inside `jax.enable_x64(True)` and leaves the setting as it was.

    Reference: Griewank and Walther (2008), Evaluating derivatives, sections 3 and 15.
    """
    check_count("num_directions", num_directions)
    random = generator(seed)
    with float64(model, params, ratings, hyper) as (trained, case):
        points = probes(model, trained, case, random)
        tables = {
            probe.name: _compare(model, probe, num_directions if probe.name in ("given", "nearby") else 1, random)
            for probe in points
        }
        # The probes replace a λ_b or rank of None by numbers, so how the model handles None is checked separately.
        if shapes(case) != shapes(points[0].case):
            for leaf, error in zip(names(trained), _elements(model, trained, case), strict=True):
                tables["given"][leaf]["hand_vs_autodiff"] += error
        tables["float32"] = _in_single(model, points[-2:])
    rows = []
    for leaf, values in zip(names(trained), jax.tree.leaves(trained), strict=True):
        errors, failed = worst({probe: table[leaf] for probe, table in tables.items()}, LIMITS)
        row = {"leaf": leaf, "size": values.size, "directions": min(values.size, num_directions)}
        rows.append(row | errors | {"dtype": "float64", "failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows), LIMITS)


def _elements(model: Model, trained: Rows, case: Case) -> list[list[float]]:
    """Return, per leaf, the error of the hand-derived gradient's worst element; empty lists if there is no gradient."""
    _, auto, scale = jax.tree.map(np.asarray, autodiff(bare(model))(trained, case))
    hand = by_hand(model, trained, case)
    return [[]] * len(jax.tree.leaves(auto)) if hand is None else [[error] for error in _errors(hand, auto, scale)]


def _errors(actual: Any, expected: Any, scale: Any) -> list[float]:
    """Return the largest error of every leaf, relative to its largest summed magnitude."""
    leaves = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (actual, expected, scale)), strict=True)
    return [relative(np.abs(a - b).max(initial=0), s.max(initial=0)) for a, b, s in leaves]


def _compare(
    model: Model, probe: Probe, num_directions: int, random: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """Return the errors of every leaf at one probe."""
    trained, case = probe.trained, probe.case
    pull, push = _programs(bare(model))
    # Nothing is drawn for padding, so that later draws do not depend on it.
    cotangent = np.resize(random.standard_normal(case.num_ratings + 1), case.ratings.value.size + 1)
    _, auto, scale = jax.tree.map(np.asarray, autodiff(bare(model))(trained, case))
    pulled, hand = jax.tree.map(np.asarray, (pull(trained, case, cotangent), by_hand(model, trained, case)))
    table: dict[str, dict[str, list[float]]] = {name: {column: [] for column in LIMITS} for name in names(trained)}
    for leaf, error in zip(table, () if hand is None else _errors(hand, auto, scale), strict=hand is not None):
        table[leaf]["hand_vs_autodiff"].append(error)
    for name, errors in table.items():
        for v in directions(trained, name, num_directions, random):
            jvp, jvp_size, central, noise, weighted, weighted_size = np.asarray(push(trained, v, case, cotangent))
            directional, transposed = dot(auto, v), dot(pulled, v)
            errors["autodiff_vs_jvp"].append(relative(jvp - directional, jvp_size + magnitude(auto, v)))
            errors["jvp_vs_vjp"].append(relative(weighted - transposed, weighted_size + magnitude(pulled, v)))
            size = jvp_size + noise / LIMITS["autodiff_vs_central"]
            errors["autodiff_vs_central"].append(relative(directional - central, size))
            if hand is not None:
                errors["hand_vs_central"].append(relative(dot(hand, v) - central, size))
    return table


def _in_single(model: Model, points: tuple[Probe, ...]) -> dict[str, dict[str, list[float]]]:
    """Return the float32 errors, without `enable_x64`, of autodiff and of the hand-derived gradient."""
    table: dict[str, dict[str, list[float]]] = {}
    for _, trained, case in points:
        weight = np.where(np.arange(case.ratings.value.size) < _SUMMED, case.ratings.weight, 0)
        case = case._replace(ratings=of_columns(case.ratings, weight=weight))
        case = case._replace(weight=powers(case.ratings, case.hyper))
        single = jax.tree.map(_rounded, (trained, case))
        double = jax.tree.map(lambda leaf, like: leaf.astype(np.asarray(like).dtype), single, (trained, case))
        _, expected, scale = autodiff(bare(model))(*double)
        with jax.enable_x64(False):
            computed = autodiff(bare(model))(*single)[1], by_hand(model, *single)
            computed = jax.tree.map(np.asarray, computed)
        for gradient in computed:
            if gradient is not None:
                for leaf, error in zip(names(trained), _errors(gradient, expected, scale), strict=True):
                    table.setdefault(leaf, {"float32_vs_float64": []})["float32_vs_float64"].append(error)
    return table


def _rounded(leaf: Any) -> np.ndarray:
    """Return the leaf in the dtype that JAX gives it without `enable_x64`."""
    array = np.asarray(leaf)
    narrow = {"f": np.float32, "i": np.int32}.get(array.dtype.kind)
    return array if narrow is None else array.astype(narrow)


@of_model
def _programs(model: Model) -> tuple[Any, Any]:
    """Return the jitted `pull` and `push` of a bare model."""

    @jit
    def pull(trained: Rows, case: Case, cotangent: jax.Array) -> Rows:
        """Return Jᵀ·cotangent."""
        pulled: Rows = jax.vjp(lambda trained: terms(model, trained, case), trained)[1](cotangent)[0]
        return pulled

    @jit
    def push(trained: Rows, direction: Rows, case: Case, cotangent: jax.Array) -> jax.Array:
        """Return Σ Jv with its summed magnitude, the central difference with its rounding error, and ⟨cotangent, Jv⟩
        with its summed magnitude.
        """

        _, tangent = jax.jvp(lambda trained: terms(model, trained, case), (trained,), (direction,))
        there, back = (terms(model, moved(trained, direction, step), case) for step in (_STEP, -_STEP))
        central = jnp.sum(there - back) / (2 * _STEP)
        noise = _ROUNDING * jnp.finfo(there.dtype).eps * jnp.sum(abs(there) + abs(back)) / (2 * _STEP)
        weighted = cotangent * tangent
        sums = jnp.sum(tangent), jnp.sum(abs(tangent)), central, noise, jnp.sum(weighted), jnp.sum(abs(weighted))
        return jnp.stack(sums)

    return pull, push
