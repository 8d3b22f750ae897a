"""A file that was broken, or made to harm: ValueError or the fit that was saved, in little memory; nothing is run."""

import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import HYPER, KEY, SOLVERS, assert_same_bits
from scipy.sparse import csr_array

from jaxmf import Dataset, Fit, load, models, prepare, save
from jaxmf.files import members
from jaxmf.kernels._memoize import how_built
from jaxmf.persist import integrity
from jaxmf.training import start
from jaxmf.training._fingerprints import fingerprints

FRAME = pd.DataFrame(
    {"user_id": list("abca"), "item_id": [1, 2, 1, 2], "rating": [1.0, 2, 3, 4], "timestamp": range(4)}
)
ITEMS = pd.DataFrame({"title": ["x", None], "year": [1, 2]}, pd.Index([1, 2], name="item_id"))
DATA = Dataset.from_frame(FRAME, items=ITEMS)


def unfitted(model, data=DATA, hyper=HYPER):
    drawn = model._replace(init=jax.jit(model.init))
    state = start(KEY, drawn, SOLVERS["adam"], prepare(SOLVERS["adam"], data), hyper, 3)
    history = {"epoch": np.arange(1, 3), "seconds": np.zeros(2)}
    return Fit(model, state.params, hyper, state, history, "completed", 0.25, fingerprints(data.ratings, None))


