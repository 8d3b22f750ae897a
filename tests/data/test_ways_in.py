"""`from_arrays`, `from_scipy` and `from_parquet` against `from_frame`."""

import gzip
import lzma
import sys

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jaxmf.data import Dataset
from jaxmf.data.tables import read_table

FORMATS = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")


def frame(**changes):
    columns = {"user_id": [30, 10, 30, 20], "item_id": ["b", "a", "a", "c"], "rating": [4.0, 0.0, 2.5, 5.0]}
    return pd.DataFrame(columns | changes)


def same(data, other):
    assert data.fingerprint() == other.fingerprint()
    pd.testing.assert_frame_equal(data.to_frame(), other.to_frame())
    assert (data.user_ids.name, data.item_ids.name) == ("user_id", "item_id")
    for name in ("user", "item", "rating", "timestamp"):
        dtypes = [getattr(getattr(part, name), "dtype", None) for part in (data, other)]
        assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize("times", [None, [4, 3, 2, 1], pd.to_datetime(["2020", "2021", "2022", "2023"])])
@pytest.mark.parametrize(
    "box",
    [
        list,
        tuple,
        np.array,
        jnp.asarray,
        pd.Index,
        lambda x: pd.Series(x, index=[3, 2, 1, 0]),
        lambda x: pd.array(x, dtype=np.array(x).dtype),
    ],
    ids=["list", "tuple", "numpy", "jax", "index", "series", "extension"],
)
def test_from_arrays_equals_from_frame(box, times):
    expected = Dataset.from_frame(frame(item_id=[2, 1, 1, 3], **({} if times is None else {"timestamp": times})))
    data = Dataset.from_arrays(box([30, 10, 30, 20]), box([2, 1, 1, 3]), box([4.0, 0.0, 2.5, 5.0]), times)
    same(data, expected)
    assert (data.name, Dataset.from_arrays([1], [1], [1], name="own").name) == ("arrays", "own")


@pytest.mark.parametrize(
    "ids", [["x", "10", "9", "x"], [(1, 2), (0, 5), (1, 3), (1, 2)], [7, "seven", 7.5, 7], pd.Categorical(list("pqrp"))]
)
def test_from_arrays_takes_ids_of_any_type(ids):
    same(
        Dataset.from_arrays(ids, range(4), [1, 2, 3, 4]),
        Dataset.from_frame(frame(user_id=ids, item_id=range(4), rating=[1, 2, 3, 4])),
    )


def test_from_arrays_does_not_change_with_the_callers_array():
    rating = np.array([1.0, 2.0])
    data = Dataset.from_arrays([1, 2], [1, 2], rating)
    rating[0] = 9
    assert data.rating.tolist() == [1, 2]


