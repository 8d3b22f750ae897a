"""How long a user waits for a first fit, compilation included, in a new process each time.

    python -m benchmarks.first

MovieLens latest-small if JAXMF_DATA is set, else the embedded data; `biased_mf(16)`, with validation and patience as in
`jaxmf fit`. For each solver: the seconds of `jaxmf.fit` in a new process, first without any compiled programs and then
with those that JAX kept (see the README); and the seconds of the command `jaxmf fit`, from start to exit with its files
written, likewise. Times are medians of rounds that alternate. Writes results/benchmarks/first/.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import pandas as pd
from tqdm import tqdm

from benchmarks.setting import bars, setting, show, spread
from jaxmf.shell import names

ROUNDS = 3
SOLVERS = ("als", "sgd", "adam")
DATA = "ml-latest-small" if "JAXMF_DATA" in os.environ else "synthetic"

_FIT = """
import json, sys, time
import jax, jaxmf
from jaxmf.shell import names
from jaxmf.shell.jobs import split_three
from jaxmf.shell.recipes import RECIPES, starting_hyper
data, solver = sys.argv[1:]
train, valid, *_ = split_three(names.dataset(data), 0)
recipe = RECIPES[solver]
hyper = starting_hyper(recipe, 0.03)
model, key = jaxmf.models.biased_mf(16), jax.random.key(0)
clock = time.perf_counter()
fit = jaxmf.fit(key, model, recipe.solver, train, valid, hyper, epochs=60, patience=10, monitor="rmse")
print(json.dumps([time.perf_counter() - clock, fit.compile_seconds]))
"""


def in_python(solver: str, programs: str) -> tuple[float, float]:
    """Return the seconds of `jaxmf.fit` and of its compilation, in a new process that keeps programs in that folder."""
    command = [sys.executable, "-c", _FIT, DATA, solver]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=keeping(programs))
    seconds, compiling = json.loads(process.stdout)
    return seconds, compiling


def keeping(programs: str) -> dict[str, str]:
    """Return an environment in which JAX keeps compiled programs in that folder."""
    kept = {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return os.environ | kept | {"TF_CPP_MIN_LOG_LEVEL": "2"}


def by_command(solver: str, programs: str) -> float:
    """Return the seconds of the command `jaxmf fit`, which keeps its compiled programs in that folder."""
    command = [sys.executable, "-m", "jaxmf", "fit", "--data", DATA, "--solver", solver, "--quiet", "--out"]
    with tempfile.TemporaryDirectory() as out:
        clock = time.perf_counter()
        subprocess.run([*command, out], env=keeping(programs), check=True)
        return time.perf_counter() - clock


def main() -> None:
    """Measure, print the table and write it."""
    here = setting("first", __doc__ or "")
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    compiling: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in tqdm(range(ROUNDS)):
        for solver in SOLVERS:
            with tempfile.TemporaryDirectory() as programs:
                for way in ("in Python, first", "in Python, again"):
                    total, compiled = in_python(solver, programs)
                    seconds[solver, way].append(total)
                    compiling[solver, way].append(compiled)
            with tempfile.TemporaryDirectory() as programs:
                for way in ("by command, first", "by command, again"):
                    seconds[solver, way].append(by_command(solver, programs))
    rows = [
        {"solver": solver, "way": way}
        | spread(times)
        | ({"compile_seconds": statistics.median(compiling[solver, way])} if (solver, way) in compiling else {})
        | {"data": DATA, "dtype": "float32", "rounds": ROUNDS}
        for (solver, way), times in seconds.items()
    ]
    table = pd.DataFrame(rows)
    show(table)
    here.write("first", table, names.dataset(DATA).describe(), {"rounds": ROUNDS})
    labels, texts = table["solver"] + ": " + table["way"], table["seconds"].map("{:.1f}".format)
    here.figure("first", bars(labels, table["seconds"], texts, "seconds in all"))


if __name__ == "__main__":
    main()
