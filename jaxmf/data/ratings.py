"""`Ratings`: the observed ratings on the device, the only way in which data get there from the host."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Side = Literal["user", "item"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Users and items to predict for, a pytree. Functions that take `Pairs` also take `Ratings`.

    Attributes:
      user: (n,) int32, index of each pair's user.
      item: (n,) int32, index of each pair's item.
      context: further data about each pair, as in `Ratings`.
    """

    user: jax.Array
    item: jax.Array
    context: dict[str, Any] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ratings:
    """Observed ratings in coordinate (COO) form, a pytree.

    Attributes:
      user: (n,) int32, index of each observation's user.
      item: (n,) int32, index of each observation's item.
      value: (n,) float, the rating r. A rating of 0 is data.
      weight: (n,) float, w: 1 for an observation unless the data say otherwise, 0 for padding or a held-out one.
      num_users: number of users (static), at least max(user) + 1.
      num_items: number of items (static), at least max(item) + 1.
      context: further data that a model reads about each observation, such as its time bin: arrays (n, …) by name,
        which are gathered, padded and laid out along with the other leaves.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    weight: jax.Array
    num_users: int = field(metadata={"static": True})
    num_items: int = field(metadata={"static": True})
    context: dict[str, Any] = field(default_factory=dict)


def pairs_of(ratings: Ratings) -> Pairs:
    """Return the pairs of the ratings, without values and weights."""
    return Pairs(ratings.user, ratings.item, ratings.context)


def take(ratings: Ratings, index: jax.Array) -> Ratings:
    """Gather the observations at positions `index`, of any shape; positions beyond the last give padding of weight 0.

    >>> r = Ratings(jnp.array([0, 1]), jnp.array([1, 0]), jnp.array([3., 4.]), jnp.ones(2), 2, 2)
    >>> take(r, jnp.array([1, 2])).weight.tolist()
    [1.0, 0.0]
    """
    inside = index < ratings.value.shape[0]
    gathered: Ratings = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), ratings)
    return replace(gathered, weight=jnp.where(inside, gathered.weight, 0))


def padded_size(n: int, least: int = 1024) -> int:
    """Round n up to the next of a few sizes, so that few programs are compiled.

    Every size is a multiple of `least`. From 8 · `least` on, there are eight sizes per factor of 2, so that at most an
    eighth is padding.

    >>> [padded_size(n) for n in (1, 1024, 1025, 100_000, 1_000_000)]
    [1024, 1024, 2048, 106496, 1048576]
    """
    step = size_step(n, least)
    return -(-n // step) * step


def size_step(n: int, least: int = 1024) -> int:
    """Return the distance between the sizes of `padded_size` around n; `padded_size` adds less than this to n."""
    return max(least, 1 << max(0, (n - 1).bit_length() - 4))


def power_of_4(n: int) -> int:
    """Round n up to a power of 4, at least 16: for sizes that vary much between calls and whose padding is cheap.

    >>> [power_of_4(n) for n in (0, 16, 17, 65)]
    [16, 16, 64, 256]
    """
    power: int = 4 ** -(-(n - 1).bit_length() // 2)
    return max(16, power)


def padded(ratings: Ratings) -> Ratings:
    """Pad the ratings to `padded_size`, on the host.

    Padding repeats ratings from the first one on, with weight 0: a loss may be undefined for any other pairs and
    values, as the logarithm of a rating is for 0.
    """
    size = padded_size(len(ratings.value))
    more = size - len(ratings.value)
    if more == 0:
        return ratings

    def moved(array: np.ndarray, like: Any) -> jax.Array:
        return jax.device_put(array, like.sharding) if getattr(like, "committed", False) else jnp.asarray(array)

    index = np.arange(size) % len(ratings.value)
    repeated: Ratings = jax.tree.map(lambda leaf: moved(np.asarray(leaf)[index], leaf), ratings)
    return replace(repeated, weight=moved(np.pad(np.asarray(ratings.weight), (0, more)), ratings.weight))


def counts(ratings: Ratings) -> tuple[jax.Array, jax.Array]:
    """Return the weighted number of observations per user, n_u (num_users,), and per item, n_i (num_items,).

    In float32 a count cannot grow beyond 2²⁴.
    """
    n_u = jax.ops.segment_sum(ratings.weight, ratings.user, ratings.num_users)
    n_i = jax.ops.segment_sum(ratings.weight, ratings.item, ratings.num_items)
    return n_u, n_i


def cast(ratings: Ratings, dtype: jax.typing.DTypeLike) -> Ratings:
    """Return the ratings with values and weights cast to `dtype`."""
    return replace(ratings, value=jnp.asarray(ratings.value, dtype), weight=jnp.asarray(ratings.weight, dtype))


def to_float64(tree: Any) -> Any:
    """Return a pytree with its floating leaves in float64; call it under `jax.enable_x64(True)`."""

    def convert(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.device_put(jax.tree.map(convert, tree))
