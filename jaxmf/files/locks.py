"""Let one run at a time write to a folder: locks that end with their process, and removal of dead writers' files."""

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
_MARK = "-jaxmf-"  # between a file's name and the digits that make the names of its temporary files unique
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # any other error means that there are no locks
_MAX_HOLDER = 500  # characters of a lock holder's description of itself that a message shows


class Claimed(NamedTuple):
    """A folder locked by this run: its path, and the option that named it, `out=` or `--out` in a shell."""

    path: Path
    option: str

    def __fspath__(self) -> str:
        return str(self.path)


@contextmanager
def claimed(folder: str | os.PathLike[str] | None, option: str = "out=") -> Iterator[Claimed | None]:
    """Create a folder if it does not exist, lock it, and remove the temporary files that dead writers left in it.

    The lock is the kernel's (`flock`), so it ends with the process, however that ends. The process number and command
    in the lock file only inform whoever finds it locked. On NFS the lock also holds between machines. Another thread
    of the same process is refused like another process.

    Args:
      folder: the folder. None yields None, and a folder that is already claimed is yielded unchanged.
      option: name of the argument in messages.

    Raises:
      ValueError: the path is not a folder, or another run has locked it; the message says which run and what to do.
      OSError: from the file system.

    Warns if the file system has no locks.
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
        handle = _lock_folder(path)
    except _NoLocksError:
        handle = None
        (path / _LOCK).unlink(missing_ok=True)
        text = f"{path} is on a file system without locks: make sure that no other run writes there"
        warnings.warn(text, stacklevel=4)
    else:
        if handle is None:
            raise ValueError(
                f"{path} is in use by {_read_holder(path / _LOCK)}. Wait until it is done, or give another {option}"
            )
        os.truncate(handle, 0)
        os.write(handle, f"{_describe_process()}\n".encode())
    try:
        _remove_unfinished(path)
        yield Claimed(path, option)
    finally:
        if handle is not None:
            _release(path / _LOCK, handle)
        for part in missing:  # remove the folders created here if nothing was written to them
            with suppress(OSError):
                part.rmdir()


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Create a temporary file beside `path`, with its suffix, to be renamed to `path`; remove it if it was not.

    The file is locked, so that `claimed` can tell it from those of dead writers; but not on Windows, where an open file
    cannot be renamed.
    """
    while True:
        name = path.with_name(f".{path.stem[:100]}{_MARK}{secrets.token_hex(4)}{path.suffix}")
        try:
            handle = os.open(name, os.O_CREAT | os.O_EXCL) if sys.platform == "win32" else _lock_path(name)
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


def _lock_folder(folder: Path) -> int | None:
    """Create a folder if need be and lock it; return the handle, or None if another run holds the lock."""
    while True:
        with suppress(FileNotFoundError):  # another run has just removed the folder: try again
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:  # it is not a folder, or it was removed before `mkdir` checked whether it is
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    raise
            return _lock_path(folder / _LOCK)


def _lock_path(path: Path) -> int | None:
    """Open a file, created if need be, and lock it; return the handle, or None if another run holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock_handle(handle):
                os.close(handle)
                return None
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:  # the previous holder has just removed the file: try again
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_handle(handle: int) -> bool:
    """Lock an open file without waiting; return False if another run holds the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # lock a byte beyond the text, which others must be able to read
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


def _release(path: Path, handle: int) -> None:
    """Remove a lock file and close it, which ends the lock."""
    if sys.platform != "win32":  # Windows cannot remove an open file
        path.unlink(missing_ok=True)
    os.close(handle)


def _describe_process() -> str:
    """Describe this process as the holder of a lock, for other runs' messages."""
    now = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now} ({command()})"


def _read_holder(path: Path) -> str:
    """Return the description of the process that holds a lock."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_HOLDER).strip() or "another run"
    except OSError:
        return "another run"


def _remove_unfinished(folder: Path) -> None:
    """Remove dead writers' temporary files from a folder and the folders in it; a locked file is still in use."""
    pattern = f".*{_MARK}{'[0-9a-f]' * 8}*"
    if sys.platform != "win32":
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            with suppress(OSError, _NoLocksError):
                handle = _lock_path(path)
                if handle is not None:
                    _release(path, handle)


def command() -> str:
    """Return the command line of this process."""
    module: Any = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])
