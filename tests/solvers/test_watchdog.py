"""Deadlocks: several batched solves at once hang some versions of XLA on a CPU, so this runs under a clock."""

import os
import subprocess
import sys
import textwrap

import jax
import pytest

LIMIT = 280  # seconds, of which a sound version needs about forty on an idle machine; a deadlock needs all

SCRIPT = """
    import jax

    jax.config.update("jax_num_cpu_devices", 2)

    from jaxmf import Hyper, datasets, fit, models, prepare, solvers, sweep

    model, solver = models.biased_mf(16), solvers.als()
    data = datasets.synthetic(1200, 800, 30_000, seed=0)
    batch = prepare(solver, data)
    assert all(tiles.ends[-2] > tiles.ends[0] for tiles, _ in batch.layout)

    print("many sweeps over many tiles", flush=True)
    assert fit(jax.random.key(0), model, solver, batch, epochs=24).status == "completed"

    print("tiles in parts", flush=True)
    parts = solvers.als(max_memory=1 << 17)
    assert fit(jax.random.key(0), model, parts, data, epochs=24).status == "completed"

    print("two devices, in one go and in parts", flush=True)
    for options in ({}, {"max_memory": 1 << 17}):
        two = solvers.als(devices=2, **options)
        assert fit(jax.random.key(0), model, two, data, epochs=100).status == "completed"

    print("two fits in two threads", flush=True)
    runs = sweep(jax.random.key(0), model, solver, data, grid={"seed": range(6)}, epochs=24, workers=2)
    assert set(runs.to_frame()["status"]) == {"completed"}
    runs = sweep(jax.random.key(0), model, parts, data, grid={"seed": range(6)}, epochs=24, workers=2)
    assert set(runs.to_frame()["status"]) == {"completed"}
"""


@pytest.mark.slow
def test_als_does_not_hang():
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as users run it
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
    except subprocess.TimeoutExpired as hung:
        stage = (hung.stdout or b"nothing").decode().splitlines()[-1]
        pytest.fail(f"jax {jax.__version__} hangs at {stage!r}: exclude this version in pyproject.toml")
    assert done.returncode == 0, done.stderr
