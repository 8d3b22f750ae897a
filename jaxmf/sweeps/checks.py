"""Checks of a sweep before anything compiles: its arguments, its folds, and all that `fit` checks of each member."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import how_built
from jaxmf.models._objective import objective
from jaxmf.models.checks import check_rank
from jaxmf.models.leaves import fill_beyond_rank
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.models.trial import drawn_rows
from jaxmf.solvers.solver import Solver
from jaxmf.sweeps.grid import Assignment, narrowed
from jaxmf.training.checks import check_functions, check_promised
from jaxmf.training.program import compiled_initialize
from jaxmf.training.state import initialize


def check_choices(solver: Solver, choices: Any, validated: bool) -> None:
    """Raise ValueError unless these choices are in range, and agree with each other and with the solver.

    Args:
      solver: the solver.
      choices: the choices of the sweep.
      validated: whether there are validation ratings apart from the folds.
    """
    if choices.keep not in ("best", "all", "none"):
        raise ValueError(f"sweep: keep must be 'best', 'all' or 'none', not {choices.keep!r}")
    for name in ("batch", "workers", "max_memory"):
        value = getattr(choices, name)
        if value is not None and not is_positive_integer(value):
            unit = " of bytes" if name == "max_memory" else ""
            raise ValueError(f"sweep: {name} must be a positive integer{unit} or None, not {value!r}")
    if solver.machine.devices > 1:
        raise ValueError("sweep: members are spread over cores and devices, so the solver must have devices=1")
    if choices.folds is not None and validated:
        raise ValueError("sweep: folds and valid exclude each other: a fold is validated on what it holds out of train")
    if choices.folds is None and not validated:
        if choices.patience is not None:
            raise ValueError(
                "sweep: patience needs validation ratings: pass valid= or folds= (jaxmf.splits makes them)"
            )
        if choices.keep == "best" and not choices.track:
            raise ValueError("sweep: keep='best' needs validation ratings, or track=True, to know which member is best")


def checked_folds(folds: Any, train: Ratings) -> jax.Array:
    """Return the folds in the dtype of the ratings; raise ValueError unless each trains on some and holds some out."""
    folds = np.asarray(folds)
    num_ratings = len(train.value)
    if folds.ndim != 2 or folds.shape[1] != num_ratings or folds.dtype.kind not in "biuf":
        raise ValueError(
            f"sweep: folds must be weights of shape (k, {num_ratings}), one row per fold and one column per training "
            f"rating, not {folds.dtype}{list(folds.shape)}; jaxmf.splits.k_fold(train, k) makes them"
        )
    weight = np.asarray(train.weight)
    for index, fold in enumerate(folds):
        if not ((fold >= 0) & (fold <= 1)).all():
            raise ValueError(f"sweep: fold {index} has weights that are not between 0 and 1")
        if not (fold * weight).any() or not ((1 - fold) * weight).any():
            raise ValueError(f"sweep: fold {index} leaves nothing to train on, or holds nothing out")
    return jnp.asarray(folds.astype(train.value.dtype))


def checked_shapes(
    key: jax.Array, solver: Solver, train: Ratings, assignments: list[Assignment]
) -> dict[Model, Params]:
    """Check models, ranks and numbers as `fit` does, and return the parameters' shapes of every model that runs."""
    shapes: dict[Model, Params] = {}
    checked = set()
    for member, _, run_member, model in assignments:
        numbers = cast_hyper(run_member.hyper, train.value.dtype)
        if model not in shapes:
            shapes[model] = check_functions(key, model, train, numbers)
        case = (model, repr(run_member.hyper))  # members that differ in seed or fold only are checked once
        if case not in checked:
            checked.add(case)
            try:
                check_rank(run_member.hyper, shapes[model])
                solver.check(model, shapes[model], run_member.hyper, train.context)
            except ValueError as error:
                raise ValueError(f"sweep: {error} In the point {member.point}") from None
    return shapes


def check_padding(key: jax.Array, train: Ratings, assignments: list[Assignment]) -> None:
    """Raise ValueError if a user's model starts differently in a wider table, or has another objective there.

    Models that a constructor of jaxmf returned are not checked here, but in the tests.
    """
    padded = {(a.model, a.run_model): a for a in assignments if a.run_model is not a.model}
    for (model, wide_model), assignment in padded.items():
        if how_built(wide_model) is not None:
            continue
        alone = jax.jit(partial(initialize, key, model))(train, assignment.member.hyper)
        wide = jax.jit(partial(initialize, key, wide_model))(train, assignment.run_member.hyper)
        if not all(map(np.allclose, jax.tree.leaves(alone), jax.tree.leaves(narrowed(wide, assignment)))):
            raise ValueError(
                f"sweep: the model {model.name!r} of rank {assignment.member.rank} starts differently in a wider "
                "table, so that a member would not equal its own fit: let init draw column j with the key "
                "jax.random.fold_in(key, j), as the built-in models do, or use pad=False"
            )
        assert assignment.member.rank is not None
        drawn = drawn_rows(np.random.default_rng(0), wide.trained)
        wide = wide._replace(trained=fill_beyond_rank(drawn, assignment.member.rank))
        value = jax.jit(partial(objective, wide_model))(wide, train, assignment.run_member.hyper)
        expected = jax.jit(partial(objective, model))(narrowed(wide, assignment), train, assignment.member.hyper)
        if not np.isclose(value, expected, rtol=float(jnp.finfo(value.dtype).eps) ** 0.5):
            raise ValueError(
                f"sweep: the model {model.name!r} of rank {assignment.member.rank} has another objective in a wider "
                "table whose further columns are 0, so that a member would not equal its own fit: do not let `loss` "
                "or `penalty` depend on the number of columns, or use pad=False"
            )


def check_all_promised(
    key: jax.Array, solver: Solver, train: Ratings, assignments: list[Assignment], shapes: dict[Model, Params]
) -> None:
    """Raise ValueError if a user's model breaks a promise that the solver relies on."""

    def initialize(model: Model, numbers: Hyper, ratings: Ratings) -> Params:
        initial: Params = compiled_initialize(model, ratings)(key, ratings, numbers)
        return initial

    for member, _, run_member, model in assignments:
        numbers = cast_hyper(run_member.hyper, train.value.dtype)
        try:
            check_promised(model, solver, shapes[model], numbers, train, partial(initialize, model, numbers))
        except ValueError as error:
            raise ValueError(f"sweep: {error}. In the point {member.point}") from None
