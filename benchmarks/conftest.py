"""The option --smoke, by which `python -m benchmarks.kernels` asks pytest for a tiny run."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --smoke to pytest's options."""
    parser.addoption("--smoke", action="store_true", help="small data and small ranks")
