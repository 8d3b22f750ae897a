"""Search: Optuna, halving and hypergradients, all of which run the programs of sweeps and fits."""

from jaxmf.search._halving import halving, hyperband
from jaxmf.search._hypergradient import Hypergradient, hypergradient
from jaxmf.search._optuna import Trials, optuna
from jaxmf.search._refit import Chosen, refit
from jaxmf.search.descent import Descent, descend

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
