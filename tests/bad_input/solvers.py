"""Constructors of solvers, and models that a solver does not take."""

import jax.numpy as jnp
import optax

from bad_input.builders import ALS, BIASED, OWN, fit
from jaxmf import Hyper, models, solvers


def with_scale(key, ratings, hyper):
    """The parameters of `mf(2)`, and one number that belongs to no row."""
    params = models.mf(2).init(key, ratings, hyper)
    return params._replace(trained=params.trained._replace(shared={"scale": jnp.ones((), ratings.value.dtype)}))


def free_bias(trained, weight, hyper):
    factors = {side: {"factors": getattr(trained, side)["factors"]} for side in ("user", "item")}
    return BIASED.penalty(trained._replace(**factors), weight, hyper)


SCALED = models.mf(2)._replace(init=with_scale, name="scaled")
FREE = BIASED._replace(penalty=free_bias)

CASES = {
    "sgd-batch-0": (lambda: solvers.sgd(0), "^sgd: batch_size must be a positive integer or None, not 0"),
    "sgd-batch-negative": (lambda: solvers.sgd(-1), "^sgd: batch_size must be a positive integer or None, not -1"),
    "sgd-batch-float": (
        lambda: (solvers.sgd(2), solvers.sgd(2.0)),
        "^sgd: batch_size must be .*integer or None, not 2.0",
    ),
    "sgd-batch-true": (
        lambda: (solvers.sgd(1), solvers.sgd(True)),
        "^sgd: batch_size must be .*integer or None, not True",
    ),
    "sgd-batch-string": (lambda: solvers.sgd("8"), "^sgd: batch_size must be a positive integer or None, not '8'"),
    "sgd-schedule": (
        lambda: solvers.sgd(schedule=0.9),
        "^sgd: schedule must be a function of the epochs done, or None, not 0.9",
    ),
    "sgd-clip-update": (lambda: solvers.sgd(clip_update=0.0), "^sgd: clip_update must be positive or None, not 0.0"),
    "sgd-clip-value": (lambda: solvers.sgd(clip_value=-10), "^sgd: clip_value must be positive or None, not -10"),
    "sgd-clip-nan": (
        lambda: solvers.sgd(clip_value=float("nan")),
        "^sgd: clip_value must be positive or None, not nan",
    ),
    "sgd-clip-string": (lambda: solvers.sgd(clip_value="1"), "^sgd: clip_value must be positive or None, not '1'"),
    "sgd-shared": (
        lambda: fit(model=SCALED),
        r"^sgd: the model 'scaled' trains `shared` leaves, which every rating touches, .*Use solvers\.minibatch",
    ),
    "minibatch-size-0": (lambda: solvers.minibatch(optax.sgd, 0), "^minibatch: batch_size must be .*integer, not 0"),
    "minibatch-size-float": (lambda: solvers.minibatch(optax.sgd, 2.0), "^minibatch: batch_size must be .*, not 2.0"),
    "minibatch-size-true": (lambda: solvers.minibatch(optax.sgd, True), "^minibatch: batch_size must be .*, not True"),
    "minibatch-size-string": (lambda: solvers.minibatch(optax.sgd, "8"), "^minibatch: batch_size must be .*, not '8'"),
    "minibatch-optimizer": (
        lambda: solvers.minibatch(optax.sgd(0.1)),
        r"^minibatch: optimizer must be a function such as optax\.adam or `lambda h: .*`, not GradientTransformation",
    ),
    "minibatch-name": (
        lambda: solvers.minibatch("adam"),
        "^minibatch: optimizer must be a function such as .*, not str",
    ),
    "minibatch-no-argument": (
        lambda: solvers.minibatch(lambda: optax.adam(0.1)),
        r"^minibatch: optimizer must be a function of one argument, such as optax\.adam .*: too many positional argume",
    ),
    "minibatch-returns": (
        lambda: fit(solver=solvers.minibatch(lambda hyper: hyper.learning_rate)),
        r"^minibatch: what optimizer returns must be a GradientTransformation, not float: pass a function of Hype",
    ),
    "minibatch-line-search": (
        lambda: fit(solver=solvers.minibatch(optax.lbfgs)),
        r"^minibatch\(lbfgs\): the optimizer cannot step by a batch's gradient and value alone, as one with a line se",
    ),
    "minibatch-other-number": (
        lambda: fit(solver=solvers.minibatch(optax.polyak_sgd)),
        r"^minibatch\(polyak_sgd\): the optimizer cannot step by .*: pass a function of Hyper that returns",
    ),
    "als-tol-0": (lambda: solvers.als(tol=0.0), "^als: tol must be positive or None, not 0.0"),
    "als-tol-negative": (lambda: solvers.als(tol=-1e-3), "^als: tol must be positive or None, not -0.001"),
    "als-tol-nan": (lambda: solvers.als(tol=float("nan")), "^als: tol must be positive or None, not nan"),
    "als-method": (lambda: solvers.als(method="qr"), "^als: method must be 'cholesky' or 'cg', not 'qr'"),
    "als-steps": (lambda: solvers.als(method="cg", steps=0), "^als: steps must be a positive integer, not 0"),
    "als-memory": (lambda: solvers.als(max_memory=0.5), "^als: max_memory must be a positive integer, not 0.5"),
    "als-tol-word": (lambda: solvers.als(tol="small"), "^als: tol must be positive or None, not 'small'"),
    "als-rule": (
        lambda: solvers.als(1e-3, "absolute"),
        "^als: rule must be 'relative' or 'difference', not 'absolute'",
    ),
    "als-l2-0": (
        lambda: fit(solver=ALS, hyper=Hyper(l2=0.0)),
        r"^als: l2 must be positive, not 0\.0: without a penalty .*Use a small positive number, or a gradient solver",
    ),
    "als-l2-underflow": (
        lambda: fit(solver=ALS, hyper=Hyper(l2=1e-320)),
        "^als: l2 must be positive in float64, not 1e",
    ),
    "als-bias-0": (lambda: fit(solver=ALS, hyper=Hyper(l2_bias=0.0)), "^als: l2_bias must be positive, not 0.0: "),
    "als-free-leaf": (
        lambda: fit(solver=ALS, model=FREE),
        r"^als: the penalty of the model 'biased_mf' leaves user\.bias free, .*Penalize it, or use a gradient solver",
    ),
    "als-no-design": (
        lambda: fit(solver=ALS, model=OWN._replace(design=None)),
        r"^als: the model 'mine' has no `design`, so its rows have no normal equations\. Give .*or use solvers\.sgd",
    ),
    "als-global-mean": (
        lambda: fit(solver=ALS, model=models.global_mean()),
        "^als: the model 'global_mean' has no `des",
    ),
}
