"""Solvers: one epoch as a pure function, on the one objective."""

from jaxmf.solvers.als import als
from jaxmf.solvers.minibatch import minibatch
from jaxmf.solvers.sgd import sgd
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

__all__ = ["Machine", "Problem", "Solver", "StepInfo", "als", "minibatch", "sgd"]
