"""Read the files that `archive` writes, strictly: a file from any source is read completely or refused.

The sizes that a file claims are checked before memory is allocated: a member cannot inflate to more than its header
says, and the header cannot claim more than the compressed bytes could contain.
"""

import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxmf.files.archive import FORMAT, HEADER, VERSION, Arrays, named_dtype, stored

_BLOCK = 1 << 20  # bytes that are read at once
_MAX_RATIO = 1032  # the largest ratio of inflated to compressed bytes that deflate reaches
_HEADER_BYTES, _HEADER_VALUES = 1 << 20, 1 << 16  # maximum size of a header, beyond what grows with the file
_MAX_NPY = 10_000  # maximum number of bytes before an array's content
_CHANGED = "the file was changed. Copy it or save it again"
_NPY = re.compile(rb"\{'descr': '([^'\\]{1,40})', 'fortran_order': False, 'shape': \(([\d, ]{0,400})\), \} *\n")
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ArithmeticError, struct.error)


def read(path: Path, form: str = FORMAT) -> tuple[dict[str, Any], Arrays]:
    """Return the header and the arrays that `archive.write` wrote.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: from the file system.
      ValueError: the path is a pipe or a device; it is not a zip, or one that is truncated, from another program or
        from a later version; a member is missing, unlisted, duplicated, encrypted, corrupted, compressed by another
        method, or differs from its header in dtype, shape or size.

    Cost: the memory of the arrays, plus one megabyte at a time.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for a writer
        raise ValueError("it is a pipe or a device; expected a file that jaxmf.save wrote")
    with open(path, "rb") as file:
        return unpacked(file, form)


def unpacked(file: BinaryIO, form: str = FORMAT) -> tuple[dict[str, Any], Arrays]:
    """Return the header and the arrays of an open file; see `read`."""
    size = file.seek(0, os.SEEK_END)
    with _opened(file) as zipped:
        infos = _infos(zipped, size)
        header = _header(zipped, infos.pop(HEADER, None), size, form)
        expected = _expected(header)
        for name in expected:
            if f"{name}.npy" not in infos:
                raise ValueError(f"its member {name:.80}.npy is missing: {_CHANGED}")
        if len(infos) > len(expected):
            unlisted = next(name for name in infos if name.removesuffix(".npy") not in expected)
            raise ValueError(f"it has a member {unlisted!r:.80} that its {HEADER} does not list: {_CHANGED}")
        return header, {
            name: _array(zipped, infos[f"{name}.npy"], dtype, shape) for name, (dtype, shape) in expected.items()
        }


def parse(text: bytes | bytearray) -> Any:
    """Parse JSON in UTF-8; raise ValueError for anything else, also if it is nested deeper than Python can recurse."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"it has the number {constant}, which JSON does not allow")

    try:
        return json.loads(text.decode(), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    file.seek(0)
    begins_as_zip = file.read(4) == b"PK\x03\x04"
    try:
        return zipfile.ZipFile(file)
    except (*_ERRORS, ValueError, LookupError) as error:
        if begins_as_zip:
            raise ValueError(
                "it begins as a zip file but has no end: it is truncated. Copy it or save it again"
            ) from error
        raise ValueError("it is not a zip file; expected one that jaxmf.save wrote") from error


def _infos(zipped: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the zip's entries by name; raise ValueError for what `write` never writes, such as impossible sizes."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in zipped.infolist():
        member = f"its member {info.filename:.80}"
        if info.filename in infos:
            raise ValueError(f"{member} is present twice: {_CHANGED}")
        if info.flag_bits & 1:
            raise ValueError(f"{member} is encrypted: {_CHANGED}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member} is compressed by another method than jaxmf.save uses: {_CHANGED}")
        max_ratio = _MAX_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
        if info.file_size > max_ratio * info.compress_size:
            raise ValueError(
                f"{member} is corrupted ({info.compress_size} bytes cannot contain {info.file_size}). Copy it or save "
                "it again"
            )
        infos[info.filename] = info
    if sum(info.compress_size for info in infos.values()) > size:
        raise ValueError(f"its members overlap: {_CHANGED}")
    return infos


def _header(zipped: zipfile.ZipFile, info: zipfile.ZipInfo | None, size: int, form: str) -> dict[str, Any]:
    """Return the parsed header; raise ValueError unless it is of this format and of a version that can be read."""
    if info is None:
        raise ValueError(f"it is a zip file without {HEADER}; expected one that jaxmf.save wrote")
    if info.file_size > _HEADER_BYTES + size:
        raise ValueError(f"its {HEADER} has {info.file_size} bytes, more than its arrays account for: {_CHANGED}")
    text = _content(zipped, info)
    if sum(text.count(mark) for mark in b",[{") > _HEADER_VALUES + size // 32:
        raise ValueError(f"its {HEADER} lists more than its arrays account for: {_CHANGED}")
    try:
        header: dict[str, Any] = parse(text)
        name, version = header["format"], header["version"]
        if type(name) is not str or type(version) is not int or version < 1:
            raise ValueError("no format")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"its {HEADER} names no format; expected a file that jaxmf.save wrote") from error
    if name != form:
        raise ValueError(f"its {HEADER} names the format {name[:40]!r}; expected {form!r}")
    if version > VERSION:
        raise ValueError(
            f"it has format version {version!s:.20}, written by jaxmf {header.get('jaxmf')!s:.20}; this jaxmf "
            f"{metadata.version('jaxmf')} reads up to {VERSION}: update jaxmf"
        )
    return header


def _expected(header: dict[str, Any]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each array by name, as the header lists them."""
    expected = {}
    try:
        for name, text in header["arrays"].items():
            dtype, *shape = text.split(" ")
            if len(shape) > 32 or not all(re.fullmatch("[0-9]{1,15}", length) for length in shape):
                raise ValueError(f"{text:.80} is not a shape")
            expected[name] = named_dtype(dtype), tuple(map(int, shape))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its {HEADER} does not list its arrays: the file was changed") from error
    return expected


def _array(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Read the array in a member; raise ValueError unless it has this dtype and shape."""
    member, expected = f"its member {info.filename:.80}", f"{dtype}{list(shape)}"
    num_bytes = dtype.itemsize * math.prod(shape)
    if info.file_size > num_bytes + _MAX_NPY:
        raise ValueError(f"{member} has {info.file_size} bytes, but its header says {expected}: the file was changed")
    content = _content(zipped, info)
    start = 10 + int.from_bytes(content[8:10], "little")
    match = _NPY.fullmatch(content[10:start])
    if content[:8] != b"\x93NUMPY\x01\x00" or match is None:
        raise ValueError(f"{member} is not an array as jaxmf.save writes it. Save it again")
    descr = match[1].decode("latin1")
    lengths = tuple(int(length) for length in match[2].decode().split(",") if length.strip())
    if (descr, lengths) != (stored(dtype).str, shape):
        actual = f"{_readable(descr)}{list(lengths)}"
        raise ValueError(f"{member} is {actual}, but its header says {expected}: the file was changed")
    if len(content) != start + num_bytes:
        raise ValueError(f"{member} has {len(content) - start} bytes, but {expected} has {num_bytes}: {_CHANGED}")
    array = np.frombuffer(content, stored(dtype), offset=start).reshape(shape)
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{member} has booleans other than 0 and 1: {_CHANGED}")
    return array.view(dtype)


def _readable(descr: str) -> str:
    try:
        return str(named_dtype(descr))
    except ValueError:
        return descr


def _content(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    """Return the bytes of a member, exactly as many as the zip says it has."""
    content = bytearray()
    try:
        with zipped.open(info) as stream:
            # `stream.read` inflates no more than the requested block; reading the last block verifies the checksum.
            while block := stream.read(min(_BLOCK, info.file_size - len(content))):
                content += block
        if len(content) < info.file_size:
            raise EOFError(f"it ends after {len(content)} of {info.file_size} bytes")
    except (*_ERRORS, ValueError, OSError) as error:
        raise ValueError(f"its member {info.filename:.80} is corrupted ({error}). Copy it or save it again") from error
    return content
