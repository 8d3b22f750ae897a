"""The options that several commands of the shell share, each declared once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from jaxmf.shell import names
from jaxmf.shell.names import PLAIN, Reading

MODEL_HELP = "mf, biased_mf, content_mf, or module:attribute for your own: a Model, or a function from the rank to one"
Data = Annotated[
    str,
    typer.Option(
        help="'synthetic' (embedded), 'ml-latest-small' (found through the environment variable JAXMF_DATA), "
        "'ml-100k', 'ml-1m' or 'ml-20m' (found there too, else downloaded once), or the path of a CSV or Parquet file "
        "with columns user_id, item_id, rating and perhaps timestamp.",
        autocompletion=lambda: names.DATA,
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(
        help="For content_mf and a --data file: a CSV or Parquet file with one row per item and a column item_id "
        "(--rename holds here too).",
        dir_okay=False,
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        help="For content_mf: a column of the items whose words it weighs. May be repeated; default genres and tags."
    ),
]
Components = Annotated[
    int | None,
    typer.Option(
        help=f"For content_mf: reduce the words to so many features; als: {names.ALS_COMPONENTS} if not given.", min=1
    ),
]
ModelName = Annotated[str, typer.Option(help=f"{MODEL_HELP}.", autocompletion=lambda: names.MODELS)]
L2 = Annotated[float, typer.Option(help="λ, the penalty on factors.")]
L2Bias = Annotated[float | None, typer.Option(help="λ_b, the penalty on biases; λ if not given.")]
Epochs = Annotated[int, typer.Option(help="Most epochs.", min=1)]
SolverName = Annotated[
    str, typer.Option(help="sgd, minibatch, momentum, adam or als.", autocompletion=lambda: names.SOLVERS)
]
Out = Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)]
Rank = Annotated[int, typer.Option(help="Number of factors.", min=1)]
Exponent = Annotated[float, typer.Option(help="ν: 0 penalizes per row, 1 per observation.")]  # noqa: RUF001
Clip = Annotated[tuple[float, float] | None, typer.Option(help="Clip predictions, as in 1 5.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial parameters, and of the split if there are no times.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no tables; errors are still shown.")]
FitFile = Annotated[Path, typer.Option("--fit", help="What `jaxmf fit` wrote: its fit.npz.", dir_okay=False)]
OnUnknown = Annotated[
    Literal["error", "bias", "drop"],
    typer.Option(
        help="What to do about an id that the fit does not know; bias: take what is known without it; drop: no answer."
    ),
]
OwnModel = Annotated[str | None, typer.Option(help="module:attribute, for a fit of a model of your own.")]

_READING: dict[str, Any] = {
    "rename": Annotated[
        list[str] | None,
        typer.Option(
            help="The file's name of a column and ours, as in --rename userId=user_id movieId=item_id; with "
            "--no-header its position from 0 and ours. For every file that is read.",
        ),
    ],
    "sep": Annotated[str | None, typer.Option(help="What separates the columns of files of text; found if not given.")],
    "no_header": Annotated[
        bool,
        typer.Option(
            "--no-header", help="The file has no names of columns: it holds user, item, rating and perhaps time."
        ),
    ],
    "ids": Annotated[
        Literal["str", "int"] | None,
        typer.Option(help="Ids as text or as integers; if not given, integers where each is plainly one, else text."),
    ],
    "duplicates": Annotated[
        Literal["error", "last", "mean", "sum"],
        typer.Option(help="What to do about ratings of the same user and item: the rating to keep."),
    ],
    "missing": Annotated[
        Literal["error", "drop"], typer.Option(help="What to do about rows without an id, a rating or a time.")
    ],
}


def reads(*but: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose argument `reading` comes from options that say how its files are read, all of them but these."""
    names = [name for name in _READING if name not in but]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "reading":
                kind = inspect.Parameter.KEYWORD_ONLY
                default = PLAIN._asdict()
                parameters += [
                    inspect.Parameter(name, kind, default=default[name], annotation=_READING[name]) for name in names
                ]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def with_options(**arguments: Any) -> None:
            command(reading=Reading(**{name: arguments.pop(name) for name in names}), **arguments)

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorate


class Lists(typer.core.TyperCommand):
    """A command that takes `--rank 1 5 20` for `--rank 1 --rank 5 --rank 20`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option before each further value of it."""
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelled: list[str] = []
        current, given = "", True
        for arg in args:
            if arg.startswith("-") and not arg[1:2].isdigit():
                name, equals, _ = arg.partition("=")
                current, given = name if name in lists else "", bool(equals)
            elif current and given:
                spelled.append(current)
            else:
                given = True
            spelled.append(arg)
        return super().parse_args(ctx, spelled)
