"""Data sets to start from: planted (small, of known rank), synthetic (embedded), movielens (on disk or downloaded)."""

import numpy as np
import pandas as pd

from jaxmf.data._movielens import movielens
from jaxmf.data._synthetic import synthetic
from jaxmf.data.checks import generator
from jaxmf.data.dataset import Dataset

__all__ = ["movielens", "planted", "synthetic"]


def planted(seed: int = 42) -> tuple[Dataset, Dataset]:
    """Return train and test ratings of a 100 x 60 matrix of rank 4 plus a constant, about 20 % of it observed.

        R = clip(rescale(U V^T to 1 .. 5) + N(0, 0.25^2), 1, 5),   U (100, 4), V (60, 4) standard normal

    Args:
      seed: seed of the draws; 42 gives the 952 training and 238 test ratings of the lecture that these data come from.

    Returns:
      (train, test): Datasets that share the user ids 0 .. 99 and the item ids 0 .. 59, without timestamps.

    Cost: milliseconds.

    >>> train, test = planted()
    >>> len(train), len(test), train.num_users, test.num_items
    (952, 238, 100, 60)
    """
    noisy, train_pairs, test_pairs, _ = planted_draws(seed)
    num_users, num_items = noisy.shape

    def as_dataset(pairs: np.ndarray, name: str) -> Dataset:
        user, item = pairs.T
        return Dataset(
            user_ids=pd.RangeIndex(num_users, name="user_id"),
            item_ids=pd.RangeIndex(num_items, name="item_id"),
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            rating=noisy[user, item],
            name=name,
        )

    return as_dataset(train_pairs, "planted-train"), as_dataset(test_pairs, "planted-test")


def planted_draws(
    seed: int, num_users: int = 100, num_items: int = 60, rank: int = 4, observed: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Return the noisy matrix, train and test pairs (n, 2), and the generator.

    The order of the draws defines the data, so do not change it.
    """
    rng = generator(seed)
    U = rng.normal(0, 1, (num_users, rank))
    V = rng.normal(0, 1, (num_items, rank))
    R = U @ V.T
    R = 1 + 4 * (R - R.min()) / (R.max() - R.min())
    noisy = np.clip(R + rng.normal(0, 0.25, R.shape), 1, 5)
    mask = rng.uniform(0, 1, R.shape) < observed
    for u in range(num_users):
        if mask[u].sum() < 2:
            mask[u, rng.choice(num_items, 2, replace=False)] = True
    for i in range(num_items):
        if mask[:, i].sum() < 2:
            mask[rng.choice(num_users, 2, replace=False), i] = True
    pairs = np.argwhere(mask)
    rng.shuffle(pairs)
    num_test = int(0.2 * len(pairs))
    return noisy, pairs[num_test:], pairs[:num_test], rng
