"""Fits: ratings, key, model, solver, numbers, what `prepare` has made, and what is resumed."""

from dataclasses import replace
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import HYPER, KEY, pick, random_ratings

import jaxmf
from bad_input.builders import (
    ADAM,
    ALS,
    BIASED,
    DATA,
    EMPTY,
    FIT,
    FRAME,
    MODEL,
    PARAMS,
    RATINGS,
    SGD,
    STATE,
    UNEVEN,
    fit,
    zeros,
)
from jaxmf import Hyper, Ratings, Rows, load, make_fit, models, prepare, solvers
from jaxmf.data.ratings import cast
from jaxmf.training import Saved, compile_fit, start
from jaxmf.training._fingerprints import fingerprints

HALVES = cast(RATINGS, "bfloat16"), cast(RATINGS, "float16")
SINGLE = random_ratings(dtype=jnp.float32)
BACKWARDS = pick(RATINGS, slice(None, None, -1))
KNOWN = FIT._replace(fingerprints=fingerprints(RATINGS, RATINGS))
BEST = KNOWN._replace(state=zeros(lambda: start(KEY, BIASED, ADAM, prepare(ADAM, RATINGS), HYPER, 2)))
KEYS, NUMBER = jax.random.split(KEY, 3), jnp.array(1.0)


def holding(**arrays):
    """A fit to the ratings with other arrays."""
    return fit(train=replace(RATINGS, **arrays))


def but(name, position, value):
    """A fit to the ratings with one other number."""
    array = np.array(getattr(RATINGS, name))
    array[position] = value
    return holding(**{name: array})


def resumed(**changes):
    return fit(**({"solver": ADAM, "resume": FIT} | changes))


