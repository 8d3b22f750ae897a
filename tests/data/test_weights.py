"""Implicit feedback: weights on their way through a Dataset, data without ratings, counts, confidence."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jaxmf.data import Dataset, splits

PLAYS = pd.DataFrame(
    {"user_id": [30, 10, 30, 20], "item_id": list("baac"), "plays": [3, 1, 8, 2], "timestamp": [4, 3, 2, 1]}
)
LOG = pd.DataFrame({"user_id": [1, 2, 1, 2, 1], "item_id": list("abaca"), "timestamp": [7, 1, 9, 1, 8]})
DATA = Dataset.from_frame(PLAYS, weight="plays")


def rows(data):
    """(user id, item id, rating, weight) as plain Python."""
    frame = data.to_frame()
    weight = frame["weight"] if "weight" in frame else [None] * len(frame)
    return list(zip(frame["user_id"], frame["item_id"], frame["rating"], weight, strict=True))


def test_without_ratings_each_row_counts_1():
    for data in (
        Dataset.from_frame(PLAYS),
        Dataset.from_arrays(PLAYS["user_id"], PLAYS["item_id"], timestamp=PLAYS["timestamp"]),
    ):
        assert rows(data) == [(30, "b", 1, None), (10, "a", 1, None), (30, "a", 1, None), (20, "c", 1, None)]
        assert data.rating.dtype == np.float64
        assert (data.weight, data.timestamp.tolist()) == (None, [4, 3, 2, 1])


@pytest.mark.parametrize("named", [{"weight": "plays"}, {"columns": {"plays": "weight"}}])
def test_a_column_of_counts_becomes_weights(named):
    data = Dataset.from_frame(PLAYS, **named)
    assert rows(data) == [(30, "b", 1, 3), (10, "a", 1, 1), (30, "a", 1, 8), (20, "c", 1, 2)]
    assert data.weight.dtype == np.float64
    assert Dataset.from_frame(PLAYS.rename(columns={"plays": "weight"})).fingerprint() == data.fingerprint()


def test_weights_beside_ratings():
    rated = PLAYS.assign(rating=[4.0, 0.5, 2.5, 5.0])
    assert rows(Dataset.from_frame(rated, weight="plays"))[1:3] == [(10, "a", 0.5, 1), (30, "a", 2.5, 8)]
    swapped = Dataset.from_frame(rated, {"plays": "rating"}, weight="rating")
    assert rows(swapped)[1:3] == [(10, "a", 1, 0.5), (30, "a", 8, 2.5)]


def test_ratings_of_the_device_have_the_weights():
    assert DATA.ratings.weight.tolist() == [3, 1, 8, 2]
    assert DATA.ratings.value.tolist() == [1, 1, 1, 1]
    with jax.enable_x64(False):
        assert DATA.ratings.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("duplicates", "timed", "expected"),
    [
        ("last", True, [(2, "b", 1, None), (1, "a", 1, None), (2, "c", 1, None)]),
        ("mean", False, [(2, "b", 1, None), (2, "c", 1, None), (1, "a", 1, None)]),
        ("sum", False, [(2, "b", 1, 1), (2, "c", 1, 1), (1, "a", 1, 3)]),
        ("sum", True, [(2, "b", 1, 1), (1, "a", 1, 3), (2, "c", 1, 1)]),
    ],
)
def test_a_log_of_events_becomes_counts(duplicates, timed, expected):
    log = LOG if timed else LOG.drop(columns="timestamp")
    said = {"sum": "the sum of the weights", "last": "the last row", "mean": "the last row"}[duplicates]
    with pytest.warns(UserWarning, match=rf"^2 of 5 rows repeat a \(user, item\) pair: {said} is kept$"):
        assert rows(Dataset.from_frame(log, duplicates=duplicates)) == expected


@pytest.mark.parametrize(
    ("duplicates", "weight", "rating"), [("last", 30, 4.0), ("mean", 70 / 3, 6.5 / 3), ("sum", 70, 6.5)]
)
def test_repeated_pairs_merge_their_weights_and_ratings(duplicates, weight, rating):
    log = LOG.assign(plays=[10, 1, 30, 2, 30], rating=[1.0, 2.0, 4.0, 3.0, 1.5])
    with pytest.warns(UserWarning, match=r"^2 of 5 rows .*weights?.* is kept$"):
        merged = rows(Dataset.from_frame(log.drop(columns="rating"), weight="plays", duplicates=duplicates))
    assert merged == [(2, "b", 1, 1), (1, "a", 1, pytest.approx(weight)), (2, "c", 1, 2)]
    with pytest.warns(UserWarning, match=r"^2 of 5 rows .*ratings? and (of )?(the )?weights?.* is kept$"):
        merged = rows(Dataset.from_frame(log, weight="plays", duplicates=duplicates))
    assert merged == [(2, "b", 2, 1), (1, "a", pytest.approx(rating), pytest.approx(weight)), (2, "c", 3, 2)]


def test_the_transform_sees_the_merged_weights():
    seen: list[Any] = []

    def double(weight):
        seen.append(weight.tolist())
        weight *= 2  # its own copy
        return weight

    with pytest.warns(UserWarning, match="2 of 5 rows"):
        data = Dataset.from_frame(LOG, duplicates="sum", transform=double)
    assert (seen, data.weight.tolist()) == ([[1, 3, 1]], [2, 6, 2])
    log = Dataset.from_frame(PLAYS, weight="plays", transform=np.log1p)
    assert np.array_equal(log.weight, np.log1p([3.0, 1, 8, 2]))
    arrays = Dataset.from_arrays([1, 2], [1, 2], weight=[3, 1], transform=lambda plays: 1 + 40 * plays)
    assert arrays.weight.tolist() == [121, 41]
    whole = Dataset.from_arrays([1, 2], [1, 2], weight=[3, 1], transform=lambda plays: plays.astype(int))
    assert whole.weight.dtype == np.float64


def test_rows_that_lack_a_weight_are_left_out():
    table = PLAYS.assign(plays=[3, np.nan, 8, 2])
    with pytest.warns(UserWarning, match=r"^1 of 4 rows lack an id, a weight or a time, and are left out$"):
        assert Dataset.from_frame(table, weight="plays", missing="drop").weight.tolist() == [3, 8, 2]
    with pytest.warns(UserWarning, match=r"^1 of 4 rows lack an id, a rating, a weight or a time, and are left out$"):
        Dataset.from_frame(table.assign(rating=1), weight="plays", missing="drop")


@pytest.mark.parametrize("format_", ["coo", "csr", "csc", "lil"])
def test_the_entries_of_a_matrix_as_weights(format_):
    matrix = sparse.coo_array(([4, 2], ([0, 2], [1, 3])), shape=(3, 5)).asformat(format_)
    data = Dataset.from_scipy(matrix, entries="weight", transform=np.sqrt)
    cells = zip(data.user.tolist(), data.item.tolist(), data.rating.tolist(), data.weight.tolist(), strict=True)
    assert sorted(cells) == [(0, 1, 1, 2), (2, 3, 1, 2**0.5)]
    assert (data.num_users, data.num_items) == (3, 5)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("user_id,item_id\n1,x\n2,y\n", {}, [(1, "x", 1, None), (2, "y", 1, None)]),
        ("1;x\n2;y\n", {"header": False}, [(1, "x", 1, None), (2, "y", 1, None)]),
        ("user_id,item_id,plays\n1,x,3\n2,y,1.5\n", {"weight": "plays"}, [(1, "x", 1, 3), (2, "y", 1, 1.5)]),
        ("user_id,item_id,weight\n1,x,3\n2,y,1\n", {"transform": np.sqrt}, [(1, "x", 1, 3**0.5), (2, "y", 1, 1)]),
        ("1,x,3\n2,y,1\n", {"header": False, "weight": 2}, [(1, "x", 1, 3), (2, "y", 1, 1)]),
        ("1,x,3,9\n2,y,1,8\n", {"header": False, "weight": 2}, [(1, "x", 1, 3), (2, "y", 1, 1)]),
        ("1,x,5,9,3\n2,y,4,8,1\n", {"header": False, "weight": 4}, [(1, "x", 5, 3), (2, "y", 4, 1)]),
        ("1,x,5,9,3\n2,y,4,8,1\n", {"header": False}, [(1, "x", 5, None), (2, "y", 4, None)]),
        (
            "3,x,1\n1,y,2\n",
            {"header": False, "columns": {0: "weight", 1: "item_id", 2: "user_id"}},
            [(1, "x", 1, 3), (2, "y", 1, 1)],
        ),
    ],
)
def test_files_with_and_without_weights(tmp_path, text, options, expected):
    (tmp_path / "mine.csv").write_text(text)
    data = Dataset.from_csv(tmp_path / "mine.csv", **options)
    assert rows(data) == expected
    assert (data.timestamp is not None) == (text.startswith("1,x,3,9") or text.startswith("1,x,5"))


def test_weights_in_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    PLAYS.to_parquet(tmp_path / "mine.parquet")
    data = Dataset.from_parquet(tmp_path / "mine.parquet", weight="plays", transform=np.sqrt)
    assert np.array_equal(data.weight, np.sqrt(DATA.weight))


def test_weights_travel_with_their_observations():
    assert rows(DATA.take(np.array([2, 0]))) == [(30, "a", 1, 8), (30, "b", 1, 3)]
    assert rows(DATA.take(DATA.weight > 2)) == [(30, "b", 1, 3), (30, "a", 1, 8)]
    assert Dataset.from_frame(DATA.to_frame()).fingerprint() == DATA.fingerprint()
    parts = splits.random(DATA, (0.5, 0.5))
    assert sorted(row for part in parts for row in rows(part)) == sorted(rows(DATA))
    for again in (copy.deepcopy(DATA), pickle.loads(pickle.dumps(DATA))):
        assert rows(again) == rows(DATA)


def test_align_takes_the_weights_of_the_other():
    plain = replace(DATA, weight=None)
    assert rows(plain.align(DATA)) == rows(DATA)
    assert DATA.align(plain).weight is None
    part = Dataset.from_arrays([10, 99], ["a", "a"], weight=[5, 6])
    with pytest.warns(UserWarning, match="1 of 2 ratings"):
        assert rows(DATA.align(part, on_unknown="drop")) == [(10, "a", 1, 5)]


def test_extend_appends_weights_or_ones():
    untimed = replace(DATA, timestamp=None)
    more = pd.DataFrame({"user_id": [10, 40], "item_id": ["b", "d"]})
    weighted = more.assign(weight=[7, 9])
    assert untimed.extend(more).weight.tolist() == [3, 1, 8, 2, 1, 1]
    assert untimed.extend(weighted).weight.tolist() == [3, 1, 8, 2, 7, 9]
    plain = replace(untimed, weight=None)
    assert plain.extend(more).weight is None
    assert plain.extend(weighted).weight.tolist() == [1, 1, 1, 1, 7, 9]
    assert plain.extend(more).rating.tolist() == [1] * 6
    assert untimed.extend(None).weight.tolist() == [3, 1, 8, 2]


def test_fingerprint_depends_on_weights_and_is_as_before_without():
    prints = {DATA.fingerprint(), replace(DATA, weight=None).fingerprint()}
    prints |= {replace(DATA, weight=DATA.weight + change).fingerprint() for change in (1, 2)}
    assert len(prints) == 4
    rated = Dataset.from_arrays([30, 10, 30], list("baa"), [4, 0, 2.5], [3, 2, 1])
    assert rated.fingerprint() == "dd225b5451c750e7"  # as it was before there were weights
    assert DATA.describe()["total_weight"] == 14
    assert "total_weight" not in replace(DATA, weight=None).describe()


def test_binarize_keeps_what_is_rated_high_enough():
    rated = Dataset.from_frame(PLAYS.assign(rating=[4.0, 0.0, 2.5, 5.0]), weight="plays")
    high = rated.binarize(4)
    assert rows(high) == [(30, "b", 1, 3), (20, "c", 1, 2)]
    assert (high.timestamp.tolist(), high.num_users, high.num_items) == ([4, 1], 3, 3)
    assert rows(rated.binarize(np.float64(0)))[1] == (10, "a", 1, 1)
    assert rated.rating.tolist() == [4.0, 0.0, 2.5, 5.0]


def hkv(P, Q, preference, confidence):
    """The objective of Hu, Koren and Volinsky (2008) over all cells."""
    return float(np.sum(confidence * (preference - P @ Q.T) ** 2))


def observed_and_background(P, Q, data):
    """The objective over the observations, plus that of unobserved=1."""
    predicted = P @ Q.T
    observed = data.weight * (data.rating - predicted[data.user, data.item]) ** 2
    return float(np.sum(observed) + np.sum(predicted**2))


def test_confidence_gives_the_objective_of_hu_koren_and_volinsky():
    rng = np.random.default_rng(0)
    pair = rng.choice(9 * 7, 25, replace=False)
    data = Dataset.from_arrays(pair // 7, pair % 7, weight=rng.integers(1, 30, 25))
    num_users, num_items = data.num_users, data.num_items
    preference, confidence = np.zeros((num_users, num_items)), np.ones((num_users, num_items))
    preference[data.user, data.item], confidence[data.user, data.item] = 1, 1 + 4 * data.weight
    changed = data.with_confidence(lambda plays: 1 + 4 * plays)
    assert np.array_equal(changed.user, data.user)
    differences = []
    for _ in range(8):
        P, Q = rng.normal(size=(num_users, 3)), rng.normal(size=(num_items, 3))
        whole, ours = hkv(P, Q, preference, confidence), observed_and_background(P, Q, changed)
        differences.append((whole - ours, whole))
    constants, sizes = np.array(differences).T
    assert np.ptp(constants) < 1e-12 * sizes.max()
    assert sizes.min() > 100


def test_confidence_1_is_left_out_and_counted():
    with pytest.warns(UserWarning, match=r"^with_confidence: 1 of 4 observations have confidence 1 and are left out$"):
        data = DATA.with_confidence(lambda plays: np.sqrt(plays))
    assert [row[:2] for row in rows(data)] == [(30, "b"), (30, "a"), (20, "c")]
    assert data.weight == pytest.approx(np.sqrt([3, 8, 2]) - 1)
    assert data.rating == pytest.approx(np.sqrt([3, 8, 2]) / (np.sqrt([3, 8, 2]) - 1))
    assert (data.num_users, data.timestamp.tolist()) == (3, [4, 2, 1])
    plain = replace(DATA, weight=None).with_confidence(lambda ones: 41 * ones)
    assert (plain.weight.tolist(), plain.rating.tolist()) == ([40] * 4, [41 / 40] * 4)


def test_a_function_that_changes_its_argument_changes_no_dataset():
    def doubled(weight):
        weight *= 2
        return weight

    before = DATA.weight.tolist()
    assert DATA.with_confidence(doubled).weight.tolist() == [5, 1, 15, 3]
    assert DATA.weight.tolist() == before
