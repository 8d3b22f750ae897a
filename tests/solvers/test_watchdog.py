"""Deadlocks: several batched solves at once hang some versions of XLA on a CPU, so these run under a clock."""

import subprocess
import sys
import textwrap

import jax
import pytest

LIMIT = 150  # seconds, of which a sound version needs about ten; a deadlock needs all

PRELUDE = """
    from concurrent.futures import ThreadPoolExecutor

    import jax
    import jax.numpy as jnp

    from jaxmf import Hyper, datasets, fit, make_fit, models, prepare, solvers

    model, solver = models.biased_mf(16), solvers.als()

    def ratings(num_users, num_items, num_ratings):
        return datasets.synthetic(num_users, num_items, num_ratings, seed=0).ratings
"""

CASES = {
    "many sweeps over many buckets": """
        fitted = fit(jax.random.key(0), model, solver, ratings(1500, 1000, 40_000), epochs=12)
        assert fitted.status == "completed"
        assert len(prepare(solver, ratings(1500, 1000, 40_000)).layout.item) > 4
    """,
    "two fits in two threads": """
        def one(seed):
            train = ratings(1000 + seed, 700, 20_000)
            return fit(jax.random.key(seed), model, solver, train, epochs=12).status

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(one, range(2))) == ["completed"] * 2
    """,
    "a vmapped sweep": """
        batch = prepare(solver, ratings(600, 400, 10_000))
        run = make_fit(model, solver, 5)
        l2 = jnp.linspace(0.05, 0.5, 4)
        state, _ = jax.jit(jax.vmap(lambda l2: run(jax.random.key(0), batch, Hyper(l2=l2))))(l2)
        assert jax.block_until_ready(state).epoch.tolist() == [5] * 4
    """,
}


@pytest.mark.parametrize("code", CASES.values(), ids=CASES)
def test_als_does_not_hang(code):
    script = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"ALS hangs under jax {jax.__version__} on {jax.default_backend()}: exclude it in pyproject.toml")
    assert done.returncode == 0, done.stderr
