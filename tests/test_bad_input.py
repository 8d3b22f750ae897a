"""The catalogue of bad input: each is refused before anything compiles, saying what, where and what to do."""

import io
import json
import zipfile
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from helpers import COMPILED, FEATURES, HYPER, KEY, MODELS, RANK, SOLVERS, pick, random_ratings, shell
from scipy import sparse

import jaxmf
from jaxmf import (
    Dataset,
    Fit,
    Hyper,
    Params,
    Ratings,
    Rows,
    content,
    datasets,
    evaluate,
    load,
    make_fit,
    models,
    prepare,
    save,
    solvers,
    splits,
    verify,
)
from jaxmf.training import Saved, compile_fit, start
from jaxmf.training.checks import check_key

BIASED, SGD, ADAM, ALS = MODELS["biased"], SOLVERS["sgd"], SOLVERS["adam"], SOLVERS["als"]
RATINGS, OTHER = random_ratings(), random_ratings(num_users=20, num_items=16)
SINGLE, EMPTY = random_ratings(dtype=jnp.float32), pick(RATINGS, slice(0))
KEYS, NUMBER = jax.random.split(KEY, 3), jnp.array(1.0)

# Tables and data.

FRAME = pd.DataFrame(
    {"user_id": [30, 10, 30, 20], "item_id": list("baac"), "rating": [4.0, 0.0, 2.5, 5.0]}, ["r0", "r1", "r2", "r3"]
)
SMALL = Dataset.from_frame(FRAME, name="small")
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


# Models, fits and files. Nothing here needs a compiled program: all parameters are 0.


def zeros(make):
    """What `make` would return, of zeros."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make))


PAIR = np.flatnonzero(np.arange(17 * 13) % 10 != 3)
NINE = pd.DataFrame({"user_id": PAIR // 13, "item_id": 100 + PAIR % 13, "rating": PAIR % 9 / 2, "timestamp": PAIR})
DATA = Dataset.from_frame(NINE, name="nine of ten")
STATE = zeros(lambda: start(KEY, BIASED, ADAM, prepare(ADAM, RATINGS), HYPER))
PARAMS = STATE.params
FIT = Fit(BIASED, PARAMS, HYPER, STATE, {"epoch": np.arange(0), "seconds": np.zeros(0)}, "completed")
DAYS = pd.DatetimeIndex(pd.date_range("2024-01-01 12:30", periods=17).to_numpy())


def with_scale(key, ratings, hyper):
    """The parameters of `mf(2)`, and one number that belongs to no row."""
    params = models.mf(2).init(key, ratings, hyper)
    return params._replace(trained=params.trained._replace(shared={"scale": jnp.ones((), ratings.value.dtype)}))


def only_users(key, ratings, hyper):
    """Users' factors that have two rows too many."""
    return Params(Rows({"factors": jnp.zeros((ratings.num_users + 2, 3))}, {"factors": jnp.zeros((13, 3))}))


def without_item_bias(params, ratings, weight, hyper):
    found = BIASED.gradient(params, ratings, weight, hyper)
    return found._replace(item={"factors": found.item["factors"]})


def transposed(params, ratings, weight, hyper):
    found = BIASED.gradient(params, ratings, weight, hyper)
    return found._replace(item=found.item | {"factors": found.item["factors"].T})


def free_bias(trained, weight, hyper):
    factors = {side: {"factors": getattr(trained, side)["factors"]} for side in ("user", "item")}
    return BIASED.penalty(trained._replace(**factors), weight, hyper)


SCALED = models.mf(2)._replace(init=with_scale, name="scaled")
FREE = BIASED._replace(penalty=free_bias)
OWN = BIASED._replace(init=lambda *x: BIASED.init(*x), name="mine")
NARROW = BIASED._replace(init=lambda *x: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), BIASED.init(*x)))


def fit(key=KEY, **changes):
    return jaxmf.fit(key, **({"model": BIASED, "solver": SGD, "train": RATINGS, "epochs": 2} | changes))


def holding(**arrays):
    """A fit to the ratings with other arrays."""
    return fit(train=replace(RATINGS, **arrays))


def but(name, position, value):
    """A fit to the ratings with one other number."""
    array = np.array(getattr(RATINGS, name))
    array[position] = value
    return holding(**{name: array})


def resumed(**changes):
    return fit(**({"solver": ADAM, "resume": FIT} | changes))


def saved(fit=FIT, data=DATA):
    return save("new", fit, data)


def extra(value):
    return saved(FIT._replace(hyper=HYPER._replace(extra={"mine": value})))


