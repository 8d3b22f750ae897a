"""A random permutation without a sort."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.kernels.draws import GOLDEN, hash32, salted

_ROUNDS = 16  # with fewer rounds, some orders of few positions, whose hashes have few values, would be more likely
_WALKING = np.uint32(1 << 31)  # marks a position that has not arrived below n yet


def shuffle(key: jax.Array, n: jax.typing.ArrayLike, size: int) -> jax.Array:
    """Return a pseudorandom permutation of 0, …, n − 1, followed by n, …, size − 1 in order; O(size) elementwise work.

    Positions are written as (column, row) in a nearly square grid of rows × columns ≥ n cells, the number of rows being
    a power of 2. A Feistel network adds a hash of the column to the row and vice versa, so that each round is a
    bijection; a position that lands at n or beyond is permuted again. `jax.random.permutation` sorts instead, which
    takes longer on a CPU than the gradients of the epoch that it orders.

    Args:
      key: a random key, whose words are hashed: give every epoch its own.
      n: number of positions to permute, at least 1 and at most 2³¹ − 2¹⁶. It may be traced.
      size: static length of the result, at least n; it does not change the order.

    Returns:
      (size,) int32.

    Reference: Black and Rogaway (2002), Ciphers with arbitrary finite domains (generalized Feistel, cycle walking).

    >>> shuffle(jax.random.key(0), 5, 7).tolist()[5:]
    [5, 6]
    """
    n = jnp.asarray(n, jnp.uint32)
    half = (33 - jax.lax.clz(n - 1)) >> 1  # bits of the row index
    columns = ((n - 1) >> half) + 1
    numbers = jnp.arange(1, 2 * _ROUNDS + 1, dtype=jnp.uint32).reshape(_ROUNDS, 2)
    salts = salted(key, numbers * jnp.uint32(GOLDEN))

    def feistel_round(index: jax.Array, position: jax.Array) -> jax.Array:
        row_mask = (jnp.uint32(1) << half) - 1
        row, column = position & row_mask, position >> half
        row = (row + hash32(column, salts[index, 0])) & row_mask
        column = column + ((hash32(row, salts[index, 1]) >> 16) * columns >> 16)
        position = jnp.where(column < columns, column, column - columns) << half | row
        return position

    def walk(order: jax.Array) -> jax.Array:
        position = jax.lax.fori_loop(0, _ROUNDS, feistel_round, order & (_WALKING - 1))
        walked: jax.Array = jnp.where(order >= _WALKING, position | jnp.where(position < n, 0, _WALKING), order)
        return walked

    position = jnp.arange(size, dtype=jnp.uint32)
    order = jnp.where(position < n, position | _WALKING, position)
    permuted: jax.Array = jax.lax.while_loop(lambda order: jnp.any(order >= _WALKING), walk, order)
    return permuted.astype(jnp.int32)
