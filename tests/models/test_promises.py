"""What solvers and tools rely on: each promise is tried with a user's model, and what breaks one is refused by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import COMPILED, HYPER, KEY, MODELS, init, on_host, random_ratings

import jaxmf
from jaxmf import Dataset, Params, Rows, recommend, solvers, verify
from jaxmf.data.ratings import Pairs
from jaxmf.models import promises, trial
from jaxmf.training.checks import check_promised

BIASED = MODELS["biased"]
RATINGS = random_ratings()
ALS, SGD, ADAM = solvers.als(), solvers.sgd(8), solvers.minibatch(optax.adam, 32)
EVERY = tuple(value for value in vars(promises).values() if isinstance(value, trial.Promise))
DATA = Dataset(
    pd.RangeIndex(17, name="user_id"),
    pd.RangeIndex(13, name="item_id"),
    *on_host(RATINGS),
)


def own(name, **parts):
    return BIASED._replace(name=name, **parts)


def sides(trained, weight):
    return zip(trained[:2], weight[:2], strict=True)


# SVD++: a user's row is joined by those of the items that the user has rated, a list of item numbers.

LIST = np.full((17, 13), 13)
for user_number, row in enumerate(LIST):
    rated = np.asarray(RATINGS.item)[np.asarray(RATINGS.user) == user_number]
    row[: len(rated)] = rated


def svdpp_init(key, ratings, hyper):
    params = BIASED.init(key, ratings, hyper)
    implicit = jnp.zeros_like(params.trained.item["factors"])
    trained = params.trained._replace(item=params.trained.item | {"implicit": implicit})
    return Params(trained, params.fixed._replace(user={"rated": jnp.asarray(LIST)}))


def with_implicit(params, users):
    """The parameters of `biased_mf` whose users' rows are these, joined by those of the items they have rated."""
    table = params.trained.item["implicit"]
    rated = params.fixed.user["rated"][users]
    inside = rated < 13
    rows = jnp.where(inside[..., None], jnp.take(table, rated, axis=0, mode="clip"), 0)
    mean = rows.sum(axis=1) / jnp.sqrt(jnp.maximum(inside.sum(axis=1), 1))[:, None]
    user = {name: leaf[users] for name, leaf in params.trained.user.items()}
    user["factors"] = user["factors"] + mean
    return params._replace(trained=params.trained._replace(user=user), fixed=params.fixed._replace(user={}))


def svdpp_predict(params, pairs):
    return BIASED.predict(with_implicit(params, pairs.user), Pairs(jnp.arange(len(pairs.user)), pairs.item))


def svdpp_penalty(trained, weight, hyper):
    return BIASED.penalty(trained, weight, hyper) + hyper.l2 * jnp.sum(
        weight.item[:, None] * trained.item["implicit"] ** 2
    )


SVDPP = jaxmf.Model(
    svdpp_init,
    svdpp_predict,
    lambda params, r: (r.value - svdpp_predict(params, r)) ** 2,
    svdpp_penalty,
    name="svdpp",
)


# Penalties.


def neighbors(trained, weight, hyper):
    """Two items that are alike, of all."""
    Q = trained.item["factors"]
    return BIASED.penalty(trained, weight, hyper) + hyper.l2 * jnp.sum((Q[3] - Q[7]) ** 2)


def across_columns(trained, weight, hyper):
    return hyper.l2 * sum(
        jnp.sum(w * (rows["factors"].sum(axis=1) + rows["bias"]) ** 2) for rows, w in sides(trained, weight)
    )


def lasso(trained, weight, hyper):
    return hyper.l2 * sum(jnp.sum(w[:, None] * abs(rows["factors"])) for rows, w in sides(trained, weight))


def unweighted(trained, weight, hyper):
    ones = Rows(jnp.ones_like(weight.user), jnp.ones_like(weight.item))
    return BIASED.penalty(trained, ones, hyper)


