"""Parts that families to come need: a loss over all cells, and rows that read whole tables."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, IALS, KEY, MODELS, RANK, degrees, random_ratings

import jaxmf
from jaxmf import recommend, solvers, verify
from jaxmf.models import objective, row_weights
from jaxmf.solvers import Problem
from jaxmf.solvers.als import half_step

SGD, ADAM, ALS = solvers.sgd(), solvers.minibatch(optax.adam, 64), solvers.als()
PLAIN = MODELS["biased"]
IMPLICIT = HYPER._replace(unobserved=0.3, learning_rate=0.05)


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(folds=True)


@pytest.fixture(scope="module")
def params(ratings):
    return IALS.init(KEY, ratings, IMPLICIT._replace(init_scale=0.7))


def test_the_objective_is_that_over_all_cells(ratings, params):
    """Every cell's square, and n_u + α0 |I| cells of a user in the penalty, n_i + α0 |U| of an item."""
    every = jaxmf.data.ratings.Pairs(*map(jnp.ravel, jnp.indices((17, 13))))
    squares = 0.3 * float(jnp.sum(PLAIN.predict(params, every) ** 2))
    errors = float(jnp.sum(ratings.weight * PLAIN.loss(params, ratings)))
    weight = [(np.asarray(n) + 0.3 * others) ** 0.5 for n, others in zip(degrees(ratings), (13, 17), strict=True)]
    penalty = float(PLAIN.penalty(params.trained, jaxmf.Rows(*map(jnp.asarray, weight)), IMPLICIT))
    assert float(objective(IALS, params, ratings, IMPLICIT)) == pytest.approx(squares + errors + penalty, rel=1e-12)


@pytest.mark.parametrize("check", [verify.gradients, verify.taylor, verify.complex_step, verify.hessian])
def test_its_gradient_is_verified(check, ratings, params):
    assert check(IALS, params, ratings, IMPLICIT).passed


def test_minibatch_steps_on_it(ratings):
    """In one batch a step of gradient descent is that of the mean objective, the background's share included."""
    solver = solvers.minibatch(lambda h: optax.sgd(h.learning_rate), 1024)
    hyper = IMPLICIT._replace(learning_rate_bias=None)
    start = IALS.init(jax.random.fold_in(KEY, 0), ratings, hyper)
    slope = jax.grad(lambda t: objective(IALS, start._replace(trained=t), ratings, hyper))(start.trained)
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
    start = IALS.init(jax.random.fold_in(KEY, 0), wide, hyper)
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


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_als_never_rises(method, ratings):
    solver = solvers.als(method=method, steps=2)
    fit = jaxmf.fit(KEY, IALS, solver, ratings, hyper=IMPLICIT._replace(rank=2), epochs=60)
    found = fit.history["objective"]
    assert (np.diff(found) <= 1e-9 * found[0]).all()
    assert np.abs(np.asarray(fit.params.trained.user["factors"][:, 2:])).max() == 0
    hyper = IMPLICIT._replace(rank=None)
    slope = jax.grad(lambda t: objective(IALS, fit.params._replace(trained=t), ratings, hyper))(fit.params.trained)
    assert np.abs(slope.item["bias"]).max() < (1e-8 if method == "cholesky" else 1e-4) * found[0]


@pytest.mark.parametrize("method", ["cholesky", "cg"])
def test_derivatives_by_the_weight_of_all_cells(method, ratings, params):
    """Through two half-steps, against a central difference."""
    tiles = ALS.setup(ratings, ALS.prepare(ratings), IMPLICIT)

    @jax.jit
    def value(unobserved):
        hyper, found = IMPLICIT._replace(unobserved=unobserved), params
        problem = Problem(ratings, row_weights(ratings, hyper.reg_exponent, unobserved), tiles)
        for side in ("user", "item"):
            found = half_step(IALS, found, problem, hyper, side, None if method == "cholesky" else 2)
        return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(found.trained))

    central = (value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5
    assert float(jax.jit(jax.grad(value))(0.3)) == pytest.approx(float(central), rel=1e-7)


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
    columns = (np.asarray(column) for column in (ratings.user, ratings.item, ratings.value))
    data = jaxmf.Dataset(pd.Index(range(17)), pd.Index(range(13)), *columns)
    new = pd.DataFrame({"user_id": [99, 99], "item_id": [0, 3], "rating": [4.0, 2.0], "timestamp": [0, 0]})
    doors = {
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
    with pytest.raises(ValueError, match=r"^the model 'whole' has reads='table'; expected 'rows' or 'tables'"):
        jaxmf.fit(KEY, model._replace(reads="table"), ADAM, ratings)


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
