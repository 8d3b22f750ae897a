"""What a solver is: a layout made on the host, and pure functions, of which `step` is one epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxmf.data.ratings import Ratings
from jaxmf.kernels._memoize import described, reduced
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.models.seen import Seen
from jaxmf.models.trial import Promise


class Problem(NamedTuple):
    """What a step reads: the training ratings, n^ν per row, what `setup` of the solver made of them, and which items
    each user has rated, for a model that draws.
    """

    ratings: Ratings
    weight: Rows
    constants: Any
    seen: Seen | None = None


class StepInfo(NamedTuple):
    """What a step tells its reader and does not need itself. `converged`: bool scalar, the solver's own rule."""

    converged: jax.Array


class Machine(NamedTuple):
    """What a solver asks of the machine, for speed alone.

    Attributes:
      compiler_options: names and values of XLA's options for the programs in which the library runs it, such as
        `without(TWO_STEP_SUMS)` of `jaxmf.kernels.xla`.
      devices: how many of this process its steps use at once.
      column_seconds: how much longer an epoch takes per rating and column of the factors on a core of a CPU, by which
        `sweep` decides whether ranks share a program.
    """

    compiler_options: tuple[tuple[str, Any], ...] = ()
    devices: int = 1
    column_seconds: float = 5e-9


def as_prepared(ratings: Ratings, layout: Any, hyper: Hyper) -> Any:
    """The layout that `prepare` made."""
    return layout


def as_trained(params: Params, state: Any) -> Params:
    """The parameters that the last step returned."""
    return params


@jax.tree_util.register_static
class Solver(NamedTuple):
    """A solver: `prepare` runs once on the host, the rest is pure. A static pytree: `Prepared` says whose it is.

    Attributes:
      prepare: `(ratings) -> layout`, arrays. It holds positions in `ratings`, never weights or values, so that one
        layout serves every set of weights (folds). It is given the ratings without padding, and steps find some of
        weight 0 behind them; arrays as long as `jaxmf.data.ratings.padded_size` says let data of about the same size
        share programs. Solvers of the same function share their layouts, so they must have the same `setup` too: what
        was prepared for one of them is set up by it for all.
      init: `(model, params, hyper) -> state`.
      step: `(key, model, params, state, problem, hyper) -> (params, state, StepInfo)`, one epoch.
      check: `(model, params, hyper, context) -> None`, `context` being that of the ratings, on shapes only: raises
        ValueError before anything compiles where the solver needs a part that the model lacks, or a number that `hyper`
        does not have.
      name: shown in tables.
      setup: `(ratings, layout, hyper) -> constants`, what no epoch changes and `step` finds in `problem.constants`:
        computed once, before the first epoch. Default the layout of `prepare`.
      result: `(params, state) -> Params`, the parameters that a fit reports, measures and returns, such as an average
        of those after many steps. Default those that the last step returned.
      machine: what it asks of the machine, for speed alone.
      remedy: what to try after a fit has diverged, in the names of `Hyper`, for messages.
      promises: what its steps rely on that no shape shows, see `jaxmf.models.promises`: `fit` and `sweep` try these
        with a user's model before the epochs compile.
    """

    prepare: Callable[[Ratings], Any]
    init: Callable[[Model, Params, Hyper], Any]
    step: Callable[[jax.Array, Model, Params, Any, Problem, Hyper], tuple[Params, Any, StepInfo]]
    check: Callable[[Model, Params, Hyper, Any], None]
    name: str = "custom"
    setup: Callable[[Ratings, Any, Hyper], Any] = as_prepared
    result: Callable[[Params, Any], Params] = as_trained
    machine: Machine = Machine()
    remedy: str = "a smaller learning_rate"
    promises: tuple[Promise, ...] = ()

    def __repr__(self) -> str:
        return described(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __copy__(self) -> "Solver":
        return self

    def __deepcopy__(self, memo: Any) -> "Solver":
        return self
