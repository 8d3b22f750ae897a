"""Pytrees of floats and other numbers, of which only the floats have derivatives."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split_floats(tree: Any) -> tuple[list[jax.Array], Any]:
    """The leaves that have derivatives, and the tree without them."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    others = [None if has else leaf for has, leaf in zip(real, leaves, strict=True)]
    return [leaf for has, leaf in zip(real, leaves, strict=True) if has], (structure, others)


def join_floats(floats: list[jax.Array], others: Any) -> Any:
    """The inverse of `split_floats`."""
    structure, leaves = others
    left: Iterator[jax.Array] = iter(floats)
    return jax.tree.unflatten(structure, [next(left) if leaf is None else leaf for leaf in leaves])


def no_slopes(others: Any) -> Any:
    """The tree without its floats, with the slopes that JAX expects for what has no derivative."""
    structure, leaves = others
    return structure, [None if leaf is None else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]
