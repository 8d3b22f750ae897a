"""The shares of a score against the normal equations of a loop, and against the fit whose predictions they explain."""

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, init, on_host, random_ratings, slow

import jaxmf
from jaxmf import models, solvers
from jaxmf.recommend import explain

WHOLE = HYPER._replace(unobserved=0.3, l2=0.7, l2_bias=0.5)


def dataset(likes):
    users, items = (pd.Index([f"{side}{n:02d}" for n in range(count)]) for side, count in (("u", 17), ("i", 13)))
    data = jaxmf.Dataset(users, items, *on_host(random_ratings()))
    return replace(data, rating=np.ones(90), weight=1.0 + np.arange(90) % 3) if likes else data


@pytest.mark.parametrize("model", [models.ials(3), slow(models.ials(3, bias=True))], ids=["ials", "ials-biased"])
def test_shares_are_those_of_the_normal_equations(model):
    """User u03's score of every item: similarities by an inverse in NumPy, one item after another."""
    data = dataset(likes=True)
    params = init(model, data.ratings, WHOLE._replace(init_scale=0.7))
    item, user = data.item_index(["i05"])[0], data.user_index(["u03"])[0]
    rows = jax.tree.map(np.asarray, params.trained.item)
    biased = "bias" in rows
    D = np.column_stack([rows["bias"] * 0 + 1, rows["factors"]]) if biased else rows["factors"]
    c = rows["bias"] if biased else np.zeros(13)
    mine = data.item[data.user == user]
    w = data.weight[data.user == user]
    s = (w.sum() + 0.3 * 13) ** 0.5
    ridge = s * np.array([WHOLE.l2_bias] * biased + [WHOLE.l2] * 3)
    A = (D[mine] * w[:, None]).T @ D[mine] + 0.3 * D.T @ D + np.diag(ridge)
    similarity = D[mine] @ np.linalg.inv(A) @ D[item]
    why = explain(model, params, WHOLE, data, "u03", "i05")
    table = why.shares.set_index("item_id").loc[data.item_ids[mine]]
    np.testing.assert_allclose(table["similarity"], similarity, rtol=1e-10)
    np.testing.assert_allclose(table["share"], w * (1 - c[mine]) * similarity, rtol=1e-10)
    assert why.base == pytest.approx(c[item] - 0.3 * D[item] @ np.linalg.solve(A, D.T @ c), rel=1e-10)
    assert why.shares["share"].is_monotonic_decreasing


@pytest.mark.parametrize("name", ["biased", slow("content"), slow("ials")])
def test_the_score_is_the_prediction_of_a_converged_fit(name):
    """Also of an item that the user has rated, and of a user without ratings."""
    data = dataset(likes=name == "ials")
    model, hyper = (models.ials(3), WHOLE) if name == "ials" else (MODELS[name], HYPER._replace(l2=0.7, l2_bias=0.5))
    fit = jaxmf.fit(KEY, model, solvers.als(), data, hyper=hyper, epochs=300)
    for user, item in (("u02", "i03"), ("u02", data.item_ids[data.item[data.user == 2][0]]), ("u16", "i04")):
        why = explain(model, fit.params, hyper, data, user, item)
        frame = pd.DataFrame({"user_id": [user], "item_id": [item]})
        assert why.score == pytest.approx(float(jaxmf.predict(model, fit.params, data, frame).iloc[0]), rel=1e-6)
        assert why.score == pytest.approx(why.base + why.shares["share"].sum(), rel=1e-12)
    assert len(why.shares) == 0


def test_what_cannot_be_explained_is_refused():
    data = dataset(likes=True)
    params = init(models.bpr(3), data.ratings, HYPER)
    with pytest.raises(ValueError, match=r"^explain: the model 'bpr' has no `design`"):
        explain(models.bpr(3), params, HYPER, data, "u03", "i05")
    params = init(models.ials(3), data.ratings, WHOLE)
    with pytest.raises(ValueError, match="unknown item"):
        explain(models.ials(3), params, WHOLE, data, "u03", "nothing")
    with pytest.raises(ValueError, match=r"^hyper: the model 'ials' needs unobserved"):
        explain(models.ials(3), params, HYPER, data, "u03", "i05")
