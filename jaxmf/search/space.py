"""A space of settings: a range or a list of values for each name."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Space = Mapping[str, tuple[Any, ...] | list[Any]]


def check_space(space: Space, who: str) -> None:
    """Raise a ValueError that names the first entry that is not (low, high), (low, high, "log") or a list of values.

    The names, and the values that each of them may have, are checked later, when the points become members of a sweep.
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
    """Return whether a range contains only integers: whether both its ends are integers."""
    return all(isinstance(end, int) for end in values[:2])


def corners(space: Space) -> list[dict[str, Any]]:
    """Return two points, with the lowest and with the highest value of every name."""
    ends = {name: sorted(values[:2]) if isinstance(values, tuple) else values for name, values in space.items()}
    return [{name: extreme(values) for name, values in ends.items()} for extreme in (min, max)]


def draw(key: jax.Array, space: Space, num_points: int) -> list[dict[str, Any]]:
    """Draw independent points: uniform in a range, in its logarithm or in a list; integer ranges include both ends."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def draw_value(values: tuple[Any, ...] | list[Any]) -> Any:
        if isinstance(values, list):
            return values[random.integers(len(values))]
        low, high = values[:2]
        if not is_whole(values):
            return math.exp(random.uniform(math.log(low), math.log(high))) if values[2:] else random.uniform(low, high)
        if not values[2:]:
            return int(random.integers(low, high, endpoint=True))
        # Each integer has the weight of its rounding interval on the log scale.
        return min(high, max(low, round(math.exp(random.uniform(math.log(low - 0.5), math.log(high + 0.5))))))

    return [{name: draw_value(values) for name, values in space.items()} for _ in range(num_points)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
