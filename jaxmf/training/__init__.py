"""Training: one fit, as a pure function and as a function of the host."""

from jaxmf.training._fit import compile_fit, fit, prepare
from jaxmf.training.fitted import Fit
from jaxmf.training.loop import make_fit
from jaxmf.training.state import STATUS, Best, FitState, Prepared, Saved, start

__all__ = [
    "STATUS",
    "Best",
    "Fit",
    "FitState",
    "Prepared",
    "Saved",
    "compile_fit",
    "fit",
    "make_fit",
    "prepare",
    "start",
]
