"""Gradient verification: five independent derivatives of one objective, leaf by leaf, in float64."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params, Rows
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
    perturbed,
    relative,
    report,
    terms,
)

# Rounding of float64 sums; truncation and cancellation too, for differences.
LIMITS = {
    "hand_vs_autodiff": 1e-10,
    "autodiff_vs_jvp": 1e-13,
    "jvp_vs_vjp": 1e-13,
    "autodiff_vs_central": 1e-6,
    "hand_vs_central": 1e-6,
}
_STEP = 1e-4  # of a central difference, for directions of unit scale per coordinate


def gradients(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 16,
    seed: int = 0,
) -> GradientReport:
    """Check a model's gradient: autodiff, the hand-derived formula, forward mode and central differences must agree.

    For every trained leaf and direction v, at the given parameters and at a perturbed point, with L = Σ_j t_j the
    objective's terms (one per observation, and the penalty) and J their Jacobian,

        autodiff  ⟨jax.grad L, v⟩    hand     ⟨model.gradient, v⟩
        jvp       Σ_j (Jv)_j         central  Σ_j [t_j(θ+hv) − t_j(θ−hv)] / 2h

    are compared relative to Σ_j |(Jv)_j|, which is not 0 at a stationary point. The hand-derived gradient is also
    compared element by element, and J with its own transpose, ⟨u, Jv⟩ = ⟨Jᵀu, v⟩ for a random u (the dot-product test).
    The differences are taken term by term, so that large terms do not cancel digits.

    Args:
      model: the model; without a hand-derived `gradient` the columns that need one are missing.
      params: where to check.
      ratings: the observations, with weights.
      hyper: λ, λ_b, ν and a user's own numbers.
      num_directions: random directions per leaf; a leaf with no more numbers than that is checked in every coordinate.
      seed: of the directions and the perturbation.

    Returns:
      a GradientReport with one row per leaf: `leaf`, `size`, `directions` probed, the errors of the worst direction and
      point `hand_vs_autodiff`, `autodiff_vs_jvp`, `jvp_vs_vjp`, `autodiff_vs_central` and `hand_vs_central`, `dtype`,
      and the verdict `passed`.

    Raises:
      ValueError: an argument of another type, a number out of range, parameters that are not finite, the model trains
        nothing, the ratings are over other numbers of users or items, a function of the model fails or returns another
        shape than it should, what was derived by hand lacks a leaf, or `num_directions` is not a positive integer.

    Cost: five passes over the ratings per direction. Runs in float64 inside `jax.enable_x64(True)` and leaves the
    setting as it was.

    Reference: Griewank and Walther (2008), Evaluating derivatives, sections 3 and 15.
    """
    check_count("num_directions", num_directions)
    random = generator(seed)
    with float64(model, params, ratings, hyper) as (trained, case):
        found = [
            _compare(model, point, case, num_directions, random) for point in (trained, perturbed(trained, random))
        ]
    rows = []
    for leaf, values in zip(names(trained), jax.tree.leaves(trained), strict=True):
        # np.max carries NaN on, so that an error that is not a number is not lost.
        errors = {column: np.max([point[leaf][column] for point in found]) for column in LIMITS}
        passed = all(
            errors[column] <= limit
            for column, limit in LIMITS.items()
            if model.gradient is not None or "hand" not in column
        )
        row = {"leaf": leaf, "size": values.size, "directions": min(values.size, num_directions)}
        rows.append(row | errors | {"dtype": "float64", "passed": passed})
    return report(model, pd.DataFrame(rows), LIMITS)


def _compare(
    model: Model, trained: Rows, case: Case, num_directions: int, random: np.random.Generator
) -> dict[str, dict[str, float]]:
    """The errors at one point, of every leaf."""
    pull, probe = _programs(bare(model))
    cotangent = random.standard_normal(case.ratings.value.size + 1)
    _, auto, scale = jax.tree.map(np.asarray, autodiff(bare(model))(trained, case))
    pulled, hand = jax.tree.map(np.asarray, (pull(trained, case, cotangent), by_hand(model, trained, case)))
    table = {}
    for number, name in enumerate(names(trained)):
        errors = {column: [np.nan if hand is None and "hand" in column else 0.0] for column in LIMITS}
        if hand is not None:
            a, s, h = (jax.tree.leaves(tree)[number] for tree in (auto, scale, hand))
            errors["hand_vs_autodiff"].append(relative(np.abs(h - a).max(initial=0), s.max(initial=0)))
        for v in directions(trained, name, num_directions, random):
            jvp, jvp_size, central, weighted, weighted_size = np.asarray(probe(trained, v, case, cotangent))
            along, other = dot(auto, v), dot(pulled, v)
            errors["autodiff_vs_jvp"].append(relative(jvp - along, jvp_size + magnitude(auto, v)))
            errors["jvp_vs_vjp"].append(relative(weighted - other, weighted_size + magnitude(pulled, v)))
            errors["autodiff_vs_central"].append(relative(along - central, jvp_size))
            if hand is not None:
                errors["hand_vs_central"].append(relative(dot(hand, v) - central, jvp_size))
        table[name] = {column: float(np.max(found)) for column, found in errors.items()}
    return table


@lru_cache(maxsize=16)
def _programs(model: Model) -> tuple[Any, Any]:
    @jit
    def pull(trained: Rows, case: Case, cotangent: jax.Array) -> Rows:
        """Jᵀ·cotangent."""
        return jax.vjp(lambda trained: terms(model, trained, case), trained)[1](cotangent)[0]

    @jit
    def probe(trained: Rows, direction: Rows, case: Case, cotangent: jax.Array) -> jax.Array:
        """Σ Jv with its summed magnitude, the central difference, and ⟨cotangent, Jv⟩ with its summed magnitude."""

        _, tangent = jax.jvp(lambda trained: terms(model, trained, case), (trained,), (direction,))
        there, back = (terms(model, moved(trained, direction, step), case) for step in (_STEP, -_STEP))
        central = jnp.sum(there - back) / (2 * _STEP)
        weighted = cotangent * tangent
        sums = jnp.sum(tangent), jnp.sum(abs(tangent)), central, jnp.sum(weighted), jnp.sum(abs(weighted))
        return jnp.stack(sums)

    return pull, probe
