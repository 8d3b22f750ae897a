"""Gradient verification: right gradients pass, every planted mistake is caught and its leaf named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DISTINCT, HYPER, KEY, MODELS, gradient, init, random_ratings, run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jaxmf import Hyper, Model, Params, Ratings, Rows, models, solvers, verify
from jaxmf.data import datasets
from jaxmf.models import ByHand, row_weights

ERRORS = ["hand_vs_autodiff", "autodiff_vs_central", "hand_vs_central"]
LEAVES = ["user.bias", "user.factors", "item.bias", "item.factors"]
NAMES = {"biased_mf": LEAVES, "content_mf": ["user.bias", "user.content", *LEAVES[1:]]}
BIASED = MODELS["biased"]


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    """As many users as items, so that swapped tables have the right shapes; weights of 0 and 1, counts that differ."""
    return random_ratings(num_users=13, folds=True)


def failed(report) -> list[str]:
    return report.table.loc[~report.table["passed"], "leaf"].tolist()


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_built_in_models_pass(model, nu, ratings):
    hyper = HYPER._replace(reg_exponent=nu)
    report = verify.gradients(model, init(model, ratings, hyper), ratings, hyper)
    table = report.to_frame()
    assert report.passed is True
    assert report.model == model.name
    assert table["leaf"].tolist() == NAMES.get(model.name, ["user.factors", "item.factors"])
    assert (table["hand_vs_autodiff"] < 1e-13).all()
    assert (table[ERRORS[1:]] < 1e-7).all(axis=None)
    assert (table["dtype"] == "float64").all()


@pytest.mark.parametrize("model", DISTINCT.values(), ids=DISTINCT)
@settings(max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**31), scale=st.floats(-6, 3), l2=st.floats(0, 1e3), nu=st.floats(0, 1))
def test_no_false_alarm(model, seed, scale, l2, nu):
    """45 random problems, at six probes each: ratings, weights, parameters between 1e-6 and 1e3, λ and ν."""
    ratings, hyper = random_ratings(seed, num_users=13, folds=True), HYPER._replace(l2=l2, reg_exponent=nu)
    params = init(model, ratings, hyper._replace(init_scale=1.0))
    params = params._replace(trained=jax.tree.map(lambda x: 10**scale * x, params.trained))
    assert verify.gradients(model, params, ratings, hyper, num_directions=2, seed=seed).passed


@pytest.mark.parametrize("model", [MODELS["mf"], BIASED], ids=["mf", "biased"])
def test_a_stationary_point_passes(model, ratings):
    """After ALS the gradient of the items' rows is 0, so an error relative to it would be noise."""
    state, _ = run(model, solvers.als(), ratings, HYPER, epochs=5)
    slope = gradient(model, state.params, ratings, HYPER)
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(slope.item)) < 1e-10
    report = verify.gradients(model, state.params, ratings, HYPER)
    assert report.passed
    assert (report.table[ERRORS] < 1e-7).all(axis=None)


@pytest.mark.slow
def test_the_lecture_s_gradient():
    """∂L/∂U[0,0] of the first 5 × 5 block, whose arrays continue the data's generator."""
    _, _, _, rng = datasets.planted_draws(42)
    train, _ = datasets.planted(42)
    U, V = rng.normal(0, 0.5, (5, 3)), rng.normal(0, 0.5, (5, 3))
    block = train.take((train.user < 5) & (train.item < 5)).ratings
    ratings = replace(block, num_users=5, num_items=5)
    model, hyper = models.mf(3, center=None), Hyper(l2=0.1, reg_exponent=0.0)
    params = Params(Rows({"factors": jnp.asarray(U)}, {"factors": jnp.asarray(V)}))
    auto = gradient(model, params, ratings, hyper)
    hand = model.by_hand.gradient(params, ratings, row_weights(ratings, 0.0), hyper)
    for found in (auto, hand):
        assert abs(float(found.user["factors"][0, 0]) - 2.93976684) < 5e-9
    assert verify.gradients(model, params, ratings, hyper).passed


