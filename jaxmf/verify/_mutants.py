"""Plant mistakes in a model's hand-derived gradient: which methods notice them, and which leaves do they name?"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_ratings
from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.tiles import prepare
from jaxmf.models.checks import check_model
from jaxmf.models.leaves import fill_beyond_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, bias_l2
from jaxmf.verify._gradients import LIMITS, gradients
from jaxmf.verify._probes import probes
from jaxmf.verify._stationarity import SOLVED, solvable, solve_side
from jaxmf.verify._taylor import NotAnalyticError, complex_step, taylor
from jaxmf.verify.case import (
    GradientReport,
    autodiff,
    bare,
    by_hand,
    float64,
    names,
    objective_at,
    relative,
    report,
    without_padding,
)

# A hand-derived gradient, a function of params, ratings, weight and hyper.
Gradient = Callable[[Params, Ratings, Rows, Hyper], Rows]


def _one_leaf(index: int, change: Callable[[jax.Array], jax.Array], gradient: Gradient, *given: Any) -> Rows:
    leaves, tree = jax.tree.flatten(gradient(*given))
    leaves[index] = change(leaves[index])
    changed: Rows = jax.tree.unflatten(tree, leaves)
    return changed


def _without_l2(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    return gradient(params, ratings, weight, hyper._replace(l2=0.0, l2_bias=bias_l2(hyper)))


def _without_l2_bias(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    return gradient(params, ratings, weight, hyper._replace(l2_bias=0.0))


def _sides_swapped(gradient: Gradient, *given: Any) -> Rows:
    """Swap the leaves that both sides have in the same shape; other shapes would be refused before any comparison."""
    right = gradient(*given)
    both = [name for name in set(right.user) & set(right.item) if right.user[name].shape == right.item[name].shape]
    return right._replace(
        user=right.user | {name: right.item[name] for name in both},
        item=right.item | {name: right.user[name] for name in both},
    )


def _mask_transposed(gradient: Gradient, params: Params, ratings: Ratings, *numbers: Any) -> Rows:
    """Use w_iu for w_ui, and 0 where there is no such rating."""
    width = max(ratings.num_users, ratings.num_items)
    here, mirrored = (
        a.astype(int) * width + b for a, b in ((ratings.user, ratings.item), (ratings.item, ratings.user))
    )
    order = jnp.argsort(here)
    match = order[jnp.minimum(jnp.searchsorted(here[order], mirrored), here.size - 1)]
    weight = jnp.where(here[match] == mirrored, ratings.weight[match], 0)
    return gradient(params, replace(ratings, weight=weight), *numbers)


def _padding_counted(gradient: Gradient, params: Params, ratings: Ratings, *numbers: Any) -> Rows:
    return gradient(params, replace(ratings, weight=jnp.where(ratings.weight == 0, 1, ratings.weight)), *numbers)


def _exponent_ignored(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    return gradient(params, ratings, jax.tree.map(jnp.ones_like, weight), hyper)


def _mean_for_sum(gradient: Gradient, params: Params, ratings: Ratings, *numbers: Any) -> Rows:
    return gradient(params, replace(ratings, weight=ratings.weight / jnp.sum(ratings.weight)), *numbers)


def _sign_of_mean(gradient: Gradient, params: Params, *numbers: Any) -> Rows:
    def negated(part: Any) -> Any:
        return part | {"mean": -part["mean"]} if isinstance(part, dict) and "mean" in part else part

    return gradient(params._replace(fixed=Rows(*map(negated, params.fixed))), *numbers)


def _weights_as_a_mask(gradient: Gradient, params: Params, ratings: Ratings, *numbers: Any) -> Rows:
    return gradient(params, replace(ratings, weight=jnp.sign(ratings.weight)), *numbers)


def _zeros_missing(gradient: Gradient, params: Params, ratings: Ratings, *numbers: Any) -> Rows:
    return gradient(params, replace(ratings, weight=jnp.where(ratings.value == 0, 0, ratings.weight)), *numbers)


def _one_l2_for_all(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    return gradient(params, ratings, weight, hyper._replace(l2_bias=None))


def _empty_rows_penalized(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Use max(n, 1)^ν for n^ν."""
    return gradient(params, ratings, jax.tree.map(lambda w: jnp.where(w == 0, 1, w), weight), hyper)


