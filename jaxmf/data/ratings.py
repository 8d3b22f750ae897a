"""`Ratings`: the observed ratings on the device, the only door from host to device."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Side = Literal["user", "item"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Users and items to predict for, a pytree. `Ratings` are pairs too.

    Attributes:
      user: (n,) int32, row of each pair's user.
      item: (n,) int32, row of each pair's item.
      context: what else is known of each pair, as in `Ratings`.
    """

    user: jax.Array
    item: jax.Array
    context: dict[str, Any] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ratings:
    """Observed ratings in coordinate (COO) form, a pytree.

    Attributes:
      user: (n,) int32, row of each observation's user.
      item: (n,) int32, row of each observation's item.
      value: (n,) float, the rating r. A rating of 0 is data.
      weight: (n,) float, w: 1 for an observation, 0 for padding or a held-out one.
      num_users: number of users (static), at least max(user) + 1.
      num_items: number of items (static), at least max(item) + 1.
      context: what else a model reads of each observation, such as the bin of its time: arrays (n, …) by name, which
        are gathered, padded and laid out along with the rest.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    weight: jax.Array
    num_users: int = field(metadata={"static": True})
    num_items: int = field(metadata={"static": True})
    context: dict[str, Any] = field(default_factory=dict)


def pairs_of(ratings: Ratings) -> Pairs:
    """The pairs of ratings alone."""
    return Pairs(ratings.user, ratings.item, ratings.context)


def take(ratings: Ratings, index: jax.Array) -> Ratings:
    """The observations at positions `index`, any shape; positions beyond the last are padding of weight 0.

    >>> r = Ratings(jnp.array([0, 1]), jnp.array([1, 0]), jnp.array([3., 4.]), jnp.ones(2), 2, 2)
    >>> take(r, jnp.array([1, 2])).weight.tolist()
    [1.0, 0.0]
    """
    inside = index < ratings.value.shape[0]
    picked = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), ratings)
    return replace(picked, weight=jnp.where(inside, picked.weight, 0))


def padded_size(n: int, least: int = 1024) -> int:
    """The least size of a short ladder that is at least n: programs are compiled for these sizes, so that they are few.

    Every size is a multiple of `least`, and from eight times that on there are eight to an octave, so that at most an
    eighth is padding.

    >>> [padded_size(n) for n in (1, 1024, 1025, 100_000, 1_000_000)]
    [1024, 1024, 2048, 106496, 1048576]
    """
    step = size_step(n, least)
    return -(-n // step) * step


def size_step(n: int, least: int = 1024) -> int:
    """The distance of the sizes of the ladder around n, which is more than what `padded_size` adds to n."""
    return max(least, 1 << max(0, (n - 1).bit_length() - 4))


def power_of_4(n: int) -> int:
    """The least power of 4, from 16 on, that is at least n: for sizes that differ much among calls where room is cheap.

    >>> [power_of_4(n) for n in (0, 16, 17, 65)]
    [16, 16, 64, 256]
    """
    return max(16, 4 ** -(-(n - 1).bit_length() // 2))


def padded(ratings: Ratings) -> Ratings:
    """The ratings, and padding up to the next size of `padded_size`; on the host.

    Padding repeats ratings from the first on, with weight 0: a loss may be defined for no other pairs and values, as
    the logarithm of a rating is not for 0.
    """
    size = padded_size(len(ratings.value))
    more = size - len(ratings.value)
    if more == 0:
        return ratings

    def moved(array: np.ndarray, like: Any) -> jax.Array:
        return jax.device_put(array, like.sharding) if getattr(like, "committed", False) else jnp.asarray(array)

    place = np.arange(size) % len(ratings.value)
    longer = jax.tree.map(lambda leaf: moved(np.asarray(leaf)[place], leaf), ratings)
    return replace(longer, weight=moved(np.pad(np.asarray(ratings.weight), (0, more)), ratings.weight))


def counts(ratings: Ratings) -> tuple[jax.Array, jax.Array]:
    """Weighted number of observations per user, n_u (num_users,), and per item, n_i (num_items,).

    In float32 a row's number stops at 2²⁴.
    """
    n_u = jax.ops.segment_sum(ratings.weight, ratings.user, ratings.num_users)
    n_i = jax.ops.segment_sum(ratings.weight, ratings.item, ratings.num_items)
    return n_u, n_i


def cast(ratings: Ratings, dtype: jax.typing.DTypeLike) -> Ratings:
    """The same ratings with values and weights of `dtype`."""
    return replace(ratings, value=jnp.asarray(ratings.value, dtype), weight=jnp.asarray(ratings.weight, dtype))


def to_float64(tree: Any) -> Any:
    """A pytree with its floating leaves in float64, within `jax.enable_x64(True)`."""

    def convert(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.device_put(jax.tree.map(convert, tree))
