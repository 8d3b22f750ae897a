"""The derivative of the validation loss with respect to the hyperparameters of a fit."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import is_positive
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.ratings import Ratings, padded, to_float64
from jaxmf.models.checks import check_hyper, check_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, bias_l2, cast_hyper
from jaxmf.search.slopes import implicit, unrolled
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import EXTRA, NUMBERS, with_numbers
from jaxmf.training import STATUS, Prepared
from jaxmf.training.checks import check_functions, check_key, check_promised, check_static
from jaxmf.training.options import Options
from jaxmf.training.program import compiled_initialize, run_chunks, set_up
from jaxmf.training.state import first_state

Method = Literal["implicit", "unrolled"]


class Hypergradient(NamedTuple):
    """The result of `hypergradient`.

    Attributes:
      loss: weighted mean validation loss of the fit.
      gradient: name -> derivative of `loss` with respect to that hyperparameter.
      params: the fitted parameters.
      status: how the fit ended, as in `Fit`; after "diverged" the gradient is meaningless.
      epochs: number of epochs of the fit.
      residual: ‖H x − g‖ / ‖g‖ of the linear solve; NaN for "unrolled".
      stationarity: ‖∇L‖ / ‖∇L at the initial parameters‖, which "implicit" assumes to be 0; NaN for "unrolled".
    """

    loss: float
    gradient: dict[str, float]
    params: Params
    status: str
    epochs: int
    residual: float
    stationarity: float


def hypergradient(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings,
    hyper: Hyper | None = None,
    names: Sequence[str] = ("l2",),
    *,
    method: Method = "unrolled",
    epochs: int = 50,
    tol: float = 1e-8,
    params: Params | None = None,
) -> Hypergradient:
    """Fit a model, and differentiate the validation loss V with respect to hyperparameters h of the fit.

    "unrolled" differentiates through all epochs of any solver:

        dV/dh = ∂V/∂θ_T · dθ_T/dh,   θ_t = step(θ_{t−1}, h)

    "implicit" assumes that the parameters are a minimum of the objective L, as ALS finds it, however they were reached:

        dV/dh = −xᵀ ∂²L/∂θ∂h,   H x = ∂V/∂θ,   H = ∂²L/∂θ²

    H is singular along the rotations of the factors, to which ∂V/∂θ and ∂²L/∂θ∂h are orthogonal. So conjugate gradients
    from 0 converge to the solution of least norm. Rows without training ratings are constant, and are left out.

    Args:
      key, model, solver, train: as in `fit`.
      valid: validation ratings over the same users and items.
      hyper: the hyperparameters; `Hyper()` if None.
      names: the hyperparameters to differentiate by: numbers of `Hyper` but `rank`, or `extra.NAME`. `l2_bias` and
        `learning_rate_bias` that are None follow λ and the learning rate unless they are named; then they are
        independent.
      method: "unrolled" or "implicit". Learning rates, momentum and the init scale matter only to "unrolled".
      epochs: number of epochs of the fit. For "implicit" use a solver with a stopping rule, such as `als(tol=1e-6)`,
        and enough epochs.
      tol: conjugate gradients stop at ‖H x − g‖ ≤ tol · ‖g‖, or after 1,000 iterations.
      params: start from these parameters instead of those of `model.init`.

    Returns:
      a Hypergradient.

    Raises:
      ValueError: as `fit`; an unknown name; a derivative that is not finite, as with
        `optax.adam` without `eps_root`.

    Cost: "unrolled" costs two more fits, and memory for the intermediate results of one epoch and for one state per
    epoch, since the backward pass recomputes every epoch. "implicit" costs one forward and backward pass over the
    ratings per iteration of conjugate gradients, in float64 inside `jax.enable_x64(True)`.

    References: Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through reversible
    learning; Pedregosa (2016), Hyperparameter optimization with approximate gradient.
    """
    hyper = Hyper() if hyper is None else hyper
    task = checked(Task(key, model, solver, hyper, names, method, epochs, tol), train, valid)
    return evaluate(task, hyper, params)


class Task(NamedTuple):
    """The arguments of `hypergradient`; `checked` adds the laid-out training ratings, and the validation ratings."""

    key: jax.Array
    model: Model
    solver: Solver
    hyper: Hyper
    names: Sequence[str]
    method: Method
    epochs: int
    tol: float
    batch: Any = None
    valid: Any = None


def values_of(hyper: Hyper, names: Sequence[str]) -> dict[str, float]:
    """Return the values of the named hyperparameters; for one that is None, the value that None stands for."""
    values = hyper._asdict() | {f"{EXTRA}{name}": value for name, value in hyper.extra.items()}
    values["l2_bias"] = bias_l2(hyper)
    if hyper.learning_rate_bias is None:
        values["learning_rate_bias"] = hyper.learning_rate
    return {name: float(values[name]) for name in names}


def checked(task: Task, train: Dataset | Ratings, valid: Dataset | Ratings) -> Task:
    """Make all checks that `fit` makes before it compiles, and return the task with its ratings."""
    key, model, solver, hyper, names, method, epochs, tol, *_ = task
    check_key(key)
    check_static(model, solver, epochs, Options())
    check_hyper(hyper)
    if solver.machine.devices > 1:
        raise ValueError("hypergradient: it runs on one device, so the solver must have devices=1")
    if method not in ("implicit", "unrolled"):
        raise ValueError(f"hypergradient: method must be 'implicit' or 'unrolled', not {method!r}")
    if not is_positive(tol):
        raise ValueError(f"hypergradient: tol must be a positive number, not {tol!r}")
    swept = [name for name in NUMBERS if name != "unobserved" or hyper.unobserved is not None]
    known = [*swept, *(f"{EXTRA}{name}" for name in hyper.extra)]
    if isinstance(names, str) or not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValueError(f"hypergradient: names must be a list of different names of {', '.join(known)}, not {names!r}")
    if model.draw is not None:
        raise ValueError(
            f"hypergradient: the model {model.name!r} draws random numbers (it has a `draw`), which is not "
            "differentiated: use a model without a `draw`"
        )
    ratings, held_out = as_parts(train, valid)
    numbers, train_padded = cast_hyper(hyper, ratings.value.dtype), padded(ratings)
    shape = check_functions(key, model, train_padded, numbers)
    check_rank(hyper, shape)
    solver.check(model, shape, hyper, ratings.context)

    def initialize(ratings: Ratings) -> Params:
        initial: Params = compiled_initialize(model, ratings)(key, ratings, numbers)
        return initial

    check_promised(model, solver, shape, numbers, train_padded, initialize)
    batch = Prepared(train_padded, None, solver.prepare(ratings), solver)
    return task._replace(batch=batch, valid=padded(held_out))


def evaluate(task: Task, hyper: Hyper, params: Params | None) -> Hypergradient:
    """Fit with these hyperparameters, starting from `params` unless it is None, and differentiate."""
    key, model, solver, _, names, method, epochs, tol, batch, valid = task
    dtype = batch.train.value.dtype
    values = jax.tree.map(lambda x: jnp.asarray(x, dtype), values_of(hyper, names))
    numbers = cast_hyper(with_numbers(hyper, values), dtype)
    if method == "unrolled":
        (loss, state), slopes = unrolled(model, solver, epochs)(values, key, batch, valid, numbers, params)
        checks = (jnp.nan, jnp.nan)
    else:
        program, batch, state, _ = set_up(key, model, solver, batch, numbers, Options(track=False))
        initial = state.params.trained
        if params is not None:
            state = first_state(model, solver, params, numbers, None)
        for after, _, _ in run_chunks(key, program, batch, numbers, state, epochs):
            state = after
        with jax.enable_x64(True):
            arguments = to_float64((values, state.params, initial, batch.train, valid, numbers))
            loss, slopes, *checks = implicit(model)(*arguments, tol)
    gradient = {name: float(slope) for name, slope in slopes.items()}
    status, epoch = STATUS[int(state.status)], int(state.epoch)
    infinite = [name for name, slope in gradient.items() if not np.isfinite(slope)]
    if infinite and status != "diverged" and np.isfinite(float(loss)):
        raise ValueError(
            f"hypergradient: the derivative by {infinite[0]} is not finite, though the loss is. A square root has no "
            "derivative at 0, so keep that of the optimizer above 0: "
            "lambda h: optax.adam(h.learning_rate, eps_root=1e-12)"
        )
    return Hypergradient(float(loss), gradient, state.params, status, epoch, *map(float, checks))
