"""New users, new items and new ratings in a model that is fitted, without fitting it anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, refuse_rows
from jaxmf.data.dataset import Dataset
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.recommend.checks import check_fitted, check_foldable, check_solvable, check_sweeps
from jaxmf.recommend.grow import grown
from jaxmf.recommend.rows import Observed, solved


def fold_in(
    model: Model,
    params: Params,
    hyper: Hyper,
    data: Dataset,
    new_frame: pd.DataFrame | None,
    features: pd.DataFrame | None = None,
    sweeps: int = 1,
) -> tuple[Params, Dataset]:
    """New users and new items by their ratings, all at once; every row that was there keeps its bits.

    Each new row solves the least squares of `als` given the other side, so it is what one more half-step would give:
    new users by their ratings of known items, then new items by all of theirs, new users' too. Where new users have
    rated new items, `sweeps` more sweeps follow over the new rows, users then items, now by all of their ratings.
    n^ν is of a row's own new ratings; the mean μ stays, and `mf(center="user")` gives a new user the mean of their own.

    Cold start: an item that has features and no ratings gets a row of zeros, so that a model of content, such as
    `content_mf`, predicts its ratings by the features: r̂ = μ + b_u + a_u·x_i.

    Args:
      model: with a `design`, as the built-in ones have, however it was fitted.
      params: its parameters.
      hyper: λ, λ_b and ν, such as fit.hyper.
      data: the Dataset that knows the ids the model was fitted with.
      new_frame: columns user_id, item_id, rating and, if `data` has them, timestamp. In every row the user or the item
        is new. None for no ratings, only features.
      features: for a model of content, one row per new item, indexed by item id, its columns those of the features that
        the model was built with; of dense or of sparse dtype (`pandas.DataFrame.sparse.from_spmatrix`). Rows of known
        items are passed over.
      sweeps: of the new rows, where new users have rated new items.

    Returns:
      (params, data), for `top_n` and all else, with new ids behind the known ones.

    Raises:
      ValueError: an argument of another type, what `Dataset.extend` refuses, a row whose user and item are both known,
        new items without features in a model of content, a model without `design`, a user's model whose rows are not
        least squares of their own (`jaxmf.models.promises`), or λ or λ_b that is not positive.

    Cost: as a half-step of `als` over the new rows, in blocks of bounded memory. Programs are compiled by powers of
    2 of ratings per row, so that calls of similar size share them.

    Reference: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets, section 4; Zhou et
    al. (2008).

    >>> import jax, jaxmf, pandas as pd
    >>> data = jaxmf.datasets.synthetic(num_users=20, num_items=9, num_ratings=100).extend(None)
    >>> fit = jaxmf.fit(jax.random.key(0), jaxmf.models.biased_mf(2), jaxmf.solvers.als(), data, epochs=2)
    >>> new = pd.DataFrame({"user_id": [77, 77], "item_id": [1, 2], "rating": [5.0, 4.0], "timestamp": 0})
    >>> params, data = jaxmf.recommend.fold_in(fit.model, fit.params, fit.hyper, data, new)
    >>> jaxmf.recommend.top_n(fit.model, params, data, users=[77], n=3)["rank"].tolist()
    [1, 2, 3]
    """
    extended, new = _extended("fold_in", model, params, hyper, data, new_frame, features, sweeps)
    known = (new.user < data.num_users) & (new.item < data.num_items)
    if new_frame is not None:
        remedy = "these add to rows that fold_in must not change: use update, or drop them"
        refuse_rows(known, new_frame["rating"], "rating", "a user and an item that are both known", remedy)
    host = grown("fold_in", params, data, new, features)
    check_foldable("fold_in", model, params, hyper, data)
    users, items = np.arange(data.num_users, new.num_users), np.arange(data.num_items, new.num_items)
    return _on_device(_solved(model, host, new, hyper, users, items, data.num_items, sweeps)), extended


def update(
    model: Model,
    params: Params,
    hyper: Hyper,
    data: Dataset,
    new_frame: pd.DataFrame | None,
    features: pd.DataFrame | None = None,
    sweeps: int = 0,
) -> tuple[Params, Dataset]:
    """New ratings in a model that is fitted: the rows they touch are solved again, by all of their ratings.

    Users who have new ratings are solved given the items, then items that have some given the users; where a touched
    user has rated a new item, both once more, now by all ratings. Rows without new ratings keep their bits, unless
    `sweeps` of `als` over all rows follow. n^ν is of a row's ratings, old and new; μ stays, and known users'
    means do.

    Args:
      model, params, hyper, features: as in `fold_in`.
      data: the ratings that the model was fitted with.
      new_frame: as in `fold_in`; users and items may be known or new, but no pair rated already.
      sweeps: over all rows, users then items, after that.

    Returns:
      (params, data) with the new ratings behind the earlier ones.

    Raises:
      ValueError: as `fold_in`, but known pairs of a user and an item are welcome.

    Cost: as a half-step of `als` over the touched rows, and a sweep of it for each of `sweeps`.
    """
    extended, new = _extended("update", model, params, hyper, data, new_frame, features, sweeps)
    host = grown("update", params, data, new, features)
    check_foldable("update", model, params, hyper, data)
    users, items = np.unique(new.user), np.unique(new.item)
    host = _solved(model, host, extended, hyper, users, items, data.num_items, 1)
    observed, numbers = _observed(extended), _numbers(host, hyper)
    for _ in range(sweeps):
        host = solved(model, host, observed, numbers, "user", np.arange(extended.num_users))
        host = solved(model, host, observed, numbers, "item", np.arange(extended.num_items))
    return _on_device(host), extended


def _extended(
    who: str,
    model: Model,
    params: Params,
    hyper: Hyper,
    data: Dataset,
    new_frame: pd.DataFrame | None,
    features: pd.DataFrame | None,
    sweeps: int,
) -> tuple[Dataset, Dataset]:
    """All ratings, and the new ones alone, over the same users and items, after the checks."""
    check_fitted(who, model, params, data, "data")
    check_solvable(who, model, params, hyper)
    check_sweeps(who, sweeps)
    if features is not None:
        expect(features, pd.DataFrame, f"{who}: features", "expected one row per new item, indexed by item id")
    extended = data.extend(new_frame, () if features is None else features.index)
    return extended, extended.take(np.arange(len(data), len(extended)))


def _solved(
    model: Model,
    params: Params,
    data: Dataset,
    hyper: Hyper,
    users: np.ndarray,
    items: np.ndarray,
    first_new_item: int,
    sweeps: int,
) -> Params:
    """These users by their ratings of known items, then these items; and both again by all, if that is more."""
    observed, numbers = _observed(data), _numbers(params, hyper)
    chosen = np.zeros(data.num_users, bool)
    chosen[users] = True
    early = observed.item < first_new_item
    of_known = observed._replace(weight=observed.weight * early)
    params = solved(model, params, of_known, numbers, "user", users)
    params = solved(model, params, observed, numbers, "item", items)
    if (chosen[observed.user] & ~early).any():
        for _ in range(sweeps):
            params = solved(model, params, observed, numbers, "user", users)
            params = solved(model, params, observed, numbers, "item", items)
    return params


def _observed(data: Dataset) -> Observed:
    return Observed(data.user, data.item, data.rating, np.ones(len(data)))


def _numbers(params: Params, hyper: Hyper) -> Hyper:
    return cast_hyper(hyper, np.result_type(*jax.tree.leaves(params.trained)))


def _on_device(params: Params) -> Params:
    return jax.tree.map(jnp.asarray, params)
