"""What all checks share: one objective at one point in float64, its terms, directions, and errors with a scale."""

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
from jaxmf.models._objective import beside, objective, row_weights
from jaxmf.models.checks import check_counts, check_finite, check_hyper, check_model, check_unobserved, traced_shape
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows

# No bit of a sum is worth more time to compile.
jit = partial(programs.jit, compiler_options=IN_A_HURRY)


class GradientReport(NamedTuple):
    """What a check found.

    Attributes:
      model: the model's name.
      table: a tidy table with a column `passed`, the verdict of each row; the check says what its rows and columns are.
      passed: whether every row passed.
      limits: the largest value with which a row passes, for the columns that are judged by one.
    """

    model: str
    table: pd.DataFrame
    passed: bool
    limits: Mapping[str, float]

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def __repr__(self) -> str:
        passed = self.table["passed"]
        return f"<GradientReport of {self.model}: {passed.sum()} of {len(passed)} rows passed>"


class Case(NamedTuple):
    """What an objective reads beside its trained parameters, a pytree.

    Attributes:
      fixed: the other parameters.
      ratings: the observations, and behind them padding of weight 0 up to a rung, so that programs are found again.
      weight: n^ν per row.
      hyper: the numbers.
      num_ratings: how many observations there are.
    """

    fixed: Rows
    ratings: Ratings
    weight: Rows
    hyper: Hyper
    num_ratings: Any


def report(model: Model, table: pd.DataFrame, limits: Mapping[str, float] | None = None) -> GradientReport:
    """A report of a table with a column `passed`."""
    return GradientReport(model.name, table, bool(table["passed"].all()), dict(limits or {}))


@contextmanager
def float64(
    model: Model,
    params: Params,
    ratings: Dataset | Ratings,
    hyper: Hyper,
    further: Callable[[Params, Case], None] | None = None,
) -> Iterator[tuple[Rows, Case]]:
    """Within it JAX computes in float64: trained parameters and the rest, after every check on these four.

    ValueError, before anything is compiled, if one is wrong, or what `further` raises; n^ν is but a shape for it.
    """
    check_model(model)
    check_hyper(hyper)
    observed = as_ratings(ratings, "verify: ratings")
    check_counts(params, observed, "verify")
    check_finite(params, "verify")
    if not jax.tree.leaves(params.trained):
        raise ValueError(
            f"verify: the model {model.name!r} trains no parameters, so it has no gradient: "
            "verify one that is fitted, such as models.biased_mf(16)"
        )
    with jax.enable_x64(True):
        (trained, fixed), observed, hyper = to_float64((params, observed, hyper))
        num_ratings, observed = np.int64(observed.value.size), padded(observed)
        weight = _check_functions(model, *shapes((trained, fixed, observed, hyper)))
        if further is not None:
            further(Params(trained, fixed), Case(fixed, observed, weight, hyper, num_ratings))
        yield trained, Case(fixed, observed, powers(observed, hyper), hyper, num_ratings)


def check_functions(model: Model, trained: Rows, case: Case) -> None:
    """ValueError unless each function of the model returns the shapes that it should, by tracing."""
    _check_functions(model, *shapes((trained, case.fixed, case.ratings, case.hyper)))


def without_padding(case: Case) -> Ratings:
    """The observations alone, on the host."""
    observed: Ratings = jax.tree.map(lambda column: np.asarray(column)[: case.num_ratings], case.ratings)
    return observed


def powers(ratings: Ratings, hyper: Hyper) -> Rows:
    """n^ν per row."""
    return _row_weights(ratings, hyper.reg_exponent, hyper.unobserved)


def check_count(name: str, number: object) -> None:
    """ValueError unless the named argument is a positive integer."""
    if not is_positive_integer(number):
        raise ValueError(f"verify: {name} must be a positive integer, not {number!r}")


def bare(model: Model) -> Model:
    """The model without what was derived by hand, so that models which differ in nothing else share programs."""
    return model._replace(by_hand=None)


def total(model: Model, trained: Rows, case: Case) -> jax.Array:
    """The objective L, a scalar."""
    return objective(model, Params(trained, case.fixed), case.ratings, case.hyper, case.weight)


def terms(model: Model, trained: Rows, case: Case) -> jax.Array:
    """The terms t of L = Σ_j t_j, (n + 1,): one per observation, and the background with the penalty."""
    params = Params(trained, case.fixed)
    others = beside(model, params, case.weight, case.hyper)
    return jnp.append(case.ratings.weight * model.loss(params, case.ratings), others)


@of_model
def autodiff(model: Model) -> Callable[[Rows, Case], tuple[jax.Array, Rows, Rows]]:
    """The program of a bare model for L, ∇L, and the summed magnitudes of what ∇L consists of, fit and penalty."""

    @jit
    def evaluate(trained: Rows, case: Case) -> tuple[jax.Array, Rows, Rows]:
        value, gradient = jax.value_and_grad(lambda trained: total(model, trained, case))(trained)
        own = jax.grad(lambda trained: model.penalty(trained, case.weight, case.hyper) + 0.0)(trained)
        return value, gradient, jax.tree.map(lambda g, own: abs(g - own) + abs(own), gradient, own)

    return evaluate


