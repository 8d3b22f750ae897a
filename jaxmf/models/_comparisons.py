"""Losses that compare the score of an observed item with those of drawn ones, with hand-derived derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings
from jaxmf.models import bilinear
from jaxmf.models.model import ByHand
from jaxmf.models.params import Hyper, Params, Rows


class Comparison(NamedTuple):
    """The loss of one observation as a function of scores s (n, 1 + m), first the observed item's, then the drawn ones.

    Attributes:
      value: `(s, ratings) -> (n,)`.
      slope: `(s, ratings) -> (n, 1 + m)`, the derivatives by the scores, derived by hand.
      change: `(s, ratings, ṡ) -> (n, 1 + m)`, how the slope changes in a direction ṡ of the scores.
    """

    value: Callable[[jax.Array, Ratings], jax.Array]
    slope: Callable[[jax.Array, Ratings], jax.Array]
    change: Callable[[jax.Array, Ratings, jax.Array], jax.Array]


def _pairwise_slope(s: jax.Array, ratings: Ratings) -> jax.Array:
    """∂ℓ/∂s_j = σ(s_j − s_i) / m, and ∂ℓ/∂s_i = −Σ_j ∂ℓ/∂s_j."""
    return _balanced(jax.nn.sigmoid(s[:, 1:] - s[:, :1]) / (s.shape[1] - 1))


def _pairwise_change(s: jax.Array, ratings: Ratings, moved: jax.Array) -> jax.Array:
    chance = jax.nn.sigmoid(s[:, 1:] - s[:, :1])
    return _balanced(chance * (1 - chance) * (moved[:, 1:] - moved[:, :1]) / (s.shape[1] - 1))


def _balanced(of_drawn: jax.Array) -> jax.Array:
    """Put minus the sum of a row before it."""
    return jnp.concatenate([-of_drawn.sum(axis=1, keepdims=True), of_drawn], axis=1)


def _corrected(s: jax.Array, ratings: Ratings) -> jax.Array:
    """Return s_i and s_j − ln e_j."""
    return s - jnp.pad(ratings.context["log_expected"], ((0, 0), (1, 0)))


def _softmax_slope(s: jax.Array, ratings: Ratings) -> jax.Array:
    """∂ℓ/∂s is the softmax π of the corrected scores, minus 1 for the observed item."""
    return jax.nn.softmax(_corrected(s, ratings), axis=1).at[:, 0].add(-1)


def _softmax_change(s: jax.Array, ratings: Ratings, moved: jax.Array) -> jax.Array:
    """π ∘ (ṡ − π·ṡ)."""
    chance = jax.nn.softmax(_corrected(s, ratings), axis=1)
    return chance * (moved - jnp.sum(chance * moved, axis=1, keepdims=True))


def _logistic_slope(s: jax.Array, ratings: Ratings) -> jax.Array:
    """∂ℓ/∂s = σ(s), minus r for the observed item."""
    return jax.nn.sigmoid(s).at[:, 0].add(-ratings.value)


def _logistic_change(s: jax.Array, ratings: Ratings, moved: jax.Array) -> jax.Array:
    chance = jax.nn.sigmoid(s)
    return chance * (1 - chance) * moved


PAIRWISE = Comparison(
    lambda s, ratings: jnp.mean(jax.nn.softplus(s[:, 1:] - s[:, :1]), axis=1), _pairwise_slope, _pairwise_change
)
SOFTMAX = Comparison(
    lambda s, ratings: jax.nn.logsumexp(_corrected(s, ratings), axis=1) - s[:, 0], _softmax_slope, _softmax_change
)
LOGISTIC = Comparison(
    lambda s, ratings: jnp.sum(jax.nn.softplus(s), axis=1) - ratings.value * s[:, 0], _logistic_slope, _logistic_change
)


def _items(ratings: Ratings) -> jax.Array:
    """Return the observed item of each observation, and behind it the drawn ones, (n, 1 + m)."""
    observed = ratings.item[:, None]
    drawn = ratings.context.get("negative")
    return observed if drawn is None else jnp.concatenate([observed, drawn], axis=1)


def scores_of(trained: Rows, ratings: Ratings) -> jax.Array:
    """Return the scores of these items, (n, 1 + m)."""
    user, items = ratings.user, _items(ratings)
    scores = jnp.einsum("nk,njk->nj", trained.user["factors"][user], trained.item["factors"][items])
    if "bias" in trained.item:
        scores = scores + trained.item["bias"][items]
    if "bias" in trained.user:
        scores = scores + trained.user["bias"][user][:, None]
    return scores


def _gradient(comparison: Comparison, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper) -> Rows:
    """Return the objective's gradient, derived by hand. With g_j = w ∂ℓ/∂s_uj for the observed and the drawn items,

    p_u: Σ_j g_j q_j + 2 λ n_u^ν p_u        q_j: Σ_u g_j p_u + 2 λ n_j^ν q_j        c_j: Σ_u g_j + 2 λ_b n_j^ν c_j
    """
    g = ratings.weight[:, None] * comparison.slope(scores_of(params.trained, ratings), ratings)
    return _plus_penalty(_pulled(g, params.trained, ratings), params.trained, weight, hyper)


def _hvp(comparison: Comparison, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, direction: Rows) -> Rows:
    """Return the objective's Hessian times a direction, derived by hand. With the change ġ of g in that direction,

    p_u: Σ_j (ġ_j q_j + g_j q̇_j) + 2 λ n_u^ν ṗ_u        q_j: Σ_u (ġ_j p_u + g_j ṗ_u) + 2 λ n_j^ν q̇_j
    """
    trained, (user, item) = params.trained, direction[:2]
    s = scores_of(trained, ratings)
    moved = scores_of(direction._replace(item=item | {"factors": trained.item["factors"]}), ratings)
    by_items = Rows({"factors": trained.user["factors"]}, {"factors": item["factors"]})
    moved = moved + scores_of(by_items, ratings)
    w = ratings.weight[:, None]
    g, change = w * comparison.slope(s, ratings), w * comparison.change(s, ratings, moved)
    turned = _pulled(g, Rows({"factors": user["factors"]}, {"factors": item["factors"]}), ratings)
    found = _pulled(change, trained, ratings)
    for side in ("user", "item"):
        rows = getattr(found, side)
        rows["factors"] = rows["factors"] + getattr(turned, side)["factors"]
    return _plus_penalty(found, direction, weight, hyper)


def _pulled(g: jax.Array, trained: Rows, ratings: Ratings) -> Rows:
    """Return Σ g_j q_j per user and Σ g_j p_u per item, and the sums of g_j for biases."""
    user, items = ratings.user, _items(ratings)
    p, q = trained.user["factors"][user], trained.item["factors"][items]

    def sums(per_user: jax.Array, per_item: jax.Array, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        flat = per_item.reshape(-1, *per_item.shape[2:])
        by_user = jax.ops.segment_sum(per_user, user, ratings.num_users)
        return {name: by_user}, {name: jax.ops.segment_sum(flat, items.ravel(), ratings.num_items)}

    of_user, of_item = sums(jnp.einsum("nj,njk->nk", g, q), g[:, :, None] * p[:, None, :], "factors")
    user_bias, item_bias = sums(g.sum(axis=1), g, "bias")
    of_user |= user_bias if "bias" in trained.user else {}
    of_item |= item_bias if "bias" in trained.item else {}
    return Rows(of_user, of_item)


def _plus_penalty(rows: Rows, trained: Rows, weight: Rows, hyper: Hyper) -> Rows:
    parts = ((getattr(rows, side), getattr(trained, side), getattr(weight, side)) for side in ("user", "item"))
    added = (
        {name: leaf + slope[name] for name, leaf in found.items()}
        for found, leaves, n in parts
        for slope in [bilinear.penalty_slope(leaves, n, hyper)]
    )
    return Rows(*added)


def loss_of(comparison: Comparison, params: Params, ratings: Ratings) -> jax.Array:
    """Return the losses (n,) of observations whose context holds the drawn items."""
    return comparison.value(scores_of(params.trained, ratings), ratings)


def by_hand_of(comparison: Comparison) -> ByHand:
    """Return the hand-derived gradient and Hessian-vector product of the objective with this loss."""
    return ByHand(partial(_gradient, comparison), partial(_hvp, comparison))
