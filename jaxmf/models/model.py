"""What a model is: pure functions over `Params`."""

from typing import Any, Literal, NamedTuple

from jaxmf.kernels._memoize import described, reduced
from jaxmf.models.protocols import (
    Background,
    Check,
    Design,
    Draw,
    Embed,
    Gradient,
    HessianProduct,
    Init,
    Link,
    Loss,
    Penalty,
    Predict,
    WithRank,
)

Reads = Literal["rows", "tables"]
Predicts = Literal["rating", "preference"]


class ByHand(NamedTuple):
    """Derivatives of the objective that were derived by hand, for `jaxmf.verify`.

    Attributes:
      gradient: `(params, ratings, weight, hyper) -> Rows`, the gradient with respect to `trained`.
      hvp: `(params, ratings, weight, hyper, direction) -> Rows`, the product of the Hessian with a `direction` that is
        shaped like `trained`, or None.
    """

    gradient: Gradient
    hvp: HessianProduct | None = None


class Model(NamedTuple):
    """A model: four pure functions, and optional parts. A tool that needs a part refuses a model that has None there.

    Attributes:
      init: `(key, ratings, hyper) -> Params`. Rows without weight start at 0.
      predict: `(params, pairs) -> (n,)` for Pairs or Ratings; it reads only `user`, `item` and `context` of these.
      loss: `(params, ratings) -> (n,)`, one number per observation; the library applies the weights.
      penalty: `(trained, weight, hyper) -> scalar`, where `weight.user` and `weight.item` hold one factor per row.
      by_hand: hand-derived derivatives of the objective, or None.
      design: `(params, ratings, side) -> (design, target)` or None. `design` has the structure of that side's trained
        rows with a leading axis n, and r̂ − (r − target) = Σ_leaves ⟨design, row⟩: the loss is the squared distance of
        that sum from `target`, and the penalty is a diagonal quadratic in the rows. ALS and fold-in need it.
      with_rank: `(rank) -> Model`, the same model with factors of another width, or None.
      name: shown in tables.
      embed: `(params) -> (left, right)`, tables (num_users, d) and (num_items, d) with r̂ = link(left·right), or tuples
        of tables whose products add up; some of `right` may be SparseRows. It is also called on parameters with only
        some of the rows. None if predictions are not such products: rankings then call `predict` on all pairs.
      link: an increasing elementwise function with r̂ = link(left·right); None for the identity. Rankings are by
        left·right, which does not saturate.
      reads: "rows" if the loss and the prediction of a pair read only the pair's own two trained rows, which `jaxmf`
        checks where it relies on it; "tables" if they read other rows too, as SVD++ reads those of all items that a
        user has rated. `sgd`, `fold_in`, `update` and `top_n(candidates=)` refuse the latter.
      background: `(params, hyper) -> scalar`, a term that the objective adds, such as a loss over all cells, observed
        or not; or None.
      draw: `(key, ratings, seen) -> ratings`, which adds to the ratings' `context` what the loss reads at random, such
        as an item that the user has not rated; or None. `jaxmf.models.is_seen` tells what a user has rated. `minibatch`
        draws for every batch; losses in a history use one draw, the same for all fits.
      predicts: "rating" if `predict` returns ratings in the units of the data, whose errors are then measured;
        "preference" if it returns numbers that only order items, whose rankings are watched instead.
      check: `(ratings) -> None`, which raises a ValueError for training ratings that the model is not for; or None. It
        is called on the host, before anything compiles.
    """

    init: Init
    predict: Predict
    loss: Loss
    penalty: Penalty
    by_hand: ByHand | None = None
    design: Design | None = None
    with_rank: WithRank["Model"] | None = None
    name: str = "custom"
    embed: Embed | None = None
    link: Link | None = None
    reads: Reads = "rows"
    background: Background | None = None
    draw: Draw | None = None
    predicts: Predicts = "rating"
    check: Check | None = None

    def __repr__(self) -> str:
        return described(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def __copy__(self) -> "Model":
        return self

    def __deepcopy__(self, memo: Any) -> "Model":
        return self
