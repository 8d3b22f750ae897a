"""The least-squares problem of each row of a side, given the other side; for `als`, fold-in and verification.

With the design rows d and the targets t of `model.design`, H and h of the `background`, and the ridge R of the penalty,
a row z of one side enters the objective as

    Σ w (⟨d, z⟩ − t)² + zᵀ H z + 2 h·z + zᵀ R z + constant,

so its minimum solves the normal equations (Σ w d dᵀ + H + R) z = Σ w t d − h.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels._memoize import how_built
from jaxmf.kernels.programs import of_model
from jaxmf.kernels.xla import IN_A_HURRY
from jaxmf.models.checks import of_one, traced_shape
from jaxmf.models.leaves import has_bias
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, bias_l2, pack, unpack
from jaxmf.models.protocols import Design


class Quadratic(NamedTuple):
    """The function Σ_rows (zᵀ H z + 2 h·z) + constant of one side's rows z.

    Attributes:
      curvature: H (D, D), the same for all rows.
      slope: h (num_rows, D).
    """

    curvature: jax.Array
    slope: jax.Array


def ridge_of(model: Model, trained: Rows, weight: Rows, hyper: Hyper, side: Side, num_rows: int) -> jax.Array:
    """Return the diagonal of the penalty's quadratic form, (num_rows, D): half its gradient at rows of 1."""

    def penalty(rows: object) -> jax.Array:
        return model.penalty(trained._replace(**{side: rows}), weight, hyper)

    return pack(jax.grad(penalty)(jax.tree.map(jnp.ones_like, getattr(trained, side))), num_rows) / 2


def background_of(model: Model, params: Params, hyper: Hyper, side: Side, num_rows: int) -> Quadratic | None:
    """Return the model's `background` as a quadratic in one side's rows, or None if the model has none.

    Its `curvature` is half the Hessian in one row, and its `slope` half the gradient where all rows are 0.
    """
    background = model.background
    if background is None:
        return None
    like, fixed = getattr(params.trained, side), getattr(params.fixed, side)

    def of_rows(rows: Any, fixed: Any) -> jax.Array:
        trained = params.trained._replace(**{side: rows})
        return background(Params(trained, params.fixed._replace(**{side: fixed})), hyper)

    def of_one(z: jax.Array) -> jax.Array:
        return of_rows(unpack(z[None], like), jax.tree.map(lambda leaf: leaf[:1], fixed))

    zeros = jax.tree.map(jnp.zeros_like, like)
    slope = pack(jax.grad(of_rows)(zeros, fixed), num_rows) / 2
    return Quadratic(jax.hessian(of_one)(jnp.zeros_like(slope[0])) / 2, slope)


def design_rows(design: Design, params: Params, ratings: Ratings, side: Side) -> tuple[jax.Array, jax.Array]:
    """Return a model's design rows (…, D) and targets (…) for ratings of any shape (…)."""
    shape = ratings.value.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(shape) :]), ratings)
    rows, target = design(params, flat, side)
    return pack(rows, ratings.value.size).reshape(*shape, -1), target.reshape(shape)


def check_least_squares(model: Model, params: Params, hyper: Hyper, context: Any) -> None:
    """Raise a ValueError unless each row has normal equations with a unique solution, as far as shapes and λ show.

    Whether loss and penalty are those of a least-squares problem is checked separately: see `promises.LEAST_SQUARES`.
    """
    if model.design is None:
        raise ValueError(
            f"als: the model {model.name!r} has no `design`, so its rows have no normal equations. Give the model a "
            "`design`, or use solvers.sgd or solvers.minibatch."
        )
    if model.draw is not None:
        raise ValueError(
            f"als: the model {model.name!r} draws (it has a `draw`), so that no row has one minimum. Use "
            "solvers.minibatch."
        )
    check_design(model, params, context)
    dtype = jnp.result_type(*jax.tree.leaves(params.trained))
    for name, value in (("l2", hyper.l2), *([("l2_bias", bias_l2(hyper))] if has_bias(params.trained) else [])):
        if not np.asarray(value, dtype) >= jnp.finfo(dtype).tiny:
            where = f" in {dtype}" if value > 0 else ""
            raise ValueError(
                f"als: {name} must be positive{where}, not {value}: without a penalty a row with fewer ratings than "
                "unknowns has no unique minimum. Use a small positive number, or a gradient solver."
            )
    if how_built(model) is not None:
        return
    one_row = jax.tree.map(lambda leaf: np.ones((1, *leaf.shape[1:]), leaf.dtype), params.trained._replace(shared={}))
    one_row = one_row._replace(shared=jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params.trained.shared))
    holds = _holds(model.penalty)(one_row, hyper)._replace(shared={})  # which no row's equations contain
    for path, held in jax.tree_util.tree_leaves_with_path(holds):
        if not held:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"als: the penalty of the model {model.name!r} leaves {name} free, so a row with fewer ratings than "
                "unknowns has no unique minimum. Penalize it, or use a gradient solver."
            )


@of_model
def _holds(penalty: Callable[..., jax.Array]) -> jax.stages.Wrapped:
    """Return the program that tells, for each leaf, whether the penalty's whole gradient at a row of 1 is positive."""

    def holds(trained: Rows, hyper: Hyper) -> Any:
        one = jnp.ones(1, jnp.result_type(*jax.tree.leaves(trained)))
        ridge = jax.grad(lambda trained: penalty(trained, Rows(one, one), hyper) + 0.0)(trained)
        return jax.tree.map(lambda leaf: (leaf > 0).all(), ridge)

    return jax.jit(holds, compiler_options=IN_A_HURRY)


def check_design(model: Model, params: Params, context: Any) -> None:
    """Raise a ValueError if a side's design does not have the shape of its rows.

    A ValueError that the model's own `design` raises is raised as it is.
    """
    assert model.design is not None
    index: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    number: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    one = Ratings(index, index, number, number, num_users=1, num_items=1, context=of_one(context))
    takes = "It takes params (trained, fixed), ratings (user, item, value, weight, context) and side"
    for side in get_args(Side):
        rows = getattr(params.trained, side)
        who = f"als: design of the model {model.name!r}"
        design, _ = traced_shape(who, partial(model.design, side=side), params, one, remedy=takes, words=ValueError)
        found, needed = (jax.tree.map(lambda leaf: leaf.shape[1:], tree) for tree in (design, rows))
        if jax.tree.leaves(rows) and found != needed:
            raise ValueError(
                f"als: the `design` of the model {model.name!r} has {found} per rating for a row of the {side}s, which "
                f"is {needed}. Expected the leaves of the row, each with a leading axis of ratings."
            )
