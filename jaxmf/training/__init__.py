"""Training: the one loop, as a pure function and as the host calls it."""

from jaxmf.training.host import Fit, check_hyper, compile_fit, fit, prepare
from jaxmf.training.loop import STATUS, FitState, Prepared, make_fit, start

__all__ = ["STATUS", "Fit", "FitState", "Prepared", "check_hyper", "compile_fit", "fit", "make_fit", "prepare", "start"]
