"""Programs that differentiate the validation loss by hyperparameters, through the epochs of a fit or at its minimum."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.xla import here
from jaxmf.models._objective import mean_loss, objective, row_weights
from jaxmf.models.leaves import fill_beyond_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import with_numbers
from jaxmf.training import Prepared, make_fit, start

_MAX_ITERATIONS = 1000  # of conjugate gradients


@of_model
def unrolled(model: Model, solver: Solver, epochs: int) -> Callable[..., Any]:
    """Return the program `(values, key, batch, valid, hyper, params) -> ((loss, state), slopes)` through all epochs."""
    run = make_fit(model, solver, 1, track=False)

    def loss(
        values: Mapping[str, jax.Array],
        key: jax.Array,
        batch: Prepared,
        valid: Ratings,
        hyper: Hyper,
        params: Params | None,
    ) -> tuple[jax.Array, Any]:
        hyper = with_numbers(hyper, values)
        state = start(key, model, solver, batch, hyper, params=params)

        @jax.checkpoint
        def epoch(state: Any, _: None) -> tuple[Any, None]:
            return run(key, batch, hyper, state)[0], None

        state, _ = jax.lax.scan(epoch, state, length=epochs)
        return mean_loss(model, state.params, valid), state

    return jit(jax.value_and_grad(loss, has_aux=True), compiler_options=here(solver.machine.compiler_options))


@of_model
def implicit(model: Model) -> Callable[..., Any]:
    """Return `(values, params, initial, train, valid, hyper, tol) -> (loss, slopes, residual, stationarity)`.

    This program assumes that `params` minimize the objective.
    """

    def evaluate(
        values: Mapping[str, jax.Array],
        params: Params,
        initial: Rows,
        train: Ratings,
        valid: Ratings,
        hyper: Hyper,
        tol: float,
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array]:
        def within_rank(trained: Rows) -> Rows:  # columns beyond the rank are 0, whatever the hyperparameters
            return trained if hyper.rank is None else fill_beyond_rank(trained, hyper.rank)

        def slope(trained: Rows, values: Mapping[str, jax.Array]) -> Rows:
            def of_trained(trained: Rows) -> jax.Array:
                return objective(model, params._replace(trained=trained), train, with_numbers(hyper, values))

            return within_rank(jax.grad(of_trained)(trained))

        def curvature(v: Rows) -> Rows:
            product: Rows = jax.jvp(lambda trained: slope(trained, values), (params.trained,), (v,))[1]
            return product

        loss, g = jax.value_and_grad(lambda t: mean_loss(model, params._replace(trained=t), valid))(params.trained)
        g = within_rank(g)
        n_u, n_i, _ = row_weights(train, 1.0, hyper.unobserved)
        g = jax.tree.map(
            lambda x, seen: jnp.where(seen > 0, x, 0), g, _per_count(n_u, n_i, jax.tree.map(jnp.ones_like, g))
        )
        # The curvature of a row grows with its number of ratings, from 1 to thousands, so the preconditioner divides by
        # that number.
        preconditioner = partial(_per_count, n_u, n_i)
        x, _ = cg(curvature, g, tol=tol, maxiter=_MAX_ITERATIONS, M=preconditioner)
        gradient = jax.grad(lambda values: -_dot(slope(params.trained, values), x))(values)
        residual = _length(jax.tree.map(jnp.subtract, curvature(x), g)) / _length(g)
        return loss, gradient, residual, _length(slope(params.trained, values)) / _length(slope(initial, values))

    return jit(evaluate)


def _per_count(n_u: jax.Array, n_i: jax.Array, rows: Rows) -> Rows:
    """Divide each row by its number n of training ratings; a row without any, which no hyperparameter moves, becomes 0.

    Unobserved cells count with their weight.
    """

    def divide(n: jax.Array, leaf: jax.Array) -> jax.Array:
        n = n.reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(n > 0, leaf / jnp.where(n > 0, n, 1), 0)

    return Rows(
        jax.tree.map(partial(divide, n_u), rows.user), jax.tree.map(partial(divide, n_i), rows.item), rows.shared
    )


def _dot(a: Any, b: Any) -> jax.Array:
    return jnp.asarray(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def _length(tree: Any) -> jax.Array:
    return jnp.sqrt(_dot(tree, tree))
