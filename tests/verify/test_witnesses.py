"""The witnesses beside `gradients`: each passes what is right, and names what is wrong."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import DISTINCT, HYPER, KEY, MODELS, init, objective, random_ratings, run, slow

import jaxmf
from jaxmf import Hyper, solvers, verify
from jaxmf.models import ByHand
from jaxmf.verify._mutants import MISTAKES
from jaxmf.verify._taylor import _slope

BIASED = MODELS["biased"]
LEAVES = ["user.bias", "user.factors", "item.bias", "item.factors"]


@pytest.fixture(scope="module")
def ratings():
    return random_ratings(num_users=13, folds=True)


@pytest.fixture(scope="module")
def params(ratings):
    return init(BIASED, ratings, HYPER)


def failed(report, column="leaf") -> list:
    return report.table.loc[~report.table["passed"], column].tolist()


def edited(rows, side, name, change):
    return rows._replace(**{side: getattr(rows, side) | {name: change(getattr(rows, side)[name])}})


def hvp_without_error(params, ratings, weight, hyper, direction):
    """The Gauss-Newton product, which forgets −e q̇ and −e ṗ."""
    exact = replace(ratings, value=BIASED.predict(params, ratings))
    return BIASED.by_hand.hvp(params, exact, weight, hyper, direction)


def hvp_of_half_a_bias(params, ratings, weight, hyper, direction):
    return edited(BIASED.by_hand.hvp(params, ratings, weight, hyper, direction), "item", "bias", lambda leaf: leaf / 2)


def by_hand(hvp):
    return {"by_hand": BIASED.by_hand._replace(hvp=hvp)}


def gradient_of_half_a_bias(params, ratings, weight, hyper):
    return edited(BIASED.by_hand.gradient(params, ratings, weight, hyper), "item", "bias", lambda leaf: leaf / 2)


def design_of_the_wrong_mean(params, ratings, side):
    fixed = params.fixed._replace(shared={"mean": -params.fixed.shared["mean"]})
    return BIASED.design(params._replace(fixed=fixed), ratings, side)


def design_of_twice_the_bias(params, ratings, side):
    design, target = BIASED.design(params, ratings, side)
    return design | {"bias": 2 * design["bias"]}, target


# Hessian.


@pytest.mark.parametrize("model", DISTINCT.values(), ids=DISTINCT)
def test_hessians_of_built_in_models_pass(model, ratings):
    table = verify.hessian(model, init(model, ratings, HYPER), ratings, HYPER, num_directions=2).to_frame()
    assert table["passed"].all()
    exact = table[["hand_vs_autodiff", "autodiff_vs_als", "gradient_vs_als"]]
    assert (exact < 1e-13).all(axis=None)
    assert (table["autodiff_vs_central"] < 1e-6).all()


@pytest.mark.parametrize(
    ("part", "column", "leaves"),
    [
        (by_hand(hvp_without_error), "hand_vs_autodiff", ["user.factors", "item.factors"]),
        (by_hand(hvp_of_half_a_bias), "hand_vs_autodiff", ["item.bias"]),
        ({"design": design_of_the_wrong_mean}, "gradient_vs_als", LEAVES),
        ({"design": design_of_twice_the_bias}, "autodiff_vs_als", LEAVES),
        ({"penalty": lambda trained, *rest: 2 * BIASED.penalty(trained, *rest)}, "hand_vs_autodiff", LEAVES),
    ],
    ids=["error", "half", "target", "design", "penalty"],
)
def test_a_wrong_curvature_is_named(part, column, leaves, ratings, params):
    report = verify.hessian(BIASED._replace(**part), params, ratings, HYPER, num_directions=1)
    assert failed(report) == leaves
    limit = report.limits[column]
    assert report.table.loc[report.table[column] > limit, "leaf"].tolist() == leaves


def test_the_hessian_of_a_model_without_formulas(ratings, params):
    bare = BIASED._replace(by_hand=BIASED.by_hand._replace(hvp=None), design=None)
    table = verify.hessian(bare, params, ratings, HYPER, num_directions=1).to_frame()
    assert table["passed"].all()
    assert table[["hand_vs_autodiff", "autodiff_vs_als", "gradient_vs_als"]].isna().all(axis=None)


def test_the_hessian_at_a_minimum(ratings):
    """Where the gradient is 0, which ALS finds by another sum: both are rounding."""
    state, _ = run(BIASED, solvers.als(), ratings, HYPER, epochs=300)
    assert verify.hessian(BIASED, state.params, ratings, HYPER, num_directions=1).passed


# Taylor remainders.


def test_taylor_slopes(ratings, params):
    """1, 2 and 3 in all leaves; along a single leaf the objective is quadratic, so that no third-order term is left."""
    table = verify.taylor(BIASED, params, ratings, HYPER).to_frame().set_index(["leaf", "order"])
    assert table["passed"].all()
    np.testing.assert_allclose(table.loc["all", "slope"], [1, 2, 3], atol=0.1)
    for leaf in LEAVES:
        np.testing.assert_allclose(table.loc[leaf, "slope"][:2], [1, 2], atol=0.01)
        assert np.isnan(table.loc[(leaf, 2), "slope"])


@pytest.mark.parametrize(
    ("part", "order"), [({"gradient": gradient_of_half_a_bias}, 1), ({"hvp": hvp_of_half_a_bias}, 2)], ids=["g", "H"]
)
def test_a_wrong_derivative_costs_an_order(part, order, ratings, params):
    report = verify.taylor(BIASED._replace(by_hand=BIASED.by_hand._replace(**part)), params, ratings, HYPER)
    assert set(failed(report)) == {"item.bias", "all"}
    wrong = report.table[(report.table["leaf"] == "item.bias") & ~report.table["passed"]]
    assert wrong["order"].min() == order
    assert wrong.loc[wrong["order"] == order, "slope"].item() == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("num_directions", [1, slow(4)])
def test_taylor_raises_no_false_alarm(num_directions, ratings):
    """Along a single direction neighboring orders may cancel."""
    for seed in range(20):
        hyper = HYPER._replace(l2=10.0 ** (seed % 5 - 3), init_scale=10.0 ** (seed % 3 - 2))
        drawn = init(BIASED, ratings, hyper, jax.random.key(seed))
        assert verify.taylor(BIASED, drawn, ratings, hyper, num_directions, seed=seed).passed


def test_a_remainder_that_changes_its_sign_has_the_slope_beyond():
    """h³ − 60 h⁴ is 0 at h = 1/60, among the steps that are read."""
    step = 2.0 ** -np.arange(1, 31)
    line = pd.DataFrame({"step": step, "remainder": abs(step**3 - 60 * step**4), "rounding": 1e-13})
    found = _slope(line, "nearby", 3)
    assert found["passed"]
    assert found["slope"] == pytest.approx(3, abs=0.3)
    assert not _slope(line.assign(remainder=step**2), "nearby", 3)["passed"]


# Complex step.


@pytest.mark.parametrize("model", DISTINCT.values(), ids=DISTINCT)
def test_complex_steps_agree_to_rounding(model, ratings):
    report = verify.complex_step(model, init(model, ratings, HYPER), ratings, HYPER, num_directions=2)
    assert report.passed
    assert (report.table[["autodiff_vs_complex", "hand_vs_complex"]] < 1e-14).all(axis=None)


def test_a_complex_step_names_the_wrong_leaf(ratings, params):
    wrong = BIASED._replace(by_hand=ByHand(gradient_of_half_a_bias))
    assert failed(verify.complex_step(wrong, params, ratings, HYPER, num_directions=2)) == ["item.bias"]


def absolute(params, ratings):
    return jnp.abs(ratings.value - BIASED.predict(params, ratings))


def real(params, ratings):
    return jnp.real(BIASED.loss(params, ratings))


@pytest.mark.parametrize(("loss", "operation"), [(absolute, "abs"), (real, "real")], ids=["abs", "real"])
def test_a_complex_step_refuses_what_has_no_complex_derivative(loss, operation, ratings, params):
    model = BIASED._replace(loss=loss, by_hand=None, name="robust")
    with pytest.raises(verify.NotAnalyticError, match=rf"'robust': it takes {operation} of a number"):
        verify.complex_step(model, params, ratings, HYPER)


# Step sizes.


@pytest.fixture(scope="module")
def found(ratings):
    params = init(BIASED, ratings, HYPER)
    return verify.differences(BIASED, params, ratings, HYPER, num_directions=2)


def test_the_objective_is_quartic_along_a_line_and_quadratic_in_a_block(found):
    line = found.line.set_index("place")
    assert (line.loc["all", ["c1", "c2", "c3", "c4"]] > 1e-6).all()
    assert line.loc["all", "c5"] == 0
    assert (line.loc[["user", "item"], ["c3", "c4", "c5"]] == 0).all(axis=None)


def test_slopes_of_differences(found):
    assert found.passed
    slopes = found.slopes.set_index(["place", "dtype", "scheme"]).sort_index()
    expected = {"forward": 1, "central": 2}
    for (place, _, scheme), row in slopes.iterrows():
        exact = scheme == "five-point" or (scheme == "central" and place != "all")
        assert np.isnan(row["expected_slope"]) == exact
        if exact:
            assert row["best_error"] < (3e-6 if row.name[1] == "float32" else 1e-14)
        else:
            assert row["truncation_slope"] == pytest.approx(expected[scheme], abs=0.1)
        assert row["rounding_slope"] == pytest.approx(-1, abs=0.3)
        # The optimum is where it was predicted to be, within a few doublings, and no worse.
        assert abs(np.log2(row["best_step"] / row["predicted_step"])) <= 5
        assert row["best_error"] <= row["predicted_error"]


def test_differences_of_a_loss_that_is_no_polynomial(ratings, params):
    def loss(params, ratings):
        return optax.sigmoid_binary_cross_entropy(BIASED.predict(params, ratings) - 3, ratings.value / 5)

    found = verify.differences(BIASED._replace(loss=loss), params, ratings, HYPER, num_directions=2)
    assert found.passed
    slopes = found.slopes.set_index(["place", "dtype", "scheme"])["truncation_slope"]
    assert slopes["all", "float64", "five-point"] == pytest.approx(4, abs=0.1)


def test_differences_notice_a_gradient_that_autodiff_cannot_see(ratings, params):
    """The polynomial's c₁ is autodiff's, and with part of the loss detached no step is right."""

    def loss(params, ratings):
        user = params.trained.user | {"factors": jax.lax.stop_gradient(params.trained.user["factors"])}
        return BIASED.loss(params._replace(trained=params.trained._replace(user=user)), ratings)

    found = verify.differences(BIASED._replace(loss=loss), params, ratings, HYPER, num_directions=1)
    assert not found.passed


# Stationary points.


def test_half_steps(ratings, params):
    report = verify.half_steps(BIASED, params, ratings, HYPER, num_sweeps=3)
    table = report.to_frame()
    assert report.passed
    assert table["side"].tolist() == ["user", "item"] * 5
    assert table["probe"].tolist() == ["given"] * 6 + ["weights"] * 2 + ["numbers"] * 2
    assert (table["change"] < 0).all()
    assert (table["solved_gradient"] < 1e-13).all()
    assert (table["gradient"] > 1e-3).all(), "only half of the parameters are at their minimum"
    state, _ = run(BIASED, solvers.als(), ratings, HYPER, epochs=3, params=params)
    expected = objective(BIASED, state.params, ratings, HYPER)
    assert table["objective"].iloc[5] == pytest.approx(float(expected), rel=1e-12)


def test_a_half_step_by_the_wrong_design_is_no_minimum(ratings, params):
    wrong = BIASED._replace(design=design_of_the_wrong_mean)
    report = verify.half_steps(wrong, params, ratings, HYPER, num_sweeps=1)
    assert failed(report, "side") == ["user", "item"] * 3
    assert (report.table["solved_gradient"] > 1e-3).all()


def test_where_solvers_end(ratings):
    """ALS is there, one epoch of it is not, and a fit of another λ is no fit of this objective."""
    hyper = Hyper(l2=0.3, init_scale=0.3)
    ways = {"long": 1000, "short": 1}
    fits = {name: jaxmf.fit(KEY, BIASED, solvers.als(), ratings, hyper=hyper, epochs=n) for name, n in ways.items()}
    table = verify.stationarity(fits, ratings).to_frame().set_index("solver")
    assert table["passed"].tolist() == [True, False]
    assert table.loc["long", "excess"] == 0
    assert table.loc["long", "gradient"] < 1e-6 < 1e-3 < table.loc["short", "gradient"]
    assert table["epochs"].to_dict() == ways
    other = fits["short"]._replace(hyper=hyper._replace(l2=0.4))
    with pytest.raises(ValueError, match=r"'other' and 'short' are fits of different objectives, their hypers differ"):
        verify.stationarity({"short": fits["short"], "other": other}, ratings)


# Planted mistakes.


@pytest.mark.slow
def test_every_planted_mistake_is_caught_and_localized(ratings, params):
    report = verify.mutants(BIASED, params, ratings, HYPER)
    table = report.to_frame().set_index("mutant")
    assert len(table) == 16
    assert report.passed
    # `als` looks at the given data alone, and at rows that are 0 where they are empty.
    missed = ["weights as a mask", "zeros taken for missing", "empty rows penalized", "rank filled with ones"]
    assert table.index[table["als"] == ""].tolist() == ["wrong sign", "missing 2", *missed]
    assert (table[["elements", "differences", "complex_step"]].eq(table["leaves"], axis=0)).all(axis=None)
    assert (table.loc["wrong sign", "leaves"], table.loc["missing 2", "leaves"]) == ("user.bias", "item.factors")
    assert table.loc["forgotten λ", "leaves"] == "user.factors, item.factors"
    assert set(table["check_grads"]) <= {"?", ""}


def test_a_formula_that_no_mistake_changes_is_refused(ratings, params):
    stub = BIASED._replace(by_hand=ByHand(lambda params, *rest: jax.tree.map(jnp.zeros_like, params.trained)))
    with pytest.raises(ValueError, match=r"no mistake changes the hand-derived gradient of 'biased_mf'"):
        verify.mutants(stub, params, ratings, HYPER)


@pytest.mark.slow
def test_a_mistake_that_changes_nothing_is_left_out(ratings, monkeypatch):
    """Plain factorization without a mean has no λ_b to forget and no μ to take at the wrong sign."""
    for name in MISTAKES.keys() - {"forgotten λ", "forgotten λ_b", "wrong sign of μ"}:
        monkeypatch.delitem(MISTAKES, name)
    model = MODELS["mf-uncentered"]
    table = verify.mutants(model, init(model, ratings, HYPER), ratings, HYPER).to_frame()
    assert table[["mutant", "leaves", "passed"]].to_numpy().tolist() == [
        ["forgotten λ", "user.factors, item.factors", True]
    ]
