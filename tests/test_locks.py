"""One run at a time has a folder, whatever becomes of it; what dead writers left goes, what live ones write stays."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import HYPER, KEY, MODELS, SOLVERS, shell

from jaxmf import models, search, sweep
from jaxmf.files import output
from jaxmf.files.locks import Claimed, claimed, temporary
from jaxmf.sweeps import batches, store

WRITER = """
import sys
from pathlib import Path
from jaxmf.files.locks import claimed, temporary
with claimed(sys.argv[1]) as folder, temporary(folder.path / "members" / "batch-00000.npz") as unfinished:
    unfinished.write_text("half of")
    print("ready", flush=True)
    sys.stdin.read()
"""
SWEEP: dict[str, Any] = {"grid": {"l2": [0.1, 0.2, 0.3]}, "hyper": HYPER, "epochs": 2}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_lock_of_a_process_names_it_and_dies_with_it(tmp_path):
    (tmp_path / "members").mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        message = rf"{tmp_path} is in use by process {process.pid} on \S+ since .* \(.*\)\. Wait until it is done, or "
        with pytest.raises(ValueError, match=message + "give another out="), claimed(tmp_path):
            pass
        with pytest.raises(ValueError, match=message + "give another --out"), claimed(tmp_path, "--out"):
            pass
        assert len(names(tmp_path / "members")) == 1
        process.kill()
        process.wait()
        with claimed(tmp_path) as folder:
            assert folder == Claimed(tmp_path, "out=")
            assert names(tmp_path) == [".jaxmf.lock"], "what it was writing is gone"
    assert names(tmp_path) == []


def test_of_those_that_start_at_once_one_has_the_folder(tmp_path):
    """The file of the lock comes and goes all the while."""
    barrier, inside, most, refused = threading.Barrier(4), [], [], []

    def run(_):
        barrier.wait()
        for _ in range(100):
            try:
                with claimed(tmp_path / "new"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except ValueError:
                refused.append(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert len(most) + len(refused) == 400
    assert max(most) == 1


def test_a_lock_that_was_just_removed_is_no_lock(tmp_path, monkeypatch):
    """Whoever had it removes the file between the moments in which another opens it and locks it."""
    flock = fcntl.flock
    removed: list[Any] = []

    def late(handle, how):
        if not removed:
            removed.append((tmp_path / ".jaxmf.lock").unlink())
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(tmp_path):
        assert (tmp_path / ".jaxmf.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert removed


def test_a_folder_that_was_just_removed_is_made_anew(tmp_path, monkeypatch):
    """Whoever had it removes it before another, to whom it was there, looks whether it is a folder."""
    mkdir = os.mkdir
    late: list[Any] = []

    def there(path, *args):
        if not late:
            late.append(path)
            raise FileExistsError(path)
        mkdir(path, *args)

    monkeypatch.setattr(os, "mkdir", there)
    with claimed(tmp_path / "new"):
        assert (tmp_path / "new" / ".jaxmf.lock").exists()
    assert late
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError), claimed(tmp_path / "link"):
        pass


def test_what_is_refused_leaves_no_folder(ratings, tmp_path):
    with pytest.raises(ValueError, match="epochs must be a positive integer"):
        sweep(KEY, MODELS["biased"], SOLVERS["adam"], ratings, grid={"l2": [0.1]}, epochs=0, out=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_over_goes_and_what_is_being_written_stays(tmp_path):
    left = [".metrics-jaxmf-0123abcd.csv", "figures/.panel-jaxmf-00000000.png", ".fit-jaxmf-ffffffff"]
    own = [".config-personal.json", ".notes-jaxmf-mine.md", "members/deep/.chunk-jaxmf-0123abcd.npz", "fit.npz"]
    for name in left + own:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with temporary(tmp_path / "fit.npz") as live:
        live.write_text("new")
        with claimed(tmp_path):
            assert names(tmp_path) == sorted([*own, ".jaxmf.lock", live.name])
        os.replace(live, tmp_path / "fit.npz")
    assert (tmp_path / "fit.npz").read_text() == "new"
    assert names(tmp_path) == sorted(own)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, code):
    def flock(handle, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".metrics-jaxmf-0123abcd.csv").touch()
    with pytest.warns(UserWarning, match="a file system without locks: make sure that no other"), claimed(tmp_path):
        output.write_text(tmp_path / "text.md", "whole")
    assert names(tmp_path) == [".metrics-jaxmf-0123abcd.csv", "text.md"], "nobody knows whether it is being written"


def test_every_tool_with_a_folder_claims_it(ratings, valid, tmp_path):
    given = (KEY, MODELS["biased"], SOLVERS["adam"], ratings, valid)
    with claimed(tmp_path):
        for call in (
            lambda: sweep(*given, **SWEEP, out=tmp_path),
            lambda: search.halving(*given, **SWEEP | {"epochs": 9}, out=str(tmp_path)),
            lambda: search.refit(None, SOLVERS["als"], ratings, valid, out=tmp_path),
        ):
            with pytest.raises(ValueError, match=f"{tmp_path} is in use by process {os.getpid()} .*another out="):
                call()
    assert names(tmp_path) == []


@pytest.mark.parametrize("command", ["study", "fit", "sweep", "verify", "evaluate"])
def test_every_command_with_a_folder_claims_it(tmp_path, command, monkeypatch):
    table = tmp_path / "ratings.csv"
    table.write_text("user_id,item_id,rating\n" + "".join(f"{u},{i},{u + i}\n" for u in range(4) for i in range(5)))
    from jaxmf import Dataset

    train = Dataset.from_csv(table)
    fit = SimpleNamespace(model=models.biased_mf(2))
    monkeypatch.setattr("jaxmf.shell.choices.kept", lambda *_: (fit, train))
    with claimed(tmp_path):
        ended = shell(command, "--data", table, "--out", tmp_path)
    assert ended.code == 2
    assert f"jaxmf: {tmp_path} is in use by process {os.getpid()} on " in ended.err
    assert ended.err.strip().endswith("Wait until it is done, or give another --out")
    assert names(tmp_path) == ["ratings.csv"]


@pytest.mark.slow
def test_a_full_disk_ends_a_sweep_and_its_threads(ratings, valid, tmp_path, monkeypatch):
    """What was not begun is not fitted; what is finished is read again."""
    given, fitted = (KEY, MODELS["biased"], SOLVERS["adam"], ratings, valid), []

    def fit_batch(shared, batch, data, earlier, begun):
        fitted.append(batch.number)
        return batches.fit_batch(shared, batch, data, earlier, begun)

    def write(folder, number, results):
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        store_write(folder, number, results)

    store_write = store.write
    monkeypatch.setattr("jaxmf.sweeps._run.fit_batch", fit_batch)
    monkeypatch.setattr(store, "write", write)
    options: dict[str, Any] = SWEEP | {"grid": {"l2": list(np.linspace(0.1, 1, 30))}, "workers": 1, "out": tmp_path}
    with pytest.raises(OSError, match="No space left on device") as caught:
        sweep(*given, **options)
    assert len(fitted) < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
    assert not (tmp_path / ".jaxmf.lock").exists()
    begun = set(fitted)
    del caught
    monkeypatch.setattr(store, "write", store_write)
    fitted.clear()
    assert len(sweep(*given, **options).to_frame()) == 30
    assert set(fitted) == set(range(30)) - {0, 1}
    assert {0, 1, 2} <= begun
