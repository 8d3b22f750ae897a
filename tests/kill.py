"""Kill a sweep without warning, at random moments, and see that it goes on from the disk to the same bits.

    python tests/kill.py [TIMES]

Each time a sweep is started in a new folder, killed, and started again; its results must equal those of a sweep that
ran undisturbed, what was on disk when it was killed must not be fitted again, and no unfinished file may be left.
Twenty times take some minutes. Exit code 1 if anything differs.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import trange

WORKER = """
import sys, jax, jaxmf
data = jaxmf.datasets.synthetic(num_users=400, num_items=600, num_ratings=40_000, seed=0)
train, valid, _ = jaxmf.splits.temporal_per_user(data, fractions=(0.7, 0.15, 0.15))
grid = {"rank": [2, 4], "l2": [0.05, 0.1, 0.2, 0.4], "seed": range(8)}
model, solver, options = jaxmf.models.biased_mf(4), jaxmf.solvers.sgd(), {"epochs": 30, "keep": "all"}
print("ready", flush=True)
jaxmf.sweep(jax.random.key(0), model, solver, train, valid, grid=grid, pad=True, out=sys.argv[1], **options)
"""
NUM_MEMBERS = 64


def start(folder: Path, cache: Path) -> subprocess.Popen:
    """A sweep in a process of its own, as soon as it has its data."""
    # XLA warns about its own cache on every read.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What is on disk: for each finished member, which file it is and when it was written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("members/batch-*.npz")}


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every number of every member, but the seconds it took."""
    found: dict[str, np.ndarray] = {}
    for path in folder.glob("members/batch-*.npz"):
        with np.load(path) as file:
            names = [name for name in file.files if not name.endswith((".json", ".seconds"))]
            found |= {f"{path.name} {name}": file[name] for name in names}
    return found


def main(times: int) -> int:
    """Kill `times` sweeps, print what was on disk, and compare."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for warm in ("compile", "whole"):
            clock = time.perf_counter()
            assert start(root / warm, root / "cache").wait() == 0
            seconds = time.perf_counter() - clock
        whole, failures, finished = arrays(root / "whole"), 0, []
        table = pd.read_csv(root / "whole" / "metrics.csv").drop(columns="seconds")
        assert len(files(root / "whole")) == len(table) == NUM_MEMBERS
        for number in trange(times, unit="kill"):
            folder = root / f"killed-{number}"
            process = start(folder, root / "cache")
            time.sleep(random.uniform(0, seconds))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            before = files(folder)
            assert start(folder, root / "cache").wait() == 0
            after, found = files(folder), arrays(folder)
            again = [name for name in before if after[name] != before[name]]
            different = [
                name for name in whole if name not in found or not np.array_equal(whole[name], found[name], True)
            ]
            same_table = pd.read_csv(folder / "metrics.csv").drop(columns="seconds").equals(table)
            left = [path.name for path in folder.rglob(".*")]
            failures += bool(again or different or left or found.keys() != whole.keys() or not same_table)
            finished.append(len(before))
    print(f"members on disk when killed: {finished} of {NUM_MEMBERS}")
    print(f"{times - failures} of {times} went on to the same bits, no member lost, none fitted twice, no file left")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
