"""Ids of every type through every door: the same one is found, no other is, and a file gives it back."""

from collections import namedtuple
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from jaxmf import Dataset
from jaxmf.data.ids import match
from jaxmf.data.observed import as_parts
from jaxmf.persist.data import pack_data, unpack_data

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

BIG = 2**53
DAYS = [pd.Timestamp("2024-05-01 12:30"), pd.Timestamp("2024-05-02"), pd.Timestamp("2024-05-03 00:00:00.000000001")]
ZONED = [day.tz_localize("Europe/Berlin") for day in DAYS]
DECIMALS = [Decimal("1.50"), Decimal("0.10"), Decimal("7.00")]
DATES = ["2024-05-03", "2024-05-01", "2024-05-03"]
TEXT = ["007", "7", "ü\0\n"]
Point = namedtuple("Point", "x y")


def objects(*values):
    return pd.Series(values, dtype=object)


def arrow(values, kind):
    return pd.Series(pd.array(values, dtype=pd.ArrowDtype(kind)))


# Name: a column of three ids, and what they are in Python.
COLUMNS = {
    "int64": (np.array([7, BIG, BIG + 1]), [7, BIG, BIG + 1]),
    "int8": (np.array([7, -1, 0], np.int8), [7, -1, 0]),
    "swapped": (np.array([7, BIG, BIG + 1], ">i8"), [7, BIG, BIG + 1]),
    "uint64": (np.array([2**63, 2**64 - 1, 2**63 + 1], np.uint64), [2**63, 2**64 - 1, 2**63 + 1]),
    "nullable": (pd.array([7, BIG, BIG + 1], "Int64"), [7, BIG, BIG + 1]),
    "objects": (objects(np.int64(7), BIG, np.uint8(9)), [7, BIG, 9]),
    "huge": (objects(2**70, -1, BIG + 1), [2**70, -1, BIG + 1]),
    "float64": (np.array([np.inf, -0.5, BIG]), [np.inf, -0.5, float(BIG)]),
    "float32": (np.array([0.1, 2.5, 1e30], np.float32), np.array([0.1, 2.5, 1e30], np.float32).tolist()),
    "float16": (np.array([0.5, 2.5, 7], np.float16), [0.5, 2.5, 7.0]),
    "mixed numbers": (objects(BIG + 1, 0.5, float(BIG)), [BIG + 1, 0.5, float(BIG)]),
    "bool": (np.array([True, False, True]), [True, False, True]),
    "nullable bool": (pd.array([True, False, True], "boolean"), [True, False, True]),
    "text": (pd.Series(TEXT), TEXT),
    "text in objects": (objects(*TEXT), TEXT),
    "text of NumPy": (np.array(TEXT), TEXT),
    "text in Python": (pd.array(TEXT, "string[python]"), TEXT),
    "text in Arrow": (pd.array(TEXT, "string[pyarrow]"), TEXT),
    "Arrow text": (arrow(TEXT, pa.string()), TEXT),
    "Arrow large text": (arrow(TEXT, pa.large_string()), TEXT),
    "Arrow integers": (arrow([7, BIG, BIG + 1], pa.int64()), [7, BIG, BIG + 1]),
    "Arrow floats": (arrow([0.5, -0.0, 7.0], pa.float64()), [0.5, -0.0, 7.0]),
    "Arrow dates": (arrow(DAYS, pa.timestamp("ns")), DAYS),
    "Arrow zoned": (arrow(ZONED, pa.timestamp("ns", "Europe/Berlin")), ZONED),
    "Arrow days": (arrow([day.date() for day in DAYS], pa.date32()), [day.date() for day in DAYS]),
    "Arrow decimals": (arrow(DECIMALS, pa.decimal128(5, 2)), DECIMALS),
    "Arrow bytes": (arrow([b"\0", b"a", b"7"], pa.binary()), [b"\0", b"a", b"7"]),
    "categories": (pd.Categorical(["b", "a", "b"], categories=list("zba")), ["b", "a", "b"]),
    "categories of numbers": (pd.Categorical([BIG + 1, BIG, 7]), [BIG + 1, BIG, 7]),
    "sparse": (pd.arrays.SparseArray([BIG + 1, 0, 0]), [BIG + 1, 0, 0]),
    "dates": (pd.Series(DAYS), DAYS),
    "dates in objects": (objects(*DAYS), DAYS),
    "dates of NumPy": (np.array(DATES, "M8[D]"), list(pd.to_datetime(DATES))),
    "zoned": (pd.Series(ZONED), ZONED),
    "durations": (pd.Series(DAYS) - DAYS[0], [day - DAYS[0] for day in DAYS]),
    "days": (objects(*(day.date() for day in DAYS)), [day.date() for day in DAYS]),
    "bytes": (np.array([b"a", b"\xff", b"7"]), [b"a", b"\xff", b"7"]),
    "decimals": (objects(Decimal("0.1"), Decimal(7), Decimal("1e-30")), [Decimal("0.1"), Decimal(7), Decimal("1e-30")]),
    "UUIDs": (objects(UUID(int=7), UUID(int=1), UUID(int=7)), [UUID(int=7), UUID(int=1), UUID(int=7)]),
    "tuples": (objects((1, "a"), (BIG + 1, "a"), (float(BIG), "a")), [(1, "a"), (BIG + 1, "a"), (float(BIG), "a")]),
    "named tuples": (objects(Point(1, np.int64(2)), Point(0, 3), Point(1, 2)), [(1, 2), (0, 3), (1, 2)]),
    "levels": (pd.MultiIndex.from_tuples([(1, "a"), (0, "b"), (2, "c")]), [(1, "a"), (0, "b"), (2, "c")]),
    "mixed": (objects(True, 1, "1"), [True, 1, "1"]),
    "mixed sorts": (objects((1,), b"1", np.float32(0.1)), [(1,), b"1", float(np.float32(0.1))]),
}


