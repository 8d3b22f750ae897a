"""Minibatch gradient descent on the mean objective, by any optax optimizer."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.ratings import Ratings, take
from jaxmf.metrics import total
from jaxmf.models.memoize import memoize
from jaxmf.models.model import Hyper, Model, Params, Rows, update_scale
from jaxmf.models.xla import TWO_STEP_SUMS, without
from jaxmf.solvers.shuffle import shuffle
from jaxmf.solvers.solver import Problem, Solver, StepInfo


@memoize
def minibatch(optimizer: Callable[..., optax.GradientTransformation], batch_size: int = 256) -> Solver:
    """Dense optax steps on batches B of a fresh shuffle every epoch.

    Each step descends the mean objective, L / |Ω|, estimated on its batch, so that a learning rate does not depend on
    the size of the data:

        Σ_B w ℓ / Σ_B w  +  penalty / Σ_Ω w

    The penalty is over *all* rows at every step. The last batch of an epoch is padded with weight 0, never dropped.

    Args:
      optimizer: a function of `Hyper` that returns an optax transformation, such as
        `lambda h: optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True)`, which runs inside the traced
        function, so that the values may be swept; or an optax optimizer whose first parameter is `learning_rate`:
        `minibatch(optax.adam)` is short for `minibatch(lambda h: optax.adam(h.learning_rate))`. Schedules are functions
        of the number of steps, ⌈num_ratings / batch_size⌉ per epoch. Numbers that optax needs as static stay outside
        `Hyper`.
      batch_size: ratings per step.

    Returns:
      a Solver for any model.

    Raises:
      ValueError: `batch_size` is not a positive integer, or `optimizer` is not a function of one argument; at `check`,
        it does not return an optax optimizer, or one that needs more than gradients, such as lbfgs.

    Cost: per step O(batch_size · D) for the loss plus O((num_users + num_items) · D) for penalty and optimizer: large
    batches are cheaper per epoch.

    Reference: Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
    """
    if not is_positive_integer(batch_size):
        raise ValueError(f"minibatch: batch_size must be a positive integer, not {batch_size!r}")
    factory = _factory(optimizer)

    def init(model: Model, params: Params, hyper: Hyper) -> Any:
        return factory(hyper).init(params.trained)

    def check(model: Model, params: Params, hyper: Hyper) -> None:
        _check_optimizer(factory(hyper), params.trained)

    def step(
        key: jax.Array, model: Model, params: Params, state: Any, problem: Problem, hyper: Hyper
    ) -> tuple[Params, Any, StepInfo]:
        ratings, fixed, update = problem.ratings, params.fixed, factory(hyper).update
        whole = jnp.maximum(total(ratings.weight), jnp.finfo(ratings.weight.dtype).tiny)
        batches = take(ratings, visiting_order(key, ratings.value.shape[0], batch_size))

        def loss(trained: Any, batch: Ratings) -> jax.Array:
            fit = jnp.sum(batch.weight * model.loss(Params(trained, fixed), batch))
            size = jnp.sum(batch.weight)
            return fit / jnp.where(size > 0, size, 1) + model.penalty(trained, problem.weight, hyper) / whole

        def descend(carry: tuple[Any, Any], batch: Ratings) -> tuple[tuple[Any, Any], None]:
            trained, state = carry
            updates, state = update(jax.grad(loss)(trained, batch), state, trained)
            updates = jax.tree.map(jnp.multiply, updates, update_scale(trained, hyper))
            return (optax.apply_updates(trained, updates), state), None

        (trained, state), _ = jax.lax.scan(descend, (params.trained, state), batches)
        return Params(trained, fixed), state, StepInfo(jnp.array(False))

    name = f"minibatch({getattr(optimizer, '__name__', 'custom')})"
    return Solver(_prepare, init, step, check, name, compiler_options=without(TWO_STEP_SUMS))


def visiting_order(key: jax.Array, num_ratings: int, batch_size: int) -> jax.Array:
    """The batches of one epoch: (num_batches, batch_size) positions, a permutation padded with num_ratings."""
    num_batches = -(-num_ratings // batch_size)
    order = shuffle(key, num_ratings)
    padding = jnp.full(num_batches * batch_size - num_ratings, num_ratings, order.dtype)
    return jnp.concatenate([order, padding]).reshape(num_batches, batch_size)


def _prepare(ratings: Ratings) -> tuple[()]:
    return ()


def _factory(optimizer: Callable[..., Any]) -> Callable[[Hyper], optax.GradientTransformation]:
    such_as = "such as optax.adam or `lambda h: optax.adam(h.learning_rate)`"
    if not callable(optimizer):
        raise ValueError(f"minibatch: optimizer must be a function {such_as}, not {type(optimizer).__name__}")
    try:
        inspect.signature(optimizer).bind(None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"minibatch: optimizer must be a function of one argument, {such_as}: {error}") from error
    first = next(iter(inspect.signature(optimizer).parameters), None)
    if first == "learning_rate":
        return lambda hyper: optimizer(hyper.learning_rate)
    return optimizer


def _check_optimizer(optimizer: Any, trained: Rows) -> None:
    """ValueError unless it is an optax optimizer that steps by gradients alone."""
    remedy = "return one such as optax.adam(h.learning_rate)"
    expect(optimizer, optax.GradientTransformation, "minibatch: what optimizer returns", remedy)
    try:
        jax.eval_shape(lambda rows: optimizer.update(rows, optimizer.init(rows), rows), trained)
    except TypeError as error:
        raise ValueError(
            f"minibatch: optimizer cannot step by gradients and parameters alone ({error}): {remedy}"
        ) from error
