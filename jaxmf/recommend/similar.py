"""Find neighbors by the cosine of their factors, in the caller's ids."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Side, padded_size
from jaxmf.models.leaves import FACTORS
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.recommend._best import Cells, Scores, best, is_column
from jaxmf.recommend.checks import check_fitted, check_sizes


def similar_items(
    model: Model,
    params: Params,
    data: Dataset,
    items: Iterable[Any] | None = None,
    n: int = 10,
    leaf: str = FACTORS,
    max_memory: int | None = None,
) -> pd.DataFrame:
    """Return the n most similar items for each item, excluding itself.

        similarity(i, j) = q_i·q_j / (‖q_i‖ ‖q_j‖)

    A row of zeros, as of an item without ratings, has no direction, so the item has no neighbors and is no neighbor.
    Among equal similarities, the item of lower index comes first.

    Args:
      model: the model.
      params: its parameters.
      data: the Dataset whose ids the model was fitted with.
      items: ids of the items whose neighbors to find; None for all of `data`, in the order of item_ids.
      n: number of neighbors per item.
      leaf: name of the table to compare, in `params.trained.item` or `params.fixed.item`, of shape (num_items, k).
      max_memory: as in `top_n`.

    Returns:
      a table with the columns item_id, similar_item_id, rank (from 1) and similarity, which is in [-1, 1] up to
      rounding and in the dtype of the parameters.

    Raises:
      ValueError: an argument of the wrong type, an unknown id, `data` with a different number of users or items than
        the model, parameters that are not finite, an unknown leaf, or a number out of range.

    Cost: O(num_items · k) per item, by matrix products.

    Reference: Sarwar, Karypis, Konstan and Riedl (2001), Item-based collaborative filtering recommendation algorithms,
    section 3.1.1, applied to factors instead of ratings.
    """
    check_fitted("similar_items", model, params, data, "data")
    return _similar("similar_items", params, data, "item", items, n, leaf, max_memory)


def similar_users(
    model: Model,
    params: Params,
    data: Dataset,
    users: Iterable[Any] | None = None,
    n: int = 10,
    leaf: str = FACTORS,
    max_memory: int | None = None,
) -> pd.DataFrame:
    """Return the n most similar users for each user, as `similar_items` does for items.

    Args:
      model, params, data, n, max_memory: as in `similar_items`.
      users: ids of the users whose neighbors to find; None for all of `data`, in the order of user_ids.
      leaf: name of the table to compare, in `params.trained.user` or `params.fixed.user`.

    Returns:
      a table with the columns user_id, similar_user_id, rank (from 1) and similarity.

    Raises:
      ValueError: as `similar_items`.

    Cost: O(num_users · k) per user, by matrix products.
    """
    check_fitted("similar_users", model, params, data, "data")
    return _similar("similar_users", params, data, "user", users, n, leaf, max_memory)


def _similar(
    who: str,
    params: Params,
    data: Dataset,
    side: Side,
    ids: Iterable[Any] | None,
    n: int,
    leaf: str,
    max_memory: int | None,
) -> pd.DataFrame:
    """Return the table of `similar_items` or `similar_users`."""
    check_sizes(who, n, max_memory)
    known = data.user_ids if side == "user" else data.item_ids
    find = data.user_index if side == "user" else data.item_index
    asked = np.arange(len(known)) if ids is None else find(ids)
    rows = np.asarray(_table(who, params, side, leaf))
    norm = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    nonzero = np.flatnonzero(norm[:, 0] > 0)
    unit = rows[nonzero] / norm[nonzero]
    column_of = np.full(len(known), -1)
    column_of[nonzero] = np.arange(len(nonzero))
    queried = column_of[asked[column_of[asked] >= 0]]

    catalog = np.zeros((padded_size(len(unit), 1), unit.shape[1]), unit.dtype)
    catalog[: len(unit)] = unit
    diagonal = Cells(np.arange(len(queried)), queried)

    def queries(block: np.ndarray) -> np.ndarray:
        rows: np.ndarray = unit[queried[np.minimum(block, len(queried) - 1)]]
        return rows

    similarity = Scores(_cosine, queries, jnp.asarray(catalog), len(queried), len(unit), diagonal, unit.dtype.itemsize)
    neighbors = best(similarity, n, max_memory)
    row, rank = np.nonzero(is_column(neighbors.score))
    return pd.DataFrame(
        {
            f"{side}_id": known[nonzero[queried[row]]],
            f"similar_{side}_id": known[nonzero[neighbors.column[row, rank]]],
            "rank": rank + 1,
            "similarity": neighbors.score[row, rank],
        }
    )


def _cosine(queries: jax.Array, catalog: jax.Array) -> jax.Array:
    return jnp.matmul(queries, catalog.T, precision="highest")


def _table(who: str, params: Params, side: Side, leaf: str) -> Any:
    """Return the leaf of this name, a table with one row per user or item."""
    trained, fixed = getattr(params.trained, side), getattr(params.fixed, side)
    leaves = {name: rows[name] for rows in (fixed, trained) if isinstance(rows, dict) for name in rows}
    tables = [name for name, rows in leaves.items() if getattr(rows, "ndim", 0) == 2]
    if leaf not in tables:
        raise ValueError(
            f"{who}: the {side}s have no table {leaf!r} with one row each; expected one of {tables or 'none'}: pass it "
            "as leaf="
        )
    return leaves[leaf]
