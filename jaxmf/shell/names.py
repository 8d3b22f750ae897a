"""Turn the names on a command line into the objects: data, columns, models, solvers and saved fits.

Whatever loads JAX is imported inside the function that needs it, so that `--help` and completion do not wait for it.
"""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

# The names that shell completion offers.
MODELS = ("mf", "biased_mf", "content_mf")
SOLVERS = ("sgd", "minibatch", "momentum", "adam", "als")
DATA = ("synthetic", "ml-latest-small", "ml-100k", "ml-1m", "ml-20m")
ALS_COMPONENTS = 64
_TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".dat", ".parquet"}  # they mean a file, even a missing one

_ARGUMENT = re.compile(
    r"""\b(?P<name>on_unknown|ids|duplicates|missing)=(?P<values>['"]?\w+['"]?(\|"\w+")*)"""
    r"""|\bsep=(?P<sep>"[^"]+")|\bcolumns=(?P<columns>\{[^}]*\})"""
)


class Reading(NamedTuple):
    """How a command reads its tables; each field is the command-line option of the same name."""

    rename: list[str] | None = None
    sep: str | None = None
    no_header: bool = False
    ids: str | None = None
    duplicates: str = "error"
    missing: str = "error"


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
    """Begin a sentence with the reading options that are given, such as "--sep, --ids are"; "" if none is."""
    defaults = PLAIN._asdict()
    options = [f"--{name.replace('_', '-')}" for name, value in reading._asdict().items() if value != defaults[name]]
    return ", ".join(options) + (" are" if len(options) > 1 else " is" if options else "")


def table(path: Path, kind: Any, reading: Reading, ids: Any, option: str = "data") -> Any:
    """Read the table in the file that an option names; raise ValueError if there is none, or no reader of Parquet."""
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
    """Return the Dataset of that name or file; ids in a file are read in the type of the `known` ones."""
    from jaxmf.data import datasets
    from jaxmf.data._movielens import RELEASES
    from jaxmf.data.checks import short

    path, dataset_names = Path(name), ["synthetic", *RELEASES]
    if path.is_file() or _TABLE_SUFFIXES & set(path.suffixes) or (path.is_dir() and name not in dataset_names):
        if not path.exists():
            raise ValueError(f"--{option} {name}: no such file")
        return _read_dataset(path, reading, items, known)
    if given := said(reading):
        raise ValueError(f"{given} for CSV and Parquet files; {name} has its own names")
    if items is not None:
        raise ValueError(f"--items is for CSV and Parquet files; {name} has its own items")
    if name in dataset_names:
        return datasets.synthetic() if name == "synthetic" else datasets.movielens(name)
    raise ValueError(
        f"--{option} must be {', '.join(dataset_names)} or the path of a CSV or Parquet file, not {short(str(name))}"
    )


def _read_dataset(path: Path, reading: Reading, items: Path | None, known: Any) -> Any:
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
    # A table of items always has a header, even if the ratings have none.
    items_reading = reading._replace(no_header=False, rename=None if reading.no_header else reading.rename)
    item_table = table(items, "items", items_reading, {"item_id": data.item_ids}, "items")
    try:
        return replace(data, items=align_items(item_table, data.item_ids, columns_of(items_reading)))
    except ValueError as error:
        raise ValueError(f"--items {items}: {error}") from error


def kept(path: Path, model: str | None, rank: int) -> Any:
    """Load a saved fit and its training data; `model` names a model of the user's own."""
    from jaxmf import load

    return load(path, own_model(model, rank) if model else None)


def known_ids(train: Any) -> dict[str, Any]:
    """Return the training ids by column: files for the fit are read with ids of these types."""
    return {"user_id": train.user_ids, "item_id": train.item_ids}


def ids(texts: list[str] | None, known: Any) -> Any:
    """Convert ids from the command line to the type of the known ones; they stay text where that is impossible."""
    from jaxmf.data.texts import ids_of

    return ids_of(texts, known)[0] if texts else None


def recipe(solver: str, l2: float, devices: int = 1) -> Any:
    """Return the recipe of that name, with its solver on that many devices, and its initial hyperparameters."""
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
    """Return the model of that name; for content_mf, a function from the training data, whose items it reads."""
    from jaxmf import content, models
    from jaxmf.shell import recipes

    def content_model(train: Any) -> Any:
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
        return content_model
    if name in recipes.MODELS:
        return recipes.MODELS[name](rank)
    if ":" not in name:
        raise ValueError(f"--model must be one of {', '.join(MODELS)} or module:attribute, not {name!r}")
    return own_model(name, rank)


def own_model(name: str, rank: int) -> Any:
    """Import a user's own model, `module:attribute`; a function there is called with the rank."""
    from jaxmf.models import Model

    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--model must be module:attribute, not {name!r}")
    sys.path.insert(0, "")
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {name}: {error}") from error
    if callable(loaded):
        loaded = loaded(rank)
    if not isinstance(loaded, Model):
        raise ValueError(f"--model {name}: expected a jaxmf.Model, found {type(loaded).__name__}")
    return loaded