def _rank_forgotten(gradient: Gradient, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Fill the columns beyond the active rank with ones instead of zeros."""
    trained = params.trained if hyper.rank is None else fill_beyond_rank(params.trained, hyper.rank, 1)
    return gradient(params._replace(trained=trained), ratings, weight, hyper)


def _half_precision(gradient: Gradient, *given: Any) -> Rows:
    def halved(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, jnp.bfloat16) if floating else leaf

    halves = gradient(*jax.tree.map(halved, given))
    restored: Rows = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), halves, given[0].trained)
    return restored


MISTAKES: dict[str, Callable[..., Rows]] = {
    "wrong sign": partial(_one_leaf, 0, lambda leaf: -leaf),
    "missing 2": partial(_one_leaf, -1, lambda leaf: leaf / 2),
    "forgotten λ": _without_l2,
    "forgotten λ_b": _without_l2_bias,
    "user and item swapped": _sides_swapped,
    "mask transposed": _mask_transposed,
    "padding counted": _padding_counted,
    "ν ignored": _exponent_ignored,  # noqa: RUF001
    "mean for sum": _mean_for_sum,
    "wrong sign of μ": _sign_of_mean,
    "weights as a mask": _weights_as_a_mask,
    "zeros taken for missing": _zeros_missing,
    "λ for λ_b": _one_l2_for_all,
    "empty rows penalized": _empty_rows_penalized,
    "rank filled with ones": _rank_forgotten,
    "half precision": _half_precision,
}


# The methods that look for each mistake, columns of the table of `mutants`.
METHODS = ("elements", "differences", "taylor", "complex_step", "als", "check_grads")


def mutants(model: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper, seed: int = 0) -> GradientReport:
    """Plant mistakes in the hand-derived gradient, one at a time, and report which methods notice them.

    The mistakes: the wrong sign in the first leaf; the factor 2 missing in the last leaf; λ, or λ_b, forgotten; the
    gradients of users and items swapped; the mask transposed, w_iu for w_ui; ratings of weight 0 counted; ν ignored, so
    that all rows are penalized alike; the mean of the fit for its sum; the wrong sign of μ in the error; weights
    reduced to a mask of 0 and 1; ratings of 0 treated as missing; λ used for λ_b; rows without weight penalized like
    rows with one rating; columns beyond the active rank filled with ones; everything in half precision (bfloat16). A
    mistake that changes nothing in this model at any probe of `gradients` is left out, such as λ_b in a model without
    biases, or the swap of tables whose shapes differ.

    Args:
      model: a model with a hand-derived `gradient`.
      params, ratings, hyper, seed: as in `gradients`.

    Returns:
      a GradientReport with one row per `mutant`: the `leaves` that it changes, and per method the leaves that it names,
      "" if it notices nothing. `elements` and `differences` are `gradients`, element by element against autodiff and
      against central differences; then `taylor`; `complex_step` (missing where it does not apply); `als`, the gradient
      of the side that a half-step has just solved, which should be 0 (missing where `als` refuses the model); and
      `check_grads` of `jax.test_util` at `params`, which names no leaf: "?" means a mistake somewhere. Then `dtype`,
      and the verdict `passed`: `elements` and `differences` name exactly `leaves`.

    Raises:
      ValueError: as `gradients`; the model has no hand-derived gradient, or one that no mistake changes.

    Cost: that of all methods together for each mistake. Float64 as in `gradients`.

    Reference: DeMillo, Lipton and Sayward (1978), Hints on test data selection.
    """
    check_model(model)
    generator(seed)
    if model.by_hand is None:
        raise ValueError(
            f"verify: the model {model.name!r} has no hand-derived gradient to plant mistakes in: give it one, or use "
            "verify.gradients, which needs none"
        )
    rows: list[dict[str, Any]] = []
    for name, mistake in MISTAKES.items():
        planted = partial(_planted, model.by_hand.gradient, mistake)
        mutant = model._replace(by_hand=model.by_hand._replace(gradient=planted))
        given = (mutant, params, ratings, hyper)
        if not (leaves := _changed(model, *given, seed)):
            continue
        table = gradients(*given, seed=seed).table.set_index("leaf")
        slopes = taylor(*given, seed=seed).table.query("order == 1 and leaf != 'all'").set_index("leaf")
        row: dict[str, Any] = {"mutant": name, "leaves": leaves}
        row["elements"] = _named(table["hand_vs_autodiff"] <= LIMITS["hand_vs_autodiff"])
        row["differences"] = _named(table["hand_vs_central"] <= LIMITS["hand_vs_central"])
        row["taylor"] = _named(slopes["passed"])
        row["complex_step"] = _by_complex_step(*given, seed)
        row["als"] = _by_als(*given)
        row["check_grads"] = _by_check_grads(*given)
        rows.append(row)
    if not rows:
        raise ValueError(
            f"verify: no mistake changes the hand-derived gradient of {model.name!r}, as if it were 0 everywhere: "
            "check it with verify.gradients"
        )
    table = pd.DataFrame(rows).assign(dtype="float64")
    return report(
        model, table.assign(passed=(table[["elements", "differences"]].eq(table["leaves"], axis=0)).all(axis=1))
    )


def _planted(gradient: Gradient, mistake: Callable[..., Rows], *given: Any) -> Rows:
    return mistake(gradient, *given)


def _named(passed: pd.Series) -> str:
    return ", ".join(passed.index[~passed])


def _changed(model: Model, mutant: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper, seed: int) -> str:
    """Return the leaves that the mistake changes at any probe."""
    with float64(model, params, ratings, hyper) as (trained, case):
        changed = []
        for _, point, data in probes(model, trained, case, generator(seed)):
            right, wrong = (by_hand(version, point, data) for version in (model, mutant))
            changed += _far(right, wrong, autodiff(bare(model))(point, data)[2], LIMITS["hand_vs_autodiff"])
        return ", ".join(name for name in names(trained) if name in changed)


def _far(a: Any, b: Any, scale: Any, limit: float) -> list[str]:
    """Return the leaves with an element whose error exceeds `limit` times the largest summed magnitude."""
    leaves = zip(names(a), *(map(np.asarray, jax.tree.leaves(tree)) for tree in (a, b, scale)), strict=True)
    return [name for name, x, y, s in leaves if not relative(abs(x - y).max(initial=0), s.max(initial=0)) <= limit]


def _by_complex_step(mutant: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper, seed: int) -> str | None:
    try:
        return _named(complex_step(mutant, params, ratings, hyper, seed=seed).table.set_index("leaf")["passed"])
    except NotAnalyticError:
        return None


def _by_als(mutant: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper) -> str | None:
    """Return the leaves of the side just solved whose gradient is not 0."""
    if not solvable(mutant, params, hyper, as_ratings(ratings, "verify: ratings").context):
        return None
    wrong_leaves = []
    with float64(mutant, params, ratings, hyper) as (trained, case):
        layout = prepare(without_padding(case))
        for side in get_args(Side):
            trained = solve_side(bare(mutant), trained, case, layout, side)
            hand, (_, _, scale) = by_hand(mutant, trained, case), autodiff(bare(mutant))(trained, case)
            far = _far(hand, jax.tree.map(jnp.zeros_like, hand), scale, SOLVED)
            wrong_leaves += [name for name in far if name.startswith(side)]
    return ", ".join(wrong_leaves)


def _by_check_grads(mutant: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper) -> str:
    from jax.test_util import check_grads

    @jax.custom_vjp
    def loss(trained: Rows) -> jax.Array:
        return objective_at(mutant, trained, case)

    def backward(trained: Rows, cotangent: jax.Array) -> tuple[Rows]:
        return (jax.tree.map(lambda leaf: cotangent * leaf, by_hand(mutant, trained, case)),)

    loss.defvjp(lambda trained: (loss(trained), trained), backward)
    with float64(mutant, params, ratings, hyper) as (trained, case):
        try:
            check_grads(loss, (trained,), order=1, modes=["rev"])
        except AssertionError:
            return "?"
    return ""
