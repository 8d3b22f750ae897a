"""Minibatch gradient descent on the mean objective, by any optax optimizer."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.ratings import Ratings, take
from jaxmf.kernels._memoize import memoize
from jaxmf.kernels._shuffle import shuffle
from jaxmf.kernels.xla import LESS_OPTIMIZED, TWO_STEP_SUMS, without
from jaxmf.metrics import total
from jaxmf.models._objective import beside, drawn
from jaxmf.models.leaves import update_scale
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo


@memoize
def minibatch(optimizer: Callable[..., optax.GradientTransformation], batch_size: int = 256) -> Solver:
    """Take dense optax steps on batches B, shuffled anew every epoch.

    Each step descends the mean objective L / |Ω|, estimated on its batch, so that the learning rate does not depend on
    the size of the data:

        Σ_B w ℓ / Σ_B w  +  (background + penalty) / Σ_Ω w

    The penalty is over *all* rows at every step. The last batch of an epoch is padded with weight 0, never dropped, and
    a batch of padding alone is not a step. A model with a `draw` draws for each batch. Optimizers that also read the
    value of the objective, such as `optax.polyak_sgd`, `optax.contrib.momo`, or `optax.contrib.reduce_on_plateau` in a
    chain, get it as `value`, a noisy estimate from one batch: `reduce_on_plateau` averages over an epoch if its
    `accumulation_size` is the number of steps per epoch.

    Args:
      optimizer: a function of `Hyper` that returns an optax transformation, such as
        `lambda h: optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True)`. It runs while tracing, so that its
        numbers can be swept. Or an optax optimizer whose first parameter is `learning_rate`: `minibatch(optax.adam)` is
        short for `minibatch(lambda h: optax.adam(h.learning_rate))`. Schedules are functions of the number of steps,
        ⌈num_ratings / batch_size⌉ per epoch. Numbers that optax needs as static stay outside `Hyper`.
      batch_size: number of ratings per step.

    Returns:
      a Solver for any model.

    Raises:
      ValueError: `batch_size` is not a positive integer, or `optimizer` is not a function of one argument; at `check`,
        it does not return an optax optimizer, or returns one that needs more than the gradient and the value of a
        batch, as lbfgs does, whose line search evaluates the objective again, here on a batch alone.

    Cost: per step O(batch_size · D) for the loss plus O((num_users + num_items) · D) for penalty and optimizer, so that
    larger batches are cheaper per epoch.

    Reference: Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
    """
    if not is_positive_integer(batch_size):
        raise ValueError(f"minibatch: batch_size must be a positive integer, not {batch_size!r}")
    factory, name = _factory(optimizer), f"minibatch({getattr(optimizer, '__name__', 'custom')})"

    def init(model: Model, params: Params, hyper: Hyper) -> Any:
        return factory(hyper).init(params.trained)

    def check(model: Model, params: Params, hyper: Hyper, context: Any) -> None:
        _check_optimizer(name, factory, hyper, params.trained)

    def step(
        key: jax.Array, model: Model, params: Params, state: Any, problem: Problem, hyper: Hyper
    ) -> tuple[Params, Any, StepInfo]:
        ratings, fixed = problem.ratings, params.fixed
        update = _update_by_value(factory(hyper))
        whole = jnp.maximum(total(ratings.weight), jnp.finfo(ratings.weight.dtype).tiny)
        num_ratings = problem.constants
        order = visiting_order(key, num_ratings, len(ratings.value), batch_size)

        def loss(trained: Any, batch: Ratings) -> jax.Array:
            fit = jnp.sum(batch.weight * model.loss(Params(trained, fixed), batch))
            size = jnp.sum(batch.weight)
            others = beside(model, Params(trained, fixed), problem.weight, hyper)
            return fit / jnp.where(size > 0, size, 1) + others / whole

        def descend(carry: tuple[Any, Any], batch: Ratings) -> tuple[Any, Any]:
            trained, state = carry
            value, slope = jax.value_and_grad(loss)(trained, batch)
            updates, state = update(slope, state, trained, value)
            updates = jax.tree.map(jnp.multiply, updates, update_scale(trained, hyper))
            return optax.apply_updates(trained, updates), state

        def visit(carry: tuple[Any, Any], read: tuple[Ratings, jax.Array]) -> tuple[tuple[Any, Any], None]:
            batch, first = read
            if model.draw is not None:
                batch = drawn(jax.random.fold_in(key, first), model, batch, problem.seen)
            return jax.lax.cond(first < num_ratings, descend, lambda carry, _: carry, carry, batch), None

        # Counting tells which batches are padding, so that under a `vmap` over keys the condition is the same for all.
        firsts = batch_size * jnp.arange(len(order), dtype=num_ratings.dtype)
        (trained, state), _ = jax.lax.scan(visit, (params.trained, state), (take(ratings, order), firsts))
        return Params(trained, fixed), state, StepInfo(jnp.array(False))

    machine = Machine((*without(TWO_STEP_SUMS), LESS_OPTIMIZED))
    return Solver(_prepare, init, step, check, name, machine=machine)


def visiting_order(key: jax.Array, num_ratings: jax.typing.ArrayLike, size: int, batch_size: int) -> jax.Array:
    """Return the batches of one epoch, (⌈size / batch_size⌉, batch_size) positions.

    They are a permutation of 0, …, num_ratings − 1, followed by the positions of padding.
    """
    num_batches = -(-size // batch_size)
    order = shuffle(key, num_ratings, size)
    padding = size + jnp.arange(num_batches * batch_size - size, dtype=order.dtype)
    return jnp.concatenate([order, padding]).reshape(num_batches, batch_size)


def _prepare(ratings: Ratings) -> jax.Array:
    """Return the number of ratings, behind which padding follows."""
    return jnp.asarray(len(ratings.value), jnp.int32)


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


def _update_by_value(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the optimizer's `update` with a fourth argument, the objective's value, which most optimizers ignore."""
    update = optimizer.update
    takes = inspect.signature(update).parameters.values()
    if any(parameter.name == "value" or parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        return lambda slope, state, trained, value: update(slope, state, trained, value=value)
    return lambda slope, state, trained, value: update(slope, state, trained)


def _check_optimizer(who: str, factory: Callable[[Hyper], Any], hyper: Hyper, trained: Rows) -> None:
    """Raise a ValueError unless `factory` returns an optax optimizer that steps by gradient and value alone."""
    remedy = "pass a function of Hyper that returns one, such as `lambda h: optax.adam(h.learning_rate)`"
    expect(factory(hyper), optax.GradientTransformation, "minibatch: what optimizer returns", remedy)

    def step(rows: Rows, hyper: Hyper) -> Any:
        optimizer = factory(hyper)
        value = jnp.zeros((), jnp.result_type(float, *jax.tree.leaves(rows)))
        return _update_by_value(optimizer)(rows, optimizer.init(rows), rows, value)

    try:
        jax.eval_shape(step, trained, hyper)
    except TypeError as error:
        raise ValueError(
            f"{who}: the optimizer cannot step by a batch's gradient and value alone, as one with a line search such "
            f"as lbfgs cannot ({error}): {remedy}"
        ) from error
