"""Normal numbers by hashing are normal, independent of each other, and do not depend on how many are drawn."""

import jax
import numpy as np
import pytest
from helpers import slow
from scipy.stats import chi2, kstest

from jaxmf.kernels import draws

KEY = jax.random.key(0)
normal = jax.jit(draws.normal, static_argnums=(1, 2, 3))


def test_a_number_does_not_depend_on_how_many_there_are():
    whole = normal(KEY, 50, 9, np.float64)
    np.testing.assert_array_equal(normal(KEY, 20, 4, np.float64), whole[:20, :4])
    np.testing.assert_array_equal(normal(jax.random.PRNGKey(0), 50, 9, np.float64), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", [0, slow(1), slow(2**31)])
def test_the_numbers_are_normal(dtype, seed):
    """All of a table, its columns one by one, and a number over many keys."""
    table = np.asarray(normal(jax.random.key(seed), 20_000, 50, dtype), np.float64)
    assert kstest(table.ravel(), "norm").pvalue > 1e-3
    assert min(kstest(column, "norm").pvalue for column in table.T) > 1e-5
    assert 4.4 < np.abs(table).max() < 6.5
    keys = jax.random.split(jax.random.key(seed), 20_000)
    numbers = np.asarray(jax.vmap(lambda key: normal(key, 2, 2, dtype))(keys), np.float64)
    assert min(kstest(number, "norm").pvalue for number in numbers.reshape(len(keys), 4).T) > 1e-4


@pytest.mark.parametrize("seed", [0, 7])
def test_the_numbers_are_independent(seed):
    """Columns, neighboring rows and tables of neighboring keys are not correlated, nor are their squares."""
    n, width = 20_000, 40
    here, there = (np.asarray(normal(jax.random.key(s), n, width, np.float64)) for s in (seed, seed + 1))
    for form in (lambda x: x, np.square):
        one, other = form(here), form(there)
        crossed = [np.corrcoef(one.T, rows.T)[:width, width:] for rows in (other, np.roll(one, 1, axis=0))]
        found = np.append(np.corrcoef(one.T)[np.triu_indices(width, 1)], crossed)
        assert chi2(len(found)).sf(n * np.sum(found**2)) > 1e-3
        assert np.abs(found).max() * n**0.5 < 6


def test_no_number_comes_twice_in_a_table_and_those_of_its_neighbors():
    tables = [np.asarray(normal(jax.random.key(seed), 1000, 16, np.float64)) for seed in range(3)]
    assert len(np.unique(tables)) > 48_000 - 3
