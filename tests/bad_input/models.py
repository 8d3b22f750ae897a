"""Constructors of models, and functions of a model of one's own."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
from helpers import FEATURES, HYPER, KEY
from scipy import sparse

from bad_input.builders import ALS, OWN, RATINGS, fit
from jaxmf import Params, Rows, make_fit, models, prepare


def only_users(key, ratings, hyper):
    """Users' factors that have two rows too many."""
    return Params(Rows({"factors": jnp.zeros((ratings.num_users + 2, 3))}, {"factors": jnp.zeros((13, 3))}))


CASES = {
    "pickled-lambda": (
        lambda: pickle.dumps(OWN),
        r"^Model 'mine' cannot be pickled, since <lambda> is not a function of a module: define it .* jaxmf\.save",
    ),
    "rank-0": (lambda: models.mf(0), "^mf: rank must be a positive integer, not 0"),
    "rank-negative": (lambda: models.biased_mf(-1), "^biased_mf: rank must be a positive integer, not -1"),
    "rank-float": (lambda: (models.mf(2), models.mf(2.0)), "^mf: rank must be a positive integer, not 2.0"),
    "rank-true": (lambda: (models.biased_mf(1), models.biased_mf(True)), "rank must be a positive integer, not True"),
    "rank-string": (lambda: models.mf("3"), "^mf: rank must be a positive integer, not '3'"),
    "rank-none": (lambda: models.biased_mf(None), "^biased_mf: rank must be a positive integer, not None"),
    "center": (lambda: models.mf(3, "item"), "^mf: center must be None, 'global' or 'user', not 'item'"),
    "damping-0": (
        lambda: models.damped_bias(0.0),
        "^damped_bias: damping_user and damping_item must be positive numbers, not 0.0 and 5.0; 5 is the default",
    ),
    "damping-word": (lambda: models.damped_bias(1.0, "a"), "must be positive numbers, not 1.0 and 'a'"),
    "features-vector": (
        lambda: models.content_mf(2, np.ones(13)),
        r"^content_mf: features must be a matrix of numbers with one row per item, not ndarray of shape \(13,\) and "
        r"dtype float64; jaxmf\.content\.tfidf makes one",
    ),
    "features-no-columns": (lambda: models.content_mf(2, np.ones((13, 0))), r"^content_mf: features .*shape \(13, 0\)"),
    "features-words": (lambda: models.content_mf(2, [["a"]]), r"shape \(1, 1\) and dtype <U1; jaxmf.content.tfidf"),
    "features-number": (lambda: models.content_mf(2, 3), r"must be a matrix of numbers .*not int of shape \(\)"),
    "features-nan": (
        lambda: models.content_mf(2, np.full((13, 2), np.nan)),
        "^content_mf: features has NaN or infinite entries; expected finite numbers",
    ),
    "features-infinite": (
        lambda: models.content_mf(2, sparse.csr_array(np.full((13, 2), np.inf))),
        "^content_mf: features has NaN or infinite entries",
    ),
    "features-of-others": (
        lambda: fit(model=models.content_mf(2, FEATURES[:12])),
        r"features has 12 rows, the ratings have 13 items\. Expected one row per item in the order of Dataset\.item_id",
    ),
    "features-for-als": (
        lambda: fit(model=models.content_mf(2, np.eye(13, 300)), solver=ALS),
        r"at most 256, and there are 300 features\. Reduce them by truncated SVD, .*or use solvers\.sgd",
    ),
    "features-for-als-sparse": (
        lambda: fit(model=models.content_mf(2, sparse.csr_array(np.eye(13, 300))), solver=ALS),
        r"at most 256, and there are 300 features\. Reduce them by truncated SVD",
    ),
    "init-dict": (
        lambda: fit(model=OWN._replace(init=lambda key, ratings, hyper: {"factors": jnp.ones(3)})),
        r"what init of the model 'mine' returns must be a Params, not dict: Params\(Rows\(user=",
    ),
    "init-rows": (
        lambda: fit(model=OWN._replace(init=only_users)),
        r"init of the model 'mine' makes trained\.user\['factors'\] of shape \(19, 3\); expected a leading axis of 17, "
        r"one row per user. A leaf without rows goes to `shared`",
    ),
    "loss-field": (
        lambda: fit(model=OWN._replace(loss=lambda params, r: r.rating)),
        r"^loss of the model 'mine' fails on these params \(AttributeError: .*'rating'.*It takes params \(trained, "
        r"fixed\) and ratings \(user, item, value, weight, num_users, num_items, context\)",
    ),
    "loss-field-in-a-run": (
        lambda: jax.eval_shape(
            lambda: make_fit(OWN._replace(loss=lambda params, r: r.rating), ALS, 2)(KEY, prepare(ALS, RATINGS), HYPER)
        ),
        r"^loss of the model 'mine' fails on these params \(AttributeError",
    ),
    "predict-numpy": (
        lambda: fit(model=OWN._replace(predict=lambda params, pairs: np.abs(np.asarray(pairs.user)))),
        "^predict of the model 'mine' calls NumPy on what JAX traces: jax.numpy has the same functions",
    ),
    "init-numpy": (
        lambda: fit(model=OWN._replace(init=lambda key, ratings, hyper: np.asarray(ratings.value))),
        "^init of the model 'mine' calls NumPy on what JAX traces",
    ),
    "penalty-rows": (
        lambda: fit(model=OWN._replace(penalty=lambda trained, weight, hyper: weight.user)),
        r"^penalty of the model 'mine' returns .*shape=\(17,\).*; expected one number: sum over the rows of both sides",
    ),
    "design-field": (
        lambda: fit(solver=ALS, model=OWN._replace(design=lambda params, r, side: (r.rating, r.value))),
        r"^als: design of the model 'mine' fails on these params \(AttributeError: .*'rating'",
    ),
    "loss-summed": (
        lambda: fit(model=OWN._replace(loss=lambda params, ratings: jnp.sum(ratings.value))),
        r"loss of the model 'mine' returns .*shape=\(\).*; expected one number per rating, in the shape of `value`",
    ),
    "predict-table": (
        lambda: fit(model=OWN._replace(predict=lambda params, pairs: params.trained.user["factors"][pairs.user])),
        r"predict of the model 'mine' returns .*shape=\(\d+, 3\).*; expected one number per rating, in the shape",
    ),
}
