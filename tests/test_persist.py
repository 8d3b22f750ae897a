"""What was saved comes back to the bit, in another file or not at all; `fit` goes on from it."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, assert_same_bits, each_state, structure
from scipy.sparse import csc_matrix, csr_array

from jaxmf import Dataset, Fit, Hyper, Model, Params, Rows, fit, load, models, predict, prepare, save
from jaxmf.files import archive
from jaxmf.kernels._memoize import how_built, memoize
from jaxmf.persist import fits
from jaxmf.training import Saved, start
from jaxmf.training._fingerprints import fingerprints

BIASED = MODELS["biased"]
OPTIONS: dict[str, Any] = {"hyper": HYPER, "patience": 8}
BUILT = {**MODELS, "damped": models.damped_bias(2.0), "global": models.global_mean()}


def table(num_users=17, num_items=13) -> pd.DataFrame:
    """Nine of ten pairs."""
    pair = np.arange(num_users * num_items)
    pair = pair[pair % 10 != 3]
    rating = np.random.default_rng(0).integers(1, 11, len(pair)) / 2
    columns = {"user_id": pair // num_items, "item_id": 100 + pair % num_items, "rating": rating}
    return pd.DataFrame(columns | {"timestamp": 10**9 + pair})


DATA = Dataset.from_frame(table(), name="nine of ten")
TRAIN, VALID = DATA.take(np.arange(0, 198, 2)), DATA.take(np.arange(1, 198, 2))


def unfitted(model, data=DATA, hyper=HYPER, patience=None) -> Fit:
    """A Fit of no epochs, whose program is not compiled."""
    drawn = model._replace(init=jax.jit(model.init))
    state = start(KEY, drawn, SOLVERS["adam"], prepare(SOLVERS["adam"], data), hyper, patience)
    return Fit(model, state.params, hyper, state, {"epoch": np.arange(0), "seconds": np.zeros(0)}, "completed", 0.25)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(KEY, BIASED, SOLVERS["als"], TRAIN, VALID, epochs=5, **OPTIONS)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "fit.npz"


@pytest.fixture
def file(path) -> Path:
    """A file as `save` writes it."""
    save(path, unfitted(BIASED, patience=3), DATA)
    return path


def assert_same_data(found: Dataset, expected: Dataset) -> None:
    assert found.fingerprint() == expected.fingerprint()
    assert found.name == expected.name
    for name in ("user_ids", "item_ids"):
        pd.testing.assert_index_equal(getattr(found, name), getattr(expected, name), exact="equiv")
        assert [type(x) for x in getattr(found, name)] == [type(x) for x in getattr(expected, name)]
    for name in ("user", "item", "rating", "timestamp", "weight"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and np.array_equal(a, b))
    assert found.user_index(expected.user_ids).tolist() == list(range(expected.num_users))
    assert found.item_index(expected.item_ids).tolist() == list(range(expected.num_items))
    assert (found.items is None) == (expected.items is None)
    if found.items is not None:
        pd.testing.assert_frame_equal(found.items, expected.items)


def assert_same_fit(found: Fit, expected: Fit) -> None:
    """Apart from the solver's state, whose structure a file does not know, and from seconds."""
    assert found.hyper == expected.hyper
    assert_same_bits(found.params, expected.params)
    assert_same_bits(found.state._replace(solver=None), expected.state._replace(solver=None))
    assert found.status == expected.status
    assert found.fingerprints == expected.fingerprints
    assert found.history.keys() == expected.history.keys()
    for name in found.history.keys() - {"seconds"}:
        assert found.history[name].dtype == expected.history[name].dtype
        np.testing.assert_array_equal(found.history[name], expected.history[name])


def test_times_with_fractions_are_saved(path):
    data = replace(DATA, timestamp=DATA.timestamp + 0.25)
    save(path, unfitted(BIASED), data)
    assert_same_data(load(path)[1], data)


