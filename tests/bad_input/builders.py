"""What the cases of several rooms are made of. Nothing here needs a compiled program: all parameters are 0."""

import jax
import numpy as np
import pandas as pd
from helpers import HYPER, KEY, MODELS, SOLVERS, pick, random_ratings

import jaxmf
from jaxmf import Dataset, Fit, prepare
from jaxmf.training import start

BIASED, SGD, ADAM, ALS = MODELS["biased"], SOLVERS["sgd"], SOLVERS["adam"], SOLVERS["als"]
RATINGS, OTHER = random_ratings(), random_ratings(num_users=20, num_items=16)
EMPTY = pick(RATINGS, slice(0))

FRAME = pd.DataFrame(
    {"user_id": [30, 10, 30, 20], "item_id": list("baac"), "rating": [4.0, 0.0, 2.5, 5.0]}, ["r0", "r1", "r2", "r3"]
)
SMALL = Dataset.from_frame(FRAME, name="small")
PAIR = np.flatnonzero(np.arange(17 * 13) % 10 != 3)
NINE = pd.DataFrame({"user_id": PAIR // 13, "item_id": 100 + PAIR % 13, "rating": PAIR % 9 / 2, "timestamp": PAIR})
DATA = Dataset.from_frame(NINE, name="nine of ten")


def zeros(make):
    """What `make` would return, of zeros."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make))


STATE = zeros(lambda: start(KEY, BIASED, ADAM, prepare(ADAM, RATINGS), HYPER))
PARAMS = STATE.params
NARROWER = PARAMS.trained.item | {"factors": np.zeros((13, 2))}
UNEVEN = PARAMS._replace(trained=PARAMS.trained._replace(item=NARROWER))
FIT = Fit(BIASED, PARAMS, HYPER, STATE, {"epoch": np.arange(0), "seconds": np.zeros(0)}, "completed")
OWN = BIASED._replace(init=lambda *x: BIASED.init(*x), name="mine")

CLIP = r"clip must be \(low, high\) with low < high, such as \(1, 5\), or None, not "
MODEL = r"^model must be a Model, not {}: call the constructor, as in models\.biased_mf\(16\)"


def fit(key=KEY, **changes):
    return jaxmf.fit(key, **({"model": BIASED, "solver": SGD, "train": RATINGS, "epochs": 2} | changes))
