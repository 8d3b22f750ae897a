"""How XLA compiles the library's programs."""

from collections.abc import Callable
from typing import Any

import jax

# A pass that makes two kernels of a sum of more than 32 numbers, on a CPU: they take longer to run and to compile than
# one. Over many millions of float32 numbers they lose less, as `metrics.total` does.
TWO_STEP_SUMS = "tree_reduction_rewriter"


def without(*passes: str) -> tuple[tuple[str, Any], ...]:
    """The options by which XLA compiles without these of its passes."""
    return (("xla_disable_hlo_passes", ",".join(passes)),)


def once(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """`jax.jit` for what runs once: XLA compiles it sooner, and the program takes longer. Not for use under `jit`."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})
