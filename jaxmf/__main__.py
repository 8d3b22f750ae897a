"""`python -m jaxmf` is the command line."""

from jaxmf.shell.cli import main

main()
