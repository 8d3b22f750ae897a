"""The state of a fit between two epochs, what a run reads, and where a fit starts."""

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

RUNNING, CONVERGED, STOPPED_EARLY, DIVERGED = range(4)
STATUS = ("completed", "converged", "stopped_early", "diverged")


class Constants(NamedTuple):
    """What no epoch of a run changes: n^ν per row, what the solver's `setup` made of its layout, and which items each
    user has rated, for a model that draws.
    """

    weight: Rows
    solver: Any
    seen: Seen | None


class Prepared(NamedTuple):
    """What `prepare` returns: training ratings, validation ratings (or None), either with padding of weight 0 behind
    them, a solver's layout of the former, and whose it is (static). A batch that is set up has constants instead of the
    layout.
    """

    train: Ratings
    valid: Ratings | None
    layout: Any
    solver: Solver
    constants: Constants | None = None


class Best(NamedTuple):
    """The best epoch so far by the monitored validation score (lower is better)."""

    params: Params
    score: jax.Array
    epoch: jax.Array


class Saved(NamedTuple):
    """A solver's state as a file gives it back: its leaves by key path, until `fit` resumes with the solver."""

    leaves: dict[str, jax.Array]


class FitState(NamedTuple):
    """Everything that the next epoch needs: a fit resumed from it continues to the same bits.

    Attributes:
      epoch: epochs done, int32.
      params: parameters after that epoch; after a divergence, those before the bad epoch.
      solver: the solver's own state; `Saved` in a fit that was loaded.
      best: the best epoch so far, None without `patience`.
      status: int32 index into `STATUS`; a fit that can go on has 0.
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
    """The state before the first epoch, of `params`, or of those that `init` draws with `fold_in(key, 0)`. Pure."""
    params = initialize(key, model, batch.train, hyper) if params is None else params
    return first_state(model, solver, params, hyper, patience)


def initialize(key: jax.Array, model: Model, ratings: Ratings, hyper: Hyper) -> Params:
    """The initial parameters, keyed as epoch 0."""
    return model.init(jax.random.fold_in(key, 0), ratings, cast_hyper(hyper, ratings.value.dtype))


def first_state(model: Model, solver: Solver, params: Params, hyper: Hyper, patience: int | None) -> FitState:
    """The state before the first epoch, from the initial parameters: 0 beyond the active rank, whoever made them."""
    if hyper.rank is not None:
        params = params._replace(trained=fill_beyond_rank(params.trained, hyper.rank))
    dtype = jnp.result_type(*jax.tree.leaves(params))
    zero = jnp.zeros((), jnp.int32)
    best = None if patience is None else Best(params, jnp.array(missing(dtype), dtype), zero)
    status = zero
    if hyper.rank is not None and (most := width(params.trained)) is not None:
        rank = jnp.asarray(hyper.rank, jnp.int32)
        status = jnp.where((rank >= 1) & (rank <= most), RUNNING, DIVERGED).astype(jnp.int32)
    return FitState(zero, params, solver.init(model, params, cast_hyper(hyper, dtype)), best, status)


def constants(batch: Prepared, hyper: Hyper, draws: bool) -> Constants:
    """What no epoch changes, for a model that `draws` or not; what the batch has, if it is set up."""
    if batch.constants is not None:
        return batch.constants
    train = batch.train
    weight = row_weights(train, hyper.reg_exponent, hyper.unobserved)
    return Constants(weight, batch.solver.setup(train, batch.layout, hyper), seen_of(train) if draws else None)


def result(solver: Solver, state: FitState) -> Params:
    """The parameters that a fit in this state returns: of the best epoch, if it looks for one."""
    return solver.result(state.params, state.solver) if state.best is None else state.best.params


def missing(dtype: Any) -> Any:
    """What stands for a number that is missing: the largest of its dtype, since a healthy program makes no NaN."""
    return (jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo)(dtype).max
