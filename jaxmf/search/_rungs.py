"""What halving and Optuna share: the epochs at which members are compared, and by what."""

import math

from jaxmf.data.checks import is_positive_integer
from jaxmf.sweeps.plan import Choices, Keywords


def rungs(who: str, epochs: int, min_epochs: int | None, factor: int, most: int | None = None) -> list[int]:
    """Epochs at which members are compared, each `factor` times the one before, from at least `min_epochs` to `epochs`.

    >>> rungs("halving", 81, 3, 3)
    [3, 9, 27, 81]

    Args:
      who: whom messages name.
      epochs: of the last rung.
      min_epochs: of the first, at least; 1 if None.
      factor: at least 2.
      most: comparisons, at most, the last rung not counted; None for no bound.

    Raises:
      ValueError: a number that is out of range.
    """
    if not is_positive_integer(factor) or factor < 2:
        raise ValueError(f"{who}: factor must be an integer of at least 2, not {factor!r}")
    if not is_positive_integer(epochs):
        raise ValueError(f"{who}: epochs must be a positive integer, not {epochs!r}")
    if min_epochs is not None and not (is_positive_integer(min_epochs) and min_epochs <= epochs):
        raise ValueError(f"{who}: min_epochs must be an integer from 1 to epochs, {epochs}, not {min_epochs!r}")
    steps = comparisons(epochs / (min_epochs or 1), factor)
    steps = steps if most is None else min(steps, most)
    return [math.ceil(epochs / factor ** (steps - rung)) for rung in range(steps + 1)]


def comparisons(ratio: float, factor: int) -> int:
    """⌊log_factor(ratio)⌋, exact for integers.

    >>> comparisons(243, 3)
    5
    """
    return math.floor(math.log(ratio, factor) + 1e-9)


def check_validated(who: str, valid: object, folds: object) -> None:
    """ValueError unless there are validation ratings to compare by."""
    if valid is None and folds is None:
        raise ValueError(f"{who}: needs validation ratings to compare by: pass valid= or folds= (jaxmf.splits)")


def keeping_best(given: Keywords, epochs: int) -> Choices:
    """Keep the best epoch, so that no score ever gets worse and the best member's parameters are never let go of."""
    choices = Choices(**given)
    return choices._replace(patience=choices.patience or epochs)
