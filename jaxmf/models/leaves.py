"""The leaf names that mean something to the library, and all that they mean.

The last axis of `factors` is the rank: columns beyond the active one are 0 and stay so. Updates of `bias` are scaled to
`learning_rate_bias`, and λ_b is for biases.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Side
from jaxmf.models.params import Hyper, Rows

T = TypeVar("T")

FACTORS, BIAS = "factors", "bias"
# The leaves of which 0 says that nothing is known of a user or an item; a user's mean gives way to that of all.
NOTHING_AT_0: dict[Side, dict[str, tuple[str, ...]]] = {
    "user": {"trained": (FACTORS, BIAS, "content"), "fixed": ("mean",)},
    "item": {"trained": (FACTORS, BIAS), "fixed": ("content",)},
}


def has_bias(trained: Any) -> bool:
    """Whether some leaf is a bias."""
    return any(_is(BIAS, path) for path, _ in jax.tree_util.tree_leaves_with_path(trained))


def width(trained: Any) -> int | None:
    """Columns of the widest factors; None without any."""
    leaves = jax.tree_util.tree_leaves_with_path(trained)
    return max((leaf.shape[-1] for path, leaf in leaves if _is(FACTORS, path) and leaf.shape), default=None)


def map_factors(function: Callable[[Any], Any], trained: T) -> T:
    """The same tree with `function(leaf)` in place of each table of factors."""

    def mapped(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(leaf) if _is(FACTORS, path) and leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(mapped, trained)


def fill_beyond_rank(trained: T, rank: jax.typing.ArrayLike, number: float = 0) -> T:
    """The same tree with this number in the columns of factors beyond the active rank."""

    def filled(table: jax.Array) -> jax.Array:
        return jnp.where(jnp.broadcast_to(jnp.arange(table.shape[-1]) < rank, table.shape), table, number)

    return map_factors(filled, trained)


def update_scale(trained: Rows, hyper: Hyper) -> Rows:
    """What each update is multiplied by: for each leaf one row, (1, …), broadcastable to `trained`.

    `learning_rate_bias / learning_rate` for biases, 0 for the columns of factors beyond the active rank and 1
    elsewhere.
    """

    def scale(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        one = jnp.ones((1, *leaf.shape[1:]) if leaf.ndim else (), leaf.dtype)
        if _is(BIAS, path) and hyper.learning_rate_bias is not None:
            return one * (hyper.learning_rate_bias / hyper.learning_rate)
        return one

    scales = jax.tree_util.tree_map_with_path(scale, trained)
    return scales if hyper.rank is None else fill_beyond_rank(scales, hyper.rank)


def _is(name: str, path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path[-1:], simple=True) == name
