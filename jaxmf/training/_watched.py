"""The ranking that a fit watches: a fixed sample of validation users, over all items that they have not trained on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.draws import hash32
from jaxmf.models._scores import scores
from jaxmf.models.model import Model
from jaxmf.models.params import Params

_USERS = 200  # at most
_CELLS = 1 << 26  # users × items of the masks, at most, in bytes
_BLOCK_CELLS = 1 << 20  # users × items that are scored at once
_PROBES = 16  # relevant items per user whose positions count for "auc"
_SEED = 0x6A61786D


class Watched(NamedTuple):
    """A sample of m users, and what they have chosen.

    Attributes:
      user: (m,) the users.
      hidden: (m, num_items) bool, the items of training weight above 0, which are not candidates.
      relevant: (m, num_items) bool, the candidates of validation weight and rating above 0.
    """

    user: jax.Array
    hidden: jax.Array
    relevant: jax.Array


def watched(train: Ratings, valid: Ratings) -> Watched:
    """Return the sample: up to 200 users with validation ratings above 0, the same for all fits to these ratings.

    It reads the weights, so that it follows the folds, also inside `jit` and under `vmap`. Cost: O(n), and masks of
    m × num_items bytes, at most 64 MiB each.
    """
    num_users, num_items = train.num_users, train.num_items
    m = max(1, min(num_users, _USERS, _CELLS // num_items))
    chosen = (valid.weight > 0) & (valid.value > 0)
    any_chosen = jax.ops.segment_max(chosen.astype(jnp.int32), valid.user, num_users)
    order = hash32(jnp.arange(num_users, dtype=jnp.uint32), jnp.uint32(_SEED)) >> 2
    order = order.astype(jnp.int32) + jnp.where(any_chosen > 0, 1 << 30, 0)
    user = jax.lax.top_k(order, m)[1]
    slot = jnp.full(num_users, m, jnp.int32).at[user].set(jnp.arange(m, dtype=jnp.int32))

    def mask(ratings: Ratings, included: jax.Array) -> jax.Array:
        rows = jnp.where(included, slot[ratings.user], m)
        return jnp.zeros((m, num_items), bool).at[rows, ratings.item].set(True, mode="drop")

    hidden = mask(train, train.weight > 0)
    return Watched(user, hidden, mask(valid, chosen) & ~hidden)


def ranking(model: Model, params: Params, sample: Watched, measure: str, k: int) -> jax.Array:
    """Return the mean of a measure over the users who have a relevant item, by the formulas of `evaluate.ranking`.

    Ties go to the item of lower index, where `evaluate.ranking` takes the expectation. "auc" looks at 16 of a user's
    relevant items at most. Derivatives are 0.

    Cost: O(m · num_items · D) for m users, a few milliseconds.
    """
    m, num_items = sample.hidden.shape
    params = jax.lax.stop_gradient(params)

    def one(row: Watched) -> tuple[jax.Array, jax.Array]:
        score = scores(model, params, row.user[None], num_items)[0]
        score = jnp.where(row.hidden, jnp.finfo(score.dtype).min, score)
        total = jnp.sum(row.relevant)
        value = _auc(score, row) if measure == "auc" else _at_the_top(score, row, total, measure, min(k, num_items))
        return value, total > 0

    values, counted = jax.lax.map(one, sample, batch_size=max(1, min(m, _BLOCK_CELLS // num_items)))
    mean: jax.Array = jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(counted), 1)
    return mean


def _at_the_top(score: jax.Array, row: Watched, total: jax.Array, measure: str, k: int) -> jax.Array:
    """Return the ndcg, recall or average precision of one user's first k items."""
    gain = row.relevant[jax.lax.top_k(score, k)[1]].astype(score.dtype)
    position = jnp.arange(1, k + 1, dtype=score.dtype)
    total = jnp.maximum(total, 1).astype(score.dtype)
    if measure == "recall":
        return jnp.sum(gain) / total
    if measure == "map":
        return jnp.sum(gain * jnp.cumsum(gain) / position) / jnp.minimum(total, k)
    discount = 1 / jnp.log2(1 + position)
    return jnp.sum(gain * discount) / jnp.sum(jnp.where(position <= total, discount, 0))


def _auc(score: jax.Array, row: Watched) -> jax.Array:
    """Return the share of pairs of a relevant and an irrelevant candidate in the right order, where a tie counts ½."""
    item = jnp.arange(len(score), dtype=jnp.uint32)
    order = (hash32(item, jnp.uint32(_SEED)) >> 2).astype(jnp.int32)
    chance, probe = jax.lax.top_k(jnp.where(row.relevant, order, -1), min(_PROBES, len(score)))
    irrelevant = ~(row.relevant | row.hidden)[None]
    below = jnp.sum(irrelevant & (score[None] < score[probe][:, None]), axis=1)
    level = jnp.sum(irrelevant & (score[None] == score[probe][:, None]), axis=1)
    share = (below + level / 2) / jnp.maximum(jnp.sum(irrelevant), 1)
    return jnp.sum(jnp.where(chance >= 0, share, 0)) / jnp.maximum(jnp.sum(chance >= 0), 1)
