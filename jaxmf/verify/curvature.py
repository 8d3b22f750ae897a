"""The Hessian from independent sources: autodiff, the hand-derived product, differences of gradients, and ALS."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params, Rows, Side, pack, unpack
from jaxmf.solvers.als import Layout, prepare, system
from jaxmf.solvers.solver import Problem
from jaxmf.verify.case import (
    Case,
    GradientReport,
    bare,
    check_count,
    everywhere,
    float64,
    hvp,
    hvp_by_hand,
    names,
    relative,
    report,
    total,
)
from jaxmf.verify.stationarity import solvable

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

    For standard normal directions v in all leaves, at `params`,

        autodiff  jax.jvp of jax.grad L    hand  model.hvp    central  [∇L(θ+hv) − ∇L(θ−hv)] / 2h

    are compared leaf by leaf. With d, t and R the design, the targets and the ridge that `als` solves with, a side's
    rows z have the gradient 2(Σ w d dᵀ + R)z − 2 Σ w t d, and, since r̂ is linear in them, the Gauss–Newton block
    2(Σ w d dᵀ + R) is the Hessian itself: its product with the side's part of v is compared too.

    Args:
      model, params, ratings, hyper, num_directions, seed: as in `gradients`.

    Returns:
      a GradientReport with one row per leaf: `leaf`, `directions`, the errors of the worst direction
      `hand_vs_autodiff` (missing without `model.hvp`), `autodiff_vs_central`, `autodiff_vs_als` and `gradient_vs_als`
      (missing where `als` refuses the model), relative to the largest element of the leaf, `dtype`
      and the verdict `passed`.

    Raises:
      ValueError: as `gradients`.

    Cost: five gradients and four Hessian-vector products per direction, each a few passes over the ratings. Float64 as
    in `gradients`.

    References: Pearlmutter (1994), Fast exact multiplication by the Hessian; Schraudolph (2002), Fast curvature
    matrix-vector products for second-order gradient descent.
    """
    check_count("num_directions", num_directions)
    random = generator(seed)
    with float64(model, params, ratings, hyper) as (trained, case):
        product = hvp(bare(model))
        difference, block = _programs(bare(model))
        layout = prepare(case.ratings) if solvable(model, params, hyper) else None
        errors: dict[str, dict[str, list[float]]] = {leaf: {name: [] for name in _LIMITS} for leaf in names(trained)}
        for _ in range(num_directions):
            v = everywhere(trained, random)
            automatic = product(trained, v, case)
            _note(errors, "autodiff_vs_central", automatic, difference(trained, v, case))
            if (hand := hvp_by_hand(model, trained, case, v)) is not None:
                _note(errors, "hand_vs_autodiff", automatic, hand)
            if layout is not None:
                found = [block(trained, v, case, layout, side) for side in ("user", "item")]
                for column, pair in (("autodiff_vs_als", slice(0, 2)), ("gradient_vs_als", slice(2, 4))):
                    user, item = (side[pair] for side in found)
                    _note(errors, column, *(Rows(u, i) for u, i in zip(user, item, strict=True)))
    rows = []
    for leaf, columns in errors.items():
        worst = {name: np.max(found) if found else np.nan for name, found in columns.items()}
        passed = all(np.max(found) <= _LIMITS[name] for name, found in columns.items() if found)
        rows.append({"leaf": leaf, "directions": num_directions, **worst, "dtype": "float64", "passed": passed})
    return report(model, pd.DataFrame(rows), _LIMITS)


def _note(errors: dict[str, dict[str, list[float]]], column: str, expected: Rows, found: Rows) -> None:
    """Add the largest error of every leaf, relative to its largest element."""
    for leaf, a, b in zip(names(expected), *map(jax.tree.leaves, (expected, found)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        errors[leaf][column].append(relative(np.abs(a - b).max(initial=0), np.abs(a).max(initial=0)))


@lru_cache(maxsize=16)
def _programs(model: Model) -> tuple[Any, Any]:
    def slope(trained: Rows, case: Case) -> Rows:
        return jax.grad(lambda trained: total(model, trained, case))(trained)

    def difference(trained: Rows, v: Rows, case: Case) -> Rows:
        there, back = (slope(jax.tree.map(lambda x, v, h=h: x + h * v, trained, v), case) for h in (_STEP, -_STEP))
        return jax.tree.map(lambda a, b: (a - b) / (2 * _STEP), there, back)

    def block(trained: Rows, v: Rows, case: Case, layout: Layout, side: Side) -> tuple[Any, ...]:
        """The side's own part of Hv, the same by ALS, its gradient, the same by ALS; rows with ratings only."""
        params, problem = Params(trained, case.fixed), Problem(case.ratings, case.weight, layout)
        rows, like = getattr(layout, side).rows, getattr(trained, side)
        num_rows = getattr(case.ratings, f"num_{side}s")

        def table(tree: Rows) -> jax.Array:
            return pack(getattr(tree, side), num_rows)[rows]

        blocks, ridge = system(model, params, problem, case.hyper, side)
        z, own = table(trained), table(v)
        cuts = np.cumsum([len(d) for d, _, _ in blocks])[:-1]
        parts = list(zip(blocks, jnp.split(z, cuts), jnp.split(own, cuts), strict=True))
        curved = ridge * own + jnp.concatenate([_pull(d, w * _push(d, v)) for (d, _, w), _, v in parts])
        sloped = ridge * z + jnp.concatenate([_pull(d, w * (_push(d, z) - t)) for (d, t, w), z, _ in parts])
        zero = jax.tree.map(jnp.zeros_like, v)
        whole = hvp(model)(trained, zero._replace(**{side: getattr(v, side)}), case)
        return tuple(unpack(x, like) for x in (table(whole), 2 * curved, table(slope(trained, case)), 2 * sloped))

    return jax.jit(difference), jax.jit(block, static_argnames="side")


def _push(d: jax.Array, z: jax.Array) -> jax.Array:
    """d·z for every rating: (m, c, D) and (m, D) to (m, c)."""
    return jnp.einsum("mcD,mD->mc", d, z)


def _pull(d: jax.Array, e: jax.Array) -> jax.Array:
    """Σ e d over the ratings of a row: (m, c, D) and (m, c) to (m, D)."""
    return jnp.einsum("mcD,mc->mD", d, e)
