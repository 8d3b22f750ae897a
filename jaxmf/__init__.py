"""jaxmf: a JAX functional research framework for matrix factorization."""

from jaxmf import models, solvers
from jaxmf.data import Dataset, Ratings, datasets, splits
from jaxmf.models import Hyper, Model, Params, Rows
from jaxmf.training import Fit, fit, make_fit, prepare

__all__ = [
    "Dataset",
    "Fit",
    "Hyper",
    "Model",
    "Params",
    "Ratings",
    "Rows",
    "datasets",
    "fit",
    "make_fit",
    "models",
    "prepare",
    "solvers",
    "splits",
]
