"""The best items for each user, in the caller's ids."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.dataset import Dataset
from jaxmf.data.ids import as_ids, distinct, factorize
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
    """The n items of highest prediction r̂ for each user; of equal predictions the item of the lower number comes first.

    Args:
      model: the model.
      params: its parameters.
      train: the ratings that it was fitted with: their ids, and the items that a user has seen.
      users: ids of the users to answer, in the order of the answer; None for all of `train`, in the order of user_ids.
      n: how many items per user.
      candidates: ids of the items to choose from, each counted once; None for all of `train`, rated or not.
      filter_seen: leave out the items that the user has rated in `train`.
      on_unknown: what to do about ids, of users or candidates, that `train` does not know. "error" refuses them; "drop"
        leaves them out; "bias" takes the terms that are known, as of a row of zeros: an unknown user gets the items of
        the highest item bias, an unknown item is worth the mean and the user's bias. A UserWarning then says how many
        there are. With the model's `design`, `fold_in` does better by their ratings or features.
      max_memory: bytes for the scores that are held at once, of one block of users at least; None is 4 MiB per core,
        which stays in the cache, or 256 MiB on an accelerator.

    Returns:
      a table with the columns user_id, item_id, rank (from 1) and score (r̂, not clipped, in the dtype of the
      parameters), users in the order asked for, the best item first. Where fewer than n items are left, fewer rows.
      `table.attrs` counts the unknown ids: {"unknown_users", "unknown_candidates"}.

    Raises:
      ValueError: an argument of another type, an unknown id, `train` over another number of users or items than the
        model has, parameters that are not finite, numbers out of range, on_unknown="bias" for a model that
        `jaxmf.predict` refuses for it, or a user's model whose predictions read other rows than those of the users, and
        of the candidates, that are asked for (`jaxmf.models.promises`).

    Cost: O(num_items · D) per user for rows of D numbers, by matrix products, and one pass over the scores; `train` is
    sorted by user in O(num_ratings). Programs are compiled by sizes rounded up to a short list, so that calls of
    similar size share them.

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
    user, user_ids, unknown_users = _numbers(model, params, train, "user", users, on_unknown)
    item, item_ids, unknown_items = _numbers(model, params, train, "item", candidates, on_unknown)
    if candidates is not None:
        # A set, in the order of the items' numbers; unknown ones stand last, in the order of the call.
        first = np.sort(np.unique(factorize(item_ids)[0], return_index=True)[1])
        first = first[np.argsort(item[first], kind="stable")]
        item, item_ids = item[first], item_ids[first]
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
    found = best(predictions, n, max_memory)
    keep = is_column(found.score)
    row, rank = np.nonzero(keep)
    table = pd.DataFrame(
        {
            "user_id": user_ids[row],
            "item_id": item_ids[found.column[keep]],
            "rank": rank + 1,
            "score": np.asarray(linked(model, found.score[keep])),
        }
    )
    table.attrs = {"unknown_users": unknown_users, "unknown_candidates": unknown_items}
    return table


def _numbers(
    model: Model, params: Params, train: Dataset, side: Side, ids: Iterable[Any] | None, on_unknown: OnUnknown
) -> tuple[np.ndarray, pd.Index, int]:
    """Numbers of ids, unknown ones that are kept being the count of rows, the ids, and how many are unknown."""
    known = train.user_ids if side == "user" else train.item_ids
    if ids is None:
        return np.arange(len(known)), known, 0
    find = train.user_index if side == "user" else train.item_index
    if not pd.api.types.is_list_like(ids):
        find(ids)  # says that it takes a list
    wanted = as_ids(ids).rename(known.name)
    number = positions(known, wanted, side)
    unknown = number < 0
    if not unknown.any():
        return number, known[number], 0
    if on_unknown == "error":
        try:
            find(wanted)
        except ValueError as error:
            raise refusal("top_n", error) from None
    if on_unknown == "bias":
        check_zeros("top_n", model, params, [side])
    named = distinct(wanted[unknown]).tolist()
    count = len(named)
    what = "user" if side == "user" else "candidate"
    then = "left out" if on_unknown == "drop" else "recommended by the terms that are known"
    warnings.warn(
        f"top_n: {count} of {len(distinct(wanted))} {what}s unknown to train and {then}: {listed(named)}",
        stacklevel=3,
    )
    if on_unknown == "drop":
        return number[~unknown], known[number[~unknown]], count
    return np.where(unknown, len(known), number), wanted, count


def _seen(train: Dataset, user: np.ndarray, item: np.ndarray) -> Cells:
    """The pairs (place in `user`, place in `item`) that `train` has rated, by place in `user`."""
    count = np.bincount(train.user, minlength=train.num_users + 1)  # and none of an unknown user
    own = train.item
    if (np.diff(train.user) < 0).any():
        own = own[np.argsort(train.user, kind="stable")]
    if len(user) == train.num_users and np.array_equal(user, np.arange(train.num_users)):
        row = np.repeat(np.arange(len(user)), count[:-1])
    else:
        start = np.cumsum(count) - count
        row = np.repeat(np.arange(len(user)), count[user])
        before = np.cumsum(count[user]) - count[user]
        own = own[np.arange(len(row)) - before[row] + start[user][row]]
    if len(item) == train.num_items and np.array_equal(item, np.arange(train.num_items)):
        return Cells(row, own)
    place = np.full(train.num_items, -1)
    known = item < train.num_items
    place[item[known]] = np.flatnonzero(known)
    column = place[own]
    return Cells(row[column >= 0], column[column >= 0])


def _users(params: Params, user: np.ndarray, mean: float) -> Callable[[np.ndarray], Any]:
    """The rows of users by place in `user`; a row of zeros, with `mean` for a user's mean, beyond the tables."""
    num_users = len(user)

    def rows(place: np.ndarray) -> Any:
        number = user[np.minimum(place, num_users - 1)].astype(np.int32)
        trained, fixed = _gather(params.trained.user, params.fixed.user, number)
        if "mean" in fixed:
            own = np.asarray(fixed["mean"])
            fixed = fixed | {"mean": np.where(number < len(params.fixed.user["mean"]), own, own.dtype.type(mean))}
        return number, trained, fixed

    return rows


@jit
def _gather(trained: Any, fixed: Any, index: jax.Array) -> tuple[Any, Any]:
    """Rows of two trees of tables; 0 beyond them."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, index, axis=0, mode="fill", fill_value=0), (trained, fixed))


@of_model
def _score(model: Model) -> Callable[[Any, Any], jax.Array]:
    """r̂ of gathered users and gathered items: a batch is the same model on gathered rows."""

    def score(users: Any, catalog: Any) -> jax.Array:
        (user_number, user, fixed_user), (item_number, item, fixed_item, shared, fixed_shared) = users, catalog
        params = Params(Rows(user, item, shared), Rows(fixed_user, fixed_item, fixed_shared))
        return scores(model, params, jnp.arange(len(user_number)), len(item_number))

    return score


def _cell_bytes(model: Model, params: Params) -> int:
    """Bytes for one score: a number, and without `embed` the products that it is a sum of."""
    largest = max((leaf.dtype.itemsize for leaf in jax.tree.leaves(params)), default=4)
    if model.embed is not None:
        return largest
    rows = jax.tree.leaves((params.trained[:2], params.fixed[:2]))
    return largest * (1 + max((leaf[:1].size for leaf in rows), default=0))
