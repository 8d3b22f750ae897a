"""Validate a fit and its data before they are saved and after they are loaded: `save` refuses what `load` would."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from jaxmf.data.dataset import Dataset
from jaxmf.models import Params, SparseRows
from jaxmf.models.checks import check_hyper
from jaxmf.training import Fit
from jaxmf.training._fingerprints import Fingerprints
from jaxmf.training.state import STATUS


def check_data(data: Dataset) -> None:
    """Raise ValueError, naming the first invalid part, unless a Dataset is as its constructors make it. Cost: O(n)."""
    if type(data.name) is not str:
        raise ValueError(f"data.name is {data.name!r:.50}, expected a string")
    has_fractions = getattr(data.timestamp, "dtype", None) == np.float64
    time_dtype = np.float64 if has_fractions else np.int64
    columns = {"user": np.int32, "item": np.int32, "rating": np.float64, "timestamp": time_dtype, "weight": np.float64}
    for name, dtype in columns.items():
        array = getattr(data, name)
        if name in ("timestamp", "weight") and array is None:
            continue
        if getattr(array, "dtype", None) != dtype or array.shape != (len(data.rating),):
            actual = f"{getattr(array, 'dtype', None)}{list(np.shape(array))}"
            raise ValueError(f"data.{name} is {actual}, expected {np.dtype(dtype)}[{len(data.rating)}]")
    for name in ("rating", "timestamp", "weight"):
        if getattr(data, name) is not None and not np.isfinite(getattr(data, name)).all():
            raise ValueError(f"data.{name} has NaN or infinite values")
    if data.weight is not None and not (data.weight > 0).all():
        raise ValueError("data.weight has values of 0 or below, expected numbers above 0")
    for name, ids in (("user", data.user_ids), ("item", data.item_ids)):
        index = getattr(data, name)
        if len(index) and not 0 <= index.min() <= index.max() < len(ids):
            raise ValueError(f"data.{name} has an index outside 0 .. {len(ids) - 1}, the range of data.{name}_ids")
        if not ids.is_unique or ids.isna().any():
            raise ValueError(f"data.{name}_ids has a missing or repeated id")
    if data.items is not None and not (isinstance(data.items, pd.DataFrame) and len(data.items) == data.num_items):
        raise ValueError(f"data.items has {len(data.items)} rows, expected one for each of {data.num_items} items")


def check_fit(fit: Fit, built_in: bool) -> None:
    """Raise ValueError, naming the first invalid part, unless a Fit is as `fit` makes it.

    Shapes of parameters are not checked here, but against the model.

    Args:
      fit: the fit.
      built_in: whether the model is one of `jaxmf.models`, whose fixed leaves must be finite, too.
    """
    check_hyper(fit.hyper)
    if fit.status not in STATUS:
        raise ValueError(f"status is {fit.status!r:.50}, expected one of {', '.join(STATUS)}")
    seconds = fit.compile_seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e12:
        raise ValueError(f"compile_seconds is {seconds!r:.50}, expected a number of at least 0")
    state, best = fit.state, fit.state.best
    _check_integer(state.status, "state.status", len(STATUS) - 1)
    _check_integer(state.epoch, "state.epoch", np.iinfo(np.int32).max)
    trees = {"params": fit.params, "state.params": state.params}
    if best is not None:
        trees["state.best.params"] = best.params
        _check_integer(best.epoch, "state.best.epoch", int(state.epoch))
        if np.shape(best.score) != () or not jnp.issubdtype(best.score.dtype, jnp.floating) or np.isnan(best.score):
            raise ValueError(f"state.best.score is {best.score!r:.50}, expected a number")
    for name, params in trees.items():
        check_params(params, name, built_in)
    check_history(fit.history)
    _check_fingerprints(fit.fingerprints)


def check_history(history: dict[str, Any]) -> None:
    """Raise ValueError unless the columns of a history are numbers of equal length and its epochs increase."""
    lengths = {np.shape(column) for column in history.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1 or not {"epoch", "seconds"} <= history.keys():
        raise ValueError(f"history has columns of lengths {[list(shape) for shape in lengths]}, expected one length")
    for name, column in history.items():
        if not (jnp.issubdtype(column.dtype, jnp.floating) or jnp.issubdtype(column.dtype, jnp.integer)):
            raise ValueError(f"history.{name:.80} is {column.dtype}, expected numbers")
    epoch = np.asarray(history["epoch"])
    if len(epoch) and not (epoch[0] >= 1 and (np.diff(epoch) > 0).all()):
        raise ValueError("history.epoch does not increase from 1 or more")
    if not np.isfinite(np.asarray(history["seconds"])).all():
        raise ValueError("history.seconds has NaN or infinite values")


def check_features(matrix: Any, num_bytes: int) -> None:
    """Raise ValueError if the features, padded to the longest row as in the parameters, would exceed `num_bytes`."""
    longest = np.diff(csr_array(matrix).indptr).max(initial=0)
    if 4 * matrix.shape[0] * int(longest) > num_bytes:
        raise ValueError("its features have a longer row than its parameters: the file was changed")


def check_params(params: Params, name: str, built_in: bool) -> None:
    """Raise ValueError, naming the first invalid part, unless all trained leaves are finite.

    The fixed leaves of a built-in model must be finite, too, and its feature indices in range.
    """
    _check_finite(params.trained, f"{name}.trained")
    if not built_in:
        return
    _check_finite(params.fixed, f"{name}.fixed")
    for rows in jax.tree.leaves(params.fixed, is_leaf=lambda node: isinstance(node, SparseRows)):
        if isinstance(rows, SparseRows):
            width = params.trained.user["content"].shape[1]
            column = np.asarray(rows.column)
            if column.size and not 0 <= column.min() <= column.max() < width:
                raise ValueError(f"{name}.fixed has a feature outside 0 .. {width - 1}")


def _check_finite(tree: Any, name: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{name}{jax.tree_util.keystr(path):.80} has NaN or infinite values")


def _check_integer(value: Any, name: str, maximum: int) -> None:
    if np.shape(value) != () or value.dtype != np.int32 or not 0 <= int(value) <= maximum:
        raise ValueError(f"{name} is {value!r:.50}, expected an int32 from 0 to {maximum}")


def _check_fingerprints(fingerprints: Any) -> None:
    if fingerprints is None:
        return
    parts = [part for part in fingerprints if part is not None]
    has_train = isinstance(fingerprints, Fingerprints) and fingerprints.train is not None
    if not has_train or not all(type(part) is str and re.fullmatch("[0-9a-f]{16}", part) for part in parts):
        raise ValueError(f"fingerprints is {fingerprints!r:.80}, expected 16 hex digits for each part of the ratings")
