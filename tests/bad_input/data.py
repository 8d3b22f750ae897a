"""Tables, arrays, matrices and files on their way in; ids, parts and features of a Dataset."""

import math
from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from helpers import KEY
from scipy import sparse

from bad_input.builders import FRAME, RATINGS, SMALL
from jaxmf import Dataset, content, datasets, splits

TITLES = pd.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]})
WORDS = pd.DataFrame({"genres": ["Drama|War", "War", "Comedy"], "year": [1, 2, 3]}, index=list("abc"))


def table(**columns):
    """A Dataset of the table with these columns."""
    return Dataset.from_frame(
        FRAME.assign(**{name: pd.Series(values, FRAME.index) for name, values in columns.items()})
    )


def matrix(data=(1.0, 2.0, 3.0), row=(0, 1, 2), dtype=None, **ids):
    entries = sparse.coo_array((np.array(data, dtype), (row, (1, 0, 1))), shape=(3, 2))
    return Dataset.from_scipy(entries, **ids)


def csv(text, **options):
    Path("mine.csv").write_text(text)
    return Dataset.from_csv("mine.csv", **options)


def in_time(split, fractions):
    return split(table(user_id=[1] * 4, item_id=range(4), timestamp=range(4)), fractions)


def tfidf(items=WORDS, **arguments):
    return content.tfidf(replace(SMALL, items=items), **arguments)


def synthetic(**changes):
    return datasets.synthetic(**({"num_users": 5, "num_items": 4, "num_ratings": 10, "rank": 2} | changes))


def counts(plays=(3, 1, 8, 2), **options):
    """A Dataset of the table with these plays and without ratings."""
    return Dataset.from_frame(FRAME.drop(columns="rating").assign(plays=list(plays)), **({"weight": "plays"} | options))


def timed(*counts_of_users):
    """A Dataset of users with so many observations each, in the order of time."""
    user = np.repeat(np.arange(len(counts_of_users)), counts_of_users)
    return Dataset.from_arrays(user, np.arange(len(user)), timestamp=np.arange(len(user)), name="timed")


