"""Benchmarks: the time and memory that jaxmf takes, beside what it replaces. See `python -m benchmarks.NAME --help`."""