@of_model
def hvp(model: Model) -> Callable[[Rows, Rows, Case], Rows]:
    """The program of a bare model for its Hessian times a direction, forward mode over reverse mode."""

    @jit
    def product(trained: Rows, direction: Rows, case: Case) -> Rows:
        slope = jax.grad(lambda trained: total(model, trained, case))
        return jax.jvp(slope, (trained,), (direction,))[1]

    return product


def by_hand(model: Model, trained: Rows, case: Case) -> Rows | None:
    """The hand-derived gradient, or None."""
    if model.by_hand is None:
        return None
    return _by_hand(model, "gradient")(Params(trained, case.fixed), case.ratings, case.weight, case.hyper)


def hvp_by_hand(model: Model, trained: Rows, case: Case, direction: Rows) -> Rows | None:
    """The hand-derived product of the Hessian with a direction, or None."""
    if model.by_hand is None or model.by_hand.hvp is None:
        return None
    return _by_hand(model, "hvp")(Params(trained, case.fixed), case.ratings, case.weight, case.hyper, direction)


def names(trained: Any) -> list[str]:
    """The leaves, as `user.factors`."""
    paths = jax.tree_util.tree_flatten_with_path(trained)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def directions(trained: Rows, name: str, number: int, random: np.random.Generator) -> Iterator[Rows]:
    """Directions in one leaf: every coordinate of one with at most `number`, else so many standard normal ones."""
    leaves = [np.zeros(leaf.shape) for leaf in jax.tree.leaves(trained)]
    place = names(trained).index(name)
    own = leaves[place]
    for v in np.eye(own.size) if own.size <= number else (random.standard_normal(own.size) for _ in range(number)):
        leaves[place] = v.reshape(own.shape)
        yield jax.tree.unflatten(jax.tree.structure(trained), leaves)


def perturbed(trained: Rows, random: np.random.Generator) -> Rows:
    """A random point nearby, where nothing is 0 by construction."""
    return jax.tree.map(lambda x: x + 0.1 * random.standard_normal(x.shape), trained)


def moved(trained: Rows, v: Rows, h: Any) -> Rows:
    """θ + hv."""
    return jax.tree.map(lambda x, v: x + h * v, trained, v)


def everywhere(trained: Rows, random: np.random.Generator) -> Rows:
    """A standard normal direction in all leaves."""
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), trained)


def dot(a: Any, b: Any) -> float:
    """⟨a, b⟩ over all leaves, on the host."""
    return float(sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def magnitude(a: Any, b: Any) -> float:
    """⟨|a|, |b|⟩."""
    return dot(jax.tree.map(np.abs, a), jax.tree.map(np.abs, b))


def relative(error: Any, scale: Any) -> float:
    """The error over its scale: 0 for no error at all, infinite for one where nothing is summed."""
    error, scale = float(np.abs(error)), float(scale)
    return error / scale if scale > 0 else (0.0 if error == 0 else np.inf)


@of_model
def _by_hand(model: Model, name: str) -> Any:
    return jit(getattr(model.by_hand, name))


_row_weights = jit(row_weights)


@of_model
def _check_functions(model: Model, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Rows:
    """The shapes of n^ν, by tracing; ValueError unless each function of the model returns the shapes that it should."""
    trained, fixed, ratings, hyper = jax.tree.unflatten(structure, leaves)
    check_unobserved(model, hyper)
    weight = jax.eval_shape(row_weights, ratings, hyper.reg_exponent, hyper.unobserved)
    given = (Params(trained, fixed), ratings, weight, hyper)

    def traced(what: str, function: Any, *read: Any) -> Any:
        return traced_shape(f"verify: the {what} of the model {model.name!r}", function, *read)

    loss, penalty = traced("loss", model.loss, *given[:2]), traced("penalty", model.penalty, trained, weight, hyper)
    for what, found, shape, meaning in (
        ("loss", loss, ratings.value.shape, ", one number for each rating and for what pads them"),
        ("penalty", penalty, (), ""),
    ):
        if getattr(found, "shape", None) != shape:
            expected = f"expected shape {shape}{meaning}"
            raise ValueError(f"verify: the {what} of the model {model.name!r} returns {found}; {expected}")
    if model.by_hand is not None:
        _check_leaves(model.name, "gradient", trained, traced("hand-derived gradient", model.by_hand.gradient, *given))
        if model.by_hand.hvp is not None:
            what = "Hessian-vector product"
            _check_leaves(model.name, what, trained, traced(f"hand-derived {what}", model.by_hand.hvp, *given, trained))
    return weight


def _check_leaves(who: str, what: str, trained: Rows, hand: Any) -> None:
    """ValueError unless what was derived by hand has the leaves that are trained."""
    expect(hand, Rows, f"verify: the hand-derived {what} of {who!r}", "Rows(user={...}, item={...}), as params.trained")
    needed, found = names(trained), names(hand)
    if found != needed:
        wrong = [f"lacks {name}" for name in needed if name not in found]
        wrong += [f"has {name}, which is not trained" for name in found if name not in needed]
        raise ValueError(f"verify: the hand-derived {what} of {who!r} {', '.join(wrong)}; trained: {needed}")
    for name, h, leaf in zip(needed, jax.tree.leaves(hand), jax.tree.leaves(trained), strict=True):
        if h.shape != leaf.shape:
            raise ValueError(
                f"verify: the hand-derived {what} of {name} has shape {h.shape}; expected the leaf's, {leaf.shape}"
            )
