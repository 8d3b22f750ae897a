"""Handle ids that a Dataset does not contain: the options of `on_unknown`, and the messages about them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.exact import as_ids
from jaxmf.data.ids import distinct, match

OnUnknown = Literal["error", "bias", "drop"]
ON_UNKNOWN: tuple[str, ...] = get_args(OnUnknown)


def check_on_unknown(who: str, on_unknown: Any, choices: Sequence[str] = ON_UNKNOWN) -> None:
    """Raise ValueError, with a message that starts with `who`, unless `on_unknown` is one of the choices."""
    if on_unknown not in choices:
        *names, last_name = map(repr, choices)
        raise ValueError(f"{who}: on_unknown must be {', '.join(names)} or {last_name}, not {on_unknown!r:.50}")


def positions(known: pd.Index, ids: Iterable[Any], kind: str) -> np.ndarray:
    """Return the positions (int32) of ids in the index of known ids, -1 for unknown ids."""
    try:
        return match(known, ids).astype(np.int32)
    except TypeError as error:
        raise ValueError(
            f"{kind} ids must be hashable, like those in {kind}_ids: numbers, strings or tuples"
        ) from error


def refusal(who: str, error: ValueError, choices: Sequence[str] = ON_UNKNOWN) -> ValueError:
    """Return the error of `lookup` about unknown ids, extended by the other choices for `on_unknown`."""
    alternatives = " or ".join(f"on_unknown={choice!r}" for choice in choices if choice != "error")
    return ValueError(f"{who}: {error}, or pass {alternatives}")


def unknown_ids(**sides: tuple[Any, np.ndarray]) -> str:
    """List the unknown ids per side for a warning, given the ids of each side and a mask of those that are unknown."""
    parts = ((side, distinct(as_ids(ids)[unknown]).tolist()) for side, (ids, unknown) in sides.items())
    return "; ".join(f"{side} {listed(ids)}" for side, ids in parts if ids)
