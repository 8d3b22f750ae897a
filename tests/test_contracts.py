"""What holds for every model with every solver, tried on some pairs, or for every solver where no model matters."""

import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    PAIRS,
    RANK,
    SOLVERS,
    assert_close,
    assert_same_bits,
    each_state,
    init,
    pick,
    random_ratings,
    run,
    slow,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jaxmf import Params, fit, make_fit, prepare
from jaxmf.data.ratings import padded
from jaxmf.solvers import Solver
from jaxmf.training import start

BIASED = MODELS["biased"]
EPOCHS = 2
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


class Pair(NamedTuple):
    """A model with a solver, and one compiled program for sweeps of two.

    Attributes:
      model: of width 3; the program has it at width 5.
      solver: the solver.
      program: `(batch, keys, weights, hypers, params) -> (state, history)`, all but the batch with a leading axis of 2.
      traces: grows by one whenever the program is traced.
    """

    model: Any
    solver: Solver
    program: Any
    traces: list


QUICK = [("biased", "sgd"), ("biased", "adamw"), ("biased", "als"), ("mf-user-mean", "adam")]
CASES = [names if names in QUICK else slow(names) for names in PAIRS]


@pytest.fixture(scope="module", params=CASES, ids=list(map("-".join, PAIRS)))
def pair(request) -> Pair:
    model, solver, traces = MODELS[request.param[0]], SOLVERS[request.param[1]], []
    wide = model.with_rank(RANK + 2)

    def member(batch, key, weight, hyper, params):
        traces.append(key)
        weight = jnp.pad(weight, (0, len(batch.train.weight) - len(weight)))
        batch = batch._replace(train=replace(batch.train, weight=weight))
        first = start(key, wide._replace(init=lambda *_: params), solver, batch, hyper)
        return make_fit(wide, solver, EPOCHS, track=False)(key, batch, hyper, first)

    return Pair(model, solver, jax.jit(jax.vmap(member, (None, 0, 0, 0, 0))), traces)


# So few ratings that minibatch has one batch: with more, padding changes which ratings share one.
FULL, FOLDS = (random_ratings(num_users=6, num_ratings=14, folds=folds) for folds in (False, True))
KEYS, WEIGHTS = jax.random.split(KEY), jnp.stack([FOLDS.weight, FULL.weight])
HYPERS = HYPER._replace(rank=RANK), jax.tree.map(lambda x: x / 2, HYPER)._replace(rank=RANK + 2)


NU = st.sampled_from([0.0, 0.5, 1.0])


def both(*trees):
    return jax.tree.map(lambda *x: jnp.array(x), *trees)


def inverse(permutation: np.ndarray) -> jax.Array:
    return jnp.asarray(np.argsort(permutation), jnp.int32)


def exchanged(tree):
    return jax.tree.map(lambda x: x[::-1], tree)


@pytest.fixture(scope="module")
def members(pair) -> Any:
    """Rank 3 and rank 5 as members of one sweep; each has its key, numbers, 0/1 weights and initial parameters."""
    wide = pair.model.with_rank(RANK + 2)
    params = both(*(init(wide, r, h, k) for r, h, k in zip((FOLDS, FULL), HYPERS, KEYS, strict=True)))
    arguments = KEYS, WEIGHTS, both(*HYPERS), params
    return arguments, pair.program(prepare(pair.solver, FULL), *arguments)


