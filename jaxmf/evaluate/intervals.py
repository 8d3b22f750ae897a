"""Intervals of means over users, and paired comparisons of models: signed ranks and Holm's correction."""

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, listed
from jaxmf.evaluate._measures import METRICS

_SETTING = ["protocol", "k", "threshold"]
_SHARES = METRICS[:-1]  # the metrics between 0 and 1: all but novelty


def summarize(by_user: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return means over users with confidence intervals.

    An interval covers the variation of the mean over other users of the same kind, for this fitted model and split.
    With m the mean over n users, s their standard deviation, g their skewness and q the quantile of Student's t, it is
    computed as m ± q s/√n and again corrected for skewness, which matters if a few users have high values and many 0,

        m − s h(±q),    h(q) = 3/g ((1 + g q/√n − g²/6n)^⅓ − 1).

    Each end is the more distant of the two, clipped to the range of the metric. Where all values are 0 or 1, such as
    those of hit_rate, it is Wilson's interval of a proportion. In `python -m benchmarks.evaluation coverage`, 93 to
    99 % of the 95 % intervals contain the truth for values and differences of 20 to 1,000 users (with percentiles of
    bootstrap means, 64 to 96 %), but only 83 % for differences of 20 users if nine in ten of them tie, since often all
    of them do (with percentiles 71 %, and 83 % for 50 users).

    Args:
      by_user: the table returned by `ranking_by_user`, or a concatenation of several models' tables.
      confidence: confidence level of the intervals.

    Returns:
      a tidy table: model, protocol, k, threshold, metric, value, low, high, num_users (the users for whom the metric is
      defined). low and high are NaN for fewer than two users, and equal if all users have one value other than 0 and 1.

    Raises:
      ValueError: a table without these columns, a model that has a user twice, or a confidence that is not between 0
        and 1.

    Cost: O(users) per model and metric.

    Reference: Hall (1992), On the removal of skewness by transformation, for h, the inverse of a cubic. Wilson (1927),
    Probable inference, the law of succession, and statistical inference.
    """
    _check_by_user(by_user)
    check_confidence(confidence)
    groups = by_user.groupby(["model", *_SETTING], sort=False)
    rows = []
    for key, group in groups:
        for metric in METRICS:
            value, low, high, n = interval(group[metric], confidence, (0, 1 if metric in _SHARES else np.inf))
            if n:
                columns = {"metric": metric, "value": value, "low": low, "high": high, "num_users": n}
                rows.append(dict(zip(["model", *_SETTING], key, strict=True)) | columns)
    return pd.DataFrame(rows)


def compare(
    by_user: pd.DataFrame,
    reference: str | None = None,
    metrics: tuple[str, ...] = METRICS[:-1],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare every model with a reference model, user by user.

    With d_u the difference of a metric for user u, model − reference, over the users for whom it is defined, a row
    holds the mean of d, its interval as in `summarize`, and the p value of Wilcoxon's signed-rank test of the
    hypothesis that d is symmetric around 0 (ignoring users with d_u = 0; p = 1 if none is left). The p values of all
    rows are corrected by Holm's method: with p_(1) ≤ … ≤ p_(m),

        p_holm(i) = max_{j≤i} min(1, (m − j + 1) p_(j)),

    so that the probability of any row below α by chance is at most α. The interval is about the mean and the test is
    about ranks, so they can disagree if a few users differ much and many a little.

    Args:
      by_user: the concatenated tables that `ranking_by_user` returned for several models over the same users.
      reference: the model to compare the others with; None for the first in the table.
      metrics: the columns to compare; each one makes Holm's correction stricter.
      confidence: as in `summarize`.

    Returns:
      a tidy table: model, reference, protocol, k, threshold, metric, difference, low, high, p, p_holm, num_users.

    Raises:
      ValueError: as `summarize`; fewer than two models, an unknown reference or metric, a repeated metric, models over
        different users, or more than one protocol, k or threshold.

    Cost: O(users log users) per row.

    Reference: Wilcoxon (1945), Individual comparisons by ranking methods. Holm (1979), A simple sequentially rejective
    multiple test procedure. Smucker, Allan and Carterette (2007), A comparison of statistical significance tests for
    information retrieval evaluation. Computed by `scipy.stats.wilcoxon`.
    """
    _check_by_user(by_user)
    check_confidence(confidence)
    names = by_user["model"].unique().tolist()
    reference = names[0] if reference is None else reference
    _check_compared(by_user, names, reference, metrics)
    base, *_ = (group for name, group in by_user.groupby("model", sort=False) if name == reference)
    base = base.set_index("user_id")
    setting = base[_SETTING].iloc[0].to_dict()
    rows, differences, intervals = [], [], []
    for name, group in by_user.groupby("model", sort=False):
        if name != reference:
            indexed = group.set_index("user_id")  # pandas aligns users by it
            for metric in metrics:
                differences.append((indexed[metric] - base[metric]).to_numpy(float))
                limit = 1 if metric in _SHARES else np.inf
                intervals.append(interval(differences[-1], confidence, (-limit, limit), share=False))
                rows.append({"model": name, "reference": reference, **setting, "metric": metric})
    columns = zip(*intervals, strict=True)
    table = pd.DataFrame(rows).assign(**dict(zip(["difference", "low", "high", "num_users"], columns, strict=True)))
    table["p"] = [_signed_rank(d) for d in differences]
    table["p_holm"] = holm(table["p"].to_numpy())
    return table[[*(c for c in table if c != "num_users"), "num_users"]]


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values; NaN stays NaN and does not count.

    >>> holm(np.array([0.04, 0.01, 0.03])).tolist()
    [0.06, 0.03, 0.06]
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]), 1)
    return adjusted


