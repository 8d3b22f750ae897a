"""Figures of studies, sweeps and verifications: labeled, safe for color-blind readers, drawn without a display."""

from jaxmf.plot.fits import bands, convergence, error_by_solver, generalization, rankings, regularization, scaling
from jaxmf.plot.style import save
from jaxmf.plot.sweeps import curves, facets, heat_map, landscape, panel
from jaxmf.plot.verification import agreement, descents, half_steps, mutants, remainders, step_sizes

__all__ = [
    "agreement",
    "bands",
    "convergence",
    "curves",
    "descents",
    "error_by_solver",
    "facets",
    "generalization",
    "half_steps",
    "heat_map",
    "landscape",
    "mutants",
    "panel",
    "rankings",
    "regularization",
    "remainders",
    "save",
    "scaling",
    "step_sizes",
]
