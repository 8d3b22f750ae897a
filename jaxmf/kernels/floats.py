"""Split pytrees into floats, which have derivatives, and other numbers, which have none."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split_floats(tree: Any) -> tuple[list[jax.Array], Any]:
    """Return the leaves that have derivatives, and the rest of the tree, for `join_floats`."""
    leaves, structure = jax.tree.flatten(tree)
    real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    others = [None if has else leaf for has, leaf in zip(real, leaves, strict=True)]
    return [leaf for has, leaf in zip(real, leaves, strict=True) if has], (structure, others)


def join_floats(floats: list[jax.Array], others: Any) -> Any:
    """Undo `split_floats`."""
    structure, leaves = others
    remaining: Iterator[jax.Array] = iter(floats)
    return jax.tree.unflatten(structure, [next(remaining) if leaf is None else leaf for leaf in leaves])


def no_slopes(others: Any) -> Any:
    """Return the rest of a split tree with the cotangents (float0) that JAX expects for leaves without derivatives."""
    structure, leaves = others
    return structure, [None if leaf is None else np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]
