"""The signatures of the functions that a model consists of; `Model` says what each is for."""

from typing import Any, Protocol, TypeVar

import jax

from jaxmf.data.ratings import Pairs, Ratings, Side
from jaxmf.models.params import Hyper, Params, Rows
from jaxmf.models.seen import Seen

ModelT = TypeVar("ModelT", covariant=True)


class Init(Protocol):
    """Initial parameters."""

    def __call__(self, key: Any, ratings: Ratings, hyper: Hyper, /) -> Params: ...


class Predict(Protocol):
    """Predictions (n,)."""

    def __call__(self, params: Params, pairs: Pairs | Ratings, /) -> jax.Array: ...


class Loss(Protocol):
    """Losses (n,)."""

    def __call__(self, params: Params, ratings: Ratings, /) -> jax.Array: ...


class Penalty(Protocol):
    """A scalar."""

    def __call__(self, trained: Rows, weight: Rows, hyper: Hyper, /) -> jax.Array: ...


class Gradient(Protocol):
    """The objective's gradient."""

    def __call__(self, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, /) -> Rows: ...


class HessianProduct(Protocol):
    """The objective's Hessian times a direction."""

    def __call__(self, params: Params, ratings: Ratings, weight: Rows, hyper: Hyper, direction: Rows, /) -> Rows: ...


class Design(Protocol):
    """Design rows, shaped as a side's trained rows with a leading axis n, and targets (n,)."""

    def __call__(self, params: Params, ratings: Ratings, side: Side) -> tuple[Any, jax.Array]: ...


class WithRank(Protocol[ModelT]):
    """The model at another width."""

    def __call__(self, rank: int, /) -> ModelT: ...


class Embed(Protocol):
    """Tables of users and of items, or tuples of them."""

    def __call__(self, params: Params, /) -> tuple[Any, Any]: ...


class Link(Protocol):
    """Predictions from scores, elementwise."""

    def __call__(self, score: jax.Array, /) -> jax.Array: ...


class Background(Protocol):
    """A scalar."""

    def __call__(self, params: Params, hyper: Hyper, /) -> jax.Array: ...


class Check(Protocol):
    """Nothing, or a ValueError."""

    def __call__(self, ratings: Ratings, /) -> None: ...


class Draw(Protocol):
    """The ratings with what is drawn in their context."""

    def __call__(self, key: jax.Array, ratings: Ratings, seen: Seen, /) -> Ratings: ...
