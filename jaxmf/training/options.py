"""The static choices of a fit, as one value that every room hands on."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxmf.data.ratings import Ratings
from jaxmf.models.params import Params

Monitor = str | Callable[[Params, Ratings], jax.Array]


class Options(NamedTuple):
    """What `make_fit` is told beside the model, the solver and the number of epochs; see there."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor = "loss"
    track: bool = True
