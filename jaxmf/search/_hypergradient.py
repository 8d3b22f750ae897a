"""The derivative of the validation loss with respect to the numbers of a fit, and descent along it."""

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

_RANGES = {"reg_exponent": (0.0, 1.0), "momentum": (0.0, 0.999)}  # descended as they are, all others as logarithms
_LEAP = np.log(3)  # farthest that a line search goes at once: beyond some λ all factors are 0, and so is the slope
_MAX_ITERATIONS = 1000  # of conjugate gradients


class Hypergradient(NamedTuple):
    """What `hypergradient` found.

    Attributes:
      loss: weighted mean validation loss of the fit.
      gradient: name -> derivative of `loss`.
      params: the parameters that were fitted.
      status: how the fit ended, as in `Fit`; "diverged" makes the gradient worthless.
      epochs: that the fit took.
      residual: ‖H x − g‖ / ‖g‖ of the linear solve; NaN for "unrolled".
      stationarity: ‖∇L‖ / ‖∇L at the initial parameters‖, which "implicit" takes for 0; NaN for "unrolled".
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
    """Fit, and differentiate the validation loss V with respect to numbers h of the fit.

    "unrolled" differentiates through all epochs of any solver, as they ran:

        dV/dh = ∂V/∂θ_T · dθ_T/dh,   θ_t = step(θ_{t−1}, h)

    "implicit" takes the parameters as a minimum of the objective L, as ALS finds it, whatever way led there:

        dV/dh = −xᵀ ∂²L/∂θ∂h,   H x = ∂V/∂θ,   H = ∂²L/∂θ²

    H is singular along the rotations of the factors, to which ∂V/∂θ and ∂²L/∂θ∂h are orthogonal: conjugate gradients
    from 0 give the solution of least norm. Rows without training ratings are constant, and left out.

    Args:
      key, model, solver, train: as in `fit`.
      valid: validation ratings over the same users and items.
      hyper: the numbers; `Hyper()` if None.
      names: by which to differentiate: numbers of `Hyper` or `extra.NAME`. λ_b and the biases' learning rate that are
        None are separate numbers as soon as they are named.
      method: "unrolled" or "implicit"; learning rates, momentum and init scale only matter to the first.
      epochs: of the fit; for "implicit" use a solver with a stopping rule, such as `als(tol=1e-6)`, and enough of them.
      tol: where conjugate gradients stop, ‖H x − g‖ ≤ tol · ‖g‖, unless a thousand iterations come first.
      params: start from these instead of `model.init`.

    Returns:
      a Hypergradient.

    Raises:
      ValueError: as `fit`, an unknown name, for "implicit" a `hyper.rank`; a derivative that is not a number, as
        through `optax.adam` without `eps_root`.

    Cost: "unrolled" two fits more, and the memory of one epoch's intermediate results and of one state per epoch, since
    every epoch is recomputed on the way back. "implicit" one pass over the ratings, in both directions, per
    iteration of conjugate gradients, in float64 inside `jax.enable_x64(True)`.

    References: Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through reversible
    learning; Pedregosa (2016), Hyperparameter optimization with approximate gradient.
    """
    hyper = Hyper() if hyper is None else hyper
    task = checked(Task(key, model, solver, hyper, names, method, epochs, tol), train, valid)
    return evaluate(task, hyper, params)


class Task(NamedTuple):
    """What is differentiated, as in `hypergradient`; `checked` adds the training ratings laid out, and `valid`."""

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
    """The named numbers as they are; λ_b and the biases' learning rate as what None means."""
    meant = hyper._asdict() | {f"{EXTRA}{name}": value for name, value in hyper.extra.items()}
    meant["l2_bias"] = bias_l2(hyper)
    if hyper.learning_rate_bias is None:
        meant["learning_rate_bias"] = hyper.learning_rate
    return {name: float(meant[name]) for name in names}


def checked(task: Task, train: Dataset | Ratings, valid: Dataset | Ratings) -> Task:
    """The task with its ratings, after all that `fit` checks before it compiles."""
    key, model, solver, hyper, names, method, epochs, tol, *_ = task
    check_key(key)
    check_static(model, solver, epochs, Options())
    check_hyper(hyper)
    if solver.machine.devices > 1:
        raise ValueError("hypergradient: it differentiates on one device, so the solver must have devices=1")
    if method not in ("implicit", "unrolled"):
        raise ValueError(f"hypergradient: method must be 'implicit' or 'unrolled', not {method!r}")
    if not is_positive(tol):
        raise ValueError(f"hypergradient: tol must be a positive number, not {tol!r}")
    swept = [name for name in NUMBERS if name != "unobserved" or hyper.unobserved is not None]
    known = [*swept, *(f"{EXTRA}{name}" for name in hyper.extra)]
    if isinstance(names, str) or not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValueError(f"hypergradient: names must be different ones of {', '.join(known)}, not {names!r}")
    if method == "implicit" and hyper.rank is not None:
        raise ValueError("hypergradient: implicit takes no hyper.rank: give the model that width, model.with_rank(...)")
    if model.draw is not None:
        raise ValueError(f"hypergradient: the model {model.name!r} draws (it has a `draw`), which it does not follow")
    ratings, held_out = as_parts(train, valid)
    numbers, whole = cast_hyper(hyper, ratings.value.dtype), padded(ratings)
    shape = check_functions(key, model, whole, numbers)
    check_rank(hyper, shape)
    solver.check(model, shape, hyper, ratings.context)
    check_promised(model, solver, shape, numbers, whole, lambda own: compiled_initialize(model, own)(key, own, numbers))
    batch = Prepared(whole, None, solver.prepare(ratings), solver)
    return task._replace(batch=batch, valid=padded(held_out))


def evaluate(task: Task, hyper: Hyper, params: Params | None) -> Hypergradient:
    """Fit with these numbers, from these parameters if they are given, and differentiate."""
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
    wrong = [name for name, slope in gradient.items() if not np.isfinite(slope)]
    if wrong and status != "diverged" and np.isfinite(float(loss)):
        raise ValueError(
            f"hypergradient: the derivative by {wrong[0]} is not a number, though the loss is. An optimizer that "
            "divides by a root needs one that is not 0: lambda h: optax.adam(h.learning_rate, eps_root=1e-12)"
        )
    return Hypergradient(float(loss), gradient, state.params, status, epoch, *map(float, checks))
