"""Turn the names on a command line into the objects: data, columns and ids; for models see `choices`.

Whatever loads JAX is imported inside the function that needs it, so that `--help` and completion do not wait for it.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

# The names that shell completion offers.
OF_RATINGS = ("mf", "biased_mf", "content_mf")
OF_LIKES = ("ials", "bpr", "sampled_softmax", "logistic_mf")
MODELS = (*OF_RATINGS, *OF_LIKES)
SOLVERS = ("sgd", "minibatch", "momentum", "adam", "als")
DATA = ("synthetic", "synthetic-implicit", "ml-latest-small", "ml-100k", "ml-1m", "ml-20m")
ALS_COMPONENTS = 64
_TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".dat", ".parquet"}  # they mean a file, even a missing one

_ARGUMENT = re.compile(
    r"""\b(?P<name>on_unknown|ids|duplicates|missing)=(?P<values>['"]?\w+['"]?(\|"\w+")*)"""
    r"""|\bsep=(?P<sep>"[^"]+")|\bcolumns=(?P<columns>\{[^}]*\})"""
)
# Advice in Python, and what it is in the shell.
_ADVICE = (
    (r"\bdata\.binarize\(threshold\)", "--binarize THRESHOLD"),
    (r'\bweight="(\w+)"', r"--rename \1=weight"),
    (r"^(.*: )?(?=transform (needs|made) )", r"\1--"),
    (r"^binarize:", "--binarize:"),
    (r"such as lambda plays: 1 \+ 40 \* plays", "such as linear:40"),
)


class Reading(NamedTuple):
    """How a command reads its tables; each field is the command-line option of the same name."""

    rename: list[str] | None = None
    sep: str | None = None
    no_header: bool = False
    ids: str | None = None
    duplicates: str = "error"
    missing: str = "error"
    transform: str | None = None
    binarize: float | None = None


PLAIN = Reading()


def in_options(message: str) -> str:
    """Rewrite a message of the library in the terms of the shell: Python arguments become options."""

    def option(match: re.Match[str]) -> str:
        if match["sep"]:
            return f"--sep {match['sep']}".replace('"', "'")
        if match["columns"]:
            pairs = re.findall(r'"?([^"{,]+)"?: "(\w+)"', match["columns"])
            return "--rename " + " ".join(f"{name.strip().replace('your name', 'NAME')}={ours}" for name, ours in pairs)
        return f"--{match['name'].replace('_', '-')} " + re.sub("['\"]", "", match["values"])

    for advice_in_python, in_shell in _ADVICE:
        message = re.sub(advice_in_python, in_shell, message)
    return _ARGUMENT.sub(option, message)


def advice(remedy: str) -> str:
    """Rewrite a solver's advice after a divergence in the terms of the shell."""
    return re.sub(r"\b(l2|learning_rate)\b", lambda match: f"--{match[0].replace('_', '-')}", remedy)


def check_out(out: Path, **read: Path | None) -> None:
    """Raise ValueError if writing a CSV table to --out would replace an input file, or if its suffix is .parquet."""
    for option, path in read.items():
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"--out {out} is the file of --{option}, which would be lost: name another")
    if ".parquet" in out.suffixes:
        raise ValueError(f"--out {out}: the table is written as CSV: name it {out.with_suffix('.csv').name}")


def columns_of(reading: Reading) -> dict[Any, str]:
    """Return the pairs NAME=OURS of --rename as a dict; with --no-header, the keys are integer positions."""
    from jaxmf.data.checks import listed
    from jaxmf.data.columns import NEEDED, OPTIONAL

    pairs, known = reading.rename or [], (*NEEDED, *OPTIONAL)
    columns: dict[Any, str] = dict(pair.rsplit("=", 1) for pair in pairs if "=" in pair)
    if len(columns) < len(pairs) or not set(columns.values()) <= set(known):
        raise ValueError(f"--rename must be NAME=OURS with OURS one of {', '.join(known)}, not {listed(pairs)}")
    if not reading.no_header:
        return columns
    if not all(re.fullmatch("[0-9]+", name) for name in columns):
        raise ValueError(f"--rename must be POSITION=OURS with --no-header, positions from 0, not {listed(pairs)}")
    return {int(position): ours for position, ours in columns.items()}


def transform_of(reading: Reading) -> Any:
    """Return the function of the weights that --transform names, or None."""
    import numpy as np

    kind, _, number = (reading.transform or "").partition(":")
    try:
        factor = float(number) if kind == "linear" else 0.0
    except ValueError:
        factor = 0.0
    if 0 < factor < np.inf:
        return lambda weight: 1 + factor * weight
    if reading.transform not in (None, "log1p"):
        raise ValueError(
            "--transform must be log1p, or linear:NUMBER with a number above 0, such as linear:40 for weights "
            f"1 + 40 · w, not {reading.transform!r}"
        )
    return None if reading.transform is None else np.log1p


def said(reading: Reading) -> str:
    """Begin a sentence with the options for files that are given, such as "--sep, --ids are"; "" if none is."""
    defaults = PLAIN._replace(binarize=reading.binarize)._asdict()
    options = [f"--{name.replace('_', '-')}" for name, value in reading._asdict().items() if value != defaults[name]]
    return ", ".join(options) + (" are" if len(options) > 1 else " is" if options else "")


def separator(reading: Reading) -> str | None:
    """Return the separator that --sep names."""
    return None if reading.sep is None else reading.sep.replace(r"\t", "\t")