@pytest.mark.parametrize(("column", "values"), COLUMNS.values(), ids=COLUMNS)
def test_every_type_through_every_door(column, values):
    ids = column.to_flat_index() if isinstance(column, pd.MultiIndex) else column
    frame = pd.DataFrame({"user_id": pd.Series(ids), "item_id": [5, 6, 7], "rating": [1.0, 2.0, 3.0]})
    data = Dataset.from_frame(frame)
    assert data.user_ids[data.user].tolist() == values
    assert [type(x) for x in data.user_ids[data.user]] == [type(x) for x in values]
    for ids in (column, values, data.user_ids[data.user]):
        assert data.user_index(ids).tolist() == data.user.tolist()
    as_parts(data, Dataset.from_arrays(values, [5, 6, 7], frame["rating"]))
    others = [
        Dataset.from_arrays(column, [5, 6, 7], frame["rating"]),
        data.align(Dataset.from_frame(frame[::-1])).take(np.arange(3)[::-1]),
        unpack_data(*_packed(data)),
    ]
    for other in others:
        assert other.fingerprint() == data.fingerprint()
        assert other.user_ids.dtype == data.user_ids.dtype
    more = data.extend(frame[:2].assign(item_id=8))
    assert (more.user_ids.tolist(), more.user[3:].tolist()) == (data.user_ids.tolist(), data.user[:2].tolist())
    swapped = Dataset.from_frame(frame.rename(columns={"user_id": "item_id", "item_id": "user_id"}), items=_table(data))
    assert swapped.item_ids.equals(data.user_ids.rename("item_id"))
    assert swapped.items["number"].tolist() == list(range(data.num_users))
    matrix = sparse.coo_array(([1.0], ([0], [0])), shape=(data.num_users, 1))
    for ids in (data.user_ids, data.user_ids.tolist()):
        assert Dataset.from_scipy(matrix, user_ids=ids).user_index(column).tolist() == data.user.tolist()


def _packed(data):
    arrays: dict[str, Any] = {}
    return pack_data(data, arrays), arrays


def _table(data):
    """Metadata of the users, in another order."""
    return pd.DataFrame({"number": np.arange(data.num_users)}, data.user_ids)[::-1]


