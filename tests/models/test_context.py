"""What else a model reads of each rating, the bin of its time: through every solver and tool, gathered and padded."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, assert_close, init, objective, on_host, pick, random_ratings, slow

import jaxmf
from jaxmf import evaluate, recommend, solvers, verify
from jaxmf.solvers._sgd import visiting_order

BIASED = MODELS["biased"]
BINS = 3


def binned_init(key, ratings, hyper):
    """That of `biased_mf`, and a bias of each item in each bin."""
    params = BIASED.init(key, ratings, hyper)
    item = params.trained.item | {"bins": jnp.zeros((ratings.num_items, BINS), ratings.value.dtype)}
    return params._replace(trained=params.trained._replace(item=item))


def binned_predict(params, pairs):
    return BIASED.predict(params, pairs) + params.trained.item["bins"][pairs.item, pairs.context["bin"]]


def binned_penalty(trained, weight, hyper):
    bins = hyper.l2_bias * jnp.sum(weight.item[:, None] * trained.item["bins"] ** 2)
    return BIASED.penalty(trained, weight, hyper) + bins


def binned_design(params, ratings, side):
    design, target = BIASED.design(params, ratings, side)
    own = ratings.context["bin"]
    if side == "user":
        return design, target - params.trained.item["bins"][ratings.item, own]
    return design | {"bins": jax.nn.one_hot(own, BINS, dtype=target.dtype)}, target


BINNED = jaxmf.Model(
    binned_init,
    binned_predict,
    lambda params, r: (r.value - binned_predict(params, r)) ** 2,
    binned_penalty,
    design=binned_design,
    name="binned",
)
SOLVERS = {
    "als": solvers.als(),
    "cg": solvers.als(method="cg"),
    "sgd": solvers.sgd(),
    "adam": solvers.minibatch(optax.adam, 32),
}


@pytest.fixture(scope="module")
def ratings():
    drawn = random_ratings(num_users=40, num_items=25, num_ratings=700, seed=3)
    bins = np.random.default_rng(0).integers(0, BINS, 700)
    value = drawn.value + 2.0 * bins * (np.asarray(drawn.item) % 2)  # half the items are liked better later
    return replace(drawn, value=value, context={"bin": jnp.asarray(bins, jnp.int32)})


@pytest.mark.parametrize("name", [name if name in ("sgd", "als") else slow(name) for name in SOLVERS])
def test_every_solver_reads_it(name, ratings):
    """The bins are found, which the model without them cannot; padding and the order of ratings change nothing."""
    run: dict[str, Any] = {"hyper": HYPER._replace(l2=0.02, learning_rate=0.05), "epochs": 15}
    fit = jaxmf.fit(KEY, BINNED, SOLVERS[name], ratings, **run)
    plain = jaxmf.fit(KEY, BIASED, SOLVERS[name], replace(ratings, context={}), **run)
    assert (
        evaluate.rating(BINNED, fit.params, ratings)["mse"]
        < 0.7 * evaluate.rating(BIASED, plain.params, ratings)["mse"]
    )
    found = float(objective(BINNED, fit.params, ratings, fit.hyper))
    assert fit.history["objective"][-1] == pytest.approx(found, rel=1e-12)
    if name == "als":
        order = np.random.default_rng(1).permutation(700)
        again = jaxmf.fit(KEY, BINNED, SOLVERS[name], pick(ratings, order), **run)
        assert_close(fit.params, again.params, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_sgd_visits_each_rating_with_its_own(ratings):
    """Against a loop over the same order, one rating at a time, each with the gradient of its share."""
    solver, hyper = SOLVERS["sgd"], HYPER._replace(learning_rate=0.01, learning_rate_bias=None)
    batch = jaxmf.prepare(solver, ratings)
    fit = jaxmf.fit(KEY, BINNED, solver, batch, hyper=hyper, epochs=1)
    params = init(BINNED, ratings, hyper)
    position = np.asarray(batch.layout.position)
    order = visiting_order(jax.random.fold_in(KEY, 1), batch.layout.num_matchings, position.shape[2])
    counts = np.bincount(ratings.user, minlength=40), np.bincount(ratings.item, minlength=25)

    @jax.jit
    def visited(trained, at):
        one = jax.tree.map(lambda leaf: leaf[at][None], ratings)
        share = jaxmf.Rows(*(1.0 / jnp.maximum(jnp.asarray(n), 1) ** (1 - hyper.reg_exponent) for n in counts))
        near = jaxmf.Rows(
            jnp.where(jnp.arange(40) == one.user[0], share.user, 0),
            jnp.where(jnp.arange(25) == one.item[0], share.item, 0),
        )
        loss = lambda t: BINNED.loss(params._replace(trained=t), one)[0] + BINNED.penalty(t, near, hyper)  # noqa: E731
        return jax.tree.map(lambda leaf, slope: leaf - hyper.learning_rate * slope, trained, jax.grad(loss)(trained))

    trained = params.trained
    for matching in np.asarray(order):
        for at in position[0, 0, matching]:
            if at < 700:
                trained = visited(trained, at)
    assert_close(fit.params.trained, trained, rtol=1e-9, atol=1e-12)


def test_sweeps_folds_and_verification_read_it(ratings):
    hyper, folds = HYPER._replace(l2=0.02), 1.0 * (np.arange(700) % 3 != np.arange(3)[:, None])
    runs = jaxmf.sweep(
        KEY, BINNED, SOLVERS["als"], ratings, folds=folds, hyper=hyper, epochs=5, grid={"l2": [0.02, 5.0]}
    )
    assert runs.table["valid_rmse"].notna().all()
    fit = jaxmf.fit(KEY, BINNED, SOLVERS["als"], ratings, hyper=hyper, epochs=5)
    assert verify.gradients(BINNED, fit.params, ratings, hyper).passed
    assert verify.hessian(BINNED, fit.params, ratings, hyper).passed
    assert verify.half_steps(BINNED, fit.params, ratings, hyper).passed


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["als", "cg"])
def test_derivatives_pass_through_columns_of_context(solver, ratings):
    """Two numbers of each rating, of which the first is added to r̂; against a central difference."""

    def offset(pairs):
        return pairs.context["pair"][:, 0]

    def design(params, own, side):
        rows, target = BIASED.design(params, own, side)
        return rows, target - offset(own)

    model = BIASED._replace(
        predict=lambda params, pairs: BIASED.predict(params, pairs) + offset(pairs),
        loss=lambda params, own: (own.value - BIASED.predict(params, own) - offset(own)) ** 2,
        design=design,
        by_hand=None,
        embed=None,
    )
    pair = jnp.asarray(np.random.default_rng(0).normal(size=(len(ratings.value), 2)))
    batch = jaxmf.prepare(SOLVERS[solver], replace(ratings, context={"pair": pair}))
    run = jaxmf.make_fit(model, SOLVERS[solver], 2)

    @jax.jit
    def value(l2):
        rows = run(KEY, batch, HYPER._replace(l2=l2))[0].params.trained.user
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(rows))

    central = (value(0.1 + 1e-6) - value(0.1 - 1e-6)) / 2e-6
    assert float(jax.jit(jax.grad(value))(0.1)) == pytest.approx(float(central), rel=1e-6)


def test_a_fit_is_not_resumed_with_other_bins(ratings):
    fit = jaxmf.fit(KEY, BINNED, SOLVERS["als"], ratings, hyper=HYPER, epochs=2)
    other = replace(ratings, context={"bin": (ratings.context["bin"] + 1) % BINS})
    with pytest.raises(ValueError, match=r"^resume: the earlier fit had other training ratings"):
        jaxmf.fit(KEY, BINNED, SOLVERS["als"], other, epochs=2, resume=fit)


def test_a_promise_is_tried_with_it(ratings):
    """A loss that reads the bins of all ratings at once is not one of a rating's own rows."""
    coupled = BINNED._replace(loss=lambda params, r: BINNED.loss(params, r) * (1 + jnp.mean(r.context["bin"])))
    with pytest.raises(ValueError, match=r"^sgd: the model 'binned' breaks a promise: its loss of a rating reads more"):
        jaxmf.fit(KEY, coupled, SOLVERS["sgd"], ratings, hyper=HYPER, epochs=1)


def test_where_there_is_none_it_is_refused_by_name(ratings):
    fit = jaxmf.fit(KEY, BINNED, SOLVERS["als"], ratings, hyper=HYPER, epochs=1)
    data = jaxmf.Dataset(pd.Index(range(40)), pd.Index(range(25)), *on_host(ratings))
    message = (
        r"predict of the model 'binned' fails on these params \(KeyError: 'bin'\).* of a model that reads no context"
    )
    with pytest.raises(ValueError, match="^top_n: " + message):
        recommend.top_n(BINNED, fit.params, data)
    with pytest.raises(ValueError, match=r"^loss of the model 'binned' fails .*KeyError: 'bin'"):
        jaxmf.fit(KEY, BINNED, SOLVERS["als"], data, epochs=1)
    with pytest.raises(
        ValueError, match=r"^train holds context 'bin' of shape \[699\]; expected a leading axis of 700"
    ):
        jaxmf.fit(KEY, BINNED, SOLVERS["als"], replace(ratings, context={"bin": ratings.context["bin"][1:]}))
