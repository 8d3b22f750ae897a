"""Search: Optuna, halving and hypergradients, all of which drive the sweep's own programs."""

from jaxmf.search.halving import halving, hyperband
from jaxmf.search.hypergradient import Descent, Hypergradient, descend, hypergradient
from jaxmf.search.optuna import Trials, optuna
from jaxmf.search.refit import Chosen, refit

__all__ = [
    "Chosen",
    "Descent",
    "Hypergradient",
    "Trials",
    "descend",
    "halving",
    "hyperband",
    "hypergradient",
    "optuna",
    "refit",
]
