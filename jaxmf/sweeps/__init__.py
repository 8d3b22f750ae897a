"""Sweeps: many fits of one model, of a grid or of a list of points."""

from jaxmf.sweeps._sweep import sweep
from jaxmf.sweeps.result import Sweep

__all__ = ["Sweep", "sweep"]
