"""A solver that returns other parameters than those that its last step made: their average over the epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, assert_close, on_host, random_ratings, slow

import jaxmf
from jaxmf import evaluate, solvers

MODEL = MODELS["biased"]
ADAM = solvers.minibatch(optax.adam, 32)


def averaged(solver):
    """The solver whose fits return the mean of the parameters after each epoch so far (Polyak and Juditsky 1992)."""

    def init(model, params, hyper):
        return solver.init(model, params, hyper), params, jnp.zeros((), jnp.int32)

    def step(key, model, params, state, problem, hyper):
        inner, mean, count = state
        params, inner, info = solver.step(key, model, params, inner, problem, hyper)
        mean = jax.tree.map(lambda mean, leaf: mean + (leaf - mean) / (count + 1), mean, params)
        return params, (inner, mean, count + 1), info

    return solver._replace(init=init, step=step, result=lambda params, state: state[1], name="averaged")


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(folds=True)


@pytest.fixture(scope="module")
def solver():
    return averaged(ADAM)


def test_a_fit_returns_and_measures_the_result(ratings, solver):
    """The mean of fits of one epoch to five; the path itself is that of the plain solver."""
    fit = jaxmf.fit(KEY, MODEL, solver, ratings, valid=ratings, hyper=HYPER, epochs=5)
    path = [jaxmf.fit(KEY, MODEL, ADAM, ratings, hyper=HYPER, epochs=epochs) for epochs in range(1, 6)]
    assert_close(fit.state.params, path[-1].params, rtol=0)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(one.params for one in path))
    assert_close(fit.params, mean, rtol=1e-12, atol=1e-15)
    found = evaluate.rating(MODEL, fit.params, ratings)
    assert fit.history["valid_rmse"][-1] == pytest.approx(found["rmse"], rel=1e-12)
    best = jaxmf.fit(KEY, MODEL, solver, ratings, valid=ratings, hyper=HYPER, epochs=5, patience=5)
    assert int(best.state.best.epoch) == 5
    assert_close(best.params, fit.params, rtol=0)


def test_it_resumes_from_a_file(ratings, solver, tmp_path):
    data = jaxmf.Dataset(pd.Index(range(17)), pd.Index(range(13)), *on_host(ratings))
    whole = jaxmf.fit(KEY, MODEL, solver, data, hyper=HYPER, epochs=4)
    half = jaxmf.fit(KEY, MODEL, solver, data, hyper=HYPER, epochs=2)
    jaxmf.save(tmp_path / "half.npz", half, data)
    loaded, data = jaxmf.load(tmp_path / "half.npz")
    loaded = loaded._replace(model=MODEL)
    both = jaxmf.fit(KEY, MODEL, solver, data, epochs=2, resume=loaded)
    assert_close(both.params, whole.params, rtol=0)
    edited = loaded._replace(params=loaded.state.params)
    with pytest.raises(ValueError, match=r"^resume: this fit was edited \(params\)"):
        jaxmf.fit(KEY, MODEL, solver, data, epochs=2, resume=edited)


@pytest.mark.parametrize("batch", [1, slow(2)])
def test_members_of_a_sweep_return_it(ratings, solver, batch):
    runs = jaxmf.sweep(
        KEY,
        MODEL,
        solver,
        ratings,
        valid=ratings,
        hyper=HYPER,
        grid={"l2": [0.1, 0.2]},
        epochs=3,
        batch=batch,
        keep="all",
    )
    for member, l2 in enumerate([0.1, 0.2]):
        fit = jaxmf.fit(KEY, MODEL, solver, ratings, valid=ratings, hyper=HYPER._replace(l2=l2), epochs=3)
        assert_close(runs.params(member), fit.params, rtol=1e-12, atol=1e-14)
        assert runs.table["valid_rmse"][member] == pytest.approx(fit.history["valid_rmse"][-1], rel=1e-12)
