"""The objective, its hand-derived gradient, initial values and baselines, against loops and written-out numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    RANK,
    assert_close,
    assert_same_bits,
    degrees,
    gradient,
    init,
    numpy_objective,
    objective,
    observations,
    pick,
    random_ratings,
    slow,
    to_numpy,
)

from jaxmf import Hyper, Params, Ratings, Rows, models
from jaxmf.data.ratings import Pairs
from jaxmf.models import row_weights, scores

each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_exponent = pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])


def filled(model, ratings, hyper=HYPER) -> Params:
    """Parameters without a zero, so that no term can hide: rows without ratings and biases too."""
    params = init(model, ratings, hyper)
    random = np.random.default_rng(3)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), params.trained)
    return params._replace(trained=drawn)


@pytest.mark.parametrize(
    ("predictions", "expected"), [((3.95, 3.6, 4.8), 0.3025), ((4.0, 3.55, 4.9), 0.2625)], ids=["plain", "content"]
)
def test_worked_losses(predictions, expected):
    """Three ratings with stipulated predictions, and squared norms 1.2, 0.8, 0.2 and 0.3.

    With μ = 3 no parameters have both (Cauchy-Schwarz allows Σ r̂ − μ ≤ 2.71, and 3.35 is asked for), so a fixed mean of
    each user, which is not penalized, takes up the difference.
    """
    model = models.biased_mf(5)
    ratings = Ratings(
        jnp.array([0, 1, 2]), jnp.array([1, 2, 0]), jnp.array([4.0, 3.5, 5.0]), jnp.ones(3), num_users=3, num_items=3
    )
    trained = Rows(
        {"bias": jnp.full(3, (0.2 / 3) ** 0.5), "factors": jnp.full((3, 5), (1.2 / 15) ** 0.5)},
        {"bias": jnp.full(3, (0.3 / 3) ** 0.5), "factors": jnp.full((3, 5), (0.8 / 15) ** 0.5)},
    )
    mean = Rows(shared={"mean": jnp.array(3.0)})
    short = jnp.array(predictions) - model.predict(Params(trained, mean), ratings)
    params = Params(trained, mean._replace(user={"mean": short}))
    np.testing.assert_allclose(model.predict(params, ratings), predictions, rtol=1e-15)
    loss = objective(model, params, ratings, Hyper(l2=0.1, reg_exponent=0.0))
    np.testing.assert_allclose(loss, expected, rtol=1e-14)


@each_exponent
@each_model
def test_objective_equals_the_loop(model, nu):
    ratings, hyper = random_ratings(folds=True), HYPER._replace(reg_exponent=nu)
    params = filled(model, ratings)
    np.testing.assert_allclose(
        objective(model, params, ratings, hyper), numpy_objective(to_numpy(params), ratings, hyper), rtol=1e-13
    )


@each_exponent
@each_model
def test_hand_derived_gradient_equals_autodiff(model, nu):
    ratings, hyper = random_ratings(folds=True), HYPER._replace(reg_exponent=nu)
    params = filled(model, ratings)
    by_hand = jax.jit(model.by_hand.gradient)(params, ratings, row_weights(ratings, nu), hyper)
    automatic = gradient(model, params, ratings, hyper)
    assert_close(by_hand, automatic, rtol=1e-12, atol=1e-12)


@each_model
def test_scores_are_the_predictions_of_every_item(model):
    ratings = random_ratings()
    params = filled(model, ratings)
    users, items = jnp.array([3, 0, 16, 3]), jnp.arange(ratings.num_items)
    expected = jax.jit(model.predict)(params, Pairs(jnp.repeat(users, len(items)), jnp.tile(items, len(users))))
    for each in (model, model._replace(embed=None)):
        found = jax.jit(scores, static_argnums=(0, 3))(each, params, users, ratings.num_items)
        assert_close(found, expected.reshape(len(users), len(items)))


def test_gradient_equals_central_differences():
    """The third, independent gradient, on the loop: one number of every kind of leaf."""
    ratings = random_ratings(folds=True)
    model = MODELS["biased"]
    params = filled(model, ratings)
    gradient = to_numpy(
        params._replace(trained=model.by_hand.gradient(params, ratings, row_weights(ratings, 0.5), HYPER))
    )
    for name, place in {"P": (2, 1), "Q": (3, 0), "b": (4,), "c": (5,)}.items():
        theta, h = to_numpy(params), 1e-5
        theta[name][place] += h
        above = numpy_objective(theta, ratings, HYPER)
        theta[name][place] -= 2 * h
        below = numpy_objective(theta, ratings, HYPER)
        np.testing.assert_allclose(gradient[name][place], (above - below) / (2 * h), rtol=1e-7)


def test_l2_bias_defaults_to_l2():
    ratings, model = random_ratings(), MODELS["biased"]
    params = filled(model, ratings)
    shared, both = (objective(model, params, ratings, Hyper(l2=0.3, l2_bias=value)) for value in (None, 0.3))
    assert shared == both != objective(model, params, ratings, Hyper(l2=0.3, l2_bias=0.1))


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_row_weights_are_safe_for_empty_rows(exponent):
    ratings = random_ratings(folds=True)
    weight, slope = row_weights(ratings, exponent), jax.jacrev(lambda nu: row_weights(ratings, nu))(exponent)
    for n, value, derivative in zip(degrees(ratings), weight[:2], slope[:2], strict=True):
        assert n.min() == 0
        seen = n > 0
        np.testing.assert_allclose(value[seen], n[seen] ** exponent, rtol=1e-14)
        np.testing.assert_allclose(derivative[seen], n[seen] ** exponent * np.log(n[seen]), rtol=1e-14, atol=1e-15)
        np.testing.assert_array_equal(value[~seen], float(exponent == 0))
        np.testing.assert_array_equal(derivative[~seen], 0)


@each_model
def test_row_order_changes_nothing(model):
    ratings = random_ratings(folds=True)
    params = filled(model, ratings)
    value_and_grad = jax.jit(jax.value_and_grad(lambda t, r: objective(model, params._replace(trained=t), r, HYPER)))
    shuffled = pick(ratings, np.random.default_rng(0).permutation(len(ratings.value)))
    assert_close(value_and_grad(params.trained, ratings), value_and_grad(params.trained, shuffled), 1e-12, 1e-12)
    assert_close(init(model, ratings, HYPER), init(model, shuffled, HYPER), 1e-14)


@pytest.mark.parametrize("name", ["mf", "mf-uncentered", "biased"])
def test_users_and_items_may_be_swapped(name):
    model, ratings = MODELS[name], random_ratings(folds=True)
    swapped = Ratings(ratings.item, ratings.user, ratings.value, ratings.weight, ratings.num_items, ratings.num_users)
    params = filled(model, ratings)
    value_and_grad = jax.value_and_grad(lambda t, r: objective(model, params._replace(trained=t), r, HYPER))
    value, gradient = value_and_grad(params.trained, ratings)
    turned = params.trained._replace(user=params.trained.item, item=params.trained.user)
    turned_value, turned_gradient = value_and_grad(turned, swapped)
    np.testing.assert_allclose(value, turned_value, rtol=1e-13)
    assert_close((gradient.user, gradient.item), (turned_gradient.item, turned_gradient.user), 1e-12, 1e-12)


@each_model
def test_weight_zero_equals_absent(model):
    ratings = random_ratings(folds=True)
    kept = pick(ratings, np.asarray(ratings.weight) > 0)
    assert 0 < len(kept.value) < len(ratings.value)
    assert_close(init(model, ratings, HYPER), init(model, kept, HYPER), 1e-14)
    params = filled(model, ratings)
    np.testing.assert_allclose(
        objective(model, params, ratings, HYPER), objective(model, params, kept, HYPER), rtol=1e-13
    )


def test_means_are_weighted_means():
    ratings = random_ratings(folds=True)
    kept = [(u, r) for u, _, r, w in observations(ratings) if w]
    mean = np.mean([r for _, r in kept])
    fixed = {name: init(model, ratings, HYPER).fixed for name, model in MODELS.items()}
    assert fixed["mf-uncentered"] == Rows()
    np.testing.assert_allclose(fixed["mf"].shared["mean"], mean, rtol=1e-14)
    own = [[r for u, r in kept if u == user] for user in range(ratings.num_users)]
    assert [] in own
    np.testing.assert_allclose(fixed["mf-user-mean"].user["mean"], [np.mean(r) if r else mean for r in own], rtol=1e-14)


@each_model
def test_initial_factors(model):
    """Standard normal times `init_scale`, 0 for rows without weight; biases and content weights 0."""
    ratings = random_ratings(num_users=150, num_items=150, num_ratings=1000, folds=True)
    if "content" in model.name:
        model = models.content_mf(RANK, np.ones((150, 2)))
    trained = init(model, ratings, HYPER._replace(init_scale=0.2)).trained
    for rows, n in zip((trained.user, trained.item), degrees(ratings), strict=True):
        factors = np.asarray(rows["factors"])
        assert factors.shape == (len(n), RANK)
        np.testing.assert_array_equal(factors[n == 0], 0)
        assert 0.12 < factors[n > 0].std() < 0.28
        assert len(np.unique(factors[n > 0])) == factors[n > 0].size
        assert not any(np.any(leaf) for name, leaf in rows.items() if name != "factors")
    drawn = [np.asarray(rows["factors"])[(degrees(ratings)[0] > 0) & (degrees(ratings)[1] > 0)] for rows in trained[:2]]
    assert not np.any(drawn[0] == drawn[1]), "both sides are drawn by one key"


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", [name if name == "biased" else slow(name) for name in MODELS])
def test_a_padded_rank_starts_as_the_rank_alone(name, dtype, optimized):
    """To the bit, in programs as users have them; 200 users, since those for few rows compute one number at a time."""
    model, ratings = MODELS[name], random_ratings(num_users=200, folds=True, dtype=dtype)
    wide, hyper = model.with_rank(RANK + 2), HYPER._replace(rank=RANK)
    alone, padded = (jax.jit(lambda *x, own=own: own.init(*x))(KEY, ratings, hyper).trained for own in (model, wide))
    for solo, wider in zip((alone.user, alone.item), (padded.user, padded.item), strict=True):
        assert_same_bits(wider["factors"][:, :RANK], solo["factors"])
        np.testing.assert_array_equal(wider["factors"][:, RANK:], 0)


def test_damped_bias_is_the_closed_form():
    ratings = random_ratings(folds=True)
    params = models.damped_bias(3.0, 7.0).init(None, ratings, HYPER)
    n_u, n_i = degrees(ratings)
    user, item, value, w = map(np.asarray, (ratings.user, ratings.item, ratings.value, ratings.weight))
    mean = (w * value).sum() / w.sum()
    c = np.array([(w * (value - mean))[item == i].sum() / (n_i[i] + 7) for i in range(ratings.num_items)])
    b = np.array([(w * (value - mean - c[item]))[user == u].sum() / (n_u[u] + 3) for u in range(ratings.num_users)])
    assert_close(params, Params(Rows({"bias": b}, {"bias": c}), Rows(shared={"mean": mean})), 1e-13, 1e-13)


def test_global_mean_predicts_the_mean():
    ratings = random_ratings()
    model = models.global_mean()
    params = model.init(None, ratings, HYPER)
    np.testing.assert_allclose(model.predict(params, ratings), np.mean(ratings.value), rtol=1e-14)
    assert jax.tree.leaves(params.trained) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (models.mf(2), models.mf(rank=2, center="global")),
        (models.mf(2, "user").with_rank(3), models.mf(3, center="user")),
        (models.biased_mf(2).with_rank(3), models.biased_mf(rank=3)),
        (models.damped_bias(), models.damped_bias(damping_user=5.0, damping_item=5.0)),
    ],
    ids=["mf", "mf-user-with-rank", "biased-with-rank", "damped"],
)
def test_equal_arguments_give_the_same_model(first, second):
    assert first is second


def test_float32_stays_float32():
    ratings = random_ratings(folds=True, dtype=jnp.float32)
    hyper = jax.tree.map(jnp.float32, HYPER)
    for model in (*MODELS.values(), models.damped_bias(), models.global_mean()):
        params = init(model, ratings, hyper)
        found = (params, objective(model, params, ratings, hyper), model.predict(params, ratings))
        dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(found)}
        assert dtypes == ({"float32", "int32"} if model.name == "content_mf" else {"float32"}), model.name


def test_weights_scale_the_loss_only():
    """Doubling every weight at ν = 0 doubles the error and not the penalty."""
    ratings, model, hyper = random_ratings(), MODELS["biased"], HYPER._replace(reg_exponent=0.0)
    params = filled(model, ratings)
    twice = replace(ratings, weight=2 * ratings.weight)
    penalty = model.penalty(params.trained, row_weights(ratings, 0.0), hyper)
    once, doubled = objective(model, params, ratings, hyper), objective(model, params, twice, hyper)
    np.testing.assert_allclose(doubled - penalty, 2 * (once - penalty), rtol=1e-12)
