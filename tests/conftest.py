"""Strict JAX for every test: float64 available, no silent broadcasting of ranks."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def latest_small():
    """MovieLens latest-small, from the folder that JAXMF_DATA names."""
    from jaxmf import datasets

    root = os.environ.get("JAXMF_DATA")
    if not root or not any(Path(root).rglob("ratings.csv")):
        pytest.skip("MovieLens latest-small not found: set JAXMF_DATA to the folder that holds ml-latest-small/")
    return datasets.movielens("ml-latest-small", root=root)
