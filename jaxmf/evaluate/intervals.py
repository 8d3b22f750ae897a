"""How sure a mean over users is, and whether two models differ: intervals, signed ranks, and Holm's correction."""

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, listed
from jaxmf.evaluate._measures import METRICS

_SETTING = ["protocol", "k", "threshold"]
_SHARES = METRICS[:-1]  # those between 0 and 1: all but novelty


def summarize(by_user: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Means over users with intervals.

    An interval says how the mean would vary with other users of the same kind, for this fitted model and this split.
    With m the mean of n users, s their standard deviation, g their skewness and q the quantile of Student's t, it holds
    m ± q s/√n and the same corrected for skewness, which few users with high values among many at 0 make necessary,

        m − s h(±q),    h(q) = 3/g ((1 + g q/√n − g²/6n)^⅓ − 1),

    of both at each end the one farther out, within what the metric can be. Where all values are 0 or 1, as those of
    hit_rate, it is Wilson's interval of a share. In `python -m benchmarks.evaluation coverage`, 93 to 99 % of intervals
    of 95 % contain the truth for values and differences of 20 to 1,000 users (by percentiles of bootstrap means 64 to
    96 %), but only 83 % for differences of 20 users nine in ten of whom tie, since often all of them do (by percentiles
    71 %, and 83 % of 50 users).

    Args:
      by_user: what `ranking_by_user` returned, also of several models, one below the other.
      confidence: of the intervals.

    Returns:
      a tidy table: model, protocol, k, threshold, metric, value, low, high, num_users (those where the metric is
      defined). low and high are NaN for fewer than two users, and equal where all users are, but for 0 and 1.

    Raises:
      ValueError: a table without these columns, a model that has a user twice, or a confidence that is not between 0
        and 1.

    Cost: O(users) per model and metric.

    Reference: Hall (1992), On the removal of skewness by transformation, whose h is the inverse of a cubic. Wilson
    (1927), Probable inference, the law of succession, and statistical inference.
    """
    _check_by_user(by_user)
    check_confidence(confidence)
    groups = by_user.groupby(["model", *_SETTING], sort=False)
    rows = []
    for key, group in groups:
        for metric in METRICS:
            value, low, high, n = interval(group[metric], confidence, (0, 1 if metric in _SHARES else np.inf))
            if n:
                found = {"metric": metric, "value": value, "low": low, "high": high, "num_users": n}
                rows.append(dict(zip(["model", *_SETTING], key, strict=True)) | found)
    return pd.DataFrame(rows)


def compare(
    by_user: pd.DataFrame,
    reference: str | None = None,
    metrics: tuple[str, ...] = METRICS[:-1],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Every model against one, user by user.

    With d_u the difference of a metric of user u, model − reference, over the users where it is defined: the mean of d,
    its interval as in `summarize`, the p value of Wilcoxon's signed-rank test of the hypothesis that d is
    symmetric around 0 (users with d_u = 0 have no say; 1 if no user is left), and Holm's correction of the p values of
    all rows of the table: with p_(1) ≤ … ≤ p_(m),

        p_holm(i) = max_{j≤i} min(1, (m − j + 1) p_(j)),

    so that the chance of any row below α by luck is at most α. The interval is about the mean and the test about
    ranks: they can disagree where few users differ much and many a little.

    Args:
      by_user: what `ranking_by_user` returned for several models, one below the other, over the same users.
      reference: the model that the others are compared with; the first of the table if None.
      metrics: which columns to compare; each adds to what Holm's correction pays for.
      confidence: as in `summarize`.

    Returns:
      a tidy table: model, reference, protocol, k, threshold, metric, difference, low, high, p, p_holm, num_users.

    Raises:
      ValueError: as `summarize`; fewer than two models, an unknown reference or metric, a metric twice, models over
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
    rows, differences, found = [], [], []
    for name, group in by_user.groupby("model", sort=False):
        if name != reference:
            other = group.set_index("user_id")  # pandas pairs by it
            for metric in metrics:
                differences.append((other[metric] - base[metric]).to_numpy(float))
                limit = 1 if metric in _SHARES else np.inf
                found.append(interval(differences[-1], confidence, (-limit, limit), share=False))
                rows.append({"model": name, "reference": reference, **setting, "metric": metric})
    columns = zip(*found, strict=True)
    table = pd.DataFrame(rows).assign(**dict(zip(["difference", "low", "high", "num_users"], columns, strict=True)))
    table["p"] = [_signed_rank(d) for d in differences]
    table["p_holm"] = holm(table["p"].to_numpy())
    return table[[*(c for c in table if c != "num_users"), "num_users"]]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values; NaN stays and does not count.

    >>> holm(np.array([0.04, 0.01, 0.03])).tolist()
    [0.06, 0.03, 0.06]
    """
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]), 1)
    return adjusted


