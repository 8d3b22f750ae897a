"""Gradient verification: three independent derivatives of one objective, leaf by leaf, in float64."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_ratings
from jaxmf.data.ratings import Ratings, to_float64
from jaxmf.models.model import Hyper, Model, Params, Rows, check_counts, check_model, row_weights
from jaxmf.training import check_hyper

_EXACT = 1e-10  # autodiff against hand-derived: rounding of float64 sums
_DIFFERENCE = 1e-6  # against central differences: truncation and cancellation too
_STEP = 1e-4  # of a central difference, for directions of unit scale per coordinate


class GradientReport(NamedTuple):
    """What `gradients` found.

    Attributes:
      model: the model's name.
      table: one row per leaf: `leaf`, `size`, `directions` probed, the three errors `hand_vs_autodiff`,
        `autodiff_vs_central` and `hand_vs_central`, `dtype`, and the verdict `passed`. Errors are relative to the
        summed magnitude of the terms that make up the derivative, NaN where the model has no hand-derived gradient.
      passed: whether every leaf passed.
    """

    model: str
    table: pd.DataFrame
    passed: bool

    def to_frame(self) -> pd.DataFrame:
        """The table, one row per leaf."""
        return self.table


def gradients(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 8,
    seed: int = 0,
) -> GradientReport:
    """Check a model's gradient: autodiff against the hand-derived formula against central differences.

    For every trained leaf and direction v, at the given parameters and at a perturbed point, with L = Σ_j t_j the
    objective's terms (one per observation, and the penalty),

        autodiff  ⟨jax.grad L, v⟩      hand-derived  ⟨model.gradient, v⟩      central  Σ_j [t_j(θ+hv) − t_j(θ−hv)] / 2h

    are compared relative to Σ_j |∂t_j·v|, which is not 0 at a stationary point. The hand-derived gradient is also
    compared element by element. The differences are taken term by term, so that large terms do not cancel digits.

    Args:
      model: the model; without a hand-derived `gradient` only autodiff and differences are compared.
      params: where to check.
      ratings: the observations, with weights.
      hyper: λ, λ_b, ν and a user's own numbers.
      num_directions: random directions per leaf; a leaf with no more numbers than that is checked in every coordinate.
      seed: of the directions and the perturbation.

    Returns:
      a GradientReport whose table names the leaf that is wrong. Errors of the worst direction and point.

    Raises:
      ValueError: an argument of another type, a number out of range, the model trains nothing, the ratings are over
        other numbers of users or items, the hand-derived gradient lacks a leaf or has it in another shape, or
        `num_directions` is not a positive integer.

    Cost: four passes over the ratings per direction. Runs in float64 inside `jax.enable_x64(True)` and leaves the
    setting as it was.

    Reference: Griewank and Walther (2008), Evaluating derivatives, sections 3 and 15.
    """
    check_model(model)
    check_hyper(hyper)
    ratings = as_ratings(ratings, "verify: ratings")
    check_counts(params, ratings, "verify")
    if not jax.tree.leaves(params.trained):
        raise ValueError(
            f"verify: the model {model.name!r} trains no parameters, so it has no gradient: "
            "verify one that is fitted, such as models.biased_mf(16)"
        )
    if not is_positive_integer(num_directions):
        raise ValueError(f"verify: num_directions must be a positive integer, not {num_directions!r}")
    _check_hand(model, params, ratings, hyper)
    random = generator(seed)
    with jax.enable_x64(True):
        params = jax.tree.map(to_float64, params)
        check = _checker(model, params, *jax.tree.map(to_float64, (ratings, hyper)))
        nudged = jax.tree.map(lambda x: x + 0.1 * random.standard_normal(x.shape), params.trained)
        worst: dict[str, dict[str, Any]] = {}
        for trained in (params.trained, nudged):
            for name, found in check(trained, num_directions, random).items():
                seen = worst.setdefault(name, found)
                # np.maximum carries NaN on, so that an error that is not a number is not lost.
                worst[name] = {k: np.maximum(seen[k], found[k]) for k in found}
    table = pd.DataFrame([{"leaf": name, **found, "dtype": "float64"} for name, found in worst.items()])
    errors = table[["hand_vs_autodiff", "autodiff_vs_central", "hand_vs_central"]]
    limits = pd.Series([_EXACT, _DIFFERENCE, _DIFFERENCE], errors.columns)
    if model.gradient is None:
        errors = errors[["autodiff_vs_central"]]
    table["passed"] = (errors <= limits[errors.columns]).all(axis=1)
    return GradientReport(model.name, table, bool(table["passed"].all()))


def _checker(model: Model, params: Params, ratings: Ratings, hyper: Hyper) -> Any:
    weight = row_weights(ratings, hyper.reg_exponent)
    structure, names = jax.tree.structure(params.trained), _names(params.trained)
    # Without its gradient, so that models which differ in nothing else share the programs.
    autodiff, probe = _programs(model._replace(gradient=None))
    problem = (params.fixed, ratings, weight, hyper)

    def by_hand(trained: Rows) -> Rows | None:
        return model.gradient and jax.jit(model.gradient)(Params(trained, params.fixed), ratings, weight, hyper)

    def check(trained: Rows, num_directions: int, random: np.random.Generator) -> dict[str, dict[str, Any]]:
        auto, scale, hand = jax.tree.map(np.asarray, (*autodiff(trained, *problem), by_hand(trained)))
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params.trained)]
        hands = [None] * len(leaves) if hand is None else jax.tree.leaves(hand)
        found = {}
        for number, (name, leaf, a, s, h) in enumerate(
            zip(names, leaves, jax.tree.leaves(auto), jax.tree.leaves(scale), hands, strict=True)
        ):
            row = {"size": leaf.size, "directions": 0, "hand_vs_autodiff": np.nan if h is None else 0.0}
            row |= {"autodiff_vs_central": 0.0, "hand_vs_central": row["hand_vs_autodiff"]}
            if h is not None and leaf.size:
                row["hand_vs_autodiff"] = _relative(np.abs(h - a).max(), s.max())
            for v in _directions(leaf.shape, num_directions, random):
                blank = [np.zeros_like(other) for other in leaves]
                blank[number] = v
                central, size = map(float, probe(trained, jax.tree.unflatten(structure, blank), *problem))
                row["directions"] += 1
                dot = float(np.vdot(a, v))
                row["autodiff_vs_central"] = np.maximum(row["autodiff_vs_central"], _relative(dot - central, size))
                if h is not None:
                    dot = float(np.vdot(h, v))
                    row["hand_vs_central"] = np.maximum(row["hand_vs_central"], _relative(dot - central, size))
            found[name] = row
        return found

    return check


@lru_cache(maxsize=16)
def _programs(model: Model) -> tuple[Any, Any]:
    def fit_terms(trained: Rows, fixed: Rows, ratings: Ratings) -> jax.Array:
        return ratings.weight * model.loss(Params(trained, fixed), ratings)

    def penalty(trained: Rows, weight: Rows, hyper: Hyper) -> jax.Array:
        return jnp.asarray(model.penalty(trained, weight, hyper))

    @jax.jit
    def autodiff(trained: Rows, fixed: Rows, ratings: Ratings, weight: Rows, hyper: Hyper) -> tuple[Rows, Rows]:
        fit = jax.grad(lambda t: jnp.sum(fit_terms(t, fixed, ratings)))(trained)
        own = jax.grad(penalty)(trained, weight, hyper)
        return jax.tree.map(jnp.add, fit, own), jax.tree.map(lambda a, b: abs(a) + abs(b), fit, own)

    @jax.jit
    def probe(
        trained: Rows, direction: Rows, fixed: Rows, ratings: Ratings, weight: Rows, hyper: Hyper
    ) -> tuple[jax.Array, jax.Array]:
        def terms(trained: Rows) -> jax.Array:
            return jnp.append(fit_terms(trained, fixed, ratings), penalty(trained, weight, hyper))

        tangent = jax.jvp(terms, (trained,), (direction,))[1]
        forward, backward = (
            terms(jax.tree.map(lambda x, v, s=sign: x + s * _STEP * v, trained, direction)) for sign in (1, -1)
        )
        return jnp.sum(forward - backward) / (2 * _STEP), jnp.sum(abs(tangent))

    return autodiff, probe


def _check_hand(model: Model, params: Params, ratings: Ratings, hyper: Hyper) -> None:
    """ValueError, by tracing, unless the hand-derived gradient, if there is one, has the leaves that are trained."""
    if (by_hand := model.gradient) is None:
        return
    hand = jax.eval_shape(lambda: by_hand(params, ratings, row_weights(ratings, hyper.reg_exponent), hyper))
    needed, found = _names(params.trained), _names(hand)
    if found != needed:
        wrong = [f"lacks {name}" for name in needed if name not in found]
        wrong += [f"has {name}, which is not trained" for name in found if name not in needed]
        raise ValueError(f"verify: the hand-derived gradient of {model.name!r} {', '.join(wrong)}; trained: {needed}")
    for name, h, leaf in zip(needed, jax.tree.leaves(hand), jax.tree.leaves(params.trained), strict=True):
        if h.shape != leaf.shape:
            raise ValueError(
                f"verify: the hand-derived gradient of {name} has shape {h.shape}; expected the leaf's, {leaf.shape}"
            )


def _names(trained: Any) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(trained)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def _directions(shape: tuple[int, ...], num_directions: int, random: np.random.Generator) -> list[np.ndarray]:
    size = int(np.prod(shape))
    if size <= num_directions:
        return list(np.eye(size).reshape(size, *shape))
    return [random.standard_normal(shape) for _ in range(num_directions)]


def _relative(error: float, scale: float) -> float:
    error = abs(error)
    return error / scale if scale > 0 else (0.0 if error == 0 else np.inf)
