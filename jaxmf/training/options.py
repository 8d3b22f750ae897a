"""The static options of a fit, as one value that other modules pass on."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxmf.data.ratings import Ratings
from jaxmf.models.params import Params

Monitor = str | Callable[[Params, Ratings], jax.Array]


class Options(NamedTuple):
    """Static arguments of `make_fit` besides the model, the solver and the number of epochs; it documents them."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    track: bool = True
