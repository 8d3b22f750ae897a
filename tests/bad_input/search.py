"""Searches: halving, Optuna, hypergradients."""

from functools import partial

from helpers import HYPER, KEY

import jaxmf
from bad_input.builders import ALS, BIASED, RATINGS, SGD


def searched(function, **changed):
    given = {"key": KEY, "model": BIASED, "solver": ALS, "train": RATINGS, "valid": RATINGS, "hyper": HYPER}
    return getattr(jaxmf.search, function)(**given | changed)


SPACE = {"l2": (0.1, 1.0, "log")}
halved, banded, asked = (partial(searched, name) for name in ("halving", "hyperband", "optuna"))
differentiated, descended = (partial(searched, name) for name in ("hypergradient", "descend"))

CASES = {
    "halving-factor": (partial(halved, grid={"l2": [0.1, 0.2]}, factor=1), r"^halving: factor must be .* at least 2"),
    "halving-epochs": (partial(halved, grid={"l2": [0.1]}, epochs=0), r"^halving: epochs must be a positive integer"),
    "halving-min": (
        partial(halved, grid={"l2": [0.1]}, epochs=5, min_epochs=6),
        r"^halving: min_epochs must be an integer from 1 to epochs, 5, not 6",
    ),
    "halving-valid": (partial(halved, grid={"l2": [0.1]}, valid=None), r"^halving: needs validation ratings"),
    "halving-grid": (partial(halved, grid={"l3": [0.1]}), r"grid names 'l3'; expected rank, seed"),
    "hyperband-space": (partial(banded, space={"l2": (1.0, 0.1)}), r"space\['l2'\] must be a range .* low < high"),
    "hyperband-log": (
        partial(banded, space={"l2": (0.0, 1.0, "log")}),
        r"log scale, so low must be positive, not 0\.0",
    ),
    "hyperband-scale": (partial(banded, space={"l2": (0.1, 1.0, "lin")}), r"space\['l2'\] must be a range"),
    "hyperband-empty": (partial(banded, space={"l2": []}), r"space\['l2'\] must be a range .* or a list of values"),
    "hyperband-no-space": (partial(banded, space=[0.1]), r"^hyperband: space must map names to ranges"),
    "hyperband-key": (partial(banded, space=SPACE, key=0), r"^key must be one key"),
    "optuna-trials": (partial(asked, space=SPACE, trials=0), r"^optuna: trials must be a positive integer, not 0"),
    "optuna-ask": (partial(asked, space=SPACE, ask=2.5), r"^optuna: ask must be a positive integer, not 2\.5"),
    "optuna-sampler": (partial(asked, space=SPACE, sampler="grid"), r"^optuna: sampler must be 'tpe', 'random' or one"),
    "optuna-out": (partial(asked, space=SPACE, out="here"), r"^optuna: takes no out: a study with a storage keeps"),
    "optuna-rank": (partial(asked, space={"rank": (0, 4)}), r"rank must be an integer from 1, not 0"),
    "optuna-valid": (partial(asked, space=SPACE, valid=None), r"^optuna: needs validation ratings"),
    "hypergradient-name": (
        partial(differentiated, names=("l3",)),
        r"^hypergradient: names must be a list of different names of l2",
    ),
    "hypergradient-string": (
        partial(differentiated, names="l2"),
        r"^hypergradient: names must be a list of different names of l2",
    ),
    "hypergradient-method": (
        partial(differentiated, method="exact"),
        r"^hypergradient: method must be 'implicit' or 'unrolled', not 'exact'",
    ),
    "hypergradient-tol": (partial(differentiated, tol=0), r"^hypergradient: tol must be a positive number, not 0"),
    "descend-zero": (
        partial(descended, names=("l2_bias",), solver=SGD, hyper=HYPER._replace(l2_bias=0.0)),
        r"^descend: l2_bias must be positive to start from, not 0\.0: its logarithm is tuned",
    ),
    "descend-evaluations": (partial(descended, max_evaluations=0), r"^descend: max_evaluations must be a positive"),
}
