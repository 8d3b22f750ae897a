"""A random order without a sort is a permutation, and every permutation is as likely as any other."""

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxmf.solvers.shuffle import shuffle


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000, 4097])
def test_it_is_a_permutation(n):
    order = jax.jit(shuffle, static_argnums=1)(jax.random.key(n), n)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def orders(n, count):
    return np.asarray(jax.jit(jax.vmap(lambda key: shuffle(key, n)))(jax.random.split(jax.random.key(0), count)))


def test_every_permutation_of_five_is_as_likely():
    codes = orders(5, 24_000) @ 5 ** np.arange(5)
    _, found = np.unique(codes, return_counts=True)
    assert len(found) == 120
    assert chisquare(found).pvalue > 1e-3


def test_positions_and_neighbors_are_uniform():
    n = 300
    found = orders(n, 2000)
    where = np.stack([np.bincount(found[:, place] // 20, minlength=15) for place in range(0, n, 20)])
    assert chisquare(where, axis=None).pvalue > 1e-3
    steps = np.bincount((np.diff(found, axis=1) % n).ravel(), minlength=n)[1:]
    assert chisquare(steps).pvalue > 1e-3
