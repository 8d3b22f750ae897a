"""The one training loop: a whole fit as a pure function."""

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
from jaxmf.training.checks import check_batch, check_static, explained
from jaxmf.training.options import Monitor, Options
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

_DRAW = 0  # seed of what a history's losses are of, for a model that draws


def make_fit(
    model: Model,
    solver: Solver,
    epochs: int,
    patience: int | None = None,
    min_delta: float = 0.0,
    monitor: Monitor = "loss",
    track: bool = True,
) -> Callable[..., tuple[FitState, dict[str, jax.Array]]]:
    """A whole fit as one pure function; everything given here is static.

    Args:
      model: the model.
      solver: the solver.
      epochs: epochs per run; an epoch is keyed by `fold_in(key, epoch)`, so that where a fit is cut changes nothing.
      patience: stop after this many epochs without an improvement on validation, and keep the best parameters; None
        runs all epochs and keeps the last.
      min_delta: what counts as an improvement: the monitored score falls by more than this.
      monitor: "loss" (weighted mean validation loss), "rmse", "mae", or a function `(params, ratings) -> scalar` of the
        validation ratings, lower being better.
      track: also record the training loss and the objective every epoch, which costs one pass over the ratings.

    Returns:
      `run(key, batch, hyper, state=None, num_epochs=None) -> (FitState, history)`, for `batch` from `prepare`. It can
      be jitted, vmapped, differentiated, lowered and exported. `state` continues an earlier run under the same key;
      `training.start(key, model, solver, batch, hyper, patience, params)` makes one that starts from given parameters.
      `num_epochs` (traced, default all) runs fewer epochs. `history` maps names to arrays (epochs,); where no epoch
      ran, `epoch` is 0 and the others hold the largest number of their dtype, since a healthy program makes no NaN.
      Where a traced number is one that `fit` would refuse, as a rank beyond the width or λ ≤ 0 of `als`, the status is
      `diverged`.

    Raises:
      ValueError: a static choice is out of range; at the call, `patience` without validation ratings, a batch that
        `prepare` made for a solver of another layout, a rank beyond the model's width, or a model whose functions fail
        or return other shapes than they should.

    What the solver relies on (`Solver.promises`) is not tried here, since nothing can be looked at inside `jit`: run
    `fit` with a model of your own once, which does.
    """
    options = Options(patience, min_delta, monitor, track)
    check_static(model, solver, epochs, options)
    options = options._replace(min_delta=float(min_delta))  # a number of NumPy would promote what it is compared with

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
    """What all epochs of a run read. The losses of the history are those of `shown` and `valid`: of a model that draws,
    the same draw in every epoch.
    """

    key: jax.Array
    model: Model
    solver: Solver
    options: Options
    hyper: Hyper
    problem: Problem
    shown: Ratings
    valid: Ratings | None


def _set_up(
    key: jax.Array,
    model: Model,
    solver: Solver,
    options: Options,
    batch: Prepared,
    hyper: Hyper,
    state: FitState | None,
) -> tuple[_Run, FitState]:
    """What all epochs read, and the state before the first."""
    given, hyper = hyper, cast_hyper(hyper, batch.train.value.dtype)
    if given.rank is not None:
        made = jax.eval_shape(lambda: initialize(key, model, batch.train, hyper)) if state is None else state.params
        check_rank(given, made)
    if state is None:
        state = start(key, model, solver, batch, hyper, options.patience)
    fixed = constants(batch, hyper, model.draw is not None)
    problem = Problem(batch.train, fixed.weight, fixed.solver, fixed.seen)
    shown, valid = batch.train, batch.valid
    if model.draw is not None:
        draw = partial(drawn, jax.random.key(_DRAW), model, seen=problem.seen)
        shown, valid = draw(shown), None if valid is None else draw(valid)
    return _Run(key, model, solver, options, hyper, problem, shown, valid), state


def _scan(
    fit: _Run, state: FitState, epochs: int, num_epochs: jax.typing.ArrayLike | None
) -> tuple[FitState, dict[str, jax.Array]]:
    """The epochs, of which those after `num_epochs`, and those after the fit has ended, change nothing."""
    epoch, blank = partial(_epoch, fit), _blank(fit, state)

    def rest(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
        return state, blank

    def live(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
        return jax.lax.cond(state.status == RUNNING, epoch, rest, state)

    def body(state: FitState, index: jax.Array) -> tuple[FitState, dict[str, jax.Array]]:
        # A condition of its own: under vmap it is the same for all members, which then skip these epochs, while
        # their status differs.
        return live(state) if num_epochs is None else jax.lax.cond(index < num_epochs, live, rest, state)

    return jax.lax.scan(body, state, jnp.arange(epochs))


def _epoch(fit: _Run, state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
    """One epoch, and its row of the history."""
    epoch, options = state.epoch + 1, fit.options
    # The mathematics: `step` of the solver, in solvers/_als.py, _sgd.py or _minibatch.py.
    params, inner, info = fit.solver.step(
        jax.random.fold_in(fit.key, epoch), fit.model, state.params, state.solver, fit.problem, fit.hyper
    )
    reported = fit.solver.result(params, inner)
    row = _measure(fit, reported)
    finite = jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves((params.trained, row))))
    best, status = state.best, jnp.where(info.converged, CONVERGED, RUNNING)
    if best is not None:
        score = row["monitor" if callable(options.monitor) else f"valid_{options.monitor}"]
        improved = finite & ((best.epoch == 0) | (score < best.score - options.min_delta))
        best = _either(improved, Best(reported, score, epoch), best)
        status = jnp.where(epoch - best.epoch >= options.patience, STOPPED_EARLY, status)
    after = FitState(epoch, params, inner, best, status.astype(jnp.int32))
    halted = state._replace(status=jnp.full_like(state.status, DIVERGED))
    return _either(finite, after, halted), {"epoch": epoch, **row}


def _measure(fit: _Run, params: Params) -> dict[str, jax.Array]:
    """A row of the history: losses and errors of these parameters."""
    model, train, valid, row = fit.model, fit.shown, fit.valid, {}
    if fit.options.track:
        sums, means = metrics.weighted_sums(train.weight, model.loss(params, train))
        row["train_loss"] = means[0]
        row["objective"] = sums[0] + beside(model, params, fit.problem.weight, fit.hyper)
    if valid is not None:
        error = valid.value - model.predict(params, valid)
        _, means = metrics.weighted_sums(valid.weight, model.loss(params, valid), error**2, jnp.abs(error))
        row["valid_loss"], row["valid_rmse"], row["valid_mae"] = means[0], jnp.sqrt(means[1]), means[2]
        if callable(fit.options.monitor):
            row["monitor"] = fit.options.monitor(params, valid)
    return {name: jnp.asarray(number, train.value.dtype) for name, number in row.items()}


def _blank(fit: _Run, state: FitState) -> dict[str, jax.Array]:
    """The row of an epoch that does not run. Its names are known, so that `_measure` is not traced once more."""
    dtype, names = fit.shown.value.dtype, []
    if fit.options.track:
        names += ["train_loss", "objective"]
    if fit.valid is not None:
        names += ["valid_loss", "valid_rmse", "valid_mae"]
    if callable(fit.options.monitor):
        names += ["monitor"]
    return {"epoch": jnp.zeros_like(state.epoch)} | dict.fromkeys(names, jnp.full((), missing(dtype), dtype))


def _either(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees: by a condition, since selecting leaf by leaf would take a kernel for each."""
    return jax.lax.cond(condition, lambda: new, lambda: old)
