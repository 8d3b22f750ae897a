"""The state of a fit between two epochs, the data that a run reads, and the state that a fit starts from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.models._objective import row_weights
from jaxmf.models.leaves import fill_beyond_rank, width
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, cast_hyper
from jaxmf.models.seen import Seen, seen_of
from jaxmf.solvers.solver import Solver
from jaxmf.training._watched import Watched, watched

RUNNING, CONVERGED, STOPPED_EARLY, DIVERGED = range(4)
STATUS = ("completed", "converged", "stopped_early", "diverged")


class Constants(NamedTuple):
    """What no epoch of a run changes: n^ν per row, the result of the solver's `setup`, for a model that draws the items
    that each user has rated, and for a fit that monitors a ranking the sample of users that it watches.
    """

    weight: Rows
    solver: Any
    seen: Seen | None
    watched: Watched | None


class Prepared(NamedTuple):
    """The result of `prepare`: training ratings and validation ratings (or None), padded with weight 0; the layout of
    the training ratings; and the solver that made it (static). After `setup`, a batch has constants instead of the
    layout.
    """

    train: Ratings
    valid: Ratings | None
    layout: Any
    solver: Solver
    constants: Constants | None = None


class Best(NamedTuple):
    """The best epoch so far: the last one that improved the monitored validation score. Of `score`, lower is better: of
    a ranking it is the negative.
    """

    params: Params
    score: jax.Array
    epoch: jax.Array


class Saved(NamedTuple):
    """A solver's state as loaded from a file: its leaves by key path, until `fit` resumes with the solver."""

    leaves: dict[str, jax.Array]


class FitState(NamedTuple):
    """Everything that the next epoch needs: a fit resumed from it continues with the same bits.

    Attributes:
      epoch: number of epochs done, int32.
      params: parameters after that epoch; after a divergence, those before the epoch that diverged.
      solver: the solver's own state; `Saved` in a fit that was loaded.
      best: the best epoch so far; None without `patience`.
      status: int32 index into `STATUS`; 0 for a fit that can continue.
    """

    epoch: jax.Array
    params: Params
    solver: Any
    best: Best | None
    status: jax.Array


def start(
    key: jax.Array,
    model: Model,
    solver: Solver,
    batch: Prepared,
    hyper: Hyper,
    patience: int | None = None,
    params: Params | None = None,
) -> FitState:
    """Return the state before the first epoch, from `params` or else from `init` under `fold_in(key, 0)`. Pure."""
    params = initialize(key, model, batch.train, hyper) if params is None else params
    return first_state(model, solver, params, hyper, patience)


def initialize(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Params:
    """Return the initial parameters, drawn with the key of epoch 0."""
    return model.init(jax.random.fold_in(key, 0), ratings, cast_hyper(hyper, ratings.value.dtype))


def first_state(model: Model, solver: Solver, params: Params, hyper: Hyper, patience: int | None) -> FitState:
    """Return the state before the first epoch; columns of `params` beyond the active rank are set to 0."""
    if hyper.rank is not None:
        params = params._replace(trained=fill_beyond_rank(params.trained, hyper.rank))
    dtype = jnp.result_type(*jax.tree.leaves(params))
    zero = jnp.zeros((), jnp.int32)
    best = None if patience is None else Best(params, jnp.array(missing(dtype), dtype), zero)
    status = zero
    if hyper.rank is not None and (num_columns := width(params.trained)) is not None:
        rank = jnp.asarray(hyper.rank, jnp.int32)
        status = jnp.where((rank >= 1) & (rank <= num_columns), RUNNING, DIVERGED).astype(jnp.int32)
    return FitState(zero, params, solver.init(model, params, cast_hyper(hyper, dtype)), best, status)


def constants(batch: Prepared, hyper: Hyper, draws: bool, ranks: bool) -> Constants:
    """Compute what no epoch changes; return the batch's own constants if it is set up.

    `draws`: the model draws. `ranks`: a ranking is monitored.
    """
    if batch.constants is not None:
        return batch.constants
    train = batch.train
    weight = row_weights(train, hyper.reg_exponent, hyper.unobserved)
    sample = watched(train, batch.valid) if ranks and batch.valid is not None else None
    return Constants(weight, batch.solver.setup(train, batch.layout, hyper), seen_of(train) if draws else None, sample)


def result(solver: Solver, state: FitState) -> Params:
    """Return the parameters of a fit in this state: with `patience` those of the best epoch, else the last ones."""
    return solver.result(state.params, state.solver) if state.best is None else state.best.params


def missing(dtype: Any) -> Any:
    """Return the stand-in for a missing number: the largest of its dtype, since a healthy program makes no NaN."""
    return (jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo)(dtype).max
