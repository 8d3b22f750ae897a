"""Compiled programs live as long as the model that they are of, and only the last of them."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import jax
import numpy as np

from jaxmf.models.memoize import notes

T = TypeVar("T")

_NOTE = "programs"


class _Programs(dict[Any, Any]):
    """Programs by the function that builds them. None goes along where a function is pickled with all it knows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Programs, ()


def of_model(maxsize: int = 16) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """`functools.lru_cache` for a function of a model, or of a function of one, and of static choices.

    What it returns lies on the model's `init` function (or `predict`, where there is none), or on that function. So it
    may refer to the model and yet goes when the model does, at the next collection of garbage.
    """

    def decorate(build: Callable[..., T]) -> Callable[..., T]:
        without_notes = lru_cache(maxsize)(build)

        @wraps(build)
        def call(model: Any, *args: Any) -> T:
            owner = getattr(model, "init", None) or getattr(model, "predict", model)
            if (known := notes(owner)) is not notes(owner):  # a callable that keeps none
                return without_notes(model, *args)
            programs = known.setdefault(_NOTE, _Programs())
            remembered = programs.get(build) or programs.setdefault(build, lru_cache(maxsize)(build))
            return remembered(model, *args)

        return call

    return decorate


def jit(function: Callable[..., T], **options: Any) -> Callable[..., T]:
    """`jax.jit` that keeps its programs for the last 16 shapes of its arguments, where `jax.jit` keeps all.

    It keeps them for itself too: `jax.jit` shares those of a function among all its calls, for as long as that lives.
    """

    @lru_cache(16)
    def compiled(form: Any) -> jax.stages.Wrapped:
        return jax.jit(wraps(function)(lambda *given: function(*given)), **options)

    @wraps(function)
    def call(*given: Any) -> T:
        leaves, structure = jax.tree.flatten(given)
        return compiled((structure, *map(np.shape, leaves)))(*given)

    return call


def shapes(tree: Any) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """The structure of a pytree, and its leaves' shapes and dtypes: the key of what was traced before."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
