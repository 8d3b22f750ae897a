"""Descent of the validation loss along the hypergradient."""

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

_RANGES = {"reg_exponent": (0.0, 1.0), "momentum": (0.0, 0.999)}  # descended as they are, all others as logarithms
_LEAP = np.log(3)  # farthest that a line search goes at once: beyond some λ all factors are 0, and so is the slope


class Descent(NamedTuple):
    """What `descend` found.

    Attributes:
      hyper: the numbers with the lowest validation loss of all that were tried.
      params: the parameters fitted with them.
      loss: their weighted mean validation loss.
      table: one row per evaluation: `evaluation`, the numbers, `valid_loss`, the derivative by each as `d_NAME`,
        `status`, `residual`, `stationarity`, `epochs` and `dtype`.
    """

    hyper: Hyper
    params: Params
    loss: float
    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """The table, one row per evaluation."""
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
    """Tune numbers of a fit by descending the validation loss along its hypergradient (L-BFGS-B).

    The logarithms of the numbers descend, at most by a factor 3 at once; `reg_exponent` and `momentum` as they are, in
    [0, 1] and [0, 0.999]. With "implicit" each fit starts from the parameters of the best one so far, which costs few
    epochs; with "unrolled" each starts anew.

    Args:
      key, model, solver, train, valid, names, epochs, tol: as in `hypergradient`.
      method: as there. "unrolled" descends exactly what is evaluated; "implicit" needs fits that converge, or its line
        search turns back early.
      hyper: where to start; the named numbers must be positive.
      max_evaluations: most fits.
      progress: show a progress bar on standard error.

    Returns:
      a Descent: the best evaluation, and the table of all.

    Raises:
      ValueError: as `hypergradient`; a start of 0, which has no logarithm, or a number out of range.

    Reference: Byrd, Lu, Nocedal and Zhu (1995), A limited memory algorithm for bound constrained optimization.
    """
    hyper = Hyper() if hyper is None else hyper
    task = checked(Task(key, model, solver, hyper, names, method, epochs, tol), train, valid)
    if not is_positive_integer(max_evaluations):
        raise ValueError(f"descend: max_evaluations must be a positive integer, not {max_evaluations!r}")
    first = values_of(hyper, names)
    for name, value in first.items():
        if name not in _RANGES and not value > 0:
            raise ValueError(f"descend: {name} must be positive to start from, not {value!r}: its logarithm descends")
    x = np.array([value if name in _RANGES else np.log(value) for name, value in first.items()])
    options = {"ftol": 10 * float(jnp.finfo(task.batch.train.value.dtype).eps)}  # less is the loss's rounding
    rows: list[dict[str, Any]] = []
    best: list[tuple[Hyper, Hypergradient]] = []  # at most one
    with progress_bar(max_evaluations, progress, "fit") as bar, suppress(_EnoughError):
        loss_and_slope = _noted(task, max_evaluations, rows, best, bar)
        while True:
            box = [_RANGES.get(name, (centre - _LEAP, centre + _LEAP)) for name, centre in zip(names, x, strict=True)]
            found = minimize(loss_and_slope, x, jac=True, method="L-BFGS-B", bounds=box, options=options)
            at_edge = [name not in _RANGES for name in names] & (np.abs(found.x - x) > 0.99 * _LEAP)
            if not at_edge.any():
                break
            x = found.x
    if not best:
        raise ValueError(f"descend: every fit diverged, from {first} on: try {solver.remedy}")
    tuned, lowest = best[0]
    return Descent(tuned, lowest.params, lowest.loss, pd.DataFrame(rows))


class _EnoughError(Exception):
    """As many evaluations as are allowed."""


def _noted(
    task: Task, most: int, rows: list[dict[str, Any]], best: list[tuple[Hyper, Hypergradient]], bar: Any
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The validation loss and its slope as SciPy asks for them, each noted in `rows`, the best in `best`."""

    @cache
    def evaluated(x: tuple[float, ...]) -> tuple[float, np.ndarray]:
        if len(rows) == most:
            raise _EnoughError
        values = {name: float(v if name in _RANGES else np.exp(v)) for name, v in zip(task.names, x, strict=True)}
        trial = with_numbers(task.hyper, values)
        found = evaluate(task, trial, best[0][1].params if best and task.method == "implicit" else None)
        slopes = np.array([found.gradient[name] for name in task.names])
        usable = bool(found.status != "diverged" and np.isfinite([found.loss, *slopes]).all())
        rows.append(
            {"evaluation": len(rows), **values, "valid_loss": found.loss}
            | {f"d_{name}": slope for name, slope in found.gradient.items()}
            | {"status": found.status, "epochs": found.epochs, "residual": found.residual}
            | {"stationarity": found.stationarity, "dtype": str(task.batch.train.value.dtype)}
        )
        bar.update()
        if not usable:  # a wall, from which the line search turns back
            return 10 * abs(rows[0]["valid_loss"]) + 1, np.zeros(len(x))
        if not best or found.loss < best[0][1].loss:
            best[:] = [(trial, found)]
        return found.loss, slopes * [1.0 if name in _RANGES else values[name] for name in task.names]

    return lambda x: evaluated(tuple(x.tolist()))
