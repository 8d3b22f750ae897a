"""Sweeps."""

from functools import partial

import numpy as np
from helpers import HYPER, KEY

import jaxmf
from bad_input.builders import ALS, BIASED, RATINGS
from jaxmf import solvers

FOLDS = 1.0 * np.array([np.arange(90) % 2 == fold for fold in range(2)])


def swept(**changed):
    given = {"key": KEY, "model": BIASED, "solver": ALS, "train": RATINGS, "valid": RATINGS, "grid": {"l2": [0.1]}}
    return jaxmf.sweep(**given | {"hyper": HYPER, "epochs": 6, "patience": 2} | changed)


CASES = {
    "sweep-unknown-name": (
        partial(swept, **{"grid": {"lambda": [1.0]}}),
        r"grid names 'lambda'; expected rank, seed, fold, l2, .* or extra\.NAME",
    ),
    "sweep-empty-list": (
        partial(swept, **{"grid": {"l2": []}}),
        r"grid\['l2'\] is empty; give it values, or leave the name out",
    ),
    "sweep-not-a-list": (
        partial(swept, **{"grid": {"l2": 0.1}}),
        r"grid\['l2'\] must be a list of values, not 0\.1; for one value pass a list of one",
    ),
    "sweep-no-grid": (
        partial(swept, **{"grid": 3}),
        r"grid must map names to lists of values, or be a list of points, not int",
    ),
    "sweep-no-points": (partial(swept, **{"grid": []}), r"grid is an empty list; give it at least one point"),
    "sweep-uneven": (
        partial(swept, **{"grid": [{"l2": 1.0}, {"rank": 1}]}),
        r"point 1 of the grid names \['rank'\], but point 0 names \['l2'\]",
    ),
    "sweep-rank-0": (
        partial(swept, **{"grid": {"rank": [2, 0]}}),
        r"rank must be an integer from 1, not 0, in the point \{'rank': 0\}",
    ),
    "sweep-rank-float": (partial(swept, **{"grid": {"rank": [2.5]}}), r"rank must be an integer from 1, not 2\.5"),
    "sweep-negative": (
        partial(swept, **{"grid": {"l2": [1.0, -1.0]}}),
        r"hyper: l2 must be finite and at least 0, not -1\.0, in the point",
    ),
    "sweep-not-a-number": (
        partial(swept, **{"grid": {"l2": ["a"]}}),
        r"l2 must be one finite number, not 'a', in the point \{'l2': 'a'\}",
    ),
    "sweep-nan": (partial(swept, **{"grid": {"extra.x": [float("nan")]}}), r"x must be one finite number, not nan"),
    "sweep-seed": (partial(swept, **{"grid": {"seed": [-1]}}), r"seed must be an integer from 0 to 4294967295, not -1"),
    "sweep-solver": (
        partial(swept, **{"grid": {"l2": [0.1, 0.0]}}),
        r"als: l2 must be positive, not 0\.0.* In the point \{'l2': 0\.0\}",
    ),
    "sweep-fold-without": (
        partial(swept, **{"grid": {"fold": [0]}}),
        r"grid names 'fold', but there are no folds: pass folds=",
    ),
    "sweep-fold-number": (
        partial(swept, **{"grid": {"fold": [2]}, "folds": FOLDS, "valid": None}),
        r"fold must be an integer from 0 to 1, not 2",
    ),
    "sweep-fold-valid": (partial(swept, **{"folds": FOLDS}), r"folds and valid exclude each other"),
    "sweep-folds-shape": (
        partial(swept, **{"folds": FOLDS[:, :3], "valid": None}),
        r"shape \(k, 90\).*not float64\[2, 3\]; jaxmf\.splits\.k_fold",
    ),
    "sweep-folds-range": (
        partial(swept, **{"folds": 2 * FOLDS, "valid": None}),
        r"fold 0 has weights that are not between 0 and 1",
    ),
    "sweep-folds-empty": (
        partial(swept, **{"folds": np.ones((1, 90)), "valid": None}),
        r"fold 0 leaves nothing to train on, or holds nothing out",
    ),
    "sweep-patience": (partial(swept, **{"valid": None}), r"patience needs validation ratings: pass valid= or folds="),
    "sweep-best": (
        partial(swept, **{"valid": None, "patience": None, "track": False}),
        r"keep='best' needs validation ratings, or track=True",
    ),
    "sweep-keep": (partial(swept, **{"keep": "some"}), r"keep must be 'best', 'all' or 'none', not 'some'"),
    "sweep-batch": (partial(swept, **{"batch": 0}), r"batch must be a positive integer or None, not 0"),
    "sweep-max-memory": (
        partial(swept, **{"max_memory": 1.5}),
        r"max_memory must be a positive integer of bytes or None, not 1\.5",
    ),
    "sweep-epochs": (partial(swept, **{"epochs": 0}), r"epochs must be a positive integer, not 0"),
    "sweep-fixed-width": (
        partial(swept, model=BIASED._replace(with_rank=None), grid={"rank": [2, 4]}),
        r"hyper: rank must be at most the model's width 3, not 4: widen the model.* In the point \{'rank': 4\}",
    ),
    "sweep-hyper": (partial(swept, hyper={"l2": 0.1}), "^hyper must be a Hyper, not dict"),
    "sweep-key": (partial(swept, key=3), "^key must be one key"),
    "sweep-solver-class": (partial(swept, solver=solvers.als), "solver"),
}
