"""Check before a fit that a user's own functions ignore ratings of weight 0, which are held out or padding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import how_built
from jaxmf.kernels.programs import jit, of_model
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.models.trial import drawn_rows


def check_init(model: Model, initialize: Callable[[Ratings], Params], ratings: Ratings) -> None:
    """Raise ValueError if a user's model starts differently when ratings of weight 0 change. Runs once per model.

    Args:
      model: the model; one that a constructor of jaxmf returned is not checked here, but in the tests.
      initialize: returns the model's initial parameters for given ratings.
      ratings: the ratings to try it on; nothing is checked unless some of them have weight 0.
    """
    if how_built(model) is not None:
        return
    passed = _passed(model)
    if "init" in passed or np.asarray(ratings.weight).all():
        return
    if not _equal(initialize(ratings), initialize(_changed(ratings))):
        raise ValueError(
            f"init of the model {model.name!r} reads ratings of weight 0, which are held out or padding: multiply by "
            "ratings.weight, as in jaxmf.metrics.weighted_mean(ratings.value, ratings.weight) for their mean"
        )
    passed.add("init")


def check_score(monitor: Callable[[Params, Ratings], jax.Array], shape: Params, valid: Ratings) -> None:
    """Raise ValueError if a monitor gives parameters of this shape another score when ratings of weight 0 change."""
    passed = _passed(monitor)
    structure = jax.tree.structure(shape)
    if structure in passed or np.asarray(valid.weight).all():
        return
    random = np.random.default_rng(0)
    params = Params(*(drawn_rows(random, rows) for rows in shape))
    with jax.debug_nans(False), jax.debug_infs(False):
        scores = [_compiled(monitor)(params, ratings) for ratings in (valid, _changed(valid))]
    if not _equal(*scores):
        raise ValueError(
            "monitor reads ratings of weight 0, which are held out or padding: multiply by ratings.weight, as in "
            "jaxmf.metrics.weighted_mean(error, ratings.weight) for a mean"
        )
    passed.add(structure)


def _changed(ratings: Ratings) -> Ratings:
    """Return the ratings with another user, item, value and context where the weight is 0."""
    absent = ratings.weight == 0
    index = jnp.where(absent, 0, jnp.arange(len(absent)))
    return replace(
        ratings,
        context=jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], ratings.context),
        user=jnp.where(absent, ratings.num_users - 1, ratings.user),
        item=jnp.where(absent, ratings.num_items - 1, ratings.item),
        value=jnp.where(absent, ratings.value + 1, ratings.value),
    )


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact)) for a, b in pairs)


@of_model
def _passed(function: Any) -> set[Any]:
    """Return the set of checks that a function has passed, which the callers add to."""
    return set()


@of_model
def _compiled(monitor: Callable[[Params, Ratings], jax.Array]) -> Any:
    return jit(monitor)
