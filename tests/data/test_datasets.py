import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxmf.data import _synthetic, datasets, splits


def test_planted_matches_the_lecture():
    train, test = datasets.planted()
    assert (len(train), len(test)) == (952, 238)
    pairs = [set(zip(part.user.tolist(), part.item.tolist(), strict=True)) for part in (train, test)]
    assert (len(pairs[0]), len(pairs[1]), len(pairs[0] & pairs[1])) == (952, 238, 0)
    for part in (train, test):
        assert part.user_ids.tolist() == list(range(100))
        assert part.item_ids.tolist() == list(range(60))
        assert part.rating.min() >= 1
        assert part.rating.max() <= 5


def test_planted_stream_reaches_the_printed_gradient():
    noisy, train_pairs, _, rng = datasets.planted_draws(42)
    train, _ = datasets.planted(42)
    assert np.array_equal(np.c_[train.user, train.item], train_pairs)
    R, mask = np.zeros((5, 5)), np.zeros((5, 5))
    for u, i, r in zip(train.user, train.item, train.rating, strict=True):
        if u < 5 and i < 5:
            R[u, i], mask[u, i] = r, 1
    U, V = rng.normal(0, 0.5, (5, 3)), rng.normal(0, 0.5, (5, 3))
    dU = -2 * ((R - U @ V.T) * mask) @ V + 2 * 0.1 * U
    assert abs(dU[0, 0] - 2.93976684) < 5e-9
    assert np.array_equal(R[mask == 1], noisy[:5, :5][mask == 1])


def test_planted_matrix_has_rank_four_around_a_constant():
    noisy = datasets.planted_draws(0)[0]
    values = np.linalg.svd(noisy - noisy.mean(), compute_uv=False)
    assert values[3] > 2 * values[4]
    assert not np.array_equal(noisy, datasets.planted_draws(42)[0])


@pytest.fixture(scope="module")
def default():
    return datasets.synthetic()


def counts(data):
    return np.bincount(data.user, minlength=data.num_users), np.bincount(data.item, minlength=data.num_items)


