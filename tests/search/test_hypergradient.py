"""Hypergradients against finite differences of whole fits, and descent along them."""

import jax
import numpy as np
import optax
import pytest
from helpers import KEY, MODELS, SOLVERS, pick, random_ratings, slow

from jaxmf import Hyper, Ratings, evaluate, models, search, solvers, sweep
from jaxmf.sweeps.grid import with_numbers

HYPER = Hyper(
    l2=0.3,
    l2_bias=0.2,
    reg_exponent=0.7,
    learning_rate=0.01,
    learning_rate_bias=0.02,
    momentum=0.5,
    init_scale=0.1,
    extra={"decay": 0.1},
)
MOMENTUM = solvers.minibatch(lambda h: optax.sgd(h.learning_rate * (1 - h.extra["decay"]), momentum=h.momentum), 64)
ROOTED = solvers.minibatch(lambda h: optax.adam(h.learning_rate, eps_root=1e-12), 64)
RATES = ("learning_rate", "learning_rate_bias", "init_scale")
OF_SGD = ("l2", "l2_bias", "reg_exponent", *RATES)
EXACT = solvers.als(tol=1e-13)
Parts = tuple[Ratings, Ratings]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Training and validation ratings, some of whose users and items have no training ratings."""
    train = random_ratings(num_ratings=110)
    return train, random_ratings(seed=5, num_ratings=40)


@pytest.mark.parametrize(
    ("model", "solver", "method", "epochs", "names"),
    [
        (MODELS["biased"], EXACT, "implicit", 4000, ("l2", "l2_bias", "reg_exponent")),
        slow(MODELS["biased"], SOLVERS["sgd"], "unrolled", 2, OF_SGD),
        slow(MODELS["biased"], MOMENTUM, "unrolled", 2, ("l2", "momentum", "extra.decay", *RATES)),
        slow(models.mf(2), ROOTED, "unrolled", 2, ("learning_rate", "init_scale")),
    ],
    ids=["implicit", "sgd", "momentum", "adam"],
)
def test_it_equals_differences_of_whole_fits(parts: Parts, model, solver, method, epochs, names):
    options = {"method": method, "epochs": epochs}

    def loss(hyper):
        return search.hypergradient(KEY, model, solver, *parts, hyper, names, **options).loss

    found = search.hypergradient(KEY, model, solver, *parts, HYPER, names, **options)
    for name in names:
        value = HYPER.extra["decay"] if name == "extra.decay" else getattr(HYPER, name)
        step = 1e-3 * value
        f = {k: loss(with_numbers(HYPER, {name: value + k * step})) for k in (-2, -1, 1, 2)}
        central = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
        assert found.gradient[name] == pytest.approx(central, rel=1e-6), name
    if method == "implicit":
        assert found.status == "converged"
        assert found.residual < 1e-7
        assert found.stationarity < 1e-10


@pytest.mark.slow
def test_a_number_that_is_none_is_what_it_stands_for(parts: Parts):
    """λ_b of None moves with λ, unless it is named."""
    given = (KEY, MODELS["biased"], SOLVERS["sgd"], *parts)
    tied = search.hypergradient(*given, HYPER._replace(l2_bias=None), ("l2",), epochs=2).gradient
    apart = search.hypergradient(*given, HYPER._replace(l2_bias=HYPER.l2), OF_SGD, epochs=2).gradient
    assert tied["l2"] == pytest.approx(apart["l2"] + apart["l2_bias"], rel=1e-10)


@pytest.mark.slow
def test_a_derivative_that_is_no_number_is_an_error(parts: Parts):
    with pytest.raises(ValueError, match=r"derivative by learning_rate is not finite.*eps_root=1e-12"):
        search.hypergradient(
            KEY, models.mf(2), solvers.minibatch(optax.adam, 64), *parts, HYPER, ("learning_rate",), epochs=2
        )


def test_divergence_is_a_status(parts: Parts):
    wild = HYPER._replace(learning_rate=1e6)
    found = search.hypergradient(KEY, models.mf(2), SOLVERS["momentum"], *parts, wild, ("l2",), epochs=9)
    assert found.status == "diverged"
    with pytest.raises(ValueError, match=r"^descend: every fit diverged, from .*: try a smaller learning_rate$"):
        search.descend(KEY, models.mf(2), SOLVERS["momentum"], *parts, wild, ("l2",), epochs=9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["unrolled", "implicit"])
def test_descent_reaches_the_bottom(method):
    """From either side, the minimum over λ that a fine grid finds, and no worse than it.

    Another key may lead the implicit descent into a minimum on the way.
    """
    key = jax.random.key(3)
    whole = random_ratings(num_ratings=400, num_users=40, num_items=30)
    train, valid = (pick(whole, rows) for rows in np.split(np.random.default_rng(0).permutation(400), [280]))
    model, solver, epochs = models.mf(2), SOLVERS["sgd"], 20
    if method == "implicit":
        solver, epochs = solvers.als(tol=1e-8), 400
    grid = {"l2": np.geomspace(0.02, 2, 30).tolist()}
    runs = sweep(key, model, solver, train, valid, grid=grid, epochs=epochs, keep="none", track=False)
    lowest = runs.to_frame()["valid_loss"].min()
    for start in (0.05, 1.0):
        found = search.descend(
            key, model, solver, train, valid, Hyper(l2=start), epochs=epochs, method=method, tol=1e-6
        )
        table = found.to_frame()
        assert found.loss <= lowest * (1 + 1e-6)
        assert found.loss == table["valid_loss"].min()
        assert table["l2"].iloc[0] == pytest.approx(start)
        assert len(table) <= 30
        error = evaluate.rating(model, found.params, valid)["mse"]
        assert error == pytest.approx(found.loss, rel=1e-9)
    few = search.descend(
        key, model, solver, train, valid, Hyper(l2=0.05), epochs=epochs, method=method, max_evaluations=2
    )
    assert len(few.table) == 2