def table(path: Path, kind: Any, reading: Reading, ids: Any, option: str = "data") -> Any:
    """Read the table in the file that an option names; raise ValueError if there is none, or no reader of Parquet."""
    from jaxmf.data.tables import is_parquet, read_table

    if not path.exists():
        raise ValueError(f"--{option} {path}: no such file")
    if is_parquet(path) and (reading.sep is not None or reading.no_header):
        raise ValueError(f"--sep and --no-header are for files of text, and {path} is Parquet")
    columns = columns_of(reading) or None
    try:
        return read_table(path, kind, columns, sep=separator(reading), header=not reading.no_header, ids=ids)
    except ImportError as error:
        raise ValueError(str(error)) from error


def dataset(
    name: str | Path,
    reading: Reading = PLAIN,
    items: Path | None = None,
    known: Any = None,
    option: str = "data",
    rated: str | None = None,
) -> Any:
    """Return the Dataset of that name or file.

    Args:
      name: the name, or the path of a file.
      reading: how to read it.
      items: a file of the items' metadata, or None.
      known: ids by column, in whose types those of a file are read; or None.
      option: the option that names the data, for messages.
      rated: what needs ratings, for the message that refuses a file without them; None takes each row as a like, and a
        UserWarning says so.
    """
    data = _dataset(name, reading, items, known, option, rated)
    return data if reading.binarize is None else data.binarize(reading.binarize)


def _dataset(name: str | Path, reading: Reading, items: Path | None, known: Any, option: str, rated: str | None) -> Any:
    from jaxmf.data import datasets
    from jaxmf.data._movielens import RELEASES
    from jaxmf.data.checks import short

    path, dataset_names = Path(name), ["synthetic", "synthetic-implicit", *RELEASES]
    if path.is_file() or _TABLE_SUFFIXES & set(path.suffixes) or (path.is_dir() and name not in dataset_names):
        if not path.exists():
            raise ValueError(f"--{option} {name}: no such file")
        return _read_dataset(path, reading, items, known, rated)
    if given := said(reading):
        raise ValueError(f"{given} for CSV and Parquet files; {name} has its own names")
    if items is not None:
        raise ValueError(f"--items is for CSV and Parquet files; {name} has its own items")
    if name in dataset_names:
        if name == "synthetic-implicit":
            return datasets.synthetic(feedback="implicit")
        return datasets.synthetic() if name == "synthetic" else datasets.movielens(str(name))
    raise ValueError(
        f"--{option} must be {', '.join(dataset_names)} or the path of a CSV or Parquet file, not {short(str(name))}"
    )


def _read_dataset(path: Path, reading: Reading, items: Path | None, known: Any, rated: str | None) -> Any:
    from jaxmf.data.checks import align_items
    from jaxmf.data.dataset import Dataset
    from jaxmf.data.tables import of_file

    ids = {"str": str, "int": int}.get(reading.ids or "", known)
    options: Any = {"duplicates": reading.duplicates, "missing": reading.missing, "transform": transform_of(reading)}
    frame, columns = table(path, "ratings", reading, ids), columns_of(reading)
    if "rating" not in frame.rename(columns=columns):
        _without_ratings(path, reading, rated)
    with of_file(path):
        data = Dataset.from_frame(frame, columns, name=path.stem, **options)
    if "timestamp" in columns.values() and data.timestamp is None:
        raise ValueError(f"--rename {' '.join(reading.rename or [])}: {path} has no such column for timestamp")
    if items is None:
        return data
    # A table of items always has a header, even if the ratings have none.
    items_reading = reading._replace(no_header=False, rename=None if reading.no_header else reading.rename)
    item_table = table(items, "items", items_reading, {"item_id": data.item_ids}, "items")
    try:
        return replace(data, items=align_items(item_table, data.item_ids, columns_of(items_reading)))
    except ValueError as error:
        raise ValueError(f"--items {items}: {error}") from error


def _without_ratings(path: Path, reading: Reading, rated: str | None) -> None:
    """Say that a file has no column of ratings, and which columns it has; raise ValueError if they are needed."""
    from jaxmf.data.checks import listed
    from jaxmf.data.columns import NEEDED, OPTIONAL
    from jaxmf.data.tables import labels

    columns = columns_of(reading)
    names = labels(path, columns or None, sep=separator(reading), header=not reading.no_header)
    others = [name for name in names if columns.get(name, name) not in (*NEEDED, *OPTIONAL)]
    found = f"{path} has no column rating; found [{listed(names, 12)}]"
    remedy = f"name the column of ratings, as in --rename {others[0] if others else 'stars'}=rating"
    if rated is not None:
        raise ValueError(
            f"{found}. {rated} is about ratings, and if each row counted 1, its errors would mean nothing: {remedy}; "
            f"or, if each row is a like, fit it by --model {', '.join(OF_LIKES[:-1])} or {OF_LIKES[-1]}"
        )
    if reading.binarize is not None:
        raise ValueError(f"{found}. --binarize chooses by the rating: {remedy}; or leave the option out")
    warnings.warn(f"{found}: each row counts as a like." + (f" If not, {remedy}" if others else ""), stacklevel=2)


def known_ids(train: Any) -> dict[str, Any]:
    """Return the training ids by column: files for the fit are read with ids of these types."""
    return {"user_id": train.user_ids, "item_id": train.item_ids}


def ids(texts: list[str] | None, known: Any) -> Any:
    """Convert ids from the command line to the type of the known ones; they stay text where that is impossible."""
    from jaxmf.data.texts import ids_of

    return ids_of(texts, known)[0] if texts else None
