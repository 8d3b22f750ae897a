"""Models of one's own that break what a solver or a tool relies on; what is found of each is there before."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from bad_input.builders import ALS, BIASED, NINE, OWN, fit
from bad_input.evaluate import predict, rank
from bad_input.recommend import fold, top
from bad_input.sweep import swept
from jaxmf.recommend import update


def with_neighbors(trained, weight, hyper):
    """A penalty that holds two items together."""
    Q = trained.item["factors"]
    return BIASED.penalty(trained, weight, hyper) + hyper.l2 * jnp.sum((Q[3] - Q[7]) ** 2)


def of_the_batch(params, ratings):
    return BIASED.loss(params, ratings) / jnp.sum(ratings.weight)


def by_user_number(params, pairs):
    return BIASED.predict(params, pairs) + pairs.user


def by_item_number(params, pairs):
    return BIASED.predict(params, pairs) + pairs.item


def design_by_item_number(params, ratings, side):
    design, target = BIASED.design(params, ratings, side)
    return design, target - ratings.item


NEIGHBORS = OWN._replace(penalty=with_neighbors)
BATCH = OWN._replace(loss=of_the_batch)
USERS = OWN._replace(predict=by_user_number, embed=None)
ITEMS = OWN._replace(
    predict=by_item_number,
    loss=lambda params, r: (r.value - by_item_number(params, r)) ** 2,
    design=design_by_item_number,
    embed=None,
)
SCORES = OWN._replace(link=lambda score: 2 * score)
PROMISE = "the model 'mine' breaks a promise: its "

CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "promise-als": (
        lambda: fit(model=NEIGHBORS, solver=ALS),
        rf"^als: {PROMISE}penalty .* so that the slope by item\.factors is not ridge · z\. Penalize each number by "
        r"its own square, .*, or use solvers\.minibatch, which takes any model \(in the shell: --solver adam\)$",
    ),
    "promise-als-loss": (
        lambda: fit(model=BATCH, solver=ALS),
        rf"^als: {PROMISE}loss is not the squared distance of ⟨design, row⟩ from the target",
    ),
    "promise-sgd": (
        lambda: fit(model=NEIGHBORS),
        rf"^sgd: {PROMISE}penalty is not a sum over rows, each times its weight, .* slope by item\.factors\. Multiply",
    ),
    "promise-sgd-loss": (
        lambda: fit(model=BATCH),
        rf"^sgd: {PROMISE}loss of a rating reads more than that rating and the rows .* Let it read nothing else",
    ),
    "promise-sweep": (
        lambda: swept(model=NEIGHBORS),
        rf"^sweep: als: {PROMISE}penalty is not .*\(in the shell: --solver adam\)\. In the point \{{'l2': 0\.1\}}$",
    ),
    "promise-fold": (
        lambda: fold(model=ITEMS),
        rf"^fold_in: {PROMISE}design of a rating reads more .*, or fit the model again to data\.extend\(new_frame\) "
        r"\(in the shell: jaxmf fit\)$",
    ),
    "promise-update": (
        partial(fold, model=NEIGHBORS, how=update),
        rf"^update: {PROMISE}penalty is not a weighted sum of the squares",
    ),
    "promise-users": (
        lambda: top(model=USERS),
        rf"^top_n: {PROMISE}predictions read other users' rows, a user's index .*, or rank what jaxmf\.predict",
    ),
    "promise-candidates": (
        lambda: top(model=ITEMS, candidates=[3, 4]),
        rf"^top_n: {PROMISE}predictions read more than the rows of a user and an item, .*, or omit candidates=",
    ),
    "promise-bias": (
        lambda: predict(model=ITEMS, frame=NINE.replace({"user_id": {2: 99}}), on_unknown="bias"),
        rf"^predict: {PROMISE}predictions read more than the rows of .*, or pass on_unknown='drop'$",
    ),
    "promise-embed": (
        lambda: rank(model=SCORES),
        rf"^evaluate\.ranking: {PROMISE}`embed` and `link` do not give the predictions of `predict`\. "
        "Leave `embed` None, or ",
    ),
}
