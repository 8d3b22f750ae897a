"""Programs that run once."""

from collections.abc import Callable
from typing import Any

import jax


def once(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """`jax.jit` for what runs once: XLA compiles it sooner, and the program takes longer. Not for use under `jit`."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})
