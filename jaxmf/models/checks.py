"""Checks of models, hyperparameters and parameters, by shapes and by tracing, before anything compiles."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect
from jaxmf.data.ratings import Pairs
from jaxmf.kernels._memoize import how_built
from jaxmf.models.leaves import width
from jaxmf.models.model import Model, Predicts, Reads
from jaxmf.models.params import Hyper, Params, Rows


def check_model(model: Model) -> None:
    """Raise a ValueError unless this is a Model with a valid `reads`."""
    expect(model, Model, "model", "call the constructor, as in models.biased_mf(16), or take the fit.model of a fit")
    if model.reads not in get_args(Reads):
        raise ValueError(f"the model {model.name!r} has reads={model.reads!r}; expected 'rows' or 'tables'")
    if model.predicts not in get_args(Predicts):
        raise ValueError(f"the model {model.name!r} has predicts={model.predicts!r}; expected 'rating' or 'preference'")


def check_unobserved(model: Model, hyper: Hyper) -> None:
    """Raise a ValueError if the weight of unobserved cells is given to a model without a loss over them, or missing.

    A user's own `background` may have its weight elsewhere.
    """
    if hyper.unobserved is None and model.background is not None and how_built(model) is not None:
        raise ValueError(
            f"hyper: the model {model.name!r} needs unobserved, the weight of all cells, as in "
            "Hyper(l2=0.003, unobserved=0.1); choose it by a ranking, such as monitor='ndcg'"
        )
    if hyper.unobserved is not None and model.background is None:
        raise ValueError(
            f"hyper: unobserved is given, but the model {model.name!r} has no `background`, a loss over cells that are "
            "not observed; leave it None"
        )


def check_hyper(hyper: Hyper) -> None:
    """Raise a ValueError that names the first number of `hyper` that is out of range."""
    expect(hyper, Hyper, "hyper", "expected the numbers by name, as in Hyper(l2=0.1)")
    ranges: dict[str, tuple[Callable[[float], bool], str]] = {
        "l2": (lambda x: x >= 0, "at least 0"),
        "l2_bias": (lambda x: x >= 0, "at least 0, or None for l2"),
        "reg_exponent": (lambda x: 0 <= x <= 1, "between 0 (constant per row) and 1 (per observation)"),
        "learning_rate": (lambda x: x > 0, "positive"),
        "learning_rate_bias": (lambda x: x > 0, "positive, or None for learning_rate"),
        "momentum": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
        "init_scale": (lambda x: x >= 0, "at least 0"),
        "unobserved": (lambda x: x >= 0, "at least 0, or None for a model without a background"),
    }
    for name, (holds, expected) in ranges.items():
        value = getattr(hyper, name)
        if value is None and name in ("l2_bias", "learning_rate_bias", "unobserved"):
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
    """Raise a ValueError unless the rank, if given, is a positive integer and parameters of this shape are as wide."""
    if hyper.rank is None:
        return
    num_columns = width(shape.trained)
    if num_columns is None:
        raise ValueError("hyper: rank is given, but the model trains no leaf named 'factors'; leave it None")
    if isinstance(hyper.rank, jax.core.Tracer):  # not known yet: if it is out of range, the fit ends as `diverged`
        return
    rank = _number(hyper.rank)
    if isinstance(hyper.rank, bool) or rank is None or not rank.is_integer() or rank < 1:
        raise ValueError(f"hyper: rank must be a positive integer, or None for the model's width, not {hyper.rank!r}")
    if rank > num_columns:
        raise ValueError(
            f"hyper: rank must be at most the model's width {num_columns}, not {hyper.rank!r}: widen the model"
        )


def check_counts(params: Params, ratings: Any, who: str) -> None:
    """Raise a ValueError, starting with `who`, unless Params have as many users and items as Ratings or a Dataset."""
    expect(params, Params, f"{who}: params", "take the fit.params of a fit, or what model.init returns")
    for kind, rows in params._asdict().items():
        expect(rows, Rows, f"{who}: params.{kind}", "Params(Rows(user={...}, item={...})) as model.init returns")
    for side, count in (("user", ratings.num_users), ("item", ratings.num_items)):
        for leaf in jax.tree.leaves((getattr(params.trained, side), getattr(params.fixed, side))):
            if not getattr(leaf, "shape", ()):
                raise ValueError(f"{who}: params of the {side}s hold {leaf!r:.50}; expected arrays, one row each")
            if leaf.shape[0] != count:
                raise ValueError(
                    f"{who}: the model has {leaf.shape[0]} {side}s, the ratings have {count}. Split one Dataset with "
                    "jaxmf.splits, so that both share their ids"
                )


def check_finite(params: Params, who: str) -> None:
    """Raise a ValueError, starting with `who` and naming the leaf, unless all numbers of Params are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"{who}: {where} of params has NaN or infinite numbers, as after a fit that diverged (see fit.status): "
                "use the parameters of a fit that did not"
            )


def check_predicts(model: Model, params: Params, ratings: Any, who: str, context: Any = None) -> None:
    """Raise a ValueError, starting with `who`, unless the Model predicts with these Params, which is found by tracing.

    `check_counts` compares the Params with Ratings or a Dataset. Pairs have this context, or none.
    """
    check_model(model)
    check_counts(params, ratings, who)
    index: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    remedy = "Pass fit.model and fit.params of one fit" + ("" if context else ", of a model that reads no context")
    predicts = f"{who}: predict of the model {model.name!r}"
    shape = traced_shape(predicts, model.predict, params, Pairs(index, index, of_one(context or {})), remedy=remedy)
    if getattr(shape, "shape", None) != (1,):
        raise ValueError(f"{who}: predict of the model {model.name!r} returns {shape}; expected one number per pair")


def of_one(context: Any) -> Any:
    """Return the shapes of the context of a single pair."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), context)


def traced_shape(
    who: str, function: Any, *given: Any, remedy: str = "Pass fit.model and fit.params of one fit", words: Any = ()
) -> Any:
    """Return the shapes that a model's function returns; raise a ValueError, starting with `who`, if it fails.

    Errors of the types `words` are raised as they are, because their messages are clear by themselves.
    """
    try:
        return jax.eval_shape(function, *given)
    except words:
        raise
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(f"{who} calls NumPy on what JAX traces: jax.numpy has the same functions") from error
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            f"{who} needs a number, for an `if` or a shape, of what JAX traces: use jnp.where, or a constant"
        ) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{who} fails on these params ({why}). {remedy}") from error


def _number(value: Any) -> float | None:
    """Return the value as a float if it is one number, else None."""
    known = isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
    try:
        return float(value) if known else None
    except (TypeError, ValueError):
        return None
