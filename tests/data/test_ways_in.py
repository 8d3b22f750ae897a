"""`from_arrays`, `from_scipy` and `from_parquet` against `from_frame`."""

import sys

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from jaxmf.data import Dataset

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
    assert (data.user.dtype, data.item.dtype, data.rating.dtype) == (np.int32, np.int32, np.float64)
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


def test_from_parquet_names_the_path_in_errors(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "mine.parquet"
    frame(rating=[1, 2, 3, np.nan]).to_parquet(path)
    with pytest.raises(ValueError, match=r"mine\.parquet: column 'rating': NaN or infinite rating in 1 row"):
        Dataset.from_parquet(path)
    frame().drop(columns="rating").to_parquet(path)
    with pytest.raises(ValueError, match=r"^/.*mine\.parquet: missing column rating; found \['user_id', 'item_id'\]"):
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
