"""The command line. A refusal by the library becomes one line on standard error; the work is in the library."""

import atexit
import gc
import sys

import typer

from jaxmf.shell import asking, checking, fitting, names, programs  # noqa: F401, three register commands
from jaxmf.shell.common import app


def main() -> None:
    """Run the command line; print a refusal by the library as one line on standard error and exit with code 2."""
    programs.keep()
    # Imported objects live until the end: the garbage collector need not scan them, neither now nor at exit.
    gc.freeze()
    atexit.register(gc.freeze)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"jaxmf: {' '.join(names.in_options(str(error)).split())}", err=True)
        sys.exit(2)
