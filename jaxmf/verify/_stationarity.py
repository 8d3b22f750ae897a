"""Stationary points: what every half-step of ALS leaves behind, and where fits by different solvers end."""

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

SOLVED = 1e-12  # of the summed magnitudes of the block's gradient
_ROUNDING = 1e-12  # by which an objective may rise, of its size


def half_steps(
    model: Model, params: Params, ratings: Dataset | Ratings, hyper: Hyper, num_sweeps: int = 5, seed: int = 0
) -> GradientReport:
    """Certify ALS step by step: the gradient of the block just solved is 0, and the objective never rises.

    Data can hide a mistake here as in `gradients`, so that a sweep from each of its probes `weights` and `numbers`,
    where weights or λ, λ_b and ν are drawn at random, follows those from `params`.

    Args:
      model: a model with a `design`.
      params: where to start.
      ratings, hyper: as in `gradients`; λ and λ_b positive.
      num_sweeps: sweeps from `params`, two half-steps each.
      seed: of the probes.

    Returns:
      a GradientReport with one row per half-step: `probe` ("given", "weights" or "numbers"), `sweep`, `side` that was
      solved, `objective` L after it, `change` of L by it, `solved_gradient` and `gradient`, the norms of the solved
      block's gradient and of the whole one, relative to those of the summed magnitudes of their two parts (fit and
      penalty, which cancel at a minimum), `dtype`, and the verdict `passed`: solved_gradient ≤ 1e-12, and no rise of L
      beyond 1e-12 of its size.

    Raises:
      ValueError: as `gradients`; the model has no `design`, λ is 0, or `num_sweeps` is no positive integer.

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
        where = {probe.name: probe for probe in probes(model, trained, case, random)}
        layout = prepare(without_padding(where["given"].case))
        for name, number in (("given", num_sweeps), ("weights", 1), ("numbers", 1)):
            _, trained, case = where[name]
            before, _, _ = _gradient(model, trained, case)
            for sweep, side in itertools.product(range(1, number + 1), get_args(Side)):
                trained = solve_side(bare(model), trained, case, layout, side)
                after, gradient, scale = _gradient(model, trained, case)
                errors = {"solved_gradient": _ratio(getattr(gradient, side), getattr(scale, side))}
                errors["gradient"] = _ratio(gradient, scale)
                about = {"probe": name, "sweep": sweep, "side": side}
                rows.append(about | {"objective": after, "change": after - before} | errors)
                before = after
    table = pd.DataFrame(rows).assign(dtype="float64")
    passed = (table["solved_gradient"] <= SOLVED) & (table["change"] <= _ROUNDING * table["objective"])
    return report(model, table.assign(passed=passed), {"solved_gradient": SOLVED})


def stationarity(fits: Mapping[str, Fit], ratings: Dataset | Ratings, tol: float = 1e-3) -> GradientReport:
    """Compare where fits of one objective ended: its value, and the norm of its whole gradient.

    Args:
      fits: by name, such as that of the solver: of one model, with the same λ, λ_b, ν, α0 and `extra`.
      ratings: what they were trained on.
      tol: how far an objective may lie above the lowest, and how long a gradient may be, both relative.

    Returns:
      a GradientReport with one row per fit: `solver`, `status`, `epochs`, `objective` L, its `excess` over the lowest,
      relative to that, the norm of the `gradient` relative as in `half_steps`, `dtype` of the fit, and the verdict
      `passed`.

    Raises:
      ValueError: no fits, fits of different models or objectives, or a `tol` that is not positive; as `gradients`.

    Cost: two gradients per fit, in float64 as in `gradients`.
    """
    if not isinstance(fits, Mapping) or not fits:
        raise ValueError("verify: fits must be a dict of name -> Fit, such as {'als': jaxmf.fit(...)}")
    if not is_positive(tol):
        raise ValueError(f"verify: tol must be a positive number, not {tol!r}")
    first = next(iter(fits))
    for name, fit in fits.items():
        expect(fit, Fit, f"verify: fits[{name!r}]", "give what jaxmf.fit returns")
        for what, objective in (("model", _model), ("hyper", _numbers)):
            if objective(fit) != objective(fits[first]):
                raise ValueError(
                    f"verify: {name!r} and {first!r} are fits of different objectives, their {what} differ: "
                    f"{objective(fit)} and {objective(fits[first])}"
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
    return report(fits[first].model, table.assign(passed=(table[list(limits)] <= tol).all(axis=1)), limits)


def _model(fit: Fit) -> str:
    return f"{fit.model.name} of {[leaf.shape for leaf in jax.tree.leaves(fit.params.trained)]}"


def _numbers(fit: Fit) -> list[Any]:
    hyper = fit.hyper
    extra = jax.tree_util.tree_leaves_with_path(hyper.extra)
    named = [(jax.tree_util.keystr(path), np.asarray(leaf).tolist()) for path, leaf in extra]
    numbers = hyper.l2, bias_l2(hyper), hyper.reg_exponent, hyper.unobserved
    return [None if number is None else float(number) for number in numbers] + named


def _gradient(model: Model, trained: Rows, case: Case) -> tuple[float, Rows, Rows]:
    """L, ∇L and its summed magnitudes."""
    value, gradient, scale = autodiff(bare(model))(trained, case)
    return float(value), gradient, scale


def _ratio(gradient: Any, scale: Any) -> float:
    """‖gradient‖ / ‖scale‖ over all leaves."""
    return relative(dot(gradient, gradient) ** 0.5, dot(scale, scale) ** 0.5)


def solvable(model: Model, params: Params, hyper: Hyper, context: Any) -> bool:
    """Whether `als` takes the model, with ratings of this context."""
    try:
        check_least_squares(model, params, hyper, context)
    except ValueError:
        return False
    return True


@partial(jit, static_argnames=("model", "side"))
def solve_side(model: Model, trained: Rows, case: Case, layout: Layout, side: Side) -> Rows:
    """One half-step of `als` of a bare model."""
    half = half_of(getattr(layout, side), case.ratings, side)
    return half_step(model, Params(trained, case.fixed), half, case.weight, case.hyper, side).trained