# Hand-derived gradients with one mistake each. `right` is the library's, so that the rest is known to be right.


def right(params, ratings, weight, hyper) -> Rows:
    return BIASED.by_hand.gradient(params, ratings, weight, hyper)


def edit(rows: Rows, leaf: str, change) -> Rows:
    side, name = leaf.split(".")
    return rows._replace(**{side: getattr(rows, side) | {name: change(getattr(rows, side)[name])}})


def wrong_sign(params, ratings, weight, hyper):
    return edit(right(params, ratings, weight, hyper), "user.factors", lambda g: -g)


def missing_two(params, ratings, weight, hyper):
    return edit(right(params, ratings, weight, hyper), "item.factors", lambda g: g / 2)


def forgotten_l2(params, ratings, weight, hyper):
    own = 2 * hyper.l2 * weight.item[:, None] * params.trained.item["factors"]
    return edit(right(params, ratings, weight, hyper), "item.factors", lambda g: g - own)


def forgotten_l2_bias(params, ratings, weight, hyper):
    own = 2 * hyper.l2_bias * weight.user * params.trained.user["bias"]
    return edit(right(params, ratings, weight, hyper), "user.bias", lambda g: g - own)


def l2_on_the_bias(params, ratings, weight, hyper):
    return right(params, ratings, weight, hyper._replace(l2_bias=hyper.l2))


def exponent_ignored(params, ratings, weight, hyper):
    return right(params, ratings, row_weights(ratings, 0.0), hyper)


def sides_swapped(params, ratings, weight, hyper):
    found = right(params, ratings, weight, hyper)
    factors = found.user["factors"], found.item["factors"]
    return Rows(found.user | {"factors": factors[1]}, found.item | {"factors": factors[0]})


def weight_ignored(params, ratings, weight, hyper):
    return right(params, replace(ratings, weight=jnp.ones_like(ratings.weight)), weight, hyper)


def mean_for_sum(params, ratings, weight, hyper):
    share = ratings.weight / ratings.weight.sum()
    return right(params, replace(ratings, weight=share), weight, hyper)


def sign_of_the_mean(params, ratings, weight, hyper):
    fixed = params.fixed._replace(shared={"mean": -params.fixed.shared["mean"]})
    return right(params._replace(fixed=fixed), ratings, weight, hyper)


def one_row_off_by_a_millionth(params, ratings, weight, hyper):
    return edit(right(params, ratings, weight, hyper), "user.bias", lambda g: g.at[3].multiply(1 + 1e-6))


MISTAKES = {
    wrong_sign: ["user.factors"],
    missing_two: ["item.factors"],
    forgotten_l2: ["item.factors"],
    forgotten_l2_bias: ["user.bias"],
    l2_on_the_bias: ["user.bias", "item.bias"],
    exponent_ignored: LEAVES,
    sides_swapped: ["user.factors", "item.factors"],
    weight_ignored: LEAVES,
    mean_for_sum: LEAVES,
    sign_of_the_mean: LEAVES,
    one_row_off_by_a_millionth: ["user.bias"],
}


@pytest.mark.parametrize(("gradient", "leaves"), MISTAKES.items(), ids=[gradient.__name__ for gradient in MISTAKES])
def test_a_planted_mistake_is_caught_and_its_leaf_named(gradient, leaves, ratings):
    """Also at the initial parameters, where the biases are 0 and their penalty cannot be seen."""
    report = verify.gradients(
        BIASED._replace(by_hand=ByHand(gradient)),
        init(BIASED, ratings, HYPER),
        ratings,
        HYPER,
    )
    assert report.passed is False
    assert failed(report) == leaves
    table = report.to_frame().set_index("leaf")
    assert (table.loc[leaves, "hand_vs_autodiff"] > 1e-8).all()
    assert (table["autodiff_vs_central"] < 1e-8).all(), "autodiff itself was right"


