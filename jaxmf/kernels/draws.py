"""Random numbers by hashing where they stand: a few operations, where `jax.random` compiles for as long as an epoch."""

import jax
import jax.numpy as jnp

# A CPU rounds the same formula otherwise where it computes numbers one by one, as it does for what is left of a row
# beyond a multiple of its vectors. So all numbers are computed by whole vectors.
_LANES = 16
GOLDEN = 0x9E3779B9  # 2³² over the golden ratio: its multiples are far apart


def normal(key: jax.Array, num_rows: int, num_columns: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Standard normal numbers (num_rows, num_columns), each a function of the key, its row and its column alone.

    So a table's first columns, and its first rows, are those of a smaller table with the same key. The number's place
    is hashed with the words of the key to a uniform u in (−1, 1) of 32 bits, and z = √2 erf⁻¹(u).

    >>> bool((normal(jax.random.key(0), 3, 5, "float32")[:2, :4] == normal(jax.random.key(0), 2, 4, "float32")).all())
    True
    """
    width = -(-num_columns // _LANES) * _LANES
    column = jnp.arange(1, width + 1, dtype=jnp.uint32) * jnp.uint32(GOLDEN)
    salts = salted(key, column), salted(key, ~column)
    row = jnp.arange(num_rows, dtype=jnp.uint32)[:, None]
    # Two rounds: after one, two columns whose salts differ in few bits would hold the same numbers in another order.
    bits = hash32(hash32(row, salts[0][None]), salts[1][None])
    wide = jnp.promote_types(dtype, jnp.float32)
    # The middle of one of 2³² equal parts of (−1, 1), as far from its ends as the dtype can tell.
    uniform = (bits.astype(jnp.int32).astype(wide) + 0.5) * 2.0**-31
    limit = 1 - float(jnp.finfo(wide).epsneg)
    table = (2**0.5 * jax.lax.erf_inv(jnp.clip(uniform, -limit, limit))).astype(dtype)
    return jax.lax.optimization_barrier(table)[:, :num_columns]


def salted(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """The numbers, uint32, hashed with each word of the key."""
    for word in jax.random.key_data(key):
        numbers = hash32(numbers, word)
    return numbers


def hash32(x: jax.Array, salt: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby, 2011) of x ^ salt, uint32: a bijection of x."""
    x = x ^ salt
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
