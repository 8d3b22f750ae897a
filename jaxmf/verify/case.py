"""Shared by all checks: one objective at one point in float64, its terms, directions, and relative errors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, is_positive_integer
from jaxmf.data.dataset import Dataset
from jaxmf.data.observed import as_ratings
from jaxmf.data.ratings import Ratings, padded, to_float64
from jaxmf.kernels import programs
from jaxmf.kernels.programs import of_model, shapes
from jaxmf.kernels.xla import IN_A_HURRY
from jaxmf.models._objective import beside, drawn, objective, row_weights
from jaxmf.models.checks import check_counts, check_finite, check_hyper, check_model, check_unobserved, traced_shape
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows

# Compile quickly: the checks do not depend on the last bits of a sum.
jit = partial(programs.jit, compiler_options=IN_A_HURRY)


class GradientReport(NamedTuple):
    """Result of a check.

    Attributes:
      model: the model's name.
      table: a tidy table with a column `passed`, the verdict of each row; the check documents its rows and columns.
      passed: whether every row passed.
      limits: column -> largest value with which a row passes, for the columns that have a limit.
    """

    model: str
    table: pd.DataFrame
    passed: bool
    limits: Mapping[str, float]

    def to_frame(self) -> pd.DataFrame:
        """Return the table."""
        return self.table

    def __repr__(self) -> str:
        passed = self.table["passed"]
        return f"<GradientReport of {self.model}: {passed.sum()} of {len(passed)} rows passed>"


class Case(NamedTuple):
    """What an objective reads besides its trained parameters, as a pytree.

    Attributes:
      fixed: the fixed parameters.
      ratings: the observations, followed by padding of weight 0 up to one of a few sizes, so that programs are reused.
      weight: n^ν per row.
      hyper: the numbers.
      num_ratings: number of observations, without padding.
    """

    fixed: Rows
    ratings: Ratings
    weight: Rows
    hyper: Hyper
    num_ratings: Any


def report(model: Model, table: pd.DataFrame, limits: Mapping[str, float] | None = None) -> GradientReport:
    """Return the report of a table with a column `passed`."""
    return GradientReport(model.name, table, bool(table["passed"].all()), dict(limits or {}))


@contextmanager
def float64(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    check: Callable[[Params, Case], None] | None = None,
) -> Iterator[tuple[Rows, Case]]:
    """Check all arguments, then let JAX compute in float64: it yields the trained parameters and the Case.

    If the model draws, the ratings of the Case hold one draw with a fixed key, so that the objective is a function.

    Raises ValueError before anything compiles, or what `check` raises, for which n^ν has only a shape and dtype.
    """
    check_model(model)
    check_hyper(hyper)
    observed = as_ratings(ratings, "verify: ratings")
    check_counts(params, observed, "verify")
    check_finite(params, "verify")
    if not jax.tree.leaves(params.trained):
        raise ValueError(
            f"verify: the model {model.name!r} trains nothing, so it has no gradient: verify one such as biased_mf(16)"
        )
    with jax.enable_x64(True):
        (trained, fixed), observed, hyper = to_float64((params, observed, hyper))
        num_ratings, observed = np.int64(observed.value.size), padded(observed)
        draw = partial(drawn, jax.random.key(0), model)
        shaped = jax.eval_shape(draw, observed)
        weight = _check_functions(model, *shapes((trained, fixed, shaped, hyper)))
        if check is not None:
            check(Params(trained, fixed), Case(fixed, shaped, weight, hyper, num_ratings))
        observed = observed if model.draw is None else jax.jit(draw)(observed)
        yield trained, Case(fixed, observed, powers(observed, hyper), hyper, num_ratings)


def check_shapes(model: Model, trained: Rows, case: Case) -> None:
    """Raise ValueError if a function of the model, when traced, returns the wrong shape."""
    _check_functions(model, *shapes((trained, case.fixed, case.ratings, case.hyper)))


def without_padding(case: Case) -> Ratings:
    """Return the observations without padding, on the host."""
    observed: Ratings = jax.tree.map(lambda column: np.asarray(column)[: case.num_ratings], case.ratings)
    return observed


def powers(ratings: Ratings, hyper: Hyper) -> Rows:
    """Return n^ν per row."""
    weight: Rows = _row_weights(ratings, hyper.reg_exponent, hyper.unobserved)
    return weight


def check_count(name: str, count: object) -> None:
    """Raise ValueError unless this argument is a positive integer."""
    if not is_positive_integer(count):
        raise ValueError(f"verify: {name} must be a positive integer, not {count!r}")


def bare(model: Model) -> Model:
    """Return the model without hand-derived functions, so that models that differ in nothing else share programs."""
    return model._replace(by_hand=None)


def objective_at(model: Model, trained: Rows, case: Case) -> jax.Array:
    """Return the objective L, a scalar."""
    return objective(model, Params(trained, case.fixed), case.ratings, case.hyper, case.weight)


def terms(model: Model, trained: Rows, case: Case) -> jax.Array:
    """Return the terms t of L = Σ_j t_j, (n + 1,): one per observation, and one for the background and the penalty."""
    params = Params(trained, case.fixed)
    last = beside(model, params, case.weight, case.hyper)
    return jnp.append(case.ratings.weight * model.loss(params, case.ratings), last)


@of_model
def autodiff(model: Model) -> Callable[[Rows, Case], tuple[jax.Array, Rows, Rows]]:
    """Return a bare model's program for L, ∇L, and the summed magnitudes of the two parts of ∇L, fit and penalty."""

    @jit
    def evaluate(trained: Rows, case: Case) -> tuple[jax.Array, Rows, Rows]:
        value, gradient = jax.value_and_grad(lambda trained: objective_at(model, trained, case))(trained)
        penalty_gradient = jax.grad(lambda trained: model.penalty(trained, case.weight, case.hyper) + 0.0)(trained)
        return value, gradient, jax.tree.map(lambda g, p: abs(g - p) + abs(p), gradient, penalty_gradient)

    return evaluate


