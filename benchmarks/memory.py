"""What many fits of other sizes, and many models of other features, leave behind in memory.

    python -m benchmarks.memory            # 300 fits of each kind, some minutes
    python -m benchmarks.memory --smoke    # a few

Each kind runs in a process of its own, as the one before would blur it. A row is printed every tenth of the way:
resident memory; how much of it the C library has given out, with glibc (it keeps more than that, in pieces between what
is in use); programs that XLA holds; memory maps of the process (Linux grants 65,530, and most are programs'); and
arrays on the device. Programs, maps and arrays must stay level after the first 30 fits. What is in use grows even then,
by some 0.2 MiB per fit of another size, and what is resident by several times that: JAX keeps what it has traced of
its own functions for each new size, most of it as objects of Python, which the C library does not count. The last
kind shows the same without jaxmf: a new `jax.jit` for each size, dropped after one call. The last row of a kind is
after `jax.clear_caches`, which lets go of all that.
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

if "JAX_PLATFORMS" not in os.environ:  # on a CPU, whose memory is the process's; said before the key below uses JAX
    jax.config.update("jax_platforms", "cpu")

KEY = jax.random.key(0)
ALS, ADAM = jaxmf.solvers.als(), jaxmf.solvers.minibatch(optax.adam, 64)


def sizes(number: int, solver: jaxmf.solvers.Solver) -> None:
    """One model, fitted to data of another size each time, judged and asked for recommendations."""
    data = jaxmf.datasets.synthetic(num_users=20 + number, num_items=25 + number, num_ratings=8 * (20 + number))
    fit = jaxmf.fit(KEY, jaxmf.models.biased_mf(4), solver, data, epochs=2)
    jaxmf.evaluate.rating(fit.model, fit.params, data)
    jaxmf.recommend.top_n(fit.model, fit.params, data, n=3)


def features(number: int) -> None:
    """A model of other features of the items each time, on the same ratings; the features are 400 kB."""
    data = jaxmf.datasets.synthetic(num_users=20, num_items=25, num_ratings=160)
    given = np.random.default_rng(number).standard_normal((25, 2000))
    jaxmf.fit(KEY, jaxmf.models.content_mf(4, given), ADAM, data, epochs=2)


def functions_of_jax(number: int) -> None:
    """A hundred calls of functions of JAX, compiled for another size each time, and dropped."""

    def program(x: jax.Array) -> jax.Array:
        for _ in range(12):
            x = jnp.where(x > 0, jnp.sin(x), jnp.take(x, jnp.argsort(x), axis=0)) + jnp.cumsum(jnp.clip(x, -1, 1)) ** 2
            x = jnp.concatenate([x[1:], x[:1]]) / jnp.linalg.norm(x)
        return jnp.sum(x)

    jax.jit(program)(jnp.arange(20.0 + number)).block_until_ready()


KINDS = {
    "als, sizes": lambda number: sizes(number, ALS),
    "adam, sizes": lambda number: sizes(number, ADAM),
    "adam, features": features,
    "jax alone, sizes": functions_of_jax,
}


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")]
    _fields_ += [(name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")]


def in_use() -> float:
    """MiB that the C library has given out and not been given back; NaN where it does not tell."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return float("nan")
    ask.restype = _Mallinfo2
    found = ask()
    return (found.uordblks + found.hblkhd) / 2**20


def maps() -> int:
    """Memory maps of this process."""
    return len(Path("/proc/self/maps").read_text().splitlines())


def main() -> None:
    """All kinds, each in a process of its own, or one kind in this process."""
    # `benchmarks.setting` has such a parser too, but would bring matplotlib into the memory that is measured.
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__, formatter_class=form)
    parser.add_argument("--smoke", action="store_true", help="a few fits of each kind")
    parser.add_argument("--count", type=int, default=300, help="fits of each kind")
    parser.add_argument("--kind", choices=KINDS, metavar="KIND", help=f"in this process only one: {'; '.join(KINDS)}")
    chosen = parser.parse_args()
    count = 4 if chosen.smoke else chosen.count
    if chosen.kind is None:
        print("kind,fits,resident_mib,in_use_mib,programs,maps,arrays", flush=True)
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.memory", "--kind", kind, "--count", str(count)]
            subprocess.run(command, check=True)
        return
    for number in range(count):
        KINDS[chosen.kind](number)
        if (number + 1) % max(1, count // 10) == 0:
            tell(chosen.kind, str(number + 1))
    jax.clear_caches()
    tell(chosen.kind, f"{count} cleared")


def tell(kind: str, fits: str) -> None:
    """Print a row."""
    gc.collect()
    held = len(jax.devices()[0].client.live_executables()), maps(), len(jax.live_arrays())
    print(f'"{kind}",{fits},{resident():.0f},{in_use():.0f},{",".join(map(str, held))}', flush=True)


if __name__ == "__main__":
    main()
