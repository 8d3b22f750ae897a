"""Models as objects: in one line, copied, pickled; programs and features go when nobody holds the model."""

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_same_bits, init, nesterov, random_ratings

from jaxmf import Hyper, Model, Params, evaluate, fit, models, prepare, solvers
from jaxmf.kernels import programs
from jaxmf.kernels.programs import jit, of_model, shapes
from jaxmf.sweeps import Sweep
from jaxmf.sweeps.grid import members
from jaxmf.training.options import Options
from jaxmf.training.program import _compiled
from jaxmf.verify.case import report

BIASED = MODELS["biased"]


def own_init(key, ratings, hyper):
    return BIASED.init(key, ratings, hyper)


def own_loss(params, ratings):
    return jnp.abs(ratings.value - BIASED.predict(params, ratings))


OWN = Model(own_init, BIASED.predict, own_loss, BIASED.penalty, name="mine")
COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing))}


@pytest.fixture(autouse=True)
def little_to_look_through():
    """What other tests have left behind is not looked through for garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def fitted(ratings, valid):
    return fit(KEY, BIASED, SOLVERS["adam"], ratings, valid, HYPER, epochs=2, patience=9)


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
def test_what_a_constructor_built_comes_back_as_itself(way):
    """So its compiled programs are found again. A part that was replaced comes back too."""
    things = [*MODELS.values(), *SOLVERS.values(), solvers.als(tol=0.1), models.damped_bias(), models.global_mean()]
    for thing in things:
        assert way(thing) is thing
    for thing in (OWN, BIASED._replace(loss=own_loss, name="mine"), prepare(SOLVERS["als"], random_ratings()).solver):
        assert way(thing) == thing
    batch = prepare(SOLVERS["sgd"], random_ratings())
    assert way(batch).solver is batch.solver


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
def test_fits_sweeps_and_reports_can_be_copied(way, ratings, valid, fitted):
    """And a fit goes on to the same bits."""
    again = way(fitted)
    assert again.model is BIASED
    assert_same_bits((again.params, again.state), (fitted.params, fitted.state))
    pd.testing.assert_frame_equal(again.to_frame(), fitted.to_frame())
    both = [
        fit(KEY, BIASED, SOLVERS["adam"], ratings, valid, epochs=1, patience=9, resume=part) for part in (again, fitted)
    ]
    assert_same_bits(both[0].state, both[1].state)

    table = pd.DataFrame({"member": [0], "status": ["completed"], "passed": [True]})
    points = tuple(members({"rank": [2]}, Hyper()))
    runs = Sweep(table, table, table, 1, 1, 0.0, 0.0, points, (models.mf(2),), (KEY,), {0: fitted.params}, "status")
    assert way(runs).model(0) is models.mf(2)
    assert_same_bits(way(runs).params(0), fitted.params)
    assert repr(runs) == "<Sweep of 1 members by rank: 1 completed>"
    checked = report(BIASED, table)
    assert way(checked).passed
    assert repr(checked) == "<GradientReport of biased_mf: 1 of 1 rows passed>"


def test_one_line_says_what_it_is(fitted):
    """No arrays, no addresses of functions."""
    assert repr(models.mf(3, center=None)) == "<Model mf(rank=3, center=None)>"
    assert repr(models.content_mf(2, np.ones((3, 4)))) == "<Model content_mf(rank=2, features=float64[3, 4])>"
    assert repr(OWN) == "<Model mine>"
    assert repr(solvers.als(method="cg")) == "<Solver als(method='cg')>"
    assert repr(solvers.minibatch(nesterov, 32)) == "<Solver minibatch(optimizer=nesterov, batch_size=32)>"
    numbers = Hyper(l2=jnp.array(0.5), rank=np.int64(2), extra={"a": np.ones(3), "b": 1})
    expected = "Hyper(l2=0.5, l2_bias=None, reg_exponent=1.0, learning_rate=0.01, learning_rate_bias=None, "
    assert (
        repr(numbers)
        == expected + "momentum=0.9, init_scale=0.1, unobserved=None, rank=2, extra={'a': float64[3], 'b': 1})"
    )
    rows = "trained.user.bias float64[17], trained.user.factors float64[17, 3], "
    rows += "trained.item.bias float64[13], trained.item.factors float64[13, 3], fixed.shared.mean float64[]"
    assert repr(fitted.params) == f"<Params {rows}>"
    loss, rmse = (f"{fitted.history[name][-1]:.4g}" for name in ("train_loss", "valid_rmse"))
    ends = f"completed, train_loss {loss}, valid_rmse {rmse}"
    assert repr(fitted) == f"<Fit of <Model biased_mf(rank=3)>, 2 epochs: {ends}>"


def test_features_and_programs_go_with_the_model(ratings):
    """Once it is among the last few no more, nothing of the library or of JAX holds what it was made of."""

    def gone(number):
        model = models.content_mf(2, np.full((13, 2), 1.0 + number))
        result = fit(KEY, model, solvers.minibatch(optax.sgd, 200), ratings, hyper=HYPER, epochs=1)
        evaluate.rating(model, result.params, ratings)
        return weakref.ref(model.init)

    first = gone(0)
    gc.collect()
    assert first() is not None
    again = models.content_mf(2, np.full((13, 2), 1.0))
    assert again.init is first()
    others = [models.content_mf(2, np.full((13, 2), -1.0 - number)) for number in range(4)]
    assert models.content_mf(2, np.full((13, 2), 1.0)) is again  # while somebody holds it
    others += [models.content_mf(2, np.full((13, 2), -9.0 - number)) for number in range(4)]
    del again
    gc.collect()
    assert first() is None
    assert models.content_mf(2, np.full((13, 2), -12.0)) is others[-1]


def test_free_memory_goes_back_now_and_then(monkeypatch):
    """Once for so many programs that are built, and not when one is found again."""
    asked = []
    monkeypatch.setattr(programs, "_trim", lambda: asked.append(True))
    home = programs._Cache()
    for number in range(2 * programs._TRIM_EVERY):
        programs._cached(home, number, object)
        programs._cached(home, number, object)
    assert len(asked) == 2


def test_only_the_last_programs_of_a_process_are_kept(monkeypatch):
    """Of a model for other shapes of data, of many models, and of a function that is jitted for all shapes."""
    monkeypatch.setattr("jaxmf.kernels.programs._MAX_PROGRAMS", 16)
    forms = [shapes(jnp.zeros(size)) for size in range(17)]
    program = weakref.ref(_compiled(OWN, SOLVERS["als"], Options(), forms[0]))
    assert _compiled(OWN, SOLVERS["als"], Options(), forms[0]) is program()
    for form in forms[1:]:
        _compiled(OWN, SOLVERS["als"], Options(), form)
    gc.collect()
    assert program() is None

    program = weakref.ref(_compiled(OWN, SOLVERS["als"], Options(), forms[0]))
    for rank in range(1, 16):
        _compiled(models.mf(rank), SOLVERS["als"], Options(), forms[0])
    gc.collect()
    assert program() is not None
    _compiled(models.mf(17), SOLVERS["als"], Options(), forms[0])
    gc.collect()
    assert program() is None

    traces = []

    @jit
    def double(x):
        traces.append(x.shape)
        return 2 * x

    for size in (1, 2, 1, *range(2, 18), 17, 1):
        assert double(jnp.ones(size)).shape == (size,)
    assert traces == [(1,), (2,), *((size,) for size in range(3, 18)), (1,)]


def test_a_callable_without_notes_is_an_init_too():
    """Its programs are kept as those of any function."""

    class Init:
        __slots__ = ()

        def __call__(self, key, ratings, hyper):
            return Params(*BIASED.init(key, ratings, hyper))

    built = []

    @of_model
    def build(model, number):
        built.append(number)
        return object()

    model = BIASED._replace(init=Init())
    assert build(model, 1) is build(model, 1)
    assert built == [1]


def test_functions_of_a_notebook_go_through_cloudpickle():
    """As joblib sends them to its workers."""
    cloudpickle = pytest.importorskip("cloudpickle")
    model = BIASED._replace(loss=lambda params, ratings: 2 * own_loss(params, ratings))
    of_model(lambda model: jax.jit(model.loss))(model)
    again = pickle.loads(cloudpickle.dumps(model))
    params, ratings = init(BIASED, random_ratings(), HYPER), random_ratings()
    np.testing.assert_array_equal(again.loss(params, ratings), model.loss(params, ratings))
