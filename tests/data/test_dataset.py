import subprocess
import sys
from decimal import Decimal

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
    assert (data.num_users, data.num_items, data.num_ratings, len(data)) == (3, 3, 4, 4)
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
        ([4.0, 3.9, 2.0, -0.5], [4, 3, 2, -1]),
        (
            pd.to_datetime(["1970-01-02", "1970-01-01 00:01", "1970-01-01", "2001-09-09 01:46:40.5"], format="ISO8601"),
            [86400, 60, 0, 10**9],
        ),
        (pd.to_datetime(["1970-01-01 01:00"] * 4).tz_localize("Europe/Paris"), [0] * 4),
    ],
)
def test_timestamps_are_whole_seconds(times, seconds):
    data = Dataset.from_frame(frame(timestamp=times))
    assert data.timestamp.dtype == np.int64
    assert data.timestamp.tolist() == seconds


LABELS = ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rating": [1.0, np.nan, 2.0, np.inf]}, ["'rating'", "2 row(s)", "'r1', 'r3'", "finite"]),
        ({"rating": pd.array([1, 2, None, 4], dtype="Int64")}, ["'rating'", "1 row(s)", "'r2'"]),
        ({"rating": ["1", "2", "3", "4"]}, ["'rating'", "pandas.to_numeric"]),
        ({"rating": [Decimal(1), 2.0, 3.0, "x"]}, ["'rating'", "pandas.to_numeric"]),
        ({"rating": [True, False, True, True]}, ["'rating'", "bool"]),
        ({"rating": [1 + 1j, 1, 1, 1]}, ["'rating'", "complex"]),
        ({"user_id": [1, None, 2, 3]}, ["'user_id'", "'r1'", "missing id"]),
        ({"item_id": ["a", "b", np.nan, None]}, ["'item_id'", "'r2', 'r3'", "missing id"]),
        ({"item_id": [["a"], ["b"], ["c"], ["d"]]}, ["'item_id'", "hashable"]),
        ({"timestamp": ["a", "b", "c", "d"]}, ["'timestamp'", "pandas.to_datetime"]),
        ({"timestamp": [1.0, np.nan, 2.0, 3.0]}, ["'timestamp'", "'r1'"]),
        ({"timestamp": [1.0, 2.0, -np.inf, 3.0]}, ["'timestamp'", "'r2'", "infinite"]),
        ({"timestamp": pd.to_datetime(["2020", "2021", "2022", None])}, ["'timestamp'", "'r3'"]),
        (
            {"user_id": [5, 5, 5, 5], "item_id": ["a", "b", "a", "a"]},
            [
                "2 row(s)",
                "user 5",
                "item 'a'",
                "'r0', 'r2', 'r3'",
                'drop_duplicates(["user_id", "item_id"], keep="last")',
            ],
        ),
    ],
)
def test_bad_tables_are_refused_with_column_row_and_remedy(changes, words):
    bad = frame().assign(**{name: pd.Series(values).to_numpy() for name, values in changes.items()})
    if isinstance(changes.get("rating"), pd.api.extensions.ExtensionArray):
        bad["rating"] = changes["rating"]
    bad.index = LABELS
    with pytest.raises(ValueError, match=r"row|column") as error:
        Dataset.from_frame(bad)
    for word in words:
        assert word in str(error.value)


def test_messages_name_the_callers_column():
    own = frame(rating=[1.0, np.nan, 2.0, 3.0]).rename(columns={"rating": "stars"})
    with pytest.raises(ValueError, match=r"'stars' \(rating\)"):
        Dataset.from_frame(own, columns={"stars": "rating"})


def test_missing_columns_are_listed_with_a_remedy():
    with pytest.raises(ValueError, match="missing column user_id, rating") as error:
        Dataset.from_frame(frame().rename(columns={"user_id": "who", "rating": "stars"}))
    assert "['who', 'item_id', 'stars']" in str(error.value)
    assert 'columns={"your name": "user_id", "your name": "rating"}' in str(error.value)


def test_a_column_named_twice_is_refused():
    with pytest.raises(ValueError, match="rating is there 2 times"):
        Dataset.from_frame(frame(stars=1.0), columns={"stars": "rating"})


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        Dataset.from_frame(frame().iloc[:0])


def test_items_are_aligned_with_item_ids():
    table = pd.DataFrame({"movie": ["d", "c", "b", "a"], "title": ["D", "C", "B", "A"]})
    data = Dataset.from_frame(frame(), columns={"movie": "item_id"}, items=table)
    assert data.items["title"].tolist() == ["A", "B", "C"]
    assert data.items.index.tolist() == data.item_ids.tolist()
    by_index = Dataset.from_frame(frame(), items=table.set_index("movie"))
    pd.testing.assert_frame_equal(by_index.items, data.items)


def test_items_without_a_row_or_with_two_are_refused():
    table = pd.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]})
    with pytest.raises(ValueError, match=r"no row for 1 rated item\(s\): 'c'"):
        Dataset.from_frame(frame(), items=table)
    with pytest.raises(ValueError, match="more than one row for item 'a'"):
        Dataset.from_frame(frame(), items=pd.concat([table, table.iloc[:1]]))


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


@pytest.mark.parametrize("text", ["", "user_id,item_id,rating\n", "user_id,item_id\n1,2\n", "a\n1,2,3\n4\n5,6,7,8\n"])
def test_from_csv_names_the_path_in_errors(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.csv"):
        Dataset.from_csv(path)
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        Dataset.from_csv(tmp_path / "other.csv")


def test_lookup_of_unknown_ids_says_which_and_how_many():
    data = Dataset.from_frame(frame())
    assert data.user_index([30, 10, 30]).tolist() == [2, 0, 2]
    assert data.user_index([]).tolist() == []
    with pytest.raises(ValueError, match=r"2 unknown user id\(s\): 99, '10'"):
        data.user_index([10, 99, "10", 99])
    with pytest.raises(ValueError, match=r"1 unknown item id\(s\): 1.*'a', 'b', 'c'"):
        data.item_index(np.array([1]))
    with pytest.raises(ValueError, match=r"pass \['abc'\]"):
        data.item_index("abc")


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
    data = Dataset.from_frame(frame())
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
    with pytest.raises(ValueError, match=r"1 unknown user id\(s\): 'd'"):
        own.align(Dataset.from_arrays(["d"], [1], [4.0]))
