"""The command line: what the library refuses is one line on standard error; the work is in the library."""

import atexit
import gc
import sys

import typer

from jaxmf.shell import asking, checking, fitting, names, programs  # noqa: F401, the first three for their commands
from jaxmf.shell.common import app


def main() -> None:
    """Run the command line; what the library refuses is one line on standard error and exit code 2."""
    programs.keep()
    # Python's collections need not look at what was imported, nor its last ones at what is left.
    gc.freeze()
    atexit.register(gc.freeze)
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"jaxmf: {' '.join(names.in_options(str(error)).split())}", err=True)
        sys.exit(2)
