"""Ratings of about the same size share programs: they are padded to a ladder of sizes, which changes nothing else."""

import numpy as np
import pandas as pd
import pytest
from helpers import COMPILED, HYPER, MODELS, init, pick, random_ratings

from jaxmf import verify

BIASED = MODELS["biased"]
CHECKS = [verify.gradients, verify.hessian, verify.taylor, verify.complex_step, verify.differences, verify.half_steps]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_other_ratings_of_about_the_same_size_compile_nothing(check):
    ratings = random_ratings()
    params = init(BIASED, ratings, HYPER)
    check(BIASED, params, ratings, HYPER, 1)
    another = random_ratings(seed=1), pick(ratings, np.arange(89)), pick(ratings, np.arange(7))
    before = len(COMPILED)
    for others in another:
        check(BIASED, params, others, HYPER, 1)
    assert COMPILED[before:] == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_padding_changes_no_verdict_and_no_number_but_by_rounding(check, monkeypatch):
    """Nor does it draw a random number. Of `differences` we compare what is not rounding itself."""
    ratings = random_ratings(folds=True)

    def found():
        checked = check(BIASED, init(BIASED, ratings, HYPER), ratings, HYPER, 2)
        return checked.line if check is verify.differences else checked.to_frame()

    table = found()
    monkeypatch.setattr("jaxmf.verify.case.padded", lambda ratings: ratings)
    monkeypatch.setattr("jaxmf.verify._probes.padded", lambda ratings: ratings)
    pd.testing.assert_frame_equal(table, found(), rtol=1e-6, atol=1e-14)
