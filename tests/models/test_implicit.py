"""Models of implicit feedback against sums over all cells and loops over all draws, and the ranking that fits watch."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, assert_close, gradient, init, objective, random_ratings, slow
from scipy.special import expit, log_expit, logsumexp

import jaxmf
from jaxmf import evaluate, models, recommend, search, solvers, verify
from jaxmf.models import draw_unseen, is_seen, seen_of
from jaxmf.training._watched import ranking, watched

ALS, ADAM = solvers.als(), solvers.minibatch(optax.adam, 64)
WHOLE = HYPER._replace(unobserved=0.3)
IALS = {"plain": models.ials(3), "biased": models.ials(3, bias=True)}
SAMPLED = {
    "bpr": models.bpr(3, negatives=4),
    "bpr-popular": models.bpr(3, popularity=0.7, bias=False),
    "softmax": models.sampled_softmax(3, negatives=5),
    "softmax-popular": models.sampled_softmax(3, negatives=5, popularity=0.7),
    "softmax-uncorrected": models.sampled_softmax(3, negatives=5, correct=False),
    "logistic": models.logistic_mf(3, negatives=2),
    "logistic-observed": models.logistic_mf(3, negatives=0),
}


def likes(ratings=None, **changes):
    """The ratings as likes of weight 0, 1 or 2."""
    ratings = random_ratings(folds=True) if ratings is None else ratings
    weight = ratings.weight * (1 + jnp.arange(len(ratings.weight)) % 2)
    return replace(ratings, value=jnp.ones_like(ratings.value), weight=weight, **changes)


def scores_of(params):
    """Every user's score of every item, (17, 13)."""
    user, item, _ = jax.tree.map(np.asarray, params.trained)
    return user["factors"] @ item["factors"].T + item.get("bias", 0) + user.get("bias", np.zeros(17))[:, None]


def dense_objective(params, ratings, hyper):
    """That of iALS over all cells, in JAX, without any identity."""
    user, item, _ = params.trained
    table = user["factors"] @ item["factors"].T
    if "bias" in user:
        table = table + user["bias"][:, None] + item["bias"][None]
    cell = ratings.user * 13 + ratings.item
    sums = (jax.ops.segment_sum(x, cell, 17 * 13) for x in (ratings.weight, ratings.weight * ratings.value))
    weight, value = (x.reshape(17, 13) for x in sums)
    square = jnp.sum(weight * table**2 - 2 * value * table) + jnp.sum(ratings.weight * ratings.value**2)
    total = square + hyper.unobserved * jnp.sum(table**2)
    counts = jnp.sum(weight, axis=1) + hyper.unobserved * 13, jnp.sum(weight, axis=0) + hyper.unobserved * 17
    for rows, n in zip((user, item), counts, strict=True):
        s = n**hyper.reg_exponent
        total += hyper.l2 * jnp.sum(s[:, None] * rows["factors"] ** 2)
        total += hyper.l2_bias * jnp.sum(s * rows["bias"] ** 2) if "bias" in rows else 0
    return total


