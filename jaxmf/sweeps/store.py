"""Store the finished batches of a sweep on disk, one file each, so that a sweep that was killed can continue."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmf.data.ratings import Ratings
from jaxmf.files import archive, members, output
from jaxmf.files.locks import Claimed
from jaxmf.sweeps.batches import Batch, Result
from jaxmf.training._fingerprints import fingerprint
from jaxmf.training.state import STATUS, FitState

_MANIFEST = "config.json"
_FOLDER = "members"
_FORMAT = "jaxmf.sweep"
_SAME = ("configuration", "data", "versions", "device", "dtype")


def claim(
    folder: Claimed, configuration: dict[str, Any], ratings: Ratings, arrays: Any, program: Callable[[], str]
) -> None:
    """Record in config.json that the folder belongs to this sweep, or check that it does.

    Args:
      folder: the folder, which no other run can use meanwhile.
      configuration: all arguments of the sweep, ready for JSON.
      ratings: training ratings, whose sizes are recorded.
      arrays: a pytree of all data, whose fingerprint is recorded.
      program: returns the text of the program, which depends on every static argument that has no name; its digest is
        recorded.

    Raises:
      ValueError: the folder holds another sweep; the message says what differs.
    """
    sizes = {"num_users": ratings.num_users, "num_items": ratings.num_items, "num_ratings": len(ratings.value)}
    data: dict[str, Any] = sizes | {"fingerprint": fingerprint(arrays)}
    manifest = json.loads(output.to_json(output.manifest(data, configuration, seed=None)))
    manifest["dtype"] = str(ratings.value.dtype)
    path = folder.path / _MANIFEST
    if path.exists():
        before = _manifest(path, folder.option)
        _refuse_other(folder, before, manifest, _SAME)
    elif (folder.path / _FOLDER).exists():
        raise ValueError(
            f"{folder.path} holds members of a sweep but no {_MANIFEST}: give another {folder.option}, or delete it"
        )
    manifest["program"] = hashlib.sha256(program().encode()).hexdigest()[:16]
    if path.exists():
        _refuse_other(folder, before, manifest, ("program",))
    else:
        output.write_json(path, manifest)


def _manifest(path: Path, option: str) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is not the manifest of a sweep: give another {option}, or delete it")
    return manifest


def _refuse_other(folder: Claimed, before: dict[str, Any], now: dict[str, Any], names: tuple[str, ...]) -> None:
    old, new = (_flat({name: manifest.get(name) for name in names}) for manifest in (before, now))
    different = [name for name in old | new if old.get(name) != new.get(name)]
    if different:
        name = different[0]
        more = f" (and in {len(different) - 1} more)" if len(different) > 1 else ""
        raise ValueError(
            f"{folder.path} holds another sweep: it differs in {name}{more}, which is {_brief(old.get(name))} there "
            f"and {_brief(new.get(name))} here. Give another {folder.option}, or delete the folder"
        )


def _brief(value: Any) -> str:
    """Return the text of a value; of a long list only its length, its first and its last item."""
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} items from {value[0]!r} to {value[-1]!r}"
    return repr(value)


def write(folder: Path, number: int, results: dict[int, Result]) -> None:
    """Write the results of batch `number`, whole or not at all."""
    arrays: archive.Arrays = {}
    header = {}
    for member, result in results.items():
        history = {name: archive.put(arrays, f"{member}.{name}", column) for name, column in result.history.items()}
        trees = {"params": result.params, "state": result.state}
        entries = {name: _put(arrays, f"{member}.{name}", tree) for name, tree in trees.items()}
        header[str(member)] = {"status": result.status, "epoch": result.epoch, "history": history, **entries}
    archive.write(_path(folder, number), {"members": header}, arrays, _FORMAT)


def read(folder: Path, batch: Batch, like: FitState) -> dict[int, Result]:
    """Return the results of a batch, empty if it is not on disk; `like` has the structure of a member's state.

    Raises:
      ValueError: the file is damaged, or holds other members; the message names the file, and says to delete it.
    """
    path = _path(folder, batch.number)
    if not path.exists():
        return {}
    try:
        header, arrays = members.read(path, _FORMAT)
        results = {}
        for member, packed in header["members"].items():
            history = {name: arrays[entry] for name, entry in packed["history"].items()}
            trees = _get(arrays, packed["params"], like.params), _get(arrays, packed["state"], like)
            result = Result(packed["status"], packed["epoch"], history, *trees)
            _check(result)
            results[int(member)] = result
        if results.keys() != set(batch.members):
            raise ValueError(f"it holds the members {[*results]}, expected {batch.members}")
        return results
    except (MemoryError, OSError):
        raise
    except Exception as error:  # an unexpected value in the header may raise anything, in any library
        reason = error if isinstance(error, ValueError) else f"its header is not as a sweep writes it ({error!r:.200})"
        raise ValueError(f"{path}: {reason}. Delete this file, and its members are fitted again") from error


def _put(arrays: archive.Arrays, name: str, tree: Any) -> dict[str, str] | None:
    """Put the leaves of a pytree into the arrays, and return their names by path."""
    if tree is None:
        return None
    return {path: archive.put(arrays, name + path, leaf) for path, leaf in archive.by_path(tree).items()}


def _get(arrays: archive.Arrays, entries: dict[str, str] | None, like: Any) -> Any:
    """Undo `_put`: return the pytree of these leaves, in the structure, dtypes and shapes of `like`."""
    if entries is None:
        return None
    leaves = {path: arrays[entries[path]] for path in archive.by_path(like)}
    for path, leaf in archive.by_path(like).items():
        if (leaves[path].dtype, leaves[path].shape) != (leaf.dtype, leaf.shape):
            raise ValueError(f"it has a leaf {path} that is not {leaf.dtype}{list(leaf.shape)}, as in this sweep")
    return jax.tree.unflatten(jax.tree.structure(like), list(leaves.values()))


def _check(result: Result) -> None:
    """Raise ValueError unless a sweep can continue from this result of a member."""
    status, epoch = result.status, result.epoch
    if type(status) is not int or not 0 <= status < len(STATUS) or type(epoch) is not int or epoch < 0:
        raise ValueError(f"it has a member of status {status!r:.20} and epoch {epoch!r:.20}")
    if len({column.shape for column in result.history.values()}) != 1 or result.history["epoch"].ndim != 1:
        raise ValueError("it has a history whose columns differ in length")
    for tree in (result.params, result.state and result.state.params):
        for leaf in jax.tree.leaves(tree and tree.trained):
            if not np.isfinite(leaf).all():
                raise ValueError("it has parameters that are NaN or infinite")


def _path(folder: Path, number: int) -> Path:
    return folder / _FOLDER / f"batch-{number:05d}.npz"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict with dotted names."""
    if not isinstance(tree, dict):
        return {name: tree}
    return {n: x for key, child in tree.items() for n, x in _flat(child, f"{name}.{key}" if name else key).items()}
