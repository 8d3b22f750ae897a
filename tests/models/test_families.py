"""Parts that families to come need: a loss over all cells, items drawn at random, rows of whole tables, links."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import (
    HYPER,
    IALS,
    KEY,
    MODELS,
    RANK,
    assert_close,
    degrees,
    gradient,
    init,
    objective,
    on_host,
    random_ratings,
    slow,
)

import jaxmf
from jaxmf import Params, models, recommend, search, solvers, verify
from jaxmf.data.ratings import Pairs, padded, take
from jaxmf.models import row_weights
from jaxmf.models.params import bias_l2
from jaxmf.solvers._als import Resources, half_step
from jaxmf.solvers._minibatch import visiting_order

segment_sum = jax.ops.segment_sum
SGD, ADAM, ALS = solvers.sgd(), solvers.minibatch(optax.adam, 64), solvers.als()
PLAIN = MODELS["biased"]
IMPLICIT = HYPER._replace(unobserved=0.3, learning_rate=0.05)


def all_pairs() -> Pairs:
    """Every user with every item, user by user."""
    user, item = jnp.indices((17, 13)).reshape(2, -1)
    return Pairs(user, item)


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(folds=True)


@pytest.fixture(scope="module")
def params(ratings):
    return init(IALS, ratings, IMPLICIT._replace(init_scale=0.7))


def test_the_objective_is_that_over_all_cells(ratings, params):
    """Every cell's square, and n_u + α0 |I| cells of a user in the penalty, n_i + α0 |U| of an item."""
    every = all_pairs()
    squares = 0.3 * float(jnp.sum(PLAIN.predict(params, every) ** 2))
    errors = float(jnp.sum(ratings.weight * PLAIN.loss(params, ratings)))
    weight = [(np.asarray(n) + 0.3 * others) ** 0.5 for n, others in zip(degrees(ratings), (13, 17), strict=True)]
    penalty = float(PLAIN.penalty(params.trained, jaxmf.Rows(*map(jnp.asarray, weight)), IMPLICIT))
    assert float(objective(IALS, params, ratings, IMPLICIT)) == pytest.approx(squares + errors + penalty, rel=1e-12)


@pytest.mark.parametrize("check", [verify.gradients, verify.taylor, verify.complex_step, verify.hessian])
def test_its_gradient_is_verified(check, ratings, params):
    assert check(IALS, params, ratings, IMPLICIT).passed


@pytest.mark.slow
def test_minibatch_steps_on_it(ratings):
    """In one batch a step of gradient descent is that of the mean objective, the background's share included."""
    solver = solvers.minibatch(lambda h: optax.sgd(h.learning_rate), 1024)
    hyper = IMPLICIT._replace(learning_rate_bias=None)
    start = init(IALS, ratings, hyper)
    slope = gradient(IALS, start, ratings, hyper)
    fit = jaxmf.fit(KEY, IALS, solver, ratings, hyper=hyper, epochs=1)
    rate = hyper.learning_rate / float(jnp.sum(ratings.weight))
    for found, leaf, step in zip(*map(jax.tree.leaves, (fit.params.trained, start.trained, slope)), strict=True):
        np.testing.assert_allclose(found, leaf - rate * step, rtol=1e-11, atol=1e-14)
    longer = jaxmf.fit(KEY, IALS, ADAM, ratings, hyper=IMPLICIT, epochs=30).history["objective"]
    assert longer[-1] < 0.95 * longer[0]