def zipped(parts: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def parts(folder) -> dict[str, bytes]:
    """The members of a file that has all there is: sparse features, numbers in `extra`, metadata of the items."""
    extra = {"a": np.arange(3.0), "b": (1, -np.inf), "c": np.float32(2)}
    save(
        folder / "fit.npz",
        unfitted(models.content_mf(1, csr_array(np.eye(2))), hyper=HYPER._replace(extra=extra)),
        DATA,
    )
    with zipfile.ZipFile(folder / "fit.npz") as file:
        return {name: file.read(name) for name in file.namelist()}


def loaded(folder, content: bytes):
    path = folder / "changed.npz"
    path.write_bytes(content)
    return load(path)


def with_header(parts, change) -> bytes:
    header = json.loads(parts["header.json"])
    change(header)
    return zipped(parts | {"header.json": json.dumps(header).encode()}, zipfile.ZIP_STORED)


def test_two_thousand_broken_files(folder):
    """Bits that flip, bytes that change, go or come: the checksums of the zip leave what was saved, or nothing."""
    path = folder / "small.npz"
    save(path, unfitted(models.global_mean(), Dataset.from_frame(FRAME)), Dataset.from_frame(FRAME))
    whole, expected = path.read_bytes(), members.read(path)
    rng, refused = np.random.default_rng(0), 0
    for number in range(2000):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place, length = int(rng.integers(len(content))), int(rng.integers(1, 9))
            if number % 4 == 0:
                content[place] ^= 1 << (length - 1)
            elif number % 4 == 1:
                content[place] = int(rng.integers(256))
            elif number % 4 == 2:
                del content[place : place + length]
            else:
                content[place:place] = rng.bytes(length)
        try:
            header, arrays = members.unpacked(io.BytesIO(content))
        except ValueError:
            refused += 1
            continue
        assert header == expected[0]
        assert_same_bits(arrays, expected[1])
    assert refused > 1500, "the others changed what nobody reads, such as dates"


def places(tree, path=()):
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(child, (*path, key))
    yield path


def replaced(tree, path, value):
    if not path:
        return value
    tree = tree.copy()
    tree[path[0]] = replaced(tree[path[0]], path[1:], value)
    return tree


VALUES: list[Any] = [
    *(None, True, -1, 0, 10**30, 0.5, 1e999, "", "x" * 5000, [], {}, [[]], {"tuple": [1]}, {"tuple": 1}),
    *("params.trained.user.factors", "data.user_ids", "<f8 -1", "<f8 99999999999", "|O8 3", "<U999999999 2"),
    *("|V1000000000", "category", "datetime64[ns, Europe]", "datetime64[ns, " + "a" * 5000 + "]", "Sparse[int]"),
    *("int64[pyarrow]", "period[D]", {"sparse": "load_npz", "shape": [1, 1], "parts": []}, {"numpy": "nope"}),
    *({"jax": "data.timestamp"}, {"scalar": 1e300, "dtype": "<i1"}, {"scalar": 1, "dtype": "|O8"}, {"float": "1e5"}),
]


def test_headers_of_any_other_content(folder, parts):
    """Every value of the header in turn is something else; what is loaded all the same is whole and can be saved."""
    header = json.loads(parts["header.json"])
    cases = list(product(places(header), VALUES))
    for number in np.random.default_rng(0).choice(len(cases), 100, replace=False):
        path, value = cases[number]
        text = json.dumps(replaced(header, path, value)).encode()
        try:
            found, data = loaded(folder, zipped(parts | {"header.json": text}, zipfile.ZIP_STORED))
        except ValueError:
            continue
        integrity.check_data(data)
        integrity.check_fit(found, built_in=True)


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


ARRAYS = {
    "user beyond the ids": ("data.user", np.array([0, 1, 3, 0], np.int32), r"data\.user has an index outside 0 \.\. 2"),
    "item below 0": ("data.item", np.array([0, 1, -1, 1], np.int32), r"data\.item has an index outside 0 \.\. 1"),
    "rating": ("data.rating", np.array([1, np.nan, 3, 4]), r"data\.rating has NaN or infinite values"),
    "ids": ("data.item_ids", np.array([1, 1]), r"data\.item_ids has a missing or repeated id"),
    "factors": ("params.trained.user.factors", np.full((3, 1), np.inf), r"params\.trained\.user\['factors'\] has NaN"),
    "feature": ("params.fixed.item.content.column", np.array([[0], [2]], np.int32), r"has a feature outside 0 \.\. 1"),
    "indices": ("model.features.indices", np.array([0, 7], np.int32), "must be < 2"),
    "pointers": ("model.features.indptr", np.array([0, 9, 2], np.int32), "changed.npz: "),
    "epoch and status, alike": ("state.epoch", np.array(4, np.int32), r"state\.status is .*, expected .* from 0 to 3"),
    "history": ("history.epoch", np.array([2, 1]), r"history\.epoch does not increase from 1"),
    "order": ("data.rating", np.array([[1.0]]), "is float64"),
}


@pytest.mark.parametrize(("name", "array", "message"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_no_fit_has(folder, parts, name, array, message):
    with pytest.raises(ValueError, match=message):
        loaded(folder, zipped(parts | {f"{name}.npy": npy(array)}))


def test_members_that_save_never_writes(folder, parts):
    name, rating = "data.rating.npy", parts["data.rating.npy"]
    fortran, literal = rating.replace(b"False", b"True "), rating.replace(b"(4,)", b"-+-4")
    for content, message in (
        (zipped(parts, zipfile.ZIP_BZIP2), "another method"),
        (zipped(parts, zipfile.ZIP_LZMA), "another method"),
        (zipped(parts | {"more.npy": b""}), "a member 'more.npy' that its header.json does not list"),
        (zipped(parts | {name: rating + b"\0"}), r"has 33 bytes, but float64\[4\] has 32"),
        (zipped(parts | {name: rating[:-1]}), r"has 31 bytes, but float64\[4\] has 32"),
        (zipped(parts | {name: fortran}), "is not an array as jaxmf"),
        (zipped(parts | {name: literal}), "is not an array as jaxmf"),
        (zipped(parts | {"header.json": b'{"format": "\xff"}'}), "names no format"),
        (zipped(parts | {"header.json": b'{"format": NaN}'}), "names no format"),
        (zipped(parts | {"header.json": json.dumps({"a": 1}).encode("utf-16")}), "names no format"),
        (zipped(parts | {"header.json": b"9" * 5000}), "names no format"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded(folder, content)
    stream = io.BytesIO(zipped(parts))
    with zipfile.ZipFile(stream, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(name, rating)
    with pytest.raises(ValueError, match=r"data\.rating\.npy is present twice"):
        loaded(folder, stream.getvalue())
    encrypted = bytearray(zipped(parts))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="is encrypted"):
        loaded(folder, bytes(encrypted))


def understated(content: bytes, size: int) -> bytes:
    """A zip of one deflated member that says it holds so many bytes, of which the checksum is right."""
    data, name = zlib.compress(content, 9)[2:-4], b"header.json"
    about = struct.pack("<5HIIIHH", 20, 0, 8, 0, 33, zlib.crc32(content[:size]), len(data), size, len(name), 0)
    local = b"PK\x03\x04" + about + name + data
    central = b"PK\x01\x02\x14\x00" + about + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)


def overlapping() -> bytes:
    """Sixty members, each of which holds the next: every checksum is right, and each byte is read sixty times."""
    content, central, ends = bytes(5000), [], []
    for number in range(60):
        name = b"%05d.npy" % number
        about = struct.pack("<5HIIIHH", 20, 0, 0, 0, 33, zlib.crc32(content), len(content), len(content), len(name), 0)
        content = b"PK\x03\x04" + about + name + content
        central.append(b"PK\x01\x02\x14\x00" + about + struct.pack("<HHHI", 0, 0, 0, 0))
        ends.append((len(content), name))
    entries = b"".join(
        entry + struct.pack("<I", len(content) - length) + name
        for entry, (length, name) in zip(central, ends, strict=True)
    )
    return content + entries + struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 60, 60, len(entries), len(content), 0)


def test_members_that_overlap(folder):
    with pytest.raises(ValueError, match="its members overlap"):
        loaded(folder, overlapping())


def with_arrays(parts, arrays) -> bytes:
    return json.dumps(json.loads(parts["header.json"]) | {"arrays": arrays}).encode()


BOMBS = {
    "header of spaces": lambda parts: zipped(parts | {"header.json": b" " * (1 << 26)}),
    "header of lists": lambda parts: zipped(parts | {"header.json": b"[" + b"[]," * 300_000 + b"0]"}),
    "nested": lambda parts: zipped(parts | {"header.json": b'{"format":' + b"[" * 60_000 + b"]" * 60_000 + b"}"}),
    "inflates without end": lambda parts: understated(b" " * (1 << 26), 10),
    "huge shape": lambda parts: zipped(parts | {"header.json": with_arrays(parts, {"data.user": "<f8 9999999999999"})}),
    "huge item": lambda parts: zipped(parts | {"header.json": with_arrays(parts, {"data.user": "<U999999999 9"})}),
    "huge member": lambda parts: zipped(parts | {"data.rating.npy": parts["data.rating.npy"] + bytes(1 << 26)}),
    "one long row": lambda parts: zipped(long_row(parts)),
}


def long_row(parts) -> dict[str, bytes]:
    """Features of 100,000 items whose rows, padded to the longest, would take 80 GB."""
    header, many = json.loads(parts["header.json"]), np.arange(100_000, dtype=np.int32)
    header["model"]["arguments"]["features"]["shape"] = [100_000, 100_000]
    header["data"]["items"] = None
    pointers = np.append(0, np.full(100_000, 100_000)).astype(np.int32)
    arrays: dict[str, np.ndarray] = {"data": np.ones(100_000), "indices": many, "indptr": pointers}
    arrays = {f"model.features.{part}": array for part, array in arrays.items()} | {"data.item_ids": many.astype(int)}
    header["arrays"] |= {name: f"{array.dtype.str} {len(array)}" for name, array in arrays.items()}
    header["arrays"] = {name: size for name, size in header["arrays"].items() if not name.startswith("data.items")}
    kept = {name: content for name, content in parts.items() if name.removesuffix(".npy") in header["arrays"]}
    changed = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    return kept | changed | {"header.json": json.dumps(header).encode()}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_bombs_take_no_memory(folder, parts, make):
    content = make(parts)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"changed\.npz: "):
            loaded(folder, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6 + 2 * len(content)


def test_what_is_no_file_is_refused_at_once(folder):
    """Nobody waits for a pipe."""
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: it is a pipe or a device; expected a file"):
            load(path)
    with pytest.raises(IsADirectoryError):
        load(folder)
    (folder / "link").symlink_to(folder / "nowhere")
    with pytest.raises(FileNotFoundError):
        load(folder / "link")


def test_only_constructors_are_built():
    """What `load` calls of all that `jaxmf.models` has."""
    built = {name for name in models.__all__ if hasattr(getattr(models, name), "__wrapped__")}
    ratings, likes = {"biased_mf", "content_mf", "mf"}, {"bpr", "ials", "logistic_mf", "sampled_softmax"}
    assert built == {"damped_bias", "global_mean"} | ratings | likes
    assert how_built(models.damped_bias()) is not None


def test_a_loaded_array_is_held_once(folder):
    """Parameters that are those of the state and of the best epoch too are one array, as they are in the file."""
    save(folder / "once.npz", unfitted(models.mf(1)), DATA)
    found, _ = load(folder / "once.npz")
    for other in (found.state.params, found.state.best.params):
        assert found.params.trained.user["factors"] is other.trained.user["factors"]
