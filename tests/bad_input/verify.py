"""Verification."""

from dataclasses import replace

from helpers import HYPER, KEY

from bad_input.builders import BIASED, FIT, FRAME, MODEL, PARAMS, RATINGS
from jaxmf import Hyper, Params, Rows, models, verify


def without_item_bias(params, ratings, weight, hyper):
    found = BIASED.gradient(params, ratings, weight, hyper)
    return found._replace(item={"factors": found.item["factors"]})


def transposed(params, ratings, weight, hyper):
    found = BIASED.gradient(params, ratings, weight, hyper)
    return found._replace(item=found.item | {"factors": found.item["factors"].T})


def check(model=BIASED, params=PARAMS, ratings=RATINGS, hyper=HYPER, **options):
    return verify.gradients(model, params, ratings, hyper, **options)


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
    "verify-seed": (lambda: check(seed=KEY), "(?s)^seed must be an integer of at least 0, .*takes a key"),
    "verify-nothing": (
        lambda: check(model=models.global_mean(), params=Params(Rows())),
        "^verify: the model 'global_mean' trains no parameters, so it has no gradient: verify one that is fitted",
    ),
    "verify-lacks": (
        lambda: check(model=BIASED._replace(gradient=without_item_bias)),
        r"^verify: the hand-derived gradient of 'biased_mf' lacks item\.bias; trained: \['user\.bias', ",
    ),
    "verify-shape": (
        lambda: check(model=BIASED._replace(gradient=transposed)),
        r"^verify: the hand-derived gradient of item\.factors has shape \(3, 13\); expected the leaf's, \(13, 3\)",
    ),
}