def test_a_wrong_loss_is_caught(ratings):
    """The gradient of Σ e², with a loss of ½ e²."""
    halved = BIASED._replace(loss=lambda params, ratings: 0.5 * BIASED.loss(params, ratings))
    report = verify.gradients(halved, init(BIASED, ratings, HYPER), ratings, HYPER)
    assert failed(report) == LEAVES
    assert (report.table["autodiff_vs_central"] < 1e-8).all()


def detached_loss(params, ratings):
    """Differentiable in its value, but a stop_gradient hides the users' factors from autodiff."""
    user = params.trained.user | {"factors": jax.lax.stop_gradient(params.trained.user["factors"])}
    return BIASED.loss(params._replace(trained=params.trained._replace(user=user)), ratings)


def undefined_loss(params, ratings):
    return jnp.sqrt(-1 - BIASED.loss(params, ratings))


@pytest.mark.parametrize(
    ("model", "leaves"),
    [
        (BIASED, []),
        (BIASED._replace(loss=detached_loss), ["user.factors"]),
        (BIASED._replace(loss=undefined_loss), LEAVES),
    ],
    ids=["right", "stop_gradient", "nan"],
)
def test_without_a_hand_derived_gradient_autodiff_is_compared_with_differences(model, leaves, ratings):
    report = verify.gradients(model._replace(by_hand=None), init(BIASED, ratings, HYPER), ratings, HYPER)
    assert failed(report) == leaves
    assert report.passed == (not leaves)
    assert report.table[["hand_vs_autodiff", "hand_vs_central"]].isna().all(axis=None)


@pytest.mark.parametrize("number", [1, 10_000])
def test_directions(number, ratings):
    """A leaf with no more numbers than directions is probed in every coordinate, at both points."""
    model = models.mf(1)
    table = verify.gradients(model, init(model, ratings, HYPER), ratings, HYPER, num_directions=number).to_frame()
    assert table["size"].tolist() == [13, 13]
    assert table["directions"].tolist() == [min(number, 13)] * 2
    assert table["passed"].all()


def test_the_seed_decides_the_directions(ratings):
    params = init(BIASED, ratings, HYPER)
    tables = [verify.gradients(BIASED, params, ratings, HYPER, seed=seed).to_frame() for seed in (1, 1, 2)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_float32_parameters_and_a_shared_leaf_are_checked_in_float64(ratings):
    """A model of a user's own, one number of which every rating touches."""

    def start(key, ratings, hyper):
        params = models.mf(2, None).init(key, ratings, hyper)
        return params._replace(trained=params.trained._replace(shared={"scale": jnp.ones((), jnp.float32)}))

    def predict(params, pairs):
        P, Q = params.trained.user["factors"], params.trained.item["factors"]
        return params.trained.shared["scale"] * jnp.sum(P[pairs.user] * Q[pairs.item], axis=-1)

    def loss(params, ratings):
        return (ratings.value - predict(params, ratings)) ** 2

    single = random_ratings(dtype=jnp.float32)
    hyper = Hyper(l2=0.1, init_scale=0.5)
    model = Model(start, predict, loss, models.mf(2).penalty, name="scaled")
    params = start(KEY, single, jax.tree.map(jnp.float32, hyper))
    report = verify.gradients(model, params, single, hyper)
    assert report.passed
    assert report.table["leaf"].tolist() == ["user.factors", "item.factors", "shared.scale"]
    assert report.table["directions"].tolist() == [4, 4, 1]
    assert params.trained.shared["scale"].dtype == jnp.float32
    np.testing.assert_array_less(report.table["autodiff_vs_central"], 1e-8)


def test_the_setting_of_x64_is_left_alone():
    """As in a notebook: float32 before and after, float64 within."""
    with jax.enable_x64(False):
        data = datasets.synthetic(num_users=12, num_items=9, num_ratings=50)
        params = init(BIASED, data.ratings, HYPER)
        report = verify.gradients(BIASED, params, data, HYPER)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {(jnp.zeros(3) + 1.0).dtype} == {np.dtype("float32")}
    assert report.passed
    assert set(report.table["dtype"]) == {"float64"}
    assert report.table["hand_vs_autodiff"].max() < 1e-13
