"""What `fit` refuses, with the name of the number or part, before anything compiles."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, pick, random_ratings

from jaxmf import Hyper, fit, make_fit, models, prepare, solvers

BIASED, SGD, RATINGS = MODELS["biased"], SOLVERS["sgd"], random_ratings()


@pytest.fixture(scope="module")
def fitted():
    return fit(KEY, BIASED, SOLVERS["adam"], RATINGS, hyper=HYPER, epochs=1)


CASES = {
    "no-epochs": ({"epochs": 0}, "epochs must be a positive integer, not 0"),
    "half-an-epoch": ({"epochs": 1.5}, "epochs must be a positive integer"),
    "true-epochs": ({"epochs": True}, "epochs must be a positive integer"),
    "no-patience": ({"patience": 0, "valid": RATINGS}, "patience must be a positive integer or None, not 0"),
    "patience-without-valid": ({"patience": 2}, "patience needs validation ratings: pass valid="),
    "min-delta": ({"min_delta": -1.0}, "min_delta must be at least 0"),
    "monitor": ({"monitor": "accuracy"}, "monitor must be 'loss', 'rmse', 'mae' or a function"),
    "other-shape": ({"valid": replace(RATINGS, num_items=99)}, "13 items, valid 17 and 99"),
    "empty-train": ({"train": pick(RATINGS, slice(0))}, "train has no ratings"),
    "empty-valid": ({"valid": pick(RATINGS, slice(0))}, "valid has no ratings"),
    "a-frame": ({"train": np.ones((3, 3))}, "train must be a Dataset or its Ratings, not ndarray"),
    "valid-twice": ({"train": prepare(SGD, RATINGS), "valid": RATINGS}, "pass it to prepare instead"),
    "prepared-without-valid": ({"train": prepare(SGD, RATINGS), "patience": 2}, "pass valid= to prepare"),
    "negative-l2": ({"hyper": Hyper(l2=-1.0)}, "hyper: l2 must be finite and at least 0, not -1.0"),
    "nan-l2": ({"hyper": Hyper(l2=float("nan"))}, "hyper: l2 must be finite"),
    "nan-bias": ({"hyper": Hyper(l2_bias=float("nan"))}, "hyper: l2_bias must be finite"),
    "exponent": ({"hyper": Hyper(reg_exponent=1.5)}, "hyper: reg_exponent must be finite and between 0"),
    "rate": ({"hyper": Hyper(learning_rate=0.0)}, "hyper: learning_rate must be finite and positive"),
    "rate-bias": ({"hyper": Hyper(learning_rate_bias=float("inf"))}, "hyper: learning_rate_bias must be finite"),
    "momentum": ({"hyper": Hyper(momentum=1.0)}, "hyper: momentum must be finite and at least 0 and below 1"),
    "scale": ({"hyper": Hyper(init_scale=-0.1)}, "hyper: init_scale must be finite"),
    "many-l2": ({"hyper": Hyper(l2=jnp.array([1.0, 2.0]))}, "hyper: l2 must be one number.*jaxmf.sweep takes many"),
    "no-l2": ({"hyper": Hyper(l2=None)}, "hyper: l2 must be one number"),
    "rank-0": ({"hyper": Hyper(rank=0)}, "hyper: rank must be an integer from 1 to the model's width 3"),
    "rank-4": ({"hyper": Hyper(rank=4)}, "hyper: rank must be an integer from 1 to the model's width 3"),
    "rank-half": ({"hyper": Hyper(rank=2.5)}, "hyper: rank must be an integer"),
    "rank-of-a-mean": ({"model": models.global_mean(), "hyper": Hyper(rank=2)}, "trains no leaf named 'factors'"),
    "als-l2-0": ({"solver": solvers.als(), "hyper": Hyper(l2=0.0)}, "als: l2 must be positive, not 0.0"),
    "als-bias-0": ({"solver": solvers.als(), "hyper": Hyper(l2_bias=0.0)}, "als: l2_bias must be positive, not 0.0"),
}


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES)
@pytest.mark.usefixtures("no_compile")
def test_refused(change, message):
    arguments = {"model": BIASED, "solver": SGD, "train": RATINGS, "epochs": 2} | change
    with pytest.raises(ValueError, match=message):
        fit(KEY, **arguments)


RESUMES = {
    "other-rank": ({"model": models.biased_mf(2)}, "resume: the earlier fit has parameters .*17, 3.*need .*17, 2"),
    "other-terms": ({"model": models.mf(3)}, "resume: the earlier fit has parameters"),
    "other-users": ({"train": replace(RATINGS, num_users=20)}, "resume: the earlier fit has parameters"),
    "other-dtype": ({"train": random_ratings(dtype=jnp.float32)}, "resume: the earlier fit has parameters"),
    "other-solver": ({"solver": SGD}, "resume: the earlier fit has solver state"),
    "patience": ({"valid": RATINGS, "patience": 2}, "resume: patience must be None in both calls or in neither"),
}


@pytest.mark.parametrize(("change", "message"), RESUMES.values(), ids=RESUMES)
def test_resume_refused(fitted, no_compile, change, message):
    arguments = {"model": BIASED, "solver": SOLVERS["adam"], "train": RATINGS, "epochs": 2} | change
    with pytest.raises(ValueError, match=message):
        fit(KEY, **arguments, resume=fitted)


def test_make_fit_refuses_too():
    with pytest.raises(ValueError, match="epochs must be a positive integer"):
        make_fit(BIASED, SGD, 0)
    with pytest.raises(ValueError, match="patience needs validation ratings"):
        jax.eval_shape(make_fit(BIASED, SGD, 2, patience=1), KEY, prepare(SGD, RATINGS), HYPER)
