"""Descend the validation loss along its hypergradient."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params
from jaxmf.search._hypergradient import Hypergradient, Method, Task, checked, evaluate, values_of
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import with_numbers
from jaxmf.training.program import progress_bar

_RANGES = {"reg_exponent": (0.0, 1.0), "momentum": (0.0, 0.999)}  # these descend as they are, all others as logarithms
# A line search may not step farther than this at once: beyond some λ all factors are 0, and then so is the slope.
_MAX_STEP = np.log(3)


class Descent(NamedTuple):
    """The result of `descend`.

    Attributes:
      hyper: the hyperparameters with the lowest validation loss of all that were tried.
      params: the parameters fitted with them.
      loss: their weighted mean validation loss.
      table: one row per evaluation: `evaluation`, the named hyperparameters, `valid_loss`, the derivative by each of
        them as `d_NAME`, `status`, `residual`, `stationarity`, `epochs` and `dtype`.
    """

    hyper: Hyper
    params: Params
    loss: float
    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return the table, one row per evaluation."""
        return self.table


def descend(
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
    tol: float = 1e-4,
    max_evaluations: int = 30,
    progress: bool = False,
) -> Descent:
    """Tune hyperparameters of a fit by descending the validation loss along its hypergradient (L-BFGS-B).

    The search is over the logarithms of the hyperparameters, by at most a factor 3 at once; `reg_exponent` and
    `momentum` are not transformed, and stay in [0, 1] and [0, 0.999]. With "implicit" each fit starts from the
    parameters of the best fit so far, which saves epochs; with "unrolled" each fit starts from `model.init`.

    Args:
      key, model, solver, train, valid, names, epochs, tol: as in `hypergradient`.
      method: as in `hypergradient`. "unrolled" differentiates exactly the loss that is evaluated; "implicit" needs fits
        that converge, or else the line search ends early.
      hyper: where to start; the named hyperparameters must be positive.
      max_evaluations: maximum number of fits.
      progress: show a progress bar on standard error.

    Returns:
      a Descent, with the best evaluation, and a table of all evaluations.

    Raises:
      ValueError: as `hypergradient`; a start without a logarithm, since it is not positive; a number out of range; or
        every fit diverged.

    Reference: Byrd, Lu, Nocedal and Zhu (1995), A limited memory algorithm for bound constrained optimization.
    """
    hyper = Hyper() if hyper is None else hyper
    task = checked(Task(key, model, solver, hyper, names, method, epochs, tol), train, valid)
    if not is_positive_integer(max_evaluations):
        raise ValueError(f"descend: max_evaluations must be a positive integer, not {max_evaluations!r}")
    initial = values_of(hyper, names)
    for name, value in initial.items():
        if name not in _RANGES and not value > 0:
            raise ValueError(f"descend: {name} must be positive to start from, not {value!r}: its logarithm is tuned")
    x = np.array([value if name in _RANGES else np.log(value) for name, value in initial.items()])
    # Smaller relative decreases are rounding errors of the loss.
    options = {"ftol": 10 * float(jnp.finfo(task.batch.train.value.dtype).eps)}
    rows: list[dict[str, Any]] = []
    best: list[tuple[Hyper, Hypergradient]] = []  # at most one
    with progress_bar(max_evaluations, progress, "fit") as bar, suppress(_EnoughError):
        loss_and_slope = _recorded(task, max_evaluations, rows, best, bar)
        while True:
            box = [_RANGES.get(name, (c - _MAX_STEP, c + _MAX_STEP)) for name, c in zip(names, x, strict=True)]
            result = minimize(loss_and_slope, x, jac=True, method="L-BFGS-B", bounds=box, options=options)
            at_edge = [name not in _RANGES for name in names] & (np.abs(result.x - x) > 0.99 * _MAX_STEP)
            if not at_edge.any():
                break
            x = result.x
    if not best:
        raise ValueError(f"descend: every fit diverged, from {initial} on: try {solver.remedy}")
    tuned, lowest = best[0]
    return Descent(tuned, lowest.params, lowest.loss, pd.DataFrame(rows))


class _EnoughError(Exception):
    """The maximum number of evaluations has been reached."""


def _recorded(
    task: Task, max_evaluations: int, rows: list[dict[str, Any]], best: list[tuple[Hyper, Hypergradient]], bar: Any
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return the function that SciPy minimizes, which returns loss and gradient.

    It appends each evaluation to `rows`, and keeps the one with the lowest loss in `best`.
    """

    @cache
    def loss_and_slope(x: tuple[float, ...]) -> tuple[float, np.ndarray]:
        if len(rows) == max_evaluations:
            raise _EnoughError
        values = {name: float(v if name in _RANGES else np.exp(v)) for name, v in zip(task.names, x, strict=True)}
        trial = with_numbers(task.hyper, values)
        result = evaluate(task, trial, best[0][1].params if best and task.method == "implicit" else None)
        slopes = np.array([result.gradient[name] for name in task.names])
        usable = bool(result.status != "diverged" and np.isfinite([result.loss, *slopes]).all())
        rows.append(
            {"evaluation": len(rows), **values, "valid_loss": result.loss}
            | {f"d_{name}": slope for name, slope in result.gradient.items()}
            | {"status": result.status, "epochs": result.epochs, "residual": result.residual}
            | {"stationarity": result.stationarity, "dtype": str(task.batch.train.value.dtype)}
        )
        bar.update()
        if not usable:  # a loss so high that the line search turns back
            return 10 * abs(rows[0]["valid_loss"]) + 1, np.zeros(len(x))
        if not best or result.loss < best[0][1].loss:
            best[:] = [(trial, result)]
        return result.loss, slopes * [1.0 if name in _RANGES else values[name] for name in task.names]

    return lambda x: loss_and_slope(tuple(x.tolist()))
