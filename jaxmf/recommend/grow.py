"""Extend the tables of a model by rows for new users and items: zeros to be solved for, means and features."""

from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from jaxmf.data.checks import listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.exact import as_ids
from jaxmf.data.ids import match, repeated
from jaxmf.models.features import SparseRows, as_matrix, to_device
from jaxmf.models.params import Params, Rows


def grown(who: str, params: Params, data: Dataset, new: Dataset, features: pd.DataFrame | None) -> Params:
    """Return the tables on the host, with a row appended for each user and item of `new` that `data` does not have.

    Trained rows are 0; a user's mean is that of their ratings in `new`; an item's content is its row of `features`.
    """
    host: Params = jax.tree.map(np.asarray, params)
    users, items = new.num_users - data.num_users, new.num_items - data.num_items
    trained = Rows(_longer(host.trained.user, users), _longer(host.trained.item, items), host.trained.shared)
    user, item = host.fixed.user, host.fixed.item
    if users and jax.tree.leaves(user):
        _expect_only(who, "user", user, "mean")
        weight = np.ones(len(new)) if new.weight is None else new.weight
        sums = (np.bincount(new.user, w, new.num_users)[data.num_users :] for w in (weight * new.rating, weight))
        total, count = sums
        user = {"mean": np.append(user["mean"], (total / count).astype(user["mean"].dtype))}
    if features is not None and "content" not in item:
        raise ValueError(f"{who}: features are of no use to a model without content: omit features=")
    if items and jax.tree.leaves(item):
        _expect_only(who, "item", item, "content")
        dense = not isinstance(item["content"], SparseRows)
        width = item["content"].shape[1] if dense else params.trained.user["content"].shape[1]
        extended = _content(who, new.item_ids[data.num_items :], features, width, item["content"])
        item = {"content": extended}
    return Params(trained, Rows(user, item, host.fixed.shared))


def _longer(rows: Any, count: int) -> Any:
    """Append `count` rows of zeros to the tables."""
    return jax.tree.map(lambda leaf: np.append(leaf, np.zeros((count, *leaf.shape[1:]), leaf.dtype), axis=0), rows)


def _content(who: str, ids: pd.Index, features: pd.DataFrame | None, width: int, content: Any) -> Any:
    """Append the features of new items to those of the model."""
    if features is None:
        raise ValueError(
            f"{who}: the model uses features of the items, and there are {len(ids)} new item(s), such as "
            f"{listed(ids[:3].tolist())}: pass features=, a table indexed by item id with {width} columns"
        )
    index = as_ids(features.index)
    if repeats := repeated(index):
        raise ValueError(f"{who}: features has more than one row for item {listed(repeats)}; expected one each")
    position = match(index, ids)
    if (position < 0).any():
        raise ValueError(
            f"{who}: features has no row for {(position < 0).sum()} new item(s): {listed(ids[position < 0].tolist())}; "
            "expected one row each, of zeros if nothing is known"
        )
    chosen = features.iloc[position]
    sparse = all(isinstance(dtype, pd.SparseDtype) for dtype in chosen.dtypes)
    try:
        matrix = as_matrix(chosen.sparse.to_coo() if sparse else chosen.to_numpy())
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    if matrix.shape[1] != width:
        raise ValueError(
            f"{who}: features has {matrix.shape[1]} columns; expected {width}, as the model was built with"
        )
    if not isinstance(content, SparseRows):
        dense = matrix.toarray() if sparse else matrix
        return np.append(content, dense.astype(content.dtype), axis=0)
    appended: Any = to_device(matrix if sparse else csr_array(matrix), content.value.dtype)
    longest = max(content.column.shape[1], appended.column.shape[1])

    def joined(old: Any, new: Any) -> Any:
        """Append rows to rows, both padded with zeros to the longest row."""
        return np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in map(np.asarray, (old, new))])

    return SparseRows(joined(content.column, appended.column), joined(content.value, appended.value))


def _expect_only(who: str, side: str, fixed: Any, name: str) -> None:
    """Raise ValueError unless `name` is the only fixed leaf of a side."""
    leaves = sorted(fixed) if isinstance(fixed, dict) else [type(fixed).__name__]
    if leaves != [name]:
        raise ValueError(
            f"{who}: the model holds {', '.join(leaves)} fixed for each {side}, which is not known of new ones (only "
            f"{name!r} would be): first append their rows to params.fixed.{side} and zeros to params.trained.{side}, "
            f"and extend the data, then use update"
        )
