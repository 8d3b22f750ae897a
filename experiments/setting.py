"""What every experiment is told on its command line, and the manifest that it leaves."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from jaxmf import named, output, plot
from jaxmf.data import Dataset


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
    return named.dataset("ml-latest-small" if os.environ.get("JAXMF_DATA") else "synthetic")


def setting(name: str, about: str, default: Callable[[], Dataset]) -> Setting:
    """Read the command line of the experiment of that name; `default` makes the data where none are named."""
    clock = time.perf_counter()
    parser = argparse.ArgumentParser(f"python -m experiments.{name}", description=about.splitlines()[0])
    parser.add_argument("--data", help="synthetic, a MovieLens release, or a CSV or Parquet file")
    parser.add_argument("--out", type=Path, default=Path("results") / name, help="folder for the results")
    parser.add_argument("--smoke", action="store_true", help="little of everything, to see that the script works")
    asked = parser.parse_args()
    data = default() if asked.data is None else named.dataset(asked.data)
    return Setting(name, data, asked.out, asked.smoke, clock)


def compared(rows: Sequence[tuple[str, float, pd.Series]], why: dict[str, str] | None = None) -> pd.DataFrame:
    """Figures of a document beside ours over seeds: mean, least and largest, and whether its own lies between those.

    Args:
      rows: for each figure its name, what the document prints, and ours, one per seed.
      why: name -> why they differ, where they do.
    """
    table = pd.DataFrame(
        [(name, printed, own.mean(), own.min(), own.max(), len(own)) for name, printed, own in rows],
        columns=["figure", "document", "ours", "least", "largest", "seeds"],
    )
    within = table["document"].between(table["least"], table["largest"])
    return table.assign(within=within.map({True: "yes", False: "no"}), why=table["figure"].map(why or {}).fillna(""))


def spread(table: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Mean of columns over seeds with a 95 % t interval, `low` and `high`, of the last of them."""
    groups = table.groupby(by, sort=False)
    found = groups[columns].mean()
    error, count = groups[columns[-1]].sem(), groups.size()
    reach = stats.t.ppf(0.975, count - 1) * error
    found["low"], found["high"] = found[columns[-1]] - reach, found[columns[-1]] + reach
    return found.reset_index()
