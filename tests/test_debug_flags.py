"""With JAX_DEBUG_NANS and JAX_DEBUG_INFS on, what is healthy runs: no NaN and no infinity is made on the way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import COMPILED, HYPER, KEY, MODELS, RANK, SOLVERS, assert_close, on_host, random_ratings

import jaxmf
from jaxmf import Dataset, make_fit, prepare, solvers, splits, verify

pytestmark = pytest.mark.slow
PAIRS = [*[("biased", solver) for solver in SOLVERS], ("content", "als"), ("mf-user-mean", "sgd")]
TRAIN, VALID = random_ratings(folds=True), random_ratings(seed=5, num_ratings=40)


@pytest.fixture(autouse=True)
def flags():
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


def dataset() -> Dataset:
    return Dataset(pd.RangeIndex(17), pd.RangeIndex(13), *on_host(TRAIN))


def test_the_flags_notice():
    """A fit that diverges is not healthy, and a program that was compiled without the flags is looked at too."""
    program = jax.jit(lambda x: jnp.log(x))
    with jax.debug_nans(False), jax.debug_infs(False):
        program(jnp.zeros(2))
    with pytest.raises(FloatingPointError):
        program(jnp.zeros(2))


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_fits(names):
    """The pure run of more epochs than patience allows, under vmap too, and rows, items and columns without a say."""
    model, solver = MODELS[names[0]], SOLVERS[names[1]]
    run, batch = make_fit(model, solver, 4, patience=1, min_delta=1e3), prepare(solver, TRAIN, VALID)

    def member(rank):
        return run(KEY, batch, HYPER._replace(rank=rank))

    state, history = jax.jit(jax.vmap(member))(jnp.array([2, RANK]))
    assert (state.status == 2).all()
    assert history["epoch"].tolist() == [[1, 2, 0, 0]] * 2
    assert (history["valid_loss"][:, 2:] == jnp.finfo(float).max).all()
    assert (state.best.epoch == 1).all()


def test_doors():
    """`fit` to an early end, a sweep, and what is made of them."""
    data, model, solver = dataset(), MODELS["biased"], solvers.als(tol=0.5, rule="difference")
    fit = jaxmf.fit(KEY, model, solver, data, VALID, HYPER, epochs=3, patience=1)
    assert np.isfinite(fit.to_frame()).all(axis=None)
    options: dict[str, Any] = {"grid": {"l2": [0.1, 1.0]}, "folds": splits.k_fold(data, 2), "epochs": 3, "patience": 1}
    runs = jaxmf.sweep(KEY, model, solver, data, **options, min_delta=1e3, batch=4)
    assert runs.history["epoch"].tolist() == [1, 2] * 4
    assert np.isfinite(runs.history["valid_rmse"]).all()
    jaxmf.evaluate.rating(model, fit.params, VALID)
    for protocol in ("catalog", "rated"):
        jaxmf.evaluate.ranking(model, fit.params, data, VALID, k=3, protocol=protocol)
    table = jaxmf.recommend.top_n(model, fit.params, data, n=13)
    assert len(table) == 17 * 13 - len(data)
    jaxmf.recommend.similar_items(model, fit.params, data, n=2)
    new = pd.DataFrame({"user_id": 99, "item_id": [0, 1, 2], "rating": [5.0, 3.0, 1.0]})
    jaxmf.recommend.fold_in(model, fit.params, HYPER, data, new)


def test_checks():
    params = MODELS["biased"].init(KEY, TRAIN, HYPER)
    for check in (verify.gradients, verify.half_steps):
        assert check(MODELS["biased"], params, TRAIN, HYPER).passed


def test_predictions_need_no_compilation():
    """With JAX_DISABLE_JIT, as one looks for a mistake, the doors behind a fit return the same."""
    data, model = dataset(), MODELS["biased"]
    params = model.init(KEY, TRAIN, HYPER)

    def doors():
        table = jaxmf.recommend.top_n(model, params, data, n=2)
        scores = jaxmf.predict(model, params, data, data.to_frame()[:3])
        numbers = [table["score"].to_numpy(), scores.to_numpy(), jaxmf.evaluate.rating(model, params, VALID)]
        return numbers, table["item_id"].tolist()

    compiled, items = doors()
    with jax.disable_jit():
        found, same = doors()
    assert same == items
    assert_close(found, compiled, rtol=1e-9, atol=1e-12)


def test_fits_need_no_compilation():
    """Nor do a fit and a sweep, which compile nothing ahead then: unrolled loops would take XLA minutes."""
    model, solver = MODELS["biased"], SOLVERS["als"]
    options: dict[str, Any] = {"hyper": HYPER, "epochs": 1}

    def doors():
        alone = jaxmf.fit(KEY, model, solver, TRAIN, valid=VALID, **options)
        runs = jaxmf.sweep(KEY, model, solver, TRAIN, valid=VALID, grid={"l2": [HYPER.l2]}, workers=1, **options)
        return alone.params, runs.params(0)

    compiled, before = doors(), len(COMPILED)
    jax.config.update("jax_disable_jit", True)  # for the threads of a sweep too
    try:
        found = doors()
    finally:
        jax.config.update("jax_disable_jit", False)
    assert not [name for name in COMPILED[before:] if "run" in name]
    assert_close(found, compiled, rtol=1e-9, atol=1e-12)
