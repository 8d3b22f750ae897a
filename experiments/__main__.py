"""Run experiments one after another, and write the table of the documents' figures beside ours.

    python -m experiments [NAME ...] [--smoke]     run all experiments, or those named
    python -m experiments --table                  only write the table, from existing results

Writes results/README.md, or with --smoke results/smoke/README.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from experiments.setting import RESULTS, shown
from jaxmf.files import output

NAMES = (
    *("gradient_study", "sgd_movielens", "content_blending", "als_sweep", "latent_factors", "solver_race", "scaling"),
    "implicit_feedback",
)


def overview(results: Path) -> str:
    """Return all figures of the documents beside ours, from each study's document.csv, in Markdown."""
    tables = []
    for path in (results / name / "document.csv" for name in NAMES):
        if path.exists():
            config = json.loads((path.parent / "config.json").read_text("utf-8"))
            table = shown(pd.read_csv(path, dtype={"document": str, "seeds": "Int64"}).fillna({"why": ""}))
            study = f"[{path.parent.name}]({path.parent.name}/summary.md)"
            tables.append(table.assign(study=study, data=config["data"]["name"], command=f"`{config['command']}`"))
    merged = pd.concat(tables)
    parts = [
        "# The documents' figures beside ours",
        "Written by `python -m experiments --table` from the results of each study; its `summary.md` says more. Where "
        "ours comes from several seeds it is their mean, with the least and the largest; `within` says whether the "
        "document's figure lies between those or, where no seed changes ours, whether it is the same to the printed "
        "digits.",
        output.markdown(merged[["study", *merged.columns.drop("study")]]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the experiments named on the command line, then write the table."""
    parser = argparse.ArgumentParser("python -m experiments", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"experiments to run, of {', '.join(NAMES)}; default: all"
    )
    parser.add_argument("--smoke", action="store_true", help="small runs that only check that the scripts work")
    parser.add_argument("--table", action="store_true", help="run nothing, only write the table")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"unknown experiment {', '.join(sorted(unknown))}; expected some of {', '.join(NAMES)}")
    for name in () if arguments.table else arguments.names or NAMES:
        print(f"experiments.{name}", flush=True)  # noqa: T201
        command = [sys.executable, "-m", f"experiments.{name}", *(["--smoke"] if arguments.smoke else [])]
        subprocess.run(command, check=True)
    results = RESULTS / "smoke" if arguments.smoke else RESULTS
    output.write_text(results / "README.md", overview(results))


if __name__ == "__main__":
    main()
