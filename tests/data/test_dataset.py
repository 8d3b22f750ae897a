import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from jaxmf.data import Dataset, datasets


def frame(**changes):
    columns = {"user_id": [30, 10, 30, 20], "item_id": ["b", "a", "a", "c"], "rating": [4.0, 0.0, 2.5, 5.0]}
    return pd.DataFrame(columns | changes)


def observations(data):
    """(user id, item id, rating) as plain Python, looked up one by one."""
    triples = zip(data.user.tolist(), data.item.tolist(), data.rating.tolist(), strict=True)
    return [(data.user_ids[u], data.item_ids[i], r) for u, i, r in triples]


def test_from_frame_numbers_sorted_ids_and_keeps_the_order_of_rows():
    data = Dataset.from_frame(frame())
    assert data.user_ids.tolist() == [10, 20, 30]
    assert data.item_ids.tolist() == ["a", "b", "c"]
    assert observations(data) == [(30, "b", 4.0), (10, "a", 0.0), (30, "a", 2.5), (20, "c", 5.0)]
    assert (data.num_users, data.num_items, len(data)) == (3, 3, 4)
    assert data.timestamp is None
    assert data.items is None


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([3, 1, 2, 3], id="int"),
        pytest.param(["x", "10", "9", "x"], id="str"),
        pytest.param([7, "seven", 7.5, 7], id="mixed, comparable within types"),
        pytest.param([(1, 2), (0, 5), (1, 3), (1, 2)], id="tuple"),
        pytest.param([(1,), "a", 3, (1,)], id="not comparable"),
        pytest.param(pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-03", "2020-01-02"]), id="date"),
        pytest.param(pd.Categorical(["q", "p", "r", "q"], categories=list("zrqp")), id="category"),
        pytest.param(pd.array([3, 1, 2, 3], dtype="Int64"), id="nullable"),
    ],
)
def test_ids_of_any_type_go_in_and_come_out(ids):
    ids = pd.Series(ids)
    data = Dataset.from_frame(frame(user_id=ids))
    assert data.num_users == 3
    assert data.user_ids[data.user].tolist() == ids.tolist()
    assert data.user_index(ids).tolist() == data.user.tolist()
    assert data.user.dtype == data.user_index(ids).dtype == np.int32
    assert data.to_frame()["user_id"].tolist() == ids.tolist()


def test_ids_that_cannot_be_compared_keep_the_order_of_appearance():
    assert Dataset.from_frame(frame(user_id=[(1,), "a", 3, "a"])).user_ids.tolist() == [(1,), "a", 3]


def test_columns_renames_and_further_columns_are_ignored():
    own = frame(note=["w", "x", "y", "z"]).rename(columns={"user_id": "who", "rating": "stars"})
    data = Dataset.from_frame(own, columns={"who": "user_id", "stars": "rating"})
    assert observations(data) == observations(Dataset.from_frame(frame()))


def test_to_frame_inverts_from_frame():
    own = frame(timestamp=[4, 3, 2, 1])
    pd.testing.assert_frame_equal(Dataset.from_frame(own).to_frame(), own)
    assert Dataset.from_frame(frame()).to_frame().columns.tolist() == ["user_id", "item_id", "rating"]


@pytest.mark.parametrize("x64", [False, True])
def test_ratings_have_the_default_float_and_unit_weights(x64):
    with jax.enable_x64(x64):
        ratings = Dataset.from_frame(frame()).ratings
    assert ratings.value.dtype == ratings.weight.dtype == (np.float64 if x64 else np.float32)
    assert ratings.user.dtype == ratings.item.dtype == np.int32
    assert ratings.user.tolist() == [2, 0, 2, 1]
    assert ratings.item.tolist() == [1, 0, 0, 2]
    assert ratings.value.tolist() == [4.0, 0.0, 2.5, 5.0]
    assert ratings.weight.tolist() == [1.0] * 4
    assert (ratings.num_users, ratings.num_items) == (3, 3)


