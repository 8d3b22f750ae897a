"""What has weight 0, be it held out or padding, has no say: tried with a user's own functions before a fit."""

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
    """ValueError if a user's model starts otherwise where ratings of weight 0 are others. Tried once per model.

    Args:
      model: the model; those that a constructor of jaxmf returned are excused, as the tests try them.
      initialize: its initial parameters for ratings.
      ratings: where it is tried, if some of them have weight 0.
    """
    if how_built(model) is not None:
        return
    tried = _tried(model)
    if "init" in tried or np.asarray(ratings.weight).all():
        return
    if not _alike(initialize(ratings), initialize(_others(ratings))):
        raise ValueError(
            f"init of the model {model.name!r} reads ratings of weight 0, which are held out or padding: multiply by "
            "ratings.weight, as in jaxmf.metrics.weighted_mean(ratings.value, ratings.weight) for their mean"
        )
    tried.add("init")


def check_score(monitor: Callable[[Params, Ratings], jax.Array], shape: Params, valid: Ratings) -> None:
    """ValueError if a monitor of such parameters gives another number where ratings of weight 0 are others."""
    tried = _tried(monitor)
    form = jax.tree.structure(shape)
    if form in tried or np.asarray(valid.weight).all():
        return
    random = np.random.default_rng(0)
    params = Params(*(drawn_rows(random, rows) for rows in shape))
    with jax.debug_nans(False), jax.debug_infs(False):
        scores = [_compiled(monitor)(params, each) for each in (valid, _others(valid))]
    if not _alike(*scores):
        raise ValueError(
            "monitor reads ratings of weight 0, which are held out or padding: multiply by ratings.weight, as in "
            "jaxmf.metrics.weighted_mean(error, ratings.weight) for a mean"
        )
    tried.add(form)


def _others(ratings: Ratings) -> Ratings:
    """The ratings with another user, item, value and context where the weight is 0."""
    absent = ratings.weight == 0
    first = jnp.where(absent, 0, jnp.arange(len(absent)))
    return replace(
        ratings,
        context=jax.tree.map(lambda leaf: jnp.asarray(leaf)[first], ratings.context),
        user=jnp.where(absent, ratings.num_users - 1, ratings.user),
        item=jnp.where(absent, ratings.num_items - 1, ratings.item),
        value=jnp.where(absent, ratings.value + 1, ratings.value),
    )


def _alike(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=jnp.issubdtype(a.dtype, jnp.inexact)) for a, b in pairs)


@of_model
def _tried(function: Any) -> set[Any]:
    return set()


@of_model
def _compiled(monitor: Callable[[Params, Ratings], jax.Array]) -> Any:
    return jit(monitor)