def mean_penalty(trained, weight, hyper):
    return hyper.l2 * sum(jnp.mean(leaf**2) for leaf in jax.tree.leaves(trained))


# Losses, designs and scores.


def logistic(params, r):
    return optax.sigmoid_binary_cross_entropy(BIASED.predict(params, r), r.value)


def design_of_itself(params, r, side):
    design, target = BIASED.design(params, r, side)
    rows = getattr(params.trained, side)
    return design, target + 0.1 * rows["bias"][getattr(r, side)]


def design_by_number(params, r, side):
    """One that knows each item's age by its number in the whole table."""
    design, target = BIASED.design(params, r, side)
    return design, target - 0.1 * AGE[r.item]


AGE = jnp.arange(13.0)
AGED = own(
    "aged",
    predict=lambda params, pairs: BIASED.predict(params, pairs) + 0.1 * AGE[pairs.item],
    loss=lambda params, r: (r.value - BIASED.predict(params, r) - 0.1 * AGE[r.item]) ** 2,
    design=design_by_number,
    embed=None,
)


def with_shared(name, function):
    """A model that trains one more number, shared by all, and adds a function of it to every prediction."""

    def init(key, ratings, hyper):
        params = BIASED.init(key, ratings, hyper)
        return params._replace(trained=params.trained._replace(shared={"slope": jnp.ones(())}))

    def predict(params, pairs):
        return BIASED.predict(params, pairs) + function(params.trained.shared["slope"])

    return own(name, init=init, predict=predict, loss=lambda params, r: (r.value - predict(params, r)) ** 2, embed=None)


def kept(promise, model, hyper=HYPER):
    return trial.tried(model, (promise,), model.init(KEY, RATINGS, hyper), hyper, RATINGS)[promise].kept


@pytest.mark.parametrize("name", ["mf-user-mean", "content"])
def test_built_models_keep_all_promises(name):
    """They are excused before a fit, since they are tried here; also with fewer columns than they have."""
    model, hyper = MODELS[name], HYPER._replace(rank=2)
    verdicts = trial.tried(model, EVERY, init(model, RATINGS, hyper), hyper, RATINGS)
    assert [promise.broken for promise, verdict in verdicts.items() if not verdict.kept] == []


BROKEN = {
    "columns": (promises.DIAGONAL_PENALTY, own("columns", penalty=across_columns)),
    "lasso": (promises.DIAGONAL_PENALTY, own("lasso", penalty=lasso)),
    "half": (promises.SQUARED_LOSS, own("half", loss=lambda params, r: BIASED.loss(params, r) / 2)),
    "weighs": (promises.SQUARED_LOSS, own("weighs", loss=lambda params, r: r.weight * BIASED.loss(params, r))),
    "logistic": (promises.SQUARED_LOSS, own("logistic", loss=logistic)),
    "itself": (promises.SQUARED_LOSS, own("itself", design=design_of_itself)),
    "number": (promises.OWN_LOSS, AGED),
    "unweighted": (promises.SHARED_PENALTY, own("unweighted", penalty=unweighted)),
    "mean": (promises.SHARED_PENALTY, own("mean", penalty=mean_penalty)),
    "exponential": (promises.QUADRATIC_SHARED, with_shared("exponential", jnp.exp)),
    "alone": (promises.OWN_PENALTY, own("mean", penalty=mean_penalty)),
}


