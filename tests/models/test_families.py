"""Parts that families to come need: a loss over all cells, and rows that read whole tables."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, random_ratings

import jaxmf
from jaxmf import recommend, solvers, verify
from jaxmf.models import objective

SGD, ADAM, ALS = solvers.sgd(), solvers.minibatch(optax.adam, 64), solvers.als()
PLAIN = jaxmf.models.mf(3, center=None)


def all_cells(params, hyper):
    """α Σ_{u,i} (p_u·q_i)² over all cells, without them, by the Gram matrices of both sides."""
    left, right = params.trained.user["factors"], params.trained.item["factors"]
    return hyper.extra["unobserved"] * jnp.sum((left.T @ left) * (right.T @ right))


IALS = PLAIN._replace(background=all_cells, by_hand=None, name="ials")
IMPLICIT = HYPER._replace(extra={"unobserved": 0.3}, learning_rate=0.05)


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(folds=True)


@pytest.fixture(scope="module")
def params(ratings):
    return IALS.init(KEY, ratings, IMPLICIT._replace(init_scale=0.7))


def test_the_objective_is_that_over_all_cells(ratings, params):
    left, right = (np.asarray(rows["factors"]) for rows in params.trained[:2])
    others = 0.3 * sum(float(p @ q) ** 2 for p in left for q in right)
    plain = float(objective(PLAIN, params, ratings, IMPLICIT))
    assert float(objective(IALS, params, ratings, IMPLICIT)) == pytest.approx(plain + others, rel=1e-12)


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


@pytest.mark.parametrize("solver", [SGD, ALS], ids=["sgd", "als"])
def test_a_background_is_refused_by_name(solver, ratings):
    with pytest.raises(ValueError, match=rf"^{solver.name}: the model 'ials' has a `background`, .*solvers.minibatch"):
        jaxmf.fit(KEY, IALS, solver, ratings, hyper=IMPLICIT, epochs=1)


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
