"""Checks of a fit before anything compiles: the key, the static options, and what a model's functions return."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.pairs import among, numbered
from jaxmf.data.ratings import Ratings, pairs_of
from jaxmf.kernels._memoize import how_built
from jaxmf.models._objective import row_weights
from jaxmf.models.checks import check_model, check_unobserved, traced_shape
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.models.seen import seen_of
from jaxmf.models.trial import check_promises
from jaxmf.solvers.solver import Solver
from jaxmf.training.options import ERRORS, Monitor, Options, for_model, ranking_of
from jaxmf.training.state import Prepared
from jaxmf.training.weightless import check_init, check_score

_RATINGS = "user, item, value, weight, num_users, num_items, context"


def check_key(key: jax.Array) -> None:
    """Raise ValueError unless this is a single key, typed or of the older kind (uint32)."""
    try:
        jax.eval_shape(lambda key: jax.random.fold_in(key, 0), key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"key must be one key, such as jax.random.key(0), not {key!r:.50}") from error


@contextmanager
def explained(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Iterator[None]:
    """Turn an exception of the block into a ValueError that names the model's function that causes it, if one does."""
    try:
        yield
    except Exception:
        check_key(key)
        check_functions(key, model, ratings, hyper)
        raise


def check_functions(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Params:
    """Trace the model's functions and return the shapes of its parameters.

    Raises ValueError unless each function returns what that function of a Model must.
    """
    check_unobserved(model, hyper)
    of_model = f"of the model {model.name!r}"
    hyper = cast_hyper(hyper, ratings.value.dtype)

    def traced(name: str, takes: str, *arguments: Any) -> Any:
        if how_built(model) is not None:  # built-in models raise errors that need no explanation
            return jax.eval_shape(getattr(model, name), *arguments)
        return traced_shape(f"{name} {of_model}", getattr(model, name), *arguments, remedy=f"It takes {takes}")

    shape: Params = traced("init", f"key, ratings ({_RATINGS}) and hyper (a Hyper)", key, ratings, hyper)
    expect(shape, Params, f"what init {of_model} returns", "Params(Rows(user={...}, item={...}))")
    for side, count in (("user", ratings.num_users), ("item", ratings.num_items)):
        for kind, rows in shape._asdict().items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(rows, side)):
                if leaf.shape[:1] != (count,):
                    raise ValueError(
                        f"init {of_model} makes {kind}.{side}{jax.tree_util.keystr(path)} of shape {leaf.shape}; "
                        f"expected a leading axis of {count}, one row per {side}. A leaf without rows goes to `shared`"
                    )
    if model.draw is not None:
        drawn = traced(
            "draw", f"key, ratings ({_RATINGS}) and seen (first, item)", key, ratings, jax.eval_shape(seen_of, ratings)
        )
        expect(drawn, Ratings, f"what draw {of_model} returns", "the ratings, with its draws in their context")
        ratings = drawn
    results = {
        "loss": traced("loss", f"params (trained, fixed) and ratings ({_RATINGS})", shape, ratings),
        "predict": traced(
            "predict", "params (trained, fixed) and pairs (user, item, context)", shape, pairs_of(ratings)
        ),
    }
    for name, result in results.items():
        if getattr(result, "shape", None) != ratings.value.shape:
            raise ValueError(
                f"{name} {of_model} returns {result}; expected one number per rating, in the shape of `value` and "
                "`user`: do not sum over them"
            )
    weight = jax.eval_shape(row_weights, ratings, hyper.reg_exponent, hyper.unobserved)
    takes = "trained and weight (user, item, shared) and hyper (a Hyper)"
    penalty = traced("penalty", takes, shape.trained, weight, hyper)
    if jnp.shape(penalty) != ():
        arrays = {name: np.shape(number) for name in ("l2", "l2_bias") if np.shape(number := getattr(hyper, name))}
        if arrays:
            name, array_shape = next(iter(arrays.items()))
            raise ValueError(
                f"hyper: {name} must be one number, not an array of shape {array_shape}, with which the penalty "
                f"{of_model} is not one number; jax.vmap and jaxmf.sweep take several"
            )
        raise ValueError(
            f"penalty {of_model} returns {penalty}; expected one number: sum over the rows of both sides and over the "
            "leaves"
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
    """Raise ValueError if a user's model breaks a promise to the solver, or if its `init` reads ratings of weight 0.

    This is the last check, since it runs a small program and `initialize`, which returns the initial parameters; both
    run once per model. Only the shapes of `params` are needed, unless `initialize` is None because the fit starts from
    `params`.
    """
    alternative = "use solvers.minibatch, which takes any model (in the shell: --solver adam)"
    promises = solver.promises
    fixed = None if initialize is None else lambda: initialize(ratings).fixed
    check_promises(solver.name, promises, model, params, hyper, ratings, alternative, fixed)
    if initialize is not None:
        check_init(model, initialize, ratings)


def check_monitor(
    monitor: Monitor | None, model: Model, shape: Params, valid: Ratings | None, train: Ratings | None = None
) -> None:
    """Raise ValueError unless the validation ratings are what `monitor`, or the model's default, needs.

    A function must return one number, of the ratings with weight. A ranking needs a rating above 0 of a pair that is
    not in `train` too.
    """
    ranks = ranking_of(for_model(Options(monitor=monitor), model).monitor)
    if valid is None:
        if callable(monitor) or ranking_of(monitor):
            what = "is a function of" if callable(monitor) else f"{monitor!r} ranks"
            raise ValueError(f"monitor {what} validation ratings: pass valid= (jaxmf.splits makes them)")
        return
    if ranks:
        _check_relevant(ranks[0], valid, train)
    if not callable(monitor):
        return
    try:
        score = jax.eval_shape(monitor, shape, valid)
    except Exception as error:
        raise ValueError(f"monitor must be a function (params, ratings) that JAX can trace: {error}") from error
    if getattr(score, "shape", None) != ():
        raise ValueError(f"monitor must return one number, not {score}: take a mean or a sum")
    check_score(monitor, shape, valid)


def _check_relevant(measure: str, valid: Ratings, train: Ratings | None) -> None:
    """Raise ValueError unless a validation rating above 0 is of a pair without training weight."""
    relevant = (np.asarray(valid.weight) > 0) & (np.asarray(valid.value) > 0)
    if not relevant.any():
        raise ValueError(
            f"monitor {measure!r} counts validation ratings above 0 as relevant, but all are 0: pass monitor='loss'"
        )
    if train is None:
        return

    def pairs(ratings: Ratings, kept: np.ndarray) -> np.ndarray:
        return numbered(np.asarray(ratings.user)[kept], np.asarray(ratings.item)[kept], ratings.num_items)

    if among(pairs(valid, relevant), np.sort(pairs(train, np.asarray(train.weight) > 0))).all():
        raise ValueError(
            f"monitor {measure!r} ranks items that a user has not trained on, but every validation rating above 0 "
            "is of a pair in train: hold other ratings out (jaxmf.splits)"
        )


def check_ratings(model: Model, ratings: Ratings) -> None:
    """Raise the ValueError of the model's own `check` for training ratings that it is not for."""
    if model.check is not None:
        model.check(ratings)


def check_solver(solver: Solver) -> None:
    """Raise ValueError unless this is a Solver."""
    expect(solver, Solver, "solver", "call the constructor, as in solvers.als() or solvers.minibatch(optax.adam)")


def check_static(model: Model, solver: Solver, epochs: int, options: Options) -> None:
    """Raise a ValueError that names the first static argument of the wrong type or out of range."""
    check_model(model)
    check_solver(solver)
    if not is_positive_integer(epochs):
        raise ValueError(f"epochs must be a positive integer, not {epochs!r}")
    patience, min_delta, monitor, _ = options
    if patience is not None and not is_positive_integer(patience):
        raise ValueError(f"patience must be a positive integer or None, not {patience!r}")
    if not isinstance(min_delta, Real) or not 0 <= min_delta < float("inf"):
        raise ValueError(f"min_delta must be a finite number of at least 0, not {min_delta!r}")
    if not (monitor in (None, "loss", *ERRORS) or callable(monitor) or ranking_of(monitor)):
        raise ValueError(
            f"monitor must be 'loss', 'rmse', 'mae', 'ndcg', 'recall' or 'map' (or as 'ndcg@20'), 'auc', or a function "
            f"(params, ratings), not {monitor!r}"
        )
    if monitor in ERRORS and model.predicts == "preference":
        raise ValueError(
            f"monitor: the model {model.name!r} predicts preferences, which have no error in rating units: monitor "
            "'ndcg', 'recall', 'map', 'auc' or 'loss'"
        )


def check_batch(batch: Prepared, solver: Solver, patience: int | None) -> None:
    """Raise ValueError unless `prepare` made the batch for this solver's layout, and with what `patience` needs."""
    expect(batch, Prepared, "batch", "make one as prepare(solver, train, valid)")
    if batch.solver.prepare != solver.prepare:
        raise ValueError(
            f"the ratings were prepared for the solver {batch.solver.name!r}, whose layout differs from that of "
            f"{solver.name!r}: call prepare(solver, train, valid) with the same solver and batch_size, or pass the "
            "ratings themselves"
        )
    if patience is not None and batch.valid is None:
        raise ValueError("patience needs validation ratings: pass valid= to prepare (jaxmf.splits makes them)")