def test_weights_are_saved(path):
    data = replace(DATA, weight=1 + np.arange(len(DATA)) / 7)
    save(path, unfitted(BIASED), data)
    assert_same_data(load(path)[1], data)
    assert load(path)[1].weight is not None


@each_state
def test_resuming_a_loaded_fit_changes_no_bit(path, solver):
    """5 + 5 epochs equal 10; a file of a loaded fit is as good as one of the fit itself."""
    whole = fit(KEY, BIASED, solver, TRAIN, VALID, epochs=10, **OPTIONS)
    part = fit(KEY, BIASED, solver, TRAIN, VALID, epochs=5, **OPTIONS)
    save(path, part, TRAIN)
    loaded, data = load(path)
    assert_same_fit(loaded, part)
    assert isinstance(loaded.state.solver, Saved)
    assert_same_bits(jax.tree.leaves(loaded.state.solver.leaves), jax.tree.leaves(archive.by_path(part.state.solver)))
    save(path, loaded, data)
    again, data = load(path)
    for earlier in (loaded, again):
        both = fit(KEY, earlier.model, solver, data, VALID, epochs=5, **OPTIONS, resume=earlier)
        assert_same_fit(both, whole)
        assert_same_bits(both.state, whole.state)


def test_a_loaded_fit_is_not_resumed_on_other_ratings(path, fitted):
    """Of a Dataset, its Ratings or what `prepare` made of them; validation ratings count where a best was chosen."""
    save(path, fitted, TRAIN)
    loaded, data = load(path)
    assert loaded.fingerprints == fingerprints(TRAIN.ratings, VALID.ratings)
    for train, valid, name in ((VALID, VALID, "training"), (data, TRAIN, "validation")):
        for resumed in (train.take(np.arange(99)), train.ratings):
            with pytest.raises(ValueError, match=f"resume: the earlier fit had other {name} ratings"):
                fit(KEY, BIASED, SOLVERS["als"], resumed, valid, epochs=1, **OPTIONS, resume=loaded)
    free = fit(KEY, BIASED, SOLVERS["als"], TRAIN, VALID, HYPER, epochs=1)
    again = fit(KEY, BIASED, SOLVERS["als"], TRAIN, TRAIN, HYPER, epochs=1, resume=free)
    assert again.fingerprints == fingerprints(TRAIN.ratings, TRAIN.ratings)


def test_without_patience_there_is_no_best(path):
    part, whole = (fit(KEY, BIASED, SOLVERS["als"], TRAIN, hyper=HYPER, epochs=n) for n in (2, 4))
    save(path, part, TRAIN)
    loaded, _ = load(path)
    assert loaded.state.best is None
    both = fit(KEY, BIASED, SOLVERS["als"], TRAIN, hyper=HYPER, epochs=2, resume=loaded)
    assert_same_bits((both.params, both.state), (whole.params, whole.state))


def test_a_fit_that_stopped_stays_as_it_is(path, fitted):
    stopped = fitted._replace(state=fitted.state._replace(status=jnp.int32(2)), status="stopped_early")
    save(path, stopped, TRAIN)
    again = fit(KEY, BIASED, SOLVERS["als"], TRAIN, VALID, epochs=3, **OPTIONS, resume=load(path)[0])
    assert_same_fit(again, stopped)
    assert_same_bits(again.state, stopped.state)


def test_predictions_history_and_seconds_are_the_same(path, fitted):
    save(path, fitted, TRAIN)
    loaded, data = load(path)
    frame = table().sample(frac=1, random_state=1)
    expected = predict(BIASED, fitted.params, TRAIN, frame)
    pd.testing.assert_series_equal(predict(loaded.model, loaded.params, data, frame), expected, check_exact=True)
    pd.testing.assert_frame_equal(loaded.to_frame(), fitted.to_frame(), check_exact=True)
    assert loaded.compile_seconds == fitted.compile_seconds


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("model", BUILT.values(), ids=BUILT)
def test_built_in_models(path, model, patience):
    saved = unfitted(model, patience=patience)
    save(path, saved, DATA)
    loaded, data = load(path)
    assert loaded.model is model
    assert_same_fit(loaded, saved)
    assert_same_data(data, DATA)


