"""The command line."""

import re
from pathlib import Path
from unittest import mock

import pandas as pd
from helpers import shell

from bad_input.builders import CLIP


def command(*arguments):
    """A ValueError with what the command line prints on standard error: one line, and exit code 2."""
    ended = shell(*arguments)
    assert (ended.code, ended.out) == (2, "")
    line = " ".join(ended.err.replace("│", " ").split())
    assert not re.search(r"\b(sep|header|columns|ids|duplicates|missing|on_unknown)=", line)  # arguments of Python
    if "Invalid value" not in line:  # typer's own, in a box
        assert ended.err.startswith("jaxmf: ")
        assert ended.err.count("\n") == 1
    raise ValueError(line)


def fitted(*arguments):
    return command("fit", "--out", "new", "--epochs", 2, *arguments)


def on(name, *arguments):
    return fitted("--data", name, *arguments)


def without_engine():
    with mock.patch.object(pd, "read_parquet", side_effect=ImportError):
        return on("good.parquet")


def with_fit(name, text, *arguments):
    Path("own.csv").write_text(text)
    return command(name, "--data", "own.csv", "--fit", "fit.npz", "--out", "new", *arguments)


def written(text, *arguments):
    Path("own.csv").write_text(text)
    return on("own.csv", *arguments)


