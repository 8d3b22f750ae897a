"""Keep compiled programs: as long as their model lives, and only the most recently used ones of the process."""

import ctypes
from collections.abc import Callable
from functools import wraps
from itertools import count
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import jax
import numpy as np

from jaxmf.kernels._memoize import notes

T = TypeVar("T")
Form = tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]  # structure, shapes and dtypes of a pytree, see `shapes`

_NOTE = "programs"
# Every kernel of a program takes memory maps, of which Linux allows a process 65,530; XLA crashes when they run out.
# The programs of one fit take about 300 maps, so this many programs take a tenth of them.
_MAX_PROGRAMS = 128
# Compiling allocates memory in many small pieces. The C library of Linux keeps freed pieces until it is asked to return
# them, which takes some hundredths of a second: so it is asked once per this many programs.
_TRIM_EVERY = 32


class _Cache(dict[Any, "_Entry"]):
    """Programs by key. They are left out when the function that keeps them is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Cache, ()


class _Entry:
    """A program, with its place in a cache."""

    def __init__(self, program: Any, cache: _Cache, key: Any) -> None:
        self.program, self.cache, self.key = program, cache, key


_num_built = count(1)
_used: WeakValueDictionary[int, _Entry] = WeakValueDictionary()  # by id, the most recently used one last
_lock = Lock()


def _cached(cache: _Cache, cache_key: Any, build: Callable[[], T]) -> T:
    """Return the program of this key, built if it is not there; the least recently used one makes room for it."""
    entry = cache.get(cache_key)
    if entry is None:
        if next(_num_built) % _TRIM_EVERY == 0:
            _trim()
        entry = cache.setdefault(cache_key, _Entry(build(), cache, cache_key))
    with _lock:
        _used.pop(id(entry), None)
        _used[id(entry)] = entry
        if len(_used) > _MAX_PROGRAMS:
            for oldest in list(_used.values())[:-_MAX_PROGRAMS]:
                del _used[id(oldest)]
                oldest.cache.pop(oldest.key, None)
    program: T = entry.program
    return program


def _trim() -> None:
    """Return free memory to the system, where the C library can be asked to."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def of_model(build: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for a function whose first argument is a model, or a function such as a solver's `prepare`.

    All other arguments are static choices. Results are kept on the model's `init` (or `predict`, if it has no `init`),
    or on that function. So they may refer to the model and still go with it, at the next garbage collection.
    """
    shared_cache = _Cache()

    @wraps(build)
    def call(model: Any, *args: Any) -> T:
        owner = getattr(model, "init", None) or getattr(model, "predict", model)
        kept = notes(owner)
        can_keep = kept is notes(owner)  # some callables keep no notes
        cache = kept.setdefault(_NOTE, _Cache()) if can_keep else shared_cache
        return _cached(cache, (build, model, *args), lambda: build(model, *args))

    return call


def jit(function: Callable[..., T], **options: Any) -> Callable[..., T]:
    """`jax.jit` that keeps the programs of the most recently used shapes only, where `jax.jit` keeps all of them.

    Every shape gets a function of its own to compile, because `jax.jit` drops the programs of a function only together.
    """
    cache = _Cache()

    @wraps(function)
    def call(*arguments: Any) -> T:
        leaves, structure = jax.tree.flatten(arguments)
        form = structure, *map(np.shape, leaves)
        compiled = _cached(cache, form, lambda: jax.jit(wraps(function)(lambda *given: function(*given)), **options))
        result: T = compiled(*arguments)
        return result

    return call


def shapes(tree: Any) -> Form:
    """Return the structure of a pytree and its leaves' shapes and dtypes, as a key for what was traced with it."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
