"""How sure a mean over users is, and whether two models differ: bootstrap, signed ranks, and Holm's correction."""

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from jaxmf.data.checks import expect, generator, is_positive_integer, listed
from jaxmf.evaluate.measures import METRICS

_SETTING = ["protocol", "k", "threshold"]
_CELLS = 1 << 22  # resampled numbers at once


def summarize(by_user: pd.DataFrame, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means over users with bootstrap intervals.

    An interval is made of percentiles of the means of `resamples` samples of the users, drawn with replacement and the
    same for all models and metrics. It says how the mean would vary with other users of the same kind, for this fitted
    model and this split. With few users it is too narrow: in `python benchmarks/evaluation.py coverage`, 94 to 96 % of
    intervals of 95 % contain the truth for values of 50 or 200 users, but 91 % for differences of 50 users most of whom
    tie, and 94 % of 200 (by BCa 88 and 93 %).

    Args:
      by_user: what `ranking_by_user` returned, also of several models, one below the other.
      confidence: of the intervals.
      resamples: bootstrap samples.
      seed: of these.

    Returns:
      a tidy table: model, protocol, k, threshold, metric, value, low, high, num_users (those where the metric is
      defined). low and high are NaN for fewer than two users.

    Raises:
      ValueError: a table without these columns, a model that has a user twice, a confidence that is not between 0 and
        1, or a bad number of resamples or seed.

    Cost: O(resamples · users) per model and metric.

    Reference: Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13. Computed by
    `scipy.stats.bootstrap`.
    """
    _check_by_user(by_user)
    check_resampling(confidence, resamples, seed)
    groups = by_user.groupby(["model", *_SETTING], sort=False)
    values = [group[metric].to_numpy(float) for _, group in groups for metric in METRICS]
    keys = [key for key, _ in groups for _ in METRICS]
    rows = []
    for key, metric, (value, low, high, n) in zip(
        keys, list(METRICS) * len(groups), _intervals(values, confidence, resamples, seed), strict=True
    ):
        if n:
            found = {"metric": metric, "value": value, "low": low, "high": high, "num_users": n}
            rows.append(dict(zip(["model", *_SETTING], key, strict=True)) | found)
    return pd.DataFrame(rows)


def compare(
    by_user: pd.DataFrame,
    reference: str | None = None,
    metrics: tuple[str, ...] = METRICS[:-1],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every model against one, user by user.

    With d_u the difference of a metric of user u, model − reference, over the users where it is defined: the mean of d,
    its bootstrap interval as in `summarize`, the p value of Wilcoxon's signed-rank test of the hypothesis that d is
    symmetric around 0 (users with d_u = 0 have no say; 1 if no user is left), and Holm's correction of the p values of
    all rows of the table: with p_(1) ≤ … ≤ p_(m),

        p_holm(i) = max_{j≤i} min(1, (m − j + 1) p_(j)),

    so that the chance of any row below α by luck is at most α. The interval is about the mean and the test about
    ranks: they can disagree where few users differ much and many a little.

    Args:
      by_user: what `ranking_by_user` returned for several models, one below the other, over the same users.
      reference: the model that the others are compared with; the first of the table if None.
      metrics: which columns to compare; each adds to what Holm's correction pays for.
      confidence, resamples, seed: as in `summarize`.

    Returns:
      a tidy table: model, reference, protocol, k, threshold, metric, difference, low, high, p, p_holm, num_users.

    Raises:
      ValueError: as `summarize`; fewer than two models, an unknown reference or metric, a metric twice, models over
        different users, or more than one protocol, k or threshold.

    Cost: O(resamples · users) per row.

    Reference: Wilcoxon (1945), Individual comparisons by ranking methods. Holm (1979), A simple sequentially rejective
    multiple test procedure. Smucker, Allan and Carterette (2007), A comparison of statistical significance tests for
    information retrieval evaluation. Computed by `scipy.stats.bootstrap` and `scipy.stats.wilcoxon`.
    """
    _check_by_user(by_user)
    check_resampling(confidence, resamples, seed)
    names = by_user["model"].unique().tolist()
    reference = names[0] if reference is None else reference
    _check_compared(by_user, names, reference, metrics)
    base, *_ = (group for name, group in by_user.groupby("model", sort=False) if name == reference)
    base = base.set_index("user_id")
    setting = base[_SETTING].iloc[0].to_dict()
    rows, differences = [], []
    for name, group in by_user.groupby("model", sort=False):
        if name != reference:
            other = group.set_index("user_id")  # pandas pairs by it
            for metric in metrics:
                differences.append((other[metric] - base[metric]).to_numpy(float))
                rows.append({"model": name, "reference": reference, **setting, "metric": metric})
    found = _intervals(differences, confidence, resamples, seed)
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


def check_resampling(confidence: Any, resamples: Any, seed: Any) -> None:
    """ValueError unless these are a confidence, a number of bootstrap samples and a seed."""
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, not {confidence!r}")
    if not is_positive_integer(resamples):
        raise ValueError(f"resamples must be a positive integer, such as 1000, not {resamples!r}")
    generator(seed)


def _intervals(
    values: list[np.ndarray], confidence: float, resamples: int, seed: int
) -> list[tuple[float, float, float, int]]:
    """Mean, bounds and count of each array without its NaNs."""
    found: list[Any] = [None] * len(values)
    alike: dict[bytes, list[int]] = {}  # arrays with NaN at the same places share the resampled users
    for place, x in enumerate(values):
        alike.setdefault(np.isnan(x).tobytes(), []).append(place)
    for places in alike.values():
        x = np.array([values[place] for place in places])
        x = x[:, ~np.isnan(x[0])]
        n = x.shape[1]
        mean = x.mean(axis=1) if n else np.full(len(x), np.nan)
        low = high = np.full(len(x), np.nan)
        if n > 1:
            from scipy import stats  # takes a second to import

            low, high = stats.bootstrap(
                (x,),
                np.mean,
                axis=1,
                n_resamples=resamples,
                batch=max(1, _CELLS // x.size),
                confidence_level=confidence,
                method="percentile",
                random_state=generator(seed),
            ).confidence_interval
        for place, *row in zip(places, mean.tolist(), low.tolist(), high.tolist(), strict=True):
            found[place] = (*row, n)
    return found


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
