"""Split a Dataset into parts that share its ids. The functions run on the host; random ones take a `seed: int`."""

from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data.checks import expect, generator, is_positive
from jaxmf.data.dataset import Dataset


def random(data: Dataset, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0) -> tuple[Dataset, ...]:
    """Split all observations at random.

    Cuts lie at int(n * f_1), int(n * (f_1 + f_2)), ... of a random order; the last part takes the remainder.

    Args:
      data: the observations.
      fractions: fraction of each part, positive, summing to 1.
      seed: the same seed gives the same parts.

    Returns:
      One Dataset per fraction, each in the order of `data` and with all its users and items.

    Raises:
      ValueError: the fractions are invalid, or a part would be empty.

    Cost: O(n).

    >>> from jaxmf.data import datasets
    >>> train, test = random(datasets.synthetic(5, 4, 20), fractions=(0.75, 0.25))
    >>> len(train), len(test)
    (15, 5)
    """
    cuts = _running_sums(data, fractions)
    position = generator(seed).permutation(len(data))
    return _parts(data, _cut(position, cuts), fractions)


def temporal_per_user(data: Dataset, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> tuple[Dataset, ...]:
    """Split each user's ratings by time: the first part gets the earliest fraction, the second the next, and so on.

    With a user's n ratings sorted by time (ties in the order of `data`), cuts lie at int(n * f_1),
    int(n * (f_1 + f_2)), ... in floating point, and the last part takes the remainder. All ratings of a user who has
    fewer than there are parts go to the first part.

    Args:
      data: the observations, with timestamps.
      fractions: fraction of each part, positive, summing to 1.

    Returns:
      One Dataset per fraction, each in the order of `data` and with all its users and items.

    Raises:
      ValueError: there are no timestamps, the fractions are invalid, or a part would be empty.

    Cost: O(n log n), the sort.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"user_id": 1, "item_id": range(4), "rating": 3.0, "timestamp": [40, 30, 20, 10]})
    >>> [part.item.tolist() for part in temporal_per_user(Dataset.from_frame(frame), fractions=(0.5, 0.5))]
    [[2, 3], [0, 1]]
    """
    cuts = _running_sums(data, fractions)
    order = np.lexsort((_times(data), data.user))
    counts = np.bincount(data.user, minlength=data.num_users)
    n = counts[data.user[order]]
    position = np.arange(len(data)) - (np.cumsum(counts) - counts)[data.user[order]]
    part_in_order = np.zeros(len(data), np.int64)
    for cut in cuts:
        part_in_order += (position >= (n * cut).astype(np.int64)) & (n >= len(fractions))
    part = np.empty_like(part_in_order)
    part[order] = part_in_order
    return _parts(data, part, fractions)


def temporal(data: Dataset, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> tuple[Dataset, ...]:
    """Split all ratings by time, the earliest fraction first, in the order in which a deployed model would meet them.

    With all n ratings sorted by time (ties in the order of `data`), cuts lie at int(n * f_1), int(n * (f_1 + f_2)), ...
    in floating point, and the last part takes the remainder. Later parts have users and items that earlier ones lack.

    Args:
      data: the observations, with timestamps.
      fractions: fraction of each part, positive, summing to 1.

    Returns:
      One Dataset per fraction, each in the order of `data` and with all its users and items.

    Raises:
      ValueError: there are no timestamps, the fractions are invalid, or a part would be empty.

    Cost: O(n log n), the sort.

    >>> data = Dataset.from_arrays([1, 1, 2, 2], [1, 2, 1, 2], [3.0, 4.0, 5.0, 1.0], timestamp=[40, 10, 30, 20])
    >>> [part.timestamp.tolist() for part in temporal(data, fractions=(0.5, 0.5))]
    [[10, 20], [40, 30]]
    """
    cuts = _running_sums(data, fractions)
    position = np.empty(len(data), np.int64)
    position[np.argsort(_times(data), kind="stable")] = np.arange(len(data))
    return _parts(data, _cut(position, cuts), fractions)


def k_fold(data: Dataset, k: int = 5, seed: int = 0) -> jax.Array:
    """Return the training weights of k folds: in fold f, 0 for the held-out ratings and 1 for the others.

    Every rating is held out in exactly one fold, and the folds' sizes differ by at most one. The folds are weights on
    one layout, not k Datasets: all have the same shapes, so one program serves them all, also under `vmap`.

    Args:
      data: the observations.
      k: number of folds, from 2 (halves) to n (leave one out).
      seed: the same seed gives the same folds.

    Returns:
      (k, n) array in JAX's default float dtype, as in `data.ratings`; 1 - weight gives the weights for validation.

    Raises:
      ValueError: fewer than two folds, or more folds than ratings.

    Cost: time and memory O(k n).

    >>> from dataclasses import replace
    >>> from jaxmf.data import datasets
    >>> ratings = datasets.synthetic(5, 4, 20).ratings
    >>> for weight in k_fold(datasets.synthetic(5, 4, 20), k=3):
    ...     train, valid = replace(ratings, weight=weight), replace(ratings, weight=1 - weight)
    ...     print(int(train.weight.sum()), int(valid.weight.sum()))
    13 7
    13 7
    14 6
    """
    _check(data)
    if not isinstance(k, int | np.integer) or k < 2:
        raise ValueError(f"k must be an integer of at least 2, got {k!r}: with one fold nothing is left to train on")
    if k > len(data):
        raise ValueError(f"k = {k} folds of {len(data)} ratings; no fold may be empty: use at most {len(data)} folds")
    fold = generator(seed).permutation(len(data)) % k
    return jnp.asarray((fold != np.arange(k)[:, None]).astype(float))


def _times(data: Dataset) -> np.ndarray:
    """Return the timestamps; raise ValueError if there are none."""
    if data.timestamp is None:
        raise ValueError(
            f"{data.name} has no timestamps, which a temporal split sorts by; "
            "give the table a timestamp column or use splits.random"
        )
    return data.timestamp


def _cut(position: np.ndarray, cuts: Sequence[float]) -> np.ndarray:
    """Return the part of each observation, given its position in an order of all observations."""
    part = np.zeros(len(position), np.int64)
    for cut in cuts:
        part += position >= int(len(position) * cut)
    return part


def _check(data: Dataset) -> None:
    expect(data, Dataset, "splits: data", "Dataset.from_frame makes one of a table")


def _running_sums(data: Dataset, fractions: Sequence[float]) -> list[float]:
    """Return f_1, f_1 + f_2, ... without the last sum; raise ValueError for invalid arguments."""
    _check(data)
    if not np.iterable(fractions) or len(fractions) < 2:
        raise ValueError(f"fractions must name at least two parts, such as (0.8, 0.2), got {fractions!r}")
    if not all(map(is_positive, fractions)):
        raise ValueError(f"fractions must be positive, such as (0.8, 0.2), got {tuple(fractions)}")
    if abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(
            f"fractions must sum to 1, got {tuple(fractions)} with sum {sum(fractions)}: divide each by their sum"
        )
    return list(accumulate(fractions))[:-1]


def _parts(data: Dataset, part: np.ndarray, fractions: Sequence[float]) -> tuple[Dataset, ...]:
    """Return the observations of each part; `part` (n,) is the part of each observation."""
    sizes = np.bincount(part, minlength=len(fractions))
    if (sizes == 0).any():
        raise ValueError(
            f"fractions {tuple(fractions)} give parts of {sizes.tolist()} ratings out of {len(data)}; "
            "no part may be empty: use larger fractions, fewer parts or more data"
        )
    return tuple(data.take(np.flatnonzero(part == k)) for k in range(len(fractions)))
