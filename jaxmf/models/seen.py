"""The items that each user has rated, for models that draw items which a user has not rated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings


class Seen(NamedTuple):
    """The items that each user has rated with weight above 0, a pytree.

    Attributes:
      first: (num_users + 1,) the index in `item` of each user's first item, and the end of the last user's items.
      item: (n,) the items, sorted by user and item, followed by the items of ratings with weight 0.
    """

    first: jax.Array
    item: jax.Array


def seen_of(ratings: Ratings) -> Seen:
    """Return the items that each user has rated. Cost: O(n log n).

    It reads the weights, so that ratings held out by a fold are not seen, also inside `jit` and under `vmap`.
    """
    user = jnp.where(ratings.weight > 0, ratings.user, ratings.num_users)
    user, item = jax.lax.sort((user, ratings.item), num_keys=2)
    return Seen(jnp.searchsorted(user, jnp.arange(ratings.num_users + 1)).astype(jnp.int32), item)


def is_seen(seen: Seen, user: jax.Array, item: jax.Array) -> jax.Array:
    """Return whether each user has rated the item, bool, with broadcasting. Cost: O(log n) per pair, by bisection.

    >>> import jax.numpy as jnp, jaxmf
    >>> from jaxmf.models import is_seen, seen_of
    >>> data = jaxmf.datasets.synthetic(num_users=6, num_items=8, num_ratings=20)
    >>> every = is_seen(seen_of(data.ratings), jnp.arange(6)[:, None], jnp.arange(8))
    >>> int(every.sum()) == len(data)
    True
    """
    user, item = jnp.broadcast_arrays(user, item)
    low, end = seen.first[user], seen.first[user + 1]

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        left = seen.item.at[middle].get(mode="clip") < item
        open_interval = low < high
        return jnp.where(open_interval & left, middle + 1, low), jnp.where(open_interval & ~left, middle, high)

    low, _ = jax.lax.fori_loop(0, len(seen.item).bit_length(), halve, (low, end))
    rated: jax.Array = (low < end) & (seen.item.at[low].get(mode="clip") == item)
    return rated
