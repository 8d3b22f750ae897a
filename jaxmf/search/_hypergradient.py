"""The derivative of the validation loss with respect to the numbers of a fit, and descent along it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.sparse.linalg import cg
from scipy.optimize import minimize

from jaxmf.data.checks import is_positive, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_parts
from jaxmf.data.ratings import Ratings, padded, to_float64
from jaxmf.kernels.programs import jit, of_model
from jaxmf.kernels.xla import here
from jaxmf.models.checks import check_hyper, check_rank
from jaxmf.models.model import Hyper, Model, Params, Rows, bias_l2, cast_hyper, mean_loss, objective, row_weights
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import EXTRA, NUMBERS, with_numbers
from jaxmf.training import STATUS, Prepared, make_fit, start
from jaxmf.training.checks import check_functions, check_key, check_promised, check_static
from jaxmf.training.options import Options
from jaxmf.training.program import advance, begin, compiled_initialize, progress_bar
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
    batch, held_out = _checked(key, model, solver, train, valid, hyper, names, method, epochs, tol)
    return _evaluate(key, model, solver, batch, held_out, hyper, names, method, epochs, tol, params)


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
    batch, held_out = _checked(key, model, solver, train, valid, hyper, names, method, epochs, tol)
    if not is_positive_integer(max_evaluations):
        raise ValueError(f"descend: max_evaluations must be a positive integer, not {max_evaluations!r}")
    first = _values(hyper, names)
    for name, value in first.items():
        if name not in _RANGES and not value > 0:
            raise ValueError(f"descend: {name} must be positive to start from, not {value!r}: its logarithm descends")
    rows: list[dict[str, Any]] = []
    best: list[tuple[Hyper, Hypergradient]] = []  # at most one

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        if len(rows) == max_evaluations:
            raise _EnoughError
        values = {name: float(v if name in _RANGES else np.exp(v)) for name, v in zip(names, x, strict=True)}
        trial = with_numbers(hyper, values)
        params = best[0][1].params if best and method == "implicit" else None
        found = _evaluate(key, model, solver, batch, held_out, trial, names, method, epochs, tol, params)
        slopes = np.array([found.gradient[name] for name in names])
        usable = bool(found.status != "diverged" and np.isfinite([found.loss, *slopes]).all())
        rows.append(
            {"evaluation": len(rows), **values, "valid_loss": found.loss}
            | {f"d_{name}": slope for name, slope in found.gradient.items()}
            | {"status": found.status, "epochs": found.epochs, "residual": found.residual}
            | {"stationarity": found.stationarity, "dtype": str(batch.train.value.dtype)}
        )
        bar.update()
        if not usable:  # a wall, from which the line search turns back
            return 10 * abs(rows[0]["valid_loss"]) + 1, np.zeros(len(x))
        if not best or found.loss < best[0][1].loss:
            best[:] = [(trial, found)]
        return found.loss, slopes * [1.0 if name in _RANGES else values[name] for name in names]

    @cache
    def known(x: tuple[float, ...]) -> tuple[float, np.ndarray]:
        return evaluate(np.array(x))

    x = np.array([value if name in _RANGES else np.log(value) for name, value in first.items()])
    options = {"ftol": 10 * float(jnp.finfo(batch.train.value.dtype).eps)}  # less than that is the loss's rounding
    with progress_bar(max_evaluations, progress, "fit") as bar, suppress(_EnoughError):
        while True:
            box = [_RANGES.get(name, (centre - _LEAP, centre + _LEAP)) for name, centre in zip(names, x, strict=True)]
            found = minimize(lambda x: known(tuple(x)), x, jac=True, method="L-BFGS-B", bounds=box, options=options)
            at_edge = [name not in _RANGES for name in names] & (np.abs(found.x - x) > 0.99 * _LEAP)
            if not at_edge.any():
                break
            x = found.x
    if not best:
        raise ValueError(f"descend: every fit diverged, from {first} on: try {solver.remedy}")
    tuned, found = best[0]
    return Descent(tuned, found.params, found.loss, pd.DataFrame(rows))


class _EnoughError(Exception):
    """As many evaluations as are allowed."""


def _values(hyper: Hyper, names: Sequence[str]) -> dict[str, float]:
    """The named numbers as they are; λ_b and the biases' learning rate as what None means."""
    meant = hyper._asdict() | {f"{EXTRA}{name}": value for name, value in hyper.extra.items()}
    meant["l2_bias"] = bias_l2(hyper)
    if hyper.learning_rate_bias is None:
        meant["learning_rate_bias"] = hyper.learning_rate
    return {name: float(meant[name]) for name in names}


def _checked(
    key: jax.Array,
    model: Model,
    solver: Solver,
    train: Dataset | Ratings,
    valid: Dataset | Ratings,
    hyper: Hyper,
    names: Sequence[str],
    method: Method,
    epochs: int,
    tol: float,
) -> tuple[Prepared, Ratings]:
    """Training ratings laid out, and those to validate on, after all that `fit` checks before it compiles."""
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
    return Prepared(whole, None, solver.prepare(ratings), solver), padded(held_out)


