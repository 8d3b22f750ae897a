"""Split a Dataset into parts that share its ids. The functions run on the host; random ones take a `seed: int`."""

from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np

from jaxmf.data._parts import (
    check_data,
    in_time,
    part_of,
    part_of_own,
    parts_of,
    position_among,
    running_sums,
    times_of,
)
from jaxmf.data.checks import generator, is_positive, is_positive_integer
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
    cuts = running_sums(data, fractions)
    position = generator(seed).permutation(len(data))
    return parts_of(data, part_of(position, cuts), fractions)


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
    cuts = running_sums(data, fractions)
    return parts_of(data, part_of_own(*in_time(data), cuts), fractions)


def random_per_user(data: Dataset, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0) -> tuple[Dataset, ...]:
    """Split each user's observations at random: the first part gets the first fraction of a random order, and so on.

    With a user's n observations in a random order, cuts lie at int(n * f_1), int(n * (f_1 + f_2)), ... in floating
    point, and the last part takes the remainder. All observations of a user who has fewer than there are parts go to
    the first part. Every user is thus trained and tested on about the same share, which is usual for data without times
    (weak generalization); in a test on the past a model may profit from what the user did later.

    Args:
      data: the observations.
      fractions: fraction of each part, positive, summing to 1.
      seed: the same seed gives the same parts.

    Returns:
      One Dataset per fraction, each in the order of `data` and with all its users and items.

    Raises:
      ValueError: the fractions are invalid, or a part would be empty.

    Cost: O(n log n), the sort.

    >>> data = Dataset.from_arrays([1] * 10 + [2] * 5 + [3], [*range(10), *range(5), 0])
    >>> train, test = random_per_user(data)
    >>> np.bincount(train.user).tolist(), np.bincount(test.user).tolist()
    ([8, 4, 1], [2, 1])
    """
    cuts = running_sums(data, fractions)
    n = np.bincount(data.user, minlength=data.num_users)
    position = position_among(generator(seed).permutation(len(data)), data.user, n)
    return parts_of(data, part_of_own(position, n[data.user], cuts), fractions)


def leave_last(data: Dataset, counts: Sequence[int] = (1, 1)) -> tuple[Dataset, ...]:
    """Hold out each user's last observations: by default the last for testing and the one before for validation.

    Of a user's observations, sorted by time (ties in the order of `data`), the last counts[-1] go to the last part, the
    counts[-2] before them to the part before, and so on; the rest goes to the first part. All observations of a user
    who has not more than sum(counts) go to the first part.

    Args:
      data: the observations, with timestamps.
      counts: number of observations per user in each part but the first, at least 1.

    Returns:
      1 + len(counts) Datasets, each in the order of `data` and with all its users and items.

    Raises:
      ValueError: there are no timestamps, a count is not a positive integer, or no user has enough observations.

    Cost: O(n log n), the sort.

    >>> data = Dataset.from_arrays([1, 1, 1, 2], list("abca"), timestamp=[30, 10, 20, 5])
    >>> [part.to_frame()["item_id"].tolist() for part in leave_last(data)]
    [['b', 'a'], ['c'], ['a']]
    """
    check_data(data)
    if not np.iterable(counts) or len(counts) == 0 or not all(map(is_positive_integer, counts)):
        raise ValueError(
            "leave_last: counts must be positive integers, one per part to hold out, such as (1, 1), not "
            f"{counts!r:.50}"
        )
    position, n = in_time(data)
    if not (n > sum(counts)).any():
        raise ValueError(
            f"leave_last: no user of {data.name} has more than {sum(counts)} observations, the sum of counts "
            f"{tuple(counts)}, so that all but the first part would be empty: use smaller counts or more data"
        )
    part = np.zeros(len(data), np.int64)
    for held_out in accumulate(reversed(counts)):
        part += (position >= n - held_out) & (n > sum(counts))
    return tuple(data.take(np.flatnonzero(part == k)) for k in range(1 + len(counts)))


