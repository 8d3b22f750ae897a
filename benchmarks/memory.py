"""The memory that remains after many fits of different sizes, and after many models of different features.

    python -m benchmarks.memory            # 300 fits of each kind, a few minutes
    python -m benchmarks.memory --smoke    # a few fits

Each kind runs in a separate process, so that kinds do not blur each other. A row is printed after every tenth of the
fits: resident memory; with glibc, how much of it the C library has allocated (it keeps more, in fragments between
allocations); programs that XLA holds; memory maps of the process (Linux grants 65,530, most belong to programs); and
arrays on the device. Programs, maps and arrays must stay level after the first 30 fits. Allocated memory grows even
then, by about 0.2 MiB per fit of a new size, and resident memory by several times that: for each new size, JAX keeps
the traces of its own functions, mostly as Python objects, which the C library does not count. The last kind shows the
same without jaxmf: a new `jax.jit` for each size, dropped after one call. The last row of a kind is measured after
`jax.clear_caches`, which frees all of that.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmf

if "JAX_PLATFORMS" not in os.environ:  # where arrays are in the process's memory; set before KEY initializes JAX
    jax.config.update("jax_platforms", "cpu")

KEY = jax.random.key(0)
ALS, ADAM = jaxmf.solvers.als(), jaxmf.solvers.minibatch(optax.adam, 64)


def sizes(index: int, solver: jaxmf.solvers.Solver) -> None:
    """Fit one model to data of a new size, evaluate it, and get recommendations."""
    data = jaxmf.datasets.synthetic(num_users=20 + index, num_items=25 + index, num_ratings=8 * (20 + index))
    fit = jaxmf.fit(KEY, jaxmf.models.biased_mf(4), solver, data, epochs=2)
    jaxmf.evaluate.rating(fit.model, fit.params, data)
    jaxmf.recommend.top_n(fit.model, fit.params, data, n=3)


def features(index: int) -> None:
    """Fit a model with new item features, of 400 kB, to the same ratings."""
    data = jaxmf.datasets.synthetic(num_users=20, num_items=25, num_ratings=160)
    table = np.random.default_rng(index).standard_normal((25, 2000))
    jaxmf.fit(KEY, jaxmf.models.content_mf(4, table), ADAM, data, epochs=2)


def functions_of_jax(index: int) -> None:
    """Compile about a hundred calls of JAX's functions for a new size, run them once, and drop the program."""

    def program(x: jax.Array) -> jax.Array:
        for _ in range(12):
            x = jnp.where(x > 0, jnp.sin(x), jnp.take(x, jnp.argsort(x), axis=0)) + jnp.cumsum(jnp.clip(x, -1, 1)) ** 2
            x = jnp.concatenate([x[1:], x[:1]]) / jnp.linalg.norm(x)
        return jnp.sum(x)

    jax.jit(program)(jnp.arange(20.0 + index)).block_until_ready()


KINDS = {
    "als, sizes": lambda index: sizes(index, ALS),
    "adam, sizes": lambda index: sizes(index, ADAM),
    "adam, features": features,
    "jax alone, sizes": functions_of_jax,
}


def resident() -> float:
    """Return the MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")]


def in_use() -> float:
    """Return the MiB that the C library has allocated and not freed; NaN if it does not report them."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return float("nan")
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    allocated: int = info.uordblks + info.hblkhd
    return allocated / 2**20


def maps() -> int:
    """Return the number of memory maps of this process."""
    return len(Path("/proc/self/maps").read_text().splitlines())


def main() -> None:
    """Measure all kinds, each in a separate process, or one kind in this process."""
    # `benchmarks.setting` has such a parser too, but importing it would add matplotlib to the measured memory.
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__, formatter_class=form)
    parser.add_argument("--smoke", action="store_true", help="a few fits of each kind")
    parser.add_argument("--count", type=int, default=300, help="fits of each kind")
    parser.add_argument(
        "--kind", choices=KINDS, metavar="KIND", help=f"run only this kind, in this process: {'; '.join(KINDS)}"
    )
    arguments = parser.parse_args()
    count = 4 if arguments.smoke else arguments.count
    if arguments.kind is None:
        print("kind,fits,resident_mib,in_use_mib,programs,maps,arrays", flush=True)
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.memory", "--kind", kind, "--count", str(count)]
            subprocess.run(command, check=True)
        return
    for index in range(count):
        KINDS[arguments.kind](index)
        if (index + 1) % max(1, count // 10) == 0:
            print_row(arguments.kind, str(index + 1))
    jax.clear_caches()
    print_row(arguments.kind, f"{count} cleared")


def print_row(kind: str, fits: str) -> None:
    """Print a row of the table."""
    gc.collect()
    held = len(jax.devices()[0].client.live_executables()), maps(), len(jax.live_arrays())
    print(f'"{kind}",{fits},{resident():.0f},{in_use():.0f},{",".join(map(str, held))}', flush=True)


if __name__ == "__main__":
    main()
