"""The one training loop: a whole fit as a pure function."""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf import metrics
from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.ratings import Ratings
from jaxmf.models.checks import check_model
from jaxmf.models.leaves import fill_beyond_rank, width
from jaxmf.models.model import Hyper, Model, Params, Rows, beside, cast_hyper, drawn, row_weights
from jaxmf.models.seen import Seen, seen_of
from jaxmf.solvers.solver import Problem, Solver
from jaxmf.training.checks import check_rank, explained

RUNNING, CONVERGED, STOPPED_EARLY, DIVERGED = range(4)
STATUS = ("completed", "converged", "stopped_early", "diverged")

_DRAW = 0  # seed of what a history's losses are of, for a model that draws

Monitor = str | Callable[[Params, Ratings], jax.Array]


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
    check_static(model, solver, epochs, patience, min_delta, monitor)
    min_delta = float(min_delta)  # a number of NumPy would promote what it is compared with
    monitored = "monitor" if callable(monitor) else f"valid_{monitor}"

    def measure(params: Params, problem: Problem, valid: Ratings | None, hyper: Hyper) -> dict[str, jax.Array]:
        row = {}
        if track:
            train = problem.ratings
            sums, means = metrics.weighted_sums(train.weight, model.loss(params, train))
            row["train_loss"] = means[0]
            row["objective"] = sums[0] + beside(model, params, problem.weight, hyper)
        if valid is not None:
            error = valid.value - model.predict(params, valid)
            _, means = metrics.weighted_sums(valid.weight, model.loss(params, valid), error**2, jnp.abs(error))
            row["valid_loss"], row["valid_rmse"], row["valid_mae"] = means[0], jnp.sqrt(means[1]), means[2]
            if callable(monitor):
                row["monitor"] = monitor(params, valid)
        return {name: jnp.asarray(number, problem.ratings.value.dtype) for name, number in row.items()}

    def run(
        key: jax.Array,
        batch: Prepared,
        hyper: Hyper,
        state: FitState | None = None,
        num_epochs: jax.typing.ArrayLike | None = None,
    ) -> tuple[FitState, dict[str, jax.Array]]:
        check_batch(batch, solver, patience)
        with explained(key, model, batch.train, hyper):
            return epochs_of(key, batch, hyper, state, num_epochs)

    def epochs_of(
        key: jax.Array,
        batch: Prepared,
        hyper: Hyper,
        state: FitState | None,
        num_epochs: jax.typing.ArrayLike | None,
    ) -> tuple[FitState, dict[str, jax.Array]]:
        given, hyper = hyper, cast_hyper(hyper, batch.train.value.dtype)
        if given.rank is not None:
            made = jax.eval_shape(lambda: initialize(key, model, batch.train, hyper)) if state is None else state.params
            check_rank(given, made)
        if state is None:
            state = start(key, model, solver, batch, hyper, patience)
        fixed = constants(batch, hyper, model.draw is not None)
        problem = Problem(batch.train, fixed.weight, fixed.solver, fixed.seen)
        shown, valid = problem, batch.valid
        if model.draw is not None:
            draw = partial(drawn, jax.random.key(_DRAW), model, seen=problem.seen)
            shown, valid = problem._replace(ratings=draw(batch.train)), None if valid is None else draw(valid)

        def advance(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
            epoch = state.epoch + 1
            # The mathematics: `step` of solvers/als.py, sgd.py or minibatch.py.
            params, inner, info = solver.step(
                jax.random.fold_in(key, epoch), model, state.params, state.solver, problem, hyper
            )
            reported = solver.result(params, inner)
            row = measure(reported, shown, valid, hyper)
            finite = jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves((params.trained, row))))
            best, status = state.best, jnp.where(info.converged, CONVERGED, RUNNING)
            if best is not None:
                score = row[monitored]
                improved = finite & ((best.epoch == 0) | (score < best.score - min_delta))
                best = _either(improved, Best(reported, score, epoch), best)
                status = jnp.where(epoch - best.epoch >= patience, STOPPED_EARLY, status)
            after = FitState(epoch, params, inner, best, status.astype(jnp.int32))
            halted = state._replace(status=jnp.full_like(state.status, DIVERGED))
            return _either(finite, after, halted), {"epoch": epoch, **row}

        # The names are known, so that `measure` is not traced once more for them.
        names = ("train_loss", "objective") * track + ("valid_loss", "valid_rmse", "valid_mae") * (valid is not None)
        dtype = batch.train.value.dtype
        none = jnp.full((), _largest(dtype), dtype)
        blank = {"epoch": jnp.zeros_like(state.epoch)} | dict.fromkeys((*names, *["monitor"] * callable(monitor)), none)

        def rest(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
            return state, blank

        def body(state: FitState, index: jax.Array) -> tuple[FitState, dict[str, jax.Array]]:
            def live(state: FitState) -> tuple[FitState, dict[str, jax.Array]]:
                return jax.lax.cond(state.status == RUNNING, advance, rest, state)

            # A condition of its own: under vmap it is the same for all members, which then skip these epochs, while
            # their status differs.
            return live(state) if num_epochs is None else jax.lax.cond(index < num_epochs, live, rest, state)

        return jax.lax.scan(body, state, jnp.arange(epochs))

    return run


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
    best = None if patience is None else Best(params, jnp.array(_largest(dtype), dtype), zero)
    status = zero
    if hyper.rank is not None and (most := width(params.trained)) is not None:
        rank = jnp.asarray(hyper.rank, jnp.int32)
        status = jnp.where((rank >= 1) & (rank <= most), RUNNING, DIVERGED).astype(jnp.int32)
    return FitState(zero, params, solver.init(model, params, cast_hyper(hyper, dtype)), best, status)


def _largest(dtype: Any) -> Any:
    """What stands for a number that is not there: the largest of its dtype."""
    return (jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo)(dtype).max


def _either(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees: by a condition, since selecting leaf by leaf would take a kernel for each."""
    return jax.lax.cond(condition, lambda: new, lambda: old)


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


def check_solver(solver: Solver) -> None:
    """ValueError unless it is a Solver."""
    expect(solver, Solver, "solver", "call the constructor, as in solvers.als() or solvers.minibatch(optax.adam)")


def check_static(
    model: Model, solver: Solver, epochs: int, patience: int | None, min_delta: float, monitor: Monitor
) -> None:
    """ValueError naming the first static choice that is of another type or out of range."""
    check_model(model)
    check_solver(solver)
    if not is_positive_integer(epochs):
        raise ValueError(f"epochs must be a positive integer, not {epochs!r}")
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
