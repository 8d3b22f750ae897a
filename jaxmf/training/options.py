"""The static options of a fit, as one value that other modules pass on."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxmf.data.ratings import Ratings
from jaxmf.models.params import Params

Monitor = str | Callable[[Params, Ratings], jax.Array]


class Options(NamedTuple):
    """The static arguments of `make_fit`, which documents them, besides the model, the solver and the epochs."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    track: bool = True
