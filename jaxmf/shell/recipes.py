"""Models and solvers by name, and the numbers that suit them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import optax

from jaxmf import models
from jaxmf.models import Hyper, Model
from jaxmf.solvers import Solver, als, minibatch, sgd

MODELS: dict[str, Callable[[int], Model]] = {"mf": models.mf, "biased_mf": models.biased_mf}
PREFERENCES: dict[str, Callable[[int], Model]] = {
    "ials": models.ials,
    "bpr": models.bpr,
    "sampled_softmax": models.sampled_softmax,
    "logistic_mf": models.logistic_mf,
}
BATCH_SIZE = 2048
INIT_SCALE = 0.01


class Recipe(NamedTuple):
    """A solver and a learning rate that suits ratings on a scale of a few stars; None for a solver without one."""

    solver: Solver
    learning_rate: float | None = None


def momentum(hyper: Hyper) -> optax.GradientTransformation:
    """Return gradient descent with heavy-ball momentum `hyper.momentum`."""
    return optax.sgd(hyper.learning_rate, momentum=hyper.momentum)


# A minibatch step averages over the batch, so batch_size × lr moves a row with one rating as far as a step of `sgd`.
RECIPES = {
    "sgd": Recipe(sgd(), 0.005),
    "minibatch": Recipe(minibatch(optax.sgd, BATCH_SIZE), 0.005 * BATCH_SIZE),
    "momentum": Recipe(minibatch(momentum, BATCH_SIZE), 0.0005 * BATCH_SIZE),
    "adam": Recipe(minibatch(optax.adam, BATCH_SIZE), 0.005),
    "als": Recipe(als()),
}


def starting_hyper(recipe: Recipe, l2: float) -> Hyper:
    """Return a recipe's initial hyperparameters: λ per rating (ν = 1), small factors, the recipe's learning rate."""
    return Hyper(l2=l2, learning_rate=recipe.learning_rate or 1.0, init_scale=INIT_SCALE)


class Family(NamedTuple):
    """What suits a kind of model, where the user does not say.

    Attributes:
      solvers: names of the solvers that can fit it, the default one first.
      hyper: the default hyperparameters; the learning rate is the recipe's.
      grid: the values that a sweep tries, by name.
    """

    solvers: Sequence[str]
    hyper: Hyper
    grid: Mapping[str, Sequence[float]]


OF_RATINGS = Family(tuple(RECIPES), Hyper(l2=0.03, init_scale=INIT_SCALE), {"rank": (4, 8, 16), "l2": (0.03, 0.1, 0.3)})
# The loss of a cell that is not observed pulls against λ, so that the two are searched together.
OF_ALL_CELLS = Family(
    ("als", "adam", "momentum", "minibatch"),
    Hyper(l2=0.01, unobserved=0.1, init_scale=0.1),
    {"rank": (16,), "unobserved": (0.03, 0.1, 0.3, 1.0), "l2": (0.003, 0.01, 0.03)},
)
OF_DRAWN_ITEMS = Family(
    ("adam", "momentum", "minibatch"),
    Hyper(l2=0.003, init_scale=INIT_SCALE),
    {"rank": (16,), "l2": (0.001, 0.003, 0.01)},
)