CASES = {
    "command-no-file": (lambda: on("absent.csv"), r"--data absent\.csv: no such file"),
    "command-no-parquet": (lambda: on("absent.parquet"), r"--data absent\.parquet: no such file"),
    "command-no-gz": (lambda: on("absent.csv.gz"), r"--data absent\.csv\.gz: no such file"),
    "command-parquet": (lambda: on("bad.parquet"), r"bad\.parquet: .*Parquet"),
    "command-no-engine": (
        without_engine,
        r"good\.parquet: .*needs pyarrow: pip install 'jaxmf\[parquet\]'",
    ),
    "command-data": (
        lambda: on("netflix"),
        "--data must be synthetic, .*, ml-20m or the path of a CSV or Parquet file, not 'netflix'",
    ),
    "command-movielens": (
        lambda: on("ml-latest-small"),
        r"looked in nowhere: neither root= nor JAXMF_DATA is set\)\. Download .*synthetic\(\) needs no download",
    ),
    "command-column": (
        lambda: on("short.csv", "--rename", "stars=rating"),
        r"short\.csv: missing column 'stars' \(rating\); found .* Rename with --rename NAME=rating",
    ),
    "command-nan": (
        lambda: on("nan.csv"),
        r"nan\.csv: column 'rating': NaN or infinite rating in 1 row\(s\), at line 3; .*: correct these rows",
    ),
    "command-empty": (lambda: on("empty.csv"), r"empty\.csv: the table has no rows; expected one row per rating"),
    "command-ragged": (
        lambda: on("ragged.csv"),
        r"ragged\.csv: line 3 has 4 fields, '1', '2', '3', '4', but the first line has 3\.",
    ),
    "command-tiny": (lambda: on("tiny.csv"), "no part may be empty: use larger fractions, fewer parts or more data"),
    "command-rename": (lambda: on("tiny.csv", "--rename", "userId"), "--rename must be NAME=OURS .*, not 'userId'"),
    "command-rename-to": (
        lambda: on("tiny.csv", "--rename", "a=user"),
        "--rename must be NAME=OURS with OURS one of user_id, item_id, rating, timestamp, weight, not 'a=user'",
    ),
    "command-rename-time": (
        lambda: on("tiny.csv", "--rename", "a=timestamp"),
        r"--rename a=timestamp: tiny\.csv has no such column for timestamp",
    ),
    "command-rename-position": (
        lambda: on("tiny.csv", "--no-header", "--rename", "userId=user_id", "1=item_id"),
        "--rename must be POSITION=OURS with --no-header, positions from 0, not 'userId=user_id', '1=item_id'",
    ),
    "command-sep": (
        lambda: on("good.csv", "--sep", ";"),
        r"good\.csv: missing column user_id, .*\. With --sep ',' they are there\. Rename with --rename NAME=user_id ",
    ),
    "command-sep-ragged": (
        lambda: with_fit("evaluate", "user_id,item_id,rating\n1,102,3,4\n"),
        r"own\.csv: line 2 has 4 fields, .*; if the separator is another one, name it, as in --sep ';'$",
    ),
    "command-no-columns": (
        lambda: with_fit("predict", "1;102\n", "--no-header", "--sep", ","),
        r"own\.csv: missing column item_id: .* With --sep ';' they are there\.$",
    ),
    "command-ids": (
        lambda: written("user_id,item_id,rating\nX1,102,3\n", "--ids", "int"),
        r"own\.csv: column 'user_id': an id that is not a plain integer \('X1'\) .* or keep .* with --ids str$",
    ),
    "command-date": (
        lambda: written("user_id,item_id,rating,timestamp\n1,102,3,31.1.2024\n"),
        r"own\.csv: column 'timestamp': a date that cannot be read \('31\.1\.2024'\) in 1 row\(s\), at line 2",
    ),
    "command-duplicates": (
        lambda: written("user_id,item_id,rating\n1,2,3\n1,2,4\n"),
        r"at line 2, 3\. Expected each pair once: keep one of each with --duplicates last\|mean\|sum$",
    ),
    "command-missing": (
        lambda: written("user_id,item_id,rating\n1,2,3\n1,,4\n"),
        r"column 'item_id': missing id in 1 row\(s\), at line 3; .* or leave them out with --missing drop$",
    ),
    "command-parquet-sep": (
        lambda: on("bad.parquet", "--sep", ";"),
        r"--sep and --no-header are for files of text, and bad\.parquet is Parquet",
    ),
    "command-recommend-options": (
        lambda: command("recommend", "--fit", "fit.npz", "--sep", ";", "--missing", "drop"),
        "--sep, --missing are for a --new file",
    ),
    "command-rename-synthetic": (
        lambda: fitted("--rename", "a=user_id"),
        "--rename is for CSV and Parquet files; synthetic has its own names",
    ),
    "command-devices": (
        lambda: on("good.csv", "--solver", "adam", "--devices", "2"),
        "--devices is for the solvers sgd and als, not adam",
    ),
    "command-solver": (
        lambda: on("good.csv", "--solver", "lbfgs"),
        "--solver must be one of sgd, .*, als, not 'lbfgs'",
    ),
    "command-model": (
        lambda: on("good.csv", "--model", "svd"),
        "--model must be one of mf, biased_mf, content_mf, ials, .*, logistic_mf or module:attribute, not 'svd'",
    ),
    "command-no-module": (
        lambda: on("good.csv", "--model", "absent:model"),
        "--model absent:model: .*absent",
    ),
    "command-no-attribute": (
        lambda: on("good.csv", "--model", "strange:absent"),
        "--model strange:absent: .*no attribute 'absent'",
    ),
    "command-not-a-model": (
        lambda: on("good.csv", "--model", "strange:number"),
        "--model strange:number: expected a jaxmf.Model, found int",
    ),
    "command-l2": (lambda: on("good.csv", "--l2", "-1"), "hyper: l2 must be finite and at least 0, not -1.0"),
    "command-rank": (lambda: on("good.csv", "--rank", "0"), "Invalid value for '--rank'"),
    "command-clip": (lambda: on("good.csv", "--clip", "5", "1"), CLIP + r"\(5\.0, 1\.0\)"),
    "command-out": (lambda: on("good.csv", "--out", "good.csv"), "Invalid value for '--out': .*'good.csv' is a file"),
    "command-study": (
        lambda: command("study", "--data", "good.csv", "--out", "new", "--l2", 0.1, "--l2", -0.1),
        "hyper: l2 must be finite and at least 0, not -0.1",
    ),
    "command-verify": (
        lambda: command("verify", "--data", "good.csv", "--l2", "nan"),
        "hyper: l2 must be finite and at least 0, not nan",
    ),
    "command-no-fit": (lambda: command("evaluate", "--data", "good.csv", "--fit", "absent.npz"), r"absent\.npz"),
    "command-evaluate-user": (
        lambda: with_fit("evaluate", "user_id,item_id,rating\n1,102,3\n99,102,3\n"),
        r"1 unknown user id\(s\): 99; known ids are like 0, 1, 2 \(user_ids\)\. Drop them, or check their type",
    ),
    "command-evaluate-column": (
        lambda: with_fit("evaluate", "user_id,item_id\n1,102\n", "--rename", "stars=rating"),
        r"own\.csv: missing column 'stars' \(rating\); .*--rename NAME=rating",
    ),
    "command-predict-no-file": (
        lambda: command("predict", "--data", "absent.csv", "--fit", "fit.npz", "--out", "new"),
        r"--data absent\.csv: no such file",
    ),
    "command-predict-again": (
        lambda: with_fit("predict", "user_id,item_id,prediction\n1,102,3\n"),
        r"--data own\.csv has a column prediction already, which would be lost: rename it in the file",
    ),
    "command-predict-parquet": (
        lambda: command("predict", "--data", "good.csv", "--fit", "fit.npz", "--out", "new.parquet"),
        r"--out new\.parquet: the table is written as CSV: name it new\.csv",
    ),
    "command-predict-item": (
        lambda: with_fit("predict", "user_id,item_id\n1,2\n"),
        r"1 unknown item id\(s\): 2; known ids are like 100, 101, 102.* pass --on-unknown bias or --on-unknown drop",
    ),
    "command-predict-column": (
        lambda: with_fit("predict", "user_id,movie\n1,2\n"),
        r"own\.csv: missing column item_id; found \['user_id', 'movie'\]\. Rename with ",
    ),
}
