"""What jaxmf costs in time and memory, beside what it replaces: `python -m benchmarks.NAME --help`."""
