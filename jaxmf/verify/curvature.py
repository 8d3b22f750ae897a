"""Verify the Hessian against independent sources: autodiff, the hand-derived product, gradient differences and ALS."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.programs import of_model
from jaxmf.models.least_squares import background_of, check_design, design_rows, ridge_of
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, pack, unpack
from jaxmf.verify._probes import Probe, probes, worst
from jaxmf.verify.case import (
    Case,
    GradientReport,
    autodiff,
    bare,
    check_count,
    everywhere,
    float64,
    hvp,
    hvp_by_hand,
    jit,
    moved,
    names,
    relative,
    report,
)

_LIMITS = {"hand_vs_autodiff": 1e-10, "autodiff_vs_central": 1e-6, "autodiff_vs_als": 1e-10, "gradient_vs_als": 1e-10}
_STEP = 1e-4


def hessian(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    num_directions: int = 4,
    seed: int = 0,
) -> GradientReport:
    """Check the curvature: Hessian-vector products, and the blocks whose normal equations `als` solves.

    For standard normal directions v in all leaves, at the probes of `gradients`,

        autodiff  jax.jvp of jax.grad L    hand  model.by_hand.hvp    central  [∇L(θ+hv) − ∇L(θ−hv)] / 2h

    are compared leaf by leaf. With d, t and R the design, targets and ridge of `als`, the gradient of a side's rows z
    is 2(Σ w d dᵀ + R)z − 2 Σ w t d. Since r̂ is linear in z, the Gauss–Newton block 2(Σ w d dᵀ + R) is the Hessian
    itself, so its product with the side's part of v is compared too.

    Args:
      model, params, ratings, hyper, seed: as in `gradients`.
      num_directions: number of random directions at `given`; there is one at each other probe.

    Returns:
      a GradientReport with one row per leaf: `leaf`, the number of `directions`, the largest errors over directions and
      probes, `hand_vs_autodiff` (missing without `model.by_hand.hvp`), `autodiff_vs_central`, `autodiff_vs_als` and
      `gradient_vs_als` (missing for a model without `design` or with `shared` leaves), relative to the largest element
      of the leaf or, for the gradient, of the summed magnitudes, `dtype`, `failed`, which lists the probes at which the
      leaf is wrong, and the verdict `passed`.

    Raises:
      ValueError: as `gradients`.

    Cost: two gradients and four Hessian-vector products per direction, each a few passes over the ratings. Float64 as
    in `gradients`.

    References: Pearlmutter (1994), Fast exact multiplication by the Hessian; Schraudolph (2002), Fast curvature
    matrix-vector products for second-order gradient descent.
    """
    check_count("num_directions", num_directions)
    random = generator(seed)

    def check(params: Params, case: Case) -> None:
        if _sides(model, params.trained):
            check_design(model, params, case.ratings.context)

    with float64(model, params, ratings, hyper, check) as (trained, case):
        tables = {
            probe.name: _compare(model, probe, num_directions if probe.name == "given" else 1, random)
            for probe in probes(model, trained, case, random)
        }
    rows = []
    for leaf in names(trained):
        errors, failed = worst({probe: table[leaf] for probe, table in tables.items()}, _LIMITS)
        row = {"leaf": leaf, "directions": num_directions, **errors, "dtype": "float64"}
        rows.append(row | {"failed": failed, "passed": not failed})
    return report(model, pd.DataFrame(rows), _LIMITS)


def _compare(
    model: Model, probe: Probe, num_directions: int, random: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    """Return the errors of every leaf at one probe."""
    _, trained, case = probe
    slope, product = autodiff(bare(model)), hvp(bare(model))
    _, gradient, scale = slope(trained, case)
    errors: dict[str, dict[str, list[float]]] = {leaf: {name: [] for name in _LIMITS} for leaf in names(trained)}
    for _ in range(num_directions):
        v = everywhere(trained, random)
        automatic = product(trained, v, case)
        there, back = (slope(moved(trained, v, step), case)[1] for step in (_STEP, -_STEP))
        central = jax.tree.map(lambda a, b: (a - b) / (2 * _STEP), there, back)
        _note(errors, "autodiff_vs_central", automatic, central)
        if (hand := hvp_by_hand(model, trained, case, v)) is not None:
            _note(errors, "hand_vs_autodiff", automatic, hand)
        for side in _sides(model, trained):
            part = jax.tree.map(np.zeros_like, v)._replace(**{side: getattr(v, side)})
            curved, sloped = _block(bare(model), side)(trained, v, case)
            _note(errors, "autodiff_vs_als", _only(side, product(trained, part, case)), curved)
            _note(errors, "gradient_vs_als", _only(side, gradient), sloped, _only(side, scale))
    return errors


def _sides(model: Model, trained: Rows) -> tuple[Side, ...]:
    """Return the sides whose rows have normal equations: both or none."""
    unsolvable = model.design is None or jax.tree.leaves(trained.shared)
    return () if unsolvable else get_args(Side)


def _only(side: Side, tree: Rows) -> Rows:
    """Return the leaves of one side only."""
    return Rows()._replace(**{side: getattr(tree, side)})


def _note(
    errors: dict[str, dict[str, list[float]]], column: str, expected: Rows, actual: Rows, scale: Rows | None = None
) -> None:
    """Append the largest error of every leaf, relative to the largest element of its `scale`, by default `expected`."""
    trees = (expected, actual, expected if scale is None else scale)
    for leaf, *arrays in zip(names(expected), *map(jax.tree.leaves, trees), strict=True):
        a, b, s = map(np.asarray, arrays)
        errors[leaf][column].append(relative(np.abs(a - b).max(initial=0), np.abs(s).max(initial=0)))


@of_model
def _block(model: Model, side: Side) -> Any:
    """Return the jitted block of one side for a bare model."""
    assert model.design is not None
    design = model.design

    @jit
    def block(trained: Rows, v: Rows, case: Case) -> tuple[Rows, Rows]:
        """Return, by the normal equations of `als`, the side's Hessian times its part of v, and its gradient."""
        index, num_rows = getattr(case.ratings, side), getattr(case.ratings, f"num_{side}s")
        d, target = design_rows(design, Params(trained, case.fixed), case.ratings, side)
        ridge = ridge_of(model, trained, case.weight, case.hyper, side, num_rows)
        beside = background_of(model, Params(trained, case.fixed), case.hyper, side, num_rows)

        def slope(tree: Rows, target: jax.Array, moves: float) -> Rows:
            z = pack(getattr(tree, side), num_rows)
            error = case.ratings.weight * (jnp.sum(d * z[index], axis=1) - target)
            table = jax.ops.segment_sum(error[:, None] * d, index, num_rows) + ridge * z
            if beside is not None:
                table = table + z @ beside.curvature + moves * beside.slope
            return Rows()._replace(**{side: unpack(2 * table, getattr(tree, side))})

        return slope(v, jnp.zeros_like(target), 0.0), slope(trained, target, 1.0)

    return block