@pytest.mark.parametrize(("promise", "model"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_noticed(promise, model):
    assert not kept(promise, model)


KEPT = {
    "lasso": (promises.SHARED_PENALTY, own("lasso", penalty=lasso)),
    "aged": (promises.SQUARED_LOSS, AGED),
    "unweighted": (promises.OWN_PENALTY, own("unweighted", penalty=unweighted)),
    "linear": (promises.QUADRATIC_SHARED, with_shared("linear", lambda slope: 3 * slope)),
}


@pytest.mark.parametrize(("promise", "model"), KEPT.values(), ids=KEPT)
def test_no_more_is_asked_than_a_tool_relies_on(promise, model):
    assert kept(promise, model)


def test_columns_beyond_the_rank():
    """A column that enters by its exponential is not 0 where the other side's is."""

    def predict(params, pairs):
        user, item = params.trained.user["factors"][pairs.user], params.trained.item["factors"][pairs.item]
        return jnp.sum(jnp.exp(user) * item, axis=1)

    model = own("exponential", predict=predict, loss=lambda params, r: (r.value - predict(params, r)) ** 2)
    assert kept(promises.MASKED_COLUMNS, model)
    assert not kept(promises.MASKED_COLUMNS, model, HYPER._replace(rank=2))


def test_the_numbers_of_a_user_count_as_given():
    """A penalty that couples rows by a number of the user's own is refused where that is not 0."""

    def penalty(trained, weight, hyper):
        return BIASED.penalty(trained, weight, hyper) + hyper.extra["graph"] * neighbors(trained, weight, hyper)

    model = own("graph", penalty=penalty)
    params = BIASED.init(KEY, RATINGS, HYPER)
    for strength in (0.0, 0.5, 0.0):
        check = partial(check_promised, model, ALS, params, HYPER._replace(extra={"graph": strength}), RATINGS)
        if strength:
            with pytest.raises(ValueError, match=r"^als: the model 'graph' breaks a promise: .*slope by item\.factors"):
                check(lambda _: params)
        else:
            check(lambda _: params)


def test_every_door_refuses_svdpp():
    """Its loss is not of two rows. `minibatch` takes it, as do rankings of all items, where each user has a row."""
    params = jaxmf.fit(KEY, SVDPP, ADAM, RATINGS, hyper=HYPER, epochs=2).params
    doors: dict[str, Callable[[], Any]] = {
        "^sgd: ": partial(jaxmf.fit, KEY, SVDPP, SGD, RATINGS),
        "^sweep: sgd: ": partial(jaxmf.sweep, KEY, SVDPP, SGD, RATINGS, grid={"l2": [0.1]}),
        "^sgd: the": partial(jaxmf.search.hypergradient, KEY, SVDPP, SGD, RATINGS, RATINGS, method="unrolled"),
        "^top_n: ": partial(recommend.top_n, SVDPP, params, DATA, candidates=[1, 2, 3]),
    }
    for who, door in doors.items():
        with pytest.raises(ValueError, match=rf"{who}.*model 'svdpp' breaks a promise: its .* reads? more than"):
            door()
    best = recommend.top_n(SVDPP, params, DATA, users=[11, 3], n=2, filter_seen=False)
    for user, items in best.groupby("user_id")["item_id"]:
        score = SVDPP.predict(params, Pairs(jnp.full(13, user), jnp.arange(13)))
        assert items.tolist() == np.argsort(-np.asarray(score))[:2].tolist()


def test_a_verdict_is_remembered_and_built_models_are_excused():
    model = own("half", loss=lambda params, r: BIASED.loss(params, r) / 2)
    with pytest.raises(ValueError, match="the model 'half' breaks a promise"):
        jaxmf.fit(KEY, model, ALS, RATINGS, epochs=1)
    before = len(COMPILED)
    with pytest.raises(ValueError, match="the model 'renamed' breaks a promise"):
        jaxmf.fit(KEY, model._replace(name="renamed"), ALS, RATINGS, epochs=1)
    check_promised(BIASED, ALS, None, HYPER, None, None)
    assert COMPILED[before:] == []


def test_verification_shows_what_als_would_do():
    """`verify.half_steps` refuses nothing of this: that the solved block's gradient is not 0 is what it finds."""
    model = own("neighbors", penalty=neighbors)
    report = verify.half_steps(model, BIASED.init(KEY, RATINGS, HYPER), RATINGS, HYPER, num_sweeps=1)
    assert report.table.groupby("side")["passed"].all().to_dict() == {"user": True, "item": False}
