"""Strict JAX for every test: float64 available, no silent broadcasting of ranks."""

import gc
import os
from pathlib import Path

# Most of the suite's time is compilation, in processes that tests start too. Nor does a program need to know the lines
# of Python that each of its operations comes from.
os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0"}

import importlib

import jax
import jaxtyping
import pytest

# JAX keeps millions of objects for the next trace; Python's default looks through them far too often.
gc.set_threshold(200_000, 50, 1000)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Programs as small as these compile sooner in one piece than in parts for several threads. XLA's fusion emitters double
# the time that compilation takes; later versions leave no choice.
FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 10):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

# Shapes that annotations of jaxtyping name are checked at every call, which is while a function is traced.
TYPED = ["kernels.normal_equations", "solvers._exact", "solvers._near", "solvers._slabs"]
with jaxtyping.install_import_hook([f"jaxmf.{name}" for name in TYPED], "beartype.beartype"):
    importlib.import_module("jaxmf.solvers")

# The files that run longest; these begin first, so that no worker is left alone with one of them.
LONGEST = (
    "test_cli.py",
    "test_sweep.py",
    "test_contracts.py",
    "test_study.py",
    "test_readme.py",
    "test_witnesses.py",
    "test_als.py",
    "test_gradients.py",
    "test_hypergradient.py",
    "test_fold.py",
    "test_als_numbers.py",
    "test_debug_flags.py",
)


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # of pytest-xdist: alone, files run in the order in which they were named
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def folder_of_programs(tmp_path_factory):
    """The command line, run as a process, keeps its programs here and not in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder := tmp_path_factory.mktemp("programs")))
        yield folder


@pytest.fixture(scope="session")
def latest_small():
    """MovieLens latest-small, from the folder that JAXMF_DATA names."""
    from jaxmf import datasets

    root = os.environ.get("JAXMF_DATA")
    if not root or not any(Path(root).rglob("ratings.csv")):
        pytest.skip("MovieLens latest-small not found: set JAXMF_DATA to the folder that holds ml-latest-small/")
    return datasets.movielens("ml-latest-small", root=root)


@pytest.fixture(scope="session")
def ratings():
    """A small training set with weights of 0 in it."""
    from helpers import random_ratings

    return random_ratings(folds=True)


@pytest.fixture(scope="session")
def valid():
    """Validation ratings for it."""
    from helpers import random_ratings

    return random_ratings(seed=5, num_ratings=40)


@pytest.fixture
def no_compile(monkeypatch):
    """Fails the test if anything but a transfer compiles, or if a program of the library runs that was there."""
    from helpers import COMPILED

    def refuse(*args, **kwargs):
        pytest.fail("compiled before the check")

    rooms = [
        *("training.program._compiled", "training.program.compiled_initialize"),
        *("evaluate.errors._compiled", "evaluate._positions._compiled"),
        *("recommend._best._program", "recommend.rows._program", "recommend.top._gather"),
    ]
    for name in rooms:
        monkeypatch.setattr(f"jaxmf.{name}", refuse)
    monkeypatch.setattr("jaxmf.verify.case._row_weights", refuse)
    before = len(COMPILED)
    yield
    assert COMPILED[before:] == []


@pytest.fixture
def optimized():
    """Programs compiled as users' are, for a test that runs longer than it compiles."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