def test_jit_vmap_padding_and_held_out_ratings_change_nothing(pair, members):
    """A member equals its own fit at its own width, on the ratings with weight and six rows of padding.

    The model that has every term goes without jit at all.
    """
    member = jax.tree.map(lambda x: x[0], members[1])
    kept = np.flatnonzero(FOLDS.weight)
    alone = jax.tree.map(lambda x: jnp.pad(x, (0, 6)), pick(FOLDS, kept))
    solver = pair.solver
    if solver is SOLVERS["sgd"]:  # the same matchings, without what is held out
        place = np.full(len(FULL.value) + 1, len(alone.value))
        place[kept] = np.arange(len(kept))
        layout = pair.solver.prepare(FULL)
        position = jnp.asarray(place, jnp.int32)[layout.position]
        layout = layout._replace(position=position, num_ratings=len(alone.value))
        solver = solver._replace(prepare=lambda _: layout)
    with jax.disable_jit(pair.model is MODELS["content"]):
        own = jax.jit(make_fit(pair.model, solver, EPOCHS, track=False))
        expected = own(KEYS[0], prepare(solver, alone), HYPER)

    def cut(found, wanted):
        return found if found.shape == wanted.shape else found[:, : wanted.shape[1]]

    assert_close(jax.tree.map(cut, member, expected), expected, rtol=1e-9, atol=1e-12)


def test_inactive_rank_columns_stay_zero(members):
    """To the bit, in the parameters and in whatever the solver keeps for them."""
    state, _ = members[1]
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.solver))
    tables = [leaf for path, leaf in leaves if "'factors'" in jax.tree_util.keystr(path)]
    assert len(tables) >= 2
    for table in tables:
        np.testing.assert_array_equal(table[0, :, RANK:], 0)
        assert np.any(table[1, :, RANK:])


def test_one_trace_and_members_in_any_order(pair, members):
    arguments, found = members
    again = pair.program(prepare(pair.solver, FULL), *exchanged(arguments))
    assert len(pair.traces) == 1
    assert_close(exchanged(again), found, rtol=1e-12)


@settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_ids_are_names_rows_a_set_and_weight_0_is_absent(pair, members, data):
    """Users, items and rows numbered otherwise, rows without weight blank: the same rows elsewhere, for any λ and ν."""
    num_rows = len(FULL.value)
    users, items, rows = (
        np.array(data.draw(st.permutations(range(n)))) for n in (FULL.num_users, FULL.num_items, num_rows)
    )
    held = st.lists(st.sampled_from([0.0, 1.0]), min_size=num_rows, max_size=num_rows)
    weights = jnp.array([data.draw(held), data.draw(held)])
    hypers = both(*(h._replace(l2=data.draw(st.floats(0.01, 1)), reg_exponent=data.draw(NU)) for h in HYPERS))
    params = members[0][-1]

    def moved(rows):
        """Row n of the new numbering is row users[n] or items[n] of the old; there is a leading axis of members."""
        user, item = (jax.tree.map(lambda x, at=at: x[:, at], r) for r, at in ((rows.user, users), (rows.item, items)))
        return rows._replace(user=user, item=item)

    batch = prepare(pair.solver, FULL)
    renamed = pick(replace(FULL, user=inverse(users)[FULL.user], item=inverse(items)[FULL.item]), rows)
    if pair.solver is SOLVERS["sgd"]:  # the same matchings: another order of the rows would find others
        place = jnp.append(inverse(rows), num_rows).astype(jnp.int32)
        layout = batch.layout._replace(position=place[batch.layout.position])
    else:
        layout = prepare(pair.solver, renamed).layout
    blank = jnp.all(weights == 0, axis=0)[rows]
    renamed = jax.tree.map(lambda column: jnp.where(blank, 0, column), renamed)

    state, _ = pair.program(batch, KEYS, weights, hypers, params)
    other = Params(moved(params.trained), moved(params.fixed))
    again, _ = pair.program(batch._replace(train=padded(renamed), layout=layout), KEYS, weights[:, rows], hypers, other)
    assert len(pair.traces) == 1
    expected = Params(moved(state.params.trained), moved(state.params.fixed))
    assert_close(again.params, expected, rtol=1e-7, atol=1e-9)


@each_state
def test_resuming_changes_no_bit(ratings, valid, solver):
    """5 + 5 epochs and 2 + 8 equal 10: parameters, optimizer, best epoch so far, status and history."""
    options: dict[str, Any] = {"hyper": HYPER, "patience": 8}
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


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_float32_in_float32_out(names):
    """A float32 problem is float32 throughout, also where float64 is available: result, history, and between."""
    model, solver = MODELS[names[0]], SOLVERS[names[1]]
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