def check_confidence(confidence: Any) -> None:
    """ValueError unless it is a confidence."""
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, not {confidence!r}")


def interval(
    values: Any, confidence: float, bounds: tuple[float, float], share: bool = True
) -> tuple[float, float, float, int]:
    """Mean, low, high and count of values that are not NaN; `summarize` has the formulas.

    Args:
      values: (n,).
      confidence: of the interval.
      bounds: what the mean can be; (0, 1) if the values may be those of a share.
      share: whether values that are all 0 or 1 are a share.
    """
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    n, mean = len(x), float(x.mean()) if len(x) else np.nan
    if n < 2:
        return mean, np.nan, np.nan, n
    from scipy import stats  # takes a second to import

    if share and bounds == (0, 1) and np.isin(x, (0, 1)).all():
        found = stats.binomtest(int(x.sum()), n).proportion_ci(confidence, "wilson")
        return mean, float(found.low), float(found.high), n
    if np.ptp(x) <= 1e-12 * np.abs(x).max():  # alike but for rounding
        return mean, mean, mean, n
    skewness, spread = float(np.mean(((x - mean) / x.std()) ** 3)), float(x.std(ddof=1))
    q = stats.t.ppf([(1 - confidence) / 2, (1 + confidence) / 2], n - 1) / np.sqrt(n)
    straight = q
    if abs(skewness) > 1e-6:  # below, the correction is rounding
        q = np.cbrt(1 + skewness * q - skewness**2 / (6 * n)) - 1
        q = 3 / skewness * q
    low, high = mean - spread * max(q[1], straight[1]), mean - spread * min(q[0], straight[0])
    return mean, max(low, bounds[0]), min(high, bounds[1]), n


def _signed_rank(d: np.ndarray) -> float:
    d = d[~np.isnan(d)]
    if not len(d):
        return np.nan
    from scipy import stats

    return float(stats.wilcoxon(d).pvalue) if d.any() else 1.0


def _check_by_user(by_user: Any) -> None:
    remedy = "expected what evaluate.ranking_by_user returns"
    expect(by_user, pd.DataFrame, "by_user", remedy)
    missing = [name for name in ("model", *_SETTING, "user_id", *METRICS) if name not in by_user]
    if missing or not len(by_user):
        raise ValueError(f"by_user {f'lacks the column(s) {listed(missing)}' if missing else 'has no rows'}; {remedy}")
    twice = by_user.duplicated(["model", *_SETTING, "user_id"])
    if twice.any():
        name = by_user.loc[twice, "model"].iloc[0]
        raise ValueError(
            f"by_user has users of the model {name!r} more than once; expected one row per user: tell models apart "
            "with ranking_by_user(..., name=), and take the baselines of one of them only"
        )


def _check_compared(by_user: pd.DataFrame, names: list[str], reference: Any, metrics: Any) -> None:
    if len(names) < 2:
        raise ValueError(f"compare: expected at least two models, found {listed(names)}: use pandas.concat on tables")
    if reference not in names:
        raise ValueError(f"compare: reference must be a model of the table, {listed(names)}, not {reference!r}")
    unknown = [name for name in metrics if name not in METRICS] if isinstance(metrics, list | tuple) else [metrics]
    if unknown or not metrics or len(set(metrics)) < len(metrics):
        known = ", ".join(METRICS)
        raise ValueError(f"compare: metrics must be a list of names among {known}, each once, not {metrics!r}")
    for column in _SETTING:
        found = by_user[column].unique().tolist()
        if len(found) > 1:
            raise ValueError(f"compare: the table has {column} {listed(found)}; expected one: select it first")
    sets = by_user.groupby("model", sort=False)["user_id"].agg(frozenset)
    other = sets.index[sets != sets[reference]].tolist()
    if other:
        raise ValueError(
            f"compare: {listed(other)} and {reference!r} were ranked for different users; rank all with the same "
            "train, test and exclude"
        )
