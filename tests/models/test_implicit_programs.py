"""Programs of implicit feedback: dtypes, platforms, memory, and the promises that tools rely on."""

import re
from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import HYPER, KEY, init, random_ratings, slow

from jaxmf import Ratings, make_fit, models, prepare, solvers
from jaxmf.models import promises, trial
from jaxmf.models.params import Hyper

ADAM = solvers.minibatch(optax.adam, 32)
WHOLE = HYPER._replace(unobserved=0.3)
CASES = {
    "ials-als": (models.ials(3), solvers.als(), WHOLE),
    "ials-cg": (models.ials(3), solvers.als(method="cg"), WHOLE),
    "ials-adam": (models.ials(3, bias=True), ADAM, WHOLE),
    "bpr": (models.bpr(3, popularity=0.5), ADAM, HYPER),
    "softmax": (models.sampled_softmax(3, 4), ADAM, HYPER),
    "logistic": (models.logistic_mf(3), ADAM, HYPER),
}
QUICK = ("ials-als", "softmax")
each_case = pytest.mark.parametrize(
    ("model", "solver", "hyper"),
    [CASES[name] if name in QUICK else slow(*CASES[name]) for name in CASES],
    ids=CASES,
)


def likes(**options) -> Ratings:
    ratings = random_ratings(**options)
    return replace(ratings, value=jnp.ones_like(ratings.value))


@each_case
def test_float32_in_float32_out_on_every_platform(model, solver, hyper):
    """With the ranking that is watched; without callbacks."""
    ratings, valid = likes(dtype=jnp.float32), likes(seed=5, num_ratings=40, dtype=jnp.float32)
    run = jax.jit(make_fit(model, solver, 2, patience=2))
    numbers = jax.tree.map(jnp.float32, hyper)._replace(rank=jnp.int32(2))
    exported = jax.export.export(run, platforms=["cpu", "cuda", "tpu"])(KEY, prepare(solver, ratings, valid), numbers)
    text = exported.mlir_module()
    assert {leaf.dtype.name for leaf in exported.out_avals} <= {"float32", "int32"}
    assert "xf64" not in text
    assert not [name for name in re.findall(r"custom_call @(\w+)", text) if "callback" in name]


@each_case
def test_no_array_of_users_times_items(model, solver, hyper):
    """In the lowered program, with as many users and items as MovieLens 20M has: at most the masks of 200 users."""
    num_users, num_items, n = 138_493, 26_744, 20_000
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, num_users, n), rng.integers(0, num_items, n)
    ones = jnp.ones(n, jnp.float32)
    ratings = Ratings(jnp.asarray(user, jnp.int32), jnp.asarray(item, jnp.int32), ones, ones, num_users, num_items)
    run = jax.jit(make_fit(model, solver, 2, patience=2))
    text = run.lower(KEY, prepare(solver, ratings, ratings), jax.tree.map(jnp.float32, hyper)).as_text()
    sizes = (prod(map(int, shape.split("x"))) for shape in re.findall(r"tensor<([0-9x]+)x[a-z]", text))
    assert 200 * num_items <= max(sizes) < 2 * 200 * num_items


@pytest.mark.parametrize("name", ["ials-als", "ials-adam"])
def test_what_als_relies_on_holds(name):
    """Built-in models are excused from these trials before a fit, since they are made here."""
    model, _, hyper = CASES[name]
    ratings, hyper = likes(), hyper._replace(rank=2)
    every = (*promises.LEAST_SQUARES, promises.OWN_DESIGN, promises.OWN_PENALTY, promises.SHARED_PENALTY)
    verdicts = trial.tried(model, every, init(model, ratings, hyper), hyper, ratings)
    assert [promise.broken for promise, verdict in verdicts.items() if not verdict.kept] == []


@pytest.mark.parametrize("name", ["ials-als", slow("ials-adam"), "bpr", slow("softmax"), "logistic"])
def test_what_lists_rely_on_holds(name):
    model = CASES[name][0]
    ratings, every = likes(), (promises.RIGHT_SCORES, promises.OWN_USERS, promises.OWN_PAIRS)
    verdicts = trial.tried(model, every, init(model, ratings, WHOLE), Hyper(), ratings)
    assert [promise.broken for promise, verdict in verdicts.items() if not verdict.kept] == []
