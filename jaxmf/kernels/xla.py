"""How XLA compiles the library's programs."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxmf.kernels.programs import Form

# A pass that makes two kernels of a sum of more than 32 numbers, on a CPU: they take longer to run and to compile than
# one. Over many millions of float32 numbers they lose less, as `metrics.total` does.
TWO_STEP_SUMS = "tree_reduction_rewriter"

# LLVM optimizes less, which takes less time. Programs made of gathers, scatters and short sums run as fast or faster;
# blocks that stay in a cache, as those of `als`, run slower.
LESS_OPTIMIZED = ("xla_backend_optimization_level", 1)

# And hardly at all, for programs that run a few times.
IN_A_HURRY = {LESS_OPTIMIZED[0]: 0, "xla_llvm_disable_expensive_passes": True}
_FEW = 1 << 20  # numbers, with which such a program takes some hundredths of a second more, and compiles in tenths less


def without(*passes: str) -> tuple[tuple[str, Any], ...]:
    """The options by which XLA compiles without these of its passes."""
    return (("xla_disable_hlo_passes", ",".join(passes)),)


def here(options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """These options for the devices that there are: how much LLVM optimizes is measured on CPUs alone."""
    return {name: value for name, value in options if jax.default_backend() == "cpu" or name not in IN_A_HURRY}


def once(function: Callable[..., Any], form: Form) -> jax.stages.Wrapped:
    """`jax.jit` for what runs once, on arrays of this form: XLA compiles it sooner, and the program takes longer. Not
    for use under `jit`.
    """
    numbers = max((math.prod(leaf.shape) for leaf in form[1]), default=0)
    return jax.jit(function, compiler_options=here(IN_A_HURRY.items() if numbers < _FEW else [LESS_OPTIMIZED]))
