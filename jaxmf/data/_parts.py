"""Steps that the functions of `splits` share: the fractions' cuts, the order of a user's observations, the parts."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from jaxmf.data.checks import expect, is_positive
from jaxmf.data.dataset import Dataset


def times_of(data: Dataset) -> np.ndarray:
    """Return the timestamps; raise ValueError if there are none."""
    if data.timestamp is None:
        raise ValueError(
            f"{data.name} has no timestamps, which a temporal split sorts by; "
            "give the table a timestamp column or use splits.random"
        )
    return data.timestamp


def in_time(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each observation, its position from 0 among its user's in order of time, and how many these are."""
    times, n = times_of(data), np.bincount(data.user, minlength=data.num_users)
    return position_among(times, data.user, n), n[data.user]


def position_among(keys: np.ndarray, user: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return each observation's position among its user's in the order of `keys`; n (num_users,) counts them."""
    order = np.lexsort((keys, user))
    position = np.empty(len(user), np.int64)
    position[order] = np.arange(len(user)) - (np.cumsum(n) - n)[user[order]]
    return position


def part_of(position: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """Return the part of each observation, given its position in an order of all observations."""
    part = np.zeros(len(position), np.int64)
    for cut in cuts:
        part += position >= int(len(position) * cut)
    return part


def part_of_own(position: np.ndarray, n: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """Return the part of each observation, given its position among its user's n; small users stay in the first."""
    part = np.zeros(len(position), np.int64)
    for cut in cuts:
        part += (position >= (n * cut).astype(np.int64)) & (n > len(cuts))
    return part


def check_data(data: Dataset) -> None:
    """Raise ValueError unless the data are a Dataset."""
    expect(data, Dataset, "splits: data", "Dataset.from_frame makes one of a table")


def running_sums(data: Dataset, fractions: Sequence[float]) -> list[float]:
    """Return f_1, f_1 + f_2, ... without the last sum; raise ValueError for invalid arguments."""
    check_data(data)
    if not np.iterable(fractions) or len(fractions) < 2:
        raise ValueError(f"fractions must name at least two parts, such as (0.8, 0.2), got {fractions!r}")
    if not all(map(is_positive, fractions)):
        raise ValueError(f"fractions must be positive, such as (0.8, 0.2), got {tuple(fractions)}")
    if abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(
            f"fractions must sum to 1, got {tuple(fractions)} with sum {sum(fractions)}: divide each by their sum"
        )
    return list(accumulate(fractions))[:-1]


def parts_of(data: Dataset, part: np.ndarray, fractions: Sequence[float]) -> tuple[Dataset, ...]:
    """Return the observations of each part; `part` (n,) is the part of each observation."""
    sizes = np.bincount(part, minlength=len(fractions))
    if (sizes == 0).any():
        raise ValueError(
            f"fractions {tuple(fractions)} give parts of {sizes.tolist()} ratings out of {len(data)}; "
            "no part may be empty: use larger fractions, fewer parts or more data"
        )
    return tuple(data.take(np.flatnonzero(part == k)) for k in range(len(fractions)))
