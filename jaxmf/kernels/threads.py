"""Blocks of work in threads of the host, since most programs for a block of rows keep one core busy."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def num_threads() -> int:
    """How many threads of the host keep the devices busy: one per core on a CPU, and one elsewhere."""
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def blocks(function: Callable[[int], Any], count: int, workers: int) -> Iterator[Any]:
    """`function` of 0 .. count - 1, in order; the first call compiles, the others run in threads."""
    if count:
        yield function(0)
    if workers == 1 or count < 3:
        yield from map(function, range(1, count))
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, range(1, count))
