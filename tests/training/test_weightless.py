"""Ratings of weight 0, held out or padding, have no say in what a user's own functions start from and watch."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
from helpers import KEY, MODELS, random_ratings, slow

from jaxmf import Hyper, Params, Rows, fit, metrics, solvers, sweep
from jaxmf.training.weightless import check_init

RATINGS, VALID, SGD = random_ratings(), random_ratings(1, num_ratings=40), solvers.sgd(8)


def own(mean):
    """Biased factorization by a user, around a mean of their own."""

    def init(key, ratings, hyper):
        params = MODELS["biased"].init(key, ratings, hyper)
        return params._replace(fixed=Rows(shared={"mean": mean(ratings)}))

    return MODELS["biased"]._replace(init=init, name="own")


def plain(ratings):
    return ratings.value.mean()


def weighted(ratings):
    return metrics.weighted_mean(ratings.value, ratings.weight)


def by_errors(weighs):
    """The mean error of a fit, of all ratings or of those with weight."""

    def monitor(params, ratings):
        error = abs(ratings.value - MODELS["biased"].predict(params, ratings))
        return metrics.weighted_mean(error, ratings.weight) if weighs else error.mean()

    return monitor


@pytest.mark.parametrize("door", [fit, slow(sweep)])
def test_a_model_that_starts_from_what_has_no_weight_is_refused(door):
    options = {"hyper": Hyper(), "epochs": 1} | ({"grid": {"l2": [0.1]}} if door is sweep else {})
    with pytest.raises(ValueError, match=r"init of the model 'own' reads ratings of weight 0, .* multiply by"):
        door(KEY, own(plain), SGD, RATINGS, **options)
    door(KEY, own(weighted), SGD, RATINGS, **options)


def test_a_fit_from_given_parameters_says_nothing_of_init():
    model, given = own(plain), MODELS["biased"].init(KEY, RATINGS, Hyper())
    given = given._replace(fixed=own(plain).init(KEY, RATINGS, Hyper()).fixed)
    assert fit(KEY, model, SGD, RATINGS, epochs=1, params=given).status == "completed"
    with pytest.raises(ValueError, match=r"init of the model 'own' reads ratings of weight 0"):
        fit(KEY, model, SGD, RATINGS, epochs=1)


def test_a_monitor_of_what_has_no_weight_is_refused():
    given = KEY, MODELS["biased"], SGD, RATINGS, VALID, Hyper()
    with pytest.raises(ValueError, match=r"^monitor reads ratings of weight 0, .*: multiply by ratings\.weight"):
        fit(*given, epochs=1, monitor=by_errors(False))
    assert fit(*given, epochs=1, monitor=by_errors(True)).status == "completed"


def test_it_is_tried_once():
    model, calls = own(weighted), []

    def initialize(ratings):
        calls.append(ratings)
        return Params(Rows({"factors": jnp.ones(2)}))

    padded = replace(RATINGS, weight=RATINGS.weight.at[-1].set(0))
    for ratings in (RATINGS, padded, padded):
        check_init(model, initialize, ratings)
    assert len(calls) == 2
    assert calls[1].value[-1] != padded.value[-1]
    assert calls[1].value[0] == padded.value[0]