def test_how_a_model_was_built():
    assert how_built(models.mf(4)) == (models.mf, {"rank": 4, "center": "global"})
    assert how_built(models.mf(center="user", rank=4)) == (models.mf, {"rank": 4, "center": "user"})
    assert how_built(models.mf(4)._replace(loss=lambda params, ratings: ratings.value)) is None
    assert how_built(OWN) is None
    unhashable: Any = {}
    assert how_built(OWN._replace(init=unhashable)) is None


@pytest.mark.parametrize("form", [np.float32, csr_array, csc_matrix], ids=["dense", "sparse", "columns"])
def test_features_of_the_items_are_saved(path, form):
    model = models.content_mf(3, form(np.eye(13, 40)))
    save(path, unfitted(model), DATA)
    loaded, _ = load(path)
    assert loaded.model is model
    assert_same_fit(loaded, unfitted(model))


# A model of a user's own.


def own_init(key, ratings, hyper):
    draw = jax.random.normal(key, (ratings.num_items, 2), ratings.value.dtype)
    return Params(Rows(item={"look": {"deep": (draw, draw[:, 0])}}))


def own_predict(params, pairs):
    return params.trained.item["look"]["deep"][1][pairs.item]


def own_penalty(trained, weight, hyper):
    return 0.0


OWN = Model(
    init=own_init,
    predict=own_predict,
    loss=lambda params, ratings: (ratings.value - own_predict(params, ratings)) ** 2,
    penalty=own_penalty,
    name="mine",
)


def test_a_model_of_ones_own(path):
    saved = unfitted(OWN)
    save(path, saved, DATA)
    with pytest.raises(ValueError, match=r"fit\.npz: .*'mine', .*pass the model, as jaxmf\.load\(path, model=\.\.\.\)"):
        load(path)
    loaded, _ = load(path, model=OWN)
    assert loaded.model is OWN
    assert_same_fit(loaded, saved)


def test_a_constructor_of_ones_own_is_not_taken_for_a_built_in_one(path):
    @memoize
    def biased_mf(rank: int) -> Model:
        return models.mf(rank)._replace(init=lambda *x: models.mf(rank).init(*x))

    save(path, unfitted(biased_mf(3)), DATA)
    with pytest.raises(ValueError, match=r"that jaxmf\.models did not build, 'mf'"):
        load(path)


def test_a_model_with_a_part_replaced_is_ones_own(path):
    changed = BIASED._replace(predict=lambda params, pairs: 0.0 * BIASED.predict(params, pairs))
    save(path, unfitted(changed), DATA)
    with pytest.raises(ValueError, match=r"'biased_mf', .*pass the model"):
        load(path)
    assert load(path, model=changed)[0].model is changed


HYPERS = {
    "defaults": Hyper(),
    "ints": Hyper(l2=1, reg_exponent=0, rank=2),
    "scalars": Hyper(l2=np.float32(0.1), momentum=np.float64(0.1), rank=np.int64(2)),
    "arrays": Hyper(l2=np.array(0.1, np.float32), l2_bias=jnp.float32(0.1), learning_rate=jnp.float64(0.1)),
    "extra": Hyper(
        l2=5e-324,
        extra={
            "ü": 0.1 + 0.2,
            "weights": np.arange(6, dtype=np.float16).reshape(2, 3),
            "narrow": jnp.ones(3, jnp.bfloat16),
            "deep": {"pair": (1, 2.0, True, None), "list": [jnp.int32(3)], "infinite": -np.inf},
        },
    ),
}


