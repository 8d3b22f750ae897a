"""Baselines that a ranking must beat, each with one order of the items for all users."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Pairs, Ratings, counts
from jaxmf.metrics import weighted_mean
from jaxmf.models.baselines import damped_bias
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows

NAMES = ("random", "popularity", "item_mean", "damped_bias", "oracle")  # the oracle ranks by the test ratings


def baselines(train: Ratings) -> Iterator[tuple[str, tuple[Model, Params]]]:
    """Yield the name, model and parameters of each baseline, computed from the training ratings.

    - random: all scores are equal; since ties count with their expected value, this is the mean over random orders.
    - popularity: n_i, the item's weighted number of training ratings.
    - item_mean: Σ_u w r / n_i, and μ for an item without training ratings.
    - damped_bias: μ + b_u + c_i of `models.damped_bias()`: for one user, the order of the damped item means.
    """
    _, n_i = counts(train)
    total = jax.ops.segment_sum(train.weight * train.value, train.item, train.num_items)
    mean = jnp.where(n_i > 0, total / jnp.where(n_i > 0, n_i, 1), weighted_mean(train.value, train.weight))
    for name, score in (("random", jnp.zeros_like(n_i)), ("popularity", n_i), ("item_mean", mean)):
        yield name, (_BY_ITEM, Params(Rows(), Rows(item={"score": score})))
    yield "damped_bias", (damped_bias(), damped_bias().init(None, train, Hyper()))


def _predict(params: Params, pairs: Pairs) -> jax.Array:
    score: jax.Array = params.fixed.item["score"][pairs.item]
    return score


def _refuse(*_: object) -> jax.Array:
    raise NotImplementedError("a baseline is not trained")


_BY_ITEM = Model(_refuse, _predict, _refuse, _refuse, name="by_item")  # type: ignore[arg-type]