def check_invariants(data, num_users, num_items, num_ratings):
    assert (data.num_users, data.num_items, len(data)) == (num_users, num_items, num_ratings)
    assert data.user_ids.tolist() == list(range(1, num_users + 1))
    assert data.item_ids.tolist() == list(range(1, num_items + 1))
    assert len(set(zip(data.user.tolist(), data.item.tolist(), strict=True))) == num_ratings
    assert counts(data)[0].min() >= min(20, num_ratings // num_users, num_items)
    assert set(data.rating.tolist()) <= {k / 2 for k in range(1, 11)}
    assert len(set(zip(data.user.tolist(), data.timestamp.tolist(), strict=True))) == num_ratings
    assert data.items.index.tolist() == data.item_ids.tolist()


@pytest.mark.parametrize(
    "sizes", [(5, 4, 20), (5, 4, 19), (1, 1, 1), (100, 1, 100), (7, 300, 30), (50, 30, 1499), (9, 9, 4)]
)
def test_synthetic_of_any_size(sizes: tuple[int, int, int]):
    check_invariants(datasets.synthetic(*sizes, rank=2), *sizes)


def test_default_synthetic_looks_like_latest_small(default):
    check_invariants(default, 610, 9724, 100_000)
    n_u, n_i = counts(default)
    rated = n_i[n_i > 0]
    assert 1500 <= n_u.max() <= 2500
    assert 60 <= np.median(n_u) <= 110
    assert 0.4 <= n_i.max() / 610 <= 0.65
    assert 0.2 <= (rated == 1).mean() <= 0.4
    assert 7000 <= len(rated) < 9724
    assert 3.4 <= default.rating.mean() <= 3.6
    assert 0.95 <= default.rating.std() <= 1.1
    per_item = pd.Series(default.rating).groupby(default.item).mean().to_numpy()
    assert 0.2 <= per_item[rated >= 100].mean() - per_item[rated < 10].mean() <= 0.9
    years = (default.timestamp.max() - default.timestamp.min()) / (365 * 86_400)
    assert 15 <= years <= 40


def test_time_within_a_user_says_nothing_about_popularity(default):
    n_i = counts(default)[1]
    early, late = splits.temporal_per_user(default, (0.5, 0.5))
    assert abs(np.log(n_i[early.item]).mean() - np.log(n_i[late.item]).mean()) < 0.02


def test_same_seed_same_data_other_seed_other_data(default):
    again = datasets.synthetic()
    assert again.fingerprint() == default.fingerprint()
    pd.testing.assert_frame_equal(again.items, default.items)
    assert datasets.synthetic(seed=1).fingerprint() != default.fingerprint()


def test_default_synthetic_is_quick():
    start = time.process_time()
    datasets.synthetic()
    assert time.process_time() - start < 5


def bias_model(train, damping=4.0):
    """Residual function of a damped bias model, by 20 alternations."""
    mean = train.rating.mean()
    n_u, n_i = counts(train)
    b, c = np.zeros(train.num_users), np.zeros(train.num_items)
    for _ in range(20):
        c = np.bincount(train.item, train.rating - mean - b[train.user], len(c)) / (n_i + damping)
        b = np.bincount(train.user, train.rating - mean - c[train.item], len(b)) / (n_u + damping)
    return lambda data: data.rating - mean - b[data.user] - c[data.item]


def ridge_rows(target, rows, design, num_rows, l2):
    """One ridge regression per row."""
    k = design.shape[1]
    gram, moment = np.zeros((num_rows, k, k)), np.zeros((num_rows, k))
    np.add.at(gram, rows, design[:, :, None] * design[:, None, :])
    np.add.at(moment, rows, design * target[:, None])
    return np.linalg.solve(gram + l2 * np.eye(k), moment[:, :, None])[:, :, 0]


def rms(values):
    return float(np.sqrt(np.mean(values**2)))


def test_factors_matter_in_default_synthetic(default):
    train, test = splits.random(default)
    residual = bias_model(train)
    Q = np.random.default_rng(0).normal(0, 0.1, (train.num_items, 8))
    for _ in range(6):
        P = ridge_rows(residual(train), train.user, Q[train.item], train.num_users, 10.0)
        Q = ridge_rows(residual(train), train.item, P[train.user], train.num_items, 10.0)
    bias_rmse, mf_rmse = rms(residual(test)), rms(residual(test) - (P[test.user] * Q[test.item]).sum(1))
    assert 0.84 <= mf_rmse <= 0.89
    assert 0.03 <= bias_rmse - mf_rmse <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize(("column", "separator"), [("genres", "|"), ("tags", " ")])
def test_content_carries_signal(column, separator):
    data = datasets.synthetic(num_users=300, num_items=200, num_ratings=30_000)
    train, test = splits.random(data)
    residual = bias_model(train)
    features = data.items[column].str.get_dummies(separator).to_numpy(float)
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1)

    def test_rmse(x):
        A = ridge_rows(residual(train), train.user, x[train.item], train.num_users, 8.0)
        return rms(residual(test) - (A[test.user] * x[test.item]).sum(1))

    shuffled = np.random.default_rng(0).permutation(features)
    assert test_rmse(features) < rms(residual(test)) - 0.01
    assert test_rmse(shuffled) > rms(residual(test))


def test_every_item_has_a_title_and_genres(default):
    assert default.items.loc[17, "title"] == "Item 17"
    assert default.items["genres"].str.len().min() > 0
    words = {word for genres in default.items["genres"] for word in genres.split("|")}
    assert len(words) == 18
    assert 0.05 < (default.items["tags"] != "").mean() <= 1


@pytest.fixture(scope="module")
def implicit():
    return datasets.synthetic(feedback="implicit")


@pytest.mark.parametrize("sizes", [(5, 4, 20), (1, 1, 1), (100, 1, 100), (7, 300, 30), (50, 30, 1499)])
def test_implicit_synthetic_of_any_size(sizes: tuple[int, int, int]):
    data = datasets.synthetic(*sizes, rank=2, feedback="implicit")
    check_invariants(data, *sizes)
    assert set(data.rating.tolist()) == {1.0}
    assert data.weight.min() >= 1
    assert np.array_equal(data.weight, np.round(data.weight))