def cells(data):
    """(user, item) -> rating by position."""
    return dict(zip(zip(data.user.tolist(), data.item.tolist(), strict=True), data.rating.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("format_", FORMATS)
def test_from_scipy_takes_every_format(format_, kind):
    table = np.array([[0, 4, 0, 0, 0], [0, 0, 2.5, 0, 0], [0, 0, 0, 0, 0]])  # one diagonal, last row and columns empty
    matrix = getattr(sparse, f"{format_}_{kind}")(table)
    data = Dataset.from_scipy(matrix)
    assert cells(data) == {(0, 1): 4.0, (1, 2): 2.5}
    assert (data.num_users, data.num_items, data.name, data.timestamp) == (3, 5, "scipy", None)
    assert data.user_ids.tolist() == [0, 1, 2]
    assert data.item_ids.tolist() == [0, 1, 2, 3, 4]
    assert (data.user_ids.name, data.item_ids.name) == ("user_id", "item_id")
    assert [str(column.dtype) for column in (data.user, data.item, data.rating)] == ["int32", "int32", "float64"]
    assert data.user_index([2]).tolist() == [2]


@pytest.mark.parametrize("format_", ["bsr", "coo", "csc", "csr", "dia", "lil"])
def test_stored_zeros_are_ratings(format_):
    row, column = np.array([0, 1, 2]), np.array([1, 2, 0])
    matrix = sparse.coo_array(([4.0, 1.0, 3.0], (row, column)), shape=(4, 3)).asformat(format_)
    before = cells(Dataset.from_scipy(matrix))
    if format_ == "lil":
        matrix.data[1][0] = 0.0
    elif format_ in ("bsr", "dia"):
        matrix.data[matrix.data == 1] = 0
    else:
        matrix.data[np.flatnonzero(matrix.data == 1)] = 0
    after = cells(Dataset.from_scipy(matrix))
    assert before[1, 2] == 1
    assert after == before | {(1, 2): 0.0}


def test_every_cell_of_a_stored_diagonal_or_block_is_a_rating():
    diagonals = sparse.dia_array((np.arange(12.0).reshape(3, 4), [-2, 0, 1]), shape=(3, 5))
    stored = {(row, column) for row in range(3) for column in range(4) if column - row in (-2, 0, 1)}
    data = Dataset.from_scipy(diagonals)
    assert set(cells(data)) == stored
    assert len(data) == diagonals.nnz == len(stored)
    assert cells(data) == {cell: diagonals.toarray()[cell] for cell in stored}
    wide = sparse.dia_array((np.ones((1, 9)), [0]), shape=(9, 2))  # data beyond the last column are not stored
    assert cells(Dataset.from_scipy(wide)) == {(0, 0): 1, (1, 1): 1}
    block = sparse.bsr_array((np.array([[[0.0, 1.0], [2.0, 0.0]]]), [1], [0, 1, 1]), shape=(4, 4))
    assert cells(Dataset.from_scipy(block)) == {(0, 2): 0, (0, 3): 1, (1, 2): 2, (1, 3): 0}


def test_from_scipy_keeps_the_given_ids_in_their_order():
    matrix = sparse.coo_array(([4, 0], ([0, 2], [1, 0])), shape=(3, 2))
    data = Dataset.from_scipy(matrix, user_ids=["c", "a", "b"], item_ids=[(1, 2), (0, 1)], name="own")
    assert data.user_ids.tolist() == ["c", "a", "b"]
    assert data.to_frame()[["user_id", "item_id", "rating"]].to_numpy().tolist() == [["c", (0, 1), 4], ["b", (1, 2), 0]]
    assert data.user_index(["b"]).tolist() == [2]
    assert data.name == "own"
    matrix.data[0] = 9
    matrix.coords[0][0] = 1
    assert cells(data) == {(0, 1): 4, (2, 0): 0}


def small(data=(1.0, 2.0, 3.0), row=(0, 1, 2), column=(1, 0, 1), dtype=None):
    return sparse.coo_array((np.array(data, dtype), (row, column)), shape=(3, 2))


@pytest.mark.parametrize("times", [None, [4, 3, 2, 1], pd.to_datetime(["2020", "2021", "2022", "2023"])])
def test_from_parquet_equals_from_frame(tmp_path, times):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    own = frame(**({} if times is None else {"timestamp": times}))
    own.rename(columns={"user_id": "userId"}).to_parquet(tmp_path / "mine.parquet")
    data = Dataset.from_parquet(tmp_path / "mine.parquet", columns={"userId": "user_id"})
    same(data, Dataset.from_frame(own))
    assert data.name == "mine"


def test_from_parquet_takes_a_path_as_a_string_and_categories(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    own = frame(item_id=pd.Categorical(["b", "a", "a", "c"], categories=list("dcba")))
    own.to_parquet(tmp_path / "mine.parquet")
    same(Dataset.from_parquet(str(tmp_path / "mine.parquet")), Dataset.from_frame(frame()))


def test_text_in_parquet_stays_text(tmp_path):
    """The file says what its ids are, unlike delimited text, where integers are recognized by how they are written."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame(item_id=["7", "12", "70", "9"]).to_parquet(tmp_path / "mine.parquet")
    assert Dataset.from_parquet(tmp_path / "mine.parquet").item_ids.tolist() == ["12", "7", "70", "9"]


def test_from_parquet_names_the_path_in_errors(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "mine.parquet"
    frame(rating=[1, 2, 3, np.nan]).to_parquet(path)
    with pytest.raises(ValueError, match=r"mine\.parquet: column 'rating': NaN or infinite rating in 1 row"):
        Dataset.from_parquet(path)
    frame().drop(columns="item_id").to_parquet(path)
    with pytest.raises(ValueError, match=r"^/.*mine\.parquet: missing column item_id; found \['user_id', 'rating'\]"):
        Dataset.from_parquet(path)
    whole = path.read_bytes()
    for damaged in (b"user_id,item_id,rating\n1,2,3\n", whole[:4] + bytes(200) + whole[204:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^/.*mine\.parquet: "):
            Dataset.from_parquet(path)
    with pytest.raises(FileNotFoundError, match=r"other\.parquet"):
        Dataset.from_parquet(tmp_path / "other.parquet")


def test_from_parquet_without_an_engine_says_what_to_install(tmp_path, monkeypatch):
    frame().to_csv(tmp_path / "mine.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match=r"mine\.parquet: .* needs pyarrow: pip install 'jaxmf\[parquet\]'"):
        Dataset.from_parquet(tmp_path / "mine.parquet")


@pytest.mark.realdata
def test_latest_small_from_arrays(latest_small):
    table = latest_small.to_frame()
    data = Dataset.from_arrays(*(table[name].to_numpy() for name in ("user_id", "item_id", "rating", "timestamp")))
    same(data, Dataset.from_frame(table))
    assert data.fingerprint() == latest_small.fingerprint()


@pytest.mark.realdata
@pytest.mark.parametrize("format_", ["coo", "csr", "csc"])
def test_latest_small_from_scipy(latest_small, format_):
    d = latest_small
    shape = (d.num_users + 3, d.num_items + 2)  # three users and two items that nobody rated or was rated by
    matrix = sparse.coo_array((d.rating, (d.user, d.item)), shape=shape).asformat(format_)
    data = Dataset.from_scipy(matrix, user_ids=[*d.user_ids, -1, -2, -3], item_ids=[*d.item_ids, -1, -2])
    assert (data.num_users, data.num_items, len(data)) == (*shape, 100_836)
    order, expected = (np.lexsort((part.item, part.user)) for part in (data, d))
    for name in ("user", "item", "rating"):
        assert np.array_equal(getattr(data, name)[order], getattr(d, name)[expected])
    pairs = ["user_id", "item_id"]
    ours, theirs = (part.to_frame().sort_values(pairs, ignore_index=True) for part in (data, d))
    pd.testing.assert_frame_equal(ours, theirs.drop(columns="timestamp"))


def read(tmp_path, text, name="mine.csv", **options):
    """The observations of a Dataset from a file with this text, as plain Python."""
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return list(Dataset.from_csv(tmp_path / name, **options).to_frame().itertuples(index=False, name=None))


@pytest.mark.parametrize("sep", [",", "\t", ";", "|", "::", " ", "^", "<>"])
@pytest.mark.parametrize("header", [True, False])
def test_from_csv_finds_what_separates_the_columns(tmp_path, sep, header):
    lines = ["user_id item_id rating timestamp", "1 07 3.5 9", "2 x 4 8"][not header :]
    text = "".join(line.replace(" ", sep) + "\n" for line in lines)
    given = {"sep": sep} if sep in ("^", "<>") else {}
    for name in ("mine.csv", "mine.csv.gz"):
        rows = read(tmp_path, text, name, header=header, **given)
        assert rows == [(1, "07", 3.5, 9), (2, "x", 4.0, 8)]


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("1 2 10", [1, 2, 10]),
        ("-1 0 18446744073709551615", ["-1", "0", "18446744073709551615"]),
        ("0 9223372036854775808 7", [0, 2**63, 7]),
        ("18446744073709551616 1 2", ["18446744073709551616", "1", "2"]),
        *(
            (f"1 2 {odd}", ["1", "2", odd])
            for odd in ("007", "1e3", "+3", "-0", "1.0", "NA", "nan", "0x10", "1_0", "\u0661")
        ),
        ("3-598-21500-2 NULL True", ["3-598-21500-2", "NULL", "True"]),
    ],
)
@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.csv.xz"])
def test_ids_in_a_file_are_what_is_written_there(tmp_path, written, ids, name):
    text = "item_id,user_id,rating\n" + "".join(f'"{id}",{k},3\n' for k, id in enumerate(written.split()))
    content = lzma.compress(text.encode()) if name.endswith(".xz") else text
    assert [row[1] for row in read(tmp_path, content, name)] == ids
    assert [row[1] for row in read(tmp_path, content, name, ids=str)] == written.split()
    assert [row[1] for row in read(tmp_path, content, name, ids={"item_id": str})] == written.split()


@pytest.mark.parametrize("odd", [" 5", "5 ", "05", "+5", "-0"])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_one_id_written_otherwise_keeps_all_as_text_wherever_it_stands(tmp_path, monkeypatch, odd, row):
    monkeypatch.setattr("jaxmf.data.delimited._BLOCK", 7)  # bytes: what is odd lies across the blocks
    monkeypatch.setattr("jaxmf.data.delimited._integers_likely", lambda rows, positions: True)
    ids = ["17", "8", "9"]
    ids[row] = odd
    for ends in ("\n", "\r\n"):
        for text in (
            "user_id,item_id,rating{}{},1,3{}{},1,3{}{},1,3",
            "rating,item_id,user_id{}3,1,{}{}3,1,{}{}3,1,{}",
        ):
            filled = text.format(ends, ids[0], ends, ids[1], ends, ids[2])
            assert [r[0] for r in read(tmp_path, filled)] == ids
    assert [r[0] for r in read(tmp_path, "user_id,item_id,rating\n17,1,3\n8,1,3\n9,1,0.5\n")] == [17, 8, 9]


def test_what_separates_the_columns_is_the_same_in_every_line(tmp_path):
    assert read(tmp_path, "1;x,y,z;3\n2;w;4\n", header=False) == [(1, "x,y,z", 3.0), (2, "w", 4.0)]


def test_a_file_of_excel(tmp_path):
    text = '\ufeffuser_id;item_id;rating\r\n1;"a; b";3\r\nMüller;"c""d";4\r\n'
    assert read(tmp_path, text) == [("1", "a; b", 3.0), ("Müller", 'c"d', 4.0)]


def test_dates_in_a_file(tmp_path):
    times = ["1970-01-01T00:00:01.5Z", "1970-01-02", "1970-01-01 02:00+02:00"]
    text = "user_id,item_id,rating,timestamp\n" + "".join(f"1,{k},3,{time}\n" for k, time in enumerate(times))
    assert [row[3] for row in read(tmp_path, text)] == [1.5, 86400.0, 0.0]


def test_floats_in_a_file_are_the_nearest(tmp_path):
    numbers = np.random.default_rng(0).random(200)
    text = "user_id,item_id,rating\n" + "".join(f"1,{k},{x!r}\n" for k, x in enumerate(numbers.tolist()))
    assert [row[2] for row in read(tmp_path, text)] == numbers.tolist()


def test_what_is_missing_in_a_file(tmp_path):
    text = "user_id,item_id,rating,timestamp\n1,NA,3,1\n,2,3,1\n1,3,NA,1\n1,4,4,\n2,5,5,7\n"
    with pytest.warns(UserWarning, match="^3 of 5 rows lack an id, a rating or a time, and are left out$"):
        assert read(tmp_path, text, missing="drop") == [(1, "NA", 3.0, 1), (2, "5", 5.0, 7)]


def test_other_columns_of_a_file_are_text(tmp_path):
    (tmp_path / "pairs.csv").write_text('note,user_id,item_id,x,x\n"NA, 1",1,07,1.50,\n,X,8,1e3,null\n')
    known = {"user_id": pd.Index([1, 2]), "item_id": pd.Index(["07"])}
    table = read_table(tmp_path / "pairs.csv", "pairs", ids=known)
    assert table.columns.tolist() == ["note", "user_id", "item_id", "x", "x"]
    assert table.to_numpy(object).tolist() == [["NA, 1", 1, "07", "1.50", ""], ["", "X", "8", "1e3", "null"]]


def test_ids_in_parquet_in_the_type_asked_for(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    frame(item_id=["7", "8", "9", "10"]).to_parquet(tmp_path / "mine.parquet")
    data = Dataset.from_parquet(tmp_path / "mine.parquet", ids={"user_id": str, "item_id": int})
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (["10", "20", "30"], [7, 8, 9, 10])
    with pytest.raises(
        ValueError, match=r"mine\.parquet: column 'rating' \(user_id\) has dtype float64, which has no exact"
    ):
        Dataset.from_parquet(tmp_path / "mine.parquet", {"rating": "user_id", "user_id": "rating"}, ids=int)
