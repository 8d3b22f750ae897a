"""The shared leaves of a model at the minimum of the objective given all rows, or near it, by conjugate gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxmf.data.ratings import Ratings
from jaxmf.models._objective import objective
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows

_MAX_STEPS = 100


def solve_shared(
    model: Model, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, steps: int | None
) -> Params:
    """Return the parameters with `trained.shared` moved to the minimum of the objective given all rows.

    The objective is a quadratic in these leaves, L(z + δ) = L(z) + g·δ + ½ δᵀ B δ, so that the minimum solves B δ = −g.
    Products with B come from automatic differentiation, so that B is never formed.

    Args:
      model: a model whose objective is a quadratic in its trained shared leaves (`promises.QUADRATIC_SHARED`).
      params: its parameters.
      ratings, weight, hyper: those of the objective.
      steps: number of conjugate gradient steps, from the current value; None takes steps until ‖B δ + g‖ is at most
        √ε ‖g‖, with ε the resolution of the dtype, or 100 steps.

    Cost: per step that of about two gradients of the objective.
    """
    rows = params.trained

    def total(shared: Any) -> jax.Array:
        return objective(model, params._replace(trained=rows._replace(shared=shared)), ratings, hyper, weight)

    slope, product = jax.linearize(jax.grad(total), rows.shared)
    dtype = jnp.result_type(*jax.tree.leaves(rows.shared))
    tol, most = (float(jnp.finfo(dtype).eps) ** 0.5, _MAX_STEPS) if steps is None else (0.0, steps)
    change, _ = cg(product, jax.tree.map(jnp.negative, slope), tol=tol, maxiter=most)
    shared = jax.tree.map(jnp.add, rows.shared, change)
    return params._replace(trained=rows._replace(shared=shared))
