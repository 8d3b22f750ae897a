"""A random order without a sort."""

import jax
import jax.numpy as jnp

from jaxmf.models.draws import GOLDEN, hash32

_ROUNDS, _OF_FEW = 8, 16  # of few positions, whose hashes have few values, fewer rounds would prefer some orders
_FEW = 4096


def shuffle(key: jax.Array, n: jax.typing.ArrayLike, size: int) -> jax.Array:
    """A pseudorandom permutation of 0, …, n − 1 in O(size) elementwise work; what lies behind it stays in place.

    Positions are written as (column, row), rows a power of 2 and rows × columns ≥ n near a square, and a Feistel
    network adds hashes of the one to the other in turn, each round a bijection; what lands at n or beyond goes round
    again.
    `jax.random.permutation` sorts instead, which on a CPU takes longer than the gradients of the epoch that it orders.

    Args:
      key: a random key; its own words are hashed, so that every epoch should have a key of its own.
      n: how many positions to permute, at least 1 and below 2³¹. It may be traced.
      size: static length of the result, at least n, which does not change the order.

    Returns:
      (size,) int32.

    Reference: Black and Rogaway (2002), Ciphers with arbitrary finite domains (generalized Feistel, cycle walking).

    >>> shuffle(jax.random.key(0), 5, 7).tolist()[5:]
    [5, 6]
    """
    n = jnp.asarray(n, jnp.uint32)
    half = (33 - jax.lax.clz(n - 1)) // 2  # bits of the rows' number
    rows = jnp.uint32(1) << half
    columns = (n + rows - 1) >> half
    salts = jnp.arange(1, 2 * _OF_FEW + 1, dtype=jnp.uint32).reshape(_OF_FEW, 2) * jnp.uint32(GOLDEN)
    for word in jax.random.key_data(key):
        salts = hash32(salts, word)

    def turn(number: jax.Array, place: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        row, column = place
        row = (row + hash32(column, salts[number, 0])) & (rows - 1)
        column = column + ((hash32(row, salts[number, 1]) >> 16) * columns >> 16)
        return row, jnp.where(column < columns, column, column - columns)

    def permute(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        order, again = state
        rounds = jnp.where(n < _FEW, _OF_FEW, _ROUNDS)
        row, column = jax.lax.fori_loop(0, rounds, turn, (order & (rows - 1), order >> half))
        order = jnp.where(again, (column << half) | row, order)
        return order, again & (order >= n)

    place = jnp.arange(size, dtype=jnp.uint32)
    order, _ = jax.lax.while_loop(lambda state: jnp.any(state[1]), permute, (place, place < n))
    return order.astype(jnp.int32)