@of_model
def hvp(model: Model) -> Callable[[Rows, Rows, Case], Rows]:
    """Return a bare model's program for its Hessian times a direction, forward mode over reverse mode."""

    @jit
    def product(trained: Rows, direction: Rows, case: Case) -> Rows:
        slope = jax.grad(lambda trained: objective_at(model, trained, case))
        tangent: Rows = jax.jvp(slope, (trained,), (direction,))[1]
        return tangent

    return product


def by_hand(model: Model, trained: Rows, case: Case) -> Rows | None:
    """Return the hand-derived gradient, or None if the model has none."""
    if model.by_hand is None:
        return None
    program = _by_hand(model, "gradient")
    gradient: Rows = program(Params(trained, case.fixed), case.ratings, case.weight, case.hyper)
    return gradient


def hvp_by_hand(model: Model, trained: Rows, case: Case, direction: Rows) -> Rows | None:
    """Return the hand-derived product of the Hessian with a direction, or None if the model has none."""
    if model.by_hand is None or model.by_hand.hvp is None:
        return None
    program = _by_hand(model, "hvp")
    product: Rows = program(Params(trained, case.fixed), case.ratings, case.weight, case.hyper, direction)
    return product


def names(trained: Any) -> list[str]:
    """Return the names of the leaves, such as `user.factors`."""
    paths = jax.tree_util.tree_flatten_with_path(trained)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def directions(trained: Rows, name: str, count: int, random: np.random.Generator) -> Iterator[Rows]:
    """Yield `count` standard normal directions in one leaf, or all its coordinates if it has no more than that."""
    leaves = [np.zeros(leaf.shape) for leaf in jax.tree.leaves(trained)]
    index = names(trained).index(name)
    leaf = leaves[index]
    for v in np.eye(leaf.size) if leaf.size <= count else (random.standard_normal(leaf.size) for _ in range(count)):
        leaves[index] = v.reshape(leaf.shape)
        yield jax.tree.unflatten(jax.tree.structure(trained), leaves)