def test_integer_and_object_ratings_become_floats():
    assert Dataset.from_frame(frame(rating=[1, 2, 3, 4])).rating.dtype == np.float64
    assert Dataset.from_frame(frame(rating=pd.Series([1, 2.5, 3, 4], dtype=object))).rating.tolist() == [1, 2.5, 3, 4]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([4, 3, 2, 1], [4, 3, 2, 1]),
        ([4.0, 3.0, 2.0, -1.0], [4, 3, 2, -1]),
        ([4.0, 3.9, 2.0, -0.5], [4.0, 3.9, 2.0, -0.5]),
        (np.array([4, 3, 2, 2**63 - 1], np.uint64), [4, 3, 2, 2**63 - 1]),
        (
            pd.to_datetime(["1970-01-02", "1970-01-01 00:01", "1970-01-01", "2001-09-09 01:46:40.5"], format="ISO8601"),
            [86400.0, 60.0, 0.0, 10**9 + 0.5],
        ),
        (["1970-01-02", "1970-01-01T00:01Z", "1970-01-01 02:00+02:00", "2001-09-09 01:46:40"], [86400, 60, 0, 10**9]),
        (np.array([-1, 0, 1500, 2500], "datetime64[ms]"), [-0.001, 0.0, 1.5, 2.5]),
        (np.array([-1, 0, 1, 10**13], "datetime64[s]"), [-1, 0, 1, 10**13]),
        (pd.Series(pd.to_datetime([0, 1, 2, 3], unit="us")), [0.0, 1e-6, 2e-6, 3e-6]),
        (pd.to_datetime(["1970-01-01 01:00"] * 4).tz_localize("Europe/Paris"), [0] * 4),
    ],
)
def test_timestamps_are_seconds_with_their_fractions(times, seconds):
    data = Dataset.from_frame(frame(timestamp=times))
    assert data.timestamp.dtype == np.array(seconds).dtype
    assert data.timestamp.tolist() == seconds
    assert Dataset.from_frame(data.to_frame()).fingerprint() == data.fingerprint()


def test_times_that_a_float_cannot_tell_apart_are_counted():
    now = pd.to_datetime([1_704_103_200_000_000_000 + k for k in (0, 1, 500, 1000)], unit="ns")
    with pytest.warns(
        UserWarning, match=r"^timestamp: 1 time\(s\) differ from another by less than a float64 of seconds"
    ):
        data = Dataset.from_frame(frame(timestamp=now))
    assert (np.diff(data.timestamp) > 0).tolist() == [False, True, True]


def test_times_of_further_ratings_have_fractions_too():
    data = Dataset.from_frame(frame(timestamp=[4, 3, 2, 1]))
    more = pd.DataFrame({"user_id": [40], "item_id": ["a"], "rating": [1.0], "timestamp": [2.5]})
    assert data.extend(more).timestamp.tolist() == [4, 3, 2, 1, 2.5]
    assert data.extend(more.assign(timestamp=2)).timestamp.dtype == np.int64


REPEATED = {
    "user_id": [1, 2, 1, 2, 1],
    "item_id": list("abaca"),
    "rating": [1.0, 2.0, 4.0, 3.0, 1.5],
    "timestamp": [7, 1, 9, 1, 8],
}


@pytest.mark.parametrize(
    ("duplicates", "timed", "rows"),
    [
        ("last", True, [(2, "b", 2.0), (1, "a", 4.0), (2, "c", 3.0)]),
        ("last", False, [(2, "b", 2.0), (2, "c", 3.0), (1, "a", 1.5)]),
        ("mean", True, [(2, "b", 2.0), (1, "a", 6.5 / 3), (2, "c", 3.0)]),
        ("sum", False, [(2, "b", 2.0), (2, "c", 3.0), (1, "a", 6.5)]),
    ],
)
def test_one_rating_of_each_pair_is_kept_and_the_others_are_counted(duplicates, timed, rows):
    own = pd.DataFrame(REPEATED) if timed else pd.DataFrame(REPEATED).drop(columns="timestamp")
    with pytest.warns(UserWarning, match=rf"^2 of 5 rows repeat a \(user, item\) pair: the .*{duplicates}.*") as said:
        data = Dataset.from_frame(own, duplicates=duplicates)
    assert len(said) == 1
    assert [(u, i, pytest.approx(r)) for u, i, r in observations(data)] == rows
    assert not timed or data.timestamp.tolist() == [1, 9, 1]
    assert observations(Dataset.from_frame(own[1:4], duplicates=duplicates)) == observations(
        Dataset.from_frame(own[1:4])
    )


def test_rows_that_lack_something_are_left_out_and_counted():
    own = frame(user_id=pd.array([30, None, 30, 20], "Int64"), rating=[4.0, 0.0, np.nan, 5.0])
    with pytest.warns(UserWarning, match=r"^2 of 4 rows lack an id, a rating or a time, and are left out$"):
        data = Dataset.from_frame(own, missing="drop")
    assert observations(data) == [(30, "b", 4.0), (20, "c", 5.0)]
    assert data.user_ids.dtype == np.int64
    arrays = Dataset.from_arrays([1, 2], [1, 2], [1.0, 2.0], missing="drop", duplicates="last")
    assert len(arrays) == 2


