"""Convert times of ratings to seconds since 1970, keeping fractions."""

import warnings

import numpy as np
import pandas as pd

from jaxmf.data.checks import listed, refuse_rows, short

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXPECTED = "expected seconds since 1970 or dates such as 2024-01-31 12:00:00.5 in every row"
_CORRECT = "correct these rows, or drop the column"


def seconds(values: pd.Series, remedy: str = "drop these rows, or the column") -> np.ndarray:
    """Return times as seconds since 1970 in UTC: int64 if all are whole seconds, float64 if any has a fraction.

    For dates of today, float64 resolves 0.24 microseconds; a warning says if that is not enough.

    Args:
      values: (n,) numbers of seconds, dates in any unit with or without a zone (without is UTC), or such dates as text
        in ISO 8601.
      remedy: the advice in the message about a missing time.

    Raises:
      ValueError: a time is missing, infinite, unreadable, or beyond 64 bits; the message lists the rows.
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
        return _integers_if_whole(floats)
    beyond = (inferred > np.iinfo(np.int64).max).to_numpy(bool)
    refuse_rows(beyond, values, "timestamp", "time beyond 64-bit integers", f"{_EXPECTED}: {_CORRECT}")
    integers: np.ndarray = inferred.to_numpy(np.int64)
    return integers


def joined_seconds(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Concatenate times; raise ValueError if one part has fractions and the other integers too large for float64."""
    combined = np.concatenate([earlier, later])
    for times in (earlier, later):
        if combined.dtype.kind == "f" and times.dtype.kind == "i" and (np.abs(times) > 2**53).any():
            raise ValueError(
                "column timestamp: whole numbers beyond 2**53 on one side and fractions on the other, which float64 "
                f"cannot both represent. {_EXPECTED}: bring them to the same unit"
            )
    return combined


def _integers_if_whole(floats: np.ndarray) -> np.ndarray:
    """Return the times as int64 if all are whole and fit, else unchanged."""
    if ((floats == np.floor(floats)) & (np.abs(floats) < 2.0**63)).all():
        return floats.astype(np.int64)
    return floats


def _dates(texts: pd.Series, values: pd.Series) -> pd.Series:
    """Parse text or Python's date objects as dates; raise ValueError for any that pandas cannot read or represent."""
    dates = pd.Series(pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce"))
    bad = dates.isna().to_numpy()
    if bad.any():
        problem = f"a date that cannot be read ({listed(values[bad].unique())})"
        refuse_rows(bad, values, "timestamp", problem, f"{_EXPECTED}: {_CORRECT}")
    return dates


def _moments(dates: pd.Series) -> np.ndarray:
    """Return dates in any unit as seconds."""
    if isinstance(dates.dtype, pd.DatetimeTZDtype):
        dates = dates.dt.tz_convert(None)
    elif not isinstance(dates.dtype, np.dtype):  # Arrow stores UTC, whatever the zone
        dates = pd.Series(dates.to_numpy(f"datetime64[{getattr(dates.dtype.pyarrow_dtype, 'unit', 's')}]"))
    moments = dates.to_numpy()
    per_second = _PER_SECOND[np.datetime_data(moments.dtype)[0]]
    ticks: np.ndarray = moments.view(np.int64)
    whole, remainder = np.divmod(ticks, per_second)
    if not remainder.any():
        return whole
    floats = np.where(np.abs(ticks) < 2**53, ticks / per_second, whole + remainder / per_second)  # each rounds once
    if per_second == _PER_SECOND["ns"]:
        merged = len(np.unique(moments)) - len(np.unique(floats))
        if merged:
            warnings.warn(
                f"timestamp: {merged} time(s) differ from another by less than a float64 of seconds can resolve, and "
                "are treated as equal",
                stacklevel=5,
            )
    return floats
