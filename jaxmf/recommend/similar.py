"""Neighbors by the direction of their factors, in the caller's ids."""

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
    """The n items of the most similar rows for each item, itself left out.

        similarity(i, j) = q_i·q_j / (‖q_i‖ ‖q_j‖)

    A row of zeros, as of an item without ratings, has no direction: it is similar to nothing, so it is nobody's
    neighbor and has none. Of equal similarities the item of the lower number comes first.

    Args:
      model: the model.
      params: its parameters.
      data: the Dataset that knows the ids the model was fitted with.
      items: ids of the items whose neighbors to find; None for all of `data`, in the order of item_ids.
      n: how many neighbors each.
      leaf: the name of the table to compare, in `params.trained.item` or `params.fixed.item`, of shape (num_items, k).
      max_memory: as in `top_n`.

    Returns:
      a table with the columns item_id, similar_item_id, rank (from 1) and similarity, in [-1, 1] up to rounding, in the
      dtype of the parameters.

    Raises:
      ValueError: an argument of another type, an unknown id, `data` over another number of users or items than the
        model has, parameters that are not finite, no such leaf, or a number out of range.

    Cost: O(num_items · k) per item, by matrix products.

    Reference: Sarwar, Karypis, Konstan and Riedl (2001), Item-based collaborative filtering recommendation algorithms,
    section 3.1.1, on factors in place of ratings.
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
    """The n users of the most similar rows for each user, as `similar_items` does for items.

    Args:
      model, params, data, n, max_memory: as in `similar_items`.
      users: ids of the users whose neighbors to find; None for all of `data`, in the order of user_ids.
      leaf: the name of the table to compare, in `params.trained.user` or `params.fixed.user`.

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
    check_sizes(who, n, max_memory)
    known = data.user_ids if side == "user" else data.item_ids
    find = data.user_index if side == "user" else data.item_index
    asked = np.arange(len(known)) if ids is None else find(ids)
    rows = np.asarray(_table(who, params, side, leaf))
    length = np.sqrt(np.sum(rows * rows, axis=1, keepdims=True))
    directed = np.flatnonzero(length[:, 0] > 0)
    unit = rows[directed] / length[directed]
    place = np.full(len(known), -1)
    place[directed] = np.arange(len(directed))
    own = place[asked[place[asked] >= 0]]

    catalog = np.zeros((padded_size(len(unit), 1), unit.shape[1]), unit.dtype)
    catalog[: len(unit)] = unit
    itself = Cells(np.arange(len(own)), own)
    queries = lambda block: unit[own[np.minimum(block, len(own) - 1)]]  # noqa: E731
    similarity = Scores(_cosine, queries, jnp.asarray(catalog), len(own), len(unit), itself, unit.dtype.itemsize)
    found = best(similarity, n, max_memory)
    row, rank = np.nonzero(is_column(found.score))
    return pd.DataFrame(
        {
            f"{side}_id": known[directed[own[row]]],
            f"similar_{side}_id": known[directed[found.column[row, rank]]],
            "rank": rank + 1,
            "similarity": found.score[row, rank],
        }
    )


def _cosine(queries: jax.Array, catalog: jax.Array) -> jax.Array:
    return jnp.matmul(queries, catalog.T, precision="highest")


def _table(who: str, params: Params, side: Side, leaf: str) -> Any:
    """The leaf of this name, one row each."""
    trained, fixed = getattr(params.trained, side), getattr(params.fixed, side)
    found = {name: rows[name] for rows in (fixed, trained) if isinstance(rows, dict) for name in rows}
    tables = [name for name, rows in found.items() if getattr(rows, "ndim", 0) == 2]
    if leaf not in tables:
        raise ValueError(
            f"{who}: the {side}s have no table {leaf!r} with one row each; expected one of {tables or 'none'}: name it "
            "in leaf="
        )
    return found[leaf]
