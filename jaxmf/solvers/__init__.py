"""Solvers: one epoch as a pure function, on the one objective."""

from jaxmf.solvers._als import als
from jaxmf.solvers._minibatch import minibatch
from jaxmf.solvers._sgd import sgd
from jaxmf.solvers.solver import Machine, Problem, Solver, StepInfo

__all__ = ["Machine", "Problem", "Solver", "StepInfo", "als", "minibatch", "sgd"]
