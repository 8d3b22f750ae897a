"""The command-line options that several commands share, each declared once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from jaxmf.shell import names
from jaxmf.shell.names import PLAIN, Reading

MODEL_HELP = (
    "mf, biased_mf or content_mf for ratings; ials, bpr, sampled_softmax or logistic_mf for likes (implicit feedback); "
    "or module:attribute for a model of your own: a Model, or a function that returns one for a rank"
)
_DATA_HELP = (
    "'synthetic' or 'synthetic-implicit' (embedded), 'ml-latest-small' (found through the environment variable "
    "JAXMF_DATA), 'ml-100k', 'ml-1m' or 'ml-20m' (found there too, or else downloaded once), or the path of a CSV or "
    "Parquet file with columns user_id, item_id and optionally rating, timestamp and weight; without rating, each row "
    "counts as a like"
)
Data = Annotated[str, typer.Option(help=f"{_DATA_HELP}.", autocompletion=lambda: names.DATA)]
StudyData = Annotated[
    str | None,
    typer.Option(
        help=f"{_DATA_HELP}. Default: synthetic, or synthetic-implicit for --feedback implicit.",
        autocompletion=lambda: names.DATA,
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(
        help="For content_mf with a --data file: a CSV or Parquet file with one row per item and a column item_id "
        "(--rename applies to it too).",
        dir_okay=False,
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="For content_mf: a column of the items whose words become features. May be repeated; default: genres and "
        "tags."
    ),
]
Components = Annotated[
    int | None,
    typer.Option(
        help="For content_mf: reduce the words to this many features; default: "
        f"{names.ALS_COMPONENTS} for als, no reduction for the other solvers.",
        min=1,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        help=f"{MODEL_HELP}. Default: biased_mf, or ials if all ratings are equal or there are none.",
        autocompletion=lambda: names.MODELS,
    ),
]
L2 = Annotated[
    float | None,
    typer.Option(help="λ, the penalty on the factors; default: 0.03 for ratings, 0.01 for ials, 0.003 for the others."),
]
UNOBSERVED_HELP = "For ials: α0, the weight of every cell of the matrix, observed or not"
Unobserved = Annotated[float | None, typer.Option(help=f"{UNOBSERVED_HELP}; default: 0.1.")]
L2Bias = Annotated[float | None, typer.Option(help="λ_b, the penalty on the biases; default: λ.")]
Epochs = Annotated[int, typer.Option(help="Maximum number of epochs.", min=1)]
Patience = Annotated[
    int, typer.Option(help="Epochs without improvement before a fit stops; 0: never stop early.", min=0)
]
SolverName = Annotated[
    str | None,
    typer.Option(
        help="sgd, minibatch, momentum, adam or als. Default: sgd for ratings; als for ials; adam for bpr, "
        "sampled_softmax and logistic_mf, which als and sgd cannot fit.",
        autocompletion=lambda: names.SOLVERS,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]
Rank = Annotated[int, typer.Option(help="Number of factors.", min=1)]
Exponent = Annotated[float, typer.Option(help="ν: with 0, λ is a penalty per row; with 1, per rating.")]  # noqa: RUF001
Clip = Annotated[tuple[float, float] | None, typer.Option(help="Clip predictions to LOW HIGH, as in --clip 1 5.")]
Seed = Annotated[
    int,
    typer.Option(help="Seed of the initial parameters, and of the split if the ratings have no timestamps."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress bars or tables; errors are still printed.")
]
FitFile = Annotated[Path, typer.Option("--fit", help="The fit.npz that `jaxmf fit` wrote.", dir_okay=False)]
OnUnknown = Annotated[
    Literal["error", "bias", "drop"],
    typer.Option(
        help="What to do about an id that the fit does not know: refuse it (error), predict from the terms that are "
        "known (bias), or leave it out (drop)."
    ),
]
OwnModel = Annotated[str | None, typer.Option(help="For a fit of a model of your own: its module:attribute.")]
OwnRank = Annotated[int, typer.Option(help="For --model, if that is a function: its rank.", min=1)]

_READING: dict[str, Any] = {
    "rename": Annotated[
        list[str] | None,
        typer.Option(
            help="Rename columns of the files to user_id, item_id, rating, timestamp or weight, as in --rename "
            "userId=user_id plays=weight; with --no-header, name them by position from 0, as in 0=user_id. Applies to "
            "every file that is read.",
        ),
    ],
    "sep": Annotated[str | None, typer.Option(help="Separator of the columns in text files; default: detected.")],
    "no_header": Annotated[
        bool,
        typer.Option(
            "--no-header", help="The file has no header line; its columns are user, item, rating and optionally time."
        ),
    ],
    "ids": Annotated[
        Literal["str", "int"] | None,
        typer.Option(
            help="Read ids as text or as integers; default: integers if every id of a column is plainly one, else text."
        ),
    ],
    "duplicates": Annotated[
        Literal["error", "last", "mean", "sum"],
        typer.Option(
            help="Which rating and weight to keep if a user and an item occur more than once; error refuses such a "
            "file. Without ratings and weights, sum counts the rows, as of a log of events."
        ),
    ],
    "missing": Annotated[
        Literal["error", "drop"],
        typer.Option(help="What to do about rows without an id, a rating, a weight or a time: refuse or drop them."),
    ],
    "transform": Annotated[
        str | None,
        typer.Option(help="Transform the weights: log1p, or linear:40 for 1 + 40 · weight."),
    ],
    "binarize": Annotated[
        float | None,
        typer.Option(help="Keep the ratings of at least this number only, each as a like: a rating of 1."),
    ],
}


def reads(*but: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: build its argument `reading` from the options on how to read files, except those named."""
    options = [name for name in _READING if name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "reading":
                kind = inspect.Parameter.KEYWORD_ONLY
                default = PLAIN._asdict()
                parameters += [
                    inspect.Parameter(name, kind, default=default[name], annotation=_READING[name]) for name in options
                ]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def with_options(**arguments: Any) -> None:
            command(reading=Reading(**{name: arguments.pop(name) for name in options}), **arguments)

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorate


class Lists(typer.core.TyperCommand):
    """A command that accepts `--rank 1 5 20` as short for `--rank 1 --rank 5 --rank 20`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after repeating a list option's name before each of its further values."""
        list_options = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        expanded: list[str] = []
        current, has_value = "", True
        for arg in args:
            if arg.startswith("-") and not arg[1:2].isdigit():
                name, equals, _ = arg.partition("=")
                current, has_value = name if name in list_options else "", bool(equals)
            elif current and has_value:
                expanded.append(current)
            else:
                has_value = True
            expanded.append(arg)
        return super().parse_args(ctx, expanded)
