"""`python -m jaxmf` is the command line."""

from jaxmf.cli import main

main()
