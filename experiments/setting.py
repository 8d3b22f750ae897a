"""The command line that all experiments share, the files that they write, and common steps of their analyses."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

import jaxmf
from jaxmf import Hyper, Model, evaluate, plot, splits
from jaxmf.data import Dataset
from jaxmf.files import output
from jaxmf.shell import names
from jaxmf.solvers import Solver
from jaxmf.sweeps import Sweep

RESULTS, SMOKE_USERS = Path("results"), 50
Parts = tuple[Dataset, Dataset, Dataset]  # training, validation and test ratings


class Setting(NamedTuple):
    """A run: its name, data, folder for the results, whether it is only a smoke test, and its start on the clock."""

    name: str
    data: Dataset
    out: Path
    smoke: bool
    clock: float

    def begin(self, configuration: dict[str, Any], seed: int) -> dict[str, Any]:
        """Write config.json, the manifest of an unfinished run, and return it."""
        manifest = output.manifest(self.data.describe(), {"job": self.name, **configuration, "smoke": self.smoke}, seed)
        output.write_json(self.out / "config.json", manifest | {"finished": False})
        return manifest

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as CSV."""
        output.write_table(self.out / f"{name}.csv", table)

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as PNG."""
        plot.save(figure, self.out / "figures" / f"{name}.png")

    def finish(self, manifest: dict[str, Any], parts: Sequence[str]) -> None:
        """Write summary.md, from paragraphs and a note on how it was made, and the config.json of a finished run."""
        seconds = round(time.perf_counter() - self.clock, 1)
        made = (
            f"`{manifest['command']}` on {manifest['device']}, jax {manifest['versions']['jax']}, seed "
            f"{manifest['seed']}: {seconds:.0f} s. `config.json` has the configuration, the data's fingerprint and "
            "all versions."
        )
        output.write_text(self.out / "summary.md", "\n\n".join([*parts, "## How it was made", made]) + "\n")
        output.write_json(self.out / "config.json", manifest | {"wall_seconds": seconds, "finished": True})
        print(f"Read {self.out / 'summary.md'}")  # noqa: T201


def default_data() -> Dataset:
    """Return MovieLens latest-small if JAXMF_DATA is set, else embedded data of its size."""
    data: Dataset = names.dataset("ml-latest-small" if os.environ.get("JAXMF_DATA") else "synthetic")
    return data


def setting(name: str, about: str, default: Callable[[], Dataset]) -> Setting:
    """Read the command line of the experiment of that name; `default` makes the data if --data is not given."""
    clock = time.perf_counter()
    parser = argparse.ArgumentParser(f"python -m experiments.{name}", description=about.splitlines()[0])
    parser.add_argument("--data", help="synthetic, a MovieLens release, or a CSV or Parquet file")
    parser.add_argument(
        "--out", type=Path, help=f"folder for the results; default: results/{name}, or results/smoke/{name}"
    )
    parser.add_argument("--smoke", action="store_true", help="a small run that only checks that the script works")
    arguments = parser.parse_args()
    try:
        data = default() if arguments.data is None else names.dataset(arguments.data)
    except ValueError as error:  # its message names --data, which is an option here too
        parser.error(str(error))
    if arguments.smoke:
        # Most of the time is compilation, which XLA's fusion emitters double; later versions cannot turn them off.
        jax.config.update("jax_disable_most_optimizations", True)
        if jax.__version_info__ < (0, 10):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        data = data.take(np.flatnonzero(data.user < SMOKE_USERS))
    results = RESULTS / "smoke" if arguments.smoke else RESULTS
    return Setting(name, data, arguments.out or results / name, arguments.smoke, clock)


def by_time(data: Dataset) -> Parts:
    """Split as the documents do; sort each part by user and time, the order in which they number the items."""
    parts = splits.temporal_per_user(data) if data.timestamp is not None else splits.random(data, (0.7, 0.15, 0.15))
    train, valid, test = (part.take(user_then_time(part)) for part in parts)
    return train, valid, test


def user_then_time(data: Dataset) -> np.ndarray:
    """Return the order of the ratings by user, then by time, or by item if there are no timestamps."""
    return np.lexsort((data.item if data.timestamp is None else data.timestamp, data.user))


def over_seeds(
    model: Model,
    solver: Solver,
    parts: Sequence[Dataset],
    hyper: Hyper,
    num_seeds: int,
    epochs: int,
    patience: int | None = 5,
) -> tuple[pd.DataFrame, Sweep]:
    """Fit one setting from several seeds; return a row per seed with validation and test errors, and the sweep."""
    train, valid, test = parts
    problem = jax.random.key(0), model, solver, train, valid
    grid = {"seed": range(num_seeds)}
    runs = jaxmf.sweep(*problem, grid=grid, hyper=hyper, epochs=epochs, patience=patience, keep="all", progress=True)
    table = runs.to_frame()
    errors = pd.DataFrame([evaluate.rating(model, runs.params(member), test) for member in table.index])
    table = table[["rank", "l2", "learning_rate", "seed", "epoch", "valid_loss", "seconds", "dtype"]]
    table = table.rename(columns={"epoch": "best_epoch", "valid_loss": "valid_mse"})
    return table.assign(test_mse=errors["mse"], test_rmse=errors["rmse"]), runs


def compared(rows: Sequence[tuple[str, Any, Any]], why: dict[str, str] | None = None) -> pd.DataFrame:
    """Return a table of a document's figures beside ours: mean and range over seeds, and whether its figure is within.

    Args:
      rows: for each figure its name, the document's value, and ours: a Series with one number per seed, or a single
        value that is the same for all seeds. `within` says whether the document's value lies in the range over seeds
        or, for a single value, whether both agree to the printed digits.
      why: name -> why the figures differ, if they do.
    """
    records = []
    for name, printed, ours in rows:
        if isinstance(ours, pd.Series):
            low, high = ours.min(), ours.max()
            record = {"ours": ours.mean(), "least": low, "largest": high, "seeds": len(ours)}
            within = low <= printed <= high
        else:
            digits = len(str(printed).partition(".")[2]) if isinstance(printed, float) else 0
            record = {"ours": ours}
            within = ours == printed if isinstance(ours, str) else round(float(ours), digits) == printed
        records.append({"figure": name, "document": str(printed)} | record | {"within": "yes" if within else "no"})
    table = pd.DataFrame(records, columns=["figure", "document", "ours", "least", "largest", "seeds", "within"])
    return table.assign(seeds=table["seeds"].astype("Int64"), why=table["figure"].map(why or {}).fillna(""))


def shown(document: pd.DataFrame) -> pd.DataFrame:
    """Format a table of `compared` as text, our numbers with one digit more than the document prints."""

    def cell(value: Any, printed: str) -> str:
        if pd.isna(value) or value == "":
            return ""
        try:
            number = float(value)
        except ValueError:
            return str(value)
        return f"{number:.{len(printed.partition('.')[2]) + ('.' in printed or number % 1 > 0)}f}"

    text = document.astype(object)
    for name in ("ours", "least", "largest"):
        text[name] = [cell(*pair) for pair in zip(document[name], text["document"], strict=True)]
    return text.assign(seeds=["" if pd.isna(n) else str(n) for n in document["seeds"]])


def spread(table: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Average columns over seeds, with the 95 % t interval of the last column as `low` and `high`."""
    groups = table.groupby(by, sort=False)
    means = groups[columns].mean()
    error, count = groups[columns[-1]].sem(), groups.size()
    margin = stats.t.ppf(0.975, count - 1) * error
    means["low"], means["high"] = means[columns[-1]] - margin, means[columns[-1]] + margin
    return means.reset_index()
