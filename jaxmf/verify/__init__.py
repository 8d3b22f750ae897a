"""Verify derivatives, curvature and stationary points against independent sources, as tables with verdicts."""

from jaxmf.verify._differences import Differences, differences
from jaxmf.verify._gradients import gradients
from jaxmf.verify._mutants import METHODS, mutants
from jaxmf.verify._stationarity import half_steps, stationarity
from jaxmf.verify._taylor import NotAnalyticError, complex_step, remainders, taylor
from jaxmf.verify.case import GradientReport
from jaxmf.verify.curvature import hessian

__all__ = [
    "METHODS",
    "Differences",
    "GradientReport",
    "NotAnalyticError",
    "complex_step",
    "differences",
    "gradients",
    "half_steps",
    "hessian",
    "mutants",
    "remainders",
    "stationarity",
    "taylor",
]
