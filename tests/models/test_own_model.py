"""Models as a user writes them: three functions and a penalty, nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, assert_same_bits

from jaxmf import Hyper, Model, Params, Ratings, Rows, fit, models, solvers

# Logistic matrix factorization: a rating of 1 or 0, and a Bernoulli likelihood.


def logistic_init(key, ratings, hyper):
    user_key, item_key = jax.random.split(key)
    P = hyper.init_scale * jax.random.normal(user_key, (ratings.num_users, 4), ratings.value.dtype)
    Q = hyper.init_scale * jax.random.normal(item_key, (ratings.num_items, 4), ratings.value.dtype)
    return Params(Rows({"factors": P}, {"factors": Q}))


def logit(params, pairs):
    return jnp.sum(params.trained.user["factors"][pairs.user] * params.trained.item["factors"][pairs.item], axis=-1)


def logistic_predict(params, pairs):
    return jax.nn.sigmoid(logit(params, pairs))


def logistic_loss(params, ratings):
    z = logit(params, ratings)
    return jax.nn.softplus(z) - ratings.value * z


def logistic_penalty(trained, weight, hyper):
    def side(rows, row_weight):
        return jnp.sum(row_weight * jnp.sum(rows["factors"] ** 2, axis=-1))

    return hyper.l2 * (side(trained.user, weight.user) + side(trained.item, weight.item))


LOGISTIC = Model(logistic_init, logistic_predict, logistic_loss, logistic_penalty, name="logistic")

# Plain factors with one trained number that scales every prediction.


def scaled_init(key, ratings, hyper):
    params = models.mf(2, None).init(key, ratings, hyper)
    return params._replace(trained=params.trained._replace(shared={"scale": jnp.ones((), ratings.value.dtype)}))


def scaled_predict(params, pairs):
    return params.trained.shared["scale"] * logit(params, pairs)


def scaled_loss(params, ratings):
    return (ratings.value - scaled_predict(params, ratings)) ** 2


SCALED = Model(scaled_init, scaled_predict, scaled_loss, logistic_penalty, name="scaled")

# Nothing but popularity: one side has no trained rows at all.


def popular_init(key, ratings, hyper):
    return Params(Rows(item={"bias": jnp.zeros(ratings.num_items, ratings.value.dtype)}))


def popular_predict(params, pairs):
    return params.trained.item["bias"][pairs.item]


def popular_loss(params, ratings):
    return (ratings.value - popular_predict(params, ratings)) ** 2


def popular_penalty(trained, weight, hyper):
    return hyper.l2 * jnp.sum(weight.item * trained.item["bias"] ** 2)


def popular_design(params, ratings, side):
    return {"bias": jnp.ones_like(ratings.value)}, ratings.value


POPULAR = Model(popular_init, popular_predict, popular_loss, popular_penalty, design=popular_design, name="popular")
HYPER = Hyper(l2=0.01, learning_rate=0.05, init_scale=0.3)


@pytest.fixture(scope="module")
def clicks(ratings) -> Ratings:
    return Ratings(
        ratings.user,
        ratings.item,
        (ratings.value > 3).astype(float),
        ratings.weight,
        ratings.num_users,
        ratings.num_items,
    )


@pytest.mark.parametrize("solver", [solvers.minibatch(optax.adam, 32), solvers.sgd(8)], ids=["adam", "sgd"])
def test_logistic(clicks, solver):
    result = fit(KEY, LOGISTIC, solver, clicks, valid=clicks, hyper=HYPER, epochs=60)
    assert result.status == "completed"
    loss = result.history["train_loss"]
    assert loss[0] == pytest.approx(np.log(2), rel=0.1)
    assert loss[-1] < 0.5 * loss[0]
    np.testing.assert_allclose(result.history["valid_loss"], loss)
    chance = LOGISTIC.predict(result.params, clicks)
    assert float(chance[clicks.value == 1].mean()) > 0.6 > 0.4 > float(chance[clicks.value == 0].mean())


def test_shared_scalar(ratings):
    result = fit(KEY, SCALED, solvers.minibatch(optax.adam, 32), ratings, hyper=HYPER, epochs=60)
    assert result.history["train_loss"][-1] < 0.2 * result.history["train_loss"][0]
    assert result.params.trained.shared["scale"] > 1.1


@pytest.mark.parametrize(
    ("solver", "epochs"),
    [(solvers.als(), 2), (solvers.sgd(8), 150), (solvers.minibatch(optax.adam, 32), 300)],
    ids=["als", "sgd", "adam"],
)
def test_a_model_may_train_one_side_only(ratings, solver, epochs):
    """At ν = 1 an item's bias has a closed form: its mean rating shrunk by 1 / (1 + λ)."""
    result = fit(KEY, POPULAR, solver, ratings, hyper=HYPER._replace(learning_rate=0.02), epochs=epochs)
    item, value, w = (np.asarray(x) for x in (ratings.item, ratings.value, ratings.weight))
    total, n = (np.bincount(item, weights, ratings.num_items) for weights in (w * value, w))
    closed = total / np.maximum(n, 1) / (1 + HYPER.l2)
    tolerance = 1e-12 if solver is solvers.als() else 0.25
    np.testing.assert_allclose(result.params.trained.item["bias"], closed, atol=tolerance)


def test_a_model_that_trains_nothing_stays_as_it_is(ratings):
    for solver in (solvers.sgd(8), solvers.minibatch(optax.adam, 32)):
        result = fit(KEY, models.global_mean(), solver, ratings, epochs=2)
        assert result.status == "completed"
        assert_same_bits(result.params, models.global_mean().init(None, ratings, HYPER))