@pytest.mark.parametrize("exponent", [1.0, slow(0.0), slow(0.5)])
@pytest.mark.parametrize("model", IALS.values(), ids=IALS)
def test_ials_is_a_sum_over_all_cells(model, exponent):
    """The objective, and its gradient to 1e-12 of the dense one, for values other than 1 too."""
    ratings, hyper = replace(likes(), value=random_ratings().value), WHOLE._replace(reg_exponent=exponent)
    params = init(model, ratings, hyper._replace(init_scale=0.7))
    expected, slope = jax.jit(jax.value_and_grad(lambda p: dense_objective(p, ratings, hyper)))(params)
    assert float(objective(model, params, ratings, hyper)) == pytest.approx(float(expected), rel=1e-13)
    found = gradient(model, params, ratings, hyper)
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope.trained))
    assert_close(found, slope.trained, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("name", [*SAMPLED, *IALS])
def test_hand_derived_formulas_are_verified(name):
    """Gradients and Hessians, of ratings other than 0 and 1 too, with the draws fixed."""
    model = {**SAMPLED, **IALS}[name]
    ratings, hyper = likes(), WHOLE if name in IALS else HYPER
    if name in (*IALS, "logistic", "logistic-observed"):
        ratings = replace(ratings, value=random_ratings().value / 5)
    params = init(model, ratings, hyper._replace(init_scale=0.7))
    for check in (verify.gradients, verify.hessian):
        report = check(model, params, ratings, hyper)
        assert report.passed
        assert report.table["hand_vs_autodiff"].notna().all()


@pytest.mark.parametrize("name", SAMPLED)
def test_losses_are_those_of_a_loop(name):
    """One observation and one drawn item at a time."""
    model, ratings = SAMPLED[name], likes()
    params = init(model, ratings, HYPER._replace(init_scale=0.7))
    drawn = models.drawn(KEY, model, ratings)
    s, expected = scores_of(params), []
    for n, (u, i) in enumerate(zip(*(np.asarray(x).tolist() for x in (ratings.user, ratings.item)), strict=True)):
        negatives = np.asarray(drawn.context["negative"][n]) if drawn.context else np.array([], int)
        if name.startswith("bpr"):
            expected.append(np.mean([-log_expit(s[u, i] - s[u, j]) for j in negatives]))
        elif name.startswith("softmax"):
            popular = (np.bincount(ratings.item, ratings.weight > 0, 13)).clip(1) ** 0.7
            free = 13 - np.sum((np.asarray(ratings.user) == u) & (np.asarray(ratings.weight) > 0))
            share = {"softmax": np.full(13, 1 / free), "softmax-popular": popular / popular.sum()}.get(name)
            others = [s[u, j] - (0 if share is None else np.log(5 * share[j])) for j in negatives]
            expected.append(logsumexp([s[u, i], *others]) - s[u, i])
        else:
            expected.append(-log_expit(s[u, i]) - sum(log_expit(-s[u, j]) for j in negatives))
    np.testing.assert_allclose(model.loss(params, drawn), expected, rtol=1e-11)


def test_the_corrected_softmax_is_that_of_all_items_in_the_mean():
    """The sum over drawn items estimates that over all items that the user has not chosen, without bias."""
    ratings, count = likes(), 4000
    model = models.sampled_softmax(3, negatives=count)
    params = init(model, ratings, HYPER._replace(init_scale=0.7))
    loss = np.asarray(model.loss(params, models.drawn(KEY, model, ratings)))
    s, seen = scores_of(params), np.asarray(is_seen(seen_of(ratings), jnp.arange(17)[:, None], jnp.arange(13)))
    for n in (0, 7, 30):
        u, i = int(ratings.user[n]), int(ratings.item[n])
        assert loss[n] == pytest.approx(logsumexp(np.append(s[u][~seen[u]], s[u, i])) - s[u, i], abs=0.05)


@pytest.mark.parametrize("popularity", [0.0, 0.7])
def test_draws_are_of_what_a_user_has_not_chosen(popularity):
    """In the shares that are promised; of a pair that is observed twice, only one is counted."""
    ratings = likes()
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:40]]), ratings)
    seen = jax.jit(seen_of)(twice)
    chosen = np.asarray(is_seen(seen, jnp.arange(17)[:, None], jnp.arange(13)))
    np.testing.assert_array_equal(seen.num_users, chosen.sum(axis=0))
    draw = jax.jit(partial(draw_unseen, num_items=13, num_draws=20_000, popularity=popularity))
    items, log_expected = map(np.asarray, draw(KEY, jnp.arange(17), seen))
    share = chosen.sum(axis=0).clip(1) ** popularity * ~chosen
    share /= share.sum(axis=1, keepdims=True)
    found = np.stack([np.bincount(row, minlength=13) for row in items]) / 20_000
    assert found[chosen].max() == 0
    # With popularity, four rejections in a row end in a uniform draw, which some users of few free items come to.
    assert np.abs(found - share).max() < (0.015 if popularity == 0 else 0.1)
    if popularity == 0:
        np.testing.assert_allclose(log_expected[:, 0], np.log(20_000 / (~chosen).sum(axis=1)), rtol=1e-12)


