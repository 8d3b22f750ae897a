"""A random order without a sort."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.kernels.draws import GOLDEN, hash32, salted

_ROUNDS = 16  # of few positions, whose hashes have few values, fewer rounds would prefer some orders
_WALKS = np.uint32(1 << 31)  # the bit of a position that has not arrived


def shuffle(key: jax.Array, n: jax.typing.ArrayLike, size: int) -> jax.Array:
    """A pseudorandom permutation of 0, …, n − 1 in O(size) elementwise work; what lies behind it stays in place.

    Positions are written as (column, row), rows a power of 2 and rows × columns ≥ n near a square, and a Feistel
    network adds hashes of the one to the other in turn, each round a bijection; what lands at n or beyond goes round
    again.
    `jax.random.permutation` sorts instead, which on a CPU takes longer than the gradients of the epoch that it orders.

    Args:
      key: a random key; its own words are hashed, so that every epoch should have a key of its own.
      n: how many positions to permute, at least 1 and at most 2³¹ − 2¹⁶. It may be traced.
      size: static length of the result, at least n, which does not change the order.

    Returns:
      (size,) int32.

    Reference: Black and Rogaway (2002), Ciphers with arbitrary finite domains (generalized Feistel, cycle walking).

    >>> shuffle(jax.random.key(0), 5, 7).tolist()[5:]
    [5, 6]
    """
    n = jnp.asarray(n, jnp.uint32)
    half = (33 - jax.lax.clz(n - 1)) >> 1  # bits of the rows' number
    columns = ((n - 1) >> half) + 1
    numbers = jnp.arange(1, 2 * _ROUNDS + 1, dtype=jnp.uint32).reshape(_ROUNDS, 2)
    salts = salted(key, numbers * jnp.uint32(GOLDEN))

    def turn(number: jax.Array, place: jax.Array) -> jax.Array:
        last = (jnp.uint32(1) << half) - 1
        row, column = place & last, place >> half
        row = (row + hash32(column, salts[number, 0])) & last
        column = column + ((hash32(row, salts[number, 1]) >> 16) * columns >> 16)
        return jnp.where(column < columns, column, column - columns) << half | row

    def walk(order: jax.Array) -> jax.Array:
        place = jax.lax.fori_loop(0, _ROUNDS, turn, order & (_WALKS - 1))
        return jnp.where(order >= _WALKS, place | jnp.where(place < n, 0, _WALKS), order)

    place = jnp.arange(size, dtype=jnp.uint32)
    order = jnp.where(place < n, place | _WALKS, place)
    return jax.lax.while_loop(lambda order: jnp.any(order >= _WALKS), walk, order).astype(jnp.int32)
