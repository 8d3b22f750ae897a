"""Verify stationary points: the gradient after every half-step of ALS, and where the fits of different solvers end."""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import jax
import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, generator, is_positive
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.tiles import Layout, half_of, prepare
from jaxmf.models.least_squares import check_least_squares
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, bias_l2
from jaxmf.solvers._als import half_step
from jaxmf.training import Fit
from jaxmf.verify._probes import probes
from jaxmf.verify.case import (
    Case,
    GradientReport,
    autodiff,
    bare,
    check_count,
    dot,
    float64,
    jit,
    relative,
    report,
    without_padding,
)

SOLVED = 1e-12  # limit of a solved block's gradient, relative to its summed magnitudes
_ROUNDING = 1e-12  # how far an objective may rise by rounding, relative to its value


def half_steps(
    model: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper, num_sweeps: int = 5, seed: int = 0
) -> GradientReport:
    """Certify ALS step by step: the gradient of the block just solved is 0, and the objective never rises.

    As in `gradients`, the given data can hide a mistake. So the sweeps from `params` are followed by one sweep from
    each of its probes `weights` and `numbers`, where weights or λ, λ_b and ν are drawn at random.

    Args:
      model: a model with a `design`.
      params: the starting point.
      ratings, hyper: as in `gradients`; λ and λ_b positive.
      num_sweeps: number of sweeps from `params`, each of two half-steps.
      seed: seed of the probes.

    Returns:
      a GradientReport with one row per half-step: `probe` ("given", "weights" or "numbers"), `sweep`, the `side` that
      was solved, the `objective` L afterwards, the `change` of L, `solved_gradient` and `gradient`, the norms of the
      solved block's gradient and of the whole gradient, relative to the norms of the summed magnitudes of their two
      parts (fit and penalty, which cancel at a minimum), `dtype`, and the verdict `passed`: solved_gradient ≤ 1e-12,
      and L rises by at most 1e-12 of its value.

    Raises:
      ValueError: as `gradients`; the model has no `design`, λ is 0, or `num_sweeps` is not a positive integer.

    Cost: that of ALS, with two gradients per half-step. Float64 as in `gradients`.

    Reference: Grippo and Sciandrone (2000), On the convergence of the block nonlinear Gauss-Seidel method under convex
    constraints.
    """
    check_count("num_sweeps", num_sweeps)
    rows: list[dict[str, Any]] = []
    random = generator(seed)

    def check(_: Params, case: Case) -> None:
        check_least_squares(model, params, hyper, case.ratings.context)

    with float64(model, params, ratings, hyper, check) as (trained, case):
        points = {probe.name: probe for probe in probes(model, trained, case, random)}
        layout = prepare(without_padding(points["given"].case))
        for name, count in (("given", num_sweeps), ("weights", 1), ("numbers", 1)):
            _, trained, case = points[name]
            before, _, _ = _gradient(model, trained, case)
            for sweep, side in itertools.product(range(1, count + 1), get_args(Side)):
                trained = solve_side(bare(model), trained, case, layout, side)
                after, gradient, scale = _gradient(model, trained, case)
                errors = {"solved_gradient": _ratio(getattr(gradient, side), getattr(scale, side))}
                errors["gradient"] = _ratio(gradient, scale)
                labels = {"probe": name, "sweep": sweep, "side": side}
                rows.append(labels | {"objective": after, "change": after - before} | errors)
                before = after
    table = pd.DataFrame(rows).assign(dtype="float64")
    passed = (table["solved_gradient"] <= SOLVED) & (table["change"] <= _ROUNDING * table["objective"])
    return report(model, table.assign(passed=passed), {"solved_gradient": SOLVED})


