"""Data that hide a mistake: it is noticed all the same, and the probe that showed it is named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HYPER, KEY, MODELS, assert_same_bits, init, pick, random_ratings

from jaxmf import Hyper, Model, Ratings, models, verify
from jaxmf.models import ByHand
from jaxmf.verify._mutants import MISTAKES as PLANTED
from jaxmf.verify._probes import probes
from jaxmf.verify.case import float64, without_padding

BIASED = MODELS["biased"]
LEAVES = ["user.bias", "user.factors", "item.bias", "item.factors"]
FACTORS, BIASES = LEAVES[1::2], LEAVES[::2]

# One rating of 3 in each row, with the weight 1; factors that start at 0; λ_b = λ, and ν = 0.
BLIND = Ratings(*(jnp.arange(17, dtype=jnp.int32),) * 2, jnp.full(17, 3.0), jnp.ones(17), 17, 17)
NUMBERS = Hyper(l2=0.1, reg_exponent=0.0, init_scale=0.0, extra={"slope": 0.0})


def by(name):
    return lambda *given: PLANTED[name](BIASED.by_hand.gradient, *given)


def last_of_equal_pairs(params, ratings, weight, hyper):
    """A dense matrix of ratings, in which a pair that is there twice has one place."""
    pair = ratings.user * ratings.num_items + ratings.item
    last = jnp.full(ratings.num_users * ratings.num_items, -1).at[pair].max(jnp.arange(pair.size))
    kept = jnp.where(last[pair] == jnp.arange(pair.size), ratings.weight, 0)
    return BIASED.by_hand.gradient(params, replace(ratings, weight=kept), weight, hyper)


def by_the_first_value(params, ratings, weight, hyper):
    alike = replace(ratings, value=jnp.full_like(ratings.value, 1) * ratings.value[0])
    return BIASED.by_hand.gradient(params, alike, weight, hyper)


def without_the_mean(params, ratings, weight, hyper):
    """Right where μ = 3, as it is here."""
    fixed = params.fixed._replace(shared={"mean": 3.0})
    return BIASED.by_hand.gradient(params._replace(fixed=fixed), ratings, weight, hyper)


def rough_in_float32(params, ratings, weight, hyper):
    right = BIASED.by_hand.gradient(params, ratings, weight, hyper)
    rough = lambda leaf: leaf.astype(jnp.float16).astype(leaf.dtype) if leaf.dtype == jnp.float32 else leaf  # noqa: E731
    return right._replace(item=jax.tree.map(rough, right.item))


def no_penalty_of_none(params, ratings, weight, hyper):
    """λ_b of None taken for 0."""
    l2_bias = 0.0 if hyper.l2_bias is None else hyper.l2_bias
    return BIASED.by_hand.gradient(params, ratings, weight, hyper._replace(l2_bias=l2_bias))


EXPONENT_IGNORED = "ν ignored"  # noqa: RUF001
DRAWN = {"weights", "ratings", "rank", "float32"}
PADDED = DRAWN | {"nearby", "numbers"}  # whose padding shows the mistake: it repeats ratings, with the weight 0
MISTAKES = {
    "weights ignored": (by("weights as a mask"), LEAVES, DRAWN),
    "held-out counted": (by("padding counted"), LEAVES, PADDED),
    "λ for λ_b": (by("λ for λ_b"), BIASES, {"numbers", "ratings", "rank", "float32"}),
    "exponent ignored": (by(EXPONENT_IGNORED), LEAVES, {"ratings", "float32"}),
    "empty rows penalized": (by("empty rows penalized"), LEAVES, {"ratings", "float32"}),
    "zeros missing": (by("zeros taken for missing"), LEAVES, {"ratings", "rank", "float32"}),
    "pairs once": (last_of_equal_pairs, LEAVES, PADDED),
    "one value": (by_the_first_value, LEAVES, {"ratings", "rank", "float32"}),
    "one mean": (without_the_mean, LEAVES, {"ratings", "rank", "float32"}),
    "rank": (by("rank filled with ones"), LEAVES, {"rank", "float32"}),
    "float32": (rough_in_float32, LEAVES[2:], {"float32"}),
}


def checked(model, check=verify.gradients, hyper=NUMBERS, **options):
    return check(model, init(model, BLIND, hyper), BLIND, hyper, num_directions=1, **options).to_frame()


@pytest.mark.slow
def test_what_is_right_passes_where_data_hide_much():
    for check in (verify.gradients, verify.hessian, verify.taylor, verify.complex_step):
        table = checked(BIASED, check)
        assert table["passed"].all()
        assert (table["failed"] == "").all()


@pytest.mark.parametrize(("gradient", "leaves", "where"), MISTAKES.values(), ids=MISTAKES)
def test_what_the_data_hide_is_noticed_and_the_probe_named(gradient, leaves, where):
    table = checked(BIASED._replace(by_hand=ByHand(gradient)))
    assert table.loc[~table["passed"], "leaf"].tolist() == leaves
    assert {name for names in table["failed"] for name in names.split(", ") if name} == where


def test_what_is_made_of_none_is_checked_as_given():
    ratings = random_ratings(num_ratings=40)
    model = BIASED._replace(by_hand=ByHand(no_penalty_of_none))
    params = init(model, ratings, HYPER)
    trained = jax.tree.map(lambda leaf: leaf + 0.1, params.trained)
    report = verify.gradients(model, params._replace(trained=trained), ratings, HYPER._replace(l2_bias=None))
    assert report.table.loc[~report.table["passed"], ["leaf", "failed"]].to_numpy().tolist() == [
        ["user.bias", "given"],
        ["item.bias", "given"],
    ]


def hvp_by_a_mask(params, ratings, *rest):
    return BIASED.by_hand.hvp(params, replace(ratings, weight=jnp.sign(ratings.weight)), *rest)


def design_of_mean_3(params, ratings, side):
    return BIASED.design(params._replace(fixed=params.fixed._replace(shared={"mean": 3.0})), ratings, side)


def test_the_other_witnesses_see_it_too():
    hessian = checked(BIASED._replace(by_hand=BIASED.by_hand._replace(hvp=hvp_by_a_mask)), verify.hessian)
    assert set(hessian["failed"]) == {"weights, ratings, rank"}
    hessian = checked(BIASED._replace(design=design_of_mean_3), verify.hessian)
    assert set(hessian["failed"]) == {"ratings, rank"}
    wrong = BIASED._replace(by_hand=ByHand(by("weights as a mask")))
    assert set(checked(wrong, verify.complex_step)["failed"]) == {"weights, ratings, rank"}
    taylor = checked(wrong, verify.taylor).query("order == 1")
    assert set(taylor["failed"]) == {"ratings"}
    assert taylor["slope"].to_numpy() == pytest.approx(1, abs=0.1)


def half_the_penalty_of_biases(trained, weight, hyper):
    """Half of λ_b, where it is not λ; autodiff and als see the same penalty, but the model's formula is another."""
    l2_bias = jnp.where(hyper.l2_bias == hyper.l2, hyper.l2, hyper.l2_bias / 2)
    return BIASED.penalty(trained, weight, hyper._replace(l2_bias=l2_bias))


