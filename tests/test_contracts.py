"""What holds for every model with every solver, and for every solver where the model cannot matter."""

import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HYPER, KEY, MODELS, RANK, SOLVERS, assert_close, assert_same_bits, init, random_ratings, run

from jaxmf import Ratings, fit, make_fit, prepare
from jaxmf.solvers import Solver
from jaxmf.training import start

BIASED = MODELS["biased"]
EPOCHS = 2
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


class Runs(NamedTuple):
    """One fit by itself, and the same fit as a member of a sweep; each is (state, history).

    Attributes:
      alone: rank 3 at width 3, without jit, with six rows of weight 0 behind the ratings.
      members: that fit and one of rank 5, at width 5, under jit and vmap; each has its key, numbers and 0/1 weights.
      exchanged: the two members in the other order, by a second call.
      num_traces: how often the two calls traced the program.
    """

    alone: Any
    members: Any
    exchanged: Any
    num_traces: int


@pytest.fixture(scope="module", params=[(m, s) for m in MODELS for s in SOLVERS], ids="-".join)
def runs(request) -> Runs:
    model, solver = MODELS[request.param[0]], SOLVERS[request.param[1]]
    # So few ratings that minibatch has one batch: with more, padding changes which ratings share one.
    ratings, folds = (random_ratings(num_users=8, num_ratings=24, folds=folds) for folds in (False, True))
    program, batch = make_fit(model.with_rank(RANK + 2), solver, EPOCHS, track=False), prepare(solver, ratings)
    traces = []

    def member(key, weight, hyper):
        traces.append(key)
        return program(key, batch._replace(train=replace(ratings, weight=weight)), hyper)

    first = HYPER._replace(rank=RANK)
    second = jax.tree.map(lambda x: x / 2, HYPER)._replace(rank=RANK + 2)
    hypers = jax.tree.map(lambda *x: jnp.array(x), first, second)
    sweep = (jax.random.split(KEY), jnp.stack([folds.weight, ratings.weight]), hypers)
    together = jax.jit(jax.vmap(member))
    members, exchanged = together(*sweep), together(*jax.tree.map(lambda x: x[::-1], sweep))
    with jax.disable_jit():
        padded = prepare(unmoved(solver, ratings), jax.tree.map(lambda x: jnp.pad(x, (0, 6)), folds))
        alone = make_fit(model, solver, EPOCHS, track=False)(sweep[0][0], padded, HYPER)
    return Runs(alone, members, exchanged, len(traces))


def unmoved(solver: Solver, ratings: Ratings) -> Solver:
    """The solver, with `sgd` visiting padded ratings as it does these; it shuffles matchings, whatever is in them."""
    if solver is not SOLVERS["sgd"]:
        return solver
    layout, n = solver.prepare(ratings), len(ratings.value)
    return solver._replace(prepare=lambda padded: jnp.where(layout == n, len(padded.value), layout))


def test_jit_vmap_and_padding_change_nothing(runs):
    """A member of a sweep equals its own fit, without jit and at its own width."""
    member = jax.tree.map(lambda x: x[0], runs.members)

    def cut(found, expected):
        return found if found.shape == expected.shape else found[:, : expected.shape[1]]

    assert_close(jax.tree.map(cut, member, runs.alone), runs.alone, rtol=1e-9, atol=1e-12)


def test_inactive_rank_columns_stay_zero(runs):
    """To the bit, in the parameters and in whatever the solver keeps for them."""
    state, _ = runs.members
    wide = [leaf for leaf in jax.tree.leaves((state.params, state.solver)) if leaf.shape[2:] == (RANK + 2,)]
    assert len(wide) >= 2
    for leaf in wide:
        np.testing.assert_array_equal(leaf[0, :, RANK:], 0)
        assert np.any(leaf[1, :, RANK:])


def test_one_trace_and_members_in_any_order(runs):
    assert runs.num_traces == 1
    assert_close(jax.tree.map(lambda x: x[::-1], runs.exchanged), runs.members, rtol=1e-12)


