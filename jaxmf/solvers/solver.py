"""What a solver is: a layout that the host prepares, and pure functions, of which `step` runs one epoch."""

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
    """What a step reads.

    Attributes:
      ratings: the training ratings.
      weight: n^ν of every row.
      constants: what the solver's `setup` returned.
      seen: the items that each user has rated, for a model that draws.
    """

    ratings: Ratings
    weight: Rows
    constants: Any
    seen: Seen | None = None


class StepInfo(NamedTuple):
    """What a step reports. `converged`: a bool scalar, whether the solver's own rule says to stop."""

    converged: jax.Array


class Machine(NamedTuple):
    """Settings that affect speed only.

    Attributes:
      compiler_options: names and values of XLA options for the programs that run the solver, such as
        `without(TWO_STEP_SUMS)` of `jaxmf.kernels.xla`.
      devices: number of local devices that a step uses at once.
      column_seconds: seconds that one more column of factors adds to an epoch, per rating, on one core of a CPU;
        `sweep` uses it to decide whether ranks share a program.
    """

    compiler_options: tuple[tuple[str, Any], ...] = ()
    devices: int = 1
    column_seconds: float = 5e-9


def as_prepared(ratings: Ratings, layout: Any, hyper: Hyper) -> Any:
    """Return the layout unchanged: the default `setup`."""
    return layout


def as_trained(params: Params, state: Any) -> Params:
    """Return the parameters of the last step: the default `result`."""
    return params


@jax.tree_util.register_static
class Solver(NamedTuple):
    """A solver: `prepare` runs once on the host, everything else is pure. It is a static pytree.

    Attributes:
      prepare: `(ratings) -> layout`, arrays. They hold positions in `ratings`, never weights or values, so that one
        layout serves every set of weights (folds). `prepare` gets the ratings without padding; steps find padding of
        weight 0 behind them. If arrays have lengths from `jaxmf.data.ratings.padded_size`, data of about the same size
        share programs. Solvers with the same `prepare` share their layouts, and a layout is set up by the solver that
        prepared it: so they must have the same `setup`, too.
      init: `(model, params, hyper) -> state`.
      step: `(key, model, params, state, problem, hyper) -> (params, state, StepInfo)`, one epoch.
      check: `(model, params, hyper, context) -> None`, with the ratings' `context`; of arrays, it sees only shapes and
        dtypes. It raises a ValueError before anything compiles if the solver needs a part that the model lacks, or a
        number that `hyper` does not have.
      name: shown in tables.
      setup: `(ratings, layout, hyper) -> constants`, computed once, before the first epoch; `step` finds it in
        `problem.constants`. By default it is the layout.
      result: `(params, state) -> Params`, the parameters that a fit measures and returns, such as an average over
        steps. By default these are the parameters of the last step.
      machine: settings that affect speed only.
      remedy: what to try after a fit has diverged, in the names of `Hyper`, for messages.
      promises: what the steps rely on that shapes do not show, see `jaxmf.models.promises`: `fit` and `sweep` check it
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
