"""Run blocks of work in host threads, since a program for one block of rows usually keeps only one core busy."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def num_threads() -> int:
    """Number of host threads that keep the devices busy: one per core on a CPU, one elsewhere."""
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def blocks(function: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    """Yield `function(0)`, …, `function(count - 1)` in order. The first call compiles; the others run in threads."""
    if count:
        yield function(0)
    if workers == 1 or count < 3:
        yield from map(function, range(1, count))
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, range(1, count))
