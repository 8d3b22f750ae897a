"""A space of settings: for each name a range, or a list of values."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Space = Mapping[str, tuple[Any, ...] | list[Any]]


def check_space(space: Space, who: str) -> None:
    """ValueError naming the first entry that is neither `(low, high)`, `(low, high, "log")` nor a list of values.

    Which names there are, and which numbers they take, is checked where points are placed on a grid.
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f'{who}: space must map names to ranges, as in {{"l2": (0.01, 1.0, "log")}}, not {space!r}')
    for name, values in space.items():
        if isinstance(values, list) and values:
            continue
        shape = isinstance(values, tuple) and len(values) >= 2 and values[2:] in ((), ("log",))
        if not (shape and all(map(_is_number, values[:2])) and values[0] < values[1]):
            raise ValueError(
                f'{who}: space[{name!r}] must be a range (low, high) or (low, high, "log") with low < high, or a list '
                f"of values, not {values!r}"
            )
        if values[2:] and not values[0] > 0:
            raise ValueError(f"{who}: space[{name!r}] is on a log scale, so low must be positive, not {values[0]!r}")


def is_whole(values: tuple[Any, ...]) -> bool:
    """Whether a range is one of integers: both its ends are."""
    return all(isinstance(end, int) for end in values[:2])


def corners(space: Space) -> list[dict[str, Any]]:
    """Two points that between them have the lowest and the highest value of every name."""
    values = {name: sorted(values[:2]) if isinstance(values, tuple) else values for name, values in space.items()}
    return [{name: end(each) for name, each in values.items()} for end in (min, max)]


def draw(key: jax.Array, space: Space, num_points: int) -> list[dict[str, Any]]:
    """Independent points: uniform on a range (ends included if they are integers), on its logarithm, or in a list."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def one(values: tuple[Any, ...] | list[Any]) -> Any:
        if isinstance(values, list):
            return values[random.integers(len(values))]
        low, high = values[:2]
        if not is_whole(values):
            return math.exp(random.uniform(math.log(low), math.log(high))) if values[2:] else random.uniform(low, high)
        if not values[2:]:
            return int(random.integers(low, high, endpoint=True))
        # Each integer has the weight of its rounding interval on the log scale.
        return min(high, max(low, round(math.exp(random.uniform(math.log(low - 0.5), math.log(high + 0.5))))))

    return [{name: one(values) for name, values in space.items()} for _ in range(num_points)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
