"""Encode (user, item) pairs as single integers and test whether they occur in a sorted array of such integers."""

import numpy as np


def numbered(user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """Return each (user, item) pair as one int64, user · num_items + item, shape (n,)."""
    codes: np.ndarray = user.astype(np.int64) * num_items + item
    return codes


def among(numbers: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the numbers that occur in the sorted array `ascending` (m,).

    Uses binary search: `numpy.isin` hashes int64, which is far slower.

    >>> among(np.array([7, 0, 3, 9]), np.array([3, 3, 7])).tolist(), among(np.array([7]), np.array([])).tolist()
    ([True, False, True, False], [False])
    """
    position = np.searchsorted(ascending, numbers)
    present = position < len(ascending)
    present[present] = ascending[position[present]] == numbers[present]
    return present
