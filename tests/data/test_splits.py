from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from jaxmf.data import Dataset, datasets, splits
from jaxmf.evaluate import leakage


def rows_of(data):
    columns = [data.user, data.item, data.rating]
    columns += [] if data.timestamp is None else [data.timestamp]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def temporal_oracle(data, fractions):
    """The documents' algorithm: one user after another, a sorted list, slices."""
    parts: list[list[tuple]] = [[] for _ in fractions]
    for user in sorted(set(data.user.tolist())):
        own = sorted((row for row in rows_of(data) if row[0] == user), key=lambda row: row[3])
        if len(own) < len(fractions):
            parts[0] += own
            continue
        start, total = 0, 0.0
        for k, fraction in enumerate(fractions):
            total = fraction if k == 0 else total + fraction
            stop = len(own) if k == len(fractions) - 1 else int(len(own) * total)
            parts[k] += own[start:stop]
            start = stop
    return parts


def ties_and_small_users():
    """40 users with 1 to 40 ratings in mixed order; times collide often."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(40), np.arange(1, 41))
    item = np.concatenate([rng.permutation(60)[:n] for n in range(1, 41)])
    times = rng.integers(0, 12, len(user))
    rows = pd.DataFrame({"user_id": user, "item_id": item, "rating": rng.random(len(user)), "timestamp": times})
    return Dataset.from_frame(rows.sample(frac=1, random_state=0))


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.8, 0.2), (0.25, 0.25, 0.25, 0.25), (0.1, 0.2, 0.7)])
def test_temporal_equals_a_loop_over_users(fractions):
    data = ties_and_small_users()
    parts = splits.temporal_per_user(data, fractions)
    for part, expected in zip(parts, temporal_oracle(data, fractions), strict=True):
        assert sorted(rows_of(part)) == sorted(expected)


def test_temporal_cuts_in_floating_point():
    # 0.7 * 10 is 7.0 in floating point but (0.1 + 0.7) * 10 is 7.999..., so the second part has one rating fewer.
    rows = pd.DataFrame({"user_id": 1, "item_id": range(10), "rating": 1.0, "timestamp": range(10)})
    parts = splits.temporal_per_user(Dataset.from_frame(rows), (0.1, 0.7, 0.2))
    assert [len(part) for part in parts] == [1, int(10 * (0.1 + 0.7)) - 1, 10 - int(10 * (0.1 + 0.7))] == [1, 6, 3]


def test_temporal_never_tests_a_user_on_their_past():
    train, test = splits.temporal_per_user(ties_and_small_users(), (0.8, 0.2))
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for user, _, _, at in rows_of(train):
        last[user] = max(at, last.get(user, at))
    for user, _, _, at in rows_of(test):
        first[user] = min(at, first.get(user, at))
    assert all(last[user] <= first[user] for user in first)


@pytest.mark.parametrize("split", [splits.random, splits.random_per_user, splits.temporal_per_user, splits.temporal])
def test_parts_are_a_partition_that_shares_ids_in_the_order_of_the_data(split):
    data = ties_and_small_users()
    position = {row[:2]: k for k, row in enumerate(rows_of(data))}
    parts = split(data, (0.6, 0.3, 0.1))
    assert sorted(row for part in parts for row in rows_of(part)) == sorted(rows_of(data))
    for part in parts:
        assert part.user_ids is data.user_ids
        assert part.item_ids is data.item_ids
        places = [position[row[:2]] for row in rows_of(part)]
        assert places == sorted(places)


def test_random_has_the_sizes_and_the_seed_it_is_given():
    data = datasets.synthetic(30, 40, 333)
    parts = splits.random(data, (0.5, 0.3, 0.2), seed=1)
    assert [len(part) for part in parts] == [166, 266 - 166, 333 - 266]
    assert splits.random(data, (0.5, 0.3, 0.2), seed=1)[2].fingerprint() == parts[2].fingerprint()
    assert splits.random(data, (0.5, 0.3, 0.2), seed=2)[2].fingerprint() != parts[2].fingerprint()


def test_random_gives_every_rating_the_same_chance():
    data = datasets.synthetic(10, 10, 50)
    keys = rows_of(data)
    times_in_test = dict.fromkeys(keys, 0)
    for seed in range(200):
        for row in rows_of(splits.random(data, seed=seed)[1]):
            times_in_test[row] += 1
    assert sum(times_in_test.values()) == 200 * 10
    assert 15 <= min(times_in_test.values()) <= max(times_in_test.values()) <= 70


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.8, 0.2), (0.1, 0.7, 0.2)])
def test_random_per_user_gives_every_user_the_shares_that_time_would_give(fractions):
    data = ties_and_small_users()
    drawn, timed = (split(data, fractions) for split in (splits.random_per_user, splits.temporal_per_user))
    for part, same in zip(drawn, timed, strict=True):
        assert np.bincount(part.user, minlength=40).tolist() == np.bincount(same.user, minlength=40).tolist()
    again, other = (splits.random_per_user(data, fractions, seed)[1].fingerprint() for seed in (0, 1))
    assert again == drawn[1].fingerprint() != other


def test_random_per_user_gives_every_rating_of_a_user_the_same_chance():
    data = datasets.synthetic(10, 10, 50)  # five ratings per user
    times_in_test = dict.fromkeys(rows_of(data), 0)
    for seed in range(200):
        for row in rows_of(splits.random_per_user(data, seed=seed)[1]):
            times_in_test[row] += 1
    assert sum(times_in_test.values()) == 200 * 10
    assert 15 <= min(times_in_test.values()) <= max(times_in_test.values()) <= 70


def test_random_per_user_needs_no_times():
    data = Dataset.from_arrays(np.arange(20) // 5, np.arange(20) % 5)
    assert [len(part) for part in splits.random_per_user(data, (0.6, 0.2, 0.2))] == [12, 4, 4]


def global_oracle(data, fractions):
    """One sorted list (ties stay in order), slices."""
    rows = sorted(rows_of(data), key=lambda row: row[3])
    parts, start, total = [], 0, 0.0
    for k, fraction in enumerate(fractions):
        total = fraction if k == 0 else total + fraction
        stop = len(rows) if k == len(fractions) - 1 else int(len(rows) * total)
        parts.append(rows[start:stop])
        start = stop
    return parts


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.8, 0.2), (0.1, 0.7, 0.2)])
def test_temporal_equals_slices_of_one_sorted_list(fractions):
    data = ties_and_small_users()  # 820 ratings at 12 times: every cut falls among ties
    parts = splits.temporal(data, fractions)
    for part, expected in zip(parts, global_oracle(data, fractions), strict=True):
        assert sorted(rows_of(part)) == sorted(expected)
    assert [part.fingerprint() for part in splits.temporal(data)] == [
        part.fingerprint() for part in splits.temporal(data, (0.7, 0.15, 0.15))
    ]


@pytest.mark.parametrize("counts", [(1, 1), (1,), (2, 3, 1)])
def test_leave_last_equals_a_loop_over_users(counts):
    data = ties_and_small_users()
    expected: list[list[tuple]] = [[] for _ in range(1 + len(counts))]
    for user in sorted(set(data.user.tolist())):
        own = sorted((row for row in rows_of(data) if row[0] == user), key=lambda row: row[3])  # ties stay in order
        if len(own) > sum(counts):
            for part, count in zip(expected[:0:-1], counts[::-1], strict=True):
                own, last = own[:-count], own[-count:]
                part += last
        expected[0] += own
    parts = splits.leave_last(data, counts)
    assert [sorted(rows_of(part)) for part in parts] == [sorted(part) for part in expected]
    for held_out, count in zip(parts[1:], counts, strict=True):
        assert set(np.bincount(held_out.user, minlength=40).tolist()) == {0, count}
    assert all(part.user_ids is data.user_ids and part.item_ids is data.item_ids for part in parts)


def test_leave_last_by_hand():
    data = Dataset.from_arrays([1, 2, 1, 1, 2, 3], list("abcdef"), timestamp=[5, 1, 3, 5, 2, 9], weight=range(1, 7))
    train, valid, test = (part.to_frame() for part in splits.leave_last(data))
    assert train["item_id"].tolist() == ["b", "c", "e", "f"]  # users 2 and 3 have too few
    assert (valid["item_id"].tolist(), test["item_id"].tolist()) == (["a"], ["d"])  # a tie, in the order of the data
    assert (valid["weight"].tolist(), test["weight"].tolist()) == ([1], [4])


def test_by_user_holds_out_whole_users_and_tests_a_share_of_each():
    data = ties_and_small_users()
    train, given, test = splits.by_user(data, 0.3, 0.75, seed=1)
    assert sorted(rows_of(train) + rows_of(given) + rows_of(test)) == sorted(rows_of(data))
    held_out = set(given.user.tolist())
    assert held_out == set(test.user.tolist())
    assert len(held_out) == int(39 * 0.3)  # one of the 40 users has a single rating
    assert not held_out & set(train.user.tolist())
    n, known = (np.bincount(part.user, minlength=40) for part in (data, given))
    for user in held_out:
        assert known[user] == min(max(int(n[user] * 0.75), 1), n[user] - 1)
    position = {row[:2]: k for k, row in enumerate(rows_of(data))}
    for part in (train, given, test):
        assert part.user_ids is data.user_ids
        places = [position[row[:2]] for row in rows_of(part)]
        assert places == sorted(places)
    again, other = (splits.by_user(data, 0.3, 0.75, seed=seed)[2].fingerprint() for seed in (1, 2))
    assert again == test.fingerprint() != other


def test_by_user_leaves_something_given_and_something_to_test_whatever_the_share():
    pairs = Dataset.from_arrays(np.repeat(np.arange(50), 2), np.arange(100) % 7)
    for share in (0.01, 0.99):
        _, given, test = splits.by_user(pairs, 0.5, share)
        assert np.bincount(given.user).max() == np.bincount(test.user).max() == 1
        assert len(given) == len(test) == 25


def test_by_user_draws_users_and_items_evenly():
    data = Dataset.from_arrays(np.arange(80) // 8, np.arange(80) % 8)
    held_out, tested = np.zeros(10), np.zeros(8)
    for seed in range(300):
        test = splits.by_user(data, 0.2, 0.5, seed)[2]
        held_out[np.unique(test.user)] += 1
        tested += np.bincount(test.item, minlength=8)
    assert 35 <= held_out.min() <= held_out.max() <= 90  # 60 expected, with a standard deviation of 7
    assert 240 <= tested.min() <= tested.max() <= 360  # 300 expected


@pytest.mark.parametrize(("n", "k"), [(20, 2), (23, 5), (7, 7), (100, 3)])
def test_k_fold_holds_every_rating_out_once(n, k):
    data = datasets.synthetic(10, 20, n)
    weights = np.asarray(splits.k_fold(data, k))
    assert weights.shape == (k, n)
    assert set(weights.ravel().tolist()) == {0.0, 1.0}
    assert (1 - weights).sum(axis=0).tolist() == [1] * n
    held_out = (1 - weights).sum(axis=1)
    assert sorted(set(held_out.tolist())) == sorted({n // k, -(-n // k)})


@pytest.mark.parametrize("x64", [False, True])
def test_k_fold_weights_fit_the_ratings(x64):
    data = datasets.synthetic(10, 20, 50)
    with jax.enable_x64(x64):
        ratings, weights = data.ratings, splits.k_fold(data)
        train = jax.vmap(lambda weight: replace(ratings, weight=weight).weight.sum())(weights)
        assert weights.dtype == ratings.weight.dtype
    assert train.tolist() == [40] * 5


def test_k_fold_has_the_seed_it_is_given():
    data = datasets.synthetic(10, 20, 100)
    first, again, other = (np.asarray(splits.k_fold(data, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    together = np.zeros((100, 100))  # how often two ratings are held out together: about 19 of 99 in 5 folds of 20
    for seed in range(100):
        fold = np.asarray(splits.k_fold(data, seed=seed)).argmin(axis=0)
        together += fold[:, None] == fold
    neighbors = np.diag(together, 1)
    assert 2 <= neighbors.min() <= neighbors.max() <= 45
    assert abs(neighbors.mean() / 100 - 19 / 99) < 0.03


@pytest.mark.realdata
def test_latest_small_in_folds_and_along_time(latest_small: Dataset):
    weights = np.asarray(splits.k_fold(latest_small, 7, seed=3))
    assert np.array_equal((weights == 0).sum(axis=0), np.ones(100_836))
    assert sorted((weights == 0).sum(axis=1).tolist()) == [14_405] * 6 + [14_406]
    order = np.argsort(latest_small.timestamp, kind="stable")
    cuts = [int(100_836 * 0.7), int(100_836 * (0.7 + 0.15))]
    parts = splits.temporal(latest_small, (0.7, 0.15, 0.15))
    for part, rows in zip(parts, np.split(order, cuts), strict=True):
        assert part.fingerprint() == latest_small.take(np.sort(rows)).fingerprint()
    assert [len(part) for part in parts] == [cuts[0], cuts[1] - cuts[0], 100_836 - cuts[1]]
    assert parts[0].timestamp.max() <= parts[1].timestamp.min()


@pytest.mark.realdata
def test_latest_small_has_the_documents_sizes(latest_small: Dataset):
    train, valid, test = splits.temporal_per_user(latest_small)
    assert (len(train), len(valid), len(test)) == (70_312, 15_102, 15_422)


@pytest.mark.parametrize(
    "times", [pd.to_datetime(["2024-01-01 10:00:00.9", "2024-01-01 10:00:00.1"]), [1704103200.9, 1704103200.1]]
)
@pytest.mark.parametrize("split", [splits.temporal, splits.temporal_per_user])
def test_fractions_of_a_second_order_ratings(split, times):
    data = Dataset.from_arrays([1, 1], ["late", "early"], [3.0, 4.0], times)
    early, late = split(data, (0.5, 0.5))
    assert [part.to_frame()["item_id"].tolist() for part in (early, late)] == [["early"], ["late"]]
    assert set(leakage(early, late)["verdict"][1:3]) == {"ok"}
    assert set(leakage(late, early)["verdict"][1:3]) == {"leak"}