def _evaluate(
    key: jax.Array,
    model: Model,
    solver: Solver,
    batch: Prepared,
    valid: Ratings,
    hyper: Hyper,
    names: Sequence[str],
    method: Method,
    epochs: int,
    tol: float,
    params: Params | None,
) -> Hypergradient:
    dtype = batch.train.value.dtype
    values = jax.tree.map(lambda x: jnp.asarray(x, dtype), _values(hyper, names))
    numbers = cast_hyper(with_numbers(hyper, values), dtype)
    if method == "unrolled":
        (loss, state), slopes = _unrolled(model, solver, epochs)(values, key, batch, valid, numbers, params)
        checks = (jnp.nan, jnp.nan)
    else:
        program, batch, state, _ = begin(key, model, solver, batch, numbers, Options(track=False))
        initial = state.params.trained
        if params is not None:
            state = first_state(model, solver, params, numbers, None)
        for after, _, _ in advance(key, program, batch, numbers, state, epochs):
            state = after
        with jax.enable_x64(True):
            arguments = to_float64((values, state.params, initial, batch.train, valid, numbers))
            loss, slopes, *checks = _implicit(model)(*arguments, tol)
    gradient = {name: float(slope) for name, slope in slopes.items()}
    status, epoch = STATUS[int(state.status)], int(state.epoch)
    wrong = [name for name, slope in gradient.items() if not np.isfinite(slope)]
    if wrong and status != "diverged" and np.isfinite(float(loss)):
        raise ValueError(
            f"hypergradient: the derivative by {wrong[0]} is not a number, though the loss is. An optimizer that "
            "divides by a root needs one that is not 0: lambda h: optax.adam(h.learning_rate, eps_root=1e-12)"
        )
    return Hypergradient(float(loss), gradient, state.params, status, epoch, *map(float, checks))


@of_model
def _unrolled(model: Model, solver: Solver, epochs: int) -> Callable[..., Any]:
    run = make_fit(model, solver, 1, track=False)

    def loss(
        values: Mapping[str, jax.Array],
        key: jax.Array,
        batch: Prepared,
        valid: Ratings,
        hyper: Hyper,
        params: Params | None,
    ) -> tuple[jax.Array, Any]:
        hyper = with_numbers(hyper, values)
        state = start(key, model, solver, batch, hyper, params=params)

        @jax.checkpoint
        def epoch(state: Any, _: None) -> tuple[Any, None]:
            return run(key, batch, hyper, state)[0], None

        state, _ = jax.lax.scan(epoch, state, length=epochs)
        return mean_loss(model, state.params, valid), state

    return jit(jax.value_and_grad(loss, has_aux=True), compiler_options=here(solver.machine.compiler_options))


@of_model
def _implicit(model: Model) -> Callable[..., Any]:
    def evaluate(
        values: Mapping[str, jax.Array],
        params: Params,
        initial: Rows,
        train: Ratings,
        valid: Ratings,
        hyper: Hyper,
        tol: float,
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array]:
        def slope(trained: Rows, values: Mapping[str, jax.Array]) -> Rows:
            whole = params._replace(trained=trained)
            return jax.grad(lambda t: objective(model, whole._replace(trained=t), train, with_numbers(hyper, values)))(
                trained
            )

        def curvature(v: Rows) -> Rows:
            return jax.jvp(lambda trained: slope(trained, values), (params.trained,), (v,))[1]

        loss, g = jax.value_and_grad(lambda t: mean_loss(model, params._replace(trained=t), valid))(params.trained)
        n_u, n_i, _ = row_weights(train, 1.0, hyper.unobserved)
        g = jax.tree.map(
            lambda x, seen: jnp.where(seen > 0, x, 0), g, _per_count(n_u, n_i, jax.tree.map(jnp.ones_like, g))
        )
        # The curvature of a row grows with its number of ratings, from 1 to thousands.
        by_count = partial(_per_count, n_u, n_i)
        x, _ = cg(curvature, g, tol=tol, maxiter=_MAX_ITERATIONS, M=by_count)
        gradient = jax.grad(lambda values: -_dot(slope(params.trained, values), x))(values)
        residual = _length(jax.tree.map(jnp.subtract, curvature(x), g)) / _length(g)
        return loss, gradient, residual, _length(slope(params.trained, values)) / _length(slope(initial, values))

    return jit(evaluate)


def _per_count(n_u: jax.Array, n_i: jax.Array, rows: Rows) -> Rows:
    """Each row divided by its number n of training ratings, and 0 where it has none: no number of the fit moves it.

    Cells that are not observed count as many as they weigh.
    """

    def divide(n: jax.Array, leaf: jax.Array) -> jax.Array:
        n = n.reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(n > 0, leaf / jnp.where(n > 0, n, 1), 0)

    return Rows(
        jax.tree.map(partial(divide, n_u), rows.user), jax.tree.map(partial(divide, n_i), rows.item), rows.shared
    )


def _dot(a: Any, b: Any) -> jax.Array:
    return jnp.asarray(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def _length(tree: Any) -> jax.Array:
    return jnp.sqrt(_dot(tree, tree))
