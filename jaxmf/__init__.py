"""jaxmf: a JAX functional research framework for matrix factorization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmf import evaluate, models, recommend, search, solvers, verify
    from jaxmf.data import Dataset, Ratings, content, datasets, splits
    from jaxmf.evaluate import predict
    from jaxmf.models import Hyper, Model, Params, Rows
    from jaxmf.persist import load, save
    from jaxmf.sweeps import Sweep, sweep
    from jaxmf.training import Fit, fit, make_fit, prepare

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
    "recommend",
    "save",
    "search",
    "solvers",
    "splits",
    "sweep",
    "verify",
]

_ROOMS = {
    "data": ("Dataset", "Ratings", "content", "datasets", "splits"),
    "evaluate": ("predict",),
    "models": ("Hyper", "Model", "Params", "Rows"),
    "persist": ("load", "save"),
    "sweeps": ("Sweep", "sweep"),
    "training": ("Fit", "fit", "make_fit", "prepare"),
}


def __getattr__(name: str) -> Any:
    """A name of this page at its first use: help and shell completion of the command line do not wait for JAX."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"jaxmf.{room}"), name)
    if name in __all__:
        return import_module(f"jaxmf.{name}")
    raise AttributeError(f"module 'jaxmf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
