"""jaxmf: a JAX functional research framework for matrix factorization."""

from jaxmf import evaluate, models, solvers, verify
from jaxmf.data import Dataset, Ratings, content, datasets, splits
from jaxmf.evaluate import predict
from jaxmf.models import Hyper, Model, Params, Rows
from jaxmf.persist import load, save
from jaxmf.training import Fit, Sweep, fit, make_fit, prepare, sweep

__all__ = [
    "Dataset",
    "Fit",
    "Hyper",
    "Model",
    "Params",
    "Ratings",
    "Rows",
    "Sweep",
    "content",
    "datasets",
    "evaluate",
    "fit",
    "load",
    "make_fit",
    "models",
    "predict",
    "prepare",
    "save",
    "solvers",
    "splits",
    "sweep",
    "verify",
]