def damaged(change):
    """Load a file of which `change` altered the members (name -> bytes)."""
    with zipfile.ZipFile("fit.npz") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    change(members)
    with zipfile.ZipFile("damaged.npz", "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return load("damaged.npz")


def header(**values):
    name = "header.json"
    return damaged(lambda members: members.update({name: json.dumps(json.loads(members[name]) | values).encode()}))


def array(name, content, **options):
    stream = io.BytesIO()
    np.save(stream, content, **options)
    return damaged(lambda members: members.update({f"{name}.npy": stream.getvalue()}))


def loaded(content):
    Path("other.npz").write_bytes(content)
    return load("other.npz")


def rate(model=BIASED, params=PARAMS, test=RATINGS, clip=None):
    return evaluate.rating(model, params, test, clip)


def predict(model=BIASED, params=PARAMS, data=DATA, frame=NINE, clip=None):
    return jaxmf.predict(model, params, data, frame, clip)


def check(model=BIASED, params=PARAMS, ratings=RATINGS, hyper=HYPER, **options):
    return verify.gradients(model, params, ratings, hyper, **options)


def command(*arguments):
    """A ValueError with what the command line prints on standard error: one line, and exit code 2."""
    ended = shell(*arguments)
    assert (ended.code, ended.out) == (2, "")
    line = " ".join(ended.err.replace("│", " ").split())
    if "Invalid value" not in line:  # typer's own, in a box
        assert ended.err.startswith("jaxmf: ")
        assert ended.err.count("\n") == 1
    raise ValueError(line)


def fitted(*arguments):
    return command("fit", "--out", "new", "--epochs", 2, *arguments)


def on(name, *arguments):
    return fitted("--data", name, *arguments)


def without_engine():
    with mock.patch.object(pd, "read_parquet", side_effect=ImportError):
        return on("good.parquet")


def with_fit(name, text):
    Path("own.csv").write_text(text)
    return command(name, "--data", "own.csv", "--fit", "fit.npz", "--out", "new")


FACTORS = "params.trained.user.factors"
CLIP = r"clip must be \(low, high\) with low < high, such as \(1, 5\), or None, not "
MODEL = r"^model must be a Model, not {}: call the constructor, as in models\.biased_mf\(16\)"
CHANGED = r"^damaged\.npz: its header is not as jaxmf\.save writes it .*the file was changed"

FOLDS = 1.0 * np.array([np.arange(90) % 2 == fold for fold in range(2)])


def swept(**changed):
    given = {"key": KEY, "model": BIASED, "solver": ALS, "train": RATINGS, "valid": RATINGS, "grid": {"l2": [0.1]}}
    return jaxmf.sweep(**given | {"hyper": HYPER, "epochs": 6, "patience": 2} | changed)


def searched(function, **changed):
    given = {"key": KEY, "model": BIASED, "solver": ALS, "train": RATINGS, "valid": RATINGS, "hyper": HYPER}
    return getattr(jaxmf.search, function)(**{k: v for k, v in (given | changed).items() if v is not LEFT_OUT})


LEFT_OUT = object()
SPACE = {"l2": (0.1, 1.0, "log")}
halved, banded, asked = (partial(searched, name) for name in ("halving", "hyperband", "optuna"))
differentiated, descended = (partial(searched, name) for name in ("hypergradient", "descend"))


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
        lambda: Dataset.from_frame(FRAME.rename(columns={"user_id": "who", "rating": "stars"})),
        r"missing column user_id, rating; found \['who', 'item_id', 'stars'\]\. Rename with "
        r'columns=\{"your name": "user_id", "your name": "rating"\}',
    ),
    "column-twice": (
        lambda: Dataset.from_frame(FRAME.assign(stars=1.0), {"stars": "rating"}),
        r"column rating is there 2 times, as \['rating', 'stars'\]; expected it once: drop one",
    ),
    "rating-nan": (
        lambda: table(rating=[1.0, np.nan, 2.0, np.inf]),
        r"column 'rating': NaN or infinite rating in 2 row\(s\), at index 'r1', 'r3'; expected finite numbers .*drop",
    ),
    "rating-missing": (
        lambda: table(rating=pd.array([1, 2, None, 4], dtype="Int64")),
        r"column 'rating': NaN or infinite rating in 1 row\(s\), at index 'r2'; .*drop these rows or correct them",
    ),
    "rating-renamed": (
        lambda: Dataset.from_frame(FRAME.assign(stars=np.nan).drop(columns="rating"), {"stars": "rating"}),
        r"column 'stars' \(rating\): NaN or infinite rating in 4 row\(s\), at index 'r0', .*: drop these rows",
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
        r"column 'user_id': missing id in 1 row\(s\), at index 'r1'; every rating needs an id: fill these or drop",
    ),
    "item-missing": (
        lambda: table(item_id=["a", "b", np.nan, None]),
        r"column 'item_id': missing id in 2 row\(s\), at index 'r2', 'r3'; every rating needs an id: fill these or dro",
    ),
    "item-lists": (
        lambda: table(item_id=[["a"], ["b"], ["c"], ["d"]]),
        "column 'item_id': ids must be hashable, such as numbers, strings or tuples",
    ),
    "time-words": (
        lambda: table(timestamp=list("abcd")),
        r"column 'timestamp' \(timestamp\) has dtype .*; expected seconds or dates: .*pandas\.to_datetime, or drop",
    ),
    "time-nan": (
        lambda: table(timestamp=[1.0, np.nan, 2.0, 3.0]),
        r"column 'timestamp': missing time in 1 row\(s\), at index 'r1'; expected seconds or dates in every row: drop",
    ),
    "time-infinite": (
        lambda: table(timestamp=[1.0, 2.0, -np.inf, 3.0]),
        r"column 'timestamp': infinite time in 1 row\(s\), at index 'r2'; expected seconds or dates in every row: drop",
    ),
    "date-missing": (
        lambda: table(timestamp=pd.to_datetime(["2020", "2021", "2022", None])),
        r"column 'timestamp': missing time in 1 row\(s\), at index 'r3'",
    ),
    "pair-twice": (
        lambda: table(user_id=[5] * 4, item_id=list("abaa")),
        r"2 row\(s\) repeat a \(user, item\) pair; the first is user 5 with item 'a', at index 'r0', 'r2', 'r3'\. "
        r'Expected each pair once: .*drop_duplicates\(\["user_id", "item_id"\], keep="last"\)',
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
        r"column 'user' \(user_id\): missing id in 1 row\(s\), at index 1; .*fill these or drop the rows",
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
        r"column 'timestamp'.*expected seconds or dates: .*pandas\.to_datetime",
    ),
    "arrays-pair-twice": (
        lambda: Dataset.from_arrays([1, 2, 1], [5, 5, 5], [1, 2, 3]),
        r"the first is user 1 with item 5, at index 0, 2\. Expected each pair once: keep one rating of each",
    ),
    "matrix-dense": (
        lambda: Dataset.from_scipy(np.eye(3)),
        r"expected a scipy\.sparse matrix or array, got ndarray\. Where 0 means unrated: "
        r"scipy\.sparse\.coo_array\(matrix\); else list the ratings with Dataset\.from_arrays",
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
        r"user_ids: 1 id\(s\) repeated: 'a'; expected another for each row: number them, or merge these rows",
    ),
    "matrix-item-twice": (lambda: matrix(item_ids=[7, 7]), r"item_ids: 1 id\(s\) repeated: 7; .*for each column"),
    "matrix-user-none": (
        lambda: matrix(user_ids=["a", None, "b"]),
        r"user_ids: missing id in 1 place\(s\), at index 1; expected an id for every row: fill these or drop the rows",
    ),
    "matrix-item-lists": (lambda: matrix(item_ids=[[1], [2]]), "item_ids: ids must be hashable"),
    "csv-nothing": (lambda: csv(""), r"^mine\.csv: No columns to parse"),
    "csv-header": (lambda: csv("user_id,item_id,rating\n"), r"^mine\.csv: the table has no rows; expected one row per"),
    "csv-column": (lambda: csv("user_id,item_id\n1,2\n"), r"^mine\.csv: missing column rating; .*Rename with columns="),
    "csv-ragged": (lambda: csv("a\n1,2,3\n4\n5,6,7,8\n"), r"^mine\.csv: Error tokenizing data"),
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
    "id-list": (lambda: SMALL.user_index([[1]]), "user ids must be hashable, as those of user_ids: numbers, strings"),
    "align-frame": (lambda: SMALL.align(FRAME), "align: other must be a Dataset, not DataFrame: Dataset.from_frame"),
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
        r"(?s)seed must be an integer of at least 0, not Array\(\(\), dtype=key.*: only what runs in JAX takes a key",
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
        "k must be a whole number of at least 2, got 1: with one fold nothing is left to train on",
    ),
    "folds-none": (lambda: splits.k_fold(SMALL, 0), "k must be a whole number of at least 2, got 0"),
    "folds-half": (lambda: splits.k_fold(SMALL, 2.5), "k must be a whole number of at least 2, got 2.5"),
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
    "synthetic-seed": (lambda: synthetic(seed=KEY), "(?s)seed must be an integer of at least 0, .*takes a key"),
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
    # Ratings.
    "train-frame": (
        lambda: fit(train=FRAME),
        "^train must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame makes one of a table",
    ),
    "train-array": (
        lambda: fit(train=np.ones((3, 3))),
        "^train must be .* not ndarray: .*Dataset.from_arrays of arrays",
    ),
    "train-parts": (lambda: fit(train=(RATINGS, RATINGS)), "^train must be a Dataset or its Ratings, not tuple"),
    "train-empty": (lambda: fit(train=EMPTY), "^train has no ratings; expected at least one"),
    "train-weightless": (lambda: holding(weight=np.zeros(90)), "^train has no ratings with weight; expected at"),
    "train-user-range": (
        lambda: but("user", 4, 17),
        r"^train has a user outside 0 \.\. 16 in 1 place\(s\), at position 4; num_users must be above the largest; "
        "Dataset.from_arrays numbers ids of any kind",
    ),
    "train-item-range": (
        lambda: but("item", 2, -1),
        r"^train has a item outside 0 \.\. 12 in 1 place\(s\), at position 2; num_items",
    ),
    "train-counts": (lambda: holding(num_users=17.0), "^train has num_users 17.0; expected a positive integer"),
    "train-floats": (
        lambda: holding(user=np.zeros(90)),
        r"^train holds user float64\[90\], item int32\[90\], .*; expected arrays of one length, integers in user and "
        r"item, floats in value and weight\. Dataset\.from_arrays\(\.\.\.\)\.ratings has them",
    ),
    "train-integers": (lambda: holding(value=np.zeros(90, int)), r"value int64\[90\].*floats in value and weight"),
    "train-lengths": (
        lambda: holding(user=np.zeros(89, np.int32)),
        r"user int32\[89\], item int32\[90\].*arrays of one length",
    ),
    "train-folds": (lambda: holding(weight=np.ones((3, 90))), r"weight float64\[3, 90\]; expected arrays"),
    "train-lists": (lambda: fit(train=Ratings([0], [0], [1.0], [1.0], 1, 1)), r"user list\[1\], .*; expected arrays"),
    "train-nan": (
        lambda: but("value", 3, np.nan),
        r"^train has a NaN or infinite value in 1 place\(s\), at position 3; leave these ratings out: weight 0 is",
    ),
    "train-weight": (
        lambda: but("weight", 5, -1),
        r"^train has a negative or infinite weight in 1 place\(s\), at position 5; use 0 for no say",
    ),
    "valid-frame": (lambda: fit(valid=FRAME), "^valid must be a Dataset or its Ratings, not DataFrame"),
    "valid-hyper": (
        lambda: jaxmf.fit(KEY, BIASED, SGD, RATINGS, Hyper(l2=0.1)),
        "^valid must be a Dataset or its Ratings, not Hyper",
    ),
    "valid-empty": (lambda: fit(valid=EMPTY), "^valid has no ratings; expected at least one"),
    "valid-counts": (
        lambda: fit(valid=replace(RATINGS, num_items=99)),
        r"train has 17 users and 13 items, valid has 17 users and 99 items\. Split one Dataset with jaxmf\.splits, or "
        r"bring the other to its ids with train\.align\(valid\)",
    ),
    "valid-ids": (
        lambda: fit(train=DATA, valid=replace(DATA, user_ids=DATA.user_ids + 1)),
        r"train and valid have as many user_ids, but not the same ones\. Split one Dataset .*train\.align\(valid\)",
    ),
    # Keys, models and solvers of a fit.
    "key-int": (lambda: fit(0), r"^key must be one key, as of jax\.random\.key\(0\), not 0$"),
    "key-none": (lambda: fit(None), r"^key must be one key, as of jax\.random\.key\(0\), not None$"),
    "key-many": (lambda: fit(KEYS), r"^key must be one key, .*not Array\(\(3,\), dtype=key"),
    "key-floats": (lambda: fit(np.ones(2)), r"^key must be one key, .*not array\(\[1\., 1\.\]\)"),
    "key-forgotten": (lambda: jaxmf.fit(BIASED, SGD, RATINGS, RATINGS), r"^key must be one key, .*not Model\("),
    "model-constructor": (lambda: fit(model=models.biased_mf), MODEL.format("function")),
    "model-name": (lambda: fit(model="biased_mf"), MODEL.format("str")),
    "model-solver": (lambda: fit(model=SGD, solver=BIASED), MODEL.format("Solver")),
    "model-make-fit": (lambda: make_fit(SGD, BIASED, 2), MODEL.format("Solver")),
    "model-evaluate": (lambda: rate(model=models.biased_mf), MODEL.format("function")),
    "model-predict": (lambda: predict(model=FIT), MODEL.format("Fit") + r".*or take the fit\.model of a fit"),
    "model-verify": (lambda: check(model=models.biased_mf), MODEL.format("function")),
    "solver-constructor": (
        lambda: fit(solver=solvers.als),
        r"^solver must be a Solver, not function: call the constructor, as in solvers\.als\(\)",
    ),
    "solver-optax": (
        lambda: fit(solver=optax.adam(0.1)),
        r"^solver must be a Solver, not GradientTransformation.*: .*as in .* solvers\.minibatch\(optax\.adam\)",
    ),
    "solver-prepare": (lambda: prepare(RATINGS, SGD), "^solver must be a Solver, not Ratings: call the constructor"),
    "rank-0": (lambda: models.mf(0), "^mf: rank must be a positive integer, not 0"),
    "rank-negative": (lambda: models.biased_mf(-1), "^biased_mf: rank must be a positive integer, not -1"),
    "rank-float": (lambda: (models.mf(2), models.mf(2.0)), "^mf: rank must be a positive integer, not 2.0"),
    "rank-true": (lambda: (models.biased_mf(1), models.biased_mf(True)), "rank must be a positive integer, not True"),
    "rank-string": (lambda: models.mf("3"), "^mf: rank must be a positive integer, not '3'"),
    "rank-none": (lambda: models.biased_mf(None), "^biased_mf: rank must be a positive integer, not None"),
    "center": (lambda: models.mf(3, "item"), "^mf: center must be None, 'global' or 'user', not 'item'"),
    "damping-0": (
        lambda: models.damped_bias(0.0),
        "^damped_bias: damping_user and damping_item must be positive numbers, not 0.0 and 5.0; 5 is the default",
    ),
    "damping-word": (lambda: models.damped_bias(1.0, "a"), "must be positive numbers, not 1.0 and 'a'"),
    "features-vector": (
        lambda: models.content_mf(2, np.ones(13)),
        r"^content_mf: features must be a matrix of numbers with one row per item, not ndarray of shape \(13,\) and "
        r"dtype float64; jaxmf\.content\.tfidf makes one",
    ),
    "features-no-columns": (lambda: models.content_mf(2, np.ones((13, 0))), r"^content_mf: features .*shape \(13, 0\)"),
    "features-words": (lambda: models.content_mf(2, [["a"]]), r"shape \(1, 1\) and dtype <U1; jaxmf.content.tfidf"),
    "features-number": (lambda: models.content_mf(2, 3), r"must be a matrix of numbers .*not int of shape \(\)"),
    "features-nan": (
        lambda: models.content_mf(2, np.full((13, 2), np.nan)),
        "^content_mf: features has NaN or infinite entries; expected finite numbers",
    ),
    "features-infinite": (
        lambda: models.content_mf(2, sparse.csr_array(np.full((13, 2), np.inf))),
        "^content_mf: features has NaN or infinite entries",
    ),
    "features-of-others": (
        lambda: fit(model=models.content_mf(2, FEATURES[:12])),
        r"features has 12 rows, the ratings have 13 items\. Expected one row per item in the order of Dataset\.item_id",
    ),
    "features-for-als": (
        lambda: fit(model=models.content_mf(2, np.eye(13, 300)), solver=ALS),
        r"at most 256, and there are 300 features\. Reduce them by truncated SVD, .*or use solvers\.sgd",
    ),
    "features-for-als-sparse": (
        lambda: fit(model=models.content_mf(2, sparse.csr_array(np.eye(13, 300))), solver=ALS),
        r"at most 256, and there are 300 features\. Reduce them by truncated SVD",
    ),
    "init-dict": (
        lambda: fit(model=OWN._replace(init=lambda key, ratings, hyper: {"factors": jnp.ones(3)})),
        r"what init of the model 'mine' returns must be a Params, not dict: Params\(Rows\(user=",
    ),
    "init-rows": (
        lambda: fit(model=OWN._replace(init=only_users)),
        r"init of the model 'mine' makes trained\.user\['factors'\] of shape \(19, 3\); expected a leading axis of 17, "
        r"one row per user. What belongs to no row goes to `shared`",
    ),
    "loss-summed": (
        lambda: fit(model=OWN._replace(loss=lambda params, ratings: jnp.sum(ratings.value))),
        r"loss of the model 'mine' returns .*shape=\(\).*; expected one number per rating, shape \(90,\): do not sum",
    ),
    "predict-table": (
        lambda: fit(model=OWN._replace(predict=lambda params, users, items: params.trained.user["factors"][users])),
        r"predict of the model 'mine' returns .*shape=\(90, 3\).*; expected one number per rating, shape \(90,\)",
    ),
    "sgd-batch-0": (lambda: solvers.sgd(0), "^sgd: batch_size must be a positive integer, not 0"),
    "sgd-batch-negative": (lambda: solvers.sgd(-1), "^sgd: batch_size must be a positive integer, not -1"),
    "sgd-batch-float": (lambda: (solvers.sgd(2), solvers.sgd(2.0)), "^sgd: batch_size must be .*integer, not 2.0"),
    "sgd-batch-true": (lambda: (solvers.sgd(1), solvers.sgd(True)), "^sgd: batch_size must be .*integer, not True"),
    "sgd-batch-string": (lambda: solvers.sgd("8"), "^sgd: batch_size must be a positive integer, not '8'"),
    "sgd-schedule": (
        lambda: solvers.sgd(schedule=0.9),
        "^sgd: schedule must be a function of the epochs done, or None, not 0.9",
    ),
    "sgd-clip-update": (lambda: solvers.sgd(clip_update=0.0), "^sgd: clip_update must be positive or None, not 0.0"),
    "sgd-clip-value": (lambda: solvers.sgd(clip_value=-10), "^sgd: clip_value must be positive or None, not -10"),
    "sgd-clip-nan": (
        lambda: solvers.sgd(clip_value=float("nan")),
        "^sgd: clip_value must be positive or None, not nan",
    ),
    "sgd-clip-string": (lambda: solvers.sgd(clip_value="1"), "^sgd: clip_value must be positive or None, not '1'"),
    "sgd-shared": (
        lambda: fit(model=SCALED),
        r"^sgd: the model 'scaled' trains `shared` leaves, which every rating touches, .*Use solvers\.minibatch",
    ),
    "minibatch-size-0": (lambda: solvers.minibatch(optax.sgd, 0), "^minibatch: batch_size must be .*integer, not 0"),
    "minibatch-size-float": (lambda: solvers.minibatch(optax.sgd, 2.0), "^minibatch: batch_size must be .*, not 2.0"),
    "minibatch-size-true": (lambda: solvers.minibatch(optax.sgd, True), "^minibatch: batch_size must be .*, not True"),
    "minibatch-size-string": (lambda: solvers.minibatch(optax.sgd, "8"), "^minibatch: batch_size must be .*, not '8'"),
    "minibatch-optimizer": (
        lambda: solvers.minibatch(optax.sgd(0.1)),
        r"^minibatch: optimizer must be a function such as optax\.adam or `lambda h: .*`, not GradientTransformation",
    ),
    "minibatch-name": (
        lambda: solvers.minibatch("adam"),
        "^minibatch: optimizer must be a function such as .*, not str",
    ),
    "minibatch-no-argument": (
        lambda: solvers.minibatch(lambda: optax.adam(0.1)),
        r"^minibatch: optimizer must be a function of one argument, such as optax\.adam .*: too many positional argume",
    ),
    "minibatch-returns": (
        lambda: fit(solver=solvers.minibatch(lambda hyper: hyper.learning_rate)),
        r"^minibatch: what optimizer returns must be a GradientTransformation, not float: return one such as optax\.ad",
    ),
    "minibatch-line-search": (
        lambda: fit(solver=solvers.minibatch(optax.lbfgs)),
        r"^minibatch: optimizer cannot step by gradients and parameters alone \(.*value_fn.*\): return one such as",
    ),
    "als-tol-0": (lambda: solvers.als(tol=0.0), "^als: tol must be positive or None, not 0.0"),
    "als-tol-negative": (lambda: solvers.als(tol=-1e-3), "^als: tol must be positive or None, not -0.001"),
    "als-tol-nan": (lambda: solvers.als(tol=float("nan")), "^als: tol must be positive or None, not nan"),
    "als-tol-word": (lambda: solvers.als(tol="small"), "^als: tol must be positive or None, not 'small'"),
    "als-rule": (
        lambda: solvers.als(1e-3, "absolute"),
        "^als: rule must be 'relative' or 'difference', not 'absolute'",
    ),
    "als-l2-0": (
        lambda: fit(solver=ALS, hyper=Hyper(l2=0.0)),
        r"^als: l2 must be positive, not 0\.0: without a penalty .*Use a small positive number, or a gradient solver",
    ),
    "als-bias-0": (lambda: fit(solver=ALS, hyper=Hyper(l2_bias=0.0)), "^als: l2_bias must be positive, not 0.0: "),
    "als-free-leaf": (
        lambda: fit(solver=ALS, model=FREE),
        r"^als: the penalty of the model 'biased_mf' leaves user\.bias free, .*Penalize it, or use a gradient solver",
    ),
    "als-shared": (
        lambda: fit(solver=ALS, model=SCALED),
        r"^als: the model 'scaled' trains `shared` leaves, which belong to no row\. Use solvers\.minibatch",
    ),
    "als-no-design": (
        lambda: fit(solver=ALS, model=OWN._replace(design=None)),
        r"^als: the model 'mine' has no `design`, so its rows have no normal equations\. Give .*or use solvers\.sgd",
    ),
    "als-global-mean": (
        lambda: fit(solver=ALS, model=models.global_mean()),
        "^als: the model 'global_mean' has no `des",
    ),
    # Numbers of a fit.
    "hyper-dict": (
        lambda: fit(hyper={"l2": 0.1}),
        r"^hyper must be a Hyper, not dict: expected the numbers by name, as in Hyper\(l2=0\.1\)",
    ),
    "hyper-number": (lambda: fit(hyper=0.1), "^hyper must be a Hyper, not float: expected the numbers by name"),
    "l2-negative": (lambda: fit(hyper=Hyper(l2=-1.0)), "^hyper: l2 must be finite and at least 0, not -1.0"),
    "l2-nan": (lambda: fit(hyper=Hyper(l2=float("nan"))), "^hyper: l2 must be finite and at least 0, not nan"),
    "l2-none": (lambda: fit(hyper=Hyper(l2=None)), "^hyper: l2 must be one number, not None"),
    "l2-string": (lambda: fit(hyper=Hyper(l2="0.1")), "^hyper: l2 must be one number, not '0.1'"),
    "l2-many": (
        lambda: fit(hyper=Hyper(l2=np.array([1.0, 2.0]))),
        r"^hyper: l2 must be one number, not array\(\[1\., 2\.\]\); jaxmf\.sweep takes many",
    ),
    "l2-bias": (
        lambda: fit(hyper=Hyper(l2_bias=float("nan"))),
        "^hyper: l2_bias must be finite .*or None for l2, not nan",
    ),
    "exponent": (
        lambda: fit(hyper=Hyper(reg_exponent=1.5)),
        r"^hyper: reg_exponent must be finite and between 0 \(constant per row\) and 1 \(per observation\), not 1\.5",
    ),
    "rate": (lambda: fit(hyper=Hyper(learning_rate=0.0)), "^hyper: learning_rate must be finite and positive, not 0.0"),
    "rate-bias": (
        lambda: fit(hyper=Hyper(learning_rate_bias=float("inf"))),
        "^hyper: learning_rate_bias must be finite and positive, or None for learning_rate, not inf",
    ),
    "momentum": (
        lambda: fit(hyper=Hyper(momentum=1.0)),
        "^hyper: momentum must be finite and at least 0 and below 1, not 1.0",
    ),
    "scale": (lambda: fit(hyper=Hyper(init_scale=-0.1)), "^hyper: init_scale must be finite and at least 0, not -0.1"),
    "extra-text": (
        lambda: fit(hyper=Hyper(extra={"kind": "huber"})),
        r"^hyper: extra\['kind'\] must be a number or an array of numbers, not 'huber'; give static choices to the mod",
    ),
    "active-rank-0": (
        lambda: fit(hyper=Hyper(rank=0)),
        "^hyper: rank must be a positive integer, or None for the model's width, not 0",
    ),
    "active-rank-half": (lambda: fit(hyper=Hyper(rank=2.5)), "^hyper: rank must be a positive integer, .*, not 2.5"),
    "active-rank-word": (
        lambda: fit(hyper=Hyper(rank="all")),
        "^hyper: rank must be a positive integer, .*, not 'all'",
    ),
    "active-rank-4": (
        lambda: fit(hyper=Hyper(rank=4)),
        "^hyper: rank must be at most the model's width 3, not 4: widen the model",
    ),
    "active-rank-of-a-mean": (
        lambda: fit(model=models.global_mean(), hyper=Hyper(rank=2)),
        "^hyper: rank is given, but the model trains no leaf named 'factors'; leave it None",
    ),
    "epochs-0": (lambda: fit(epochs=0), "^epochs must be a positive integer, not 0"),
    "epochs-float": (lambda: fit(epochs=1.5), "^epochs must be a positive integer, not 1.5"),
    "epochs-true": (lambda: fit(epochs=True), "^epochs must be a positive integer, not True"),
    "epochs-make-fit": (lambda: make_fit(BIASED, SGD, 0), "^epochs must be a positive integer, not 0"),
    "patience-0": (lambda: fit(patience=0, valid=RATINGS), "^patience must be a positive integer or None, not 0"),
    "patience-float": (
        lambda: fit(patience=2.0, valid=RATINGS),
        "^patience must be a positive integer or None, not 2.0",
    ),
    "patience-without-valid": (
        lambda: fit(patience=2),
        r"^patience needs validation ratings: pass valid= \(jaxmf\.splits makes them\)",
    ),
    "min-delta-negative": (lambda: fit(min_delta=-1.0), "^min_delta must be a number of at least 0, not -1.0"),
    "min-delta-none": (lambda: fit(min_delta=None), "^min_delta must be a number of at least 0, not None"),
    "min-delta-array": (lambda: fit(min_delta=NUMBER), r"^min_delta must be a number of at least 0, not Array\(1"),
    "monitor-name": (
        lambda: fit(monitor="accuracy"),
        r"^monitor must be 'loss', 'rmse', 'mae' or a function \(params, ratings\), not 'accuracy'",
    ),
    "monitor-without-valid": (
        lambda: fit(monitor=lambda params, ratings: 0.0),
        "^monitor is a function of validation ratings: pass valid=",
    ),
    "monitor-arguments": (
        lambda: fit(monitor=lambda params: 0.0, valid=RATINGS),
        r"^monitor must be a function \(params, ratings\) that JAX can trace: .*takes 1 positional argument",
    ),
    "monitor-vector": (
        lambda: fit(monitor=lambda params, ratings: ratings.value, valid=RATINGS),
        r"^monitor must return one number, not .*shape=\(90,\).*: take a mean or a sum",
    ),
    # What `prepare` has made.
    "prepared-twice-valid": (
        lambda: fit(train=prepare(SGD, RATINGS), valid=RATINGS),
        "^fit: valid is already part of what prepare made; pass it to prepare instead",
    ),
    "prepared-without-valid": (
        lambda: fit(train=prepare(SGD, RATINGS), patience=2),
        "^patience needs validation ratings: pass valid= to prepare",
    ),
    "prepared-make-fit-without-valid": (
        lambda: jax.eval_shape(make_fit(BIASED, SGD, 2, patience=1), KEY, prepare(SGD, RATINGS), HYPER),
        "^patience needs validation ratings: pass valid= to prepare",
    ),
    "prepared-for-sgd": (
        lambda: fit(solver=ALS, train=prepare(SGD, RATINGS)),
        r"prepared for the solver 'sgd', whose layout is not that of this 'als': prepare\(solver, train, valid\) with "
        r"the same solver and batch_size, or pass the ratings",
    ),
    "prepared-for-als": (lambda: fit(train=prepare(ALS, RATINGS)), "prepared for the solver 'als', .* of this 'sgd': "),
    "prepared-for-adam": (
        lambda: fit(train=prepare(ADAM, RATINGS)),
        r"prepared for the solver 'minibatch\(adam\)', whose layout is not that of this 'sgd': prepare",
    ),
    "prepared-als-for-adam": (lambda: fit(solver=ADAM, train=prepare(ALS, RATINGS)), "solver 'als', .*of this 'minib"),
    "prepared-batch-size": (
        lambda: fit(train=prepare(solvers.sgd(16), RATINGS)),
        "prepared for the solver 'sgd', whose layout is not that of this 'sgd': .* the same solver and batch_size",
    ),
    "prepared-compile": (
        lambda: compile_fit(BIASED, ALS, prepare(SGD, RATINGS), HYPER),
        "prepared for the solver 'sgd', whose layout is not that of this 'als'",
    ),
    "prepared-run": (
        lambda: jax.eval_shape(make_fit(BIASED, ALS, 2), KEY, prepare(SGD, RATINGS), HYPER),
        "prepared for the solver 'sgd', whose layout is not that of this 'als'",
    ),
    "not-prepared": (
        lambda: compile_fit(BIASED, SGD, RATINGS, HYPER),
        r"^batch must be a Prepared, not Ratings: make one as prepare\(solver, train, valid\)",
    ),
    "not-prepared-run": (lambda: make_fit(BIASED, SGD, 2)(KEY, DATA, HYPER), "^batch must be a Prepared, not Dataset"),
    # Resuming.
    "resume-params": (
        lambda: resumed(resume=PARAMS),
        r"^resume must be a Fit, not Params: pass what fit returned; load returns \(fit, data\)",
    ),
    "resume-loaded": (lambda: resumed(resume=load("fit.npz")), "^resume must be a Fit, not tuple: "),
    "resume-rank": (
        lambda: resumed(model=models.biased_mf(2)),
        r"^resume: the earlier fit has parameters .*17, 3.*, this model, solver and data need .*17, 2.*\. Resume with "
        r"the model, solver and data of the earlier fit, or start anew without resume=",
    ),
    "resume-terms": (lambda: resumed(model=models.mf(3)), "^resume: the earlier fit has parameters .*or start anew"),
    "resume-users": (lambda: resumed(train=replace(RATINGS, num_users=20)), "^resume: the earlier fit has parameters"),
    "resume-dtype": (
        lambda: resumed(train=SINGLE),
        "^resume: the earlier fit has parameters .*float64.* need .*float32",
    ),
    "resume-solver": (
        lambda: resumed(solver=SGD),
        "^resume: the earlier fit has solver state .*Resume with the model, sol",
    ),
    "resume-saved-solver": (
        lambda: resumed(solver=ALS, resume=load("fit.npz")[0]),
        "^resume: the earlier fit has solver state .*this model, solver and data need",
    ),
    "resume-saved-dtype": (
        lambda: resumed(
            solver=ALS, resume=FIT._replace(state=STATE._replace(solver=Saved({"": np.zeros((), np.float32)})))
        ),
        r"^resume: the earlier fit has solver state float32\[\], this model, solver and data need float64\[\]",
    ),
    "resume-patience": (
        lambda: resumed(valid=RATINGS, patience=2),
        "^resume: patience must be None in both calls or in neither: give it as to the earlier fit",
    ),
    # Evaluation and predictions.
    "rating-frame": (
        lambda: rate(test=FRAME),
        r"^evaluate\.rating: test must be a Dataset or its Ratings, not DataFrame: Dataset\.from_frame makes one",
    ),
    "rating-weightless": (
        lambda: rate(test=replace(RATINGS, weight=np.zeros(90))),
        r"^evaluate\.rating: test has no ratings with weight; expected at least one",
    ),
    "rating-fit": (
        lambda: rate(params=FIT),
        r"^evaluate\.rating: params must be a Params, not Fit: take the fit\.params of a fit",
    ),
    "rating-users": (
        lambda: rate(test=replace(RATINGS, num_users=18)),
        r"^evaluate\.rating: the model has 17 users, the ratings have 18\. Split one Dataset with jaxmf\.splits",
    ),
    "rating-items": (
        lambda: rate(test=replace(RATINGS, num_items=15)),
        r"^evaluate\.rating: the model has 13 items, the ratings have 15\. Split one Dataset",
    ),
    "clip-order": (lambda: rate(clip=(5, 1)), CLIP + r"\(5, 1\)"),
    "clip-equal": (lambda: predict(clip=(3, 3)), CLIP + r"\(3, 3\)"),
    "clip-number": (lambda: predict(clip=5.0), CLIP + "5.0"),
    "clip-string": (lambda: predict(clip="15"), CLIP + "'15'"),
    "clip-three": (lambda: rate(clip=(1, 2, 3)), CLIP + r"\(1, 2, 3\)"),
    "clip-nan": (lambda: rate(clip=(1, float("nan"))), CLIP + r"\(1, nan\)"),
    "baselines-frame": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, NINE, DATA),
        "^train must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame",
    ),
    "baselines-counts": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, RATINGS, OTHER),
        r"^train has 17 users and 13 items, test has 20 users and 16 items\. Split one Dataset .*train\.align\(test\)",
    ),
    "baselines-ids": (
        lambda: evaluate.against_baselines(BIASED, PARAMS, DATA, replace(DATA, item_ids=DATA.item_ids[::-1])),
        r"^train and test have as many item_ids, but not the same ones\. Split one Dataset .*train\.align\(test\)",
    ),
    "predict-ratings": (
        lambda: predict(data=RATINGS),
        "^predict: data must be a Dataset, not Ratings: pass the one whose ids the model was fitted with",
    ),
    "predict-dataset": (
        lambda: predict(frame=DATA),
        "^predict: frame must be a DataFrame, not Dataset: expected a table with columns user_id and item_id",
    ),
    "predict-other-data": (
        lambda: predict(data=SMALL, frame=FRAME),
        r"^predict: the model has 17 users, the ratings have 3\. Split one Dataset",
    ),
    "predict-unknown-user": (
        lambda: predict(frame=NINE.replace({"user_id": {2: 99}})),
        r"1 unknown user id\(s\): 99; known ids are like 0, 1, 2 \(user_ids\)\. Drop them, or check their type",
    ),
    "predict-unknown-item": (
        lambda: predict(frame=NINE.assign(item_id=NINE["item_id"].astype(str))),
        r"13 unknown item id\(s\): '100', .*; known ids are like 100, 101, 102 \(item_ids\)\. Drop them, or check",
    ),
    "predict-no-item-column": (
        lambda: predict(frame=NINE[["user_id"]]),
        r"^predict: missing column 'item_id'; the table has \['user_id'\]\. Rename its columns to user_id and item_id",
    ),
    "predict-no-user-column": (
        lambda: predict(frame=NINE[["item_id"]]),
        "^predict: missing column 'user_id'; .*Rename",
    ),
    # Verification.
    "verify-frame": (
        lambda: check(ratings=FRAME),
        "^verify: ratings must be a Dataset or its Ratings, not DataFrame: Dataset.from_frame makes one of a table",
    ),
    "verify-fit": (
        lambda: check(params=FIT),
        r"^verify: params must be a Params, not Fit: take the fit\.params of a fit",
    ),
    "verify-users": (
        lambda: check(ratings=replace(RATINGS, num_users=18)),
        r"^verify: the model has 17 users, the ratings have 18\. Split one Dataset",
    ),
    "verify-hyper": (lambda: check(hyper={"l2": 0.1}), "^hyper must be a Hyper, not dict"),
    "verify-nan": (lambda: check(hyper=Hyper(l2=float("nan"))), "^hyper: l2 must be finite and at least 0, not nan"),
    "verify-directions": (lambda: check(num_directions=0), "^verify: num_directions must be a positive integer, not 0"),
    "verify-seed": (lambda: check(seed=KEY), "(?s)^seed must be an integer of at least 0, .*takes a key"),
    "verify-nothing": (
        lambda: check(model=models.global_mean(), params=Params(Rows())),
        "^verify: the model 'global_mean' trains no parameters, so it has no gradient: verify one that is fitted",
    ),
    "verify-lacks": (
        lambda: check(model=BIASED._replace(gradient=without_item_bias)),
        r"^verify: the hand-derived gradient of 'biased_mf' lacks item\.bias; trained: \['user\.bias', ",
    ),
    "verify-shape": (
        lambda: check(model=BIASED._replace(gradient=transposed)),
        r"^verify: the hand-derived gradient of item\.factors has shape \(3, 13\); expected the leaf's, \(13, 3\)",
    ),
    # Files: what cannot be written.
    "save-order": (
        lambda: save(FIT, "new", DATA),
        r"^save: fit must be a Fit, not str: .*as in save\(path, fit, data\)",
    ),
    "save-params": (lambda: saved(PARAMS), "^save: fit must be a Fit, not Params: pass what fit returned"),
    "save-ratings": (
        lambda: saved(data=RATINGS),
        "^save: data must be a Dataset, not Ratings: pass the one that knows the fit's ids, such as its training data",
    ),
    "save-other-data": (
        lambda: saved(data=Dataset.from_frame(NINE[NINE["user_id"] < 15])),
        r"^save: params\.trained\.user\['bias'\] is float64\[17\], the model makes it float64\[15\]\. Pass the data th",
    ),
    "save-object": (
        lambda: extra(object()),
        r"hyper\.extra\.mine holds a builtins\.object, which cannot be stored without pickle: convert it to numbers",
    ),
    "save-function": (lambda: extra([np.sin]), r"hyper\.extra\.mine holds a numpy\.ufunc, .*: convert it to numbers"),
    "save-objects": (
        lambda: extra(np.array([{}])),
        r"hyper\.extra\.mine is an array of object, which cannot be stored without pickle: use plain numbers",
    ),
    "save-key": (
        lambda: extra(KEY),
        r"hyper\.extra\.mine has dtype key<fry>, which no file can hold: keep jax\.random\.key_data of a key instead",
    ),
    "save-dict": (lambda: extra({1: 2}), r"hyper\.extra\.mine holds a builtins\.dict, .*: convert it"),
    "save-masked": (
        lambda: extra(np.ma.masked_array([1.0], [True])),
        r"mine holds a numpy\.ma\.MaskedArray, .*convert",
    ),
    "save-dates": (
        lambda: saved(data=replace(DATA, user_ids=pd.Index([day.date() for day in DAYS]))),
        r"data\.user_ids holds a datetime\.date, which cannot be stored without pickle: convert it",
    ),
    "save-periods": (
        lambda: saved(data=replace(DATA, user_ids=pd.period_range("2024-01", periods=17, freq="M"))),
        r"data\.user_ids holds a pandas\.\S*Period, .*: convert it",
    ),
    "save-levels": (
        lambda: saved(data=replace(DATA, user_ids=pd.MultiIndex.from_arrays([range(17), range(17)]))),
        r"data\.user_ids has 2 levels; expected one: use tuples, as index\.to_flat_index\(\) does",
    ),
    "save-surrogates": (
        lambda: saved(data=replace(DATA, user_ids=pd.Index([f"\ud800{n}" for n in range(17)], dtype=object))),
        r"data\.user_ids holds a string that is not valid Unicode: ",
    ),
    "save-categories": (
        lambda: saved(
            data=replace(DATA, user_ids=pd.CategoricalIndex(range(17), categories=range(16, -1, -1), ordered=True))
        ),
        r"data\.user_ids has dtype category, which cannot be stored exactly: convert it with astype\(object\)",
    ),
    "save-items": (
        lambda: saved(data=replace(DATA, items=pd.DataFrame({"poster": [object()] * 13}, DATA.item_ids))),
        r"data\.items\.poster holds a builtins\.object, which cannot be stored without pickle: convert it",
    ),
    # Files: what cannot be read.
    "load-absent": (lambda: load("absent.npz"), r"absent\.npz"),
    "load-empty": (lambda: loaded(b""), r"^other\.npz: it is not a zip file; expected one that jaxmf\.save wrote"),
    "load-text": (lambda: loaded(b"user_id,item_id\n"), r"^other\.npz: it is not a zip file; expected one that jaxmf"),
    "load-pickle": (lambda: loaded(b"\x80\x04."), r"^other\.npz: it is not a zip file; expected one that jaxmf\.save"),
    "load-truncated": (
        lambda: loaded(Path("fit.npz").read_bytes()[:-1]),
        r"^other\.npz: it begins as a zip file but has no end: it is truncated\. Copy it or save it anew",
    ),
    "load-model-constructor": (lambda: load("fit.npz", model=models.biased_mf), MODEL.format("function")),
    "load-narrower": (
        lambda: load("fit.npz", model=models.biased_mf(2)),
        r"^fit\.npz: params\.trained\.item\['factors'\] is float64\[13, 3\], the model makes it float64\[13, 2\]\. "
        r"Pass the model that was saved, as jaxmf\.load\(path, model=\.\.\.\)",
    ),
    "load-without-bias": (
        lambda: load("fit.npz", model=models.mf(3)),
        r"^fit\.npz: params\.trained\.item\['bias'\] is float64\[13\], the model makes it not at all\. Pass the model",
    ),
    "load-more": (
        lambda: load("fit.npz", model=models.content_mf(3, FEATURES)),
        r"^fit\.npz: params\S* is missing, the model makes it float64\[13, 5\]\. Pass the model",
    ),
    "load-dtype": (
        lambda: load("fit.npz", model=NARROW),
        r"^fit\.npz: params\S* is float64\S*, the model makes it float32",
    ),
    "load-failing": (
        lambda: load("fit.npz", model=OWN._replace(init=lambda key, ratings, hyper: hyper.extra["mine"])),
        r"^fit\.npz: the model 'mine' cannot be initialized for these data: KeyError",
    ),
    "file-no-header": (
        lambda: damaged(lambda members: members.pop("header.json")),
        r"^damaged\.npz: it is a zip file without header\.json; expected one that jaxmf\.save wrote",
    ),
    "file-no-json": (
        lambda: damaged(lambda members: members.update({"header.json": b"{"})),
        r"^damaged\.npz: its header\.json names no format; expected a file that jaxmf\.save wrote",
    ),
    "file-list": (
        lambda: damaged(lambda members: members.update({"header.json": b"[]"})),
        r"^damaged\.npz: its header\.json names no format; expected a file that jaxmf\.save wrote",
    ),
    "file-format": (
        lambda: header(format="other"),
        r"^damaged\.npz: its header\.json names the format 'other'; expected 'jaxmf\.fit'$",
    ),
    "file-newer": (
        lambda: header(version=2, jaxmf="9.9", arrays=None),
        r"^damaged\.npz: it has format version 2, written by jaxmf 9\.9; this jaxmf .* reads up to 1: update jaxmf",
    ),
    "file-missing": (
        lambda: damaged(lambda members: members.pop(f"{FACTORS}.npy")),
        rf"^damaged\.npz: its member {FACTORS}\.npy is missing: the file was changed\. Copy it or save it anew",
    ),
    "file-shape": (
        lambda: array(FACTORS, np.zeros((17, 2))),
        rf"^damaged\.npz: its member {FACTORS}\.npy is float64\[17, 2\], its header says float64\[17, 3\]: the file wa",
    ),
    "file-dtype": (lambda: array(FACTORS, np.zeros((17, 3), np.float32)), r"is float32\[17, 3\], .* float64\[17, 3\]"),
    "file-order": (
        lambda: array("data.rating", np.zeros(len(DATA), ">f8")),
        r"data\.rating\.npy is >f8\[199\], .*float64",
    ),
    "file-pickle": (
        lambda: array(FACTORS, np.array([{}]), allow_pickle=True),
        r"npy is no array \(Object arrays cannot be .*\)\. Save it anew",
    ),
    "file-no-npy": (
        lambda: damaged(lambda members: members.update({f"{FACTORS}.npy": b"text"})),
        rf"^damaged\.npz: its member {FACTORS}\.npy is no array \(.*\)\. Save it anew",
    ),
    "file-no-arrays": (
        lambda: header(arrays=None),
        r"^damaged\.npz: its header\.json does not list its arrays: the file was changed",
    ),
    "file-no-params": (lambda: header(params=None), CHANGED),
    "file-no-state": (lambda: header(state={}), CHANGED),
    "file-no-leaf": (lambda: header(params={}), r"^damaged\.npz: params\S* is missing, the model makes it float64"),
    "file-constructor": (
        lambda: header(model={"name": "x", "constructor": "objective", "arguments": {}}),
        r"a fit of models\.objective, which this jaxmf has not: update jaxmf, or pass model=",
    ),
    "file-argument": (lambda: header(model={"name": "x", "constructor": "mf", "arguments": {"size": 3}}), CHANGED),
    # The command line.
    "command-no-file": (lambda: on("absent.csv"), r"--data absent\.csv: no such file"),
    "command-no-parquet": (lambda: on("absent.parquet"), r"--data absent\.parquet: no such file"),
    "command-no-gz": (lambda: on("absent.csv.gz"), r"--data absent\.csv\.gz: no such file"),
    "command-parquet": (lambda: on("bad.parquet"), r"bad\.parquet: .*Parquet"),
    "command-no-engine": (
        without_engine,
        r"good\.parquet: .*needs pyarrow: pip install 'jaxmf\[parquet\]'",
    ),
    "command-data": (
        lambda: on("netflix"),
        "--data must be synthetic, .*, ml-20m or the path of a CSV or Parquet file, not 'netflix'",
    ),
    "command-movielens": (
        lambda: on("ml-latest-small"),
        r"looked in nowhere: neither root= nor JAXMF_DATA is set\)\. Download .*synthetic\(\) needs no download",
    ),
    "command-column": (
        lambda: on("short.csv"),
        r"short\.csv: missing column rating; found .* on the command line: --rename NAME=OURS",
    ),
    "command-nan": (
        lambda: on("nan.csv"),
        r"nan\.csv: column 'rating': NaN or infinite rating in 1 row\(s\), at index 1; .*drop these rows or correct",
    ),
    "command-empty": (lambda: on("empty.csv"), r"empty\.csv: the table has no rows; expected one row per rating"),
    "command-ragged": (lambda: on("ragged.csv"), r"ragged\.csv: Error tokenizing data"),
    "command-tiny": (lambda: on("tiny.csv"), "no part may be empty: use larger fractions, fewer parts or more data"),
    "command-rename": (lambda: on("tiny.csv", "--rename", "userId"), "--rename must be NAME=OURS .*, not userId"),
    "command-rename-to": (
        lambda: on("tiny.csv", "--rename", "a=user"),
        "--rename must be NAME=OURS with OURS one of user_id, item_id, rating, timestamp, not a=user",
    ),
    "command-rename-time": (
        lambda: on("tiny.csv", "--rename", "a=timestamp"),
        r"--rename a=timestamp: tiny\.csv has no such column for timestamp",
    ),
    "command-rename-synthetic": (
        lambda: fitted("--rename", "a=user_id"),
        "--rename is for CSV and Parquet files; synthetic has its own names",
    ),
    "command-solver": (
        lambda: on("good.csv", "--solver", "lbfgs"),
        "--solver must be one of sgd, .*, als, not 'lbfgs'",
    ),
    "command-model": (
        lambda: on("good.csv", "--model", "svd"),
        "--model must be one of mf, biased_mf, content_mf or module:attribute, not 'svd'",
    ),
    "command-no-module": (
        lambda: on("good.csv", "--model", "absent:model"),
        "--model absent:model: No module named 'absent'",
    ),
    "command-no-attribute": (
        lambda: on("good.csv", "--model", "strange:absent"),
        "--model strange:absent: .*no attribute 'absent'",
    ),
    "command-not-a-model": (
        lambda: on("good.csv", "--model", "strange:number"),
        "--model strange:number: expected a jaxmf.Model, found int",
    ),
    "command-l2": (lambda: on("good.csv", "--l2", "-1"), "hyper: l2 must be finite and at least 0, not -1.0"),
    "command-rank": (lambda: on("good.csv", "--rank", "0"), "Invalid value for '--rank'"),
    "command-clip": (lambda: on("good.csv", "--clip", "5", "1"), CLIP + r"\(5\.0, 1\.0\)"),
    "command-out": (lambda: on("good.csv", "--out", "good.csv"), "Invalid value for '--out': .*'good.csv' is a file"),
    "command-study": (
        lambda: command("study", "--data", "good.csv", "--out", "new", "--l2", 0.1, "--l2", -0.1),
        "hyper: l2 must be finite and at least 0, not -0.1",
    ),
    "command-verify": (
        lambda: command("verify", "--data", "good.csv", "--l2", "nan"),
        "hyper: l2 must be finite and at least 0, not nan",
    ),
    "command-no-fit": (lambda: command("evaluate", "--data", "good.csv", "--fit", "absent.npz"), r"absent\.npz"),
    "command-evaluate-user": (
        lambda: with_fit("evaluate", "user_id,item_id,rating\n1,102,3\n99,102,3\n"),
        r"1 unknown user id\(s\): 99; known ids are like 0, 1, 2 \(user_ids\)\. Drop them, or check their type",
    ),
    "command-evaluate-column": (
        lambda: with_fit("evaluate", "user_id,item_id\n1,102\n"),
        r"own\.csv: missing column rating; .*--rename NAME=OURS",
    ),
    "command-predict-item": (
        lambda: with_fit("predict", "user_id,item_id\n1,2\n"),
        r"1 unknown item id\(s\): 2; known ids are like 100, 101, 102",
    ),
    "command-predict-column": (
        lambda: with_fit("predict", "user_id,movie\n1,2\n"),
        r"predict: missing column 'item_id'; the table has \['user_id', 'movie'\]\. Rename its columns",
    ),
    # Searches.
    "halving-factor": (partial(halved, grid={"l2": [0.1, 0.2]}, factor=1), r"^halving: factor must be .* at least 2"),
    "halving-epochs": (partial(halved, grid={"l2": [0.1]}, epochs=0), r"^halving: epochs must be a positive integer"),
    "halving-min": (
        partial(halved, grid={"l2": [0.1]}, epochs=5, min_epochs=6),
        r"^halving: min_epochs must be an integer from 1 to epochs, 5, not 6",
    ),
    "halving-valid": (partial(halved, grid={"l2": [0.1]}, valid=None), r"^halving: needs validation ratings"),
    "halving-grid": (partial(halved, grid={"l3": [0.1]}), r"grid names 'l3'; expected rank, seed"),
    "hyperband-space": (partial(banded, space={"l2": (1.0, 0.1)}), r"space\['l2'\] must be a range .* low < high"),
    "hyperband-log": (
        partial(banded, space={"l2": (0.0, 1.0, "log")}),
        r"log scale, so low must be positive, not 0\.0",
    ),
    "hyperband-scale": (partial(banded, space={"l2": (0.1, 1.0, "lin")}), r"space\['l2'\] must be a range"),
    "hyperband-empty": (partial(banded, space={"l2": []}), r"space\['l2'\] must be a range .* or a list of values"),
    "hyperband-no-space": (partial(banded, space=[0.1]), r"^hyperband: space must map names to ranges"),
    "hyperband-key": (partial(banded, space=SPACE, key=0), r"^key must be one key"),
    "optuna-trials": (partial(asked, space=SPACE, trials=0), r"^optuna: trials must be a positive integer, not 0"),
    "optuna-ask": (partial(asked, space=SPACE, ask=2.5), r"^optuna: ask must be a positive integer, not 2\.5"),
    "optuna-sampler": (partial(asked, space=SPACE, sampler="grid"), r"^optuna: sampler must be 'tpe', 'random' or one"),
    "optuna-out": (partial(asked, space=SPACE, out="here"), r"^optuna: takes no out: a study with a storage keeps"),
    "optuna-rank": (partial(asked, space={"rank": (0, 4)}), r"rank must be an integer from 1, not 0"),
    "optuna-valid": (partial(asked, space=SPACE, valid=None), r"^optuna: needs validation ratings"),
    "hypergradient-name": (
        partial(differentiated, names=("l3",)),
        r"^hypergradient: names must be different ones of l2",
    ),
    "hypergradient-string": (
        partial(differentiated, names="l2"),
        r"^hypergradient: names must be different ones of l2",
    ),
    "hypergradient-method": (
        partial(differentiated, method="exact"),
        r"^hypergradient: method must be 'implicit' or 'unrolled', not 'exact'",
    ),
    "hypergradient-tol": (partial(differentiated, tol=0), r"^hypergradient: tol must be a positive number, not 0"),
    "hypergradient-rank": (
        partial(differentiated, method="implicit", hyper=HYPER._replace(rank=1)),
        r"^hypergradient: implicit takes no hyper\.rank: give the model that width",
    ),
    "descend-zero": (
        partial(descended, names=("l2_bias",), solver=SGD, hyper=HYPER._replace(l2_bias=0.0)),
        r"^descend: l2_bias must be positive to start from, not 0\.0: its logarithm descends",
    ),
    "descend-evaluations": (partial(descended, max_evaluations=0), r"^descend: max_evaluations must be a positive"),
    # Sweeps.
    "sweep-unknown-name": (
        partial(swept, **{"grid": {"lambda": [1.0]}}),
        r"grid names 'lambda'; expected rank, seed, fold, l2, .* or extra\.NAME",
    ),
    "sweep-empty-list": (
        partial(swept, **{"grid": {"l2": []}}),
        r"grid\['l2'\] is empty; give it values, or leave the name out",
    ),
    "sweep-not-a-list": (
        partial(swept, **{"grid": {"l2": 0.1}}),
        r"grid\['l2'\] must be a list of values, not 0\.1; for one value a list of one",
    ),
    "sweep-no-grid": (
        partial(swept, **{"grid": 3}),
        r"grid must map names to lists of values, or be a list of points, not int",
    ),
    "sweep-no-points": (partial(swept, **{"grid": []}), r"grid is an empty list; give it at least one point"),
    "sweep-uneven": (
        partial(swept, **{"grid": [{"l2": 1.0}, {"rank": 1}]}),
        r"point 1 of the grid names \['rank'\], point 0 names \['l2'\]",
    ),
    "sweep-rank-0": (
        partial(swept, **{"grid": {"rank": [2, 0]}}),
        r"rank must be an integer from 1, not 0, in the point \{'rank': 0\}",
    ),
    "sweep-rank-float": (partial(swept, **{"grid": {"rank": [2.5]}}), r"rank must be an integer from 1, not 2\.5"),
    "sweep-negative": (
        partial(swept, **{"grid": {"l2": [1.0, -1.0]}}),
        r"hyper: l2 must be finite and at least 0, not -1\.0, in the point",
    ),
    "sweep-not-a-number": (
        partial(swept, **{"grid": {"l2": ["a"]}}),
        r"l2 must be one finite number, not 'a', in the point \{'l2': 'a'\}",
    ),
    "sweep-nan": (partial(swept, **{"grid": {"extra.x": [float("nan")]}}), r"x must be one finite number, not nan"),
    "sweep-seed": (partial(swept, **{"grid": {"seed": [-1]}}), r"seed must be an integer from 0 to 4294967295, not -1"),
    "sweep-solver": (
        partial(swept, **{"grid": {"l2": [0.1, 0.0]}}),
        r"als: l2 must be positive, not 0\.0.* In the point \{'l2': 0\.0\}",
    ),
    "sweep-fold-without": (
        partial(swept, **{"grid": {"fold": [0]}}),
        r"grid names 'fold', but there are no folds: pass folds=",
    ),
    "sweep-fold-number": (
        partial(swept, **{"grid": {"fold": [2]}, "folds": FOLDS, "valid": None}),
        r"fold must be an integer from 0 to 1, not 2",
    ),
    "sweep-fold-valid": (partial(swept, **{"folds": FOLDS}), r"folds and valid exclude each other"),
    "sweep-folds-shape": (
        partial(swept, **{"folds": FOLDS[:, :3], "valid": None}),
        r"shape \(k, 90\).*not float64\[2, 3\]; jaxmf\.splits\.k_fold",
    ),
    "sweep-folds-range": (
        partial(swept, **{"folds": 2 * FOLDS, "valid": None}),
        r"fold 0 has weights that are not between 0 and 1",
    ),
    "sweep-folds-empty": (
        partial(swept, **{"folds": np.ones((1, 90)), "valid": None}),
        r"fold 0 leaves nothing to train on, or holds nothing out",
    ),
    "sweep-patience": (partial(swept, **{"valid": None}), r"patience needs validation ratings: pass valid= or folds="),
    "sweep-best": (
        partial(swept, **{"valid": None, "patience": None, "track": False}),
        r"keep='best' needs validation ratings, or track=True",
    ),
    "sweep-keep": (partial(swept, **{"keep": "some"}), r"keep must be 'best', 'all' or 'none', not 'some'"),
    "sweep-batch": (partial(swept, **{"batch": 0}), r"batch must be a positive integer or None, not 0"),
    "sweep-max-memory": (
        partial(swept, **{"max_memory": 1.5}),
        r"max_memory must be a positive integer of bytes or None, not 1\.5",
    ),
    "sweep-epochs": (partial(swept, **{"epochs": 0}), r"epochs must be a positive integer, not 0"),
    "sweep-fixed-width": (
        partial(swept, model=BIASED._replace(with_rank=None), grid={"rank": [2, 4]}),
        r"hyper: rank must be at most the model's width 3, not 4: widen the model.* In the point \{'rank': 4\}",
    ),
    "sweep-hyper": (partial(swept, hyper={"l2": 0.1}), "^hyper must be a Hyper, not dict"),
    "sweep-key": (partial(swept, key=3), "^key must be one key"),
    "sweep-solver-class": (partial(swept, solver=solvers.als), "solver"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a fit, good and bad tables, and a module."""
    folder = tmp_path_factory.mktemp("files")
    save(folder / "fit.npz", FIT, DATA)
    NINE.to_csv(folder / "good.csv", index=False)
    NINE.drop(columns="rating").to_csv(folder / "short.csv", index=False)
    NINE.assign(rating=NINE["rating"].where(NINE.index != 1)).to_csv(folder / "nan.csv", index=False)
    NINE[:0].to_csv(folder / "empty.csv", index=False)
    NINE[:2].drop(columns="timestamp").to_csv(folder / "tiny.csv", index=False)
    (folder / "ragged.csv").write_text("user_id,item_id,rating\n1,2,3\n1,2,3,4\n")
    (folder / "good.parquet").touch()
    (folder / "bad.parquet").write_text("not Parquet at all")
    (folder / "strange.py").write_text("number = 3\n")
    ALS.check(BIASED, PARAMS, HYPER)  # looks at the penalty of one row, operation by operation
    return folder


@pytest.mark.parametrize(("bad", "message"), CASES.values(), ids=CASES)
def test_refused(bad, message, files, no_compile, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.delenv("JAXMF_DATA", raising=False)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        bad()
    assert not Path("new").exists()


def test_a_compilation_is_noticed():
    """Else the guard of these tests, `no_compile`, would guard nothing."""
    before = len(COMPILED)
    jax.jit(lambda x: x + 1)(NUMBER)
    assert len(COMPILED) > before


def test_what_is_nearly_bad_is_accepted():
    """Keys of either kind, NumPy's integers, and layouts of a solver that differs in other arguments."""
    for key in (KEY, jax.random.PRNGKey(0), np.array([0, 1], np.uint32)):
        check_key(key)
    assert models.mf(np.int64(RANK)) is models.mf(RANK)
    assert solvers.sgd(np.int32(8)) is solvers.sgd(8)
    clipped = solvers.sgd(8, clip_value=5.0)
    run = make_fit(BIASED, clipped, np.int64(2))
    state, _ = jax.eval_shape(run, KEY, prepare(SGD, RATINGS), HYPER)
    assert state.params.trained.user["bias"].shape == (17,)
    jax.eval_shape(make_fit(BIASED, SOLVERS["adamw"], 2), KEY, prepare(ADAM, RATINGS), HYPER)
