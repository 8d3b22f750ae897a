"""Options with which XLA compiles the library's programs."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxmf.kernels.programs import Form

# On a CPU, this pass splits a sum of more than 32 numbers into two kernels, which compile and run more slowly than one.
# They lose fewer digits in sums of many millions of float32 numbers, but for those there is `metrics.total`.
TWO_STEP_SUMS = "tree_reduction_rewriter"

# LLVM optimizes less and so compiles faster. Programs of gathers, scatters and short sums run as fast or faster; dense
# blocks that stay in a cache, as in `als`, run slower.
LESS_OPTIMIZED = ("xla_backend_optimization_level", 1)

# LLVM hardly optimizes at all, for programs that run a few times.
IN_A_HURRY = {LESS_OPTIMIZED[0]: 0, "xla_llvm_disable_expensive_passes": True}
# Up to this array size such a program runs some hundredths of a second longer, and compiles tenths of a second faster.
_FEW = 1 << 20


def without(*passes: str) -> tuple[tuple[str, Any], ...]:
    """Return the option that disables these passes of XLA."""
    return (("xla_disable_hlo_passes", ",".join(passes)),)


def here(options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the options that apply to the default backend: those of LLVM were measured on CPUs only."""
    return {name: value for name, value in options if jax.default_backend() == "cpu" or name not in IN_A_HURRY}


def once(function: Callable[..., Any], form: Form) -> jax.stages.Wrapped:
    """`jax.jit` for a program that runs once on arrays of this form: it compiles faster and runs more slowly.

    Not for use under another `jit`, which would ignore the options.
    """
    numbers = max((math.prod(leaf.shape) for leaf in form[1]), default=0)
    return jax.jit(function, compiler_options=here(IN_A_HURRY.items() if numbers < _FEW else [LESS_OPTIMIZED]))
