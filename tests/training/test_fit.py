"""The loop: early stopping, divergence, resuming, tracing, dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    HYPER,
    KEY,
    MODELS,
    RANK,
    SOLVERS,
    assert_close,
    assert_same_bits,
    compiled,
    init,
    objective,
    planted_ratings,
    run,
    slow,
)

from jaxmf import Hyper, datasets, fit, make_fit, prepare, solvers
from jaxmf.metrics import mae, rmse, weighted_mean
from jaxmf.models import mean_loss
from jaxmf.training import start

BIASED = MODELS["biased"]
NUMBERS = ("train_loss", "objective", "valid_loss", "valid_rmse", "valid_mae")


def histories_equal(first, second):
    assert first.keys() == second.keys()
    for name in first.keys() - {"seconds"}:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_early_stopping_equals_a_python_loop():
    """One epoch at a time, with the rule in Python: the same epoch, the same best parameters."""
    ratings, valid = planted_ratings(2, num_users=17, num_items=13, share=0.7, noise=0.5)
    solver, hyper, patience = SOLVERS["adam"], Hyper(l2=0.01, learning_rate=0.05, init_scale=0.1), 3
    score = jax.jit(lambda params: mean_loss(BIASED, params, valid))
    one_epoch, batch = compiled(BIASED, solver, 1), prepare(solver, ratings)
    state = start(KEY, BIASED, solver, batch, hyper)
    best, best_epoch, best_params, epoch, scores = np.inf, 0, None, 0, []
    while epoch - best_epoch < patience:
        epoch += 1
        state, _ = one_epoch(KEY, batch, hyper, state)
        scores.append(float(score(state.params)))
        if scores[-1] < best:
            best, best_epoch, best_params = scores[-1], epoch, state.params
    assert 1 < best_epoch < epoch < 60

    result = fit(KEY, BIASED, solver, ratings, valid, hyper, epochs=60, patience=patience)
    assert result.status == "stopped_early"
    np.testing.assert_array_equal(result.history["epoch"], range(1, epoch + 1))
    np.testing.assert_allclose(result.history["valid_loss"], scores, rtol=1e-12)
    assert_close(result.params, best_params, rtol=1e-9, atol=1e-12)
    assert int(result.state.best.epoch) == best_epoch
    assert_close(result.state.params, state.params, rtol=1e-9, atol=1e-12)

    again = fit(KEY, BIASED, solver, ratings, valid, hyper, epochs=10, patience=patience, resume=result)
    assert again.status == "stopped_early"
    assert_same_bits((again.params, again.state), (result.params, result.state))
    histories_equal(again.history, result.history)


def test_min_delta_and_monitor():
    """Nothing improves by 1e6 after the first epoch; a monitor of minus the loss is best where the loss is worst."""
    ratings, valid = planted_ratings(2, num_users=17, num_items=13, share=0.7, noise=0.5)
    solver = SOLVERS["adam"]

    def monitor(params, ratings):
        return -mean_loss(BIASED, params, ratings)

    stopped = fit(KEY, BIASED, solver, ratings, valid, HYPER, epochs=20, patience=4, min_delta=1e6)
    assert stopped.status == "stopped_early"
    assert len(stopped.history["epoch"]) == 5
    assert np.argmin(stopped.history["valid_loss"]) > 0
    assert int(stopped.state.best.epoch) == 1
    upside_down = fit(KEY, BIASED, solver, ratings, valid, HYPER, epochs=8, patience=8, monitor=monitor)
    np.testing.assert_allclose(upside_down.history["monitor"], -upside_down.history["valid_loss"])
    assert int(upside_down.state.best.epoch) == 1 + int(np.argmax(upside_down.history["valid_loss"]))


def test_history_says_what_it_names(ratings, valid):
    """The last row against the functions themselves, and against NumPy."""
    result = fit(KEY, BIASED, SOLVERS["sgd"], ratings, valid, HYPER, epochs=3)
    assert result.status == "completed"
    assert list(result.to_frame().columns) == ["epoch", "seconds", *NUMBERS]
    np.testing.assert_array_equal(result.history["epoch"], [1, 2, 3])
    last = {name: column[-1] for name, column in result.history.items()}
    assert last["train_loss"] == pytest.approx(float(mean_loss(BIASED, result.params, ratings)), rel=1e-12)
    assert last["objective"] == pytest.approx(float(objective(BIASED, result.params, ratings, HYPER)), rel=1e-12)
    error = np.asarray(valid.value - BIASED.predict(result.params, valid))
    assert last["valid_loss"] == pytest.approx(np.mean(error**2), rel=1e-12)
    assert last["valid_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-12)
    assert last["valid_mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-12)
    assert (np.diff(result.history["seconds"]) >= 0).all()


def test_metrics_are_weighted():
    value, guess, weight = jnp.array([1.0, 2.0, 9.0]), jnp.array([2.0, 4.0, 0.0]), jnp.array([1.0, 3.0, 0.0])
    assert float(mae(value, guess, weight)) == pytest.approx((1 + 3 * 2) / 4)
    assert float(rmse(value, guess, weight)) == pytest.approx(np.sqrt((1 + 3 * 4) / 4))
    assert float(weighted_mean(value, jnp.zeros(3))) == 0


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_divergence_is_contained(ratings, valid, name):
    """Finite parameters of the last good epoch, the bad epoch in the last row, no exception."""
    hyper = HYPER._replace(learning_rate=1e6, learning_rate_bias=1e6)
    if name == "adam":  # Adam's updates are bounded by its rate: only a rate near the largest float will do
        hyper = HYPER._replace(learning_rate=1e200, learning_rate_bias=1e200)
    result = fit(KEY, BIASED, SOLVERS[name], ratings, valid, hyper, epochs=60)
    assert result.status == "diverged"
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result.params))
    epochs = result.history["epoch"]
    np.testing.assert_array_equal(epochs, range(1, len(epochs) + 1))
    bad = [not all(np.isfinite(result.history[name][row]) for name in NUMBERS) for row in range(len(epochs))]
    assert bad == [False] * (len(epochs) - 1) + [True]
    assert int(result.state.epoch) == len(epochs) - 1
    if len(epochs) == 1:
        assert_close(result.params, init(BIASED, ratings, hyper))
    again = fit(KEY, BIASED, SOLVERS[name], ratings, valid, hyper, epochs=60, resume=result)
    assert again.status == "diverged"
    assert_same_bits(again.state, result.state)


def test_divergence_keeps_the_best_so_far(ratings, valid):
    """With patience, a fit that diverges later returns its best epoch."""
    solver = solvers.minibatch(lambda h: optax.sgd(lambda count: jnp.where(count < 6, h.learning_rate, 1e30)), 32)
    result = fit(KEY, BIASED, solver, ratings, valid, HYPER, epochs=9, patience=9)
    assert result.status == "diverged"
    assert_same_bits(result.params, result.state.best.params)
    score = float(mean_loss(BIASED, result.params, valid))
    assert score == pytest.approx(float(np.nanmin(result.history["valid_loss"])), rel=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "als"])
def test_a_traced_rank_out_of_range_diverges(ratings, valid, name):
    """Nothing can be refused inside `jit`: the status says so, no epoch runs, and every number stays finite."""
    batch, whole = prepare(SOLVERS[name], ratings, valid), make_fit(BIASED, SOLVERS[name], 2)
    program = jax.jit(lambda rank: whole(KEY, batch, HYPER._replace(rank=rank)))
    for rank, status in ((-1, 3), (0, 3), (1, 0), (RANK, 0), (RANK + 1, 3)):
        state, history = program(rank)
        assert int(state.status) == status
        assert history["epoch"].tolist() == ([0, 0] if status else [1, 2])
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((state, history)))
    assert program._cache_size() == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [slow("adam"), "als"])
def test_given_parameters_are_where_a_fit_starts(ratings, valid, name):
    """As `run` from a state of theirs, with columns beyond the active rank at 0; the mean is the one that is given."""
    solver, hyper = SOLVERS[name], HYPER._replace(rank=2)
    given = init(BIASED, ratings, HYPER, jax.random.key(5))
    given = given._replace(fixed=given.fixed._replace(shared={"mean": given.fixed.shared["mean"] + 1}))
    user, item = (side | {"factors": side["factors"].at[:, 2:].set(0)} for side in given.trained[:2])
    masked = given._replace(trained=given.trained._replace(user=user, item=item))
    expected, _ = run(BIASED, solver, ratings, hyper, 2, params=masked, valid=valid, patience=2)
    for params in (given, jax.tree.map(np.asarray, given)):
        result = fit(KEY, BIASED, solver, ratings, valid, hyper, epochs=2, patience=2, params=params)
        assert_close(result.state, expected, rtol=1e-9, atol=1e-12)
    assert int(result.state.epoch) == 2
    assert (result.params.trained.user["factors"][:, 2:] == 0).all()
    assert result.params.fixed.shared["mean"] == given.fixed.shared["mean"]


def test_resuming_takes_the_numbers_of_the_fit(ratings):
    """Also those that were edited, unless others are given."""
    part = fit(KEY, BIASED, SOLVERS["adam"], ratings, hyper=HYPER, epochs=1)
    edited = part._replace(hyper=HYPER._replace(learning_rate_bias=0.5))
    ways: dict[str, dict[str, Any]] = {
        "as it was": {"resume": part},
        "edited": {"resume": edited},
        "given": {"resume": edited, "hyper": HYPER},
    }
    bias = {
        name: fit(KEY, BIASED, SOLVERS["adam"], ratings, epochs=1, **way).params.trained.user["bias"]
        for name, way in ways.items()
    }
    whole = fit(KEY, BIASED, SOLVERS["adam"], ratings, hyper=HYPER, epochs=2).params.trained.user["bias"]
    np.testing.assert_array_equal(bias["as it was"], whole)
    np.testing.assert_array_equal(bias["given"], whole)
    assert np.abs(bias["edited"] - whole).max() > 0.1


def test_one_trace_for_every_number(ratings, valid):
    """Other values, Python or NumPy types, keys and numbers of epochs run the program that is there."""
    traces = []

    def counting_loss(params, ratings):
        traces.append(1)
        return BIASED.loss(params, ratings)

    model = BIASED._replace(loss=counting_loss)
    fit(KEY, model, SOLVERS["adam"], ratings, valid, HYPER, epochs=2, patience=9)
    before = len(traces)
    assert before > 0
    others = [
        (jax.random.key(9), HYPER._replace(l2=1, learning_rate=np.float32(0.01), reg_exponent=0), 40),
        (KEY, jax.tree.map(np.float64, HYPER), 1),
        (KEY, jax.tree.map(jnp.asarray, HYPER), 3),
    ]
    for key, hyper, epochs in others:
        result = fit(key, model, SOLVERS["adam"], ratings, valid, hyper, epochs=epochs, patience=9)
        fit(key, model, SOLVERS["adam"], ratings, valid, hyper, epochs=epochs, patience=9, resume=result)
    assert len(traces) == before


def test_fit_equals_run(ratings, valid):
    """The host's door adds nothing: the same bits as one program for all epochs, over several chunks of epochs."""
    solver, epochs = SOLVERS["momentum"], 100
    result = fit(KEY, BIASED, solver, ratings, valid, HYPER, epochs=epochs)
    state, history = compiled(BIASED, solver, epochs)(KEY, prepare(solver, ratings, valid), HYPER)
    assert_close(result.state, state, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.history["objective"], history["objective"], rtol=1e-9)
    prepared = fit(KEY, BIASED, solver, prepare(solver, ratings, valid), hyper=HYPER, epochs=epochs)
    assert_same_bits(prepared.state, result.state)