CASES = {
    # Tables.
    "frame-dict": (
        lambda: Dataset.from_frame({"user_id": [1]}),
        r"^from_frame: frame must be a DataFrame, not dict: pandas\.DataFrame\(\.\.\.\) makes one; Dataset\.from_array",
    ),
    "frame-path": (lambda: Dataset.from_frame("my.csv"), "must be a DataFrame, not str: .* from_csv and from_parquet"),
    "frame-empty": (lambda: Dataset.from_frame(FRAME[:0]), "the table has no rows; expected one row per rating"),
    "columns-list": (
        lambda: Dataset.from_frame(FRAME, columns=["user_id"]),
        r"columns must be a Mapping, not list: expected the table's names and ours, as in \{\"userId\": \"user_id\"\}",
    ),
    "column-missing": (
        lambda: Dataset.from_frame(FRAME.rename(columns={"user_id": "who", "item_id": "what"})),
        r"missing column user_id, item_id; found \['who', 'what', 'rating'\]\. Rename with "
        r'columns=\{"your name": "user_id", "your name": "item_id"\}',
    ),
    "column-twice": (
        lambda: Dataset.from_frame(FRAME.assign(stars=1.0), {"stars": "rating"}),
        r"column rating is present 2 times, as \['rating', 'stars'\]; expected it once: drop one",
    ),
    "rating-nan": (
        lambda: table(rating=[1.0, np.nan, 2.0, np.inf]),
        r"column 'rating': NaN or infinite rating in 2 row\(s\), at index 'r1', 'r3'; expected finite numbers .*drop",
    ),
    "rating-missing": (
        lambda: table(rating=pd.array([1, 2, None, 4], dtype="Int64")),
        r"column 'rating': NaN or infinite rating in 1 row\(s\), at index 'r2'; .*: correct these rows, or leav",
    ),
    "rating-renamed": (
        lambda: Dataset.from_frame(FRAME.assign(stars=np.nan).drop(columns="rating"), {"stars": "rating"}),
        r"column 'stars' \(rating\): NaN or infinite rating in 4 row\(s\), at index 'r0', .*: correct these rows",
    ),
    "rating-strings": (
        lambda: table(rating=["1", "2", "3", "4"]),
        r"column 'rating' \(rating\) has dtype .*, starting with '1', '2'; expected numbers: .*pandas\.to_numeric",
    ),
    "rating-mixed": (
        lambda: table(rating=[Decimal(1), 2.0, 3.0, "x"]),
        r"has dtype object, starting with Decimal\('1'\), 2\.0; expected numbers: convert it",
    ),
    "rating-bool": (lambda: table(rating=[True, False] * 2), r"dtype bool, .*expected numbers: .*astype\(float\)"),
    "rating-complex": (lambda: table(rating=[1 + 1j, 1, 1, 1]), "dtype complex128, .*expected numbers: convert it"),
    "user-missing": (
        lambda: table(user_id=[1, None, 2, 3]),
        r"column 'user_id': missing id in 1 row\(s\), at index 'r1'; every rating needs an id: correct these rows",
    ),
    "item-missing": (
        lambda: table(item_id=["a", "b", np.nan, None]),
        r"column 'item_id': missing id in 2 row\(s\), at index 'r2', 'r3'; every rating needs an id: correct",
    ),
    "item-lists": (
        lambda: table(item_id=[["a"], ["b"], ["c"], ["d"]]),
        "column 'item_id': ids must be hashable, such as numbers, strings or tuples",
    ),
    "user-periods": (
        lambda: table(user_id=pd.period_range("2024-01", periods=4, freq="M")),
        r"^column 'user_id' holds a pandas\.\S*Period, which cannot be stored without pickle: convert it",
    ),
    "item-zones": (
        lambda: table(item_id=pd.date_range("2024-01", periods=4, tz=timezone(timedelta(hours=1), "mine"))),
        r"^column 'item_id' has dtype datetime64\[.*, mine\], whose time zone has no standard name: convert it",
    ),
    "item-surrogates": (
        lambda: Dataset.from_arrays([1, 2], ["a", "\ud800"], [1, 2]),
        "^column 'item' holds a string that is not valid Unicode",
    ),
    "item-complex": (lambda: table(item_id=[1j, 2, 3, 4]), r"^column 'item_id' holds a builtins\.complex, .*: convert"),
    "item-arrow-nan": (
        lambda: table(item_id=pd.array([0.0, 1.0, 2.0, 3.0], "double[pyarrow]") / [0, 1, 1, 1]),
        r"^column 'item_id': missing id in 1 row\(s\), at index 'r0'; every rating needs an id",
    ),
    "time-words": (
        lambda: table(timestamp=list("abcd")),
        r"column 'timestamp': a date that cannot be read \('a', 'b', 'c', 'd'\) in 4 row\(s\), at index 'r0', .*; "
        r"expected seconds since 1970 or dates such as 2024-01-31 12:00:00\.5 in every row: correct these rows, or",
    ),
    "time-nan": (
        lambda: table(timestamp=[1.0, np.nan, 2.0, 3.0]),
        r"column 'timestamp': missing time in 1 row\(s\), at index 'r1'; expected seconds .* with missing=.drop",
    ),
    "time-infinite": (
        lambda: table(timestamp=[1.0, 2.0, -np.inf, 3.0]),
        r"column 'timestamp': infinite time in 1 row\(s\), at index 'r2'; expected seconds .*: correct these rows",
    ),
    "time-object": (
        lambda: table(timestamp=[1, "2024-01-01", 3, 4]),
        r"column 'timestamp' \(timestamp\) has dtype object, starting with 1, '2024-01-01'; expected seconds or dates: "
        r"convert it, for example with pandas\.to_datetime, or drop the column",
    ),
    "time-unsigned": (
        lambda: table(timestamp=np.array([1, 2**63, 2, 3], np.uint64)),
        r"column 'timestamp': time beyond 64-bit integers in 1 row\(s\), at index 'r1'; expected seconds since 1970",
    ),
    "time-text": (
        lambda: table(timestamp=["2024-01-31", "2024-13-01", "2024-01-31T10:00Z", "31.1.2024"]),
        r"column 'timestamp': a date that cannot be read \('2024-13-01', '31\.1\.2024'\) in 2 row\(s\), at index 'r1'",
    ),
    "time-large-beside-fractions": (
        lambda: Dataset.from_arrays([1], [1], [1], [2**60]).extend(
            pd.DataFrame({"user_id": [2], "item_id": [1], "rating": [1], "timestamp": [0.5]})
        ),
        r"column timestamp: whole numbers beyond 2\*\*53 on one side and fractions on the other.*to the same unit",
    ),
    "date-missing": (
        lambda: table(timestamp=pd.to_datetime(["2020", "2021", "2022", None])),
        r"column 'timestamp': missing time in 1 row\(s\), at index 'r3'",
    ),
    "pair-twice": (
        lambda: table(user_id=[5] * 4, item_id=list("abaa")),
        r"2 row\(s\) repeat a \(user, item\) pair; the first is user 5 with item 'a', at index 'r0', 'r2', 'r3'\. "
        r'Expected each pair once: keep one of each with duplicates="last"\|"mean"\|"sum"$',
    ),
    "duplicates-option": (
        lambda: Dataset.from_frame(FRAME, duplicates="first"),
        "duplicates must be one of 'error', 'last', 'mean', 'sum', not 'first'",
    ),
    "missing-option": (
        lambda: Dataset.from_frame(FRAME, missing="fill"),
        "missing must be one of 'error', 'drop', not 'fill'",
    ),
    "missing-everywhere": (
        lambda: Dataset.from_frame(FRAME.assign(rating=np.nan), missing="drop"),
        'missing="drop" leaves no row: all 4 lack an id, a rating or a time',
    ),
    "missing-infinite": (
        lambda: Dataset.from_frame(FRAME.assign(rating=[1, 2, np.inf, 4]), missing="drop"),
        r"NaN or infinite rating in 1 row\(s\), at index 'r2'; .*\(0 is a rating\): correct these rows$",
    ),
    "items-list": (
        lambda: Dataset.from_frame(FRAME, items=["a"]),
        "items must be a DataFrame, not list: expected a table of metadata with a column item_id",
    ),
    "items-missing": (
        lambda: Dataset.from_frame(FRAME, items=TITLES),
        r"items: no row for 1 rated item\(s\): 'c'; index the table by item id and add these rows",
    ),
    "items-twice": (
        lambda: Dataset.from_frame(FRAME, items=pd.concat([TITLES, TITLES[:1]])),
        "items: more than one row for item 'a'; expected one: use drop_duplicates",
    ),
    # Arrays, matrices, files.
    "arrays-lengths": (
        lambda: Dataset.from_arrays([1, 2], [1, 2, 3], [1.0, 2.0]),
        "arrays of different lengths: user 2, item 3, rating 2; expected one entry per rating in each",
    ),
    "arrays-times": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], [1.0, 2.0], [5]),
        "arrays of different lengths: user 2, item 2, rating 2, timestamp 1; expected one entry per rating",
    ),
    "arrays-empty": (lambda: Dataset.from_arrays([], [], []), "the arrays are empty; expected one entry per rating"),
    "arrays-2d": (
        lambda: Dataset.from_arrays(np.ones((2, 1)), [1, 2], [1, 2]),
        r"user has shape \(2, 1\); expected one dimension, one entry per rating: use \.ravel\(\), or Dataset\.from_sci",
    ),
    "arrays-string": (
        lambda: Dataset.from_arrays([1, 2], "ab", [1, 2]),
        r"item has shape \(\); expected one dimension",
    ),
    "arrays-none": (
        lambda: Dataset.from_arrays([1, None], [1, 2], [1, 2]),
        r"column 'user' \(user_id\): missing id in 1 row\(s\), at index 1; .*: correct these rows, or leave them out",
    ),
    "arrays-series": (
        lambda: Dataset.from_arrays(pd.Series([1, None], index=[8, 9]), [1, 2], [1, 2]),
        r"column 'user' \(user_id\): missing id in 1 row\(s\), at index 1; ",
    ),
    "arrays-lists": (lambda: Dataset.from_arrays([1, 2], [[1], [2]], [1, 2]), "column 'item': ids must be hashable"),
    "arrays-nan": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], [1, np.nan]),
        r"column 'rating': NaN or infinite rating in 1 row\(s\), at index 1; expected finite numbers",
    ),
    "arrays-masked": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], np.ma.array([1.0, 2.0], mask=[True, False])),
        r"column 'rating': NaN or infinite rating in 1 row\(s\), at index 0",
    ),
    "arrays-bool": (lambda: Dataset.from_arrays([1, 2], [1, 2], [True, False]), r"dtype bool.*astype\(float\)"),
    "arrays-time-words": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], [1, 2], ["a", "b"]),
        r"column 'timestamp': a date that cannot be read \('a', 'b'\) in 2 row\(s\), at index 0, 1; ",
    ),
    "arrays-pair-twice": (
        lambda: Dataset.from_arrays([1, 2, 1], [5, 5, 5], [1, 2, 3]),
        r"the first is user 1 with item 5, at index 0, 2\. Expected each pair once: keep one of each with ",
    ),
    "matrix-dense": (
        lambda: Dataset.from_scipy(np.eye(3)),
        r"expected a scipy\.sparse matrix or array, got ndarray\. If 0 means unrated, pass "
        r"scipy\.sparse\.coo_array\(matrix\); otherwise list the ratings with Dataset\.from_arrays",
    ),
    "matrix-frame": (lambda: Dataset.from_scipy(FRAME), "matrix or array, got DataFrame"),
    "matrix-empty": (
        lambda: Dataset.from_scipy(sparse.csr_array((3, 2))),
        r"the matrix of shape \(3, 2\) has no stored entries; expected one per rating",
    ),
    "matrix-1d": (
        lambda: Dataset.from_scipy(sparse.coo_array(np.ones(3))),
        r"the matrix has shape \(3,\); expected two dimensions, users x items: reshape it",
    ),
    "matrix-nan": (
        lambda: matrix(data=[1, np.nan, np.inf]),
        r"NaN or infinite rating in 2 row\(s\), at index \(1, 0\), \(2, 1\); .*drop these rows",
    ),
    "matrix-bool": (lambda: matrix(dtype=bool), r"dtype bool, .*expected numbers: .*astype\(float\)"),
    "matrix-complex": (lambda: matrix(dtype=complex), "dtype complex128, .*expected numbers"),
    "matrix-cell-twice": (
        lambda: matrix(row=[2, 1, 2], user_ids=list("xyz")),
        r"1 row\(s\) repeat .* user 'z' with item 1, at index \(2, 1\), \(2, 1\)\. .*once: drop .*sum_duplicates\(\)",
    ),
    "matrix-csr-cell-twice": (
        lambda: Dataset.from_scipy(sparse.csr_array(([1.0, 2.0], [1, 1], [0, 2, 2]), shape=(2, 2))),
        r"user 0 with item 1, at index \(0, 1\), \(0, 1\)",
    ),
    "matrix-few-users": (
        lambda: matrix(user_ids=[1, 2]),
        r"user_ids: 2 id\(s\) for 3 rows of the matrix; expected one per row",
    ),
    "matrix-many-items": (
        lambda: matrix(item_ids=[1, 2, 3]),
        r"item_ids: 3 id\(s\) for 2 columns of the matrix; expected one per column",
    ),
    "matrix-user-twice": (
        lambda: matrix(user_ids=["a", "b", "a"]),
        r"user_ids: 1 id\(s\) repeated: 'a'; expected a different id for each row: number them, or merge these rows",
    ),
    "matrix-item-twice": (lambda: matrix(item_ids=[7, 7]), r"item_ids: 1 id\(s\) repeated: 7; .*for each column"),
    "matrix-user-none": (
        lambda: matrix(user_ids=["a", None, "b"]),
        r"user_ids: missing id in 1 place\(s\), at index 1; expected an id for every row: fill these or drop the rows",
    ),
    "matrix-item-lists": (lambda: matrix(item_ids=[[1], [2]]), "item_ids: ids must be hashable"),
    "csv-nothing": (lambda: csv(""), r"^mine\.csv: No columns to parse"),
    "csv-header": (lambda: csv("user_id,item_id,rating\n"), r"^mine\.csv: the table has no rows; expected one row per"),
    "csv-column": (lambda: csv("user_id,rating\n1,2\n"), r"^mine\.csv: missing column item_id; .*Rename with columns="),
    "csv-column-misspelled": (
        lambda: csv("user_id,item_id,star\n1,2,3\n", columns={"stars": "rating"}),
        r"^mine\.csv: missing column 'stars' \(rating\); found \['user_id', 'item_id', 'star'\]\. Rename with columns=",
    ),
    "csv-ragged": (
        lambda: csv("user_id,item_id,rating\n1,2,3,4\n"),
        r"^mine\.csv: line 2 has 4 fields, .* the first line has 3\.",
    ),
    "csv-sep": (
        lambda: csv("user_id;item_id;rating\n1;2;3\n", sep=","),
        r"^mine\.csv: missing column user_id, item_id; found \['user_id;item_id;rating'\]\. With sep=\";\" the",
    ),
    "csv-sep-list": (lambda: csv("", sep=[",", ";"]), r'^sep must be a string such as ";", or None to detect it, not '),
    "csv-more-than-the-header": (
        lambda: csv("user_id,item_id,rating\n1,2,3\n4,5,6,7\n"),
        r"^mine\.csv: line 3 has 4 fields, '4', '5', '6', '7', but the first line has 3\. A field that contains ',' "
        r'needs quotes; if the separator is another one, name it, as in sep=";"$',
    ),
    "csv-no-header": (
        lambda: csv("1;2\n", header=False, columns={0: "user_id", 1: "item_id", 2: "rating"}),
        r"^mine\.csv: missing column 2 \(rating\): the first line has \d column\(s\), .*, and the file is read wit",
    ),
    "csv-positions": (
        lambda: csv("1,2,3\n", header=False, columns={"userId": "user_id"}),
        r"^mine\.csv: columns must map positions from 0 to our names if there is no header, as .*, not \{'userId'",
    ),
    "csv-ids": (
        lambda: csv("", ids=float),
        r"^ids must be str, int, or a mapping of these by user_id and item_id, not",
    ),
    "csv-no-integer": (
        lambda: csv("user_id,item_id,rating\n1,2,3\nX1,2,3\n007,2,3\n", ids=int),
        r"^mine\.csv: column 'user_id': an id that is not a plain integer \('X1', '007'\) in 2 row\(s\), at line 3, 4; "
        r"correct these rows, or keep all ids as text with ids=str$",
    ),
    "csv-no-number": (
        lambda: csv("user_id;item_id;rating\n1;2;3\n2;2;4,5\n"),
        r"^mine\.csv: column 'rating': not a number \('4,5'\) in 1 row\(s\), at line 3; expected numbers such as 4",
    ),
    "csv-date": (
        lambda: csv("user_id,item_id,rating,timestamp\n1,2,3,2024-01-31\n2,2,4,yesterday\n"),
        r"^mine\.csv: column 'timestamp': a date that cannot be read \('yesterday'\) in 1 row\(s\), at line 3; ex",
    ),
    "csv-encoding": (
        lambda: (
            Path("mine.csv").write_bytes("user_id,item_id,rating\nMüller,2,3\n".encode("latin-1"))
            and Dataset.from_csv("mine.csv")
        ),
        r"^mine\.csv: the file is not text in UTF-8 \(.*\): save it as CSV in UTF-8$",
    ),
    "csv-long": (
        lambda: csv(f"user_id,{'x' * 10_000},rating\n{'y' * 10_000},2,3\n"),
        r"^mine\.csv: missing column item_id; found \['user_id', 'x{56}\.\.\., 'rating'\]\. ",
    ),
    "csv-long-id": (
        lambda: csv(f"user_id,item_id,rating\n{'y' * 10_000},2,3\n{'y' * 10_000},2,3\n"),
        r"^mine\.csv: 1 row\(s\) repeat a \(user, item\) pair; the first is user 'y{56}\.\.\. with item 2, at line 2,",
    ),
    "csv-absent": (lambda: Dataset.from_csv("absent.csv"), r"absent\.csv"),
    # Ids, parts, features of a Dataset.
    "id-unknown": (
        lambda: SMALL.user_index([10, 99, "10", 99]),
        r"2 unknown user id\(s\): 99, '10'; known ids are like 10, 20, 30 \(user_ids\)\. Drop them, or check their typ",
    ),
    "id-of-another-type": (
        lambda: SMALL.item_index(np.array([1])),
        r"1 unknown item id\(s\): 1; known ids are like 'a', 'b', 'c'",
    ),
    "id-alone": (
        lambda: SMALL.item_index("abc"),
        r"expected a list of item ids, got 'abc'; for one item pass \['abc'\]",
    ),
    "id-list": (lambda: SMALL.user_index([[1]]), "user ids must be hashable, like those in user_ids: numbers, strings"),
    "align-frame": (lambda: SMALL.align(FRAME), "align: other must be a Dataset, not DataFrame: Dataset.from_frame"),
    "align-on-unknown": (
        lambda: SMALL.align(SMALL, on_unknown="bias"),
        "^align: on_unknown must be 'error' or 'drop', not 'bias'",
    ),
    "align-unknown": (lambda: SMALL.align(Dataset.from_arrays([7], ["a"], [4.0])), r"1 unknown user id\(s\): 7; known"),
    "split-frame": (lambda: splits.random(FRAME), "splits: data must be a Dataset, not DataFrame: Dataset.from_frame"),
    "split-ratings": (lambda: splits.temporal(RATINGS), "splits: data must be a Dataset, not Ratings"),
    "split-one-number": (
        lambda: splits.random(SMALL, 0.8),
        r"fractions must name at least two parts, such as \(0\.8, 0\.2\), got 0\.8",
    ),
    "split-one-part": (
        lambda: splits.random(SMALL, (1.0,)),
        r"at least two parts, such as \(0\.8, 0\.2\), got \(1\.0,\)",
    ),
    "split-no-part": (lambda: splits.temporal(SMALL, ()), r"at least two parts, .*got \(\)"),
    "split-percent": (
        lambda: splits.random(SMALL, (80, 20)),
        r"fractions must sum to 1, got \(80, 20\) with sum 100: divide each by their sum",
    ),
    "split-sum": (
        lambda: splits.temporal_per_user(SMALL, (0.8, 0.3)),
        r"must sum to 1, got \(0\.8, 0\.3\) with sum 1\.1",
    ),
    "split-nearly": (lambda: splits.temporal(SMALL, (0.8, 0.2 + 1e-8)), "fractions must sum to 1"),
    "split-negative": (
        lambda: splits.random(SMALL, (1.2, -0.2)),
        r"fractions must be positive, such as \(0\.8, 0\.2\), got \(1\.2, -0\.2\)",
    ),
    "split-zero": (lambda: splits.temporal_per_user(SMALL, (1.0, 0.0)), "fractions must be positive"),
    "split-nan": (lambda: splits.random(SMALL, (float("nan"), 0.5)), "fractions must be positive"),
    "split-words": (lambda: splits.random(SMALL, ("a", "b")), r"fractions must be positive, .*got \('a', 'b'\)"),
    "split-seed-key": (
        lambda: splits.random(SMALL, seed=KEY),
        r"(?s)seed must be an integer of at least 0, not Array\(\(\), dtype=key.*: only functions that run in JAX take",
    ),
    "split-seed-half": (lambda: splits.random(SMALL, seed=0.5), "seed must be an integer of at least 0, not 0.5"),
    "split-empty-part": (
        lambda: in_time(splits.random, (0.1, 0.9)),
        r"fractions \(0\.1, 0\.9\) give parts of \[0, 4\] ratings out of 4; no part may be empty: use larger fractions",
    ),
    "split-empty-per-user": (
        lambda: in_time(splits.temporal_per_user, (0.1, 0.9)),
        r"\[0, 4\] ratings out of 4; no part",
    ),
    "split-empty-in-time": (
        lambda: in_time(splits.temporal, (0.1, 0.9)),
        r"parts of \[0, 4\] ratings out of 4; no part",
    ),
    "split-no-times": (
        lambda: splits.temporal(SMALL),
        r"small has no timestamps, which a temporal split sorts by; .*a timestamp column or use splits\.random",
    ),
    "split-no-times-per-user": (lambda: splits.temporal_per_user(SMALL), "small has no timestamps"),
    "folds-one": (
        lambda: splits.k_fold(SMALL, 1),
        "k must be an integer of at least 2, got 1: with one fold nothing is left to train on",
    ),
    "folds-none": (lambda: splits.k_fold(SMALL, 0), "k must be an integer of at least 2, got 0"),
    "folds-half": (lambda: splits.k_fold(SMALL, 2.5), "k must be an integer of at least 2, got 2.5"),
    "folds-many": (
        lambda: splits.k_fold(SMALL, 5),
        "k = 5 folds of 4 ratings; no fold may be empty: use at most 4 folds",
    ),
    "synthetic-pairs": (
        lambda: synthetic(num_ratings=21),
        r"synthetic: num_ratings = 21 is more than num_users \* num_items = 20 distinct pairs; ask for fewer ratings",
    ),
    "synthetic-users": (lambda: synthetic(num_users=0), "synthetic: num_users must be an integer of at least 1, got 0"),
    "synthetic-items": (
        lambda: synthetic(num_items=-3),
        "synthetic: num_items must be an integer of at least 1, got -3",
    ),
    "synthetic-ratings": (lambda: synthetic(num_ratings=1e1), "num_ratings must be an integer of at least 1, got 10.0"),
    "synthetic-rank": (lambda: synthetic(rank=0), "synthetic: rank must be an integer of at least 1, got 0"),
    "synthetic-seed": (lambda: synthetic(seed=KEY), "(?s)seed must be an integer of at least 0, .*take a key"),
    "movielens": (lambda: datasets.movielens("ml-25m"), "'ml-25m'; known: ml-latest-small, ml-100k, ml-1m, ml-20m"),
    "words-frame": (lambda: content.tfidf(FRAME), "content.tfidf: data must be a Dataset, not DataFrame: .*items="),
    "words-no-items": (
        lambda: tfidf(None),
        "content.tfidf: small has no item metadata; give Dataset.from_frame a table as items=",
    ),
    "words-no-column": (
        lambda: tfidf(columns=["plot"]),
        r"the items of small have no column 'plot'; found \['genres', 'year'\]\. Name the columns to read in columns=",
    ),
    "words-no-columns": (lambda: tfidf(columns=[]), "the items of small have no column to read; found"),
    "words-string": (
        lambda: tfidf(columns="genres"),
        r"content\.tfidf: columns must be a sequence of names, not 'genres': use \['genres'\]",
    ),
    "words-none": (
        lambda: tfidf(columns=["year"]),
        "no words in the columns year of the rated items of small; name columns with words in columns=",
    ),
    "words-no-terms": (
        lambda: tfidf(columns=["genres"], max_features=0),
        "content.tfidf: max_features must be a positive integer, not 0",
    ),
    "words-no-components": (
        lambda: tfidf(columns=["genres"], components=0),
        "content.tfidf: components must be a positive integer, not 0",
    ),
    "words-half-components": (lambda: tfidf(columns=["genres"], components=2.0), "must be a positive integer, not 2.0"),
    # Weights, counts, and what is made of them.
    "weight-nan": (
        lambda: counts([3, np.nan, 8, np.inf]),
        r"^column 'plays' \(weight\): NaN or infinite weight in 2 row\(s\), at index 'r1', 'r3'; expected "
        r"finite numbers "
        r'above 0: correct these rows, or leave them out with missing="drop"$',
    ),
    "weight-infinite": (
        lambda: counts([3, 1, np.inf, 2], missing="drop"),
        r"^column 'plays' \(weight\): NaN or infinite weight in 1 row\(s\), at index 'r2'; .*above 0: correct "
        r"these rows$",
    ),
    "weight-negative": (
        lambda: counts([3, -1, 8, -2]),
        r"^column 'plays' \(weight\): negative weight in 2 row\(s\), at index 'r1', 'r3'; .*: correct these "
        r"rows, or dr",
    ),
    "weight-zero": (
        lambda: Dataset.from_frame(FRAME.assign(weight=[1, 0, 2, 3])),
        r"^column 'weight': weight of 0 in 1 row\(s\), at index 'r1'; expected finite numbers above 0: leave "
        r"these rows ",
    ),
    "weight-words": (
        lambda: counts(["3", "1", "8", "2"]),
        r"^column 'plays' \(weight\) has dtype .*, starting with '3', '1'; expected numbers: .*pandas\.to_numeric",
    ),
    "weight-bool": (lambda: counts([True] * 4), r"^column 'plays' \(weight\) has dtype bool, .*astype\(float\)"),
    "weight-absent": (
        lambda: counts(weight="clicks"),
        r"^missing column 'clicks' \(weight\); found \['user_id', 'item_id', 'plays'\]\. Rename with "
        r"columns=\{\"your na",
    ),
    "weight-twice": (
        lambda: counts(columns={"plays": "weight"}),
        r"^weight='plays' and columns=\{'plays': 'weight'\} both say which column holds the weights, .* in one "
        r"of them$",
    ),
    "weight-named-twice": (
        lambda: counts(columns={"seconds": "weight"}),
        r"^weight='plays' and columns=\{'seconds': 'weight'\} both say which column holds the weights",
    ),
    "weight-and-rating": (
        lambda: counts(columns={"plays": "rating"}),
        r"^weight='plays' and columns=\{'plays': 'rating'\} both say .*, or what it holds: name it in one of them$",
    ),
    "weight-two-columns": (
        lambda: Dataset.from_frame(FRAME.assign(plays=1, weight=1), weight="plays"),
        r"^column weight is present 2 times, as \['plays', 'weight'\]; expected it once: drop one$",
    ),
    "weight-array": (
        lambda: counts(weight=np.ones(4)),
        r"^weight must be the name of a column, as in weight=\"plays\", not ndarray: make the weights a column "
        r"of the tab",
    ),
    "weight-is-the-user": (lambda: counts(weight="user_id"), r"^missing column user_id; found \['user_id', 'item_id'"),
    "weight-columns-list": (
        lambda: counts(columns=["user_id"]),
        "^columns must be a Mapping, not list: expected the t",
    ),
    "rating-misspelled": (
        lambda: counts(weight=None, columns={"stars": "rating"}),
        r"^missing column 'stars' \(rating\); found \['user_id', 'item_id', 'plays'\]",
    ),
    "weight-arrays-length": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], weight=[1.0]),
        "^arrays of different lengths: user 2, item 2, weight 1; expected one entry per rating in each",
    ),
    "weight-arrays-zero": (
        lambda: Dataset.from_arrays([1, 2], [1, 2], weight=[1, 0]),
        r"^column 'weight': weight of 0 in 1 row\(s\), at index 1; ",
    ),
    "weight-csv-zero": (
        lambda: csv("user_id,item_id,plays\n1,2,3\n2,2,0\n", weight="plays"),
        r"^mine\.csv: column 'plays' \(weight\): weight of 0 in 1 row\(s\), at line 3; expected finite numbers above 0",
    ),
    "weight-csv-missing": (
        lambda: csv("user_id,item_id,plays\n1,2,3\n2,2,NA\n", weight="plays"),
        r"^mine\.csv: column 'plays' \(weight\): NaN or infinite weight in 1 row\(s\), at line 3; .*missing=\"drop\"$",
    ),
    "weight-csv-words": (
        lambda: csv("user_id,item_id,plays\n1,2,0:03:20\n", weight="plays"),
        r"^mine\.csv: column 'plays' \(weight\): not a number \('0:03:20'\) in 1 "
        r"row\(s\), at",
    ),
    "weight-csv-position": (
        lambda: csv("1,2,3\n", header=False, weight="plays"),
        "^weight must be a position from 0 if there is no header, such as 2, not 'plays'",
    ),
    "weight-csv-beyond": (
        lambda: csv("1,2,3\n", header=False, weight=7),
        r"^mine\.csv: missing column 7 \(weight\): the first line has 3 column\(s\), '1', '2', '3', and the "
        r"file is read w",
    ),
    "weight-matrix-zero": (
        lambda: matrix([1, 0, 3], entries="weight"),
        r"^column 'weight': weight of 0 in 1 row\(s\), at index \(1, 0\); .*: leave them out with "
        r".*eliminate_zeros\(\)$",
    ),
    "weight-matrix-entries": (
        lambda: matrix(entries="plays"),
        "^entries must be 'rating' or 'weight', what the matrix holds, not 'plays'",
    ),
    "weight-matrix-empty": (
        lambda: Dataset.from_scipy(sparse.csr_array((3, 2)), entries="weight"),
        r"^the matrix of shape \(3, 2\) has no stored entries; expected one per weight$",
    ),
    "transform-ratings": (
        lambda: matrix(transform=np.log1p),
        '^transform needs weights, and the entries are ratings: pass entries="weight"',
    ),
    "transform-nothing": (
        lambda: counts(weight=None, transform=np.log1p),
        r"^transform needs weights, and there is no column of weights: name one, as in weight=\"plays\", or "
        r".*=\"sum\"$",
    ),
    "transform-number": (
        lambda: counts(transform=40),
        r"^transform must be a function of the array of weights, such as numpy\.log1p, not 40$",
    ),
    "transform-log": (
        lambda: counts(transform=np.log),
        r"^transform made weights that cannot be used in 1 of 4 places: 0 of 1; expected finite numbers above "
        r"0: use a f"
        r".* from 1 to 8, such as lambda plays: 1 \+ 40 \* plays$",
    ),
    "transform-nan": (
        lambda: counts(transform=lambda plays: np.where(plays > 2, plays, np.nan)),
        r"^transform made weights that cannot be used in 2 of 4 places: nan of 1, nan of 2; expected finite "
        r"numbers abo",
    ),
    "transform-sum": (
        lambda: counts(transform=np.sum),
        r"^transform returned float64\[\] for weights of shape \[4\]; expected one number per weight, as "
        r"numpy\.log1p ret",
    ),
    "transform-mask": (lambda: counts(transform=lambda plays: plays > 2), r"^transform returned bool\[4\] for weights"),
    "transform-scalar-function": (
        lambda: counts(transform=math.log1p),
        r"^transform failed on the array of weights, float64\[4\]: TypeError: .*Expected a function of whole arrays",
    ),
    "events-twice": (
        lambda: Dataset.from_arrays([1, 2, 1], [5, 5, 5]),
        r"the first is user 1 with item 5, at index 0, 2\. Expected each pair once: count the rows of each with "
        r"duplicat"
        r'es="sum", or keep one of each with duplicates="last"$',
    ),
    "counts-twice": (
        lambda: Dataset.from_arrays([1, 2, 1], [5, 5, 5], weight=[1, 2, 3]),
        r"at index 0, 2\. Expected each pair once: add up their weights with duplicates=\"sum\", or keep one of "
        r"each with",
    ),
    "counts-missing-everywhere": (
        lambda: counts([np.nan] * 4, missing="drop"),
        '^missing="drop" leaves no row: all 4 lack an id, a weight or a time$',
    ),
    "extend-without-ratings": (
        lambda: SMALL.extend(FRAME.drop(columns="rating")),
        r"^missing column rating; found \['user_id', 'item_id'\]",
    ),
    "extend-weight-zero": (
        lambda: counts().extend(pd.DataFrame({"user_id": [7], "item_id": ["a"], "weight": [0]})),
        r"^column 'weight': weight of 0 in 1 row\(s\), at index 0; ",
    ),
    "extend-pair-known": (
        lambda: counts().extend(pd.DataFrame({"user_id": [30], "item_id": ["a"]})),
        r"^column 'item_id': a pair that frame already has a rating for in 1 row\(s\), at index 0; drop these rows",
    ),
    "binarize-high": (
        lambda: SMALL.binarize(6),
        r"^binarize: no rating is at least 6; the ratings of small are from 0 to 5: lower the threshold$",
    ),
    "binarize-nan": (
        lambda: SMALL.binarize(np.nan),
        r"^binarize: threshold must be a finite number, not nan: the ratings of small are from 0 to 5$",
    ),
    "binarize-word": (lambda: SMALL.binarize("4"), "^binarize: threshold must be a finite number, not '4'"),
    "binarize-bool": (lambda: SMALL.binarize(True), "^binarize: threshold must be a finite number, not True"),
    "confidence-ratings": (
        lambda: SMALL.with_confidence(np.log1p),
        r"^with_confidence: small has ratings other than 1, such as 0\.0, 2\.5, 4\.0, \.\.\.; "
        r".*data\.binarize\(threshold\)",
    ),
    "confidence-low": (
        lambda: counts().with_confidence(np.log1p),
        r"^with_confidence: function made weights that cannot be used in 1 of 4 places: 0\.693147 of 1; "
        r"expected finite n"
        r"umbers of at least 1: use a function",
    ),
    "confidence-one": (
        lambda: counts().with_confidence(np.ones_like),
        "^with_confidence: function returned 1 for all 4 weights, which leaves no observation; expected more "
        "than 1 for",
    ),
    "confidence-number": (
        lambda: counts().with_confidence(40),
        "^with_confidence: function must be a function of the array of weights, such as .*, not 40",
    ),
    "per-user-number": (lambda: splits.random_per_user(SMALL, 0.8), "fractions must name at least two parts"),
    "per-user-sum": (lambda: splits.random_per_user(SMALL, (80, 20)), r"fractions must sum to 1, got \(80, 20\)"),
    "per-user-empty": (
        lambda: splits.random_per_user(timed(1, 1)),
        r"^fractions \(0\.8, 0\.2\) give parts of \[2, 0\] ratings out of 2; no part may be empty",
    ),
    "per-user-seed": (
        lambda: splits.random_per_user(timed(4, 4), seed=-1),
        "^seed must be an integer of at least 0, not -1",
    ),
    "per-user-frame": (lambda: splits.random_per_user(FRAME), "^splits: data must be a Dataset, not DataFrame"),
    "leave-last-times": (
        lambda: splits.leave_last(SMALL),
        r"^small has no timestamps, which a temporal split sorts by; .*a timestamp column or use splits\.random",
    ),
    "leave-last-zero": (
        lambda: splits.leave_last(timed(4, 4), (1, 0)),
        r"^leave_last: counts must be positive integers, one per part to hold out, such as \(1, 1\), not \(1, 0\)",
    ),
    "leave-last-fractions": (
        lambda: splits.leave_last(timed(4), (0.8, 0.2)),
        r"^leave_last: counts must be positive int",
    ),
    "leave-last-number": (lambda: splits.leave_last(timed(4), 1), "^leave_last: counts must be positive .*, not 1$"),
    "leave-last-none": (lambda: splits.leave_last(timed(4), ()), r"^leave_last: counts must be positive .*, not \(\)$"),
    "leave-last-few": (
        lambda: splits.leave_last(timed(2, 2, 1)),
        r"^leave_last: no user of timed has more than 2 observations, the sum of counts \(1, 1\), so .*smaller "
        r"counts or",
    ),
    "leave-last-frame": (lambda: splits.leave_last(FRAME), "^splits: data must be a Dataset, not DataFrame"),
    "by-user-fraction": (
        lambda: splits.by_user(timed(4, 4), 1.0),
        r"^by_user: fraction must be a number between 0 and 1, such as 0\.2, not 1\.0",
    ),
    "by-user-given": (
        lambda: splits.by_user(timed(4, 4), 0.5, 80),
        "^by_user: given must be a number between 0 and 1,",
    ),
    "by-user-nan": (lambda: splits.by_user(timed(4, 4), np.nan), "^by_user: fraction must be a number between 0 and 1"),
    "by-user-few": (
        lambda: splits.by_user(timed(4, 4, 1), 0.4),
        r"^by_user: fraction 0\.4 of the 2 users of timed with at least two observations is less than one user: "
        r"use a la",
    ),
    "by-user-seed": (
        lambda: splits.by_user(timed(4, 4), 0.5, seed=-1),
        "^seed must be an integer of at least 0, not -1",
    ),
    "by-user-frame": (lambda: splits.by_user(FRAME), "^splits: data must be a Dataset, not DataFrame"),
    "synthetic-feedback": (
        lambda: synthetic(feedback="plays"),
        "^synthetic: feedback must be 'explicit' or 'implicit', not 'plays'",
    ),
    "synthetic-implicit-pairs": (
        lambda: synthetic(feedback="implicit", num_ratings=21),
        r"^synthetic: num_ratings = 21 is more than num_users \* num_items = 20 distinct pairs",
    ),
}
