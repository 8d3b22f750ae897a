"""Bootstrap intervals hold what they promise; paired comparisons against numbers found by hand and by loops."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxmf.evaluate import compare, summarize
from jaxmf.evaluate._measures import METRICS
from jaxmf.evaluate.intervals import holm, interval


def by_user(**models):
    """A table as `ranking_by_user` makes it, with these values of every metric for each model."""
    parts = []
    for name, values in models.items():
        part = pd.DataFrame(
            {"model": name, "protocol": "rated", "k": 3, "threshold": 3.5, "user_id": range(len(values))}
        )
        parts.append(part.assign(num_candidates=9, num_relevant=2, **dict.fromkeys(METRICS, values)))
    return pd.concat(parts, ignore_index=True)


KINDS = {
    "precision": (0.05, lambda rng, n: rng.binomial(10, rng.beta(1, 19, n)) / 10),
    "ndcg": (0.12, lambda rng, n: rng.beta(1.5, 3.5, n) * (rng.random(n) < 0.4)),
    "hit_rate": (0.3, lambda rng, n: rng.binomial(1, 0.3, n) * 1.0),
    "difference": (0.0, lambda rng, n: rng.normal(0, 0.1, n) * (rng.random(n) < 0.3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth(kind):
    """1,000 repeats of 50 users: where percentiles of bootstrap means contain 91 to 94 %, too few."""
    truth, draw = KINDS[kind]
    bounds = (-1, 1) if kind == "difference" else (0, 1)
    drawn = draw(np.random.default_rng(0), (1000, 50))
    low, high = np.array([interval(x, 0.95, bounds)[1:3] for x in drawn]).T
    assert 0.94 <= np.mean((low <= truth) & (truth <= high)) <= 0.99
    assert np.median(high - low) < 5 * drawn.std() / np.sqrt(50)


def test_an_interval_by_hand():
    """Student's, and with skewness the inverse of Hall's cubic g(t) = t + γ t²/3 + γ² t³/27 + γ/6n at its ends."""
    x = np.array([0.0, 0.0, 0.1, 0.2, 0.0, 0.9, 0.3])
    n, m, s, skewness = 7, x.mean(), x.std(ddof=1), np.mean((x - x.mean()) ** 3) / x.std() ** 3
    _, low, high, count = interval(x, 0.9, (-np.inf, np.inf))
    q = 1.9431802805153022 / np.sqrt(n)  # the 95 % quantile of Student's t with 6 degrees of freedom
    assert low == pytest.approx(m - s * q, rel=1e-12)
    t = (m - high) / s
    assert t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / (6 * n) == pytest.approx(-q, rel=1e-12)
    assert high > m + s * q
    assert count == n
    mirrored = interval(-x, 0.9, (-np.inf, np.inf))
    assert mirrored[1:3] == pytest.approx((-high, -low), rel=1e-12)


def test_shares_have_wilsons_interval():
    """3 of 10, by the formula; and 0 of 10 is no proof of never."""
    x = np.array([1.0] * 3 + [0.0] * 7)
    z = 1.959963984540054
    middle, half = (0.3 + z * z / 20) / (1 + z * z / 10), z * np.sqrt(0.021 + z * z / 400) / (1 + z * z / 10)
    assert interval(x, 0.95, (0, 1)) == pytest.approx((0.3, middle - half, middle + half, 10), rel=1e-9)
    assert interval(0 * x, 0.95, (0, 1)) == pytest.approx((0, 0, z * z / (10 + z * z), 10), abs=1e-12)
    assert interval(0 * x, 0.95, (-1, 1), share=False) == (0, 0, 0, 10)


def test_few_users_and_users_who_are_alike():
    assert interval([0.1] * 30, 0.95, (0, 1)) == pytest.approx((0.1, 0.1, 0.1, 30))
    rounded = np.full(30, 0.1) + 1e-17 * np.arange(30)
    assert interval(rounded, 0.95, (0, 1)) == pytest.approx((0.1, 0.1, 0.1, 30))
    assert interval([0.2, 0.4], 0.95, (0, 1)) == pytest.approx((0.3, 0, 1, 2)), "within what a share can be"
    mean, low, high, n = interval([np.nan, 0.2], 0.95, (0, 1))
    assert (mean, n) == (0.2, 1)
    assert np.isnan([low, high]).all()
    assert interval([np.nan], 0.95, (0, 1))[3] == 0


def test_the_table_has_each_models_own_users():
    values = np.random.default_rng(1).random((2, 30))
    values[1, 3:8] = np.nan
    found = summarize(by_user(a=values[0], b=values[1]), confidence=0.8)
    assert found.columns.tolist() == [
        *("model", "protocol", "k", "threshold", "metric", "value", "low", "high", "num_users")
    ]
    for name, x in (("a", values[0]), ("b", np.delete(values[1], range(3, 8)))):
        row = found[(found["model"] == name) & (found["metric"] == "ndcg")].iloc[0]
        assert tuple(row[["value", "low", "high", "num_users"]]) == interval(x, 0.8, (0, 1))


def test_one_user_has_no_interval_and_no_user_no_row():
    found = summarize(by_user(a=[0.25], b=[np.nan]))
    assert found["model"].unique().tolist() == ["a"]
    assert (found["value"] == 0.25).all()
    assert found[["low", "high"]].isna().all(axis=None)


def loop_p(d):
    """Wilcoxon's test by the 2^n signs."""
    d = [x for x in d if x]
    ranks = stats.rankdata(np.abs(d))
    observed = sum(r for r, x in zip(ranks, d, strict=True) if x > 0)
    middle = sum(ranks) / 2
    signs = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1
    return np.mean(np.abs(signs @ ranks - middle) >= abs(observed - middle) - 1e-9)


