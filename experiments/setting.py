"""What every experiment is told on its command line, and the manifest that it leaves."""

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
from jaxmf import Hyper, Model, evaluate, output, plot, splits
from jaxmf.data import Dataset
from jaxmf.shell import names
from jaxmf.solvers import Solver
from jaxmf.sweeps import Sweep

RESULTS, SMOKE_USERS = Path("results"), 50
Parts = tuple[Dataset, Dataset, Dataset]  # training, validation and test ratings


class Setting(NamedTuple):
    """The name, data, folder for the results, whether a run only shows that the script works, and when it began."""

    name: str
    data: Dataset
    out: Path
    smoke: bool
    clock: float

    def begin(self, configuration: dict[str, Any], seed: int) -> dict[str, Any]:
        """Write config.json, the manifest of a run that has not finished yet, and return it."""
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
        """Write summary.md, of these paragraphs and how it was made, and the config.json of the finished run."""
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
    """MovieLens latest-small, where JAXMF_DATA has it, else the embedded data of its size."""
    return names.dataset("ml-latest-small" if os.environ.get("JAXMF_DATA") else "synthetic")


def setting(name: str, about: str, default: Callable[[], Dataset]) -> Setting:
    """Read the command line of the experiment of that name; `default` makes the data where none are named."""
    clock = time.perf_counter()
    parser = argparse.ArgumentParser(f"python -m experiments.{name}", description=about.splitlines()[0])
    parser.add_argument("--data", help="synthetic, a MovieLens release, or a CSV or Parquet file")
    parser.add_argument("--out", type=Path, help=f"folder for the results: results/{name}, or results/smoke/{name}")
    parser.add_argument("--smoke", action="store_true", help="little of everything, to see that the script works")
    asked = parser.parse_args()
    try:
        data = default() if asked.data is None else names.dataset(asked.data)
    except ValueError as error:  # in the terms of the command line, as the options here are called as there
        parser.error(str(error))
    if asked.smoke:
        # Compiling is most of the time; XLA's fusion emitters double it, and later versions leave no choice.
        jax.config.update("jax_disable_most_optimizations", True)
        if jax.__version_info__ < (0, 10):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        data = data.take(np.flatnonzero(data.user < SMOKE_USERS))
    results = RESULTS / "smoke" if asked.smoke else RESULTS
    return Setting(name, data, asked.out or results / name, asked.smoke, clock)


def by_time(data: Dataset) -> Parts:
    """The documents' split, each part in the order of its users and times, in which they number items."""
    parts = splits.temporal_per_user(data) if data.timestamp is not None else splits.random(data, (0.7, 0.15, 0.15))
    train, valid, test = (part.take(user_then_time(part)) for part in parts)
    return train, valid, test


def user_then_time(data: Dataset) -> np.ndarray:
    """The rows in the order of their users and, for each, of time, where it is known."""
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
    """One setting from several starts, a row each, with its validation and test errors."""
    train, valid, test = parts
    given = jax.random.key(0), model, solver, train, valid
    grid = {"seed": range(num_seeds)}
    runs = jaxmf.sweep(*given, grid=grid, hyper=hyper, epochs=epochs, patience=patience, keep="all", progress=True)
    table = runs.to_frame()
    errors = pd.DataFrame([evaluate.rating(model, runs.params(member), test) for member in table.index])
    table = table[["rank", "l2", "learning_rate", "seed", "epoch", "valid_loss", "seconds", "dtype"]]
    table = table.rename(columns={"epoch": "best_epoch", "valid_loss": "valid_mse"})
    return table.assign(test_mse=errors["mse"], test_rmse=errors["rmse"]), runs


def compared(rows: Sequence[tuple[str, Any, Any]], why: dict[str, str] | None = None) -> pd.DataFrame:
    """Figures of a document beside ours: mean, least and largest over seeds, and whether its own lies between those.

    Args:
      rows: for each figure its name, what the document prints, and ours: a Series with one number per seed, or a value
        that no seed changes, of which `within` says whether it is the printed one to the printed digits.
      why: name -> why they differ, where they do.
    """
    found = []
    for name, printed, own in rows:
        if isinstance(own, pd.Series):
            low, high = own.min(), own.max()
            known = {"ours": own.mean(), "least": low, "largest": high, "seeds": len(own)}
            within = low <= printed <= high
        else:
            digits = len(str(printed).partition(".")[2]) if isinstance(printed, float) else 0
            known = {"ours": own}
            within = own == printed if isinstance(own, str) else round(float(own), digits) == printed
        found.append({"figure": name, "document": str(printed)} | known | {"within": "yes" if within else "no"})
    table = pd.DataFrame(found, columns=["figure", "document", "ours", "least", "largest", "seeds", "within"])
    return table.assign(seeds=table["seeds"].astype("Int64"), why=table["figure"].map(why or {}).fillna(""))


def shown(document: pd.DataFrame) -> pd.DataFrame:
    """What `compared` returned, in text: numbers of ours to one digit more than the document prints."""

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
    """Mean of columns over seeds with a 95 % t interval, `low` and `high`, of the last of them."""
    groups = table.groupby(by, sort=False)
    found = groups[columns].mean()
    error, count = groups[columns[-1]].sem(), groups.size()
    reach = stats.t.ppf(0.975, count - 1) * error
    found["low"], found["high"] = found[columns[-1]] - reach, found[columns[-1]] + reach
    return found.reset_index()