@each_solver
def test_resuming_changes_no_bit(ratings, valid, solver):
    """5 + 5 epochs and 2 + 8 equal 10: parameters, optimizer, best epoch so far, status and history."""
    options = {"hyper": HYPER, "patience": 8}
    whole = fit(KEY, BIASED, solver, ratings, valid, epochs=10, **options)
    for first in (5, 2):
        part = fit(KEY, BIASED, solver, ratings, valid, epochs=first, **options)
        both = fit(KEY, BIASED, solver, ratings, valid, epochs=10 - first, **options, resume=part)
        assert_same_bits((both.params, both.state), (whole.params, whole.state))
        assert both.status == whole.status
        assert both.history.keys() == whole.history.keys()
        for name in both.history.keys() - {"seconds"}:
            np.testing.assert_array_equal(both.history[name], whole.history[name])
    other = fit(jax.random.key(8), BIASED, solver, ratings, valid, epochs=10, **options)
    assert not np.array_equal(other.params.trained.user["bias"], whole.params.trained.user["bias"])


def test_vmap_over_keys_scales_and_ranks_of_the_start(ratings):
    keys, scales, ranks = jax.random.split(KEY, 3), jnp.array([0.1, 1.0, 0.5]), jnp.array([1, 3, 2])
    draw = lambda key, scale, rank: BIASED.init(key, ratings, HYPER._replace(init_scale=scale, rank=rank))  # noqa: E731
    together, solo = jax.jit(jax.vmap(draw))(keys, scales, ranks), jax.jit(draw)
    for m in range(3):
        alone = solo(keys[m], scales[m], ranks[m])
        assert_close(jax.tree.map(lambda leaf, m=m: leaf[m], together), alone, rtol=1e-12)


@each_model
@each_solver
def test_float32_in_float32_out(model, solver):
    """A float32 problem is float32 throughout, also where float64 is available: result, history, and between."""
    ratings = random_ratings(dtype=jnp.float32)
    batch = prepare(solver, ratings, random_ratings(seed=5, num_ratings=40, dtype=jnp.float32))
    hyper = jax.tree.map(jnp.float32, HYPER)._replace(rank=jnp.int32(2))
    before = jax.eval_shape(lambda: start(KEY, model, solver, batch, hyper, 2))
    lowered = jax.jit(make_fit(model, solver, EPOCHS, patience=2)).lower(KEY, batch, hyper, before)
    after, history = lowered.out_info
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after, history))} <= {"float32", "int32"}
    assert {leaf.shape for leaf in history.values()} == {(EPOCHS,)}
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), before, after)
    assert jax.tree.all(same)
    text = lowered.as_text()
    assert "xf32" in text
    assert "xf64" not in text
    # optax's bias correction of Adam computes one number, decay ** count, in the widest float there is.
    assert ("f64" in text) == (solver in (SOLVERS["adam"], SOLVERS["adamw"]))


@each_solver
def test_no_float64_without_x64(solver):
    with jax.enable_x64(False):
        lowered = jax.jit(make_fit(BIASED, solver, 2)).lower(
            jax.random.key(0), prepare(solver, random_ratings()), HYPER
        )
        assert "f64" not in lowered.as_text()


@pytest.mark.parametrize("solver", [SOLVERS["sgd"], SOLVERS["als"]], ids=["sgd", "als"])
def test_float32_runs_close_to_float64(ratings, solver):
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, ratings)
    params = init(BIASED, single, HYPER)
    low, _ = run(BIASED, solver, single, HYPER, EPOCHS, params=params)
    high, _ = run(BIASED, solver, ratings, HYPER, EPOCHS, params=jax.tree.map(lambda x: x.astype(float), params))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low.params)} == {"float32"}
    assert_close(low.params, high.params, rtol=1e-3, atol=1e-4)


@each_solver
def test_lowers_for_every_platform_without_callbacks(ratings, valid, solver):
    program = jax.jit(make_fit(BIASED, solver, 2, patience=2))
    batch = prepare(solver, ratings, valid)
    exported = jax.export.export(program, platforms=["cpu", "cuda", "tpu"])(KEY, batch, HYPER)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    calls = re.findall(r"custom_call @(\w+)", exported.mlir_module())
    assert not [name for name in calls if "callback" in name]
    assert any("potrf" in name or "cholesky" in name.lower() for name in calls) == (solver is SOLVERS["als"])
