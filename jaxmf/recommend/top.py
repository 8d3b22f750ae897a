"""Recommend the best items for each user, in the caller's ids."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.exact import as_ids
from jaxmf.data.ids import distinct, factorize
from jaxmf.data.ratings import Side, padded_size
from jaxmf.data.unknown import OnUnknown, check_on_unknown, positions, refusal
from jaxmf.kernels.programs import jit, of_model
from jaxmf.models._scores import linked, scores
from jaxmf.models.model import Model
from jaxmf.models.params import Params, Rows
from jaxmf.models.unknown import check_zeros, mean_of_unknown
from jaxmf.recommend._best import Cells, Scores, best, is_column
from jaxmf.recommend.checks import check_fitted, check_rankable, check_sizes


def top_n(
    model: Model,
    params: Params,
    train: Dataset,
    users: Iterable[Any] | None = None,
    n: int = 10,
    candidates: Iterable[Any] | None = None,
    filter_seen: bool = True,
    on_unknown: OnUnknown = "error",
    max_memory: int | None = None,
) -> pd.DataFrame:
    """Return the n items of highest prediction r̂ for each user; among equal ones the lower item index comes first.

    Args:
      model: the model.
      params: its parameters.
      train: the ratings that the model was fitted with: their ids, and the items that each user has seen.
      users: ids of the users, in the order of the result; None for all of `train`, in the order of user_ids.
      n: number of items per user.
      candidates: ids of the items to choose from, repeats ignored; None for all items of `train`, rated or not.
      filter_seen: whether to leave out the items that the user has rated in `train`.
      on_unknown: how to treat ids, of users or candidates, that `train` does not know. "error" raises ValueError;
        "drop" leaves them out; "bias" predicts with a row of zeros: an unknown user gets the items of highest item
        bias, and the score of an unknown item is the mean plus the user's bias. "drop" and "bias" issue a UserWarning
        with the number of unknown ids. If the model has a `design`, `fold_in` uses the ratings or features of the
        unknown ids and predicts better.
      max_memory: bytes of scores held at once, at least for one user; None for 4 MiB per core, which stay in the cache,
        or 256 MiB on an accelerator.

    Returns:
      a table with the columns user_id, item_id, rank (from 1) and score (r̂, not clipped, in the dtype of the
      parameters), in the order of `users`, the best item first. A user with fewer than n items left has fewer rows.
      `table.attrs` counts the unknown ids: {"unknown_users", "unknown_candidates"}.

    Raises:
      ValueError: an argument of the wrong type, an unknown id, `train` with a different number of users or items than
        the model, parameters that are not finite, numbers out of range, on_unknown="bias" for a model for which
        `jaxmf.predict` refuses it, or a user-defined model whose predictions read rows other than those of the given
        users and candidates (`jaxmf.models.promises`).

    Cost: O(num_items · D) per user for rows of D numbers, by matrix products, and one pass over the scores; `train` is
    sorted by user in O(num_ratings). Programs are compiled for a short list of sizes, so that calls of similar size
    share them.

    >>> import jax, jaxmf
    >>> train = jaxmf.Dataset.from_arrays(["ann", "ann", "bob"], ["x", "y", "z"], [5.0, 3.0, 4.0])
    >>> model = jaxmf.models.damped_bias()
    >>> params = model.init(None, train.ratings, jaxmf.Hyper())
    >>> jaxmf.recommend.top_n(model, params, train, users=["ann", "bob"], n=1)[["user_id", "item_id", "rank"]]
      user_id item_id  rank
    0     ann       z     1
    1     bob       x     1
    """
    check_fitted("top_n", model, params, train)
    check_sizes("top_n", n, max_memory)
    check_on_unknown("top_n", on_unknown)
    user, user_ids, unknown_users = _indices(model, params, train, "user", users, on_unknown)
    item, item_ids, unknown_items = _indices(model, params, train, "item", candidates, on_unknown)
    if candidates is not None:
        # Without repeats, in the order of item indices; unknown items come last, in the order of the call.
        kept = np.sort(np.unique(factorize(item_ids)[0], return_index=True)[1])
        kept = kept[np.argsort(item[kept], kind="stable")]
        item, item_ids = item[kept], item_ids[kept]
    if not len(item):
        raise ValueError("top_n: no candidates are left to choose from; name items of train, or None for all of them")
    check_rankable(model, params, train, candidates is not None)

    width = padded_size(len(item), 1)
    catalog = np.full(width, train.num_items, np.int32)
    catalog[: len(item)] = item
    shared = params.trained.shared, params.fixed.shared
    predictions = Scores(
        _score(model),
        _users(params, user, mean_of_unknown(params, train.user)),
        (catalog, *_gather(params.trained.item, params.fixed.item, catalog), *shared),
        len(user),
        len(item),
        _seen(train, user, item) if filter_seen else Cells(np.zeros(0, np.int64), np.zeros(0, np.int64)),
        _cell_bytes(model, params),
    )
    top_items = best(predictions, n, max_memory)
    ranked = is_column(top_items.score)
    row, rank = np.nonzero(ranked)
    table = pd.DataFrame(
        {
            "user_id": user_ids[row],
            "item_id": item_ids[top_items.column[ranked]],
            "rank": rank + 1,
            "score": np.asarray(linked(model, top_items.score[ranked])),
        }
    )
    table.attrs = {"unknown_users": unknown_users, "unknown_candidates": unknown_items}
    return table


def _indices(
    model: Model, params: Params, train: Dataset, side: Side, ids: Iterable[Any] | None, on_unknown: OnUnknown
) -> tuple[np.ndarray, pd.Index, int]:
    """Return the indices of the kept ids (of unknown ones the number of rows), these ids, and how many are unknown."""
    known = train.user_ids if side == "user" else train.item_ids
    if ids is None:
        return np.arange(len(known)), known, 0
    find = train.user_index if side == "user" else train.item_index
    if not pd.api.types.is_list_like(ids):
        find(ids)  # raises ValueError, which says that it takes a list
    wanted = as_ids(ids).rename(known.name)
    index = positions(known, wanted, side)
    unknown = index < 0
    if not unknown.any():
        return index, known[index], 0
    if on_unknown == "error":
        try:
            find(wanted)
        except ValueError as error:
            raise refusal("top_n", error) from None
    if on_unknown == "bias":
        check_zeros("top_n", model, params, [side])
    unknown_ids = distinct(wanted[unknown]).tolist()
    count = len(unknown_ids)
    role = "user" if side == "user" else "candidate"
    treatment = "left out" if on_unknown == "drop" else "scored from the known terms"
    total, shown = len(distinct(wanted)), listed(unknown_ids)
    warnings.warn(f"top_n: {count} of {total} {role}s are unknown to train and {treatment}: {shown}", stacklevel=3)
    if on_unknown == "drop":
        return index[~unknown], known[index[~unknown]], count
    return np.where(unknown, len(known), index), wanted, count


def _seen(train: Dataset, user: np.ndarray, item: np.ndarray) -> Cells:
    """Return the rated pairs of `train` as positions in `user` and in `item`, sorted by position in `user`."""
    count = np.bincount(train.user, minlength=train.num_users + 1)  # an unknown user has none
    rated = train.item
    if (np.diff(train.user) < 0).any():
        rated = rated[np.argsort(train.user, kind="stable")]
    if len(user) == train.num_users and np.array_equal(user, np.arange(train.num_users)):
        row = np.repeat(np.arange(len(user)), count[:-1])
    else:
        start = np.cumsum(count) - count
        row = np.repeat(np.arange(len(user)), count[user])
        before = np.cumsum(count[user]) - count[user]
        rated = rated[np.arange(len(row)) - before[row] + start[user][row]]
    if len(item) == train.num_items and np.array_equal(item, np.arange(train.num_items)):
        return Cells(row, rated)
    column_of = np.full(train.num_items, -1)
    known = item < train.num_items
    column_of[item[known]] = np.flatnonzero(known)
    column = column_of[rated]
    return Cells(row[column >= 0], column[column >= 0])


def _users(params: Params, user: np.ndarray, mean: float) -> Callable[[np.ndarray], Any]:
    """Return a function from positions in `user` to rows; an unknown user has rows of zeros, and `mean` as mean."""
    num_users = len(user)

    def gather_users(position: np.ndarray) -> Any:
        index = user[np.minimum(position, num_users - 1)].astype(np.int32)
        trained, fixed = _gather(params.trained.user, params.fixed.user, index)
        if "mean" in fixed:
            means = np.asarray(fixed["mean"])
            fixed = fixed | {"mean": np.where(index < len(params.fixed.user["mean"]), means, means.dtype.type(mean))}
        return index, trained, fixed

    return gather_users


@jit
def _gather(trained: Any, fixed: Any, index: jax.Array) -> tuple[Any, Any]:
    """Gather rows of two pytrees of tables; rows beyond them are 0."""
    tables = trained, fixed
    rows: tuple[Any, Any] = jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="fill", fill_value=0), tables)
    return rows


@of_model
def _score(model: Model) -> Callable[[Any, Any], jax.Array]:
    """Return the scores of gathered users and items: a batch is the same model on gathered rows."""

    def score(users: Any, catalog: Any) -> jax.Array:
        (user_index, user, fixed_user), (item_index, item, fixed_item, shared, fixed_shared) = users, catalog
        params = Params(Rows(user, item, shared), Rows(fixed_user, fixed_item, fixed_shared))
        return scores(model, params, jnp.arange(len(user_index)), len(item_index))

    return score


def _cell_bytes(model: Model, params: Params) -> int:
    """Return the bytes of memory for one score: a number, and without `embed` also the products that it sums."""
    largest = max((leaf.dtype.itemsize for leaf in jax.tree.leaves(params)), default=4)
    if model.embed is not None:
        return largest
    rows = jax.tree.leaves((params.trained[:2], params.fixed[:2]))
    return largest * (1 + max((leaf[:1].size for leaf in rows), default=0))
