"""Split the score of an item for a user into the shares of what the user has rated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings, power_of_4
from jaxmf.kernels.programs import jit, of_model
from jaxmf.models._objective import power
from jaxmf.models.least_squares import background_of, design_rows, ridge_of
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, cast_hyper
from jaxmf.recommend.checks import check_fitted, check_foldable, check_solvable


class Explanation(NamedTuple):
    """Why an item has its score for a user: `score` = `base` + the sum of the column `share`.

    Attributes:
      score: the item's score for the user, whose row is solved anew given the items; after a fit of `als` to
        convergence it is the model's prediction.
      base: what the score would be if the user had rated nothing, such as μ + c_i; 0 for `ials`.
      shares: one row per item that the user has rated, largest share first: item_id, rating, weight, share and
        similarity, which is the share per weight and target.
    """

    score: float
    base: float
    shares: pd.DataFrame


def explain(model: Model, params: Params, hyper: Hyper, data: Dataset, user: Any, item: Any) -> Explanation:
    """Split the score of an item for a user into the shares of the items that the user has rated.

    Given the items, the user's row solves A z = Σ_j w_j t_j d_j − h with A = Σ_j w_j d_j d_jᵀ + H + R, over what the
    user has rated, see `als`. So the score of item i with design row d_i is

        ⟨d_i, z⟩ + base_i = Σ_j w_j t_j s_ij − d_iᵀ A⁻¹ h + base_i,      s_ij = d_iᵀ A⁻¹ d_j

    where s_ij is the similarity of the items i and j as this user sees them, and t_j is the target: the rating, less
    what other terms of the model contribute.

    Args:
      model: a model with a `design`, such as `ials` and `biased_mf`.
      params: its parameters.
      hyper: λ, λ_b, ν and α0, such as fit.hyper.
      data: the Dataset that the model was fitted with, whose ratings of the user are explained with.
      user, item: their ids. The item may be one that the user has rated.

    Returns:
      an Explanation, computed in float64.

    Raises:
      ValueError: an argument of the wrong type, an unknown id, a model without `design`, a user-defined model whose
        rows are not independent least squares (`jaxmf.models.promises`), or λ or λ_b that is not positive.

    Cost: O(c D² + D³) for a user with c ratings and rows of D numbers; a background reads all items.

    Reference: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets, section 5.

    >>> import jax, jaxmf
    >>> data = jaxmf.datasets.synthetic(num_users=30, num_items=20, num_ratings=200).binarize(4)
    >>> hyper = jaxmf.Hyper(l2=0.01, unobserved=0.1)
    >>> fit = jaxmf.fit(jax.random.key(0), jaxmf.models.ials(4), jaxmf.solvers.als(), data, hyper=hyper, epochs=30)
    >>> why = jaxmf.recommend.explain(fit.model, fit.params, fit.hyper, data, user=7, item=3)
    >>> bool(np.isclose(why.score, why.base + why.shares["share"].sum()))
    True
    """
    check_fitted("explain", model, params, data, "data")
    check_solvable("explain", model, params, hyper)
    u, i = int(data.user_index([user])[0]), int(data.item_index([item])[0])
    check_foldable("explain", model, params, hyper, data)
    rated = np.flatnonzero(data.user == u)
    items, rating = data.item[rated], data.rating[rated]
    weight = np.ones(len(rated)) if data.weight is None else data.weight[rated]
    size = power_of_4(len(rated) + 1)
    behind = (0, size - len(rated))
    dtype = np.dtype(jnp.result_type(*jax.tree.leaves(params.trained)))
    # The explained item follows the rated ones, with weight 0 and rating 0, as do copies of it that fill up the size.
    index = np.append(items, np.full(behind[1], i)).astype(np.int32)
    value, w = (np.pad(x, behind).astype(dtype) for x in (rating, weight))
    numbers = cast_hyper(hyper, dtype)
    pieces = _program(model)(params, np.int32(u), index, value, w, numbers)
    d, t, ridge, H, h = (np.asarray(piece, np.float64) for piece in pieces)
    mine, target = d[: len(rated)], t[: len(rated)]
    asked, base = d[len(rated)], -t[len(rated)]
    A = (mine * weight[:, None]).T @ mine + H + np.diag(ridge)
    x = np.linalg.solve(A, asked) if (ridge > 0).any() else np.zeros_like(asked)  # without a penalty, a row stays 0
    similarity, base = mine @ x, float(base - x @ h)
    columns = {"item_id": data.item_ids[items], "rating": rating, "weight": weight}
    shares = pd.DataFrame(columns | {"share": weight * target * similarity, "similarity": similarity})
    shares = shares.sort_values("share", ascending=False, kind="stable", ignore_index=True)
    return Explanation(base + float(shares["share"].sum()), base, shares)


@of_model
def _program(model: Model) -> Any:
    """Return the program for a user's design rows (m, D) and targets (m,), ridge (D,), H (D, D) and h (D,)."""
    assert model.design is not None
    design = model.design

    def pieces(
        params: Params, user: jax.Array, items: jax.Array, value: jax.Array, weight: jax.Array, hyper: Hyper
    ) -> tuple[jax.Array, ...]:
        def own(rows: Rows) -> Rows:
            return rows._replace(user=jax.tree.map(lambda leaf: leaf[user][None], rows.user))

        def near(rows: Rows) -> Rows:
            return rows._replace(item=jax.tree.map(lambda leaf: leaf[items], rows.item))

        whole = Params(own(params.trained), own(params.fixed))
        small = Params(near(whole.trained), near(whole.fixed))
        num_items, num_rated = len(jax.tree.leaves(params.trained.item)[0]), len(items)
        zero, lane = jnp.zeros(num_rated, jnp.int32), jnp.arange(num_rated, dtype=jnp.int32)
        d, t = design_rows(design, small, Ratings(zero, lane, value, weight, 1, num_rated), "user")
        n = jnp.sum(weight)[None] + (0 if hyper.unobserved is None else hyper.unobserved * num_items)
        powers = Rows(power(n, hyper.reg_exponent), jnp.ones(num_rated, value.dtype))
        ridge = ridge_of(model, small.trained, powers, hyper, "user", 1)[0]
        background = background_of(model, whole, hyper, "user", 1)
        if background is None:
            return d, t, ridge, jnp.zeros((len(ridge), len(ridge)), d.dtype), jnp.zeros_like(ridge)
        return d, t, ridge, background.curvature, background.slope[0]

    return jit(pieces)
