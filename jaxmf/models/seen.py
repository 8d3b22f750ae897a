"""The items that each user has rated, and items drawn from those that a user has not rated."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.kernels.draws import GOLDEN, integers

_TRIES = 4  # draws by popularity before a uniform draw


class Seen(NamedTuple):
    """The items that each user has rated with weight above 0, each once: a pytree.

    Attributes:
      first: (num_users + 1,) the index in `item` of each user's first item, and the end of the last user's items.
      item: (n,) the items, sorted by user and item, followed by padding.
      num_users: (num_items,) the number of users who have rated each item, int32.
    """

    first: jax.Array
    item: jax.Array
    num_users: jax.Array


def seen_of(ratings: Ratings) -> Seen:
    """Return the items that each user has rated. Cost: O(n log n).

    It reads the weights, so that ratings held out by a fold are not seen, also inside `jit` and under `vmap`.
    """
    user = jnp.where(ratings.weight > 0, ratings.user, ratings.num_users)
    user, item = jax.lax.sort((user, ratings.item), num_keys=2)
    repeated = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    kept = (user < ratings.num_users) & ~jnp.pad(repeated, (1, 0))
    slot = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, len(user))
    item = jnp.zeros_like(item).at[slot].set(item, mode="drop", unique_indices=True)
    count = jax.ops.segment_sum(kept.astype(jnp.int32), user, ratings.num_users)
    first = jnp.pad(jnp.cumsum(count, dtype=jnp.int32), (1, 0))
    inside = jnp.where(jnp.arange(len(item)) < first[-1], 1, 0).astype(jnp.int32)
    return Seen(first, item, jax.ops.segment_sum(inside, item, ratings.num_items))


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
    position = _bisect(seen, user, lambda _, seen_item: seen_item < item)
    rated: jax.Array = (position < seen.first[user + 1]) & (seen.item.at[position].get(mode="clip") == item)
    return rated


def draw_unseen(
    key: jax.Array,
    user: jax.Array,
    seen: Seen,
    num_items: int,
    num_draws: int,
    popularity: float = 0.0,
    dtype: jax.typing.DTypeLike = float,
) -> tuple[jax.Array, jax.Array]:
    """Draw items that users have not rated, with replacement, and return how many of each item are to be expected.

    With β = `popularity` = 0, all items that the user has not rated are equally likely; there is no rejection, but the
    r-th of them is looked up, with r uniform. With β > 0, an item is drawn with a probability proportional to n_i^β,
    where n_i is the number of users who have rated it, at least 1; if the user has rated it, another is drawn, up to
    four times, and then uniformly. A user who has rated every item gets an arbitrary item.

    Args:
      key: the random key.
      user: (n,) the users.
      seen: the items that each user has rated.
      num_items: number of items.
      num_draws: number of items to draw for each user.
      popularity: β ≥ 0, static.
      dtype: of the logarithms.

    Returns:
      items (n, num_draws), int32, and the logarithms of their expected numbers among these draws, (n, num_draws):
      num_draws / (number of items not rated), or num_draws · n_i^β / Σ n_j^β, as if no draw were repeated.

    Cost: per draw O(log n); with popularity four times that, and O(num_items) per call.

    >>> import jax, jaxmf
    >>> data = jaxmf.datasets.synthetic(num_users=6, num_items=8, num_ratings=20)
    >>> seen = seen_of(data.ratings)
    >>> items, _ = draw_unseen(jax.random.key(0), jnp.arange(6), seen, 8, 50)
    >>> bool(is_seen(seen, jnp.arange(6)[:, None], items).any())
    False
    """
    free = num_items - (seen.first[user + 1] - seen.first[user])
    uniform = _nth_unseen(seen, user[:, None], integers(key, free, num_draws))
    uniform = jnp.minimum(uniform, num_items - 1)
    log_expected = jnp.log(num_draws / jnp.maximum(free, 1).astype(dtype))[:, None]
    if popularity == 0:
        return uniform, jnp.broadcast_to(log_expected, uniform.shape)
    share = jnp.maximum(seen.num_users, 1).astype(log_expected.dtype) ** popularity
    cumulative = jnp.cumsum(share)

    def retry(index: jax.Array, items: jax.Array) -> jax.Array:
        bits = integers(jax.random.fold_in(key, index), jnp.full(len(user), GOLDEN >> 1), num_draws)
        point = bits.astype(share.dtype) / (GOLDEN >> 1) * cumulative[-1]
        drawn = jnp.minimum(jnp.searchsorted(cumulative, point, side="right"), num_items - 1).astype(jnp.int32)
        return jnp.where(is_seen(seen, user[:, None], drawn), items, drawn)

    items = jax.lax.fori_loop(0, _TRIES, retry, uniform)
    return items, jnp.log(num_draws * share[items] / cumulative[-1])


def _nth_unseen(seen: Seen, user: jax.Array, n: jax.Array) -> jax.Array:
    """Return the n-th item, from 0, that each user has not rated, with broadcasting.

    Before the k-th item that a user has rated, s_k, there are s_k − k others. So the n-th other item is n + k, where k
    is the number of rated items with s_k − k ≤ n.
    """
    user, n = jnp.broadcast_arrays(user, n)
    first = seen.first[user]
    return n + _bisect(seen, user, lambda position, item: item - (position - first) <= n) - first


def _bisect(seen: Seen, user: jax.Array, before: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Return the position of the first of each user's items for which `before(position, item)` is false."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) // 2
        left = before(middle, seen.item.at[middle].get(mode="clip"))
        open_interval = low < high
        return jnp.where(open_interval & left, middle + 1, low), jnp.where(open_interval & ~left, middle, high)

    bounds = seen.first[user], seen.first[user + 1]
    position: jax.Array = jax.lax.fori_loop(0, len(seen.item).bit_length(), halve, bounds)[0]
    return position
