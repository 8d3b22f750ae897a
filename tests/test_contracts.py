"""What holds for every solver, and for every model where a model could break it."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    RANK,
    SOLVERS,
    assert_close,
    assert_same_bits,
    init,
    random_ratings,
    run,
)

from jaxmf import fit, make_fit, prepare
from jaxmf.models import row_weights
from jaxmf.solvers import Problem
from jaxmf.training import start

BIASED = MODELS["biased"]
EPOCHS = 2
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(folds=True)


@pytest.fixture(scope="module")
def valid():
    return random_ratings(seed=5, num_ratings=40)


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


@each_model
@each_solver
def test_a_member_equals_its_solo_run_and_padded_columns_stay_zero(ratings, model, solver):
    """Rank 3 and rank 5 within width 5 as members of one program; two calls of the solo program trace it once."""
    program, batch, traces = make_fit(model.with_rank(RANK + 2), solver, EPOCHS), prepare(solver, ratings), []

    def member(rank, l2):
        traces.append(rank)
        return program(KEY, batch, HYPER._replace(rank=rank, l2=l2))

    ranks, l2 = jnp.array([RANK, RANK + 2]), jnp.array([0.1, 0.3])
    together, solo = jax.jit(jax.vmap(member))(ranks, l2), jax.jit(member)
    for m in range(2):
        alone = solo(ranks[m], l2[m])
        assert_close(jax.tree.map(lambda leaf, m=m: leaf[m], together), alone, rtol=1e-9, atol=1e-12)
    assert len(traces) == 2
    for rows in together[0].params.trained[:2]:
        np.testing.assert_array_equal(rows["factors"][0, :, RANK:], 0)
        assert np.any(rows["factors"][1, :, RANK:])


@each_solver
def test_vmap_over_keys_hypers_and_folds_equals_solo_runs(solver):
    """One program for a sweep: each member has a key, numbers and 0/1 weights of its own, and one layout serves all."""
    ratings, folds = random_ratings(), random_ratings(folds=True)
    keys = jax.random.split(jax.random.key(5), 3)
    weights = jnp.stack([ratings.weight, folds.weight, 1 - 0.5 * folds.weight])
    values = [(0.1, 1.0, 0.01), (0.3, 0.0, 0.02), (0.05, 0.5, 0.03)]
    hypers = [HYPER._replace(l2=a, reg_exponent=b, learning_rate=c) for a, b, c in values]
    batch, program = prepare(solver, ratings), make_fit(BIASED, solver, EPOCHS)

    def of_weight(weight):
        return replace(ratings, weight=weight)

    def member(key, weight, hyper, params):
        own = batch._replace(train=of_weight(weight))
        return program(key, own, hyper, start(key, BIASED._replace(init=lambda *_: params), solver, own, hyper))

    drawn = [init(BIASED, of_weight(w), h, k) for k, w, h in zip(keys, weights, hypers, strict=True)]
    stacked_hypers, stacked_params = (jax.tree.map(lambda *x: jnp.stack(jnp.asarray(x)), *x) for x in (hypers, drawn))
    together = jax.jit(jax.vmap(member))(keys, weights, stacked_hypers, stacked_params)
    for m, (key, weight, hyper) in enumerate(zip(keys, weights, hypers, strict=True)):
        alone = run(BIASED, solver, of_weight(weight), hyper, EPOCHS, key=key)
        assert_close(jax.tree.map(lambda leaf, m=m: leaf[m], together), alone, rtol=1e-9, atol=1e-12)


def test_vmap_over_keys_scales_and_ranks_of_the_start(ratings):
    keys, scales, ranks = jax.random.split(KEY, 3), jnp.array([0.1, 1.0, 0.5]), jnp.array([1, 3, 2])
    draw = lambda key, scale, rank: BIASED.init(key, ratings, HYPER._replace(init_scale=scale, rank=rank))  # noqa: E731
    together, solo = jax.jit(jax.vmap(draw))(keys, scales, ranks), jax.jit(draw)
    for m in range(3):
        alone = solo(keys[m], scales[m], ranks[m])
        assert_close(jax.tree.map(lambda leaf, m=m: leaf[m], together), alone, rtol=1e-12)


def test_jit_equals_eager():
    solver = SOLVERS["adam"]
    ratings = random_ratings(num_users=5, num_items=4, num_ratings=9)
    task = Problem(ratings, row_weights(ratings, HYPER.reg_exponent), solver.prepare(ratings))
    params = init(BIASED, ratings, HYPER)
    state = solver.init(BIASED, params, HYPER)
    eager = solver.step(KEY, BIASED, params, state, task, HYPER)
    jitted = jax.jit(lambda *arrays: solver.step(KEY, BIASED, *arrays))(params, state, task, HYPER)
    assert_close(eager, jitted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("solver", "model"),
    [(name, "biased") for name in SOLVERS] + [("sgd", "mf-user-mean")],
)
def test_inactive_rank_columns_stay_zero(ratings, model, solver):
    """Rank 3 within width 5 equals width 3, and the two further columns are 0 to the bit."""
    model, solver = MODELS[model], SOLVERS[solver]
    wide = model.with_rank(RANK + 2)
    padded, _ = run(wide, solver, ratings, HYPER._replace(rank=RANK), EPOCHS)
    alone, _ = run(model, solver, ratings, HYPER, EPOCHS)
    pairs = zip(padded.params.trained[:2], alone.params.trained[:2], strict=True)
    for wider, solo in pairs:
        np.testing.assert_array_equal(wider["factors"][:, RANK:], 0)
        assert_close(wider | {"factors": wider["factors"][:, :RANK]}, solo, rtol=1e-9, atol=1e-13)
    moments = [leaf for leaf in jax.tree.leaves(padded.solver) if leaf.shape[-1:] == (RANK + 2,)]
    assert all(not np.any(leaf[:, RANK:]) for leaf in moments)


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


@each_model
@pytest.mark.parametrize("solver", [SOLVERS["sgd"], SOLVERS["als"]], ids=["sgd", "als"])
def test_padding_changes_nothing(ratings, model, solver):
    """Six more rows of weight 0 behind the ratings; minibatch draws other batches then, see its loop with folds."""
    padded = jax.tree.map(lambda x: jnp.pad(x, (0, 6)), ratings)
    layout, n = solver.prepare(padded), len(ratings.value)
    if solver is SOLVERS["sgd"]:  # the same visits: padding lanes now point beyond the new end
        layout = jnp.where(solver.prepare(ratings) == n, n + 6, solver.prepare(ratings))
    params = init(model, ratings, HYPER)
    plain, _ = run(model, solver, ratings, HYPER, EPOCHS, params=params)
    other, _ = run(model, solver._replace(prepare=lambda _: layout), padded, HYPER, EPOCHS, params=params)
    assert_close(other.params, plain.params, rtol=1e-9, atol=1e-12)
