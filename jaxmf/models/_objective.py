"""The one objective, composed from a model's functions."""

import jax
import jax.numpy as jnp

from jaxmf.data.ratings import Ratings, counts
from jaxmf.metrics import total, weighted_mean
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows, cast_hyper
from jaxmf.models.seen import Seen, seen_of


def row_weights(
    ratings: Ratings, exponent: jax.typing.ArrayLike, unobserved: jax.typing.ArrayLike | None = None
) -> Rows:
    """Return one factor n^exponent per user and per item, where n is the weighted number of training observations.

    With a weight α0 of unobserved cells, n is n_u + α0 |I| for a user and n_i + α0 |U| for an item (Rendle et al. 2021,
    Revisiting the performance of iALS on item recommendation benchmarks). At n = 0, value and derivative are safe:
    0^0 = 1, and any other exponent gives 0, a negative one too.
    """

    n_u, n_i = counts(ratings)
    if unobserved is not None:
        n_u, n_i = n_u + unobserved * ratings.num_items, n_i + unobserved * ratings.num_users
    return Rows(power(n_u, exponent), power(n_i, exponent))


def power(n: jax.Array, exponent: jax.typing.ArrayLike) -> jax.Array:
    """Return n^exponent for n ≥ 0, safe at n = 0 as in `row_weights`."""
    exponent = jnp.asarray(exponent, n.dtype)
    empty = jnp.where(jnp.equal(exponent, 0), 1, 0).astype(n.dtype)
    return jnp.where(n > 0, jnp.where(n > 0, n, 1) ** exponent, empty)


def objective(model: Model, params: Params, ratings: Ratings, hyper: Hyper, weight: Rows | None = None) -> jax.Array:
    """Return the regularized training objective, the one that every solver minimizes.

        L(θ) = Σ_{(u,i)∈Ω} w_ui ℓ_ui(θ) + background(θ, hyper) + penalty(θ, n^ν, hyper)

    and for the built-in models, with r̂ the model's prediction,

        L(θ) = Σ w_ui (r_ui − r̂_ui)² + λ Σ_u n_u^ν ‖p_u‖² + λ Σ_i n_i^ν ‖q_i‖² + λ_b (Σ_u n_u^ν b_u² + Σ_i n_i^ν c_i²)

    The squared error is a sum, without ½. Other conventions in ours:

    - updates `lr·(e·q − λ·p)` per rating (Funk, Surprise): ν = 1, λ_b = λ, half that learning rate, `sgd`;
    - mean error plus λ‖·‖² at every step: `minibatch`, ν = 0, λ·|Ω| and λ_b·|Ω|;
    - λ·I added to each row's normal equations: `als`, ν = 0; λ·n·I (ALS-WR, Spark): ν = 1.

    Args:
      model: the model.
      params: its parameters.
      ratings: Ω with weights w, (n,).
      hyper: λ, λ_b, ν and α0.
      weight: n^ν per row; computed from `ratings` and α0 if None.

    Returns:
      a scalar of the ratings' dtype.
    """
    hyper = cast_hyper(hyper, ratings.value.dtype)
    if weight is None:
        weight = row_weights(ratings, hyper.reg_exponent, hyper.unobserved)
    return total(ratings.weight * model.loss(params, ratings)) + beside(model, params, weight, hyper)


def beside(model: Model, params: Params, weight: Rows, hyper: Hyper) -> jax.Array:
    """Return what the objective adds to the loss of the observations: the penalty, and a model's `background`."""
    penalty = model.penalty(params.trained, weight, hyper)
    return penalty if model.background is None else model.background(params, hyper) + penalty


def drawn(key: jax.Array, model: Model, ratings: Ratings, seen: Seen | None = None) -> Ratings:
    """Return the ratings with what the model's loss reads at random, by its `draw`; unchanged if the model has none.

    With these, `objective` is a fixed function, whose gradient `jaxmf.verify` can check.

    Args:
      key: the random key of the draw.
      model: the model.
      ratings: the ratings to draw for.
      seen: the items that each user has rated; None takes them from `ratings`.
    """
    if model.draw is None:
        return ratings
    return model.draw(key, ratings, seen_of(ratings) if seen is None else seen)


def mean_loss(model: Model, params: Params, ratings: Ratings) -> jax.Array:
    """Return the weighted mean of the model's loss, without penalty: Σ w·ℓ / Σ w."""
    return weighted_mean(model.loss(params, ratings), ratings.weight)
