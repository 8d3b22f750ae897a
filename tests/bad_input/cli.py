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


LIKED = "user_id,item_id,rating\n" + "".join(f"{user},{item},1\n" for user in range(4) for item in range(user, 9))
PLAYED = "user_id,item_id,plays\n1,2,0\n1,3,7\n"


def liked(*arguments):
    return written(LIKED, *arguments)


def studied(name, *arguments):
    return command("study", "--data", name, "--out", "new", *arguments)


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
    "command-likes-of-ratings": (
        lambda: on("short.csv", "--model", "biased_mf"),
        r"short\.csv has no column rating; found \['user_id', 'item_id', 'timestamp'\]\. --model biased_mf is about "
        r"ratings, .* as in --rename stars=rating; or, .* --model ials, bpr, sampled_softmax or logistic_mf$",
    ),
    "command-likes-content": (
        lambda: written("user_id,item_id,stars\n1,2,3\n", "--model", "content_mf"),
        r"found \['user_id', 'item_id', 'stars'\]\. --model content_mf .* as in --rename stars=rating; or",
    ),
    "command-likes-equal": (
        lambda: liked("--model", "mf"),
        r"all ratings of own are 1, .* errors of --model mf would mean nothing \(an RMSE near 0\): use --model ials",
    ),
    "command-likes-sweep": (
        lambda: command("sweep", "--data", "short.csv", "--model", "mf", "--out", "new"),
        r"short\.csv has no column rating; .* --model mf is about ratings",
    ),
    "command-likes-bpr-als": (
        lambda: liked("--model", "bpr", "--solver", "als"),
        "--solver als cannot fit --model bpr: use --solver adam, momentum or minibatch$",
    ),
    "command-likes-ials-sgd": (
        lambda: liked("--model", "ials", "--solver", "sgd"),
        "--solver sgd cannot fit --model ials: use --solver als, adam, momentum or minibatch$",
    ),
    "command-likes-devices": (
        lambda: liked("--model", "bpr", "--devices", "2"),
        "--devices is for the solvers sgd and als, not adam",
    ),
    "command-unobserved-bpr": (
        lambda: liked("--model", "bpr", "--unobserved", "0.1"),
        "--unobserved is for a model with a loss over all cells, such as ials, not for --model bpr: leave it out",
    ),
    "command-unobserved-ratings": (
        lambda: on("good.csv", "--unobserved", "0"),
        "--unobserved is for a model with a loss over all cells, such as ials, not for --model biased_mf",
    ),
    "command-unobserved-sweep": (
        lambda: command("sweep", "--data", "good.csv", "--unobserved", "0.1", "1", "--out", "new"),
        "--unobserved is for a model with a loss over all cells, such as ials, not for --model biased_mf",
    ),
    "command-unobserved-negative": (
        lambda: liked("--unobserved", "-1", "--model", "ials"),
        "hyper: unobserved must be finite and at least 0, .*, not -1.0",
    ),
    "command-transform": (
        lambda: written(PLAYED, "--transform", "sqrt"),
        r"--transform must be log1p, or linear:NUMBER .* linear:40 for weights 1 \+ 40 · w, not 'sqrt'",
    ),
    "command-transform-negative": (
        lambda: written(PLAYED, "--transform", "linear:-3"),
        r"--transform must be log1p, or linear:NUMBER with a number above 0, .* not 'linear:-3'",
    ),
    "command-transform-text": (
        lambda: written(PLAYED, "--transform", "linear:many"),
        "--transform must be log1p, or linear:NUMBER .* not 'linear:many'",
    ),
    "command-transform-nothing": (
        lambda: on("good.csv", "--transform", "log1p"),
        r"good\.csv: --transform needs weights, .* as in --rename plays=weight, or count .* with --duplicates sum$",
    ),
    "command-transform-synthetic": (
        lambda: fitted("--transform", "log1p"),
        "--transform is for CSV and Parquet files; synthetic has its own names",
    ),
    "command-weight-absent": (
        lambda: on("good.csv", "--rename", "plays=weight"),
        r"good\.csv: missing column 'plays' \(weight\); found .* Rename with --rename NAME=weight",
    ),
    "command-weight-zero": (
        lambda: written("user_id,item_id,rating,plays\n1,2,3,0\n1,3,4,7\n", "--rename", "plays=weight"),
        r"own\.csv: column 'plays' \(weight\): weight of 0 in 1 row\(s\), at line 2; expected finite numbers above 0",
    ),
    "command-log": (
        lambda: with_fit("evaluate", "user_id,item_id,rating\n1,102,3\n1,102,3\n"),
        r"Expected each pair once: keep one of each with --duplicates last\|mean\|sum",
    ),
    "command-binarize": (
        lambda: on("good.csv", "--binarize", "9"),
        "--binarize: no rating is at least 9; the ratings of good are from 0 to 4: lower the threshold",
    ),
    "command-binarize-likes": (
        lambda: on("short.csv", "--binarize", "4"),
        r"short\.csv has no column rating; .* --binarize chooses by the rating: name .* or leave the option out",
    ),
    "command-stars-bpr": (
        lambda: on("good.csv", "--model", "bpr"),
        "bpr: the ratings range from 0 to 4, .* keep the liked ones by --binarize THRESHOLD, or use a model of ratings",
    ),
    "command-stars-logistic": (
        lambda: on("good.csv", "--model", "logistic_mf"),
        "logistic_mf: the ratings range from 0 to 4; expected 0 for no and 1 for yes: --binarize THRESHOLD keeps",
    ),
    "command-clip-likes": (
        lambda: liked("--model", "ials", "--clip", "0", "1"),
        "--clip is for predictions of ratings, but --model ials only orders items: leave it out",
    ),
    "command-evaluate-likes": (
        lambda: with_fit("evaluate", "user_id,item_id\n1,102\n"),
        r"own\.csv has no column rating; found \['user_id', 'item_id'\]\. The fit of biased_mf is about ratings, and",
    ),
    "command-recommend-likes": (
        lambda: command("recommend", "--new", "short.csv", "--fit", "fit.npz"),
        r"short\.csv has no column rating; .* The fit of biased_mf is about ratings, and if each row counted 1",
    ),
    "command-study-implicit": (
        lambda: studied("good.csv", "--feedback", "implicit"),
        "the ratings of good range from 0 to 4, and --feedback implicit takes every row as a like: .*--binarize THRESH",
    ),
    "command-study-explicit": (
        lambda: Path("own.csv").write_text(LIKED) and studied("own.csv", "--feedback", "explicit"),
        r"all ratings of own are 1, so that errors .* mean nothing \(an RMSE near 0\): use --feedback implicit",
    ),
    "command-study-unobserved": (
        lambda: studied("good.csv", "--unobserved", "0.1"),
        "--unobserved is for --feedback implicit, where ials has a loss over all cells: leave it out",
    ),
    "command-study-feedback": (
        lambda: studied("good.csv", "--feedback", "both"),
        "Invalid value for '--feedback': .*'both' is not one of 'explicit', 'implicit'",
    ),
}
