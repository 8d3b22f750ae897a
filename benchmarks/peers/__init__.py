"""The benchmark beside other libraries. Each gets two threads, which is set here, before any of them is imported.

OpenBLAS, OpenMP and the libraries in Rust read the number of their threads when they are loaded, and JAX counts cores
and creates its devices at its first use. Python runs this file before any module of the package, and so before all of
that.
"""

import os

THREADS = 2
os.environ |= {
    f"{name}_NUM_THREADS": str(THREADS) for name in ("OMP", "OPENBLAS", "MKL", "LK", "RAYON", "LK_NUM_BACKEND")
}
os.environ["JAX_NUM_CPU_DEVICES"] = str(THREADS)
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
