"""Two devices for one fit: what one does, on the host's devices in a process of their own.

A deadlock needs the whole time limit, as in `test_watchdog`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import HYPER, IALS, KEY, MODELS, assert_close, init, numpy_sgd, random_ratings, run, to_numpy, to_rows

from jaxmf import fit, prepare, solvers, sweep
from jaxmf.kernels.programs import shapes
from jaxmf.solvers._sgd import visiting_order
from jaxmf.training.options import Options
from jaxmf.training.program import _compiled

pytestmark = pytest.mark.slow
SCRIPT = """
    import sys, jax
    jax.config.update("jax_num_cpu_devices", 2)
    import conftest, test_devices
    getattr(test_devices, sys.argv[1])()
"""


def als_equals_that_of_one_device():
    """Rows of odd numbers, in one go and in parts, exact and by CG, with all cells: the same minimum of every row."""
    ratings, cells = random_ratings(folds=True), HYPER._replace(unobserved=0.3)
    content, whole = (MODELS["content"], HYPER), (IALS, cells)
    parts = {"max_memory": 1 << 10}
    for (model, hyper), options in ((content, {}), (content, parts), (whole, {"method": "cg"}), (whole, parts)):
        params = init(model, ratings, hyper)
        one, two = (run(model, solvers.als(devices=n, **options), ratings, hyper, 3, params=params) for n in (1, 2))
        assert_close(two, one, rtol=1e-9, atol=1e-12)


def sgd_equals_the_serial_loop():
    """Strata in turn, in each the devices in any order: here one after the other."""
    ratings = random_ratings(folds=True)
    bounds: Any
    for name, bounds in (("biased", {}), ("content", {"clip_update": 0.03, "clip_value": 0.5}), ("mf-user-mean", {})):
        model, solver = MODELS[name], solvers.sgd(4, devices=2, **bounds)
        params, layout = init(model, ratings, HYPER), solver.prepare(ratings)
        position = np.asarray(layout.position)
        assert position.shape[:2] == (2, 2)
        theta = to_numpy(params)
        state, _ = run(model, solver, ratings, HYPER, 3, params=params)
        for epoch in (1, 2, 3):
            visited = visiting_order(jax.random.fold_in(KEY, epoch), layout.num_matchings, position.shape[2])
            order = position[:, :, np.asarray(visited)].ravel()
            order = order[order < len(ratings.value)]
            assert sorted(order) == list(range(len(ratings.value)))
            theta = numpy_sgd(theta, ratings, HYPER, order, **bounds)
        assert_close(state.params.trained, to_rows(theta), rtol=1e-11, atol=1e-12)


def fits_resume_and_leave_one_device():
    """Cut in two, a fit has the same bits; what it returns lies on one device, ready for whatever comes."""
    ratings, model = random_ratings(), MODELS["biased"]
    for solver in (solvers.als(devices=2), solvers.sgd(4, devices=2)):
        whole = fit(KEY, model, solver, ratings, ratings, HYPER, epochs=6, patience=6)
        part = fit(KEY, model, solver, ratings, ratings, HYPER, epochs=2, patience=6)
        both = fit(KEY, model, solver, ratings, ratings, HYPER, epochs=4, patience=6, resume=part)
        assert_close(both.state, whole.state, rtol=0)
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(both.state)} == {1}
        assert np.isfinite(model.predict(both.params, ratings)).all()
        again = fit(KEY, model, solver, ratings, ratings, HYPER, epochs=1, patience=6, params=whole.params)
        free = jax.tree.map(np.asarray, whole.params)  # of any device
        state, _ = run(model, solver, ratings, HYPER, params=free, valid=ratings, patience=6)
        assert_close(again.state.params, state.params, rtol=1e-9)
        form = shapes(prepare(solver, ratings, ratings))
        # All four fits ran one program: where their arrays lie did not make it compile again.
        assert _compiled(model, solver, Options(6, monitor="loss"), form)._cache_size() == 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"sweep: members are spread .* must have devices=1"):
        sweep(KEY, model, solvers.als(devices=2), ratings, grid={"l2": [1.0]}, epochs=1)


@pytest.mark.parametrize(
    "check", [als_equals_that_of_one_device, sgd_equals_the_serial_loop, fits_resume_and_leave_one_device]
)
def test_two_devices(check):
    folders = [str(folder) for folder in Path(__file__).resolve().parents[:2]]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", "\n".join(line.strip() for line in SCRIPT.splitlines()), check.__name__]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("solver", [solvers.als, solvers.sgd])
def test_there_must_be_so_many_devices(solver):
    with pytest.raises(ValueError, match=r"devices=64, but JAX has 1 here.*'jax_num_cpu_devices', 64"):
        solver(devices=64)
    with pytest.raises(ValueError, match="devices must be a positive integer, not 0"):
        solver(devices=0)
