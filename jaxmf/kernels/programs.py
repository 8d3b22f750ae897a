"""Compiled programs live as long as the model that they are of, and only the last ones of a process."""

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
Form = tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]  # of a pytree: what `shapes` returns

_NOTE = "programs"
# A kernel of a program takes memory maps of its own, and Linux grants a process 65,530 of them: XLA ends in a
# segmentation fault when it gets no more. The programs of a fit take some 300, so these many take a tenth of them.
_MOST = 128
# Compiling takes memory in many pieces. The C library of Linux keeps those that are free, in between what is still in
# use, until it is asked to give them back; that takes some hundredths of a second, so it is asked now and then.
_NOW_AND_THEN = 32


class _Home(dict[Any, "_Program"]):
    """Programs by what they were built from. None goes along where a function is pickled with all it knows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Home, ()


class _Program:
    """A program in its home."""

    def __init__(self, program: Any, home: _Home, made_of: Any) -> None:
        self.program, self.home, self.made_of = program, home, made_of


_built = count(1)
_used: WeakValueDictionary[int, _Program] = WeakValueDictionary()  # by id; what was used last comes last
_lock = Lock()


def _kept(home: _Home, made_of: Any, build: Callable[[], T]) -> T:
    """The program made of this, built unless it is at home; the one whose last use was first makes room for it."""
    found = home.get(made_of)
    if found is None:
        if next(_built) % _NOW_AND_THEN == 0:
            _give_back()
        found = home.setdefault(made_of, _Program(build(), home, made_of))
    with _lock:
        _used.pop(id(found), None)
        _used[id(found)] = found
        if len(_used) > _MOST:
            for oldest in list(_used.values())[:-_MOST]:
                del _used[id(oldest)]
                oldest.home.pop(oldest.made_of, None)
    return found.program


def _give_back() -> None:
    """Free memory goes back to the system, where the C library has a way to be asked."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def of_model(build: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for a function of a model, or of one such as a solver's `prepare`, and of static choices.

    What it returns lies on the model's `init` function (or `predict`, where there is none), or on that function. So it
    may refer to the model and yet goes when the model does, at the next collection of garbage.
    """
    homeless = _Home()

    @wraps(build)
    def call(model: Any, *args: Any) -> T:
        owner = getattr(model, "init", None) or getattr(model, "predict", model)
        known = notes(owner)
        home = known.setdefault(_NOTE, _Home()) if known is notes(owner) else homeless  # some callables keep no notes
        return _kept(home, (build, model, *args), lambda: build(model, *args))

    return call


def jit(function: Callable[..., T], **options: Any) -> Callable[..., T]:
    """`jax.jit` that keeps programs for the last shapes of its arguments only, where `jax.jit` keeps all.

    Each shape has a function of its own to compile, since `jax.jit` keeps all programs of one function together.
    """
    home = _Home()

    @wraps(function)
    def call(*given: Any) -> T:
        leaves, structure = jax.tree.flatten(given)
        form = structure, *map(np.shape, leaves)
        compiled = _kept(home, form, lambda: jax.jit(wraps(function)(lambda *given: function(*given)), **options))
        return compiled(*given)

    return call


def shapes(tree: Any) -> Form:
    """The structure of a pytree, and its leaves' shapes and dtypes: the key of what was traced before."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