def by_user(
    data: Dataset, fraction: float = 0.2, given: float = 0.8, seed: int = 0
) -> tuple[Dataset, Dataset, Dataset]:
    """Hold out whole users, to measure how well a model serves users that are new to it (strong generalization).

    Of the u users with at least two observations, int(u * fraction) are drawn at random and held out. Of the n
    observations of such a user, int(n * given), but at least 1 and at most n - 1, are known when the model is tested:
    those that `recommend.fold_in` or `recommend.update` may use.

    Args:
      data: the observations.
      fraction: fraction of the users to hold out, between 0 and 1.
      given: fraction of a held-out user's observations that are known, between 0 and 1.
      seed: the same seed gives the same parts.

    Returns:
      (train, given, test): the observations of the other users, and the known and the unknown ones of those held out;
      each in the order of `data` and with all its users and items.

    Raises:
      ValueError: a fraction is not between 0 and 1, or no user would be held out.

    Cost: O(n log n), the sort.

    Reference: Liang et al. (2018), Variational autoencoders for collaborative filtering, section 4.1.

    >>> data = Dataset.from_arrays(np.arange(20) // 4, np.arange(20) % 4)
    >>> [len(part) for part in by_user(data)]
    [16, 3, 1]
    """
    check_data(data)
    for name, value in (("fraction", fraction), ("given", given)):
        if not (is_positive(value) and value < 1):
            raise ValueError(f"by_user: {name} must be a number between 0 and 1, such as 0.2, not {value!r:.50}")
    rng, n = generator(seed), np.bincount(data.user, minlength=data.num_users)
    eligible = np.flatnonzero(n >= 2)
    held_out = np.zeros(data.num_users, bool)
    held_out[rng.permutation(eligible)[: int(len(eligible) * fraction)]] = True
    if not held_out.any():
        raise ValueError(
            f"by_user: fraction {fraction} of the {len(eligible)} users of {data.name} with at least two observations "
            "is less than one user: use a larger fraction or more data"
        )
    position = position_among(rng.permutation(len(data)), data.user, n)
    known = np.clip((n * given).astype(np.int64), 1, n - 1)
    part = np.where(held_out[data.user], 1 + (position >= known[data.user]), 0)
    train, known_part, test = (data.take(np.flatnonzero(part == k)) for k in range(3))
    return train, known_part, test


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
    cuts = running_sums(data, fractions)
    position = np.empty(len(data), np.int64)
    position[np.argsort(times_of(data), kind="stable")] = np.arange(len(data))
    return parts_of(data, part_of(position, cuts), fractions)


def k_fold(data: Dataset, k: int = 5, seed: int = 0) -> jax.Array:
    """Return the training weights of k folds: in fold f, 0 for the held-out ratings and 1 for the others.

    Every rating is held out in exactly one fold, and the folds' sizes differ by at most one. The folds are weights on
    one layout, not k Datasets: all have the same shapes, so one program serves them all, also under `vmap`. They
    multiply the weights w of the data: `sweep(folds=)` trains on w · fold and validates on w · (1 - fold).

    Args:
      data: the observations.
      k: number of folds, from 2 (halves) to n (leave one out).
      seed: the same seed gives the same folds.

    Returns:
      (k, n) array of 0 and 1 in JAX's default float dtype, as in `data.ratings`.

    Raises:
      ValueError: fewer than two folds, or more folds than ratings.

    Cost: time and memory O(k n).

    >>> from dataclasses import replace
    >>> from jaxmf.data import datasets
    >>> ratings = datasets.synthetic(5, 4, 20).ratings
    >>> for fold in k_fold(datasets.synthetic(5, 4, 20), k=3):
    ...     train, valid = (replace(ratings, weight=ratings.weight * part) for part in (fold, 1 - fold))
    ...     print(int(train.weight.sum()), int(valid.weight.sum()))
    13 7
    13 7
    14 6
    """
    check_data(data)
    if not isinstance(k, int | np.integer) or k < 2:
        raise ValueError(f"k must be an integer of at least 2, got {k!r}: with one fold nothing is left to train on")
    if k > len(data):
        raise ValueError(f"k = {k} folds of {len(data)} ratings; no fold may be empty: use at most {len(data)} folds")
    fold = generator(seed).permutation(len(data)) % k
    return jnp.asarray((fold != np.arange(k)[:, None]).astype(float))
