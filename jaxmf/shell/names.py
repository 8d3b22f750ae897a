"""What a command line names: data, columns, models, solvers and kept fits, as the things themselves.

Whatever loads JAX is imported by the function that needs it: nobody waits for it at `--help` or at a TAB.
"""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

# Names that a shell completes.
MODELS = ("mf", "biased_mf", "content_mf")
SOLVERS = ("sgd", "minibatch", "momentum", "adam", "als")
DATA = ("synthetic", "ml-latest-small", "ml-100k", "ml-1m", "ml-20m")
ALS_COMPONENTS = 64
_TABLES = {".csv", ".tsv", ".txt", ".dat", ".parquet"}  # suffixes that say that a file was meant, there or not

_ARGUMENT = re.compile(
    r"""\b(?P<name>on_unknown|ids|duplicates|missing)=(?P<values>['"]?\w+['"]?(\|"\w+")*)"""
    r"""|\bsep=(?P<sep>"[^"]+")|\bcolumns=(?P<columns>\{[^}]*\})"""
)


class Reading(NamedTuple):
    """How a command reads its tables: options of the shell, each of the same name."""

    rename: list[str] | None = None
    sep: str | None = None
    no_header: bool = False
    ids: str | None = None
    duplicates: str = "error"
    missing: str = "error"


PLAIN = Reading()


def in_options(message: str) -> str:
    """What the library says, in the terms of the shell: arguments, which messages write as Python does, as options."""

    def option(match: re.Match[str]) -> str:
        if match["sep"]:
            return f"--sep {match['sep']}".replace('"', "'")
        if match["columns"]:
            pairs = re.findall(r'"?([^"{,]+)"?: "(\w+)"', match["columns"])
            return "--rename " + " ".join(f"{own.strip().replace('your name', 'NAME')}={ours}" for own, ours in pairs)
        return f"--{match['name'].replace('_', '-')} " + re.sub("['\"]", "", match["values"])

    return _ARGUMENT.sub(option, message)


def advice(remedy: str) -> str:
    """What a solver advises after a divergence, in the terms of the shell."""
    return re.sub(r"\b(l2|learning_rate)\b", lambda match: f"--{match[0].replace('_', '-')}", remedy)


def check_out(out: Path, **read: Path | None) -> None:
    """ValueError if the table in CSV that --out asks for would replace a file that the command reads, or be Parquet."""
    for option, path in read.items():
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"--out {out} is the file of --{option}, which would be lost: name another")
    if ".parquet" in out.suffixes:
        raise ValueError(f"--out {out}: the table is written as CSV: name it {out.with_suffix('.csv').name}")


def columns_of(reading: Reading) -> dict[Any, str]:
    """NAME=OURS pairs as a dict; with --no-header, POSITION=OURS."""
    from jaxmf.data.checks import listed

    pairs, known = reading.rename or [], ("user_id", "item_id", "rating", "timestamp")
    columns: dict[Any, str] = dict(pair.rsplit("=", 1) for pair in pairs if "=" in pair)
    if len(columns) < len(pairs) or not set(columns.values()) <= set(known):
        raise ValueError(f"--rename must be NAME=OURS with OURS one of {', '.join(known)}, not {listed(pairs)}")
    if not reading.no_header:
        return columns
    if not all(re.fullmatch("[0-9]+", name) for name in columns):
        raise ValueError(f"--rename must be POSITION=OURS with --no-header, positions from 0, not {listed(pairs)}")
    return {int(position): ours for position, ours in columns.items()}


def said(reading: Reading) -> str:
    """Which of these options are given, as the beginning of a sentence; "" if none is."""
    plain = PLAIN._asdict()
    names = [f"--{name.replace('_', '-')}" for name, value in reading._asdict().items() if value != plain[name]]
    return ", ".join(names) + (" are" if len(names) > 1 else " is" if names else "")


def table(path: Path, kind: Any, reading: Reading, ids: Any, option: str = "data") -> Any:
    """The table in the file of that option; a ValueError where there is none, or nothing reads Parquet."""
    from jaxmf.data.tables import is_parquet, read_table

    if not path.exists():
        raise ValueError(f"--{option} {path}: no such file")
    if is_parquet(path) and (reading.sep is not None or reading.no_header):
        raise ValueError(f"--sep and --no-header are for files of text, and {path} is Parquet")
    sep = None if reading.sep is None else reading.sep.replace(r"\t", "\t")
    columns = columns_of(reading) or None
    try:
        return read_table(path, kind, columns, sep=sep, header=not reading.no_header, ids=ids)
    except ImportError as error:
        raise ValueError(str(error)) from error


