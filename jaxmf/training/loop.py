"""The training loop: a whole fit as one pure function."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf import metrics
from jaxmf.data.ratings import Ratings
from jaxmf.models._objective import beside, drawn
from jaxmf.models.checks import check_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.solvers.solver import Problem, Solver
from jaxmf.training._watched import Watched, ranking
from jaxmf.training.checks import check_batch, check_static, explained
from jaxmf.training.options import Monitor, Options, column_of, cost_sign, for_model, ranking_of
from jaxmf.training.state import (
    CONVERGED,
    DIVERGED,
    RUNNING,
    STOPPED_EARLY,
    Best,
    FitState,
    Prepared,
    constants,
    initialize,
    missing,
    start,
)

_HISTORY_SEED = 0  # for a model that draws: seed of the one draw on which the losses of a history are measured


def make_fit(
    model: Model,
    solver: Solver,
    epochs: int,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor | None = None,
    track: bool = True,
) -> Callable[..., tuple[FitState, dict[str, jax.Array]]]:
    """Return a whole fit as one pure function; all arguments of `make_fit` are static.

    Args:
      model: the model.
      solver: the solver.
      epochs: number of epochs per run. Each epoch has the key `fold_in(key, epoch)`, so a fit split into several runs
        gives the same bits.
      patience: stop after this many epochs without an improvement on validation, and keep the best parameters; None
        runs all epochs and keeps the last parameters.
      min_delta: the monitored score must improve by more than this to count as an improvement.
      monitor: the score on the validation ratings that tells which epoch is best, recorded every epoch. "loss", the
        weighted mean loss, "rmse" and "mae", or a function `(params, ratings) -> scalar`: lower is better. "ndcg",
        "recall", "map" at 10 positions (or k, as in "ndcg@20") and "auc": higher is better; these rank all items
        without training weight for a fixed sample of up to 200 users, and count each validation rating above 0 as
        relevant. The default is "loss", or "ndcg" for a model of preferences, whose loss is no guide to what to
        recommend.
      track: also record the training loss and the objective every epoch, which costs one pass over the ratings.

    Returns:
      `run(key, batch, hyper, state=None, num_epochs=None) -> (FitState, history)`, with `batch` from `prepare`. It can
      be jitted, vmapped, differentiated, lowered and exported. `state` continues an earlier run under the same key;
      `training.start(key, model, solver, batch, hyper, patience, params)` makes one that starts from given parameters.
      `num_epochs` (traced, default all) runs fewer epochs. `history` maps names to arrays (epochs,); where no epoch
      ran, `epoch` is 0 and the others hold the largest number of their dtype, since a healthy program makes no NaN.
      If a traced number is one that `fit` would refuse, such as a rank beyond the width, or λ ≤ 0 for `als`, the status
      is `diverged`.

    Raises:
      ValueError: a static argument is out of range; when `run` is called: `patience` without validation ratings, a
        batch that `prepare` made for a solver of another layout, a rank beyond the model's width, or a model whose
        functions fail or return wrong shapes.

    The promises that the solver relies on (`Solver.promises`) are not tried here, since no values are known inside
    `jit`. `fit` tries them: call it once with a model of your own.
    """
    options = Options(patience, min_delta, monitor, track)
    check_static(model, solver, epochs, options)
    # A NumPy number would promote the dtype of the score.
    options = for_model(options, model)._replace(min_delta=float(min_delta))

    def run(
        key: jax.Array,
        batch: Prepared,
        hyper: Hyper,
        state: FitState | None = None,
        num_epochs: jax.typing.ArrayLike | None = None,
    ) -> tuple[FitState, dict[str, jax.Array]]:
        check_batch(batch, solver, patience)
        with explained(key, model, batch.train, hyper):
            return _scan(*_set_up(key, model, solver, options, batch, hyper, state), epochs, num_epochs)

    return run


class _Run(NamedTuple):
    """What all epochs of a run read. The losses of the history are measured on `train` and `valid`; if the model draws,
    these hold the same draw in every epoch.
    """

    key: jax.Array
    model: Model
    solver: Solver
    options: Options
    hyper: Hyper
    problem: Problem
    train: Ratings
    valid: Ratings | None
    watched: Watched | None


def _set_up(
    key: jax.Array,
    model: Model,
    solver: Solver,
    options: Options,
    batch: Prepared,
    hyper: Hyper,
    state: FitState | None,
) -> tuple[_Run, FitState]:
    """Return what all epochs read, and the state before the first one."""
    uncast, hyper = hyper, cast_hyper(hyper, batch.train.value.dtype)
    if uncast.rank is not None:
        shape = jax.eval_shape(lambda: initialize(key, model, batch.train, hyper)) if state is None else state.params
        check_rank(uncast, shape)
    if state is None:
        state = start(key, model, solver, batch, hyper, options.patience)
    of_run = constants(batch, hyper, model.draw is not None, ranking_of(options.monitor) is not None)
    problem = Problem(batch.train, of_run.weight, of_run.solver, of_run.seen)
    train, valid = batch.train, batch.valid
    if model.draw is not None:
        draw = partial(drawn, jax.random.key(_HISTORY_SEED), model, seen=problem.seen)
        train, valid = draw(train), None if valid is None else draw(valid)
    return _Run(key, model, solver, options, hyper, problem, train, valid, of_run.watched), state


def _scan(
    fit: _Run, state: FitState, epochs: int, num_epochs: jax.typing.ArrayLike | None
) -> tuple[FitState, dict[str, jax.Array]]:
    """Scan over the epochs; those after `num_epochs`, and those after the fit has ended, change nothing."""
    epoch, blank = partial(_epoch, fit), _blank(fit, state)

    def skip(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
        return state, blank

    def run_unless_ended(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
        outcome: tuple[FitState, dict[str, jax.Array]] = jax.lax.cond(state.status == RUNNING, epoch, skip, state)
        return outcome

    def body(state: FitState, index: jax.Array) -> tuple[FitState, dict[str, jax.Array]]:
        if num_epochs is None:
            return run_unless_ended(state)
        # Under vmap the status differs between members, but this condition is the same for all of them. So it is a
        # separate `cond`, which then skips these epochs instead of computing both branches.
        outcome: tuple[FitState, dict[str, jax.Array]] = jax.lax.cond(index < num_epochs, run_unless_ended, skip, state)
        return outcome

    return jax.lax.scan(body, state, jnp.arange(epochs))


def _epoch(fit: _Run, state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
    """Run one epoch; return the state after it, and its row of the history."""
    epoch, options = state.epoch + 1, fit.options
    # The mathematics is in `step` of the solver: see solvers/_als.py, _sgd.py or _minibatch.py.
    params, inner, info = fit.solver.step(
        jax.random.fold_in(fit.key, epoch), fit.model, state.params, state.solver, fit.problem, fit.hyper
    )
    reported = fit.solver.result(params, inner)
    row = _measure(fit, reported)
    finite = jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves((params.trained, row))))
    best, status = state.best, jnp.where(info.converged, CONVERGED, RUNNING)
    if best is not None:
        column = column_of(options.monitor)
        score = cost_sign(column) * row[column]
        improved = finite & ((best.epoch == 0) | (score < best.score - options.min_delta))
        best = _either(improved, Best(reported, score, epoch), best)
        status = jnp.where(epoch - best.epoch >= options.patience, STOPPED_EARLY, status)
    after = FitState(epoch, params, inner, best, status.astype(jnp.int32))
    halted = state._replace(status=jnp.full_like(state.status, DIVERGED))
    return _either(finite, after, halted), {"epoch": epoch, **row}


def _measure(fit: _Run, params: Params) -> dict[str, jax.Array]:
    """Return a row of the history: the losses and errors of these parameters."""
    model, train, valid, row = fit.model, fit.train, fit.valid, {}
    if fit.options.track:
        sums, means = metrics.weighted_sums(train.weight, model.loss(params, train))
        row["train_loss"] = means[0]
        row["objective"] = sums[0] + beside(model, params, fit.problem.weight, fit.hyper)
    if valid is not None:
        measured = [model.loss(params, valid)]
        if model.predicts == "rating":
            error = valid.value - model.predict(params, valid)
            measured += [error**2, jnp.abs(error)]
        _, means = metrics.weighted_sums(valid.weight, *measured)
        row["valid_loss"] = means[0]
        if model.predicts == "rating":
            row["valid_rmse"], row["valid_mae"] = jnp.sqrt(means[1]), means[2]
        if callable(fit.options.monitor):
            row["monitor"] = fit.options.monitor(params, valid)
        if fit.watched is not None and (measure := ranking_of(fit.options.monitor)) is not None:
            row[column_of(fit.options.monitor)] = ranking(model, params, fit.watched, *measure)
    return {name: jnp.asarray(number, train.value.dtype) for name, number in row.items()}


def _blank(fit: _Run, state: FitState) -> dict[str, jax.Array]:
    """Return the row of an epoch that does not run. Its names are listed here, so that `_measure` is traced once."""
    dtype, names = fit.train.value.dtype, []
    if fit.options.track:
        names += ["train_loss", "objective"]
    if fit.valid is not None:
        names += ["valid_loss", *(["valid_rmse", "valid_mae"] if fit.model.predicts == "rating" else [])]
    if callable(fit.options.monitor) or fit.watched is not None:
        names += [column_of(fit.options.monitor)]
    return {"epoch": jnp.zeros_like(state.epoch)} | dict.fromkeys(names, jnp.full((), missing(dtype), dtype))


def _either(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return one of two trees, by `cond`, since selecting leaf by leaf would take one kernel per leaf."""
    return jax.lax.cond(condition, lambda: new, lambda: old)