def test_explicit_synthetic_is_no_other_since_there_is_implicit():
    """Printed before there was: the order of the draws is the same."""
    data = datasets.synthetic(50, 30, 600, 2)
    assert (data.weight, data.name) == (None, "synthetic")
    assert data.item[:12].tolist() == [0, 1, 2, 4, 5, 9, 12, 14, 15, 20, 26, 28]
    assert data.rating[:12].tolist() == [3.0, 5.0, 5.0, 2.5, 5.0, 2.0, 5.0, 0.5, 1.5, 0.5, 1.5, 0.5]
    sums = int(data.item.sum()), float(data.rating.sum()), int(data.timestamp.sum())
    assert sums == (8372, 2076.5, 687_442_055_739)
    assert data.items["genres"].iloc[:3].tolist() == ["Adventure", "Film-Noir|Musical", "Musical"]


def test_implicit_synthetic_is_drawn_from_its_seed(implicit):
    assert datasets.synthetic(feedback="implicit").fingerprint() == implicit.fingerprint()
    assert datasets.synthetic(feedback="implicit", seed=1).fingerprint() != implicit.fingerprint()
    picks = _synthetic.picks(np.random.default_rng(0), 610, 9724, 100_000, 8)
    assert np.array_equal(picks.user, implicit.user)
    assert np.array_equal(picks.plays, implicit.weight)


def ndcg_at_10(score, train, test):
    """The mean over users with test pairs, one after another, as the formula is written."""
    gain, total = 1 / np.log2(np.arange(2, 12)), []
    for user in np.unique(test.user):
        own = score[user].copy()
        own[train.item[train.user == user]] = -np.inf
        relevant = np.isin(np.argsort(-own, kind="stable")[:10], test.item[test.user == user])
        total.append(gain[relevant].sum() / gain[: (test.user == user).sum()].sum())
    return float(np.mean(total))


def test_taste_beats_popularity_in_implicit_synthetic(implicit):
    """By 3.9 times; were users to pick by popularity alone, popularity would be best."""
    train, test = splits.random(implicit)
    picks = _synthetic.picks(np.random.default_rng(0), 610, 9724, 100_000, 8)
    popularity = np.bincount(train.item, minlength=train.num_items).astype(float)
    by_popularity = ndcg_at_10(np.tile(popularity, (610, 1)), train, test)
    taste = picks.user_factors @ picks.item_factors.T
    by_taste = ndcg_at_10(np.log(_synthetic._popularity(picks.popularity_rank)) + taste, train, test)
    assert by_taste > 3 * by_popularity > 0.2
    liked, others = (implicit.weight[taste[implicit.user, implicit.item] > bound].mean() for bound in (3, -np.inf))
    assert liked > 1.5 * others


def implicit_als(train, rank=16, unobserved=0.3, l2=0.003, sweeps=5):
    """Scores by iALS, one row after another."""
    Q, P = np.random.default_rng(0).normal(0, 0.1, (train.num_items, rank)), np.zeros((train.num_users, rank))
    for _ in range(sweeps):
        for solved, given, own, other in ((P, Q, train.user, train.item), (Q, P, train.item, train.user)):
            gram, order = unobserved * given.T @ given, np.argsort(own, kind="stable")
            for row, places in enumerate(np.split(order, np.cumsum(np.bincount(own, minlength=len(solved)))[:-1])):
                x, w = given[other[places]], train.weight[places]
                ridge = l2 * (w.sum() + unobserved * len(given))
                solved[row] = np.linalg.solve(gram + (x * w[:, None]).T @ x + ridge * np.eye(rank), w @ x)
    return P @ Q.T


@pytest.mark.slow
def test_a_fit_beats_popularity_in_implicit_synthetic(implicit):
    """By 2.8 times with plays as weights, and by 3.1 times with their logarithms."""
    train, test = splits.random(implicit)
    popularity = np.tile(np.bincount(train.item, minlength=train.num_items).astype(float), (610, 1))
    by_popularity = ndcg_at_10(popularity, train, test)
    for weight in (train.weight, np.log1p(train.weight)):
        assert ndcg_at_10(implicit_als(replace(train, weight=weight)), train, test) > 2 * by_popularity
