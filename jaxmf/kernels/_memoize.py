"""Constructors that return the same object for equal arguments, and remember how it was built, so that it pickles."""

import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
from scipy.sparse import csr_array, issparse

P = ParamSpec("P")
T = TypeVar("T")

_MANY, _FEW = 64, 4  # objects that a constructor keeps alive by itself; fewer of those built from arrays
_NOTE = "built"


class Built(NamedTuple):
    """How an object was built: `constructor(**arguments)` gave `result`."""

    constructor: Callable[..., Any]
    arguments: dict[str, Any]
    result: Any


def memoize(build: Callable[P, T]) -> Callable[P, T]:
    """Make a constructor return the same object for equal arguments, so that its compiled programs are found again.

    It does not matter whether arguments are passed by position or by name. Arrays and SciPy's sparse matrices are equal
    if their numbers are; NumPy's scalars become Python's. For objects with an `init` function (models and solvers), the
    way they were built is noted on that function, see `how_built`, and so is collected with the object. The last 64
    objects are kept alive, or the last 4 of those built from arrays.
    """
    signature, make = inspect.signature(build), cast(Callable[..., T], build)
    alive: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def remembered(*args: Any) -> T:
        typed = args, tuple(map(type, args))
        if (init := alive.get(typed)) is not None:
            earlier: T = notes(init)[_NOTE].result
            return earlier
        plain = [arg.matrix if isinstance(arg, _Matrix) else arg for arg in args]
        result = make(*plain)
        init = getattr(result, "init", None)
        note = Built(call, dict(zip(signature.parameters, plain, strict=True)), result)
        # If another constructor made this `init`, its note stays.
        if init is not None and notes(init).setdefault(_NOTE, note) is note:
            alive[typed] = init
        return result

    many, few = lru_cache(_MANY, typed=True)(remembered), lru_cache(_FEW, typed=True)(remembered)

    @wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = [_hashable(argument) for argument in bound.arguments.values()]
        return (few if any(isinstance(argument, _Matrix) for argument in arguments) else many)(*arguments)

    return call


def notes(function: Any) -> dict[str, Any]:
    """Return the dict of notes that lives as long as the function; a new one if the callable cannot keep any."""
    kept = getattr(function, "__dict__", None)
    return kept if isinstance(kept, dict) else {}


def how_built(built: Any) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Return the constructor and all its arguments that give this model or solver.

    Return None if no constructor under `memoize` returned it: it is a user's own, or a part was replaced.
    """
    note = notes(built.init).get(_NOTE)
    return (note.constructor, note.arguments) if isinstance(note, Built) and note.result == built else None


def described(built: Any) -> str:
    """Describe a model or a solver in one line: its constructor with all arguments but defaults, or else its name."""
    kind, how = type(built).__name__, how_built(built)
    if how is None:
        return f"<{kind} {built.name}>"
    constructor, arguments = how
    default = {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()}
    shown = [f"{name}={_short(value)}" for name, value in arguments.items() if value is not default[name]]
    return f"<{kind} {getattr(constructor, '__name__', built.name)}({', '.join(shown)})>"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return str(getattr(value, "__name__", None) or repr(value))


def reduced(built: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what pickle writes of a model or a solver: its constructor, the arguments, and the replaced parts.

    So unpickling returns the object that exists already, with its compiled programs. An object without a constructor is
    written part by part. Functions are written by name: one without a name in its module is a ValueError.
    """
    note = notes(built.init).get(_NOTE)
    if isinstance(note, Built):
        parts = zip(built._fields, built, note.result, strict=True)
        replaced = {name: part for name, part, original in parts if part is not original}
        how, functions = (_rebuilt, (note[:2], replaced)), [note.constructor, *note.arguments.values()]
        functions += replaced.values()
    else:
        how, functions = (type(built), tuple(built)), list(built)
    for function in functions:
        if callable(function) and not _has_name(function):
            raise ValueError(
                f"{type(built).__name__} {built.name!r} cannot be pickled, since {_short(function)} is not a function "
                "of a module: define it with `def` in a module, at its top level; or keep the fit by jaxmf.save, which "
                "stores no functions, and pass the model to jaxmf.load"
            )
    return how


def _rebuilt(built: tuple[Callable[..., Any], dict[str, Any]], replaced: dict[str, Any]) -> Any:
    constructor, arguments = built
    return constructor(**arguments)._replace(**replaced) if replaced else constructor(**arguments)


def _has_name(function: Any) -> bool:
    """Whether pickle can write a function: by its name, or with its code, as cloudpickle does for joblib."""
    try:
        pickle.dumps(function)
        return True
    except (AttributeError, TypeError, ValueError, pickle.PicklingError):
        frame = sys._getframe()
        while frame.f_back is not None and "cloudpickle" not in frame.f_globals.get("__name__", ""):
            frame = frame.f_back
        return frame.f_back is not None


@dataclass(frozen=True)
class _Matrix:
    """An array or a sparse matrix that compares by a digest of its numbers."""

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
