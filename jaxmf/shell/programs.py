"""Compiled programs in the user's cache folder, so that the next command finds them and need not compile."""

import hashlib
import os
import platform
from collections.abc import MutableMapping
from importlib.metadata import version
from pathlib import Path

import platformdirs


def keep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let JAX keep compiled programs, unless its own variables say otherwise; to be called before JAX is imported.

    Args:
      environment: where JAX looks for its variables.
    """
    features = processor()
    # A folder for each kind of processor: a home that several machines share would offer programs of another one.
    kind = hashlib.sha256(features.encode()).hexdigest()[:8]
    environment.setdefault(
        "JAX_COMPILATION_CACHE_DIR", str(Path(platformdirs.user_cache_dir("jaxmf")) / "programs" / kind)
    )
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA tells at level 1 of every program that it finds
    if not quiet(version("jax"), features):
        environment.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")


def quiet(jax: str, features: str) -> bool:
    """Whether this version of JAX reads kept programs back without printing errors, on a processor of these features.

    jax 0.9 compiles for a processor with AVX-512 with a preference that it does not find among the processor's features
    when it reads the program back: every one is then followed by some kilobytes of errors, although it runs. To hide
    these would hide other errors too, so there the command line compiles anew, which takes about two seconds.

    >>> quiet("0.9.2", "sse2 avx2 avx512f"), quiet("0.9.2", "sse2 avx2"), quiet("0.12.0", "sse2 avx2 avx512f")
    (False, True, True)
    """
    major, minor = (int(part) for part in jax.split(".")[:2])
    return (major, minor) >= (0, 11) or "avx512" not in features


def processor() -> str:
    """The features of the processor, as the kernel lists them; without a list, those that XLA may know of."""
    machine = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{machine} avx512" if machine.lower() in ("x86_64", "amd64") else machine
