"""A random order without a sort is a permutation, and every permutation is as likely as any other."""

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxmf.kernels._shuffle import shuffle

permuted = jax.jit(shuffle, static_argnums=2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 97, 1000, 1024, 4095, 4096, 4097, 8000])
def test_it_is_a_permutation_of_n_and_then_the_identity(n):
    order = permuted(jax.random.key(n), n, 8000)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order[:n]), np.arange(n))
    np.testing.assert_array_equal(order[n:], np.arange(n, 8000))


def test_the_order_does_not_depend_on_the_size():
    key = jax.random.key(0)
    np.testing.assert_array_equal(permuted(key, 5000, 5000), permuted(key, 5000, 8000)[:5000])


def test_old_and_new_keys_have_the_same_order():
    np.testing.assert_array_equal(permuted(jax.random.key(3), 9, 9), permuted(jax.random.PRNGKey(3), 9, 9))


def orders(n, count):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: shuffle(key, n, n)))(keys))


@pytest.mark.parametrize("n", [5, 6])
def test_every_permutation_of_a_few_is_as_likely(n):
    codes = orders(n, 240_000) @ n ** np.arange(n)
    _, found = np.unique(codes, return_counts=True)
    assert len(found) == {5: 120, 6: 720}[n]
    assert chisquare(found).pvalue > 1e-3


def test_positions_and_neighbors_are_uniform():
    n = 300
    found = orders(n, 2000)
    where = np.stack([np.bincount(found[:, place] // 20, minlength=15) for place in range(0, n, 20)])
    assert chisquare(where, axis=None).pvalue > 1e-3
    steps = np.bincount((np.diff(found, axis=1) % n).ravel(), minlength=n)[1:]
    assert chisquare(steps).pvalue > 1e-3
