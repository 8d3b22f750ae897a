"""What the exact and the approximate half-step of ALS share: how they see the rows and the ratings of a slab."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.ratings import Ratings, Side
from jaxmf.kernels.array_types import Array, Float, Int
from jaxmf.kernels.slabs import Part
from jaxmf.kernels.tiles import Half
from jaxmf.models.least_squares import design_rows
from jaxmf.models.params import Params
from jaxmf.models.protocols import Design


class View(NamedTuple):
    """How the rows of one side are seen and solved; static.

    Attributes:
      design: of the model.
      side: whose rows.
      steps: number of conjugate gradient steps, or None for the exact minimum.
      part_rows: rows of a tile that are worked on at once, by the width of slabs; divisors of the rows of a tile.
    """

    design: Design
    side: Side
    steps: int | None
    part_rows: tuple[int, ...]


def gather_rows(table: Float[Array, "num_rows D"], rows: Int[Array, " m"], fill: int) -> Float[Array, "m D"]:
    """Gather rows of a table in the dtype of sums, at least float32, and `fill` where a tile has no row."""
    dtype = jnp.promote_types(table.dtype, jnp.float32)
    return table.at[rows].get(mode="fill", fill_value=fill).astype(dtype)


def slab_of(
    view: View, params: Params, cells: Ratings, dtype: Any
) -> tuple[Float[Array, "*cells D"], Float[Array, "*cells"], Float[Array, "*cells"]]:
    """Return design rows, targets and weights of cells."""
    design, target = design_rows(view.design, params, cells, view.side)
    return design.astype(dtype), target.astype(dtype), cells.weight.astype(dtype)


def weighted_slab(
    view: View, params: Params, cells: Ratings, dtype: Any
) -> tuple[Float[Array, "m width D"], Float[Array, "m width"]]:
    """Return design rows X and targets t of a slab, times √w."""
    design, target, weight = slab_of(view, params, cells, dtype)
    root = jnp.sqrt(weight)
    return root[..., None] * design, root * target


def write_rows(table: jax.Array, part: Part, z: jax.Array) -> jax.Array:
    """Write the rows of a part into the table of all rows of all tiles."""
    written: jax.Array = jax.lax.dynamic_update_slice_in_dim(table, z.astype(table.dtype), part.slot, 0)
    return written


def cotangent_of(half: Half, by_value: jax.Array, by_weight: jax.Array) -> Half:
    """Return a side's cotangent, which only the values and weights of its ratings have."""
    none: Half = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), half)
    return none._replace(cells=replace(none.cells, value=by_value, weight=by_weight))