@pytest.mark.slow
def test_ials_ranks_and_als_solves_it():
    """The objective never rises, and the block solved last is stationary, for ν 0, ½ and 1, with a masked column."""
    wide = replace(likes(), num_users=18, num_items=14)
    for model in IALS.values():
        for exponent in (0.0, 0.5, 1.0):
            hyper = WHOLE._replace(reg_exponent=exponent, rank=2)
            fit = jaxmf.fit(KEY, model, ALS, wide, hyper=hyper, epochs=40)
            found = fit.history["objective"]
            assert (np.diff(found) <= 1e-9 * found[0]).all()
            start = gradient(model, init(model, wide, hyper), wide, hyper._replace(rank=None))
            slope = gradient(model, fit.params, wide, hyper._replace(rank=None)).item["factors"][:, :2]
            assert float(jnp.abs(slope).max()) < 1e-10 * float(jnp.abs(start.item["factors"]).max())
            assert np.abs(np.asarray(fit.params.trained.user["factors"][:, 2])).max() == 0


def users_and_items(num_likes=700):
    """Likes of three groups of users for three groups of items, split at random, on the host."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 60, 4 * num_likes), rng.integers(0, 40, 4 * num_likes)
    kept = np.unique((user * 40 + item)[rng.random(len(user)) < np.where(user % 3 == item % 3, 0.8, 0.1)])[:num_likes]
    data = jaxmf.Dataset(pd.RangeIndex(60), pd.RangeIndex(40), kept // 40, kept % 40, np.ones(len(kept)))
    return jaxmf.splits.random(data, (0.7, 0.3))


@pytest.mark.parametrize("measure", ["ndcg", "recall", "map", "auc"])
def test_what_is_watched_is_what_evaluation_finds(measure):
    """With fewer users than are sampled, without ties: the means of `evaluate.ranking` at the same k."""
    train, valid = users_and_items()
    model, hyper = models.ials(4), jaxmf.Hyper(l2=0.05, unobserved=0.1)
    params = init(model, train.ratings, hyper._replace(init_scale=0.7))
    table = evaluate.ranking(model, params, train, valid, k=7, baselines=False)
    expected = table.loc[table["metric"] == measure, "value"].iloc[0]
    sample = jax.jit(watched)(train.ratings, valid.ratings)
    found = jax.jit(lambda p: ranking(model, p, sample, measure, 7))(params)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_a_model_of_preferences_is_watched_by_its_ranking():
    """`patience` keeps the epoch of the highest ndcg; no error of ratings is recorded, or can be asked for."""
    train, valid = users_and_items()
    model, hyper = models.ials(4), jaxmf.Hyper(l2=0.05, unobserved=0.1)
    fit = jaxmf.fit(KEY, model, ALS, train, valid, hyper, epochs=8, patience=8)
    assert list(fit.history) == ["epoch", "seconds", "train_loss", "objective", "valid_loss", "valid_ndcg"]
    best = int(np.argmax(fit.history["valid_ndcg"]))
    assert int(fit.state.best.epoch) == best + 1
    sample = watched(train.ratings, valid.ratings)
    assert fit.history["valid_ndcg"][best] == pytest.approx(float(ranking(model, fit.params, sample, "ndcg", 10)))
    assert f"valid_ndcg {fit.history['valid_ndcg'][-1]:.4g}" in repr(fit)
    with pytest.raises(ValueError, match=r"^evaluate\.rating: the model 'ials' predicts preferences, .*ranking"):
        evaluate.rating(model, fit.params, valid)
    with pytest.raises(ValueError, match=r"^monitor: the model 'ials' predicts preferences, which have no error"):
        jaxmf.fit(KEY, model, ALS, train, valid, hyper, monitor="rmse")


def test_sweeps_and_searches_take_the_highest_ranking():
    train, valid = users_and_items()
    model, grid = models.ials(4), {"l2": [5.0, 0.05], "unobserved": [0.1]}
    run: dict[str, Any] = {"hyper": jaxmf.Hyper(unobserved=0.1), "epochs": 4}
    runs = jaxmf.sweep(KEY, model, ALS, train, valid, grid=grid, patience=4, **run)
    table = runs.to_frame()
    assert runs.score == "valid_ndcg"
    assert table["valid_ndcg"].iloc[1] > table["valid_ndcg"].iloc[0]
    assert runs.best() == runs.best("ndcg") == 1
    assert list(runs.kept) == [1]
    chosen = search.refit(runs, ALS, train, valid)
    assert chosen.setting["l2"] == 0.05
    assert chosen.score == pytest.approx(table["valid_ndcg"].max())
    assert chosen.table["valid_ndcg"].is_monotonic_decreasing
    assert set(chosen.test) >= {"ndcg", "recall", "auc"}
    settings = [{"l2": l2, "unobserved": 0.1} for l2 in (5.0, 0.5, 0.05)]
    halved = search.halving(KEY, model, ALS, train, valid, grid=settings, min_epochs=1, factor=2, **run)
    assert halved.to_frame()["status"].iloc[0] == "pruned"
    assert halved.best() == 2


@pytest.mark.parametrize("model", [IALS["plain"], slow(models.bpr(3))], ids=["ials", "bpr"])
def test_what_a_fold_holds_out_changes_nothing(model):
    """Neither the fit nor its draws nor, apart from what is relevant, the ranking that it watches."""
    train, _ = users_and_items()
    ratings, solver = train.ratings, ALS if model.draw is None else ADAM
    fold = (np.arange(len(train)) % 3 > 0).astype(float)
    held_out = replace(ratings, weight=ratings.weight * fold)
    other = replace(held_out, item=jnp.where(held_out.weight > 0, ratings.item, (ratings.item + 1) % 40))
    hyper = jaxmf.Hyper(l2=0.05, unobserved=None if model.background is None else 0.1)
    fits = [jaxmf.fit(KEY, model, solver, part, hyper=hyper, epochs=3) for part in (held_out, other)]
    # ALS deals out rows by their numbers of ratings, held out or not, so that sums are rounded otherwise.
    assert_close(fits[0].params, fits[1].params, rtol=1e-10 if model.draw is None else 0, atol=1e-12)
    samples = [watched(part, replace(ratings, weight=ratings.weight * (1 - fold))) for part in (held_out, other)]
    assert_close(samples[0], samples[1], rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpr", "softmax", "logistic"])
def test_sampled_losses_find_the_groups(name):
    """Far above popularity, the same however a fit is cut, and wide tables as narrow ones of the same rank."""
    train, valid = users_and_items()
    model, hyper = SAMPLED[name], jaxmf.Hyper(l2=0.05, learning_rate=0.03)
    fit = jaxmf.fit(KEY, model, ADAM, train, valid, hyper, epochs=40)
    table = evaluate.ranking(model, fit.params, train, valid).query("metric == 'ndcg'").set_index("model")["value"]
    assert table[model.name] > 1.5 * table["popularity"]
    half = jaxmf.fit(KEY, model, ADAM, train, valid, hyper, epochs=13)
    both = jaxmf.fit(KEY, model, ADAM, train, valid, hyper, epochs=27, resume=half)
    assert_close(both.params, fit.params, rtol=0)


def test_chances_are_predicted_and_scores_rank():
    model, ratings = SAMPLED["logistic"], likes()
    params = init(model, ratings, HYPER._replace(init_scale=0.7))
    expected = expit(scores_of(params))[np.asarray(ratings.user), np.asarray(ratings.item)]
    np.testing.assert_allclose(model.predict(params, ratings), expected, rtol=1e-12)
    np.testing.assert_allclose(models.scores(model, params, jnp.arange(17), 13), scores_of(params), rtol=1e-11)


@pytest.mark.slow
def test_hypergradients_by_the_weight_of_all_cells_equal_differences():
    """At the fixed point of ALS, at a rank below the width, by λ and α0."""
    train, valid = users_and_items(300)
    model, hyper = models.ials(3), jaxmf.Hyper(l2=0.3, unobserved=0.2, rank=2, init_scale=0.5)
    run: dict[str, Any] = {"names": ["l2", "unobserved"], "epochs": 300, "method": "implicit"}
    found = search.hypergradient(KEY, model, ALS, train.ratings, valid.ratings, hyper=hyper, **run)

    def loss(**numbers):
        return search.hypergradient(
            KEY, model, ALS, train.ratings, valid.ratings, hyper=hyper._replace(**numbers), **run
        ).loss

    for name in run["names"]:
        here = getattr(hyper, name)
        central = (loss(**{name: here + 1e-4}) - loss(**{name: here - 1e-4})) / 2e-4
        assert float(found.gradient[name]) == pytest.approx(float(central), rel=1e-4)


# Features of the items.

X = np.abs(np.random.default_rng(3).normal(size=(13, 4))) / 2
WITH_FEATURES = models.ials(3, features=X), models.ials(3, bias=True, features=X)


@pytest.mark.parametrize("model", [WITH_FEATURES[0], slow(WITH_FEATURES[1])], ids=["plain", "biased"])
def test_item_features_are_part_of_the_items_rows(model):
    """The objective is that of rows q_i + x_i E, but for the penalty; hand-derived formulas are verified."""
    ratings = likes()
    params = init(model, ratings, WHOLE._replace(init_scale=0.7))
    E = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    params = params._replace(trained=params.trained._replace(shared={"factors": E}))
    item = params.trained.item
    whole = jaxmf.Params(jaxmf.Rows(params.trained.user, item | {"factors": item["factors"] + X @ E}))
    plain = models.ials(3, bias="bias" in item)
    free = WHOLE._replace(l2=0.0, l2_bias=0.0)
    expected = objective(plain, whole, ratings, free)
    assert float(objective(model, params, ratings, free)) == pytest.approx(float(expected), rel=1e-13)
    np.testing.assert_allclose(model.predict(params, ratings), plain.predict(whole, ratings), rtol=1e-12)
    weight = models.row_weights(ratings, WHOLE.reg_exponent, WHOLE.unobserved)
    alone = plain.penalty(params.trained._replace(shared={}), weight, WHOLE)
    found = float(model.penalty(params.trained, weight, WHOLE) - alone)
    assert found == pytest.approx(WHOLE.l2 * float(jnp.sum(weight.item)) / 4 * float(jnp.sum(E**2)), rel=1e-9)
    for check in (verify.gradients, verify.hessian):
        assert check(model, params, ratings, WHOLE).passed


@pytest.mark.parametrize("method", ["cholesky", slow("cg")])
def test_als_solves_for_the_weights_of_features(method):
    """The objective never rises; by Cholesky, E is at its minimum given all rows, and all become stationary."""
    model, ratings = WITH_FEATURES[0], likes()
    solver = solvers.als(method=method)
    fit = jaxmf.fit(KEY, model, solver, ratings, hyper=WHOLE, epochs=300 if method == "cholesky" else 20)
    found = fit.history["objective"]
    assert (np.diff(found) <= 1e-9 * found[0]).all()
    slope = gradient(model, fit.params, ratings, WHOLE)
    if method == "cholesky":
        assert float(jnp.abs(slope.shared["factors"]).max()) < 1e-6 * found[0]
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) < 1e-5 * found[0]
    narrow = jaxmf.fit(KEY, model, solver, ratings, hyper=WHOLE._replace(rank=2), epochs=3)
    assert np.abs(np.asarray(narrow.params.trained.shared["factors"][:, 2])).max() == 0


@pytest.mark.slow
def test_features_rank_items_that_nobody_has_chosen():
    """Groups of items by their features: cold items are folded in by these alone, and nearly all users like theirs."""
    train, _ = users_and_items(1200)
    groups = np.eye(3)[np.arange(40) % 3]
    warm = train.take(train.item < 32)
    warm = replace(warm, item_ids=warm.item_ids[:32])
    model, hyper = models.ials(4, features=groups[:32]), jaxmf.Hyper(l2=0.01, unobserved=0.1)
    fit = jaxmf.fit(KEY, model, ALS, warm, hyper=hyper, epochs=20)
    table = pd.DataFrame(groups[32:], index=pd.Index(range(32, 40)))
    params, data = recommend.fold_in(model, fit.params, hyper, warm, None, features=table)
    assert data.num_items == 40
    scores = np.asarray(models.scores(model, params, jnp.arange(60), 40))[:, 32:]
    own = (np.arange(32, 40) % 3)[None] == (np.arange(60) % 3)[:, None]
    liked, others = (np.mean(scores, axis=1, where=mask) for mask in (own, ~own))
    assert np.mean(liked > others) > 0.9
