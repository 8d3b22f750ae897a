"""Verification: derivatives, curvature, stationary points, each from independent sources, as tables with verdicts."""

from jaxmf.verify.case import GradientReport
from jaxmf.verify.curvature import hessian
from jaxmf.verify.differences import Differences, differences
from jaxmf.verify.gradients import gradients
from jaxmf.verify.mutants import METHODS, mutants
from jaxmf.verify.stationarity import half_steps, stationarity
from jaxmf.verify.taylor import NotAnalyticError, complex_step, remainders, taylor

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
