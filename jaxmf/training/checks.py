"""What a fit refuses before anything compiles: keys, numbers, functions that return other shapes than they should."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmf.data.checks import expect
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Hyper, Model, Params
from jaxmf.models.trial import check_promises
from jaxmf.solvers.solver import Solver


def check_key(key: jax.Array) -> None:
    """ValueError unless it is one key, typed or of the older uint32."""
    try:
        jax.eval_shape(lambda key: jax.random.fold_in(key, 0), key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"key must be one key, as of jax.random.key(0), not {key!r:.50}") from error


def check_hyper(hyper: Hyper) -> None:
    """ValueError naming the first number of `hyper` that is out of range."""
    expect(hyper, Hyper, "hyper", "expected the numbers by name, as in Hyper(l2=0.1)")
    ranges = {
        "l2": (lambda x: x >= 0, "at least 0"),
        "l2_bias": (lambda x: x >= 0, "at least 0, or None for l2"),
        "reg_exponent": (lambda x: 0 <= x <= 1, "between 0 (constant per row) and 1 (per observation)"),
        "learning_rate": (lambda x: x > 0, "positive"),
        "learning_rate_bias": (lambda x: x > 0, "positive, or None for learning_rate"),
        "momentum": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
        "init_scale": (lambda x: x >= 0, "at least 0"),
    }
    for name, (holds, expected) in ranges.items():
        value = getattr(hyper, name)
        if value is None and name in ("l2_bias", "learning_rate_bias"):
            continue
        number = _number(value)
        if number is None:
            raise ValueError(f"hyper: {name} must be one number, not {value!r}; jaxmf.sweep takes many")
        if not (np.isfinite(number) and holds(number)):
            raise ValueError(f"hyper: {name} must be finite and {expected}, not {value!r}")
    rank = _number(hyper.rank)
    if hyper.rank is not None and (isinstance(hyper.rank, bool) or rank is None or not rank.is_integer() or rank < 1):
        raise ValueError(f"hyper: rank must be a positive integer, or None for the model's width, not {hyper.rank!r}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(hyper.extra):
        try:
            np.asarray(leaf, float)
        except (TypeError, ValueError) as error:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"hyper: extra{name} must be a number or an array of numbers, not {leaf!r}; give static choices to the "
                "model's constructor"
            ) from error


def check_rank(hyper: Hyper, shape: Params) -> None:
    """ValueError unless parameters of this shape have as many columns as the active rank, if there is one."""
    if hyper.rank is None:
        return
    factors = shape.trained.user.get("factors") if isinstance(shape.trained.user, dict) else None
    if factors is None:
        raise ValueError("hyper: rank is given, but the model trains no leaf named 'factors'; leave it None")
    width = factors.shape[-1]
    if hyper.rank > width:
        raise ValueError(f"hyper: rank must be at most the model's width {width}, not {hyper.rank!r}: widen the model")


def check_functions(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Params:
    """The shapes of a model's parameters, by tracing; ValueError if its functions do not return what a Model's do."""
    own = f"of the model {model.name!r}"
    shape = jax.eval_shape(lambda: model.init(key, ratings, hyper))
    expect(shape, Params, f"what init {own} returns", "Params(Rows(user={...}, item={...}))")
    for side, count in (("user", ratings.num_users), ("item", ratings.num_items)):
        for kind, rows in shape._asdict().items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(rows, side)):
                if leaf.shape[:1] != (count,):
                    raise ValueError(
                        f"init {own} makes {kind}.{side}{jax.tree_util.keystr(path)} of shape {leaf.shape}; expected a "
                        f"leading axis of {count}, one row per {side}. What belongs to no row goes to `shared`"
                    )
    results = {
        "loss": jax.eval_shape(model.loss, shape, ratings),
        "predict": jax.eval_shape(model.predict, shape, ratings.user, ratings.item),
    }
    for name, found in results.items():
        if getattr(found, "shape", None) != ratings.value.shape:
            raise ValueError(
                f"{name} {own} returns {found}; expected one number per rating, shape {ratings.value.shape}: do not "
                "sum over them"
            )
    return shape


def check_promised(
    model: Model, solver: Solver, shape: Params, hyper: Hyper, ratings: Ratings, initialize: Callable[[], Params]
) -> None:
    """ValueError if a user's model breaks a promise that the solver relies on. Once per model a small program runs, and
    `initialize` if there are fixed parameters: the last check.
    """
    instead = "use solvers.minibatch, which takes any model (in the shell: --solver adam)"
    promises = solver.promises
    check_promises(solver.name, promises, model, shape, hyper, ratings, instead, lambda: initialize().fixed)


def check_monitor(monitor: Any, shape: Params, valid: Ratings | None) -> None:
    """ValueError unless the function has validation ratings to look at and returns one number for them."""
    if valid is None:
        raise ValueError("monitor is a function of validation ratings: pass valid= (jaxmf.splits makes them)")
    try:
        found = jax.eval_shape(monitor, shape, valid)
    except TypeError as error:
        raise ValueError(f"monitor must be a function (params, ratings) that JAX can trace: {error}") from error
    if getattr(found, "shape", None) != ():
        raise ValueError(f"monitor must return one number, not {found}: take a mean or a sum")


def _number(value: Any) -> float | None:
    """`value` as a float, if it is one number."""
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
