"""How a promise of a model is tried at random numbers, before a tool relies on it; `promises` says which there are.

A trial holds what a tool computes from a part of the model against what it means. At random numbers two different
analytic formulas differ, so that one trial says whether they are one. The trained numbers, n^ν, λ, λ_b and α0 are drawn
with a fixed seed; fixed leaves, `hyper.extra` and a few ratings are those at hand: a model may be defined only there.
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

NUM_RATINGS = 6  # at which promises are tried
_PARTS = ("predict", "loss", "penalty", "design", "embed", "link", "background")  # of a model, what trials call


class Sample(NamedTuple):
    """Where a promise is tried, a pytree.

    Attributes:
      params: trained numbers at random, fixed ones as given.
      others: other trained numbers.
      ratings: a few, of random weights.
      weight: n^ν per row, at random.
      share: a random factor per rating, for the user and for the item.
      hyper: λ, λ_b, ν and α0 at random.
    """

    params: Params
    others: Rows
    ratings: Ratings
    weight: Rows
    share: Rows
    hyper: Hyper


class Promise(NamedTuple):
    """What a tool relies on.

    Attributes:
      trial: `(model, sample) -> (found, expected)`, two trees that are equal if the model keeps the promise.
      broken: what is wrong if not; `{where}` is the leaf.
      remedy: how to write the model.
    """

    trial: Callable[[Model, Sample], tuple[Any, Any]]
    broken: str
    remedy: str


class Verdict(NamedTuple):
    """Whether a promise is kept; if not, the leaf where it is broken, and what Python raised, if it did."""

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
    """ValueError, starting with `who`, unless the model keeps these promises.

    A model that a constructor of jaxmf returned is excused: the tests try those.

    Args:
      who: the solver or tool that relies on them.
      promises: what it relies on.
      model: the model.
      params: its parameters; of the trained ones the shapes are enough.
      hyper: whose `extra` the penalty reads, and whose `rank` says whether columns are masked.
      ratings: Ratings or a Dataset, not empty, over the users and items of the parameters.
      instead: what does without them, for the message.
      fixed: `() -> Rows`, the fixed leaves, if `params` has only their shapes; called if it must be.

    Cost: for a model of the user's own once, a small program and some passes over its tables; then a look-up.
    """
    if how_built(model) is not None:
        return
    verdicts = _verdicts(_bare(model), jax.tree.structure((params, hyper)))
    extra = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(hyper.extra))
    untried = tuple(promise for promise in promises if (promise, extra) not in verdicts)
    if untried:
        known = params.fixed if fixed is None or not jax.tree.leaves(params.fixed) else fixed()
        found = tried(model, untried, params._replace(fixed=known), hyper, ratings)
        verdicts.update({(promise, extra): verdict for promise, verdict in found.items()})
    for promise in promises:
        verdict = verdicts[promise, extra]
        if not verdict.kept:
            broken = promise.broken.format(where=verdict.leaf) + verdict.why
            remedy = f"{promise.remedy}, or {instead}"
            raise ValueError(f"{who}: the model {model.name!r} breaks a promise: {broken}. {remedy}")


def tried(
    model: Model, promises: tuple[Promise, ...], params: Params, hyper: Hyper, ratings: Any
) -> dict[Promise, Verdict]:
    """Which of these promises the model keeps, with the arguments of `check_promises`."""
    sample = _sample(params, hyper, ratings)
    program, failures = _program(_bare(model), promises)
    # A model that reads beyond its rows makes NaN here, and is then refused for it.
    with jax.debug_nans(False), jax.debug_infs(False), jax.default_matmul_precision("highest"):
        pairs = jax.device_get(program(sample))
    limit = float(jnp.finfo(sample.ratings.value.dtype).eps) ** 0.5
    verdicts = {}
    for number, promise in enumerate(promises):
        errors = jax.tree_util.tree_leaves_with_path(jax.tree.map(_error, *pairs.get(number, ((), ()))))
        far = [jax.tree_util.keystr(path, simple=True, separator=".") for path, error in errors if not error <= limit]
        if number in failures:
            verdicts[promise] = Verdict(False, "some leaf", f" ({failures[number]})")
        else:
            verdicts[promise] = Verdict(not far, far[0] if far else "")
    return verdicts


@of_model
def _verdicts(model: Model, structure: Any) -> dict[Any, Verdict]:
    """What is known of the functions of a bare model, with parameters and numbers of this structure."""
    return {}


@of_model
def _program(model: Model, promises: tuple[Promise, ...]) -> tuple[Callable[[Sample], Any], dict[int, str]]:
    """The program for what these promises compare, by their numbers; and, once it is traced, what Python raised."""
    failures: dict[int, str] = {}

    def program(sample: Sample) -> dict[int, Any]:
        pairs = {}
        for number, promise in enumerate(promises):
            try:
                pairs[number] = promise.trial(model, sample)
            except Exception as error:
                failures[number] = f"{type(error).__name__}: {error}".partition("\n")[0]
        return pairs

    return jax.jit(program, compiler_options=IN_A_HURRY), failures


def _bare(model: Model) -> Model:
    """The functions that trials call, so that models which differ in nothing else share what was found."""
    parts: dict[str, Any] = {name: None for name in Model._fields if name not in _PARTS}
    return model._replace(**parts)


def _error(found: Any, expected: Any) -> float:
    """The largest difference over the largest number; of two numbers that are both NaN nothing is known."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    both = np.isfinite(found) | np.isfinite(expected)
    if found.shape != expected.shape or not both.any():
        return 0.0 if found.shape == expected.shape else np.inf
    found, expected = found[both], expected[both]
    size = max(np.abs(found).max(), np.abs(expected).max())
    with np.errstate(invalid="ignore"):
        return 0.0 if size == 0 else float(np.abs(found - expected).max() / size)


def _sample(params: Params, hyper: Hyper, ratings: Any) -> Sample:
    random = np.random.default_rng(0)
    own = getattr(ratings, "value", None)
    columns = (ratings.user, ratings.item, ratings.rating if own is None else own)
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
    """Numbers at random in the shapes of trained ones; p·q is about 1 at any width, for a loss that is exponential."""

    def draw(leaf: Any) -> jax.Array:
        width = max(1, leaf.shape[-1]) if len(leaf.shape) > 1 else 1
        return jnp.asarray((random.random(leaf.shape, np.float32) * 3 - 1.5) * width**-0.25, leaf.dtype)

    return jax.tree.map(draw, trained)