def test_num_epochs_is_traced(ratings):
    solver = SOLVERS["momentum"]
    batch, program = prepare(solver, ratings), jax.jit(make_fit(BIASED, solver, 6))
    first = start(KEY, BIASED, solver, batch, HYPER)
    state, history = program(KEY, batch, HYPER, first, 4)
    np.testing.assert_array_equal(history["epoch"], [1, 2, 3, 4, 0, 0])
    assert int(state.epoch) == 4
    state, history = program(KEY, batch, HYPER, state, 2)
    np.testing.assert_array_equal(history["epoch"], [5, 6, 0, 0, 0, 0])
    whole, _ = program(KEY, batch, HYPER, first, 6)
    assert_same_bits(state, whole)


def test_untracked_histories_leave_the_training_set_alone(ratings, valid):
    program = make_fit(BIASED, SOLVERS["sgd"], 2, track=False)
    _, history = jax.eval_shape(program, KEY, prepare(SOLVERS["sgd"], ratings, valid), HYPER)
    assert set(history) == {"epoch", "valid_loss", "valid_rmse", "valid_mae"}
    _, history = jax.eval_shape(program, KEY, prepare(SOLVERS["sgd"], ratings), HYPER)
    assert set(history) == {"epoch"}


def test_a_dataset_is_as_good_as_its_ratings():
    train, test = datasets.planted()
    assert_same_bits(prepare(SOLVERS["als"], train, test), prepare(SOLVERS["als"], train.ratings, test.ratings))


def test_progress_bar_goes_to_standard_error(ratings, capsys):
    fit(KEY, BIASED, SOLVERS["sgd"], ratings, hyper=HYPER, epochs=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch" in err
    fit(KEY, BIASED, SOLVERS["sgd"], ratings, hyper=HYPER, epochs=3)
    assert capsys.readouterr() == ("", "")


def test_hyper_is_differentiable(ratings, valid):
    """d(validation loss after two epochs) / dλ, forward and by differences."""
    solver = SOLVERS["momentum"]
    batch, program = prepare(solver, ratings, valid), make_fit(BIASED, solver, 2, track=False)
    first = start(KEY, BIASED, solver, batch, HYPER)

    @jax.jit
    @jax.value_and_grad
    def score(l2):
        return program(KEY, batch, HYPER._replace(l2=l2), first)[1]["valid_loss"][-1]

    h = 1e-4
    (_, slope), (above, _), (below, _) = score(0.5), score(0.5 + h), score(0.5 - h)
    assert float(slope) == pytest.approx(float(above - below) / (2 * h), rel=1e-5)
    assert abs(float(slope)) > 1e-8
