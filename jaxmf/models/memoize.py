"""Equal arguments build one object, and it is remembered how a model was built."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import csr_array, issparse

from jaxmf.models.model import Model

P = ParamSpec("P")
T = TypeVar("T")

# Keyed by `init`, which each built model has for itself: a record lives as long as the model, and keeps none alive.
_BUILT: WeakKeyDictionary[Any, tuple[Callable[..., Any], dict[str, Any], tuple[Any, ...]]] = WeakKeyDictionary()


def memoize(build: Callable[P, T]) -> Callable[P, T]:
    """Equal arguments, however they are passed, build one object only, so that compiled programs are found again.

    Arrays and SciPy's sparse matrices are equal if their numbers are; NumPy's numbers become Python's. Of a Model it is
    remembered how it was built, see `how_built`.
    """
    signature, make = inspect.signature(build), cast(Callable[..., T], build)

    @lru_cache(typed=True)
    def remembered(*args: Any) -> T:
        return make(*(arg.matrix if isinstance(arg, _Matrix) else arg for arg in args))

    @wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {name: _hashable(argument) for name, argument in bound.arguments.items()}
        built = remembered(*arguments.values())
        if isinstance(built, Model):
            plain = {name: arg.matrix if isinstance(arg, _Matrix) else arg for name, arg in arguments.items()}
            _BUILT[built.init] = (call, plain, built[1:])
        return built

    return call


def how_built(model: Model) -> tuple[Callable[..., Model], dict[str, Any]] | None:
    """The constructor and the arguments, defaults included, that give this model.

    None for a model that no constructor under `memoize` returned: a user's own, or one with a part replaced.
    """
    try:
        constructor, arguments, parts = _BUILT.get(model.init, (None, {}, ()))
    except TypeError:  # an `init` without weak references or without a hash is nobody's
        return None
    return (constructor, arguments) if constructor is not None and parts == model[1:] else None


@dataclass(frozen=True)
class _Matrix:
    """An array, or a sparse matrix, that equals others by the digest of its numbers."""

    digest: bytes
    matrix: Any = field(compare=False)


def _hashable(argument: Any) -> Any:
    if isinstance(argument, np.generic):
        return argument.item()
    if issparse(argument):
        matrix: Any = csr_array(argument, copy=True)
        parts = [matrix.indptr, matrix.indices, matrix.data]
    else:
        try:
            hash(argument)
            return argument
        except TypeError:
            matrix = np.array(argument)
            parts = [matrix]
    digest = hashlib.sha256(repr((matrix.shape, *(part.dtype for part in parts))).encode())
    for part in parts:
        digest.update(part.tobytes())
    return _Matrix(digest.digest(), matrix)
