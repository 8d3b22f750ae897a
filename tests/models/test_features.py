"""Features of the items: dense and sparse are the same model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import FEATURES, HYPER, KEY, MODELS, RANK, SOLVERS, assert_close, init, random_ratings, run
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix

from jaxmf import Ratings, models
from jaxmf.models.features import as_matrix, dense_rows, project, pull_back, to_device

SPARSE, DENSE = MODELS["content"], models.content_mf(RANK, FEATURES)


@pytest.mark.parametrize("solver", [SOLVERS["sgd"], SOLVERS["als"]], ids=["sgd", "als"])
def test_dense_and_sparse_features_fit_alike(ratings, solver):
    dense, sparse = (run(model, solver, ratings, HYPER, 2)[0].params for model in (DENSE, SPARSE))
    assert_close(dense.trained, sparse.trained, rtol=1e-10, atol=1e-12)
    assert np.any(np.asarray(sparse.trained.user["content"])[:, :4])
    np.testing.assert_array_equal(sparse.trained.user["content"][:, 4], 0)  # no item has the last feature


def test_products_of_features():
    random = np.random.default_rng(0)
    ratings, weights, error = random_ratings(), random.normal(size=(17, 5)), random.normal(size=90)
    rows = FEATURES[ratings.item]
    expected = np.zeros((17, 5))
    np.add.at(expected, np.asarray(ratings.user), error[:, None] * rows)
    for matrix in (FEATURES, csr_array(FEATURES)):
        x = to_device(as_matrix(matrix), float)
        found = project(jnp.asarray(weights), x, ratings.user, ratings.item)
        np.testing.assert_allclose(found, np.sum(weights[ratings.user] * rows, axis=1), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pull_back(jnp.asarray(error), x, ratings, (17, 5)), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(dense_rows(x, ratings.item, 5), rows)


def test_sparse_rows_are_as_wide_as_the_longest():
    """No array of items × features on the device."""
    wide = np.zeros((13, 1000))
    wide[3, [7, 500, 999]], wide[5, 7] = [1.0, 2.0, 3.0], 4.0
    x: Any = to_device(as_matrix(csr_array(wide)), jnp.float32)
    assert x.column.shape == x.value.shape == (13, 3)
    assert (x.column.dtype, x.value.dtype) == (jnp.int32, jnp.float32)
    np.testing.assert_array_equal(x.column[3], [7, 500, 999])
    nothing: Any = to_device(as_matrix(csr_array((13, 4))), float)
    np.testing.assert_array_equal(nothing.value, np.zeros((13, 1)))


def test_no_step_makes_a_dense_copy_of_sparse_features():
    """10,000 items × 2,000 features would be 20 million numbers; weights and padded rows are 34,000."""
    features = csr_array((np.ones(10_000), (np.arange(10_000), np.arange(10_000) % 2000)), shape=(10_000, 2000))
    index = jnp.arange(40, dtype=jnp.int32)
    ratings = Ratings(index % 2, index, jnp.ones(40), jnp.ones(40), num_users=2, num_items=10_000)
    model = models.content_mf(1, features)
    for solver in (SOLVERS["sgd"], SOLVERS["adam"]):
        layout = solver.prepare(ratings)
        jaxpr = jax.make_jaxpr(lambda p, s=solver, layout=layout: one_epoch(model, s, p, ratings, layout))(
            jax.eval_shape(lambda: init(model, ratings, HYPER))
        )
        assert max(sizes(jaxpr.jaxpr)) <= 34 * 2000


def one_epoch(model, solver, params, ratings, layout):
    from jaxmf.models import row_weights
    from jaxmf.solvers import Problem

    problem = Problem(ratings, row_weights(ratings, 1.0), solver.setup(ratings, layout, HYPER))
    return solver.step(KEY, model, params, solver.init(model, params, HYPER), problem, HYPER)[0]


def sizes(jaxpr):
    """Number of elements of every value in a program, nested programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))
        for nested in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(nested, "eqns"):
                yield from sizes(nested)


def test_equal_features_build_one_model():
    again = [models.content_mf(RANK, FEATURES.copy()), models.content_mf(rank=RANK, features=jnp.asarray(FEATURES))]
    again += [models.content_mf(RANK, pd.DataFrame(FEATURES))]
    assert all(model is DENSE for model in again)
    for form in (csr_matrix, csc_array, coo_array):
        assert models.content_mf(RANK, form(FEATURES)) is SPARSE
    assert models.content_mf(RANK, 2 * FEATURES) is not DENSE
    assert models.content_mf(RANK, FEATURES.astype(np.float32)) is not DENSE
    assert DENSE.with_rank(7) is models.content_mf(7, FEATURES)
    assert DENSE.with_rank(RANK) is DENSE


def test_changing_the_array_afterwards_changes_nothing(ratings):
    own, own_sparse = FEATURES.copy(), csr_array(3 * FEATURES)
    built, built_sparse = models.content_mf(2, own), models.content_mf(2, own_sparse)
    own[:], own_sparse.data[:] = 9.0, 9.0
    np.testing.assert_array_equal(init(built, ratings, HYPER).fixed.item["content"], FEATURES)
    assert float(jnp.max(init(built_sparse, ratings, HYPER).fixed.item["content"].value)) == 3 * FEATURES.max()
