"""Sweeps: many fits of one model, over a grid or over a list of points."""

from jaxmf.sweeps._sweep import sweep
from jaxmf.sweeps.result import Sweep

__all__ = ["Sweep", "sweep"]
