"""The static options of a fit, as one value that other modules pass on, and what the score is that it monitors."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxmf.data.ratings import Ratings
from jaxmf.models.model import Model
from jaxmf.models.params import Params

Monitor = str | Callable[[Params, Ratings], jax.Array]

ERRORS = ("rmse", "mae")
RANKINGS = ("ndcg", "recall", "map", "auc")
_K = 10  # positions that count in a ranking, unless the name says more, as in "ndcg@20"


class Options(NamedTuple):
    """The static arguments of `make_fit`, which documents them, besides the model, the solver and the epochs."""

    patience: int | None = None
    min_delta: float = 0.0
    monitor: Monitor | None = None
    track: bool = True


def for_model(options: Options, model: Model) -> Options:
    """Return the options with the model's default monitor in place of None: "loss", or "ndcg" for preferences."""
    if options.monitor is not None:
        return options
    return options._replace(monitor="ndcg" if model.predicts == "preference" else "loss")


def ranking_of(monitor: Monitor | None) -> tuple[str, int] | None:
    """Return the measure and the number of positions of a monitored ranking, such as "ndcg@20"; None for no ranking.

    >>> ranking_of("ndcg"), ranking_of("recall@20"), ranking_of("loss"), ranking_of("auc@5")
    (('ndcg', 10), ('recall', 20), None, None)
    """
    if not isinstance(monitor, str):
        return None
    name, at, k = monitor.partition("@")
    if name not in RANKINGS or (at and (name == "auc" or not k.isdecimal() or int(k) < 1)):
        return None
    return name, int(k) if at else _K


def column_of(monitor: Monitor | None) -> str:
    """Return the name of the monitored column of the history."""
    return "monitor" if callable(monitor) else f"valid_{monitor}"


def cost_sign(column: str) -> int:
    """Return −1 for a column of a history of which higher values are better, and 1 for all others."""
    return -1 if ranking_of(column.removeprefix("valid_")) else 1
