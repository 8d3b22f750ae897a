"""Bootstrap intervals hold what they promise; paired comparisons against numbers found by hand and by loops."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxmf.evaluate import compare, summarize
from jaxmf.evaluate.intervals import _intervals, holm
from jaxmf.evaluate.measures import METRICS


def by_user(**models):
    """A table as `ranking_by_user` makes it, with these values of every metric for each model."""
    parts = []
    for name, values in models.items():
        part = pd.DataFrame(
            {"model": name, "protocol": "rated", "k": 3, "threshold": 3.5, "user_id": range(len(values))}
        )
        parts.append(part.assign(num_candidates=9, num_relevant=2, **dict.fromkeys(METRICS, values)))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("kind", ["precision", "hit_rate"])
def test_intervals_cover_the_truth(kind):
    """2,000 repeats of 100 users: tenths with a skewed distribution, and zeros and ones."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(20):
        if kind == "precision":
            drawn, truth = rng.binomial(10, rng.beta(1, 4, (100, 100))) / 10, 0.2
        else:
            drawn, truth = rng.binomial(1, 0.3, (100, 100)) * 1.0, 0.3
        found = _intervals(list(drawn), 0.95, 500, seed)
        covered += sum(low <= truth <= high for _, low, high, _ in found)
    assert 0.92 <= covered / 2000 <= 0.975


def test_intervals_are_percentiles_of_resampled_means():
    values = np.random.default_rng(1).random((2, 30))
    values[1, 3:8] = np.nan
    found = summarize(by_user(a=values[0], b=values[1]), confidence=0.8, resamples=4000, seed=3)
    again = summarize(by_user(a=values[0], b=values[1]), confidence=0.8, resamples=4000, seed=3)
    pd.testing.assert_frame_equal(found, again, check_exact=True)
    other = summarize(by_user(a=values[0], b=values[1]), confidence=0.8, resamples=4000, seed=4)
    assert (other["low"] != found["low"]).all()
    assert found.columns.tolist() == [
        *("model", "protocol", "k", "threshold", "metric", "value", "low", "high", "num_users")
    ]
    rng = np.random.default_rng(0)
    for name, x in (("a", values[0]), ("b", np.delete(values[1], range(3, 8)))):
        row = found[(found["model"] == name) & (found["metric"] == "ndcg")].iloc[0]
        means = [x[rng.integers(0, len(x), len(x))].mean() for _ in range(20000)]
        assert row["value"] == pytest.approx(x.mean(), rel=1e-12)
        assert row["num_users"] == len(x)
        np.testing.assert_allclose(row[["low", "high"]].tolist(), np.quantile(means, [0.1, 0.9]), atol=0.006)


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
    found = compare(table, metrics=("ndcg",), resamples=2000).set_index("model")
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