def dataset(
    name: str | Path, reading: Reading = PLAIN, items: Path | None = None, known: Any = None, option: str = "data"
) -> Any:
    """The Dataset of that name, or of that file, whose ids are of the type of those that are `known`."""
    from jaxmf.data import datasets
    from jaxmf.data._movielens import RELEASES
    from jaxmf.data.checks import short

    path, embedded = Path(name), ["synthetic", *RELEASES]
    if path.is_file() or _TABLES & set(path.suffixes) or (path.is_dir() and name not in embedded):
        if not path.exists():
            raise ValueError(f"--{option} {name}: no such file")
        return _of_file(path, reading, items, known)
    if given := said(reading):
        raise ValueError(f"{given} for CSV and Parquet files; {name} has its own names")
    if items is not None:
        raise ValueError(f"--items is for CSV and Parquet files; {name} has its own items")
    if name in embedded:
        return datasets.synthetic() if name == "synthetic" else datasets.movielens(name)
    raise ValueError(
        f"--{option} must be {', '.join(embedded)} or the path of a CSV or Parquet file, not {short(str(name))}"
    )


def _of_file(path: Path, reading: Reading, items: Path | None, known: Any) -> Any:
    from jaxmf.data.checks import align_items
    from jaxmf.data.dataset import Dataset
    from jaxmf.data.tables import of_file

    ids = {"str": str, "int": int}.get(reading.ids or "", known)
    frame, columns = table(path, "ratings", reading, ids), columns_of(reading)
    with of_file(path):
        options: Any = {"duplicates": reading.duplicates, "missing": reading.missing}
        data = Dataset.from_frame(frame, columns, name=path.stem, **options)
    if "timestamp" in columns.values() and data.timestamp is None:
        raise ValueError(f"--rename {' '.join(reading.rename or [])}: {path} has no such column for timestamp")
    if items is None:
        return data
    # Items have names, whether the ratings have some or not.
    of_items = reading._replace(no_header=False, rename=None if reading.no_header else reading.rename)
    rows = table(items, "items", of_items, {"item_id": data.item_ids}, "items")
    try:
        return replace(data, items=align_items(rows, data.item_ids, columns_of(of_items)))
    except ValueError as error:
        raise ValueError(f"--items {items}: {error}") from error


def kept(path: Path, model: str | None, rank: int) -> Any:
    """A fit and its training data."""
    from jaxmf import load

    return load(path, own_model(model, rank) if model else None)


def known_ids(train: Any) -> dict[str, Any]:
    """What a file for a fit has ids like, by column."""
    return {"user_id": train.user_ids, "item_id": train.item_ids}


def ids(texts: list[str] | None, known: Any) -> Any:
    """Ids as a shell gives them, in the type of those that are known; text where that cannot be."""
    from jaxmf.data.texts import ids_of

    return ids_of(texts, known)[0] if texts else None


def recipe(solver: str, l2: float, devices: int = 1) -> Any:
    """The recipe of that name, its solver on so many devices, and the numbers that it starts from."""
    import jax

    from jaxmf import solvers
    from jaxmf.shell.recipes import RECIPES, starting_hyper

    if solver not in RECIPES:
        raise ValueError(f"--solver must be one of {', '.join(RECIPES)}, not {solver!r}")
    chosen = RECIPES[solver]
    if devices > 1:
        if solver not in ("sgd", "als"):
            raise ValueError(f"--devices is for the solvers sgd and als, not {solver}")
        jax.config.update("jax_num_cpu_devices", devices)
        chosen = chosen._replace(solver=getattr(solvers, solver)(devices=devices))
    return chosen, starting_hyper(chosen, l2)


def model(
    name: str, rank: int, columns: list[str] | None = None, components: int | None = None, solver: str = ""
) -> Any:
    """The model of that name; content_mf as a function from the training data, whose items it reads."""
    from jaxmf import content, models
    from jaxmf.shell import recipes

    def of_items(train: Any) -> Any:
        try:
            features = content.tfidf(train, columns, components=components)
        except ValueError as error:
            raise ValueError(f"{error}; on the command line: --items FILE, --column NAME") from error
        return models.content_mf(rank, features)

    if name != "content_mf" and (columns or components):
        raise ValueError(f"--column and --components are for --model content_mf, not {name}")
    if solver == "als":
        components = components or ALS_COMPONENTS
    if name == "content_mf":
        return of_items
    if name in recipes.MODELS:
        return recipes.MODELS[name](rank)
    if ":" not in name:
        raise ValueError(f"--model must be one of {', '.join(MODELS)} or module:attribute, not {name!r}")
    return own_model(name, rank)


def own_model(name: str, rank: int) -> Any:
    """A user's model, `module:attribute`."""
    from jaxmf.models import Model

    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model must be module:attribute, not {name!r}")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {name}: {error}") from error
    if callable(found):
        found = found(rank)
    if not isinstance(found, Model):
        raise ValueError(f"--model {name}: expected a jaxmf.Model, found {type(found).__name__}")
    return found
