"""The leaf names that mean something to the library, and everything they mean.

The last axis of `factors` is the rank: columns beyond the active rank are 0 and stay 0. Updates of `bias` are scaled to
`learning_rate_bias`, and λ_b applies to biases.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Side
from jaxmf.models.params import Hyper, Rows

T = TypeVar("T")

FACTORS, BIAS = "factors", "bias"
# Leaves in which 0 means that nothing is known of a user or an item; a user's mean is replaced by the mean of all.
NOTHING_AT_0: dict[Side, dict[str, tuple[str, ...]]] = {
    "user": {"trained": (FACTORS, BIAS, "content"), "fixed": ("mean",)},
    "item": {"trained": (FACTORS, BIAS), "fixed": ("content",)},
}


def has_bias(trained: Any) -> bool:
    """Return whether some leaf is a bias."""
    return any(_is(BIAS, path) for path, _ in jax.tree_util.tree_leaves_with_path(trained))


def width(trained: Any) -> int | None:
    """Return the number of columns of the widest factors, or None without any."""
    leaves = jax.tree_util.tree_leaves_with_path(trained)
    return max((leaf.shape[-1] for path, leaf in leaves if _is(FACTORS, path) and leaf.shape), default=None)


def map_factors(function: Callable[[Any], Any], trained: T) -> T:
    """Apply `function` to each table of factors in the tree."""

    def mapped(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(leaf) if _is(FACTORS, path) and leaf.shape else leaf

    tree: T = jax.tree_util.tree_map_with_path(mapped, trained)
    return tree


def fill_beyond_rank(trained: T, rank: jax.typing.ArrayLike, number: float = 0) -> T:
    """Set the columns of factors beyond the active rank to a number."""

    def filled(table: jax.Array) -> jax.Array:
        return jnp.where(jnp.broadcast_to(jnp.arange(table.shape[-1]) < rank, table.shape), table, number)

    return map_factors(filled, trained)


def update_scale(trained: Rows, hyper: Hyper) -> Rows:
    """Return what each update is multiplied by: for each leaf one row, (1, …), broadcastable to `trained`.

    They are `learning_rate_bias / learning_rate` for biases, 0 for columns of factors beyond the active rank, and 1
    elsewhere.
    """

    def scale(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        one: jax.Array = jnp.ones((1, *leaf.shape[1:]) if leaf.ndim else (), leaf.dtype)
        if _is(BIAS, path) and hyper.learning_rate_bias is not None:
            one = one * (hyper.learning_rate_bias / hyper.learning_rate)
        return one

    scales: Rows = jax.tree_util.tree_map_with_path(scale, trained)
    return scales if hyper.rank is None else fill_beyond_rank(scales, hyper.rank)


def _is(name: str, path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path[-1:], simple=True) == name
