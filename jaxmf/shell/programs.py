"""Keep compiled programs in the user's cache folder, so that the next command loads them and need not compile."""

import hashlib
import os
import platform
from collections.abc import MutableMapping
from importlib.metadata import version
from pathlib import Path

import platformdirs


def keep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let JAX keep compiled programs, unless its own variables say otherwise. Call this before JAX is imported.

    Args:
      environment: the environment variables that JAX will read.
    """
    features = processor()
    # One folder per kind of processor: machines that share a home must not load each other's programs.
    kind = hashlib.sha256(features.encode()).hexdigest()[:8]
    environment.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(Path(platformdirs.user_cache_dir("jaxmf")) / "programs" / kind)
    )
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # at level 1, XLA reports every program that it loads
    if not quiet(version("jax"), features):
        environment.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")


def quiet(jax: str, features: str) -> bool:
    """Return whether this version of JAX loads kept programs without printing errors, given the processor's features.

    On a processor with AVX-512, jax 0.9 compiles with a tuning preference that it does not find among the processor's
    features when it loads the program: the program runs, but every load prints some kilobytes of errors. Hiding them
    would hide other errors too, so the command line compiles anew there, which takes about two seconds.

    >>> quiet("0.9.2", "sse2 avx2 avx512f"), quiet("0.9.2", "sse2 avx2"), quiet("0.12.0", "sse2 avx2 avx512f")
    (False, True, True)
    """
    major, minor = (int(part) for part in jax.split(".")[:2])
    return (major, minor) >= (0, 11) or "avx512" not in features


def processor() -> str:
    """Return the processor's features as the kernel lists them; without a list, assume AVX-512 on x86."""
    machine = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{machine} avx512" if machine.lower() in ("x86_64", "amd64") else machine
