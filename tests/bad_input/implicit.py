"""Implicit feedback: models of preferences, what they draw, the weight of all cells, the ranking that is watched."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
from helpers import HYPER, KEY

import jaxmf
from bad_input.builders import ADAM, ALS, BIASED, PARAMS, RATINGS, SGD, fit
from jaxmf import evaluate, models, prepare, search

LIKES = replace(RATINGS, value=jnp.ones_like(RATINGS.value))
DISLIKES = replace(RATINGS, value=jnp.zeros_like(RATINGS.value))
WHOLE = HYPER._replace(unobserved=0.1)
IALS, BPR, SOFTMAX, LOGISTIC = models.ials(3), models.bpr(3), models.sampled_softmax(3), models.logistic_mf(3)
ALL = jnp.concatenate([RATINGS.user[RATINGS.user != 4], jnp.full(13, 4, jnp.int32)])
BUSY = jaxmf.Ratings(
    ALL,
    jnp.concatenate([RATINGS.item[RATINGS.user != 4], jnp.arange(13, dtype=jnp.int32)]),
    jnp.ones(len(ALL)),
    jnp.ones(len(ALL)),
    17,
    13,
)
implicit = partial(fit, train=LIKES, model=IALS, solver=ALS, hyper=WHOLE)
sampled = partial(fit, train=LIKES, model=BPR, solver=ADAM)
watching = partial(fit, valid=RATINGS)


def with_weight(position, number):
    weight = np.ones(len(LIKES.weight))
    weight[position] = number
    return implicit(train=replace(LIKES, weight=weight))


CASES = {
    "ials-rank": (lambda: models.ials(0), "^ials: rank must be a positive integer, not 0"),
    "ials-features-vector": (
        lambda: models.ials(3, features=np.ones(13)),
        r"^ials: features must be a matrix of numbers with one row per item, not ndarray of shape \(13,\)",
    ),
    "ials-features-nan": (
        lambda: models.ials(3, features=np.full((13, 2), np.nan)),
        "^ials: features has NaN or infinite entries",
    ),
    "ials-features-many": (
        lambda: models.ials(3, features=np.ones((13, 300))),
        r"^ials: features has 300 columns; expected at most 256: reduce them by truncated SVD",
    ),
    "ials-features-of-others": (
        lambda: implicit(model=models.ials(3, features=np.ones((12, 2)))),
        "^ials: features has 12 rows, the ratings have 13 items",
    ),
    "bpr-rank": (lambda: models.bpr(-2), "^bpr: rank must be a positive integer, not -2"),
    "softmax-rank": (lambda: models.sampled_softmax(2.5), "^sampled_softmax: rank must be a positive integer, not 2.5"),
    "logistic-rank": (lambda: models.logistic_mf("3"), "^logistic_mf: rank must be a positive integer, not '3'"),
    "bpr-negatives-0": (lambda: models.bpr(3, 0), "^bpr: negatives must be an integer of at least 1, not 0"),
    "bpr-negatives-true": (lambda: models.bpr(3, True), "^bpr: negatives must be an integer of at least 1, not True"),
    "softmax-negatives": (
        lambda: models.sampled_softmax(3, 1.5),
        "^sampled_softmax: negatives must be an integer",
    ),
    "logistic-negatives": (
        lambda: models.logistic_mf(3, -1),
        "^logistic_mf: negatives must be an integer of at least 0, not -1",
    ),
    "logistic-negatives-false": (lambda: models.logistic_mf(3, False), "negatives must be an integer of at least 0"),
    "bpr-popularity": (
        lambda: models.bpr(3, popularity=-0.5),
        "^bpr: popularity must be a finite number of at least 0, not -0.5",
    ),
    "softmax-popularity-infinite": (
        lambda: models.sampled_softmax(3, popularity=np.inf),
        "^sampled_softmax: popularity must be a finite number of at least 0, not inf",
    ),
    "logistic-popularity-nan": (lambda: models.logistic_mf(3, popularity=np.nan), "popularity must be a finite .* nan"),
    "bpr-popularity-word": (lambda: models.bpr(3, popularity="much"), "popularity must be a finite number .*'much'"),
    "unobserved-missing": (
        lambda: implicit(hyper=HYPER),
        r"^hyper: the model 'ials' needs unobserved, the weight of all cells, as in Hyper\(l2=0\.003, un",
    ),
    "unobserved-negative": (
        lambda: implicit(hyper=HYPER._replace(unobserved=-0.1)),
        "^hyper: unobserved must be finite and at least 0, .* not -0.1",
    ),
    "unobserved-nan": (
        lambda: implicit(hyper=HYPER._replace(unobserved=np.nan)),
        "^hyper: unobserved must be finite and at least 0, .* not nan",
    ),
    "unobserved-of-bpr": (
        lambda: sampled(hyper=WHOLE),
        "^hyper: unobserved is given, but the model 'bpr' has no `background`",
    ),
    "unobserved-swept-negative": (
        lambda: jaxmf.sweep(KEY, IALS, ALS, LIKES, LIKES, hyper=WHOLE, grid={"unobserved": [0.1, -1.0]}),
        "unobserved must be finite and at least 0, .* not -1.0",
    ),
    "ials-sgd": (lambda: implicit(solver=SGD), r"^sgd: the model 'ials' has a `background`, .*solvers\.minibatch"),
    "ials-without-penalty": (lambda: implicit(hyper=WHOLE._replace(l2=0.0)), "^als: l2 must be positive, not 0.0"),
    "bpr-als": (lambda: sampled(solver=ALS), r"^als: the model 'bpr' has no `design`, .*solvers\.minibatch"),
    "bpr-sgd": (lambda: sampled(solver=SGD), r"^sgd: the model 'bpr' draws .*solvers\.minibatch"),
    "softmax-als": (lambda: sampled(model=SOFTMAX, solver=ALS), "^als: the model 'sampled_softmax' has no `design`"),
    "bpr-ratings": (
        lambda: sampled(train=RATINGS),
        r"^bpr: the ratings range from 0\.5 to 5, but this model takes every observation as chosen: keep the liked "
        r"ones by data\.binarize\(threshold\)",
    ),
    "softmax-ratings": (
        lambda: sampled(train=RATINGS, model=SOFTMAX),
        "^sampled_softmax: the ratings range from",
    ),
    "logistic-ratings": (
        lambda: sampled(train=RATINGS, model=LOGISTIC),
        r"^logistic_mf: the ratings range from 0\.5 to 5; expected 0 for no and 1 for yes: data\.binarize",
    ),
    "bpr-ratings-prepared": (lambda: sampled(train=prepare(ADAM, RATINGS)), "^bpr: the ratings range from"),
    "bpr-ratings-swept": (
        lambda: jaxmf.sweep(KEY, BPR, ADAM, RATINGS, LIKES, grid={"l2": [0.1]}, epochs=1),
        "^bpr: the ratings range from",
    ),
    "bpr-none-left": (
        lambda: sampled(train=BUSY),
        "^bpr: the user of index 4 has chosen all 13 items, so that none is left to compare with",
    ),
    "softmax-none-left": (
        lambda: sampled(train=BUSY, model=SOFTMAX),
        "^sampled_softmax: the user of index 4",
    ),
    "logistic-none-left": (lambda: sampled(train=BUSY, model=LOGISTIC), "^logistic_mf: the user of index 4 has chosen"),
    "likes-weight-negative": (lambda: with_weight(3, -1.0), "^train has a negative or infinite weight in 1 place"),
    "likes-weight-nan": (lambda: with_weight(3, np.nan), "^train has a negative or infinite weight in 1 place"),
    "likes-weight-infinite": (
        lambda: with_weight(5, np.inf),
        r"^train has a negative .* weight .* position 5",
    ),
    "likes-weight-none": (
        lambda: with_weight(slice(None), 0.0),
        "^train has no ratings with weight",
    ),
    "ranking-misspelled": (
        lambda: watching(monitor="ndgc"),
        r"^monitor must be 'loss', 'rmse', 'mae', 'ndcg', 'recall' or 'map' \(or as 'ndcg@20'\), 'auc', or a function "
        r"\(params, ratings\), not 'ndgc'",
    ),
    "monitor-k-0": (lambda: watching(monitor="ndcg@0"), "^monitor must be .*not 'ndcg@0'"),
    "monitor-k-word": (lambda: watching(monitor="recall@ten"), "^monitor must be .*not 'recall@ten'"),
    "monitor-k-negative": (lambda: watching(monitor="map@-5"), "^monitor must be .*not 'map@-5'"),
    "monitor-k-of-auc": (lambda: watching(monitor="auc@10"), "^monitor must be .*not 'auc@10'"),
    "monitor-number": (lambda: watching(monitor=10), "^monitor must be .*not 10"),
    "ranking-without-valid": (
        lambda: fit(monitor="ndcg"),
        "^monitor 'ndcg' ranks validation ratings: pass valid=",
    ),
    "monitor-k-without-valid": (lambda: fit(monitor="recall@5"), "^monitor 'recall@5' ranks validation ratings"),
    "monitor-nothing-relevant": (
        lambda: fit(valid=DISLIKES, monitor="ndcg"),
        "^monitor 'ndcg' counts validation ratings above 0 as relevant, but all are 0: pass monitor='loss'",
    ),
    "monitor-valid-in-train": (
        lambda: implicit(valid=LIKES),
        "^monitor 'ndcg' ranks items that a user has not trained on, but every validation rating above 0 is of a pair",
    ),
    "monitor-nothing-relevant-by-default": (
        lambda: implicit(valid=DISLIKES),
        "^monitor 'ndcg' counts validation ratings above 0",
    ),
    "monitor-error-of-preferences": (
        lambda: implicit(valid=LIKES, monitor="rmse"),
        "^monitor: the model 'ials' predicts preferences, which have no error in rating units: monitor 'ndcg'",
    ),
    "monitor-error-of-preferences-swept": (
        lambda: jaxmf.sweep(KEY, BPR, ADAM, LIKES, LIKES, grid={"l2": [0.1]}, epochs=1, monitor="mae"),
        "^monitor: the model 'bpr' predicts preferences",
    ),
    "ranking-patience-without-valid": (lambda: implicit(patience=2), "^patience needs validation ratings"),
    "predicts": (
        lambda: fit(model=BIASED._replace(predicts="clicks")),
        "^the model 'biased_mf' has predicts='clicks'; expected 'rating' or 'preference'",
    ),
    "errors-of-preferences": (
        lambda: evaluate.rating(BIASED._replace(predicts="preference", name="mine"), PARAMS, RATINGS),
        r"^evaluate\.rating: the model 'mine' predicts preferences, .*: use evaluate\.ranking",
    ),
    "errors-of-preferences-beside-baselines": (
        lambda: evaluate.against_baselines(BIASED._replace(predicts="preference"), PARAMS, RATINGS, RATINGS),
        r"^evaluate\.against_baselines: the model 'biased_mf' predicts preferences",
    ),
    "hypergradient-of-bpr": (
        lambda: search.hypergradient(KEY, BPR, ADAM, LIKES, LIKES, names=["l2"], epochs=1),
        "^hypergradient: the model 'bpr' draws random numbers",
    ),
    "hypergradient-by-unobserved-of-ratings": (
        lambda: search.hypergradient(KEY, BIASED, ALS, RATINGS, RATINGS, names=["unobserved"], epochs=1),
        "^hypergradient: names must be a list of different names of l2",
    ),
    "model-check": (
        lambda: fit(model=BIASED._replace(check=lambda ratings: refuse("mine: not these ratings"))),
        "^mine: not these ratings",
    ),
}


def refuse(message):
    raise ValueError(message)