# What is known, what is asked for, and where that is.
LOOKUPS = {
    "floats among integers": ([7, BIG + 1], [7.0, BIG, np.inf, np.nan, 7.5, 2.0**63], [0, -1, -1, -1, -1, -1]),
    "an exact float": ([7, BIG], np.array([BIG, BIG + 1], float), [1, 1]),  # NumPy has made 2**53 of both
    "integers among floats": (np.array([BIG, 0.5, 7.0]), [BIG, BIG + 1, 7, 0], [0, -1, 2, -1]),
    "unsigned among signed": ([7, -1, BIG + 1], np.array([2**64 - 1, BIG, 7], np.uint64), [-1, -1, 0]),
    "signed among unsigned": (np.array([2**64 - 1, BIG + 1], np.uint64), [-1, BIG, BIG + 1], [-1, -1, 1]),
    "large floats among unsigned": (np.array([2**63, 2**63 + 1], np.uint64), [2.0**63, 2.0**64], [0, -1]),
    "wide among narrow": (np.array([7, -1], np.int8), [7, 255, 263], [0, -1, -1]),
    "wide among narrow floats": (np.array([0.1, 0.5], np.float32), [0.1, 0.5, 1e300], [-1, 1, -1]),
    "decimals": ([7, 8], [Decimal(7), Decimal("7.5")], [0, -1]),
    "truth and numbers": ([1, 0], [True, False], [-1, -1]),
    "numbers and truth": ([True, False], [1, 0.0, True], [-1, -1, 0]),
    "mixed": ([True, 1, "1", b"1", (1,)], [1.0, True, "1", b"1", (1.0,), (True,)], [1, 0, 2, 3, 4, -1]),
    "text of numbers": (["7", "07"], [7, "7", b"7"], [-1, 0, -1]),
    "numbers of text": ([7, 8], ["7", 8, None], [-1, 1, -1]),
    "NumPy's in objects": (objects(np.int64(BIG + 1), "a"), [float(BIG), BIG + 1, np.str_("a")], [-1, 0, 1]),
    "NaN in tuples": ([(1, np.nan), (2, 0)], [(1, float("nan")), (2, float("nan"))], [0, -1]),
    "finer dates": (pd.to_datetime(["2024-05-01"]).as_unit("s"), pd.to_datetime([DAYS[2], "2024-05-01"]), [-1, 0]),
    "coarser dates": (pd.Index(DAYS), np.array(["2024-05-02", "9999-01-01"], "M8[s]"), [1, -1]),
    "dates and zones": (pd.Index(DAYS), ZONED, [-1, -1, -1]),
    "other zones": (pd.Index(ZONED), [ZONED[2].tz_convert("UTC"), DAYS[2].tz_localize("UTC")], [2, -1]),
    "dates and days": (pd.Index(DAYS), [DAYS[1].date()], [-1]),
    "dates and text": (pd.to_datetime(["2024-05-01"]), ["2024-05-01"], [-1]),
    "dates and seconds": (pd.to_datetime(["1970-01-01"]), [0], [-1]),
    "text of any storage": (pd.Index(["a", "b"], dtype="string"), objects("b", "c"), [1, -1]),
    "gaps": ([7, BIG + 1], pd.array([None, BIG + 1], "Int64"), [-1, 1]),
    "masked": ([7, BIG + 1], np.ma.array([7, BIG + 1], mask=[True, False]), [-1, 1]),
    "nothing": ([7, 8], [], []),
}


@pytest.mark.parametrize(("known", "wanted", "expected"), LOOKUPS.values(), ids=LOOKUPS)
def test_the_same_id_and_no_other(known, wanted, expected):
    assert match(known, wanted).tolist() == expected