def check_confidence(confidence: Any) -> None:
    """Raise ValueError unless `confidence` is a number between 0 and 1."""
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, not {confidence!r}")


def interval(
    values: Any, confidence: float, bounds: tuple[float, float], share: bool = True
) -> tuple[float, float, float, int]:
    """Return mean, low, high and count of the values that are not NaN; `summarize` has the formulas.

    Args:
      values: (n,).
      confidence: confidence level of the interval.
      bounds: range of the mean; (0, 1) if the values may be outcomes of a proportion.
      share: whether to treat values that are all 0 or 1 as outcomes of a proportion.
    """
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    n, mean = len(x), float(x.mean()) if len(x) else np.nan
    if n < 2:
        return mean, np.nan, np.nan, n
    from scipy import stats  # takes a second to import

    if share and bounds == (0, 1) and np.isin(x, (0, 1)).all():
        wilson = stats.binomtest(int(x.sum()), n).proportion_ci(confidence, "wilson")
        return mean, float(wilson.low), float(wilson.high), n
    if np.ptp(x) <= 1e-12 * np.abs(x).max():  # equal up to rounding
        return mean, mean, mean, n
    skewness, spread = float(np.mean(((x - mean) / x.std()) ** 3)), float(x.std(ddof=1))
    q = stats.t.ppf([(1 - confidence) / 2, (1 + confidence) / 2], n - 1) / np.sqrt(n)
    uncorrected = q
    if abs(skewness) > 1e-6:  # below that, the correction is only rounding
        q = np.cbrt(1 + skewness * q - skewness**2 / (6 * n)) - 1
        q = 3 / skewness * q
    low, high = mean - spread * max(q[1], uncorrected[1]), mean - spread * min(q[0], uncorrected[0])
    return mean, max(low, bounds[0]), min(high, bounds[1]), n


def _signed_rank(d: np.ndarray) -> float:
    """Return the p value of Wilcoxon's signed-rank test of the differences d."""
    d = d[~np.isnan(d)]
    if not len(d):
        return np.nan
    from scipy import stats

    return float(stats.wilcoxon(d).pvalue) if d.any() else 1.0


def _check_by_user(by_user: Any) -> None:
    """Raise ValueError unless this is a table of `ranking_by_user`, with each user once per model."""
    remedy = "expected the table that evaluate.ranking_by_user returns"
    expect(by_user, pd.DataFrame, "by_user", remedy)
    missing = [name for name in ("model", *_SETTING, "user_id", *METRICS) if name not in by_user]
    if missing or not len(by_user):
        raise ValueError(f"by_user {f'lacks the column(s) {listed(missing)}' if missing else 'has no rows'}; {remedy}")
    twice = by_user.duplicated(["model", *_SETTING, "user_id"])
    if twice.any():
        name = by_user.loc[twice, "model"].iloc[0]
        raise ValueError(
            f"by_user has users of the model {name!r} more than once; expected one row per user: give each model its "
            "name with ranking_by_user(..., name=), and include the baselines of only one of them"
        )


def _check_compared(by_user: pd.DataFrame, names: list[str], reference: Any, metrics: Any) -> None:
    """Raise ValueError unless these metrics of these models can be compared."""
    if len(names) < 2:
        raise ValueError(f"compare: expected at least two models, found {listed(names)}: join tables by pandas.concat")
    if reference not in names:
        raise ValueError(f"compare: reference must be a model of the table, {listed(names)}, not {reference!r}")
    unknown = [name for name in metrics if name not in METRICS] if isinstance(metrics, list | tuple) else [metrics]
    if unknown or not metrics or len(set(metrics)) < len(metrics):
        known = ", ".join(METRICS)
        raise ValueError(f"compare: metrics must be a list of names among {known}, each once, not {metrics!r}")
    for column in _SETTING:
        values = by_user[column].unique().tolist()
        if len(values) > 1:
            raise ValueError(f"compare: the table has {column} {listed(values)}; expected one: select its rows first")
    users = by_user.groupby("model", sort=False)["user_id"].agg(frozenset)
    different = users.index[users != users[reference]].tolist()
    if different:
        raise ValueError(
            f"compare: {listed(different)} and {reference!r} were ranked for different users; rank all with the same "
            "train, test and exclude"
        )
