"""The option by which `python -m benchmarks.kernels` tells pytest that little of everything will do."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --smoke to the options of pytest."""
    parser.addoption("--smoke", action="store_true", help="small data and small ranks")
