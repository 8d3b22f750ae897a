"""The audit of a split against loops over all pairs of ratings, and what each of our splits gives away."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import random_ratings

from jaxmf import Dataset, datasets, splits
from jaxmf.evaluate import leakage

CHECKS = [
    "test pairs in train",
    "test ratings before the user's last training rating",
    "training ratings after the first test rating",
    "users only in test",
    "test ratings of users only in test",
    "items only in test",
    "test ratings of items only in test",
]


def parts(seed):
    """Two parts that overlap in pairs and times, with users and items that only one has."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(12 * 10, (2, 40), replace=True)
    whole = Dataset.from_arrays(np.repeat(range(12), 10), np.tile(range(10), 12), np.zeros(120))
    time = rng.integers(0, 30, (2, 40))
    for pair, times in zip(pairs, time, strict=True):
        unique = rng.permutation(np.unique(pair))
        yield replace(whole.take(unique), timestamp=times[: len(unique)])


@pytest.mark.parametrize("seed", range(4))
def test_leakage_equals_the_loops(seed):
    train, test = parts(seed)
    before, after = (
        list(zip(x.user.tolist(), x.item.tolist(), x.timestamp.tolist(), strict=True)) for x in (train, test)
    )
    known, users = {(u, i) for u, i, _ in before}, {u for u, _, _ in before}
    items = {i for _, i, _ in before}
    cold_users, cold_items = {u for u, _, _ in after} - users, {i for _, i, _ in after} - items
    counts = [
        sum((u, i) in known for u, i, _ in after),
        sum(any(v == u and s > t for v, _, s in before) for u, _, t in after),
        sum(s > min(t for *_, t in after) for *_, s in before),
        len(cold_users),
        sum(u in cold_users for u, *_ in after),
        len(cold_items),
        sum(i in cold_items for _, i, _ in after),
    ]
    totals = [len(after), len(after), len(before), len({u for u, *_ in after}), len(after)]
    totals += [len({i for _, i, _ in after}), len(after)]
    found = leakage(train, test)
    assert found["check"].tolist() == CHECKS
    assert found["count"].tolist() == counts
    assert found["total"].tolist() == totals
    assert found["share"].tolist() == pytest.approx([c / t for c, t in zip(counts, totals, strict=True)])
    bad = ["leak"] * 3 + ["cold"] * 4
    assert found["verdict"].tolist() == [v if c else "ok" for v, c in zip(bad, counts, strict=True)]


def test_what_the_splits_give_away():
    data = datasets.synthetic(num_users=30, num_items=20, num_ratings=300)
    cuts = {
        "global": splits.temporal(data, (0.7, 0.3)),
        "user": splits.temporal_per_user(data, (0.7, 0.3)),
        "random": splits.random(data, (0.7, 0.3)),
    }
    found = {name: leakage(*cut).set_index("check")["verdict"].iloc[:3].tolist() for name, cut in cuts.items()}
    assert found == {"global": ["ok"] * 3, "user": ["ok", "ok", "leak"], "random": ["ok", "leak", "leak"]}


def test_without_times_and_without_weight():
    train, test = random_ratings(folds=True), random_ratings(seed=5, num_ratings=40, folds=True)
    found = leakage(train, test)
    assert found["verdict"].tolist()[1:3] == ["unknown", "unknown"]
    assert found["count"].isna().tolist() == [False, True, True, False, False, False, False]

    def observed(ratings):
        kept = np.flatnonzero(ratings.weight)
        return replace(ratings, **{name: getattr(ratings, name)[kept] for name in ("user", "item", "value", "weight")})

    assert found.equals(leakage(observed(train), observed(test)))
    assert not found.equals(leakage(*(replace(x, weight=x.weight * 0 + 1) for x in (train, test))))


@pytest.mark.realdata
def test_latest_small_names_items_that_training_lacks(latest_small):
    train, _, test = splits.temporal_per_user(latest_small)
    found = leakage(train, test).set_index("check")
    assert found.loc["test ratings of items only in test", ["count", "total"]].tolist() == [1514, 15422]
    assert found["verdict"].tolist() == ["ok", "ok", "leak", "ok", "ok", "cold", "cold"]