@pytest.mark.parametrize("hyper", HYPERS.values(), ids=HYPERS)
def test_hyper_comes_back_exactly(path, monkeypatch, hyper):
    # Such numbers need not be ones that a fit can run with.
    monkeypatch.setattr(fits, "_shapes", lambda model, *_: unfitted(model).params)
    save(path, unfitted(BIASED)._replace(hyper=hyper), DATA)
    found = load(path)[0].hyper
    assert structure(found) == structure(hyper)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(hyper), strict=True):
        assert type(a) is type(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


DAYS = pd.DatetimeIndex(pd.date_range("2024-01-01 12:30", periods=17).to_numpy())
IDS = {
    "int64": pd.Index(np.arange(17) * 10**15),
    "int8": pd.Index(np.arange(17, dtype=np.int8)),
    "uint64": pd.Index(np.arange(17, dtype=np.uint64) + 2**63),
    "float64": pd.Index(np.arange(17) / 3),
    "str": pd.Index([f"ü{n}\0\n" for n in range(17)]),
    "object": pd.Index([f"u{n}" for n in range(17)], dtype=object),
    "mixed": pd.Index([0, "0", 2.5, 10**30, (1, ("a", None)), *map(str, range(20, 32))], dtype=object),
    "tuples": pd.Index([(n, f"{n}") for n in range(17)], tupleize_cols=False),
    "bool-like": pd.Index([True, *map(float, range(2, 18))], dtype=object),
    "dates": DAYS.as_unit("s"),
    "zoned": DAYS.tz_localize("Europe/Berlin"),
    "durations": DAYS - DAYS[0],
    "Int64": pd.Index(np.arange(17), dtype="Int64"),
    "string": pd.Index([f"u{n}" for n in range(17)], dtype="string"),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_come_back_exactly(path, ids):
    data = replace(DATA, user_ids=ids.rename("user_id"), timestamp=None)
    save(path, unfitted(BIASED), data)
    assert_same_data(load(path)[1], data)


ITEMS = pd.DataFrame(
    {
        "title": [f"Ü {n}" for n in range(13)],
        "year": np.arange(13, dtype=np.int16),
        "length": np.array([np.nan, *np.arange(12) / 3], np.float32),
        "genres": [["a"] * (n % 3) for n in range(13)],
        "tag": pd.Series([None, np.nan, *"abcdefghijk"], DATA.item_ids, dtype=object),
        "nullable": pd.array([None, *range(12)], dtype="Int64"),
        "seen": DAYS[:13].tz_localize("UTC"),
        7: True,
    },
    index=DATA.item_ids,
)


def test_item_metadata_comes_back_exactly(path):
    twice = pd.concat([ITEMS, ITEMS[["title"]]], axis=1)
    for items in (ITEMS, twice, ITEMS[[]]):
        data = replace(DATA, items=items)
        save(path, unfitted(BIASED), data)
        assert_same_data(load(path)[1], data)
    found = load(path, BIASED)[1].items
    assert found.index.name == "item_id"
    save(path, unfitted(BIASED), replace(DATA, items=ITEMS))
    assert [type(x) for x in load(path)[1].items["tag"]] == [type(None), float] + [str] * 11


def test_float32_under_x64_and_float64_without(path):
    """What is float32 stays so; what is float64 is not narrowed in silence."""
    with jax.enable_x64(False):
        single = unfitted(BIASED)
        save(path, single, DATA)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(load(path)[0].params)} == {"float32"}
    assert_same_fit(load(path)[0], single)
    double = unfitted(BIASED)
    with jax.enable_x64(False):
        save(path, double, DATA)
        with pytest.raises(
            ValueError, match=rf"^{path}: params\S* is float64, .* float32 .*with jax\.enable_x64\(True\)"
        ):
            load(path)
    assert_same_fit(load(path)[0], double)


def test_float64_numbers_of_hyper_are_not_narrowed(path):
    with jax.enable_x64(False):
        single = unfitted(BIASED)
    save(path, single._replace(hyper=HYPER._replace(l2=jnp.float64(0.1))), DATA)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"hyper\.l2 is float64, .*jax\.enable_x64"):
        load(path)


