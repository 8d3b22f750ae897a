"""Times of ratings in seconds, with their fractions."""

import warnings

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed, refuse_rows, short

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXPECTED = "expected seconds since 1970 or dates such as 2024-01-31 12:00:00.5 in every row"
_CORRECT = "correct these rows, or drop the column"


def seconds(values: pd.Series, remedy: str = "drop these rows, or the column") -> np.ndarray:
    """Times as seconds since 1970 in UTC: int64 where all are whole seconds, float64 where one has a fraction.

    A float64 tells today's moments apart from 0.24 microseconds on; a warning says where that is not enough.

    Args:
      values: (n,) numbers of seconds, dates of any unit with or without a zone (none is UTC), or text of such dates as
        ISO 8601 writes them.
      remedy: what messages advise about a time that is missing.

    Raises:
      ValueError: a time that is missing, infinite, unreadable, or beyond 64 bits, by its row.
    """
    inferred = values.infer_objects()
    refuse_rows(inferred.isna().to_numpy(), values, "timestamp", "missing time", f"{_EXPECTED}: {remedy}")
    if pd.api.types.infer_dtype(inferred, skipna=False) in ("string", "date", "datetime"):
        inferred = _dates(inferred, values)
    if pd.api.types.is_datetime64_any_dtype(inferred.dtype):
        return _moments(inferred)
    if not pd.api.types.is_any_real_numeric_dtype(inferred.dtype):
        raise ValueError(
            f"column {short(values.name)} (timestamp) has dtype {values.dtype}, starting with "
            f"{listed(values.head(2))}; expected seconds or dates: convert it, for example with pandas.to_datetime, or "
            "drop the column"
        )
    if pd.api.types.is_float_dtype(inferred.dtype):
        floats = inferred.to_numpy(np.float64)
        refuse_rows(~np.isfinite(floats), values, "timestamp", "infinite time", f"{_EXPECTED}: {_CORRECT}")
        return _whole_if_all_are(floats)
    beyond = (inferred > np.iinfo(np.int64).max).to_numpy(bool)
    refuse_rows(beyond, values, "timestamp", "time beyond 64-bit integers", f"{_EXPECTED}: {_CORRECT}")
    return inferred.to_numpy(np.int64)


def joined_seconds(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Times behind others; a ValueError where whole numbers are too large to stand beside fractions."""
    both = np.concatenate([earlier, later])
    for times in (earlier, later):
        if both.dtype.kind == "f" and times.dtype.kind == "i" and (np.abs(times) > 2**53).any():
            raise ValueError(
                "column timestamp: whole numbers beyond 2**53 on one side and fractions on the other, which no float "
                f"holds both. {_EXPECTED}: bring them to the same unit"
            )
    return both


def _whole_if_all_are(floats: np.ndarray) -> np.ndarray:
    if ((floats == np.floor(floats)) & (np.abs(floats) < 2.0**63)).all():
        return floats.astype(np.int64)
    return floats


def _dates(texts: pd.Series, values: pd.Series) -> pd.Series:
    """Dates of text, or of Python's own; a ValueError names those that cannot be read, or that pandas cannot hold."""
    dates = pd.Series(pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce"))
    bad = dates.isna().to_numpy()
    if bad.any():
        problem = f"a date that cannot be read ({listed(values[bad].unique())})"
        refuse_rows(bad, values, "timestamp", problem, f"{_EXPECTED}: {_CORRECT}")
    return dates


def _moments(dates: pd.Series) -> np.ndarray:
    """Dates of any unit as seconds."""
    if isinstance(dates.dtype, pd.DatetimeTZDtype):
        dates = dates.dt.tz_convert(None)
    elif not isinstance(dates.dtype, np.dtype):  # of Arrow: its values are those of UTC
        dates = pd.Series(dates.to_numpy(f"datetime64[{getattr(dates.dtype.pyarrow_dtype, 'unit', 's')}]"))
    moments = dates.to_numpy()
    per_second = _PER_SECOND[np.datetime_data(moments.dtype)[0]]
    whole, part = np.divmod(moments.view(np.int64), per_second)
    if not part.any():
        return whole
    number = moments.view(np.int64)
    floats = np.where(np.abs(number) < 2**53, number / per_second, whole + part / per_second)  # each rounds once
    if per_second == _PER_SECOND["ns"]:
        merged = len(np.unique(moments)) - len(np.unique(floats))
        if merged:
            warnings.warn(
                f"timestamp: {merged} time(s) differ from another by less than a float64 of seconds can tell, and "
                "count as the same",
                stacklevel=5,
            )
    return floats
