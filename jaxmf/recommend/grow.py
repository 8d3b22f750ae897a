"""Tables with rows for new users and new items: zeros, until they are solved, and what is known of them."""

from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from jaxmf.data.checks import listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.ids import as_ids, match, repeated
from jaxmf.models.features import SparseRows, as_matrix, to_device
from jaxmf.models.params import Params, Rows


def grown(who: str, params: Params, data: Dataset, new: Dataset, features: pd.DataFrame | None) -> Params:
    """The tables on the host, behind those of `data` a row for each further user and item of `new`.

    Trained rows are 0; a user's mean is that of their ratings in `new`; content is that of `features`, by item id.
    """
    host = jax.tree.map(np.asarray, params)
    users, items = new.num_users - data.num_users, new.num_items - data.num_items
    trained = Rows(_longer(host.trained.user, users), _longer(host.trained.item, items), host.trained.shared)
    user, item = host.fixed.user, host.fixed.item
    if users and jax.tree.leaves(user):
        _expect_only(who, "user", user, "mean")
        total, count = (np.bincount(new.user, w, new.num_users)[data.num_users :] for w in (new.rating, None))
        user = {"mean": np.append(user["mean"], (total / count).astype(user["mean"].dtype))}
    if features is not None and "content" not in item:
        raise ValueError(f"{who}: features are of no use to a model without content: drop features=")
    if items and jax.tree.leaves(item):
        _expect_only(who, "item", item, "content")
        width = params.trained.user["content"].shape[1]
        more = _content(who, new.item_ids[data.num_items :], features, width, item["content"])
        item = {"content": more}
    return Params(trained, Rows(user, item, host.fixed.shared))


def _longer(rows: Any, count: int) -> Any:
    """Tables with so many rows of 0 behind them."""
    return jax.tree.map(lambda leaf: np.append(leaf, np.zeros((count, *leaf.shape[1:]), leaf.dtype), axis=0), rows)


def _content(who: str, ids: pd.Index, features: pd.DataFrame | None, width: int, content: Any) -> Any:
    """The model's features with those of new items behind them."""
    if features is None:
        raise ValueError(
            f"{who}: the model weighs features of the items, and there are {len(ids)} new item(s), such as "
            f"{listed(ids[:3].tolist())}: pass features=, a table indexed by item id with {width} columns"
        )
    index = as_ids(features.index)
    if again := repeated(index):
        raise ValueError(f"{who}: features has more than one row for item {listed(again)}: expected one")
    place = match(index, ids)
    if (place < 0).any():
        raise ValueError(
            f"{who}: features has no row for {(place < 0).sum()} new item(s): {listed(ids[place < 0].tolist())}; "
            "expected one each, of zeros where nothing is known"
        )
    own = features.iloc[place]
    sparse = all(isinstance(dtype, pd.SparseDtype) for dtype in own.dtypes)
    try:
        matrix = as_matrix(own.sparse.to_coo() if sparse else own.to_numpy())
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    if matrix.shape[1] != width:
        raise ValueError(f"{who}: features has {matrix.shape[1]} columns, the model was built with {width} features")
    if not isinstance(content, SparseRows):
        dense = matrix.toarray() if sparse else matrix
        return np.append(content, dense.astype(content.dtype), axis=0)
    more: Any = to_device(matrix if sparse else csr_array(matrix), content.value.dtype)
    longest = max(content.column.shape[1], more.column.shape[1])

    def joined(old: Any, new: Any) -> Any:
        return np.concatenate([np.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in map(np.asarray, (old, new))])

    return SparseRows(joined(content.column, more.column), joined(content.value, more.value))


def _expect_only(who: str, side: str, fixed: Any, name: str) -> None:
    """ValueError unless this is the only leaf that each row of a side has, fixed."""
    found = sorted(fixed) if isinstance(fixed, dict) else [type(fixed).__name__]
    if found != [name]:
        raise ValueError(
            f"{who}: the model holds {', '.join(found)} fixed for each {side}, which is unknown of new ones (only "
            f"{name!r} is not): append their rows to params.fixed.{side} and zeros to params.trained.{side} first, and "
            f"extend the data, then use update"
        )
