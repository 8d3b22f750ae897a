"""What every benchmark is told on its command line, how it takes times, and the files that it leaves."""

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

from jaxmf import output, plot

RESULTS = Path("results/benchmarks")
Result = TypeVar("Result")


class Setting(NamedTuple):
    """The name, the job that was asked for, the folder for the results, and whether a run only shows that it works."""

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
        """Write where a result came from, as JSON."""
        job = {"job": f"benchmarks.{self.name} {self.job}".strip(), "smoke": self.smoke}
        output.write_json(self.out / f"{name}.json", output.manifest(data, job | configuration, seed))

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as PNG."""
        plot.save(figure, self.out / "figures" / f"{name}.png")


def command_line(name: str, about: str, smoke: bool = False) -> argparse.ArgumentParser:
    """The parser of a benchmark, with its docstring as help, and with --smoke where there is a run that small."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=about, formatter_class=form, allow_abbrev=False
    )
    if smoke:
        parser.add_argument("--smoke", action="store_true", help="little of everything, written to a temporary folder")
    return parser


def begin(name: str, job: str = "", smoke: bool = False) -> Setting:
    """The setting of a run, which says where it writes."""
    out = Path(tempfile.mkdtemp(prefix=f"jaxmf-{name}-")) if smoke else RESULTS / name
    print(f"Writes to {out}", flush=True)
    return Setting(name, job, out, smoke)


def setting(name: str, about: str, jobs: Collection[str] = (), smoke: bool = False) -> Setting:
    """Read the command line of a benchmark that does one of some jobs, or has only one."""
    parser = command_line(name, about, smoke)
    if jobs:
        parser.add_argument("job", choices=jobs, help="what to measure")
    asked = vars(parser.parse_args())
    return begin(name, asked.get("job", ""), asked.get("smoke", False))


def clocked(call: Callable[[], Any]) -> float:
    """Seconds of a call, until its result is there."""
    clock = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - clock


def alternate(ways: Mapping[str, Callable[[], Result]], rounds: int, about: str = "rounds") -> dict[str, list[Result]]:
    """What every way returns, round by round; in each round they come one after another, so that all share the load."""
    results: dict[str, list[Result]] = {way: [] for way in ways}
    for _ in tqdm(range(rounds), desc=about):
        for way, call in ways.items():
            results[way].append(call())
    return results


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Columns: the median of several times, the least and the largest."""
    return {"seconds": statistics.median(seconds), "min_seconds": min(seconds), "max_seconds": max(seconds)}


def show(table: pd.DataFrame, digits: int = 4, turned: bool = False) -> None:
    """Print a table, with a line for each row or, where it has many columns, for each column."""
    form = f"{{:.{digits}g}}".format
    if turned:
        print(table.T.to_string(header=False, float_format=form, na_rep=""))
    else:
        print(table.to_string(index=False, float_format=form, na_rep=""))


def bars(labels: Sequence[str], values: Sequence[float], texts: Sequence[str], axis: str, log: bool = False) -> Figure:
    """A horizontal bar for each value, from the top, with its text at the end."""
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
