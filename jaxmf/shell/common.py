"""The Typer application, and what all commands share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer

from jaxmf.shell import choices, names


def taught(heading: str, *commands: str, codes: str) -> str:
    """Return the end of a help page: example commands and exit codes. A line \\b keeps Click from wrapping them."""
    return "\n".join(["\b", heading, *(f"  {command}" for command in commands), "", f"Exit codes: {codes}."])


app = typer.Typer(
    name="jaxmf",
    help="Matrix factorization in JAX: verified gradients, every solver on one objective, honest test errors.",
    epilog=taught(
        "With a CSV file of your own (user_id, item_id, rating; likes have no rating):",
        "jaxmf fit --data my.csv",
        "jaxmf evaluate --data other.csv",
        "jaxmf predict --data pairs.csv --out predictions.csv",
        "jaxmf recommend --user 1 --n 10",
        codes="0 fine; 1 the work failed: a fit diverged or a gradient is wrong; 2 bad input",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def spoken_in_options() -> Iterator[None]:
    """Print the library's warnings as lines on standard error, with options in place of Python arguments."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        typer.echo(f"jaxmf: {names.in_options(str(warning.message))}", err=True)


def dataset(*arguments: Any, **options: Any) -> Any:
    """Return `names.dataset(...)`; print its warnings as lines on standard error."""
    with spoken_in_options():
        return names.dataset(*arguments, **options)


def choose(asked: choices.Asked, data: Any) -> choices.Choice:
    """Return `choices.choose(...)`; print what the user should know about it on standard error."""
    choice, note = choices.choose(asked, data)
    if note is not None:
        typer.echo(f"jaxmf: {note}", err=True)
    return choice


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"jaxmf {version('jaxmf')}")
        raise typer.Exit


@app.callback()
def before_command(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that come before the command."""
