"""A random order without a sort."""

import math

import jax
import jax.numpy as jnp

_ROUNDS = 8


def shuffle(key: jax.Array, n: int) -> jax.Array:
    """A pseudorandom permutation of 0, …, n − 1, int32 (n,), in O(n) elementwise work.

    Positions are written as (row, column) in the smallest rows × columns ≥ n near a square, and a Feistel network adds
    hashes of the one to the other in turn, each round a bijection; what lands at n or beyond goes round again.
    `jax.random.permutation` sorts instead, which on a CPU takes longer than the gradients of the epoch that it orders.

    Args:
      key: a random key.
      n: static number of positions, at least 1 and below 2³¹.

    Reference: Black and Rogaway (2002), Ciphers with arbitrary finite domains (generalized Feistel, cycle walking).

    >>> sorted(shuffle(jax.random.key(0), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    salts = jax.random.bits(key, (_ROUNDS, 2), "uint32")

    def turn(place: tuple[jax.Array, jax.Array], salt: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        row, column = place
        row = (row + _hash(column, salt[0]) % rows) % rows
        column = (column + _hash(row, salt[1]) % columns) % columns
        return (row, column), None

    def permute(position: jax.Array) -> jax.Array:
        (row, column), _ = jax.lax.scan(turn, (position // columns, position % columns), salts)
        return row * columns + column

    order = permute(jnp.arange(n, dtype=jnp.uint32))
    order = jax.lax.while_loop(lambda x: jnp.any(x >= n), lambda x: jnp.where(x >= n, permute(x), x), order)
    return order.astype(jnp.int32)


def _hash(x: jax.Array, salt: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby, 2011) of x ^ salt, uint32."""
    x = x ^ salt
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
