"""Minibatch descent: equal to a NumPy loop on the same batches."""

import jax
import numpy as np
import optax
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    assert_close,
    assert_same_bits,
    heavy_ball,
    init,
    nesterov,
    numpy_minibatch,
    numpy_objective,
    numpy_predict,
    observations,
    random_ratings,
    run,
    to_numpy,
    to_rows,
)

from jaxmf import solvers
from jaxmf.solvers._minibatch import visiting_order

EPOCHS = 2
visiting_order = jax.jit(visiting_order, static_argnums=(2, 3))


def batches(num_ratings, batch_size) -> np.ndarray:
    keys = [jax.random.fold_in(KEY, 1 + epoch) for epoch in range(EPOCHS)]
    return np.concatenate([visiting_order(key, num_ratings, num_ratings, batch_size) for key in keys])


HEAVY_BALL, NESTEROV = (heavy_ball, 0.9, False), (nesterov, 0.9, True)


@pytest.mark.parametrize(
    ("optimizer", "name", "nu", "folds", "batch_size"),
    [
        (NESTEROV, "biased", 0.5, True, 32),
        (HEAVY_BALL, "mf", 0.0, False, 30),
        (HEAVY_BALL, "mf-user-mean", 1.0, True, 200),
        (HEAVY_BALL, "content", 0.5, True, 32),
    ],
    ids=["nesterov-ragged", "whole-batches", "one-batch", "content"],
)
def test_epochs_equal_the_loop(optimizer, name, nu, folds, batch_size):
    factory, momentum, lookahead = optimizer
    ratings, hyper, model = random_ratings(folds=folds), HYPER._replace(reg_exponent=nu), MODELS[name]
    params = init(model, ratings, hyper)
    solver = solvers.minibatch(factory, batch_size)
    state, _ = run(model, solver, ratings, hyper, EPOCHS, params=params)
    order = batches(len(ratings.value), batch_size)
    expected = numpy_minibatch(to_numpy(params), ratings, hyper, order, momentum, lookahead)
    assert_close(state.params.trained, to_rows(expected), rtol=1e-10, atol=1e-12)


def test_a_batch_without_weight_is_a_step_on_the_penalty():
    """Batches of one, of which a third are held out: 0 / 0 is guarded."""
    ratings, model = random_ratings(folds=True), MODELS["biased"]
    params = init(model, ratings, HYPER)
    state, _ = run(model, solvers.minibatch(optax.sgd, 1), ratings, HYPER, EPOCHS, params=params)
    expected = numpy_minibatch(to_numpy(params), ratings, HYPER, batches(len(ratings.value), 1))
    assert_close(state.params.trained, to_rows(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 90, 100])