def test_compare_by_hand_and_by_loops():
    base = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    shift = np.array([0.05, 0.06, -0.01, 0.07, 0.02, 0.03, 0.04, 0.08])
    table = by_user(base=base, better=base + shift, same=base, other=base - 2 * shift[::-1])
    found = compare(table, metrics=("ndcg",)).set_index("model")
    assert found.columns.tolist() == [
        *("reference", "protocol", "k", "threshold", "metric", "difference", "low", "high", "p", "p_holm", "num_users")
    ]
    assert found.index.tolist() == ["better", "same", "other"]
    assert found["difference"].tolist() == pytest.approx([shift.mean(), 0, -2 * shift.mean()], abs=1e-15)
    expected = [loop_p(np.round(d, 9)) for d in (shift, 0 * shift[:0], -2 * shift)]
    expected[1] = 1.0
    assert found["p"].tolist() == pytest.approx(expected, rel=1e-12)
    assert found["p"].iloc[0] == pytest.approx(4 / 256)
    assert found["p_holm"].tolist() == pytest.approx([3 * 4 / 256, 1.0, 3 * 4 / 256])
    assert (found.loc["same", ["low", "high"]] == 0).all()
    assert found.loc["better", "low"] > 0 > found.loc["other", "high"]
    against = compare(table, "other", ("ndcg",)).set_index("model")
    assert against.loc["base", "difference"] == pytest.approx(2 * shift.mean())


def test_compare_pairs_the_users():
    """By their ids, not by the order of the rows, and without those for whom one side is undefined."""
    x = np.array([0.1, 0.2, np.nan, 0.4])
    y = np.array([0.3, np.nan, 0.5, 0.5])
    table = by_user(x=x, y=y).sample(frac=1, random_state=0)
    found = compare(table, "x", ("map", "mrr"))
    assert found["difference"].tolist() == pytest.approx([0.15, 0.15])
    assert found["num_users"].tolist() == [2, 2]
    assert found["p_holm"].tolist() == [1.0, 1.0]


def test_holm_equals_the_formula():
    p = np.random.default_rng(0).random(9) ** 3
    p[4] = np.nan
    known = sorted(x for x in p if not np.isnan(x))
    for x, adjusted in zip(p, holm(p), strict=True):
        if np.isnan(x):
            assert np.isnan(adjusted)
        else:
            steps = [min(1, (len(known) - j) * y) for j, y in enumerate(known) if y <= x]
            assert adjusted == pytest.approx(max(steps), rel=1e-12)
