"""Models for implicit feedback that compare what a user chose with items drawn from those that the user did not."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import is_positive_integer
from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import memoize
from jaxmf.models import bilinear
from jaxmf.models._comparisons import LOGISTIC, PAIRWISE, SOFTMAX, Comparison, by_hand_of, loss_of
from jaxmf.models.model import Model
from jaxmf.models.params import Params
from jaxmf.models.seen import Seen, draw_unseen


@memoize
def bpr(rank: int, negatives: int = 1, popularity: float = 0.0, bias: bool = True) -> Model:
    """Bayesian personalized ranking: an observed item shall score higher than items that the user has not chosen.

    With scores s_ui = c_i + p_u·q_i and items j drawn anew for every observation and batch, the loss is

        ℓ_ui = mean over j of ln(1 + exp(s_uj − s_ui)) = mean over j of −ln σ(s_ui − s_uj)

    Args:
      rank: width k of the factor tables.
      negatives: number m of items drawn for each observation, with replacement.
      popularity: β ≥ 0; 0 draws uniformly, otherwise items are drawn in proportion to their number of users to the
        power β. Items that the user has chosen are not drawn, see `draw_unseen`.
      bias: whether items have a bias c_i, penalized by λ_b. A user's would cancel.

    Returns:
      a Model for `minibatch`; calls with equal arguments return the same object. It predicts scores, not ratings.

    Raises:
      ValueError: for a `rank` or `negatives` that is not a positive integer, or a `popularity` that is not a finite
        number of at least 0; at a fit, for ratings that differ from each other, since every observation counts as
        chosen, and for a user who has chosen every item.

    Cost: per observation O((1 + m) k), and the draws.

    Reference: Rendle, Freudenthaler, Gantner and Schmidt-Thieme (2009), BPR: Bayesian personalized ranking from
    implicit feedback.
    """
    with_rank = partial(bpr, negatives=negatives, popularity=popularity, bias=bias)
    model = bilinear.of_terms(rank, with_rank, "bpr", None, ("item",) if bias else ())
    return _comparing(model, PAIRWISE, negatives, popularity)


@memoize
def sampled_softmax(
    rank: int, negatives: int = 64, correct: bool = True, popularity: float = 0.0, bias: bool = True
) -> Model:
    """Sampled softmax: the observed item shall be the most likely one among itself and drawn items.

    With scores s_ui = c_i + p_u·q_i, and items j drawn anew for every observation and batch, the loss is

        ℓ_ui = −s_ui + ln(exp(s_ui) + Σ_j exp(s_uj − ln e_j))

    where e_j is the expected number of times that item j is drawn. So the sum estimates Σ exp(s_uj) over all items that
    the user has not chosen, without bias if they are drawn uniformly, and the loss approaches that of the full softmax
    as `negatives` grows. Without correction, e_j is 1.

    Args:
      rank: width k of the factor tables.
      negatives: number m of items drawn for each observation, with replacement.
      correct: whether the scores of drawn items are corrected by ln e_j.
      popularity, bias: as in `bpr`.

    Returns, Raises, Cost: as for `bpr`.

    Reference: Bengio and Senécal (2008), Adaptive importance sampling to accelerate training of a neural probabilistic
    language model. Rendle (2022), Item recommendation from implicit feedback, for the correction.
    """
    with_rank = partial(sampled_softmax, negatives=negatives, correct=correct, popularity=popularity, bias=bias)
    model = bilinear.of_terms(rank, with_rank, "sampled_softmax", None, ("item",) if bias else ())
    return _comparing(model, SOFTMAX, negatives, popularity, correct)


@memoize
def logistic_mf(rank: int, negatives: int = 4, popularity: float = 0.0, bias: bool = True) -> Model:
    """Logistic factorization: the chance that a user chooses an item, σ(s_ui) with s_ui = b_u + c_i + p_u·q_i.

        ℓ_ui = −r_ui ln σ(s_ui) − (1 − r_ui) ln(1 − σ(s_ui)) − Σ_j ln(1 − σ(s_uj))

    with items j drawn anew for every observation and batch from those that the user has not chosen. The weight w_ui, as
    a count of plays, multiplies all of ℓ_ui. With `negatives=0`, only what was observed counts, with ratings r of 0 for
    no and 1 for yes.

    Args:
      rank: width k of the factor tables.
      negatives: number m of items drawn for each observation; may be 0.
      popularity: as in `bpr`.
      bias: whether users and items have biases, penalized by λ_b.

    Returns:
      a Model for `minibatch`, and with `negatives=0` for `sgd` too. It predicts chances, and ranks by s.

    Raises:
      ValueError: for a `rank` that is not a positive integer, `negatives` below 0, or a `popularity` that is not a
        finite number of at least 0; at a fit, for ratings outside 0 to 1, and for a user who has chosen every item,
        unless `negatives` is 0.

    Cost: per observation O((1 + m) k), and the draws.

    Reference: Johnson (2014), Logistic matrix factorization for implicit feedback data, which sums over all cells;
    Mikolov et al. (2013), Distributed representations of words and phrases, for the draws.
    """
    with_rank = partial(logistic_mf, negatives=negatives, popularity=popularity, bias=bias)
    model = bilinear.of_terms(rank, with_rank, "logistic_mf", None, bilinear.BOTH if bias else ())
    model = model._replace(predict=_chance, link=jax.nn.sigmoid)
    return _comparing(model, LOGISTIC, negatives, popularity)


def _chance(params: Params, pairs: Any) -> jax.Array:
    return jax.nn.sigmoid(bilinear.predict(params, pairs))


def _comparing(model: Model, comparison: Comparison, negatives: int, popularity: float, correct: bool = False) -> Model:
    """Return the bilinear model with this loss, its derivatives, its draws and its checks."""
    logistic = comparison is LOGISTIC
    if not (is_positive_integer(negatives) or (logistic and negatives == 0 and negatives is not False)):
        least = "of at least 0" if logistic else "of at least 1"
        raise ValueError(f"{model.name}: negatives must be an integer {least}, not {negatives!r}")
    if isinstance(popularity, bool) or not isinstance(popularity, int | float) or not 0 <= popularity < np.inf:
        raise ValueError(f"{model.name}: popularity must be a finite number of at least 0, not {popularity!r}")

    def draw(key: jax.Array, ratings: Ratings, seen: Seen) -> Ratings:
        draws = ratings.num_items, negatives, popularity, ratings.value.dtype
        items, log_expected = draw_unseen(key, ratings.user, seen, *draws)
        log_expected = log_expected if correct else jnp.zeros_like(log_expected)
        return replace(ratings, context=ratings.context | {"negative": items, "log_expected": log_expected})

    def check(ratings: Ratings) -> None:
        _check_values(model.name, ratings, logistic)
        if negatives:
            _check_unseen(model.name, ratings)

    return model._replace(
        loss=partial(loss_of, comparison),
        by_hand=by_hand_of(comparison),
        design=None,
        draw=draw if negatives else None,
        check=check,
        predicts="preference",
    )


def _check_values(name: str, ratings: Ratings, logistic: bool) -> None:
    """Raise a ValueError unless the observed ratings are what this loss is for."""
    value = np.asarray(ratings.value)[np.asarray(ratings.weight) > 0]
    low, high = value.min(), value.max()
    if logistic and (low < 0 or high > 1):
        raise ValueError(
            f"{name}: the ratings range from {low:g} to {high:g}; expected 0 for no and 1 for yes: "
            "data.binarize(threshold) keeps the liked ones"
        )
    if not logistic and low != high:
        raise ValueError(
            f"{name}: the ratings range from {low:g} to {high:g}, but this model takes every observation as chosen: "
            "keep the liked ones by data.binarize(threshold), or use a model of ratings"
        )


def _check_unseen(name: str, ratings: Ratings) -> None:
    """Raise a ValueError if a user has observed every item, so that none is left to draw."""
    observed = np.asarray(ratings.weight) > 0
    user, item = np.asarray(ratings.user)[observed], np.asarray(ratings.item)[observed]
    busy = np.flatnonzero(np.bincount(user, minlength=ratings.num_users) >= ratings.num_items)
    for index in busy:
        if len(np.unique(item[user == index])) == ratings.num_items:
            raise ValueError(
                f"{name}: the user of index {index} has chosen all {ratings.num_items} items, so that none is left to "
                "compare with: leave this user's observations out, or add items that nobody has chosen (Dataset.extend)"
            )