def test_items_are_aligned_with_item_ids():
    table = pd.DataFrame({"movie": ["d", "c", "b", "a"], "title": ["D", "C", "B", "A"]})
    data = Dataset.from_frame(frame(), columns={"movie": "item_id"}, items=table)
    assert data.items["title"].tolist() == ["A", "B", "C"]
    assert data.items.index.tolist() == data.item_ids.tolist()
    by_index = Dataset.from_frame(frame(), items=table.set_index("movie"))
    pd.testing.assert_frame_equal(by_index.items, data.items)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_from_csv_reads_either_line_end(tmp_path, newline):
    path = tmp_path / "mine.csv"
    path.write_bytes(newline.join(["userId,item_id,rating", "1,7,4.0", "2,7,0", ""]).encode())
    data = Dataset.from_csv(path, columns={"userId": "user_id"})
    assert observations(data) == [(1, 7, 4.0), (2, 7, 0.0)]
    assert data.name == "mine"


def test_from_csv_takes_item_metadata(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("user_id,movieId,rating\n1,7,4.0\n2,7,0\n")
    items = pd.DataFrame({"movieId": [8, 7], "title": ["other", "own"]})
    assert Dataset.from_csv(path, {"movieId": "item_id"}, items).items["title"].to_dict() == {7: "own"}


def test_lookup_by_id():
    data = Dataset.from_frame(frame())
    assert data.user_index([30, 10, 30]).tolist() == [2, 0, 2]
    assert data.user_index([]).tolist() == []


@pytest.mark.parametrize("rows", [[2, 0], [True, False, True, False]])
def test_take_keeps_ids_and_items(rows):
    table = pd.DataFrame({"item_id": list("abc"), "title": list("ABC")})
    data = Dataset.from_frame(frame(timestamp=[4, 3, 2, 1]), items=table)
    part = data.take(np.array(rows))
    wanted = [2, 0] if rows[0] is not True else [0, 2]
    assert observations(part) == [observations(data)[row] for row in wanted]
    assert part.timestamp.tolist() == [data.timestamp[row] for row in wanted]
    assert part.num_users == 3
    assert part.items is data.items


def test_fingerprint_changes_with_the_contents_and_with_nothing_else():
    data = Dataset.from_frame(frame(timestamp=[4, 3, 2, 1]))
    others = [
        frame(timestamp=[4, 3, 2, 0]),
        frame(),
        frame(timestamp=[4, 3, 2, 1], rating=[4.0, 0.0, 2.5, 4.5]),
        frame(timestamp=[4, 3, 2, 1], user_id=[30, 10, 30, 21]),
        frame(timestamp=[4, 3, 2, 1], user_id=["30", "10", "30", "20"]),
        frame(timestamp=[4, 3, 2, 1], item_id=["b", "a", "c", "c"]),
        frame(timestamp=[4, 3, 2, 1]).iloc[::-1],
    ]
    prints = {Dataset.from_frame(other).fingerprint() for other in others} | {data.fingerprint()}
    assert len(prints) == len(others) + 1
    assert Dataset.from_frame(frame(timestamp=[4, 3, 2, 1]), name="other").fingerprint() == data.fingerprint()


def test_fingerprint_is_the_same_in_another_process():
    code = "from jaxmf.data import datasets; print(datasets.planted()[0].fingerprint())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == datasets.planted()[0].fingerprint()


def test_a_dataset_is_frozen_and_prints_its_size():
    data: Any = Dataset.from_frame(frame())
    with pytest.raises(AttributeError):
        data.name = "other"
    assert repr(data) == "<Dataset frame: 3 users, 3 items, 4 ratings>"


def test_align_numbers_as_this_dataset_does():
    own = Dataset.from_arrays(["b", "a", "c"], [3, 1, 2], [1.0, 2.0, 3.0])
    other = Dataset.from_arrays(["c", "b"], [1, 3], [4.0, 5.0], timestamp=[7, 8], name="other")
    found = own.align(other)
    assert (found.user.tolist(), found.item.tolist()) == ([2, 1], [0, 2])
    assert (found.num_users, found.num_items, found.name) == (3, 3, "other")
    assert found.rating.tolist() == [4.0, 5.0]
    assert found.timestamp.tolist() == [7, 8]


def test_align_leaves_unknown_ids_out_if_asked_to():
    own = Dataset.from_arrays(["b", "a", "c"], [3, 1, 2], [1.0, 2.0, 3.0], name="own")
    other = Dataset.from_arrays(["c", "b", "x", "c"], [1, 3, 1, 9], [4.0, 5.0, 1.0, 1.0], name="other")
    with pytest.warns(
        UserWarning, match="^align: 2 of 4 ratings of other have unknown ids and are left out: user 'x'; item 9$"
    ):
        found = own.align(other, on_unknown="drop")
    known = own.align(Dataset.from_arrays(["c", "b"], [1, 3], [4.0, 5.0], name="other"))
    assert found.fingerprint() == known.fingerprint()
    with pytest.raises(ValueError, match=r"^align: all 1 ratings of there have ids unknown to own$"):
        own.align(Dataset.from_arrays(["x"], [1], [4.0], name="there"), on_unknown="drop")
