"""Save a fit and its data to one file and load them again, bit for bit, so that `fit` can continue from there."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import issparse

from jaxmf import models
from jaxmf.data.checks import expect
from jaxmf.data.dataset import Dataset
from jaxmf.data.ratings import Ratings
from jaxmf.files import archive, members
from jaxmf.files.archive import Arrays
from jaxmf.kernels._memoize import how_built
from jaxmf.models.checks import check_model
from jaxmf.models.model import Model
from jaxmf.models.params import Hyper, Params, cast_hyper
from jaxmf.persist import integrity
from jaxmf.persist.data import Packed, pack_data, unpack_data
from jaxmf.training import Best, Fit, FitState, Saved
from jaxmf.training._fingerprints import Fingerprints

_DTYPES = ("bfloat16", "float16", "float32", "float64")


def save(path: str | Path, fit: Fit, data: Dataset) -> None:
    """Write a fit, and a Dataset that has its users and items, to one file.

    The file is a zip of .npy arrays and a readable header.json, without pickle; `numpy.load(path)` opens it too. It
    holds the model (constructor and arguments), hyper, parameters, the whole state for `resume`, history, status, and
    the Dataset: ids, ratings, timestamps, weights, item metadata and name. Functions are not stored: if no constructor
    of `jaxmf.models` built the model, only its name is stored, and `load` asks for the model. The key is never stored.

    Args:
      path: the file, with any suffix; its folder is created if it does not exist. An old file is replaced atomically.
      fit: the result of `jaxmf.fit`.
      data: a Dataset with the users and items of the fit, such as its training data.

    Raises:
      ValueError: `data` has other users or items than the fit, or ids, item metadata, numbers in `hyper` or arguments
        of the model cannot be stored exactly; the message names them.
      OSError: from the file system.

    Cost: O(size). Arrays that shrink to under half, such as ratings and timestamps, are compressed; factors are not.
    Parameters shared with the state are stored once.
    """
    expect(fit, Fit, "save: fit", "pass the result of fit, as in save(path, fit, data)")
    expect(data, Dataset, "save: data", "pass one that has the fit's ids, such as its training data")
    arrays: Arrays = {}
    names: dict[int, str] = {}  # by id() of the leaf, because a fit shares its parameters with its state

    def leaf(array: Any, name: str) -> str:
        if id(array) not in names:
            names[id(array)] = archive.put(arrays, name, array)
        return names[id(array)]

    def leaves(tree: Any, name: str) -> dict[str, str]:
        by_path = tree.leaves if isinstance(tree, Saved) else archive.by_path(tree)
        return {path: leaf(array, ".".join([name, *re.findall(r"\w+", path)])) for path, array in by_path.items()}

    state, best = fit.state, fit.state.best
    header = {
        "model": _pack_model(fit.model, arrays),
        "hyper": {name: archive.encode(value, arrays, f"hyper.{name}") for name, value in fit.hyper._asdict().items()},
        "status": fit.status,
        "compile_seconds": fit.compile_seconds,
        "fingerprints": fit.fingerprints and fit.fingerprints._asdict(),
        "dtype": _dtype(fit, data),
        "params": leaves(fit.params, "params"),
        "state": {
            "epoch": leaf(state.epoch, "state.epoch"),
            "params": leaves(state.params, "state"),
            "solver": leaves(state.solver, "solver"),
            "best": best
            and {
                "params": leaves(best.params, "best"),
                "score": leaf(best.score, "best.score"),
                "epoch": leaf(best.epoch, "best.epoch"),
            },
            "status": leaf(state.status, "state.status"),
        },
        "history": {name: leaf(column, f"history.{name}") for name, column in fit.history.items()},
        "data": pack_data(data, arrays),
    }
    try:
        integrity.check_data(data)
        integrity.check_fit(fit, how_built(fit.model) is not None)
    except ValueError as error:
        raise ValueError(f"save: {error}") from error
    archive.write(Path(path), header, arrays, durable=True)


def load(path: str | Path, model: Model | None = None) -> tuple[Fit, Dataset]:
    """Return the fit and the data that `save` wrote.

    Args:
      path: the file.
      model: the model, needed only if no constructor of `jaxmf.models` built it; None rebuilds it from the file.

    Returns:
      (fit, data). The arrays are bit-for-bit the saved ones, on the default device, and `data.fingerprint()` is the
      same. `jaxmf.fit(key, fit.model, solver, ..., resume=fit)` continues as if it had never stopped, given the same
      key, solver and ratings. Until then `fit.state.solver` is `training.Saved`: the file has only the solver's state.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: from the file system.
      ValueError: the file is truncated, corrupted, changed, from another program or from a later version; the model is
        missing, or its parameters have other names, shapes or dtypes; or there are float64 parameters while JAX's
        64-bit types are disabled. The message starts with the path.

    Loading an untrusted file runs no code from it, and takes no more memory than the arrays that it really contains,
    except that ids and item metadata become Python objects, up to twenty times as large as their text.

    Cost: O(size), plus one abstract trace of the model's `init`.
    """
    path = Path(path)
    if model is not None:
        check_model(model)
    try:
        header, arrays = members.read(path)
        try:
            fit, data = _unpack(header, arrays, model)
            integrity.check_data(data)
            integrity.check_fit(fit, model is None)
            return fit, data
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # an unexpected value in the header can make any library raise anything
            raise ValueError(
                f"its header is not as jaxmf.save writes it ({error!r:.200}): the file was changed"
            ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _unpack(header: Packed, arrays: Arrays, model: Model | None) -> tuple[Fit, Dataset]:
    def leaf(member: str) -> jax.Array:
        return archive.to_jax(arrays, member)

    def leaves(packed: dict[str, str]) -> dict[str, jax.Array]:
        return {path: leaf(member) for path, member in packed.items()}

    packed, best = header["state"], header["state"]["best"]
    trees = [leaves(tree) for tree in (header["params"], packed["params"], *([best["params"]] if best else []))]
    data = unpack_data(header["data"], arrays)
    hyper = Hyper(**{name: archive.decode(value, arrays) for name, value in header["hyper"].items()})
    if model is None:
        model = _unpack_model(header["model"], arrays)
    like = _shapes(model, data, hyper, header["dtype"])
    for tree in trees:
        difference = _difference(tree, like)
        if difference is not None:
            raise ValueError(f"{difference}. Pass the model that was saved, as jaxmf.load(path, model=...)")
    params = [
        jax.tree.unflatten(jax.tree.structure(like), [tree[path] for path in archive.by_path(like)]) for tree in trees
    ]
    state = FitState(
        leaf(packed["epoch"]),
        params[1],
        Saved(leaves(packed["solver"])),
        best and Best(params[2], leaf(best["score"]), leaf(best["epoch"])),
        leaf(packed["status"]),
    )
    history = {name: np.asarray(arrays[member]) for name, member in header["history"].items()}
    fingerprints = header["fingerprints"] and Fingerprints(**header["fingerprints"])
    seconds = header["compile_seconds"]
    fit = Fit(model, params[0], hyper, state, history, header["status"], seconds, fingerprints)
    return fit, data


def _pack_model(model: Model, arrays: Arrays) -> Packed:
    constructor, arguments = how_built(model) or (None, {})
    name = getattr(constructor, "__name__", None)
    if constructor is None or getattr(models, str(name), None) is not constructor:
        name, arguments = None, {}
    packed = {key: archive.encode(value, arrays, f"model.{key}") for key, value in arguments.items()}
    return {"name": model.name, "constructor": name, "arguments": packed}


def _unpack_model(packed: Packed, arrays: Arrays) -> Model:
    """Build the model again; raise ValueError if the file does not name a constructor of `jaxmf.models`."""
    name = packed["constructor"]
    if name is None:
        raise ValueError(
            f"it holds a fit of a model that jaxmf.models did not build, {packed['name']!r:.80}, and no file holds "
            "functions: pass the model, as jaxmf.load(path, model=...)"
        )
    constructor = getattr(models, name, None) if name in models.__all__ else None
    if constructor is None or not hasattr(constructor, "__wrapped__"):
        raise ValueError(
            f"it holds a fit of models.{name!s:.40}, which this jaxmf does not have: update jaxmf, or pass model="
        )
    arguments = {key: archive.decode(value, arrays) for key, value in packed["arguments"].items()}
    for matrix in filter(issparse, arguments.values()):
        integrity.check_features(matrix, sum(array.nbytes for array in arrays.values()))
    model: Model = constructor(**arguments)
    return model


def _dtype(fit: Fit, data: Dataset) -> str:
    """Return the dtype of ratings for which the model makes parameters like the fit's; its ratings may be cast."""
    dtypes = {np.asarray(leaf).dtype for leaf in jax.tree.leaves(fit.params)}
    default = jnp.zeros(0, float).dtype
    differences = []
    for dtype in [default, *sorted((x for x in dtypes - {default} if jnp.issubdtype(x, jnp.floating)), key=str)]:
        difference = _difference(archive.by_path(fit.params), _shapes(fit.model, data, fit.hyper, dtype.name))
        if difference is None:
            return dtype.name
        differences.append(difference)
    raise ValueError(f"save: {differences[0]}. Pass the data that the model was fitted to, or a part with all its ids")