def test_a_penalty_of_another_lambda_is_noticed():
    table = checked(BIASED._replace(penalty=half_the_penalty_of_biases), hyper=NUMBERS._replace(l2_bias=0.1))
    assert table.loc[~table["passed"], "leaf"].tolist() == BIASES


def test_numbers_of_a_user_s_own_are_drawn():
    """`extra` of 0 hides what a gradient forgets of it."""

    def penalty(trained, weight, hyper):
        return BIASED.penalty(trained, weight, hyper) + hyper.extra["slope"] * jnp.sum(trained.user["bias"] ** 2)

    table = checked(BIASED._replace(penalty=penalty))
    assert table.loc[~table["passed"], "leaf"].tolist() == ["user.bias"]


@pytest.mark.slow
def test_features_of_0_hide_nothing():
    model = models.content_mf(3, np.zeros((17, 2)))

    def gradient(params, *rest):
        right = model.by_hand.gradient(params, *rest)
        return right._replace(user=right.user | {"content": 2 * rest[2].l2 * params.trained.user["content"]})

    assert checked(model)["passed"].all()
    table = checked(model._replace(by_hand=ByHand(gradient)))
    assert table.loc[~table["passed"], "leaf"].tolist() == ["user.content"]


def test_a_loss_that_knows_no_other_ratings_keeps_the_given_ones():
    """The logarithm of a rating: 0 is outside its domain."""

    def loss(params, ratings):
        return (jnp.log(ratings.value) - BIASED.predict(params, ratings)) ** 2

    table = checked(Model(BIASED.init, BIASED.predict, loss, BIASED.penalty, name="log"))
    assert table["passed"].all()


def test_the_probes():
    """Each has what its name says, in one structure with the same shapes and dtypes."""
    ratings = random_ratings(num_ratings=40)
    hyper = HYPER._replace(l2_bias=None)
    with float64(BIASED, init(BIASED, ratings, hyper, KEY), ratings, hyper) as (trained, case):
        found = {probe.name: probe for probe in probes(BIASED, trained, case, np.random.default_rng(0))}
    assert list(found) == ["given", "nearby", "weights", "numbers", "ratings", "rank"]
    about = lambda x: (np.shape(x), np.asarray(x).dtype)  # noqa: E731
    shapes = {name: jax.tree.map(about, probe[1:]) for name, probe in found.items()}
    assert all(shape == shapes["given"] for shape in shapes.values())
    assert_same_bits(jax.tree.map(np.asarray, found["given"].trained), jax.tree.map(np.asarray, trained))
    for name in ("weights", "ratings", "rank"):
        assert not np.any(found[name].case.ratings.weight[40:])
        drawn = without_padding(found[name].case)
        weight = np.asarray(drawn.weight)
        assert 0 < np.count_nonzero(weight == 0) < weight.size / 1.5
        assert len(np.unique(weight[weight > 0])) == np.count_nonzero(weight)
        assert (np.bincount(drawn.user, weight, 17) == 0).any()
    pairs = without_padding(found["ratings"].case)
    assert len(set(zip(pairs.user.tolist(), pairs.item.tolist(), strict=True))) < 40
    assert 0 in pairs.value
    numbers = found["numbers"].case.hyper
    assert len({float(numbers.l2), float(numbers.l2_bias), HYPER.l2}) == 3
    assert float(numbers.reg_exponent) != HYPER.reg_exponent
    assert int(found["rank"].case.hyper.rank) == 1
    assert not np.any(found["rank"].trained.item["factors"][:, 1:])
    assert np.all(found["rank"].trained.item["factors"][:, :1])


def test_of_few_ratings_some_padding_is_drawn():
    ratings = pick(random_ratings(), np.arange(7))
    with float64(BIASED, init(BIASED, ratings, HYPER), ratings, HYPER) as (trained, case):
        found = {probe.name: probe.case for probe in probes(BIASED, trained, case, np.random.default_rng(0))}
    assert np.flatnonzero(found["given"].ratings.weight).tolist() == list(range(7))
    assert np.flatnonzero(found["weights"].ratings.weight).max() in range(7, 16)
