"""Files are written whole or not at all, give back what was written, and say where they came from."""

import csv
import errno
import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxmf import Dataset
from jaxmf.data import datasets
from jaxmf.files import output


def failing(path: Path) -> None:
    path.write_text("half of")
    raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "old"], ids=["new", "replaced"])
def test_an_interrupted_write_changes_nothing(tmp_path, before):
    path = tmp_path / "table.csv"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        output.write(path, failing)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    seen = []

    def save(temporary: Path) -> None:
        temporary.write_text("half of")
        seen.append((path.read_text(), temporary.parent == path.parent, temporary.suffix))
        temporary.write_text("new")

    output.write(path, save)
    assert seen == [("old", True, ".csv")]
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("table.csv", "new")]


def test_folders_are_made_and_permissions_are_those_of_any_new_file(tmp_path):
    path = tmp_path / "a" / "b" / "text.md"
    mask = os.umask(0o022)
    try:
        output.write_text(path, "λ\n")
        assert os.umask(0o022) == 0o022, "the mask is as it was"
    finally:
        os.umask(mask)
    assert path.read_bytes() == "λ\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_table_gives_back_what_it_holds(tmp_path):
    """Every float of either width in its fewest digits, and every text, whatever a field may hold."""
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    double, single = bits.view(np.float64), bits.astype(np.uint32).view(np.float32)
    finite = np.isfinite(double) & np.isfinite(single)
    single, double = single[finite], double[finite]
    text = np.resize(["007", "a, b", 'say "x"', "two\nlines", "two\rlines", "1e3", " ", "NA"], len(double))
    table = pd.DataFrame({"x": single, "y": double, "number": np.arange(len(double)), "name": text})
    output.write_table(tmp_path / "table.csv", table)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["x", "y", "number", "name"]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert [*columns["x"]] == [str(value) for value in single]
    np.testing.assert_array_equal(np.array(columns["x"]).astype(np.float32), single)
    assert [float(value) for value in columns["y"]] == double.tolist()
    assert [int(value) for value in columns["number"]] == table["number"].tolist()
    assert [*columns["name"]] == text.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_table_is_written_in_the_fewest_digits(tmp_path, dtype):
    table = pd.DataFrame({"x": np.array([0.1, 1 / 3, 1e-30, 3.0, np.nan], dtype), "id": ["007", "1e3", "x", "y", "z"]})
    output.write_table(tmp_path / "table.csv", table)
    third = {"float32": "0.33333334", "float64": "0.3333333333333333"}[dtype]
    assert (tmp_path / "table.csv").read_text() == f"x,id\n0.1,007\n{third},1e3\n1e-30,x\n3.0,y\n,z\n"


def test_json_gives_back_what_was_written(tmp_path):
    content = {"l2": [0.1, 1e-300, 0.1 + 0.2], "name": "λ", "none": None, "yes": True, "count": 3}
    output.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "λ" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.float32(0.5), 0.5), (jnp.float32(0.5), 0.5), (np.int64(3), 3), (jnp.arange(3), [0, 1, 2])],
    ids=["numpy", "jax", "int", "array"],
)
def test_json_takes_the_numbers_that_a_hyper_may_hold(tmp_path, value, expected):
    output.write_json(tmp_path / "x.json", {"l2": value})
    assert json.loads((tmp_path / "x.json").read_text()) == {"l2": expected}


@pytest.fixture
def small() -> Dataset:
    return datasets.synthetic(num_users=5, num_items=4, num_ratings=20)


def test_manifest(monkeypatch, small):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/jaxmf", "study", "--rank", "4"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # that of pytest, if it was started by python -m
    found = output.manifest(small.describe(), {"rank": 4}, seed=7)
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == "jaxmf study --rank 4"
    assert found["configuration"] == {"rank": 4}
    assert found["data"] == {
        "name": "synthetic",
        "num_users": 5,
        "num_items": 4,
        "num_ratings": 20,
        "fingerprint": small.fingerprint(),
    }
    assert found["versions"].keys() >= {"python", "jaxmf", "jax", "jaxlib", "optax", "numpy"}
    assert "cpu" in found["device"] or "cuda" in found["device"]
    assert (found["dtype"], found["seed"]) == ("float64", 7)
    assert found["git_commit"] is None or len(found["git_commit"]) >= 7


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch, small):
    """Dirty if the package's own files changed, not if results beside them did; none in another project's checkout."""
    package = tmp_path / "package"
    here = package / "files" / "output.py"
    here.parent.mkdir(parents=True)
    here.write_text("1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]

    def commit() -> str | None:
        return output.manifest(small.describe(), {}, seed=0)["git_commit"]

    monkeypatch.setattr(output, "__file__", str(here))
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit() is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    head = commit()
    assert re.fullmatch("[0-9a-f]{12}", head)
    (tmp_path / "results.csv").write_text("2\n")
    assert commit() == head
    (package / "other.py").write_text("3\n")
    assert commit() == f"{head}-dirty"


def test_without_git_there_is_no_commit(monkeypatch, small):
    monkeypatch.setenv("PATH", "/nowhere")
    assert output.manifest(small.describe(), {}, seed=0)["git_commit"] is None


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "table.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "elsewhere" / "table.csv")
    output.write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "elsewhere" / "table.csv").read_text() == "new"
    reading, writing = os.pipe()
    output.write_text(Path(f"/dev/fd/{writing}"), "piped")
    assert os.read(reading, 9) == b"piped"
    os.close(reading)
    os.close(writing)
    output.write_text(Path("/dev/null"), "lost")
    assert Path("/dev/null").is_char_device()


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    """Not a temporary one, and of a full disk too, where Python names none."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "fit.npz"
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        output.write(path, full)
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(f": '{path}'")):
        output.write_text(path, "text")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=re.escape(f"is a file; expected a folder: '{tmp_path / 'file'}'")):
        output.write_text(tmp_path / "file" / "text.md", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "fit.npz"]


def test_many_writers_at_once_change_no_permissions(tmp_path):
    """The mask of new files is the whole process's, so that nobody may set it, not even for a moment."""
    mask = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: output.write_text(tmp_path / f"{n}.md", "text"), range(200)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