def test_als_solves_all_cells(ratings):
    """Each row, one without ratings too, is the ridge regression on all cells of a slow loop."""
    hyper, wide = IMPLICIT, replace(ratings, num_users=18, num_items=14)
    fit = jaxmf.fit(KEY, IALS, ALS, wide, hyper=hyper, epochs=1)
    start = init(IALS, wide, hyper)
    mean, (user, item, _) = float(start.fixed.shared["mean"]), jax.tree.map(np.array, start.trained)
    sums, weights = np.zeros((18, 14)), np.zeros((18, 14))
    at = np.asarray(ratings.user), np.asarray(ratings.item)
    np.add.at(weights, at, np.asarray(ratings.weight))
    np.add.at(sums, at, np.asarray(ratings.weight * ratings.value))
    assert weights[17].sum() == weights[:, 13].sum() == 0
    diagonal = np.diag([hyper.l2] * RANK + [hyper.l2_bias])
    for rows, others, by_row in ((user, item, (sums, weights)), (item, user, (sums.T, weights.T))):
        X = np.column_stack([others["factors"], np.ones(len(others["bias"]))])
        for row, (total, observed) in enumerate(zip(*by_row, strict=True)):
            weight = observed + 0.3
            target = total - weight * (mean + others["bias"])
            A = (X.T * weight) @ X + weight.sum() ** 0.5 * diagonal
            *rows["factors"][row], rows["bias"][row] = np.linalg.solve(A, X.T @ target)
    for rows, expected in zip(fit.params.trained[:2], (user, item), strict=True):
        for name in rows:
            np.testing.assert_allclose(rows[name], expected[name], rtol=1e-9, atol=1e-11)


def test_no_weight_of_all_cells_is_plain_als(ratings):
    """Then n^ν is 0 in rows without ratings, which stay 0."""
    wide, hyper = replace(ratings, num_users=18, num_items=14), IMPLICIT._replace(unobserved=0.0)
    found = jaxmf.fit(KEY, IALS, ALS, wide, hyper=hyper, epochs=2)
    plain = jaxmf.fit(KEY, MODELS["biased"], ALS, wide, hyper=hyper._replace(unobserved=None), epochs=2)
    assert_close(found.params.trained, plain.params.trained, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["cholesky", slow("cg")])
