"""Training: the one loop, as a pure function and as the host calls it."""

from jaxmf.training.checks import check_hyper
from jaxmf.training.host import Fit, compile_fit, fit, prepare
from jaxmf.training.loop import STATUS, Best, FitState, Prepared, Saved, make_fit, start
from jaxmf.training.result import Sweep
from jaxmf.training.sweeps import sweep

__all__ = [
    "STATUS",
    "Best",
    "Fit",
    "FitState",
    "Prepared",
    "Saved",
    "Sweep",
    "check_hyper",
    "compile_fit",
    "fit",
    "make_fit",
    "prepare",
    "start",
    "sweep",
]
