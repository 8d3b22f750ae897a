"""Two baselines of the bilinear family in closed form: r̂_ui = μ, and r̂_ui = μ + b_u + c_i."""

from typing import Any

import jax

from jaxmf.data.checks import is_positive
from jaxmf.data.ratings import Ratings, counts
from jaxmf.kernels._memoize import memoize
from jaxmf.models.bilinear import BY_HAND, design, embed, loss, mean_of, penalty, predict
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows


@memoize
def global_mean() -> Model:
    """The baseline r̂_ui = μ, the weighted mean of the training ratings: `init` fits it.

    Returns:
      a Model without trained parameters.
    """

    def init(key: Any, ratings: Ratings, hyper: Hyper) -> Params:
        return Params(Rows(), mean_of(ratings, "global"))

    return Model(init, predict, loss, penalty, BY_HAND, name="global_mean")


@memoize
def damped_bias(damping_user: float = 5.0, damping_item: float = 5.0) -> Model:
    """The baseline r̂_ui = μ + b_u + c_i with damped biases in closed form: `init` fits it, no solver is needed.

        c_i = Σ_u w_ui (r_ui − μ) / (n_i + damping_item)
        b_u = Σ_i w_ui (r_ui − μ − c_i) / (n_u + damping_user)

    Args:
      damping_user: number of pseudo-observations of 0 that shrink a user's bias.
      damping_item: the same for items.

    Returns:
      a Model whose `init` ignores its key.

    Raises:
      ValueError: for a damping that is not positive.

    Reference: Ekstrand, Riedl and Konstan (2011), Collaborative filtering recommender systems, section 2.1.
    """
    if not (is_positive(damping_user) and is_positive(damping_item)):
        raise ValueError(
            f"damped_bias: damping_user and damping_item must be positive numbers, not {damping_user!r} and "
            f"{damping_item!r}; 5 is the default"
        )

    @jax.jit
    def init(key: Any, ratings: Ratings, hyper: Hyper) -> Params:
        fixed = mean_of(ratings, "global")
        n_u, n_i = counts(ratings)
        residual = ratings.value - fixed.shared["mean"]
        c = jax.ops.segment_sum(ratings.weight * residual, ratings.item, ratings.num_items) / (n_i + damping_item)
        residual = residual - c[ratings.item]
        b = jax.ops.segment_sum(ratings.weight * residual, ratings.user, ratings.num_users) / (n_u + damping_user)
        return Params(Rows({"bias": b}, {"bias": c}), fixed)

    return Model(init, predict, loss, penalty, BY_HAND, design, name="damped_bias", embed=embed)
