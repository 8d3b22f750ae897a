"""Weights of observations, such as counts of plays: check and transform them, and make ratings of them."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from jaxmf.data.checks import as_numbers, is_finite_number, listed, refuse_rows, short

if TYPE_CHECKING:
    from jaxmf.data.dataset import Dataset

Transform: TypeAlias = Callable[[np.ndarray], Any]

_EXPECTED = "expected finite numbers above 0"


def positive_weights(
    values: pd.Series,
    remedy: str = "drop these rows or correct them",
    zeros: str = "leave these rows out, since without weight there is no observation",
) -> np.ndarray:
    """Return a column of weights as float64; the remedies are for rows without a weight and for weights of 0."""
    weight = as_numbers(values, "weight")
    if not np.isnan(weight).any():
        remedy = "correct these rows"  # an infinite weight is not missing
    refuse_rows(~np.isfinite(weight), values, "weight", "NaN or infinite weight", f"{_EXPECTED}: {remedy}")
    refuse_rows(weight < 0, values, "weight", "negative weight", f"{_EXPECTED}: correct these rows, or drop them")
    refuse_rows(weight == 0, values, "weight", "weight of 0", f"{_EXPECTED}: {zeros}")
    return weight


def transformed(weight: np.ndarray | None, transform: Transform | None) -> np.ndarray | None:
    """Return what the caller's function makes of the weights, float64 (n,); without a function the weights.

    Raises:
      ValueError: there are no weights, or the function does not return as many finite numbers above 0.
    """
    if transform is None:
        return weight
    if weight is None:
        raise ValueError(
            'transform needs weights, and there is no column of weights: name one, as in weight="plays", or count the '
            'rows of each pair with duplicates="sum"'
        )
    return applied("transform", transform, weight, 0.0)


def applied(name: str, function: Transform, weight: np.ndarray, least: float) -> np.ndarray:
    """Return `function(weight)`, checked: float64 (n,), finite and above 0, or at least `least` if that is above 0.

    Messages call the function `name`.
    """
    if not callable(function):
        raise ValueError(
            f"{name} must be a function of the array of weights, such as numpy.log1p, not {short(function)}"
        )
    try:
        result = np.asarray(function(weight.copy()))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"{name} failed on the array of weights, float64[{len(weight)}]: {type(error).__name__}: {error}. Expected "
            "a function of whole arrays, such as numpy.log1p or lambda plays: 1 + 40 * plays"
        ) from error
    if result.shape != weight.shape or result.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} returned {result.dtype}{list(result.shape)} for weights of shape {list(weight.shape)}; expected "
            "one number per weight, as numpy.log1p returns"
        )
    numbers: np.ndarray = result.astype(np.float64)
    bad = ~np.isfinite(numbers) | ((numbers < least) if least > 0 else (numbers <= 0))
    if bad.any():
        pairs = zip(weight[bad][:3].tolist(), numbers[bad][:3].tolist(), strict=True)
        made = ", ".join(f"{y:.6g} of {x:.6g}" for x, y in pairs)
        bound = f"of at least {least:g}" if least > 0 else "above 0"
        raise ValueError(
            f"{name} made weights that cannot be used in {bad.sum()} of {len(bad)} places: {made}; expected finite "
            f"numbers {bound}: use a function that returns them for every weight from {weight.min():.6g} to "
            f"{weight.max():.6g}, such as lambda plays: 1 + 40 * plays"
        )
    return numbers


def binarize(self: "Dataset", threshold: float) -> "Dataset":
    """Return the observations with a rating of at least `threshold`, each with rating 1: explicit as implicit feedback.

    Users, items, weights and times are kept, also of users and items that lose all their observations.

    Args:
      threshold: the lowest rating that is kept.

    Raises:
      ValueError: the threshold is not a finite number, or no rating is as high.

    Cost: O(n).

    >>> from jaxmf.data import Dataset
    >>> data = Dataset.from_arrays(["b", "a", "b"], [10, 10, 20], [4.0, 2.0, 5.0]).binarize(4)
    >>> data.to_frame().values.tolist(), data.num_users
    ([['b', 10, 1.0], ['b', 20, 1.0]], 2)
    """
    low, high = (self.rating.min(), self.rating.max()) if len(self) else (np.nan, np.nan)
    rated = f"the ratings of {self.name} are from {low:g} to {high:g}"
    if not is_finite_number(threshold):
        raise ValueError(f"binarize: threshold must be a finite number, not {short(threshold)}: {rated}")
    kept = self.take(np.flatnonzero(self.rating >= threshold))
    if len(kept) == 0:
        raise ValueError(f"binarize: no rating is at least {threshold:g}; {rated}: lower the threshold")
    return replace(kept, rating=np.ones(len(kept)))


def with_confidence(self: "Dataset", function: Transform) -> "Dataset":
    """Return ratings and weights whose objective is that of Hu, Koren and Volinsky (2008), with c = function(weight).

        Σ_{all u,i} c_ui (p_ui − r̂_ui)²  =  Σ_{(u,i)∈Ω} w_ui (r_ui − r̂_ui)² + Σ_{all u,i} r̂_ui² + constant,

        p = 1 and c = function(weight) for an observation, p = 0 and c = 1 elsewhere;  w = c − 1,  r = c / (c − 1)

    The right-hand side is the objective at `Hyper(unobserved=1, reg_exponent=0)`, without its penalty. The penalty λ is
    the same on both sides. Observations with c = 1 would need weight 0 and an infinite rating: they are left out, as if
    they had not been observed, and a UserWarning says how many. The ratings of the result serve to fit; compare errors
    with the ratings of this Dataset, which are 1.

    Args:
      function: c of the array of weights (n,), such as `lambda plays: 1 + 40 * plays`; without weights it gets ones.

    Raises:
      ValueError: a rating is not 1 (`binarize` first), the function does not return one finite number of at least 1 per
        weight, or all are 1.

    Cost: O(n).

    Reference: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets.

    >>> from jaxmf.data import Dataset
    >>> data = Dataset.from_arrays([1, 2], ["x", "y"], weight=[1, 3]).with_confidence(lambda plays: 1 + plays)
    >>> data.weight.tolist(), data.rating.tolist()
    ([1.0, 3.0], [2.0, 1.3333333333333333])
    """
    if not (self.rating == 1).all():
        others = listed(np.unique(self.rating[self.rating != 1]).tolist(), 3)
        raise ValueError(
            f"with_confidence: {self.name} has ratings other than 1, such as {others}; expected implicit feedback, "
            "whose ratings are all 1: call data.binarize(threshold) first, or read the numbers as weights with weight="
        )
    weight = np.ones(len(self)) if self.weight is None else self.weight
    excess = applied("with_confidence: function", function, weight, 1.0) - 1
    dropped = int(np.sum(excess == 0))
    if dropped == len(self):
        raise ValueError(
            f"with_confidence: function returned 1 for all {dropped} weights, which leaves no observation; expected "
            "more than 1 for what was observed, as of lambda plays: 1 + 40 * plays"
        )
    if dropped:
        warnings.warn(
            f"with_confidence: {dropped} of {len(self)} observations have confidence 1 and are left out", stacklevel=2
        )
    kept, excess = self.take(np.flatnonzero(excess)), excess[excess > 0]
    return replace(kept, rating=(1 + excess) / excess, weight=excess)
