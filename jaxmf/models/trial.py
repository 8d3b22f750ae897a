"""Checks of a model's promises at random numbers, before a tool relies on them; `promises` lists the promises.

A trial compares what a tool computes from a part of the model with what the part should mean. Two different analytic
formulas differ at random numbers, so that one trial tells whether they agree. The trained numbers, n^ν, λ, λ_b and α0
are drawn with a fixed seed. Fixed leaves, `hyper.extra` and a few ratings are the caller's, since a model may be
defined for these only.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import how_built
from jaxmf.kernels.programs import of_model
from jaxmf.kernels.xla import IN_A_HURRY
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows

NUM_RATINGS = 6  # in a sample
_PARTS = ("predict", "loss", "penalty", "design", "embed", "link", "background")  # what trials call


class Sample(NamedTuple):
    """The random numbers at which a promise is checked, a pytree.

    Attributes:
      params: random trained numbers, and the caller's fixed ones.
      others: different random trained numbers.
      ratings: a few ratings with random weights.
      weight: random n^ν per row.
      share: a random factor per rating, for the user and for the item.
      hyper: random λ, λ_b, ν and α0.
    """

    params: Params
    others: Rows
    ratings: Ratings
    weight: Rows
    share: Rows
    hyper: Hyper


class Promise(NamedTuple):
    """A property of a model that a tool relies on.

    Attributes:
      trial: `(model, sample) -> (actual, expected)`, two trees that are equal if the model keeps the promise.
      broken: the message if it does not; `{where}` is the leaf.
      remedy: how to change the model.
    """

    trial: Callable[[Model, Sample], tuple[Any, Any]]
    broken: str
    remedy: str


class Verdict(NamedTuple):
    """Whether a promise is kept; if not, the leaf where it is broken, and the exception if the trial raised one."""

    kept: bool
    leaf: str = ""
    why: str = ""


def check_promises(
    who: str,
    promises: Sequence[Promise],
    model: Model,
    params: Params,
    hyper: Hyper,
    ratings: Any,
    instead: str,
    fixed: Callable[[], Rows] | None = None,
) -> None:
    """Raise a ValueError, starting with `who`, unless the model keeps these promises.

    Models that a constructor of jaxmf returned are not tried here, because the tests check them.

    Args:
      who: the solver or tool that relies on the promises.
      promises: the promises.
      model: the model.
      params: its parameters; of trained leaves, shapes and dtypes are enough.
      hyper: the hyperparameters. λ, λ_b, ν and α0 are drawn unless they are None, `extra` is used as it is, and from
        `rank` only whether columns are masked.
      ratings: Ratings or a Dataset, not empty, over the users and items of the parameters.
      instead: what to use if a promise is broken, for the message.
      fixed: `() -> Rows`, which returns the fixed leaves, for `params` that have only their shapes; called if needed.

    Cost: for a user's own model once, a small program and some passes over its tables; then a look-up.
    """
    if how_built(model) is not None:
        return
    verdicts = _verdicts(_bare(model), jax.tree.structure((params, hyper)))
    extra = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(hyper.extra))
    untried = tuple(promise for promise in promises if (promise, extra) not in verdicts)
    if untried:
        known = params.fixed if fixed is None or not jax.tree.leaves(params.fixed) else fixed()
        new = tried(model, untried, params._replace(fixed=known), hyper, ratings)
        verdicts.update({(promise, extra): verdict for promise, verdict in new.items()})
    for promise in promises:
        verdict = verdicts[promise, extra]
        if not verdict.kept:
            broken = promise.broken.format(where=verdict.leaf) + verdict.why
            remedy = f"{promise.remedy}, or {instead}"
            raise ValueError(f"{who}: the model {model.name!r} breaks a promise: {broken}. {remedy}")


def tried(
    model: Model, promises: tuple[Promise, ...], params: Params, hyper: Hyper, ratings: Any
) -> dict[Promise, Verdict]:
    """Try these promises, with the arguments of `check_promises`."""
    sample = _sample(params, hyper, ratings)
    program, failures = _program(_bare(model), promises)
    # A model that reads beyond its rows gets NaN here, and is refused for that.
    with jax.debug_nans(False), jax.debug_infs(False), jax.default_matmul_precision("highest"):
        pairs = jax.device_get(program(sample))
    limit = float(jnp.finfo(sample.ratings.value.dtype).eps) ** 0.5
    verdicts = {}
    for index, promise in enumerate(promises):
        errors = jax.tree_util.tree_leaves_with_path(jax.tree.map(_error, *pairs.get(index, ((), ()))))
        far = [jax.tree_util.keystr(path, simple=True, separator=".") for path, error in errors if not error <= limit]
        if index in failures:
            verdicts[promise] = Verdict(False, "some leaf", f" ({failures[index]})")
        else:
            verdicts[promise] = Verdict(not far, far[0] if far else "")
    return verdicts


@of_model
def _verdicts(model: Model, structure: Any) -> dict[Any, Verdict]:
    """Return the dict of known verdicts on a bare model, for parameters and hyperparameters of this structure."""
    return {}


@of_model
def _program(model: Model, promises: tuple[Promise, ...]) -> tuple[Callable[[Sample], Any], dict[int, str]]:
    """Return the program for these promises' trees, by index, and a dict that tracing it fills with exceptions."""
    failures: dict[int, str] = {}

    def program(sample: Sample) -> dict[int, Any]:
        pairs = {}
        for index, promise in enumerate(promises):
            try:
                pairs[index] = promise.trial(model, sample)
            except Exception as error:
                failures[index] = f"{type(error).__name__}: {error}".partition("\n")[0]
        return pairs

    return jax.jit(program, compiler_options=IN_A_HURRY), failures