def test_one_file_without_pickle_that_numpy_opens(file):
    saved = unfitted(BIASED, patience=3)
    with np.load(file, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["params.trained.user.factors"], saved.params.trained.user["factors"])
        header = json.loads(arrays["header.json"])
        assert set(arrays.files) == {"header.json", *header["arrays"]}
        assert all(isinstance(arrays[name], np.ndarray) for name in header["arrays"])
    assert (header["format"], header["version"]) == ("jaxmf.fit", 1)
    assert header["model"] == {"name": "biased_mf", "constructor": "biased_mf", "arguments": {"rank": 3}}
    assert header["params"] == header["state"]["params"] == header["state"]["best"]["params"], "stored once"


def test_equal_content_gives_equal_bytes(file, tmp_path):
    save(tmp_path / "other", unfitted(BIASED, patience=3), DATA)
    assert (tmp_path / "other").read_bytes() == file.read_bytes()


def test_what_shrinks_is_compressed(file):
    with zipfile.ZipFile(file) as zipped:
        compressed = {x.filename for x in zipped.infolist() if x.compress_type == zipfile.ZIP_DEFLATED}
    assert {"header.json", "data.user.npy", "data.rating.npy", "data.timestamp.npy"} <= compressed
    assert "params.trained.user.factors.npy" not in compressed


def test_names_that_members_cannot_have(path):
    """Leaves named alike but for what a file name lacks are told apart."""
    names = {"a/b": 1.0, "a b": 2.0, "../up": 3.0, "ä'\"\\": 4.0}

    def init(key, ratings, hyper):
        return Params(Rows(shared={name: jnp.full((), x, ratings.value.dtype) for name, x in names.items()}))

    model = OWN._replace(init=init)
    saved = unfitted(model, hyper=HYPER._replace(extra={"../x": np.ones(2), "a\\b": np.zeros(2)}))
    save(path, saved, DATA)
    found = load(path, model)[0]
    assert_same_bits(found.params, saved.params)
    np.testing.assert_array_equal(found.hyper.extra["../x"], np.ones(2))
    np.testing.assert_array_equal(found.hyper.extra["a\\b"], np.zeros(2))
    with zipfile.ZipFile(path) as zipped:
        assert not [name for name in zipped.namelist() if "/" in name or "\\" in name]


def test_an_interrupted_save_leaves_the_old_file(file, monkeypatch):
    before, write_array = file.read_bytes(), np.lib.format.write_array
    written: list[Any] = []

    def interrupted(stream, array, **options):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(array)
        write_array(stream, array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(file, unfitted(MODELS["mf"]), DATA)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_folders_are_made_and_no_suffix_is_added(tmp_path):
    save(str(tmp_path / "a" / "b" / "fit"), unfitted(BIASED), DATA)
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["fit"]
    assert_same_fit(load(str(tmp_path / "a" / "b" / "fit"))[0], unfitted(BIASED))


def changed(path: Path, change) -> None:
    """Write the zip anew, its members (name -> bytes) changed."""
    with zipfile.ZipFile(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)


FACTORS = "params.trained.user.factors"


def test_rewriting_alone_changes_nothing(file):
    changed(file, lambda members: None)
    assert_same_fit(load(file)[0], unfitted(BIASED, patience=3))


def test_a_truncated_file_is_refused(file):
    whole = file.read_bytes()
    for size in (*range(4, len(whole), len(whole) // 20), len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"^{file}: .*it is truncated\. Copy it or save it again"):
            load(file)


def test_a_corrupted_member_is_refused(file):
    whole = file.read_bytes()
    content = np.asarray(unfitted(BIASED).params.trained.user["factors"]).tobytes()
    place = whole.index(content[:64])
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=rf"^{file}: its member {FACTORS}\.npy is corrupted \(.*save it again"):
        load(file)