def stationarity(fits: Mapping[str, Fit], ratings: Dataset | Ratings, tol: float = 1e-3) -> GradientReport:
    """Compare the end points of several fits of one objective: its value, and the norm of its whole gradient.

    Args:
      fits: name -> Fit, named by solver for example; all of one model, with the same λ, λ_b, ν, α0 and `extra`.
      ratings: the training ratings.
      tol: limit of the relative excess of an objective over the lowest one, and of the relative norm of a gradient.

    Returns:
      a GradientReport with one row per fit: `solver`, `status`, `epochs`, `objective` L, its `excess` over the lowest
      one, relative to the latter, the relative norm of the `gradient`, as in `half_steps`, the `dtype` of the fit, and
      the verdict `passed`.

    Raises:
      ValueError: as `gradients`; no fits, fits of different models or objectives, or a `tol` that is not positive.

    Cost: two gradients per fit, in float64 as in `gradients`.
    """
    if not isinstance(fits, Mapping) or not fits:
        raise ValueError("verify: fits must be a dict of name -> Fit, such as {'als': jaxmf.fit(...)}")
    if not is_positive(tol):
        raise ValueError(f"verify: tol must be a positive number, not {tol!r}")
    reference = next(iter(fits))
    for name, fit in fits.items():
        expect(fit, Fit, f"verify: fits[{name!r}]", "pass what jaxmf.fit returns")
        for aspect, describe in (("models", _model), ("hypers", _numbers)):
            if describe(fit) != describe(fits[reference]):
                raise ValueError(
                    f"verify: {name!r} and {reference!r} are fits of different objectives, their {aspect} differ: "
                    f"{describe(fit)} and {describe(fits[reference])}; pass fits of one objective only"
                )
    rows: list[dict[str, Any]] = []
    for name, fit in fits.items():
        with float64(fit.model, fit.params, ratings, fit.hyper) as (trained, case):
            value, gradient, scale = _gradient(fit.model, trained, case)
            steepness = _ratio(gradient, scale)
        dtype = str(jax.tree.leaves(fit.params.trained)[0].dtype)
        rows.append(
            {"solver": name, "status": fit.status, "epochs": len(fit.to_frame()), "objective": value}
            | {"excess": np.nan, "gradient": steepness, "dtype": dtype}
        )
    table = pd.DataFrame(rows)
    table["excess"] = table["objective"] / table["objective"].min() - 1
    limits = {"excess": tol, "gradient": tol}
    return report(fits[reference].model, table.assign(passed=(table[list(limits)] <= tol).all(axis=1)), limits)


def _model(fit: Fit) -> str:
    """Describe the model and the shapes of its trained leaves."""
    return f"{fit.model.name} of {[leaf.shape for leaf in jax.tree.leaves(fit.params.trained)]}"


def _numbers(fit: Fit) -> list[Any]:
    """Return the numbers of the objective: λ, λ_b, ν, α0 and the leaves of `extra`."""
    hyper = fit.hyper
    extra = jax.tree_util.tree_leaves_with_path(hyper.extra)
    named = [(jax.tree_util.keystr(path), np.asarray(leaf).tolist()) for path, leaf in extra]
    numbers = hyper.l2, bias_l2(hyper), hyper.reg_exponent, hyper.unobserved
    return [None if number is None else float(number) for number in numbers] + named


def _gradient(model: Model, trained: Rows, case: Case) -> tuple[float, Rows, Rows]:
    """Return L, ∇L and the summed magnitudes of ∇L."""
    value, gradient, scale = autodiff(bare(model))(trained, case)
    return float(value), gradient, scale


def _ratio(gradient: Any, scale: Any) -> float:
    """Return ‖gradient‖ / ‖scale‖ over all leaves."""
    return relative(dot(gradient, gradient) ** 0.5, dot(scale, scale) ** 0.5)


def solvable(model: Model, params: Params, hyper: Hyper, context: Any) -> bool:
    """Return whether `als` accepts the model, with ratings of this context."""
    try:
        check_least_squares(model, params, hyper, context)
    except ValueError:
        return False
    return True


@partial(jit, static_argnames=("model", "side"))
def solve_side(model: Model, trained: Rows, case: Case, layout: Layout, side: Side) -> Rows:
    """Run one half-step of `als` on a bare model."""
    half = half_of(getattr(layout, side), case.ratings, side)
    return half_step(model, Params(trained, case.fixed), half, case.weight, case.hyper, side).trained