def _shapes(model: Model, data: Dataset, hyper: Hyper, dtype: str) -> Params:
    """Return the shapes and dtypes of the parameters that the model makes for such data."""
    index: Any = jax.ShapeDtypeStruct((len(data),), jnp.int32)
    if dtype not in _DTYPES:
        raise ValueError(f"its ratings are {dtype!r:.40}, expected one of {', '.join(_DTYPES)}: the file was changed")
    value: Any = jax.ShapeDtypeStruct((len(data),), jnp.dtype(dtype))
    ratings = Ratings(index, index, value, value, data.num_users, data.num_items)
    try:
        with jax.enable_x64("float64" in (dtype, jnp.zeros(0, float).dtype.name)):
            shapes: Params = jax.eval_shape(
                lambda r: model.init(jax.random.key(0), r, cast_hyper(hyper, dtype)), ratings
            )
            return shapes
    except Exception as error:
        if isinstance(error, ValueError | MemoryError):
            raise
        raise ValueError(f"the model {model.name!r} cannot be initialized for these data: {error!r}") from error


def _difference(leaves: dict[str, Any], like: Params) -> str | None:
    """Return the first difference between parameters by path and those that the model makes, or None."""
    saved, made = (
        {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in by_path.items()}
        for by_path in (leaves, archive.by_path(like))
    )
    for path in sorted(saved.keys() | made.keys()):
        if saved.get(path) != made.get(path):
            return f"params{path} is {saved.get(path, 'missing')}, but the model has {made.get(path, 'no such leaf')}"
    return None
