"""What a command line names: data, columns, models, solvers and kept fits, as the things themselves.

Whatever loads JAX is imported by the function that needs it: nobody waits for it at `--help` or at a TAB.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

# Names that a shell completes.
MODELS = ("mf", "biased_mf", "content_mf")
SOLVERS = ("sgd", "minibatch", "momentum", "adam", "als")
DATA = ("synthetic", "ml-latest-small", "ml-100k", "ml-1m", "ml-20m")
ALS_COMPONENTS = 64

_ARGUMENT = re.compile(r"\b(l2|learning_rate)\b|\b(on_unknown)='(\w+)'")


def in_options(remedy: str) -> str:
    """What the library advises, in the terms of the shell: arguments as options."""

    def option(match: re.Match[str]) -> str:
        words = [word.replace("_", "-") for word in match.groups() if word]
        return "--" + " ".join(words)

    return _ARGUMENT.sub(option, remedy)


def check_out(out: Path, **read: Path | None) -> None:
    """ValueError if the table in CSV that --out asks for would replace a file that the command reads, or be Parquet."""
    for option, path in read.items():
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"--out {out} is the file of --{option}, which would be lost: name another")
    if ".parquet" in out.suffixes:
        raise ValueError(f"--out {out}: the table is written as CSV: name it {out.with_suffix('.csv').name}")


def columns_of(rename: list[str] | None) -> dict[str, str]:
    """NAME=OURS pairs as a dict."""
    columns = dict(pair.split("=", 1) for pair in rename or [] if "=" in pair)
    known = ("user_id", "item_id", "rating", "timestamp")
    if len(columns) < len(rename or []) or not set(columns.values()) <= set(known):
        raise ValueError(
            f"--rename must be NAME=OURS with OURS one of {', '.join(known)}, not {' '.join(rename or [])}"
        )
    return columns


def dataset(name: str, rename: list[str] | None = None, items: Path | None = None, known: Any = None) -> Any:
    """The Dataset of that name, or of that file, whose ids are of the type of those that are `known`."""
    from jaxmf.data import Dataset, datasets
    from jaxmf.data.movielens import RELEASES
    from jaxmf.data.tables import read_table

    columns, path = columns_of(rename), Path(name)
    if path.is_file() or {".csv", ".parquet"} & set(path.suffixes):
        if not path.exists():
            raise ValueError(f"--data {name}: no such file")
        read = Dataset.from_parquet if ".parquet" in path.suffixes else Dataset.from_csv
        try:
            table = None if items is None else read_table(items, "items", columns)
            data = read(path, columns, table, ids=known)
        except ImportError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            hint = "; on the command line: --rename NAME=OURS" if "missing column" in str(error) else ""
            raise ValueError(f"{error}{hint}") from error
        if "timestamp" in columns.values() and data.timestamp is None:
            raise ValueError(f"--rename {' '.join(rename or [])}: {name} has no such column for timestamp")
        return data
    if columns:
        raise ValueError(f"--rename is for CSV and Parquet files; {name} has its own names")
    if items is not None:
        raise ValueError(f"--items is for CSV and Parquet files; {name} has its own items")
    if name == "synthetic":
        return datasets.synthetic()
    if name in RELEASES:
        return datasets.movielens(name)
    known_data = ", ".join(["synthetic", *RELEASES])
    raise ValueError(f"--data must be {known_data} or the path of a CSV or Parquet file, not {name!r}")


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
    from jaxmf.recipes import RECIPES, starting_hyper

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
    from jaxmf import content, models, recipes

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
