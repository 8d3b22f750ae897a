"""Write results to disk, each file atomically, and describe their origin in a manifest."""

import csv
import errno
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxmf.files import locks

_PACKAGES = ("jaxmf", "jax", "jaxlib", "optax", "numpy", "pandas", "scipy", "scikit-learn")


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file atomically, by renaming a temporary file beside it: readers see the old file or the new one.

    Args:
      path: the file; its folder is created if it does not exist.
      save: function that writes to the path it is given, which has the suffix of `path`.

    Raises:
      OSError: from the file system.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe, such as /dev/stdout
        save(path)
        return
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file; expected a folder", str(path.parent))
    target = Path(os.path.realpath(path))  # replace the target of a symbolic link, not the link
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.temporary(target) as unfinished:
            save(unfinished)
            os.replace(unfinished, target)
    except OSError as error:
        if error.errno is None:
            raise
        # Name the requested file instead of the temporary one; for a full disk, Python names no file at all.
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a tidy table as CSV: floats in the fewest digits that restore them in their dtype, text unchanged."""
    # A carriage return in a field without quotes would end the line, and Python's writer does not quote it.
    text = [table.iloc[:, i] for i in range(table.shape[1]) if pd.api.types.is_string_dtype(table.dtypes.iloc[i])]
    has_returns = any(column.astype(str).str.contains("\r", regex=False).any() for column in text)
    quoting = csv.QUOTE_NONNUMERIC if has_returns else csv.QUOTE_MINIMAL
    write(path, lambda p: table.to_csv(p, index=False, quoting=quoting))


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `to_json` formats it."""
    write_text(path, to_json(content) + "\n")


def to_json(content: Any) -> str:
    """Return indented JSON, with arrays as lists and NumPy scalars as numbers."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=lambda x: np.asarray(x).tolist())


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8."""
    write(path, lambda p: p.write_text(text, encoding="utf-8"))


def markdown(table: pd.DataFrame, form: str = "{:.4f}") -> str:
    """Return a table in Markdown: floats that 3 decimals represent as `:g`, others in `form`, NaN as an empty cell."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:g}" if value == round(value, 3) else form.format(value)
        return str(value)

    rows = [list(table.columns), ["---"] * table.shape[1], *([cell(v) for v in row] for row in table.to_numpy(object))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def manifest(data: dict[str, Any], configuration: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """Return what produced a result, ready for JSON.

    Args:
      data: description of the data, such as `Dataset.describe()`.
      configuration: the options of the run.
      seed: seed of the run, or None if it has no single seed.

    Returns:
      command, configuration, data, versions, device, dtype, seed and git commit (None outside a checkout).
    """
    device = jax.devices()[0]
    return {
        "command": locks.command(),
        "configuration": configuration,
        "data": data,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind}), {os.cpu_count()} host cores",
        "dtype": str(jax.numpy.zeros(0, float).dtype),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of this package, with "-dirty" if its files have changed since; other files do not count."""
    here = Path(__file__)
    package = here.parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(here))  # fails inside another project's checkout
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
