"""Ratings behind those of a Dataset: numbers stay, new ids follow."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jaxmf import Dataset

FRAME = pd.DataFrame(
    {"user_id": [30, 10, 30], "item_id": list("bac"), "rating": [4.0, 0.0, 2.5], "timestamp": [7, 8, 9]}
)
NEW = pd.DataFrame(
    {"user_id": [20, 30, 5], "item_id": list("aaz"), "rating": [1, 2, 3], "timestamp": [1, 2, 3]}, [7, 7, 8]
)


def test_new_ids_follow_the_known_ones():
    data = Dataset.from_frame(FRAME, name="old")
    more = data.extend(NEW, item_ids=["y", "b", "y", "x"])
    assert more.user_ids.tolist() == [10, 30, 5, 20]
    assert more.item_ids.tolist() == ["a", "b", "c", "z", "y", "x"]
    expected = pd.concat([data.to_frame(), NEW], ignore_index=True)
    pd.testing.assert_frame_equal(more.to_frame(), expected, check_dtype=False)
    assert more.name == "old"
    assert [str(column.dtype) for column in (more.user, more.rating, more.timestamp)] == ["int32", "float64", "int64"]
    assert (more.user_ids.name, more.item_ids.name) == ("user_id", "item_id")
    assert more.user_index([20]).tolist() == [3]


def test_nothing_new():
    data = Dataset.from_frame(FRAME)
    for frame in (None, NEW[:0]):
        same = data.extend(frame)
        assert (same.fingerprint(), same.items) == (data.fingerprint(), None)
    assert data.extend(None, ["q"]).item_ids.tolist() == ["a", "b", "c", "q"]


def test_times_only_where_they_were():
    data = Dataset.from_frame(FRAME)
    assert replace(data, timestamp=None).extend(NEW).timestamp is None


def test_metadata_of_new_items_are_missing():
    items = pd.DataFrame({"item_id": list("cab"), "genres": ["War", "Drama", "Noir"]})
    more = Dataset.from_frame(FRAME, items=items).extend(NEW)
    assert more.items.index.tolist() == more.item_ids.tolist()
    assert more.items["genres"].tolist()[:3] == ["Drama", "Noir", "War"]
    assert more.items["genres"].isna().tolist() == [False] * 3 + [True]


def test_ids_of_any_type():
    ids = pd.Index([("a", 1), ("a", 2)], tupleize_cols=False, name="item_id")
    items = pd.DataFrame({"year": [1, 2]}, index=ids)
    user, item, rating = np.array([[0, 1], [1, 0], [3, 4]])
    data = Dataset(pd.RangeIndex(2, name="user_id"), ids, user, item, rating, items=items)
    frame = pd.DataFrame({"user_id": [0, 7], "item_id": [("b", 1), ("a", 1)], "rating": [1.0, 2.0]})
    more = data.extend(frame)
    assert more.item_ids.tolist() == [("a", 1), ("a", 2), ("b", 1)]
    assert (more.user.tolist(), more.item.tolist()) == ([0, 1, 0, 2], [1, 0, 2, 0])
    assert more.items["year"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (NEW.drop(columns="timestamp"), "have no column timestamp, but those of frame do: add it, or drop"),
        (FRAME[1:2], r"a pair that frame already has a rating for in 1 row\(s\), at index 1; drop these rows"),
        (FRAME, r"a pair that frame already has a rating for in 3 row\(s\)"),
        (pd.concat([NEW, NEW]), r"3 row\(s\) repeat a \(user, item\) pair"),
        (NEW.drop(columns="rating"), "missing column rating"),
        (
            NEW.assign(user_id=["30", "10", "7"]),
            "column 'user_id': new ids are like '10', '30', '7', known ones like 10, 30",
        ),
        ([1, 2], "frame must be a DataFrame"),
    ],
    ids=["time", "again", "all again", "twice", "column", "type", "list"],
)
def test_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_frame(FRAME).extend(frame)
