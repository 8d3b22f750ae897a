"""Tables in files, as pandas reads them, with errors that say which file and what to do."""

from pathlib import Path

import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """The table in a CSV file, or in a Parquet file if a suffix says so.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is not such a table, or nothing installed that reads Parquet; it starts with the path.
    """
    try:
        return read_parquet(path) if ".parquet" in path.suffixes else pd.read_csv(path)
    except ImportError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:  # the parsers' own errors are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


def read_parquet(path: Path) -> pd.DataFrame:
    """`pandas.read_parquet`, with the remedy where it has no engine, and a ValueError for a damaged file."""
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'jaxmf[parquet]'") from error
    except OSError as error:
        if error.errno is None and error.filename is None and not isinstance(error, FileNotFoundError):
            raise ValueError(str(error)) from error  # Arrow's word for a damaged file
        raise