NUMBERS = st.one_of(
    st.sampled_from([2**k + d for k in (0, 31, 53, 63, 64) for d in (-1, 0, 1)]),
    st.sampled_from([0.5, np.inf, 2.0**53, 2.0**63, -(2.0**53)]),
)
DTYPES = (None, "int64", "uint64", "float64", "float32", object)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=4), st.lists(NUMBERS, max_size=4), *2 * [st.sampled_from(DTYPES)])
def test_numbers_match_as_python_compares_them(known, wanted, known_dtype, wanted_dtype):
    try:
        known, wanted = (
            ids if dtype is None else np.array(ids, object).astype(dtype)
            for ids, dtype in ((known, known_dtype), (wanted, wanted_dtype))
        )
    except OverflowError:
        return
    known = known if len(set(known)) == len(known) else known[:1]
    numbers = [ids.tolist() if isinstance(ids, np.ndarray) else ids for ids in (known, wanted)]
    expected = [next((at for at, x in enumerate(numbers[0]) if x == y), -1) for y in numbers[1]]
    assert match(known, wanted).tolist() == expected


# Known ids, new ones, and what both are together; or what the refusal says of the types.
EXTENSIONS = {
    "floats that are integers": ([BIG, BIG + 1], [5.0, float(BIG)], [BIG, BIG + 1, 5]),
    "unsigned that are small": ([7, -1], np.array([8], np.uint64), [-1, 7, 8]),
    "unsigned": ([7, 8], np.array([2**64 - 1, 7], np.uint64), [7, 8, 2**64 - 1]),
    "wider": (np.array([7, 8], np.int8), [300, 7], [7, 8, 300]),
    "as narrow": (np.array([7, -8], np.int8), np.array([200], np.uint8), [-8, 7, 200]),
    "wider floats": (np.array([0.5, 2.0], np.float32), [0.1], [0.5, 2.0, 0.1]),
    "integers that are floats": ([0.5, 2.0], [3, 2], [0.5, 2.0, 3.0]),
    "text": (["a", "b"], objects("c", "b"), ["a", "b", "c"]),
    "finer dates": (pd.to_datetime(["2024-05-01"]).as_unit("s"), DAYS[2:], [pd.Timestamp("2024-05-01"), DAYS[2]]),
    "zoned": (ZONED[:1], [ZONED[2].tz_convert("UTC")], [ZONED[0], ZONED[2]]),
    "mixed": ([7, "seven"], ["eight", 9], [7, "seven", "eight", 9]),
    "halves": ([7, 8], [7.5, 8.0], r"like 7.5, known ones like 7, 8, and the type int64 does not hold float64: conv"),
    "too large": (np.array([BIG, 0.5]), [BIG + 1, 3], "and the type float64 does not hold int64"),
    "too large and negative": ([7, -1], np.array([2**64 - 1], np.uint64), "the type int64 does not hold uint64"),
    "text of numbers": ([7, 8], ["7", "9"], "like '7', '9', .* the type int64 does not hold str"),
    "numbers of text": (["7", "8"], [7], "the type str does not hold int64"),
    "truth": ([0, 1], [True], "the type int64 does not hold bool"),
    "bytes": (["7", "8"], [b"7"], "the type str does not hold bytes"),
    "no zone": (ZONED[:2], DAYS[:1], "does not hold datetime64"),
    "something else": ([(7, 8), (8, 9)], [7], "the type tuple does not hold int64"),
}


@pytest.mark.parametrize(("known", "new", "expected"), EXTENSIONS.values(), ids=EXTENSIONS)
def test_new_ids_leave_the_known_ones_as_they_are(known, new, expected):
    data = Dataset.from_arrays(known, range(len(known)), [1.0] * len(known))
    frame = pd.DataFrame({"user_id": pd.Series(new), "item_id": 99, "rating": 2.0})
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"^column 'user_id': new ids are .*{expected}"):
            data.extend(frame)
        return
    more = data.extend(frame)
    assert more.user_ids.tolist() == expected
    assert more.user[: len(known)].tolist() == data.user.tolist()
    assert match(more.user_ids, data.user_ids).tolist() == list(range(data.num_users))
    assert match(pd.Series(new), more.user_ids[more.user[len(known) :]]).tolist() == list(range(len(frame)))
    unpack_data(*_packed(more))
