"""One run at a time writes a folder: locks that end with the process that holds them, and what dead writers left."""

import errno
import os
import secrets
import socket
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

_LOCK = ".jaxmf.lock"
_MARK = "-jaxmf-"  # between the name of a file and the digits that tell its temporary files apart
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # other errors: there are no locks here
_MAX_OWNER = 500  # characters of what the owner of a lock says of itself


class Claimed(NamedTuple):
    """A folder that a run has for itself, as a path, and what its user calls it: `out=`, or `--out` in a shell."""

    path: Path
    option: str

    def __fspath__(self) -> str:
        return str(self.path)


@contextmanager
def claimed(folder: str | os.PathLike[str] | None, option: str = "out=") -> Iterator[Claimed | None]:
    """Have a folder for oneself: made if it is not there, rid of what dead writers left, and locked.

    The lock is the kernel's (`flock`), so that it ends with the process, however that ends, and number and name of a
    process mean nothing; they are in the file for whoever finds it locked. On NFS it holds between machines. A thread
    is refused as another process is.

    Args:
      folder: the folder; None for none, and one that is claimed already stays with whoever claimed it.
      option: what messages call it.

    Raises:
      ValueError: it is no folder, or another run has it; the message says which, and what to do.
      OSError: what the file system says.

    Warns where the file system has no locks.
    """
    if folder is None or isinstance(folder, Claimed):
        yield folder
        return
    try:
        path = Path(folder)
    except TypeError as error:
        raise ValueError(f"{option} must be the path of a folder, not {folder!r:.50}") from error
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path} is a file; expected a folder")
    missing = [part for part in (path, *path.parents) if not part.exists()]
    try:
        handle = _take_in(path)
    except _NoLocksError:
        handle = None
        (path / _LOCK).unlink(missing_ok=True)
        text = f"{path} lies on a file system without locks: see to it that no other run writes there"
        warnings.warn(text, stacklevel=4)
    else:
        if handle is None:
            raise ValueError(
                f"{path} is in use by {_owner(path / _LOCK)}. Wait until it is done, or give another {option}"
            )
        os.truncate(handle, 0)
        os.write(handle, f"{_myself()}\n".encode())
    try:
        _remove_unfinished(path)
        yield Claimed(path, option)
    finally:
        if handle is not None:
            _let_go(path / _LOCK, handle)
        for part in missing:  # what was refused before it wrote anything leaves nothing
            with suppress(OSError):
                part.rmdir()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path` with its suffix, to be renamed to it; what is still there in the end is removed.

    It is locked, so that `claimed` tells it from what a dead writer left; on Windows, where a file that is open cannot
    be renamed, it is not.
    """
    while True:
        name = path.with_name(f".{path.stem[:100]}{_MARK}{secrets.token_hex(4)}{path.suffix}")
        try:
            handle = os.open(name, os.O_CREAT | os.O_EXCL) if sys.platform == "win32" else _take(name)
        except _NoLocksError:
            handle = os.open(name, os.O_CREAT, 0o666)
        if handle is not None:
            break
    if sys.platform == "win32":
        os.close(handle)
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)
        if sys.platform != "win32":
            os.close(handle)


class _NoLocksError(Exception):
    """The file system has no locks."""


def _take_in(folder: Path) -> int | None:
    """The lock of a folder, which is made if it is not there."""
    while True:
        with suppress(FileNotFoundError):  # whoever had made the folder has just removed it: once more
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:  # so it is no folder, or it was removed before `mkdir` looked what it is
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    raise
            return _take(folder / _LOCK)


def _take(path: Path) -> int | None:
    """The file, made if need be, open and locked; None if somebody else has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                os.close(handle)
                return None
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:  # whoever had it has just removed it: once more
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; False if somebody else has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond the text, which others are to read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise _NoLocksError from error
    return True


def _let_go(path: Path, handle: int) -> None:
    if sys.platform != "win32":  # there a file that is open cannot be removed
        path.unlink(missing_ok=True)
    os.close(handle)


def _myself() -> str:
    """Who holds a lock, in the words of a message."""
    now = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now} ({command()})"


def _owner(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_OWNER).strip() or "another run"
    except OSError:
        return "another run"


def _remove_unfinished(folder: Path) -> None:
    """Remove what writers that died left in the folder and in those that lie in it; what is locked is being written."""
    pattern = f".*{_MARK}{'[0-9a-f]' * 8}*"
    if sys.platform != "win32":
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            with suppress(OSError, _NoLocksError):
                handle = _take(path)
                if handle is not None:
                    _let_go(path, handle)


def command() -> str:
    """The command of this process."""
    module: Any = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])
