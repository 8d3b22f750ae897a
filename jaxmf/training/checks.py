"""What a fit refuses before anything compiles: keys, static choices, functions that return other shapes than theirs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.ratings import Ratings, pairs_of
from jaxmf.kernels._memoize import how_built
from jaxmf.models._objective import row_weights
from jaxmf.models.checks import check_model, check_unobserved, traced_shape
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.models.seen import seen_of
from jaxmf.models.trial import check_promises
from jaxmf.solvers.solver import Solver
from jaxmf.training.options import Options
from jaxmf.training.state import Prepared
from jaxmf.training.weightless import check_init, check_score

_RATINGS = "user, item, value, weight, num_users, num_items, context"


def check_key(key: jax.Array) -> None:
    """ValueError unless it is one key, typed or of the older uint32."""
    try:
        jax.eval_shape(lambda key: jax.random.fold_in(key, 0), key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"key must be one key, as of jax.random.key(0), not {key!r:.50}") from error


@contextmanager
def explained(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Iterator[None]:
    """What fails within is a ValueError that says which of the model's functions is why, if one is."""
    try:
        yield
    except Exception:
        check_key(key)
        check_functions(key, model, ratings, hyper)
        raise


def check_functions(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Params:
    """The shapes of a model's parameters, by tracing; ValueError if its functions do not return what a Model's do."""
    check_unobserved(model, hyper)
    own = f"of the model {model.name!r}"
    hyper = cast_hyper(hyper, ratings.value.dtype)

    def traced(name: str, takes: str, *given: Any) -> Any:
        if how_built(model) is not None:  # ours, which say themselves what they refuse
            return jax.eval_shape(getattr(model, name), *given)
        return traced_shape(f"{name} {own}", getattr(model, name), *given, remedy=f"It takes {takes}")

    number = "hyper the numbers of Hyper"
    shape = traced("init", f"key, ratings ({_RATINGS}) and {number}", key, ratings, hyper)
    expect(shape, Params, f"what init {own} returns", "Params(Rows(user={...}, item={...}))")
    for side, count in (("user", ratings.num_users), ("item", ratings.num_items)):
        for kind, rows in shape._asdict().items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(rows, side)):
                if leaf.shape[:1] != (count,):
                    raise ValueError(
                        f"init {own} makes {kind}.{side}{jax.tree_util.keystr(path)} of shape {leaf.shape}; expected a "
                        f"leading axis of {count}, one row per {side}. What belongs to no row goes to `shared`"
                    )
    if model.draw is not None:
        found = traced(
            "draw", f"key, ratings ({_RATINGS}) and seen (first, item)", key, ratings, jax.eval_shape(seen_of, ratings)
        )
        expect(found, Ratings, f"what draw {own} returns", "the ratings, with what it has drawn in their context")
        ratings = found
    results = {
        "loss": traced("loss", f"params (trained, fixed) and ratings ({_RATINGS})", shape, ratings),
        "predict": traced(
            "predict", "params (trained, fixed) and pairs (user, item, context)", shape, pairs_of(ratings)
        ),
    }
    for name, found in results.items():
        if getattr(found, "shape", None) != ratings.value.shape:
            raise ValueError(
                f"{name} {own} returns {found}; expected one number per rating, in the shape of `value` and `user`: do "
                "not sum over them"
            )
    weight = jax.eval_shape(row_weights, ratings, hyper.reg_exponent, hyper.unobserved)
    found = traced("penalty", "trained and weight (user, item, shared) and " + number, shape.trained, weight, hyper)
    if jnp.shape(found) != ():
        many = [name for name in ("l2", "l2_bias") if np.shape(getattr(hyper, name))]
        if many:
            raise ValueError(
                f"hyper: {many[0]} must be one number, not an array of shape {np.shape(getattr(hyper, many[0]))}, with "
                f"which the penalty {own} is none; jax.vmap and jaxmf.sweep take many"
            )
        raise ValueError(
            f"penalty {own} returns {found}; expected one number: sum over the rows of both sides, and over leaves"
        )
    return shape


def check_promised(
    model: Model,
    solver: Solver,
    params: Params,
    hyper: Hyper,
    ratings: Ratings,
    initialize: Callable[[Ratings], Params] | None,
) -> None:
    """ValueError if a user's model breaks a promise that the solver relies on, or starts from what has weight 0. Once
    per model a small program runs, and `initialize`, which gives its parameters: the last check.

    Of `params` the shapes are enough, unless `initialize` is None, since the fit starts from them.
    """
    instead = "use solvers.minibatch, which takes any model (in the shell: --solver adam)"
    promises = solver.promises
    fixed = None if initialize is None else lambda: initialize(ratings).fixed
    check_promises(solver.name, promises, model, params, hyper, ratings, instead, fixed)
    if initialize is not None:
        check_init(model, initialize, ratings)


def check_monitor(monitor: Any, shape: Params, valid: Ratings | None) -> None:
    """ValueError unless the function has validation ratings to look at and returns one number for those with weight."""
    if valid is None:
        raise ValueError("monitor is a function of validation ratings: pass valid= (jaxmf.splits makes them)")
    try:
        found = jax.eval_shape(monitor, shape, valid)
    except Exception as error:
        raise ValueError(f"monitor must be a function (params, ratings) that JAX can trace: {error}") from error
    if getattr(found, "shape", None) != ():
        raise ValueError(f"monitor must return one number, not {found}: take a mean or a sum")
    check_score(monitor, shape, valid)


def check_solver(solver: Solver) -> None:
    """ValueError unless it is a Solver."""
    expect(solver, Solver, "solver", "call the constructor, as in solvers.als() or solvers.minibatch(optax.adam)")


def check_static(model: Model, solver: Solver, epochs: int, options: Options) -> None:
    """ValueError naming the first static choice that is of another type or out of range."""
    check_model(model)
    check_solver(solver)
    if not is_positive_integer(epochs):
        raise ValueError(f"epochs must be a positive integer, not {epochs!r}")
    patience, min_delta, monitor, _ = options
    if patience is not None and not is_positive_integer(patience):
        raise ValueError(f"patience must be a positive integer or None, not {patience!r}")
    if not isinstance(min_delta, Real) or not 0 <= min_delta < float("inf"):
        raise ValueError(f"min_delta must be a finite number of at least 0, not {min_delta!r}")
    if not callable(monitor) and monitor not in ("loss", "rmse", "mae"):
        raise ValueError(f"monitor must be 'loss', 'rmse', 'mae' or a function (params, ratings), not {monitor!r}")


def check_batch(batch: Prepared, solver: Solver, patience: int | None) -> None:
    """ValueError unless `prepare` made the batch, for a solver of this layout, and with what `patience` needs."""
    expect(batch, Prepared, "batch", "make one as prepare(solver, train, valid)")
    if batch.solver.prepare != solver.prepare:
        raise ValueError(
            f"the ratings were prepared for the solver {batch.solver.name!r}, whose layout is not that of this "
            f"{solver.name!r}: prepare(solver, train, valid) with the same solver and batch_size, or pass the ratings"
        )
    if patience is not None and batch.valid is None:
        raise ValueError("patience needs validation ratings: pass valid= to prepare (jaxmf.splits makes them)")
