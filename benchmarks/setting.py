"""The command line that all benchmarks share, their timers, and the files that they write."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from jaxmf import plot
from jaxmf.files import output

RESULTS = Path("results/benchmarks")
Result = TypeVar("Result")


class Setting(NamedTuple):
    """A run: its name, its job, the folder for the results, and whether it is only a smoke test."""

    name: str
    job: str
    out: Path
    smoke: bool

    def write(
        self, name: str, table: pd.DataFrame, data: dict[str, Any], configuration: dict[str, Any], seed: int | None = 0
    ) -> None:
        """Write a table as CSV, and its manifest beside it."""
        self.table(name, table)
        self.manifest(name, data, configuration, seed)

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as CSV."""
        output.write_table(self.out / f"{name}.csv", table)

    def manifest(self, name: str, data: dict[str, Any], configuration: dict[str, Any], seed: int | None = 0) -> None:
        """Write the manifest of a result, which says where it came from, as JSON."""
        job = {"job": f"benchmarks.{self.name} {self.job}".strip(), "smoke": self.smoke}
        output.write_json(self.out / f"{name}.json", output.manifest(data, job | configuration, seed))

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as PNG."""
        plot.save(figure, self.out / "figures" / f"{name}.png")


def command_line(name: str, about: str, smoke: bool = False) -> argparse.ArgumentParser:
    """Return the parser of a benchmark, with its docstring as help, and with --smoke if it has a tiny run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=about, formatter_class=form, allow_abbrev=False
    )
    if smoke:
        parser.add_argument("--smoke", action="store_true", help="a tiny run, written to a temporary folder")
    return parser


def begin(name: str, job: str = "", smoke: bool = False) -> Setting:
    """Return the setting of a run, and print where it writes."""
    out = Path(tempfile.mkdtemp(prefix=f"jaxmf-{name}-")) if smoke else RESULTS / name
    print(f"Writes to {out}", flush=True)
    return Setting(name, job, out, smoke)


def setting(name: str, about: str, jobs: Collection[str] = (), smoke: bool = False) -> Setting:
    """Read the command line of a benchmark, which names one of its jobs if it has several."""
    parser = command_line(name, about, smoke)
    if jobs:
        parser.add_argument("job", choices=jobs, help="what to measure")
    arguments = vars(parser.parse_args())
    return begin(name, arguments.get("job", ""), arguments.get("smoke", False))


def clocked(call: Callable[[], Any]) -> float:
    """Return the seconds of a call until its result is ready."""
    clock = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - clock


def alternate(ways: Mapping[str, Callable[[], Result]], rounds: int, about: str = "rounds") -> dict[str, list[Result]]:
    """Call the alternatives in turn, round by round, so that all see the same load; return their results by round."""
    results: dict[str, list[Result]] = {way: [] for way in ways}
    for _ in tqdm(range(rounds), desc=about):
        for way, call in ways.items():
            results[way].append(call())
    return results


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return the columns of several times: median, minimum and maximum."""
    return {"seconds": statistics.median(seconds), "min_seconds": min(seconds), "max_seconds": max(seconds)}


def show(table: pd.DataFrame, digits: int = 4, turned: bool = False) -> None:
    """Print a table, one line per row, or one line per column if `turned`, for a table of many columns."""
    form = f"{{:.{digits}g}}".format
    if turned:
        print(table.T.to_string(header=False, float_format=form, na_rep=""))
    else:
        print(table.to_string(index=False, float_format=form, na_rep=""))


def bars(labels: Sequence[str], values: Sequence[float], texts: Sequence[str], axis: str, log: bool = False) -> Figure:
    """Draw a horizontal bar for each value, from the top, with its text at the end."""
    figure = Figure(figsize=(7, 0.7 + 0.4 * len(labels)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(labels, values, color=plot.style.COLORS[0])
    axes.bar_label(drawn, texts, padding=3)
    axes.set_xlabel(axis)
    if log:
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return figure