def perturbed(trained: Rows, random: np.random.Generator) -> Rows:
    """Return a random point nearby, where nothing is 0 by construction."""
    point: Rows = jax.tree.map(lambda x: x + 0.1 * random.standard_normal(x.shape), trained)
    return point


def moved(trained: Rows, v: Rows, h: Any) -> Rows:
    """Return θ + hv."""
    point: Rows = jax.tree.map(lambda x, v: x + h * v, trained, v)
    return point


def everywhere(trained: Rows, random: np.random.Generator) -> Rows:
    """Return a standard normal direction in all leaves."""
    direction: Rows = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), trained)
    return direction


def dot(a: Any, b: Any) -> float:
    """Return ⟨a, b⟩ over all leaves, on the host."""
    return float(sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def magnitude(a: Any, b: Any) -> float:
    """Return ⟨|a|, |b|⟩."""
    return dot(jax.tree.map(np.abs, a), jax.tree.map(np.abs, b))


def relative(error: Any, scale: Any) -> float:
    """Return |error| / scale; if the scale is 0, 0 for no error and infinity for any other."""
    error, scale = float(np.abs(error)), float(scale)
    return error / scale if scale > 0 else (0.0 if error == 0 else np.inf)


@of_model
def _by_hand(model: Model, name: str) -> Any:
    """Return the jitted hand-derived function of this name."""
    return jit(getattr(model.by_hand, name))


_row_weights = jit(row_weights)


@of_model
def _check_functions(model: Model, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Rows:
    """Return the shapes of n^ν; raise ValueError if a function of the model, when traced, returns the wrong shape."""
    trained, fixed, ratings, hyper = jax.tree.unflatten(structure, leaves)
    check_unobserved(model, hyper)
    weight: Rows = jax.eval_shape(row_weights, ratings, hyper.reg_exponent, hyper.unobserved)
    arguments = (Params(trained, fixed), ratings, weight, hyper)

    def traced(role: str, function: Any, *given: Any) -> Any:
        return traced_shape(f"verify: the {role} of the model {model.name!r}", function, *given)

    loss, penalty = traced("loss", model.loss, *arguments[:2]), traced("penalty", model.penalty, trained, weight, hyper)
    for role, result, shape, meaning in (
        ("loss", loss, ratings.value.shape, ", one number per rating, padding included"),
        ("penalty", penalty, (), ""),
    ):
        if getattr(result, "shape", None) != shape:
            expected = f"expected shape {shape}{meaning}"
            raise ValueError(f"verify: the {role} of the model {model.name!r} returns {result}; {expected}")
    if model.by_hand is not None:
        gradient = traced("hand-derived gradient", model.by_hand.gradient, *arguments)
        _check_leaves(model.name, "gradient", trained, gradient)
        if model.by_hand.hvp is not None:
            role = "Hessian-vector product"
            product = traced(f"hand-derived {role}", model.by_hand.hvp, *arguments, trained)
            _check_leaves(model.name, role, trained, product)
    return weight


def _check_leaves(model_name: str, role: str, trained: Rows, hand: Any) -> None:
    """Raise ValueError unless a hand-derived result has the leaves of `trained`, in their shapes."""
    remedy = "Rows(user={...}, item={...}), as params.trained"
    expect(hand, Rows, f"verify: the hand-derived {role} of {model_name!r}", remedy)
    needed, given = names(trained), names(hand)
    if given != needed:
        wrong = [f"lacks {name}" for name in needed if name not in given]
        wrong += [f"has {name}, which is not trained" for name in given if name not in needed]
        raise ValueError(f"verify: the hand-derived {role} of {model_name!r} {', '.join(wrong)}; trained: {needed}")
    for name, h, leaf in zip(needed, jax.tree.leaves(hand), jax.tree.leaves(trained), strict=True):
        if h.shape != leaf.shape:
            raise ValueError(
                f"verify: the hand-derived {role} of {name} has shape {h.shape}; expected the leaf's, {leaf.shape}"
            )
