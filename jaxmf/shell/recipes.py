"""Models and solvers by name, with learning rates that suit ratings on a scale of a few stars."""

from typing import NamedTuple

import optax

from jaxmf import models
from jaxmf.models import Hyper
from jaxmf.solvers import Solver, als, minibatch, sgd

MODELS = {"mf": models.mf, "biased_mf": models.biased_mf}
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