def test_batches_are_a_padded_permutation(batch_size):
    order = np.asarray(visiting_order(KEY, 90, 95, batch_size))
    assert order.shape == (-(-95 // batch_size), batch_size)
    assert sorted(order.ravel()[:90]) == list(range(90))
    assert order.ravel()[90:].tolist() == list(range(90, order.size))


def test_an_optimizer_by_name_is_short_for_a_function_of_hyper():
    ratings, model = random_ratings(), MODELS["biased"]
    short, long = solvers.minibatch(optax.adam, 32), solvers.minibatch(lambda h: optax.adam(h.learning_rate), 32)
    assert_same_bits(run(model, short, ratings, HYPER), run(model, long, ratings, HYPER))


def test_a_schedule_counts_steps():
    """Three steps per epoch and a rate that becomes 0 after three steps: the second epoch changes nothing."""
    ratings, model = random_ratings(), MODELS["biased"]
    solver = solvers.minibatch(lambda h: optax.sgd(lambda count: h.learning_rate * (count < 3)), 32)
    (one, _), (two, _) = (run(model, solver, ratings, HYPER, epochs) for epochs in (1, 2))
    assert_same_bits(one.params, two.params)
    assert not np.array_equal(one.params.trained.user["factors"], init(model, ratings, HYPER).trained.user["factors"])


def by_plateau(value, slope, memory, rate):
    """`optax.contrib.reduce_on_plateau(0.5, patience=1, rtol=0.01)` in Python: half the rate where nothing falls."""
    best, scale = memory or (np.inf, 1.0)
    memory = (value, scale) if value < 0.99 * best else (best, scale / 2)
    return rate * memory[1], memory


def by_polyak(value, slope, memory, rate):
    """`optax.polyak_sgd`: the rate with which a line of this slope falls to 0, or ten times `rate` if that is less."""
    return min(10 * rate, value / sum(np.sum(x**2) for x in slope.values())), memory


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        (lambda h: optax.chain(optax.sgd(h.learning_rate), optax.contrib.reduce_on_plateau(0.5, 1, 0.01)), by_plateau),
        (lambda h: optax.polyak_sgd(10 * h.learning_rate), by_polyak),
    ],
    ids=["plateau", "polyak"],
)
def test_the_value_of_a_batch_is_passed_on(optimizer, rule):
    """Optimizers that read it step as a loop does by the batch's mean error + penalty / |Ω|, weights included."""
    ratings, model = random_ratings(folds=True), MODELS["biased"]
    hyper = HYPER._replace(learning_rate=0.3, learning_rate_bias=0.2)
    params = init(model, ratings, hyper)
    state, _ = run(model, solvers.minibatch(optimizer, 32), ratings, hyper, EPOCHS, params=params)

    theta, memory, rates = to_numpy(params), None, []
    seen, unit = observations(ratings), hyper._replace(learning_rate=1.0, learning_rate_bias=1.0)
    for batch in batches(len(seen), 32):
        errors = [(w, w * (r - numpy_predict(theta, u, i)) ** 2) for u, i, r, w in seen]
        (whole, fit), (size, part) = np.sum(errors, axis=0), np.sum([errors[at] for at in batch if at < 90], axis=0)
        value = part / size + (numpy_objective(theta, ratings, hyper) - fit) / whole
        moved = numpy_minibatch(theta, ratings, unit, [batch])
        slope = {name: theta[name] - moved[name] for name in "PQbc"}
        rate, memory = rule(value, slope, memory, hyper.learning_rate)
        rates.append(rate)
        for name in "PQbc":
            theta[name] = theta[name] - rate * slope[name] * (2 / 3 if name in "bc" else 1)
    assert len(set(rates)) > 2
    assert_close(state.params.trained, to_rows(theta), rtol=1e-9, atol=1e-12)


def test_an_optimizer_that_takes_no_value_is_spared_it():
    """`optax.contrib.sam` takes further arguments, and this is not one."""
    ratings, model = random_ratings(), MODELS["biased"]
    solver = solvers.minibatch(lambda h: optax.contrib.sam(optax.sgd(h.learning_rate), optax.sgd(0.1)), 32)
    solver.check(model, init(model, ratings, HYPER), HYPER, {})


def test_bias_rate_scales_updates_of_adam_too():
    """Adam's first update is the rate times a sign, whatever the gradient."""
    ratings, model = random_ratings(), MODELS["biased"]
    state, _ = run(model, solvers.minibatch(optax.adam, 200), ratings, HYPER._replace(l2=0.0, l2_bias=0.0))
    bias = np.abs(np.asarray(state.params.trained.user["bias"]))
    np.testing.assert_allclose(bias[bias > 0], HYPER.learning_rate_bias, rtol=1e-4)


def test_updates_are_masked_beyond_the_active_rank():
    """Also those of an optimizer that moves what has no gradient: here all numbers, by noise."""
    ratings, model = random_ratings(), MODELS["biased"]
    noisy = solvers.minibatch(lambda h: optax.noisy_sgd(h.learning_rate, eta=1.0, key=0), 32)
    state, _ = run(model, noisy, ratings, HYPER._replace(rank=2))
    for rows in state.params.trained[:2]:
        np.testing.assert_array_equal(rows["factors"][:, 2:], 0)
        assert (rows["factors"][:, :2] != 0).all()
