"""Shared by halving and Optuna: the epochs at which members are compared, and the score that compares them."""

import math

from jaxmf.data.checks import is_positive_integer
from jaxmf.sweeps.plan import Choices, Keywords


def rungs(who: str, epochs: int, min_epochs: int | None, factor: int, max_steps: int | None = None) -> list[int]:
    """Return the epochs at which members are compared, each about `factor` times the one before; the last is `epochs`.

    >>> rungs("halving", 81, 3, 3)
    [3, 9, 27, 81]

    Args:
      who: the name of the caller, for messages.
      epochs: the epoch of the last rung.
      min_epochs: minimum epoch of the first rung; 1 if None.
      factor: at least 2.
      max_steps: maximum number of rungs besides the last one; None for no limit.

    Raises:
      ValueError: a number is out of range.
    """
    if not is_positive_integer(factor) or factor < 2:
        raise ValueError(f"{who}: factor must be an integer of at least 2, not {factor!r}")
    if not is_positive_integer(epochs):
        raise ValueError(f"{who}: epochs must be a positive integer, not {epochs!r}")
    if min_epochs is not None and not (is_positive_integer(min_epochs) and min_epochs <= epochs):
        raise ValueError(f"{who}: min_epochs must be an integer from 1 to epochs, {epochs}, not {min_epochs!r}")
    steps = comparisons(epochs / (min_epochs or 1), factor)
    steps = steps if max_steps is None else min(steps, max_steps)
    return [math.ceil(epochs / factor ** (steps - rung)) for rung in range(steps + 1)]


def comparisons(ratio: float, factor: int) -> int:
    """Return ⌊log_factor(ratio)⌋, exact for integers.

    >>> comparisons(243, 3)
    5
    """
    return math.floor(math.log(ratio, factor) + 1e-9)


def check_validated(who: str, valid: object, folds: object) -> None:
    """Raise ValueError unless there are validation ratings to compare by."""
    if valid is None and folds is None:
        raise ValueError(f"{who}: needs validation ratings to compare by: pass valid= or folds= (jaxmf.splits)")


def keeping_best(given: Keywords, epochs: int) -> Choices:
    """Return the choices with a `patience`, which keeps the best epoch of each member.

    So the score of a member never gets worse as it goes on, and the parameters of the best member are always kept.
    """
    choices = Choices(**given)
    return choices._replace(patience=choices.patience or epochs)