def _bare(model: Model) -> Model:
    """Keep only the functions that trials call, so that models with the same functions share their verdicts."""
    parts: dict[str, Any] = {name: None for name in Model._fields if name not in _PARTS}
    return model._replace(**parts)


def _error(actual: Any, expected: Any) -> float:
    """Return the largest difference relative to the largest number; numbers finite in neither are skipped."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    compared = np.isfinite(actual) | np.isfinite(expected)
    if actual.shape != expected.shape or not compared.any():
        return 0.0 if actual.shape == expected.shape else np.inf
    actual, expected = actual[compared], expected[compared]
    size = max(np.abs(actual).max(), np.abs(expected).max())
    with np.errstate(invalid="ignore"):
        return 0.0 if size == 0 else float(np.abs(actual - expected).max() / size)


def _sample(params: Params, hyper: Hyper, ratings: Any) -> Sample:
    random = np.random.default_rng(0)
    value = getattr(ratings, "value", None)
    columns = (ratings.user, ratings.item, ratings.rating if value is None else value)
    leaves = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = jnp.result_type(*leaves or [columns[2]])

    def positive(*shape: int) -> jax.Array:
        return jnp.asarray(random.random(shape, np.float32) + 0.5, dtype)

    position = np.linspace(0, len(columns[2]) - 1, NUM_RATINGS).astype(int)
    user, item, value = (np.asarray(column)[position] for column in columns)
    few = Ratings(
        jnp.asarray(user, jnp.int32),
        jnp.asarray(item, jnp.int32),
        jnp.asarray(value, dtype),
        positive(NUM_RATINGS),
        ratings.num_users,
        ratings.num_items,
        jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[position]), getattr(ratings, "context", {})),
    )
    drawn: dict[str, Any] = {
        name: positive() for name in ("l2", "l2_bias", "reg_exponent", "unobserved") if getattr(hyper, name) is not None
    }
    rank = None if hyper.rank is None else jnp.asarray(hyper.rank, jnp.int32)
    numbers = jax.tree.map(lambda x: jnp.asarray(x, dtype), hyper._replace(rank=None, **drawn))._replace(rank=rank)
    return Sample(
        Params(drawn_rows(random, params.trained), params.fixed),
        drawn_rows(random, params.trained),
        few,
        Rows(positive(ratings.num_users), positive(ratings.num_items)),
        Rows(positive(NUM_RATINGS), positive(NUM_RATINGS)),
        numbers,
    )


def drawn_rows(random: np.random.Generator, trained: Rows) -> Rows:
    """Draw numbers in the shapes of trained ones, scaled so that p·q is about 1 at any width, for losses with exp."""

    def draw(leaf: Any) -> jax.Array:
        width = max(1, leaf.shape[-1]) if len(leaf.shape) > 1 else 1
        return jnp.asarray((random.random(leaf.shape, np.float32) * 3 - 1.5) * width**-0.25, leaf.dtype)

    drawn: Rows = jax.tree.map(draw, trained)
    return drawn
