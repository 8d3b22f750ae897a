"""Verification: what all checks refuse, what single ones do, and what was derived by hand with other leaves."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from helpers import HYPER, KEY

from bad_input.builders import BIASED, FIT, FRAME, MODEL, PARAMS, RATINGS, UNEVEN, zeros
from jaxmf import Hyper, Params, Rows, models, verify
from jaxmf.models import ByHand


def without_item_bias(params, ratings, weight, hyper):
    found = BIASED.by_hand.gradient(params, ratings, weight, hyper)
    return found._replace(item={"factors": found.item["factors"]})


def transposed(params, ratings, weight, hyper):
    found = BIASED.by_hand.gradient(params, ratings, weight, hyper)
    return found._replace(item=found.item | {"factors": found.item["factors"].T})


def with_age(*given):
    found = BIASED.by_hand.gradient(*given)
    return found._replace(user=found.user | {"age": given[1].value})


def as_dict(*given):
    return BIASED.by_hand.gradient(*given)._asdict()


def lacking(*given):
    return BIASED.by_hand.hvp(*given)._replace(item={})


def flat(*given):
    return jax.tree.map(jnp.ravel, BIASED.by_hand.hvp(*given))


def narrow(params, ratings, side):
    design, target = BIASED.design(params, ratings, side)
    return {"factors": design["factors"]}, target


def changed(**functions):
    return {"model": BIASED._replace(**functions)}


def of_loss(name, function):
    """The model whose loss is this function of the error."""
    bare = BIASED._replace(by_hand=None, name=name)
    return bare._replace(loss=lambda *given: function(BIASED.loss(*given)))


def check(name="gradients", **changes):
    given = {"model": BIASED, "params": PARAMS, "ratings": RATINGS, "hyper": HYPER}
    return getattr(verify, name)(**given | changes)


def fits(other, **options):
    return verify.stationarity({"one": FIT, "other": other}, RATINGS, **options)


def numbers(**changes):
    return FIT._replace(hyper=HYPER._replace(**changes))


UNBIASED = zeros(lambda: models.mf(3).init(KEY, RATINGS, HYPER))
DIVERGED = jax.tree.map(lambda leaf: leaf + np.nan, PARAMS)
REAL = of_loss("real", jnp.abs)._replace(loss=lambda params, ratings: ratings.value, penalty=lambda *given: 0.0)

# What every check refuses.
REFUSED = {
    "model": ({"model": models.biased_mf}, MODEL.format("function")),
    "params": ({"params": FIT}, r"^verify: params must be a Params, not Fit: take the fit\.params of a fit"),
    "uneven": (
        {"params": UNEVEN},
        r"^verify: the loss of the model 'biased_mf' fails on these params \(TypeError: .*\)\. Pass fit\.model",
    ),
    "diverged": ({"params": DIVERGED}, "^verify: trained.user.bias of params has NaN or infinite .*diverged"),
    "ratings": ({"ratings": FRAME}, "^verify: ratings must be a Dataset or its Ratings, not DataFrame"),
    "items": ({"ratings": replace(RATINGS, num_items=14)}, "^verify: the model has 13 items, the ratings have 14"),
    "hyper": ({"hyper": {"l2": 0.1}}, "^hyper must be a Hyper, not dict"),
    "l2": ({"hyper": Hyper(l2=np.ones(2))}, r"^hyper: l2 must be one number, not array"),
    "lacks": (
        changed(by_hand=ByHand(without_item_bias)),
        "^verify: the hand-derived gradient of 'biased_mf' lacks item.bias",
    ),
}
RANDOM = ("gradients", "hessian", "taylor", "remainders", "complex_step", "differences")
DIRECTIONS = "^verify: num_directions must be a positive integer, not "
SEED = "(?s)^seed must be an integer of at least 0, not "


def by_width():
    return {x: numbers(extra={"widths": np.array([x, 2.0])}) for x in (1.0, 3.0)}


CASES = {
    "model-verify": (lambda: check(model=models.biased_mf), MODEL.format("function")),
    "verify-frame": (
        lambda: check(ratings=FRAME),
        "^verify: ratings must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame makes one of a table",
    ),
    "verify-fit": (
        lambda: check(params=FIT),
        r"^verify: params must be a Params, not Fit: take the fit\.params of a fit",
    ),
    "verify-users": (
        lambda: check(ratings=replace(RATINGS, num_users=18)),
        r"^verify: the model has 17 users, the ratings have 18\. Split one Dataset",
    ),
    "verify-hyper": (lambda: check(hyper={"l2": 0.1}), "^hyper must be a Hyper, not dict"),
    "verify-nan": (lambda: check(hyper=Hyper(l2=float("nan"))), "^hyper: l2 must be finite and at least 0, not nan"),
    "verify-directions": (lambda: check(num_directions=0), "^verify: num_directions must be a positive integer, not 0"),
    "verify-seed": (lambda: check(seed=KEY), "(?s)^seed must be an integer of at least 0, .*take a key"),
    "verify-nothing": (
        lambda: check(model=models.global_mean(), params=Params(Rows())),
        "^verify: the model 'global_mean' trains nothing, so it has no gradient: verify one such as biased_mf",
    ),
    "verify-lacks": (
        lambda: check(model=BIASED._replace(by_hand=ByHand(without_item_bias))),
        r"^verify: the hand-derived gradient of 'biased_mf' lacks item\.bias; trained: \['user\.bias', ",
    ),
    "verify-shape": (
        lambda: check(model=BIASED._replace(by_hand=ByHand(transposed))),
        r"^verify: the hand-derived gradient of item\.factors has shape \(3, 13\); expected the leaf's, \(13, 3\)",
    ),
    # Of what a user has written.
    "verify-trained-dict": (
        partial(check, params=Params({"factors": np.ones((17, 3))})),
        r"^verify: params\.trained must be a Rows, not dict: Params\(Rows\(user=",
    ),
    "verify-no-array": (
        partial(check, params=Params(Rows({"factors": 0.5}))),
        "^verify: params of the users hold 0.5; expected arrays, one row each",
    ),
    "verify-loss-summed": (
        partial(check, model=of_loss("summed", jnp.sum)),
        r"^verify: the loss of the model 'summed' returns .*shape=\(\).*; expected shape \(1024,\), one number",
    ),
    "verify-penalty-rows": (
        partial(check, **changed(penalty=lambda trained, weight, hyper: weight.user)),
        r"^verify: the penalty of the model 'biased_mf' returns .*shape=\(17,\).*; expected shape \(\)",
    ),
    "verify-penalty-arguments": (
        partial(check, **changed(penalty=lambda trained: 0.0)),
        r"^verify: the penalty of the model 'biased_mf' fails .*TypeError: .*takes 1 positional argument but 3 were",
    ),
    "verify-extra-leaf": (
        partial(check, **changed(by_hand=ByHand(with_age))),
        "^verify: the hand-derived gradient of 'biased_mf' has user.age, which is not trained; trained: ",
    ),
    "verify-gradient-dict": (
        partial(check, **changed(by_hand=ByHand(as_dict))),
        r"^verify: the hand-derived gradient of 'biased_mf' must be a Rows, not dict: Rows\(user=",
    ),
    "verify-gradient-arguments": (
        partial(check, **changed(by_hand=ByHand(lambda params, ratings: params.trained))),
        r"^verify: the hand-derived gradient of the model 'biased_mf' fails .*takes 2 positional arguments but 4 were",
    ),
    "verify-hvp-lacks": (
        partial(check, "hessian", **changed(by_hand=BIASED.by_hand._replace(hvp=lacking))),
        r"^verify: the hand-derived Hessian-vector product of 'biased_mf' lacks item\.bias, lacks item\.factors",
    ),
    "verify-hvp-shape": (
        partial(check, "taylor", **changed(by_hand=BIASED.by_hand._replace(hvp=flat))),
        r"^verify: the hand-derived Hessian-vector product of user\.factors has shape \(51,\); expected .*, \(17, 3\)",
    ),
    "verify-hvp-arguments": (
        partial(check, "hessian", **changed(by_hand=BIASED.by_hand._replace(hvp=BIASED.by_hand.gradient))),
        r"^verify: the hand-derived Hessian-vector product of the model 'biased_mf' fails .*TypeError: .*argument",
    ),
    "verify-hessian-design": (
        partial(check, "hessian", **changed(design=narrow)),
        r"^als: the `design` of the model 'biased_mf' has \{'factors': \(3,\)\} per rating for a row of the users",
    ),
    # Complex steps.
    "verify-abs": (
        partial(check, "complex_step", model=of_loss("robust", jnp.abs)),
        r"^verify: a complex step does not apply to the model 'robust': it takes abs of a number that depends on the "
        r"parameters, and that has no complex derivative\. Use verify\.gradients and verify\.taylor, which need none",
    ),
    "verify-erf": (
        partial(check, "complex_step", model=of_loss("erf", jax.lax.erf)),
        "^verify: a complex step does not apply to the model 'erf': .*, and that has no complex derivative. Use",
    ),
    "verify-real": (
        partial(check, "complex_step", model=REAL),
        "^verify: a complex step does not apply to the model 'real': its terms are real whatever the parameters",
    ),
    # Half-steps.
    "verify-sweeps": (
        partial(check, "half_steps", num_sweeps=0),
        "^verify: num_sweeps must be a positive integer, not 0",
    ),
    "verify-sweeps-float": (partial(check, "half_steps", num_sweeps=2.0), "^verify: num_sweeps must be .*, not 2.0"),
    "verify-sweeps-true": (partial(check, "half_steps", num_sweeps=True), "^verify: num_sweeps must be .*, not True"),
    "verify-no-design": (
        partial(check, "half_steps", **changed(design=None)),
        "^als: the model 'biased_mf' has no `design`, so its rows have no normal equations. Give",
    ),
    "verify-half-steps-design": (
        partial(check, "half_steps", **changed(design=narrow)),
        "^als: the `design` of the model 'biased_mf' has",
    ),
    "verify-half-steps-l2": (
        partial(check, "half_steps", hyper=HYPER._replace(l2=0.0)),
        "^als: l2 must be positive, not 0.0: without a penalty",
    ),
    # Where fits end.
    "verify-fits-list": (
        lambda: verify.stationarity([FIT], RATINGS),
        r"^verify: fits must be a dict of name -> Fit, such as \{'als': jaxmf\.fit\(\.\.\.\)\}",
    ),
    "verify-one-fit": (lambda: verify.stationarity(FIT, RATINGS), "^verify: fits must be a dict of name -> Fit"),
    "verify-no-fits": (lambda: verify.stationarity({}, RATINGS), "^verify: fits must be a dict of name -> Fit"),
    "verify-fits-params": (
        partial(fits, PARAMS),
        r"^verify: fits\['other'\] must be a Fit, not Params: pass what jaxmf\.fit returns",
    ),
    "verify-fits-model": (
        partial(fits, FIT._replace(model=models.mf(3), params=UNBIASED)),
        "^verify: 'other' and 'one' are fits of different objectives, their models differ: mf of .* and biased_mf of",
    ),
    "verify-fits-l2": (
        partial(fits, numbers(l2=0.5)),
        r"^verify: 'other' and 'one' are fits of different objectives, their hypers differ: \[0\.5, .* and \[0\.07",
    ),
    "verify-fits-unobserved": (
        partial(fits, numbers(unobserved=0.5)),
        r"^verify: 'other' and 'one' are fits of .*, their hypers differ: .* 0\.5\] and .* None\]; pass fits of one",
    ),
    "verify-fits-extra": (
        partial(fits, numbers(extra={"widths": np.array([1.0, 2.0])})),
        r"^verify: 'other' and 'one' are fits .* hypers differ: .*widths.*\[1\.0, 2\.0\]",
    ),
    "verify-fits-arrays": (
        lambda: verify.stationarity(by_width(), RATINGS),
        r"^verify: 3\.0 and 1\.0 are fits of different objectives, their hypers differ: .*\[3\.0, 2\.0\]",
    ),
    "verify-fits-frame": (
        lambda: verify.stationarity({"one": FIT}, FRAME),
        "^verify: ratings must be a Dataset or its Ratings, not DataFrame",
    ),
    "verify-fits-users": (
        lambda: verify.stationarity({"one": FIT}, replace(RATINGS, num_users=18)),
        "^verify: the model has 17 users, the ratings have 18",
    ),
    "verify-tol": (partial(fits, FIT, tol=0), "^verify: tol must be a positive number, not 0"),
    "verify-tol-negative": (partial(fits, FIT, tol=-1e-3), "^verify: tol must be a positive number, not -0.001"),
    "verify-tol-nan": (partial(fits, FIT, tol=float("nan")), "^verify: tol must be a positive number, not nan"),
    "verify-tol-none": (partial(fits, FIT, tol=None), "^verify: tol must be a positive number, not None"),
    "verify-tol-word": (partial(fits, FIT, tol="1e-3"), "^verify: tol must be a positive number, not '1e-3'"),
    # Planted mistakes.
    "verify-no-gradient": (
        partial(check, "mutants", **changed(by_hand=None)),
        "^verify: the model 'biased_mf' has no hand-derived gradient to plant mistakes in: give it one, or use",
    ),
    **{
        f"verify-{name}-{what}".replace("_", "-"): (partial(check, name, **changes), message)
        for name in (*RANDOM, "half_steps", "mutants")
        for what, (changes, message) in REFUSED.items()
    },
    **{
        f"verify-{name}-directions-{number}".replace("_", "-"): (
            partial(check, name, num_directions=number),
            DIRECTIONS + repr(number),
        )
        for name in RANDOM
        for number in (0, 2.5, True)
    },
    **{
        f"verify-{name}-seed-{seed!r:.4}".replace("_", "-"): (partial(check, name, seed=seed), SEED)
        for name in (*RANDOM, "half_steps", "mutants")
        for seed in (KEY, -1)
    },
}
