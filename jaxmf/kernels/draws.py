"""Random numbers from hashes of their positions: a few operations; `jax.random` compiles for as long as an epoch."""

import jax
import jax.numpy as jnp

# A CPU computes the last numbers of a row one by one where they do not fill a vector, and may round them differently.
# So each row is padded to whole vectors: a number then has the same bits in tables of every width.
_LANES = 16
GOLDEN = 0x9E3779B9  # 2³² over the golden ratio: its multiples are far apart


def normal(key: jax.Array, num_rows: int, num_columns: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Draw standard normal numbers (num_rows, num_columns); each depends only on the key, its row and its column.

    So a smaller table drawn with the same key equals the top left part of a larger one. Row and column are hashed with
    the words of the key to a uniform u in (−1, 1) with 32 bits, and z = √2 erf⁻¹(u).

    >>> bool((normal(jax.random.key(0), 3, 5, "float32")[:2, :4] == normal(jax.random.key(0), 2, 4, "float32")).all())
    True
    """
    width = -(-num_columns // _LANES) * _LANES
    column = jnp.arange(1, width + 1, dtype=jnp.uint32) * jnp.uint32(GOLDEN)
    salts = salted(key, column), salted(key, ~column)
    row = jnp.arange(num_rows, dtype=jnp.uint32)[:, None]
    # Two rounds: after one, columns whose salts differ in few bits would hold the same numbers in a different order.
    bits = hash32(hash32(row, salts[0][None]), salts[1][None])
    wide = jnp.promote_types(dtype, jnp.float32)
    # The midpoint of one of 2³² equal parts of (−1, 1), kept away from −1 and 1 by the resolution of the dtype.
    uniform = (bits.astype(jnp.int32).astype(wide) + 0.5) * 2.0**-31
    limit = 1 - float(jnp.finfo(wide).epsneg)
    table = (2**0.5 * jax.lax.erf_inv(jnp.clip(uniform, -limit, limit))).astype(dtype)
    whole_vectors: jax.Array = jax.lax.optimization_barrier(table)
    return whole_vectors[:, :num_columns]


def integers(key: jax.Array, bound: jax.Array, num_columns: int) -> jax.Array:
    """Draw integers (n, num_columns), int32, uniformly from 0, …, bound − 1 of each row, for bounds (n,) up to 2³¹.

    Each is ⌊bound · h / 2³²⌋ for a hash h of its row, its column and the key, so that no number is more likely than
    another by more than bound / 2³². With bound 0 it is 0.
    """
    column = salted(key, jnp.arange(1, num_columns + 1, dtype=jnp.uint32) * jnp.uint32(GOLDEN))
    row = jnp.arange(len(bound), dtype=jnp.uint32)[:, None]
    bits = hash32(hash32(row, column[None]), ~column[None])
    bound = bound.astype(jnp.uint32)[:, None]
    # The upper half of the product of 32 and 32 bits, from products of 16 and 16.
    low, high = bits & 0xFFFF, bits >> 16
    bound_low, bound_high = bound & 0xFFFF, bound >> 16
    middle = high * bound_low + (low * bound_low >> 16)
    carry = low * bound_high + (middle & 0xFFFF)
    return (high * bound_high + (middle >> 16) + (carry >> 16)).astype(jnp.int32)


def salted(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Hash the numbers, uint32, with each word of the key."""
    for word in jax.random.key_data(key):
        numbers = hash32(numbers, word)
    return numbers


def hash32(x: jax.Array, salt: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby, 2011) of x ^ salt, uint32: a bijection of x."""
    x = x ^ salt
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