def test_als_never_rises(method, ratings):
    solver = solvers.als(method=method, steps=2)
    fit = jaxmf.fit(KEY, IALS, solver, ratings, hyper=IMPLICIT._replace(rank=2), epochs=60)
    found = fit.history["objective"]
    assert (np.diff(found) <= 1e-9 * found[0]).all()
    assert np.abs(np.asarray(fit.params.trained.user["factors"][:, 2:])).max() == 0
    hyper = IMPLICIT._replace(rank=None)
    slope = gradient(IALS, fit.params, ratings, hyper)
    assert np.abs(slope.item["bias"]).max() < (1e-8 if method == "cholesky" else 1e-4) * found[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_derivatives_by_the_weight_of_all_cells(method, ratings, params):
    """Through two half-steps, against a central difference."""
    halves = ALS.setup(ratings, ALS.prepare(ratings), IMPLICIT)

    @jax.jit
    def value(unobserved):
        hyper, found = IMPLICIT._replace(unobserved=unobserved), params
        weight = row_weights(ratings, hyper.reg_exponent, unobserved)
        for side in ("user", "item"):
            steps = None if method == "cholesky" else 2
            found = half_step(IALS, found, getattr(halves, side), weight, hyper, side, Resources(steps))
        return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(found.trained))

    central = (value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5
    assert float(jax.jit(jax.grad(value))(0.3)) == pytest.approx(float(central), rel=1e-7)


@pytest.mark.slow
def test_implicit_hypergradients_keep_rows_without_ratings(ratings):
    """All rows are at their minimum, so that the weight of all cells moves them; against the unrolled fit."""
    hyper, wide = IMPLICIT._replace(l2=1.0, l2_bias=1.0, init_scale=0.7), replace(ratings, num_users=19, num_items=14)
    valid = replace(wide, user=(wide.user + 2) % 19, item=(wide.item + 1) % 14)  # some of which have none
    found = {}
    for method in ("implicit", "unrolled"):
        run: dict[str, Any] = {"hyper": hyper, "names": ["l2", "unobserved"], "method": method, "epochs": 200}
        found[method] = search.hypergradient(KEY, IALS, ALS, wide, valid, **run).gradient
    for name, slope in found["unrolled"].items():
        assert found["implicit"][name] == pytest.approx(slope, rel=1e-5)


def test_a_background_is_verified_with_the_half_steps(ratings, params):
    assert verify.half_steps(IALS, params, ratings, IMPLICIT).passed
    assert verify.hessian(IALS, params, ratings, IMPLICIT).table["gradient_vs_als"].notna().all()


def test_a_background_that_is_no_quadratic_is_refused_by_als(ratings):
    quartic = IALS._replace(background=lambda params, hyper: IALS.background(params, hyper) ** 2)
    with pytest.raises(ValueError, match=r"^als: the model 'ials' breaks a promise: its background is not a quadratic"):
        jaxmf.fit(KEY, quartic, ALS, ratings, hyper=IMPLICIT, epochs=1)


def test_a_background_is_refused_by_name(ratings):
    with pytest.raises(ValueError, match=r"^sgd: the model 'ials' has a `background`, .*solvers.minibatch"):
        jaxmf.fit(KEY, IALS, SGD, ratings, hyper=IMPLICIT, epochs=1)


def test_a_weight_of_all_cells_is_for_a_background(ratings, params):
    message = r"^hyper: unobserved is given, but the model 'biased_mf' has no `background`"
    with pytest.raises(ValueError, match=message):
        jaxmf.fit(KEY, PLAIN, ALS, ratings, hyper=IMPLICIT, epochs=1)
    with pytest.raises(ValueError, match=message):
        verify.gradients(PLAIN, params, ratings, IMPLICIT)
    with pytest.raises(ValueError, match=r"^hyper: unobserved must be finite and at least 0"):
        jaxmf.fit(KEY, IALS, ALS, ratings, hyper=IMPLICIT._replace(unobserved=-1.0), epochs=1)


def test_a_model_that_reads_tables_is_refused_where_there_are_rows_alone(ratings):
    """By what it says, before anything is tried; `minibatch` and rankings of all items take it."""
    model = MODELS["biased"]._replace(reads="tables", name="whole")
    fit = jaxmf.fit(KEY, model, ADAM, ratings, hyper=HYPER, epochs=1)
    data = jaxmf.Dataset(pd.Index(range(17)), pd.Index(range(13)), *on_host(ratings))
    new = pd.DataFrame({"user_id": [99, 99], "item_id": [0, 3], "rating": [4.0, 2.0], "timestamp": [0, 0]})
    doors: dict[str, Callable[[], Any]] = {
        "sgd": partial(jaxmf.fit, KEY, model, SGD, ratings),
        "fold_in": partial(recommend.fold_in, model, fit.params, HYPER, data.extend(None), new),
        "update": partial(recommend.update, model, fit.params, HYPER, data.extend(None), new),
        "top_n": partial(recommend.top_n, model, fit.params, data, candidates=[1, 2]),
    }
    for who, door in doors.items():
        with pytest.raises(
            ValueError, match=rf"^{who}: the model 'whole' reads whole tables \(its `reads` is 'tables'\)"
        ):
            door()
    assert len(recommend.top_n(model, fit.params, data, users=[3], n=2)) == 2
    wrong: Any = "table"
    with pytest.raises(ValueError, match=r"^the model 'whole' has reads='table'; expected 'rows' or 'tables'"):
        jaxmf.fit(KEY, model._replace(reads=wrong), ADAM, ratings)


# Drawn: of two items, the one that a user has rated and one that they have not.


def draw_other(key, ratings, seen):
    """For each rating, the first of eight items at random that its user has not rated."""
    items = jax.random.randint(key, (len(ratings.value), 8), 0, ratings.num_items)
    free = ~models.is_seen(seen, ratings.user[:, None], items)
    negative = jnp.take_along_axis(items, jnp.argmax(free, axis=1)[:, None], axis=1)[:, 0]
    return replace(ratings, context=ratings.context | {"negative": negative})


def pairwise_loss(params, r):
    """ln(1 + exp(−(r̂_ui − r̂_uj))), j being the item that was drawn (Rendle et al. 2009)."""
    other = replace(r, item=r.context["negative"])
    return jax.nn.softplus(PLAIN.predict(params, other) - PLAIN.predict(params, r))


def pairwise_by_hand(params, r, weight, hyper):
    (user, item, _), u, i, j = params.trained, r.user, r.item, r.context["negative"]
    other = replace(r, item=j)
    pull = -r.weight * jax.nn.sigmoid(PLAIN.predict(params, other) - PLAIN.predict(params, r))
    apart, both = item["factors"][i] - item["factors"][j], pull[:, None] * user["factors"][u]
    (n_u, n_i), penalty = weight[:2], {"factors": 2 * hyper.l2, "bias": 2 * bias_l2(hyper)}
    by_user, by_item = (
        {name: penalty[name] * leaf * n.reshape(-1, *[1] * (leaf.ndim - 1)) for name, leaf in rows.items()}
        for rows, n in ((user, n_u), (item, n_i))
    )
    by_user["factors"] += segment_sum(pull[:, None] * apart, u, len(n_u))
    by_item["factors"] += segment_sum(both, i, len(n_i)) - segment_sum(both, j, len(n_i))
    by_item["bias"] += segment_sum(pull, i, len(n_i)) - segment_sum(pull, j, len(n_i))
    return jaxmf.Rows(by_user, by_item)


PAIRWISE = PLAIN._replace(
    loss=pairwise_loss, draw=draw_other, by_hand=models.ByHand(pairwise_by_hand), design=None, name="pairwise"
)


def test_what_is_seen_are_ratings_with_weight(ratings):
    """Held-out ratings are not, wherever a rating stands; for users without ratings too."""
    wide = replace(ratings, num_users=19, num_items=15)
    pairs = zip(*(np.asarray(column).tolist() for column in (ratings.user, ratings.item, ratings.weight)), strict=True)
    expected = np.zeros((19, 15), bool)
    for user, item, weight in pairs:
        expected[user, item] |= weight > 0
    seen = jax.jit(models.seen_of)(wide)
    np.testing.assert_array_equal(models.is_seen(seen, jnp.arange(19)[:, None], jnp.arange(15)), expected)
    none = models.seen_of(replace(wide, weight=0 * wide.weight))
    assert not models.is_seen(none, jnp.arange(19)[:, None], jnp.arange(15)).any()


@pytest.mark.slow
def test_pairs_are_drawn_for_every_batch_and_verified(ratings):
    """Fits learn an order of items, are the same however they are cut, and held-out ratings change none."""
    hyper = HYPER._replace(l2=0.01, learning_rate=0.05)
    drawn = models.drawn(KEY, PAIRWISE, ratings)
    params = init(PAIRWISE, ratings, hyper._replace(init_scale=0.7))
    report = verify.gradients(PAIRWISE, params, drawn, hyper)
    assert report.passed
    assert report.table["hand_vs_autodiff"].notna().all()
    fit = jaxmf.fit(KEY, PAIRWISE, ADAM, ratings, valid=ratings, hyper=hyper, epochs=40)
    assert fit.history["train_loss"][-1] < 0.6 < fit.history["train_loss"][0] < 0.7
    half = jaxmf.fit(KEY, PAIRWISE, ADAM, ratings, valid=ratings, hyper=hyper, epochs=13)
    both = jaxmf.fit(KEY, PAIRWISE, ADAM, ratings, valid=ratings, hyper=hyper, epochs=27, resume=half)
    assert_close(both.params, fit.params, rtol=0)
    item = jnp.where(ratings.weight > 0, ratings.item, (ratings.item + 1) % ratings.num_items)
    other = jaxmf.fit(KEY, PAIRWISE, ADAM, replace(ratings, item=item), valid=ratings, hyper=hyper, epochs=13)
    assert_close(other.params, half.params, rtol=0)
    runs = jaxmf.sweep(
        KEY, PAIRWISE, ADAM, ratings, valid=ratings, hyper=hyper, grid={"seed": [0, 1]}, epochs=3, batch=2
    )
    assert runs.table["valid_loss"].notna().all()


@pytest.mark.slow
def test_steps_are_those_of_what_was_drawn_for_their_batches(ratings):
    """Of the mean objective, with the draws of the epoch's key and the number of the batch's first rating."""
    solver = solvers.minibatch(lambda h: optax.sgd(h.learning_rate), 32)
    hyper = HYPER._replace(learning_rate_bias=None)
    fit = jaxmf.fit(KEY, PAIRWISE, solver, ratings, hyper=hyper, epochs=1)
    key, whole = jax.random.fold_in(KEY, 1), padded(ratings)
    weight, seen = row_weights(ratings, hyper.reg_exponent), models.seen_of(ratings)
    params = init(PAIRWISE, ratings, hyper)

    @jax.jit
    def stepped(trained, batch):
        def loss(trained):
            fit = jnp.sum(batch.weight * PAIRWISE.loss(params._replace(trained=trained), batch)) / jnp.sum(batch.weight)
            return fit + PAIRWISE.penalty(trained, weight, hyper) / jnp.sum(ratings.weight)

        return jax.tree.map(lambda leaf, slope: leaf - hyper.learning_rate * slope, trained, jax.grad(loss)(trained))

    trained, num_ratings = params.trained, len(ratings.value)
    for number, positions in enumerate(visiting_order(key, num_ratings, len(whole.value), 32)):
        if 32 * number < num_ratings:
            batch = PAIRWISE.draw(jax.random.fold_in(key, 32 * number), take(whole, positions), seen)
            trained = stepped(trained, batch)
    assert_close(fit.params.trained, trained, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("solver", [SGD, ALS], ids=["sgd", "als"])
def test_a_model_that_draws_is_refused_by_name(solver, ratings):
    model = PAIRWISE._replace(design=PLAIN.design)
    with pytest.raises(ValueError, match=rf"^{solver.name}: the model 'pairwise' draws .*solvers.minibatch"):
        jaxmf.fit(KEY, model, solver, ratings, hyper=HYPER, epochs=1)
    with pytest.raises(ValueError, match=r"^hypergradient: the model 'pairwise' draws"):
        search.hypergradient(KEY, model, ADAM, ratings, ratings, names=["l2"], epochs=1)
    with pytest.raises(ValueError, match=r"^what draw of the model 'pairwise' returns must be a Ratings"):
        jaxmf.fit(KEY, model._replace(draw=lambda key, r, seen: r.value), ADAM, ratings, epochs=1)


# SVD++ (Koren 2008): a user's factors, and those of what they have rated.


def rated_lists(ratings):
    """The items that each user has rated with weight, padded, and their share 1 / √|N(u)|, for `fixed.user`."""
    most = np.bincount(ratings.user).max()
    seen = models.seen_of(ratings)
    lane = seen.first[:-1, None] + jnp.arange(most)[None]
    inside = lane < seen.first[1:, None]
    count = jnp.maximum(jnp.diff(seen.first), 1).astype(ratings.value.dtype)
    return {"item": jnp.take(seen.item, lane, mode="clip"), "share": inside / jnp.sqrt(count)[:, None]}


def svdpp_init(key, ratings, hyper):
    params = PLAIN.init(key, ratings, hyper)
    item = params.trained.item | {"implicit": 0.5 * params.trained.item["factors"][:, ::-1]}
    return Params(params.trained._replace(item=item), params.fixed._replace(user=LISTS))


def svdpp_embed(params):
    """The tables of the biased model with p_u + |N(u)|^(−½) Σ_{j in N(u)} y_j in place of p_u."""
    lists = params.fixed.user
    implicit = jnp.sum(lists["share"][..., None] * params.trained.item["implicit"][lists["item"]], axis=1)
    user = params.trained.user | {"factors": params.trained.user["factors"] + implicit}
    return PLAIN.embed(params._replace(trained=params.trained._replace(user=user)))


def svdpp_predict(params, pairs):
    left, right = (jnp.concatenate(tables, axis=1) for tables in svdpp_embed(params))
    return jnp.sum(left[pairs.user] * right[pairs.item], axis=1)


def svdpp_penalty(trained, weight, hyper):
    implicit = hyper.l2 * jnp.sum(weight.item[:, None] * trained.item["implicit"] ** 2)
    return PLAIN.penalty(trained, weight, hyper) + implicit


LISTS = rated_lists(random_ratings(folds=True))
SVDPP = jaxmf.Model(
    svdpp_init,
    svdpp_predict,
    lambda params, r: (r.value - svdpp_predict(params, r)) ** 2,
    svdpp_penalty,
    embed=svdpp_embed,
    reads="tables",
    name="svdpp",
)


@pytest.mark.slow
def test_a_model_of_whole_tables_is_fitted_verified_and_ranked(ratings):
    """Its predictions are those of a loop, its gradient is right, it fits more than without, and top_n ranks by it."""
    hyper = HYPER._replace(l2=0.02, learning_rate=0.02)
    fit = jaxmf.fit(KEY, SVDPP, ADAM, ratings, hyper=hyper, epochs=60)
    plain = jaxmf.fit(KEY, PLAIN, ADAM, ratings, hyper=hyper, epochs=60)
    assert fit.history["objective"][-1] < 0.9 * plain.history["objective"][-1]
    assert verify.gradients(SVDPP, fit.params, ratings, hyper).passed
    (user, item, _), mean = jax.tree.map(np.asarray, fit.params.trained), float(fit.params.fixed.shared["mean"])
    kept = np.asarray(ratings.weight) > 0
    expected = np.empty((17, 13))
    for u in range(17):
        rated = np.asarray(ratings.item)[kept & (np.asarray(ratings.user) == u)]
        own = user["factors"][u] + item["implicit"][rated].sum(axis=0) / max(len(rated), 1) ** 0.5
        expected[u] = mean + user["bias"][u] + item["bias"] + item["factors"] @ own
    every = all_pairs()
    np.testing.assert_allclose(SVDPP.predict(fit.params, every).reshape(17, 13), expected, rtol=1e-11)
    data = jaxmf.Dataset(pd.Index(range(17)), pd.Index(range(13)), *on_host(ratings))
    best = recommend.top_n(SVDPP, fit.params, data, users=[3, 9], n=5, filter_seen=False)
    order = np.argsort(-expected[[3, 9]], axis=1)[:, :5]
    assert best["item_id"].tolist() == order.ravel().tolist()
    np.testing.assert_allclose(best["score"], np.take_along_axis(expected[[3, 9]], order, axis=1).ravel(), rtol=1e-6)


# A link: a chance whose products rank.


def chance(params, pairs):
    return jax.nn.sigmoid(MODELS["biased"].predict(params, pairs))


LOGISTIC = MODELS["biased"]._replace(
    predict=chance,
    loss=lambda params, r: optax.sigmoid_binary_cross_entropy(MODELS["biased"].predict(params, r), r.value),
    by_hand=None,
    design=None,
    link=jax.nn.sigmoid,
    name="logistic",
)


def test_a_link_ranks_by_products_and_reports_chances():
    """In float32 the chances of 30 and of 40 are both 1, and the order is still that of the products."""
    columns = np.repeat([0, 1], 4), np.tile(np.arange(4), 2), np.tile([1.0, 0.0, 1.0, 0.0], 2)
    data = jaxmf.Dataset(pd.Index(["a", "b"]), pd.Index([*"wxyz"]), *columns)
    bias = np.array([30.0, -2.0, 40.0, 1.0])
    rows = ({"factors": np.zeros((len(each), 3)), "bias": each} for each in (np.zeros(2), bias))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), jaxmf.Rows(*rows))
    params = jaxmf.Params(single, jaxmf.Rows(shared={"mean": jnp.float32(0)}))
    best = recommend.top_n(LOGISTIC, params, data, n=4, filter_seen=False)
    assert best["item_id"].tolist()[:4] == [*"ywzx"]
    expected = 1 / (1 + np.exp(-np.sort(bias)[::-1]))
    np.testing.assert_allclose(best["score"], np.tile(expected, 2), rtol=1e-6)
    assert best["score"].dtype == np.float32
    slow = recommend.top_n(LOGISTIC._replace(embed=None, link=None), params, data, users=["b"], n=4, filter_seen=False)
    np.testing.assert_allclose(slow["score"], expected, rtol=1e-6)
    ranked = jaxmf.evaluate.ranking(
        LOGISTIC, params, data.take(np.array([0])), data.take(np.arange(4, 8)), k=2, threshold=1
    )
    assert ranked["value"].notna().all()
