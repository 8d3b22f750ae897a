"""Ids that a Dataset does not know: what a tool may do about them, and what it says."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed
from jaxmf.data.ids import as_ids, distinct, match

OnUnknown = Literal["error", "bias", "drop"]
ON_UNKNOWN: tuple[str, ...] = get_args(OnUnknown)


def check_on_unknown(who: str, on_unknown: Any, choices: Sequence[str] = ON_UNKNOWN) -> None:
    """ValueError, starting with `who`, unless `on_unknown` is one of the choices."""
    if on_unknown not in choices:
        *most, last = map(repr, choices)
        raise ValueError(f"{who}: on_unknown must be {', '.join(most)} or {last}, not {on_unknown!r:.50}")


def positions(known: pd.Index, ids: Iterable[Any], kind: str) -> np.ndarray:
    """Positions, int32, of ids in the index of known ids, -1 for those that are unknown."""
    try:
        return match(known, ids).astype(np.int32)
    except TypeError as error:
        raise ValueError(f"{kind} ids must be hashable, as those of {kind}_ids: numbers, strings or tuples") from error


def refusal(who: str, error: ValueError, choices: Sequence[str] = ON_UNKNOWN) -> ValueError:
    """What `lookup` says of unknown ids, with what else `on_unknown` may be."""
    others = " or ".join(f"on_unknown={choice!r}" for choice in choices if choice != "error")
    return ValueError(f"{who}: {error}, or pass {others}")


def unknown_ids(**sides: tuple[Any, np.ndarray]) -> str:
    """For a warning: which ids of each side, such as `user`, are unknown, of its ids and whether each one is."""
    parts = ((side, distinct(as_ids(ids)[unknown]).tolist()) for side, (ids, unknown) in sides.items())
    return "; ".join(f"{side} {listed(ids)}" for side, ids in parts if ids)
