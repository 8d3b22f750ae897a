"""Add new users, new items and new ratings to a fitted model without fitting it again."""

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
    """Add new users and new items by their ratings, all at once; all existing rows stay bit-for-bit unchanged.

    Each new row solves the least squares of `als` given the other side, so it equals the result of one more half-step:
    first new users by their ratings of known items, then new items by all their ratings, including those by new users.
    If new users have rated new items, `sweeps` more sweeps over the new rows follow, users then items, by all their
    ratings. The n of n^ν counts a row's new ratings; the mean μ stays, and in `mf(center="user")` a new user's mean is
    the mean of their new ratings. A model with a background, such as `ials`, counts every cell of a new row.

    Cold start: an item with features but without ratings gets a row of zeros, so that a model with features predicts
    its ratings from these: r̂ = μ + b_u + a_u·x_i in `content_mf`, r̂ = p_u·x_i E in `ials(features=)`.

    Args:
      model: a model with a `design`, as the built-in ones have, fitted by any solver.
      params: its parameters.
      hyper: λ, λ_b, ν and α0, such as fit.hyper.
      data: the Dataset whose ids the model was fitted with.
      new_frame: columns user_id, item_id, rating (which may be missing if all ratings of `data` are 1), weight if there
        are any, and, if `data` has them, timestamp. In every row the user or the item is new. None for features without
        ratings.
      features: for a model with features, one row per new item, indexed by item id, with the columns of the features
        that the model was built with, in a dense or sparse dtype (`pandas.DataFrame.sparse.from_spmatrix`). Rows of
        known items are ignored.
      sweeps: number of further sweeps over the new rows if new users have rated new items.

    Returns:
      (params, data), with new ids appended to the known ones, for `top_n` and all other functions.

    Raises:
      ValueError: an argument of the wrong type, what `Dataset.extend` refuses, a row whose user and item are both
        known, new items without features in a content model, a model without `design`, a user-defined model whose rows
        are not independent least squares (`jaxmf.models.promises`), or λ or λ_b that is not positive.

    Cost: that of a half-step of `als` over the new rows, in blocks of bounded memory. Programs are compiled for powers
    of 2 of ratings per row, so that calls of similar size share them.

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
        remedy = "these would change rows that fold_in must keep: use update, or drop them"
        refuse_rows(known, new_frame["user_id"], "user_id", "a user and an item that are both known", remedy)
    host = grown("fold_in", params, data, new, features)
    check_foldable("fold_in", model, params, hyper, data)
    users, items = np.unique(new.user[new.user >= data.num_users]), np.unique(new.item[new.item >= data.num_items])
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
    """Add new ratings to a fitted model: the rows they belong to are solved again, by all their ratings.

    First the users with new ratings are solved given the items, then the items with new ratings given the users; if one
    of these users has rated a new item, both are solved once more, by all their ratings. Rows without new ratings stay
    bit-for-bit unchanged, unless `sweeps` of `als` over all rows follow. The n of n^ν counts a row's ratings, old and
    new; μ and the means of known users stay.

    Args:
      model, params, hyper, features: as in `fold_in`.
      data: the ratings that the model was fitted with.
      new_frame: as in `fold_in`; users and items may be known or new, but no pair may be rated already.
      sweeps: number of sweeps over all rows afterwards, users then items.

    Returns:
      (params, data), with the new ratings appended to the earlier ones.

    Raises:
      ValueError: as `fold_in`, except that a known user may rate a known item.

    Cost: that of a half-step of `als` over the rows with new ratings, plus one sweep of `als` for each of `sweeps`.
    """
    extended, new = _extended("update", model, params, hyper, data, new_frame, features, sweeps)
    host = grown("update", params, data, new, features)
    check_foldable("update", model, params, hyper, data)
    users, items = np.unique(new.user), np.unique(new.item)
    host = _solved(model, host, extended, hyper, users, items, data.num_items, 1)
    observed, hyper = _observed(extended), _cast(hyper, host)
    for _ in range(sweeps):
        host = solved(model, host, observed, hyper, "user", np.arange(extended.num_users))
        host = solved(model, host, observed, hyper, "item", np.arange(extended.num_items))
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
    """Return all ratings, and only the new ones, over the same users and items, after the checks."""
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
    """Solve for users by their ratings of known items, then for items; then both again if users rated new items."""
    observed, hyper = _observed(data), _cast(hyper, params)
    chosen = np.zeros(data.num_users, bool)
    chosen[users] = True
    early = observed.item < first_new_item
    of_known = observed._replace(weight=observed.weight * early)
    params = solved(model, params, of_known, hyper, "user", users)
    params = solved(model, params, observed, hyper, "item", items)
    if (chosen[observed.user] & ~early).any():
        for _ in range(sweeps):
            params = solved(model, params, observed, hyper, "user", users)
            params = solved(model, params, observed, hyper, "item", items)
    return params


def _observed(data: Dataset) -> Observed:
    """Return the ratings on the host."""
    return Observed(data.user, data.item, data.rating, np.ones(len(data)) if data.weight is None else data.weight)


def _cast(hyper: Hyper, params: Params) -> Hyper:
    """Cast `hyper` to the dtype of the trained tables."""
    return cast_hyper(hyper, np.result_type(*jax.tree.leaves(params.trained)))


def _on_device(params: Params) -> Params:
    """Return the parameters as JAX arrays."""
    arrays: Params = jax.tree.map(jnp.asarray, params)
    return arrays