CASES = {
    # Ratings.
    "train-frame": (
        lambda: fit(train=FRAME),
        "^train must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame makes one of a table",
    ),
    "train-array": (
        lambda: fit(train=np.ones((3, 3))),
        "^train must be .* not ndarray: .*Dataset.from_arrays of arrays",
    ),
    "train-parts": (lambda: fit(train=(RATINGS, RATINGS)), "^train must be a Dataset or its Ratings, not tuple"),
    "train-empty": (lambda: fit(train=EMPTY), "^train has no ratings; expected at least one"),
    "train-weightless": (lambda: holding(weight=np.zeros(90)), "^train has no ratings with weight; expected at"),
    "train-user-range": (
        lambda: but("user", 4, 17),
        r"^train has user indices outside 0 \.\. 16 in 1 place\(s\), at position 4; num_users must be greater than the "
        "largest index; Dataset.from_arrays numbers ids of any kind",
    ),
    "train-item-range": (
        lambda: but("item", 2, -1),
        r"^train has item indices outside 0 \.\. 12 in 1 place\(s\), at position 2; num_items",
    ),
    "train-counts": (lambda: holding(num_users=17.0), "^train has num_users 17.0; expected a positive integer"),
    "train-floats": (
        lambda: holding(user=np.zeros(90)),
        r"^train holds user float64\[90\], item int32\[90\], .*; expected arrays of one length, integers in user and "
        r"item, floats in value and weight\. Dataset\.from_arrays\(\.\.\.\)\.ratings has them",
    ),
    "train-integers": (lambda: holding(value=np.zeros(90, int)), r"value int64\[90\].*floats in value and weight"),
    "train-lengths": (
        lambda: holding(user=np.zeros(89, np.int32)),
        r"user int32\[89\], item int32\[90\].*arrays of one length",
    ),
    "train-folds": (lambda: holding(weight=np.ones((3, 90))), r"weight float64\[3, 90\]; expected arrays"),
    "train-lists": (lambda: fit(train=Ratings([0], [0], [1.0], [1.0], 1, 1)), r"user list\[1\], .*; expected arrays"),
    "train-nan": (
        lambda: but("value", 3, np.nan),
        r"^train has a NaN or infinite value in 1 place\(s\), at position 3; leave these ratings out: weight 0 is",
    ),
    "train-weight": (
        lambda: but("weight", 5, -1),
        r"^train has a negative or infinite weight in 1 place\(s\), at position 5; use 0 to ignore a rating",
    ),
    "valid-frame": (lambda: fit(valid=FRAME), "^valid must be a Dataset or its Ratings, not DataFrame"),
    "valid-hyper": (
        lambda: jaxmf.fit(KEY, BIASED, SGD, RATINGS, Hyper(l2=0.1)),
        "^valid must be a Dataset or its Ratings, not Hyper",
    ),
    "valid-empty": (lambda: fit(valid=EMPTY), "^valid has no ratings; expected at least one"),
    "valid-counts": (
        lambda: fit(valid=replace(RATINGS, num_items=99)),
        r"train has 17 users and 13 items, valid has 17 users and 99 items\. Split one Dataset with jaxmf\.splits, or "
        r"bring the other to its ids with train\.align\(valid\)",
    ),
    "valid-ids": (
        lambda: fit(train=DATA, valid=replace(DATA, user_ids=DATA.user_ids + 1)),
        r"train and valid have equally many user_ids, but different ones\. Split one Dataset .*train\.align\(valid\)",
    ),
    # Key, model, solver.
    "key-int": (lambda: fit(0), r"^key must be one key, such as jax\.random\.key\(0\), not 0$"),
    "key-none": (lambda: fit(None), r"^key must be one key, such as jax\.random\.key\(0\), not None$"),
    "key-many": (lambda: fit(KEYS), r"^key must be one key, .*not Array\(\(3,\), dtype=key"),
    "key-floats": (lambda: fit(np.ones(2)), r"^key must be one key, .*not array\(\[1\., 1\.\]\)"),
    "key-forgotten": (
        lambda: jaxmf.fit(BIASED, SGD, RATINGS, RATINGS),
        r"^key must be one key, .*not <Model biased_mf",
    ),
    "model-constructor": (lambda: fit(model=models.biased_mf), MODEL.format("function")),
    "model-name": (lambda: fit(model="biased_mf"), MODEL.format("str")),
    "model-solver": (lambda: fit(model=SGD, solver=BIASED), MODEL.format("Solver")),
    "model-make-fit": (lambda: make_fit(SGD, BIASED, 2), MODEL.format("Solver")),
    "solver-constructor": (
        lambda: fit(solver=solvers.als),
        r"^solver must be a Solver, not function: call the constructor, as in solvers\.als\(\)",
    ),
    "solver-optax": (
        lambda: fit(solver=optax.adam(0.1)),
        r"^solver must be a Solver, not GradientTransformation.*: .*as in .* solvers\.minibatch\(optax\.adam\)",
    ),
    "solver-prepare": (lambda: prepare(RATINGS, SGD), "^solver must be a Solver, not Ratings: call the constructor"),
    # Numbers.
    "hyper-dict": (
        lambda: fit(hyper={"l2": 0.1}),
        r"^hyper must be a Hyper, not dict: expected the numbers by name, as in Hyper\(l2=0\.1\)",
    ),
    "hyper-number": (lambda: fit(hyper=0.1), "^hyper must be a Hyper, not float: expected the numbers by name"),
    "l2-negative": (lambda: fit(hyper=Hyper(l2=-1.0)), "^hyper: l2 must be finite and at least 0, not -1.0"),
    "l2-nan": (lambda: fit(hyper=Hyper(l2=float("nan"))), "^hyper: l2 must be finite and at least 0, not nan"),
    "l2-none": (lambda: fit(hyper=Hyper(l2=None)), "^hyper: l2 must be one number, not None"),
    "l2-string": (lambda: fit(hyper=Hyper(l2="0.1")), "^hyper: l2 must be one number, not '0.1'"),
    "l2-many": (
        lambda: fit(hyper=Hyper(l2=np.array([1.0, 2.0]))),
        r"^hyper: l2 must be one number, not array\(\[1\., 2\.\]\); jaxmf\.sweep takes many",
    ),
    "l2-bias": (
        lambda: fit(hyper=Hyper(l2_bias=float("nan"))),
        "^hyper: l2_bias must be finite .*or None for l2, not nan",
    ),
    "exponent": (
        lambda: fit(hyper=Hyper(reg_exponent=1.5)),
        r"^hyper: reg_exponent must be finite and between 0 \(constant per row\) and 1 \(per observation\), not 1\.5",
    ),
    "rate": (lambda: fit(hyper=Hyper(learning_rate=0.0)), "^hyper: learning_rate must be finite and positive, not 0.0"),
    "rate-bias": (
        lambda: fit(hyper=Hyper(learning_rate_bias=float("inf"))),
        "^hyper: learning_rate_bias must be finite and positive, or None for learning_rate, not inf",
    ),
    "momentum": (
        lambda: fit(hyper=Hyper(momentum=1.0)),
        "^hyper: momentum must be finite and at least 0 and below 1, not 1.0",
    ),
    "scale": (lambda: fit(hyper=Hyper(init_scale=-0.1)), "^hyper: init_scale must be finite and at least 0, not -0.1"),
    "extra-text": (
        lambda: fit(hyper=Hyper(extra={"kind": "huber"})),
        r"^hyper: extra\['kind'\] must be a number or an array of numbers, not 'huber'; give static choices to the mod",
    ),
    "active-rank-0": (
        lambda: fit(hyper=Hyper(rank=0)),
        "^hyper: rank must be a positive integer, or None for the model's width, not 0",
    ),
    "active-rank-half": (lambda: fit(hyper=Hyper(rank=2.5)), "^hyper: rank must be a positive integer, .*, not 2.5"),
    "active-rank-word": (
        lambda: fit(hyper=Hyper(rank="all")),
        "^hyper: rank must be a positive integer, .*, not 'all'",
    ),
    "active-rank-4": (
        lambda: fit(hyper=Hyper(rank=4)),
        "^hyper: rank must be at most the model's width 3, not 4: widen the model",
    ),
    "active-rank-of-a-mean": (
        lambda: fit(model=models.global_mean(), hyper=Hyper(rank=2)),
        "^hyper: rank is given, but the model trains no leaf named 'factors'; leave it None",
    ),
    "epochs-0": (lambda: fit(epochs=0), "^epochs must be a positive integer, not 0"),
    "epochs-float": (lambda: fit(epochs=1.5), "^epochs must be a positive integer, not 1.5"),
    "epochs-true": (lambda: fit(epochs=True), "^epochs must be a positive integer, not True"),
    "epochs-make-fit": (lambda: make_fit(BIASED, SGD, 0), "^epochs must be a positive integer, not 0"),
    "patience-0": (lambda: fit(patience=0, valid=RATINGS), "^patience must be a positive integer or None, not 0"),
    "patience-float": (
        lambda: fit(patience=2.0, valid=RATINGS),
        "^patience must be a positive integer or None, not 2.0",
    ),
    "patience-without-valid": (
        lambda: fit(patience=2),
        r"^patience needs validation ratings: pass valid= \(jaxmf\.splits makes them\)",
    ),
    "min-delta-negative": (lambda: fit(min_delta=-1.0), "^min_delta must be a finite number of at least 0, not -1.0"),
    "min-delta-none": (lambda: fit(min_delta=None), "^min_delta must be a finite number of at least 0, not None"),
    "min-delta-array": (
        lambda: fit(min_delta=NUMBER),
        r"^min_delta must be a finite number of at least 0, not Array",
    ),
    "min-delta-infinite": (lambda: fit(min_delta=float("inf")), "^min_delta must be a finite number .*, not inf"),
    "l2-of-one": (
        lambda: fit(hyper=Hyper(l2=np.array([0.1]))),
        r"^hyper: l2 must be one number, not array\(\[0\.1\]\); jaxmf\.sweep takes many",
    ),
    "l2-decimal": (
        lambda: fit(hyper=Hyper(l2=Decimal("0.1"))),
        r"^hyper: l2 must be one number, not Decimal",
    ),
    "run-rank-4": (
        lambda: jax.eval_shape(lambda: make_fit(BIASED, ALS, 2)(KEY, prepare(ALS, RATINGS), HYPER._replace(rank=4))),
        "^hyper: rank must be at most the model's width 3, not 4: widen the model",
    ),
    "run-rank-0": (
        lambda: jax.eval_shape(lambda: make_fit(BIASED, ALS, 2)(KEY, prepare(ALS, RATINGS), HYPER._replace(rank=0))),
        "^hyper: rank must be a positive integer, or None for the model's width, not 0",
    ),
    "run-l2-many": (
        lambda: jax.eval_shape(
            lambda: make_fit(BIASED, ALS, 2)(KEY, prepare(ALS, RATINGS), HYPER._replace(l2=np.ones(2)))
        ),
        r"^hyper: l2 must be one number, not an array of shape \(2,\), with which the penalty of the model 'biased_mf'",
    ),
    "train-bfloat16": (
        lambda: fit(train=HALVES[0]),
        r"^train holds numbers in bfloat16; expected float32 or float64, .*jaxmf\.data\.ratings\.cast\(ratings, 'floa",
    ),
    "valid-float16": (lambda: fit(valid=HALVES[1]), "^valid holds numbers in float16; expected float32 or"),
    "monitor-name": (
        lambda: fit(monitor="accuracy"),
        r"^monitor must be 'loss', 'rmse', 'mae', .*, or a function \(params, ratings\), not 'accuracy'",
    ),
    "monitor-without-valid": (
        lambda: fit(monitor=lambda params, ratings: 0.0),
        "^monitor is a function of validation ratings: pass valid=",
    ),
    "monitor-arguments": (
        lambda: fit(monitor=lambda params: 0.0, valid=RATINGS),
        r"^monitor must be a function \(params, ratings\) that JAX can trace: .*takes 1 positional argument",
    ),
    "monitor-vector": (
        lambda: fit(monitor=lambda params, ratings: ratings.value, valid=RATINGS),
        r"^monitor must return one number, not .*shape=\(1024,\).*: take a mean or a sum",
    ),
    # What `prepare` has made.
    "prepared-twice-valid": (
        lambda: fit(train=prepare(SGD, RATINGS), valid=RATINGS),
        "^fit: valid is already part of what prepare made; pass it to prepare instead",
    ),
    "prepared-without-valid": (
        lambda: fit(train=prepare(SGD, RATINGS), patience=2),
        "^patience needs validation ratings: pass valid= to prepare",
    ),
    "prepared-make-fit-without-valid": (
        lambda: jax.eval_shape(make_fit(BIASED, SGD, 2, patience=1), KEY, prepare(SGD, RATINGS), HYPER),
        "^patience needs validation ratings: pass valid= to prepare",
    ),
    "prepared-for-sgd": (
        lambda: fit(solver=ALS, train=prepare(SGD, RATINGS)),
        r"prepared for the solver 'sgd', whose layout differs from that of 'als': call prepare\(solver, train, valid\) "
        r"with the same solver and batch_size, or pass the ratings",
    ),
    "prepared-for-als": (lambda: fit(train=prepare(ALS, RATINGS)), "prepared for the solver 'als', .* that of 'sgd': "),
    "prepared-for-adam": (
        lambda: fit(train=prepare(ADAM, RATINGS)),
        r"prepared for the solver 'minibatch\(adam\)', whose layout differs from that of 'sgd': call prepare",
    ),
    "prepared-als-for-adam": (lambda: fit(solver=ADAM, train=prepare(ALS, RATINGS)), "solver 'als', .*that of 'minib"),
    "prepared-batch-size": (
        lambda: fit(train=prepare(solvers.sgd(16), RATINGS)),
        "prepared for the solver 'sgd', whose layout differs from that of 'sgd': .* the same solver and batch_size",
    ),
    "prepared-compile": (
        lambda: compile_fit(BIASED, ALS, prepare(SGD, RATINGS), HYPER),
        "prepared for the solver 'sgd', whose layout differs from that of 'als'",
    ),
    "prepared-run": (
        lambda: jax.eval_shape(make_fit(BIASED, ALS, 2), KEY, prepare(SGD, RATINGS), HYPER),
        "prepared for the solver 'sgd', whose layout differs from that of 'als'",
    ),
    "not-prepared": (
        lambda: compile_fit(BIASED, SGD, RATINGS, HYPER),
        r"^batch must be a Prepared, not Ratings: make one as prepare\(solver, train, valid\)",
    ),
    "not-prepared-run": (lambda: make_fit(BIASED, SGD, 2)(KEY, DATA, HYPER), "^batch must be a Prepared, not Dataset"),
    # Resuming.
    "resume-params": (
        lambda: resumed(resume=PARAMS),
        r"^resume must be a Fit, not Params: pass what fit returned; load returns \(fit, data\)",
    ),
    "resume-loaded": (lambda: resumed(resume=load("fit.npz")), "^resume must be a Fit, not tuple: "),
    "resume-rank": (
        lambda: resumed(model=models.biased_mf(2)),
        r"^resume: the earlier fit has parameters .*17, 3.*, but this model, solver and data need .*17, 2.*\. Resume "
        r"with the model, solver and data of the earlier fit, or start a new fit without resume=",
    ),
    "resume-terms": (lambda: resumed(model=models.mf(3)), "^resume: the earlier fit has parameters .*or start a new"),
    "resume-users": (lambda: resumed(train=replace(RATINGS, num_users=20)), "^resume: the earlier fit has parameters"),
    "resume-dtype": (
        lambda: resumed(train=SINGLE),
        "^resume: the earlier fit has parameters .*float64.* need .*float32",
    ),
    "resume-solver": (
        lambda: resumed(solver=SGD),
        "^resume: the earlier fit has solver state .*Resume with the model, sol",
    ),
    "resume-saved-solver": (
        lambda: resumed(solver=ALS, resume=load("fit.npz")[0]),
        "^resume: the earlier fit has solver state .*this model, solver and data need",
    ),
    "resume-saved-dtype": (
        lambda: resumed(
            solver=ALS, resume=FIT._replace(state=STATE._replace(solver=Saved({"": np.zeros((), np.float32)})))
        ),
        r"^resume: the earlier fit has solver state float32\[\], but this model, solver and data need float64\[\]",
    ),
    "resume-values": (
        lambda: resumed(train=replace(RATINGS, value=np.asarray(RATINGS.value) + 1), resume=KNOWN),
        r"^resume: the earlier fit had other training ratings: their pairs, values, weights or order differ "
        r"\(fingerprint [0-9a-f]{16} there, [0-9a-f]{16} here\)\. Resume with the ratings of the earlier fit, or start",
    ),
    "resume-weights": (
        lambda: resumed(train=replace(RATINGS, weight=2 * np.asarray(RATINGS.weight)), resume=KNOWN),
        "^resume: the earlier fit had other training ratings",
    ),
    "resume-order": (
        lambda: resumed(train=BACKWARDS, resume=KNOWN),
        "^resume: the earlier fit had other training ratings",
    ),
    "resume-prepared": (
        lambda: resumed(train=prepare(ADAM, BACKWARDS), resume=KNOWN),
        "^resume: the earlier fit had other training ratings",
    ),
    "resume-other-valid": (
        lambda: resumed(train=RATINGS, valid=BACKWARDS, patience=2, resume=BEST),
        "^resume: the earlier fit had other validation ratings",
    ),
    "resume-edited": (
        lambda: resumed(resume=FIT._replace(params=jax.tree.map(lambda leaf: leaf + 1, PARAMS))),
        r"^resume: this fit was edited \(params\), but resuming continues from its state, .*params=fit\.params instead",
    ),
    "resume-narrower": (
        lambda: resumed(resume=FIT._replace(params=UNEVEN)),
        r"^resume: this fit was edited \(params\)",
    ),
    "resume-status": (
        lambda: resumed(resume=FIT._replace(status="stopped_early")),
        r"^resume: this fit was edited \(status\)",
    ),
    "resume-active-rank": (
        lambda: resumed(hyper=HYPER._replace(rank=2)),
        "^resume: the earlier fit has the active rank 3, but this one has 2, .*: pass the same rank, or start a",
    ),
    # Starting from given parameters.
    "params-and-resume": (
        lambda: resumed(params=PARAMS),
        "^fit: params start a new fit, and resume continues an earlier one: pass one of the two",
    ),
    "params-fit": (
        lambda: fit(params=FIT),
        r"^params must be a Params, not Fit: take the fit\.params of a fit, or what",
    ),
    "params-rank": (
        lambda: fit(params=UNEVEN),
        r"^params: trained\.item\.factors is float64\[13, 2\], but for these ratings the model makes float64\[13, 3\]",
    ),
    "params-users": (
        lambda: fit(train=replace(RATINGS, num_users=20), params=PARAMS),
        r"^params: trained\.user\.bias is float64\[17\], but for these ratings the model makes float64\[20\]\. .*align",
    ),
    "params-dtype": (
        lambda: fit(train=SINGLE, params=PARAMS),
        r"^params: fixed\.shared\.mean is float64\[\], but for these ratings the model makes float32\[\]\. .*dtype",
    ),
    "params-without-mean": (
        lambda: fit(params=PARAMS._replace(fixed=Rows())),
        r"^params: fixed\.shared\.mean is missing, but for these ratings the model makes float64\[\]",
    ),
    "params-of-another-model": (
        lambda: fit(model=models.mf(3), params=PARAMS),
        r"^params: trained\.item\.bias is float64\[13\], but for these ratings the model makes no such leaf",
    ),
    "params-number": (
        lambda: fit(params=PARAMS._replace(fixed=Rows(shared={"mean": 3.5}))),
        r"^params: fixed\.shared\.mean is a float, but for these ratings",
    ),
    "params-nan": (
        lambda: fit(params=PARAMS._replace(fixed=Rows(shared={"mean": np.full((), np.nan)}))),
        r"^fit: fixed\.shared\.mean of params has NaN or infinite numbers",
    ),
    "resume-patience": (
        lambda: resumed(valid=RATINGS, patience=2),
        "^resume: patience must be None in both calls or in neither: pass it as in the earlier fit",
    ),
}
