"""Files of arrays, read as strictly as `archive` writes them: whoever wrote a file, it is read whole or refused.

What a file says of itself is compared before memory is spent on it: a member cannot inflate to more than its header
says, nor that be more than so many compressed bytes can hold.
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

from jaxmf.archive import FORMAT, HEADER, VERSION, Arrays, named_dtype, stored

_BLOCK = 1 << 20  # bytes that are read at once
_RATIO = 1032  # bytes that deflate makes of one, at most
_HEADER_BYTES, _HEADER_VALUES = 1 << 20, 1 << 16  # of a header, at most, beside what grows with the file
_MAX_NPY = 10_000  # bytes before the numbers of an array, at most
_CHANGED = "the file was changed. Copy it or save it anew"
_NPY = re.compile(rb"\{'descr': '([^'\\]{1,40})', 'fortran_order': False, 'shape': \(([\d, ]{0,400})\), \} *\n")
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ArithmeticError, struct.error)


def read(path: Path, form: str = FORMAT) -> tuple[dict[str, Any], Arrays]:
    """What `archive.write` wrote: header and arrays.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: what the file system says.
      ValueError: not a file; not a zip, a truncated one, somebody else's, or one of a later version; a member that is
        missing, too many, there twice, encrypted, corrupted, compressed by another method, or of another dtype, shape
        or size than the header says.

    Cost: the arrays, and a megabyte at once beside them.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for
        raise ValueError("it is a pipe or a device; expected a file that jaxmf.save wrote")
    with open(path, "rb") as file:
        return unpacked(file, form)


def unpacked(file: BinaryIO, form: str = FORMAT) -> tuple[dict[str, Any], Arrays]:
    """`read` of a file that is open."""
    size = file.seek(0, os.SEEK_END)
    with _opened(file) as zipped:
        infos = _infos(zipped, size)
        header = _header(zipped, infos.pop(HEADER, None), size, form)
        expected = _expected(header)
        for name in expected:
            if f"{name}.npy" not in infos:
                raise ValueError(f"its member {name:.80}.npy is missing: {_CHANGED}")
        if len(infos) > len(expected):
            other = next(name for name in infos if name.removesuffix(".npy") not in expected)
            raise ValueError(f"it has a member {other!r:.80} that its {HEADER} does not list: {_CHANGED}")
        return header, {name: _array(zipped, infos[f"{name}.npy"], *what) for name, what in expected.items()}


def parse(text: bytes | bytearray) -> Any:
    """JSON, in UTF-8 and no deeper than Python's own stack; a ValueError for anything else."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"it has the number {constant}, which JSON has not")

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
                "it begins as a zip file but has no end: it is truncated. Copy it or save it anew"
            ) from error
        raise ValueError("it is not a zip file; expected one that jaxmf.save wrote") from error


def _infos(zipped: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """What the zip says of its members, by name, if it can be true of a file of this size."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in zipped.infolist():
        member = f"its member {info.filename:.80}"
        if info.filename in infos:
            raise ValueError(f"{member} is there twice: {_CHANGED}")
        if info.flag_bits & 1:
            raise ValueError(f"{member} is encrypted: {_CHANGED}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member} is compressed by another method than jaxmf.save uses: {_CHANGED}")
        ratio = _RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1
        if info.file_size > ratio * info.compress_size:
            raise ValueError(f"{member} is corrupted (so few bytes cannot hold so many). Copy it or save it anew")
        infos[info.filename] = info
    if sum(info.compress_size for info in infos.values()) > size:
        raise ValueError(f"its members overlap: {_CHANGED}")
    return infos


def _header(zipped: zipfile.ZipFile, info: zipfile.ZipInfo | None, size: int, form: str) -> dict[str, Any]:
    if info is None:
        raise ValueError(f"it is a zip file without {HEADER}; expected one that jaxmf.save wrote")
    if info.file_size > _HEADER_BYTES + size:
        raise ValueError(f"its {HEADER} has {info.file_size} bytes, more than its arrays account for: {_CHANGED}")
    text = _content(zipped, info)
    if sum(text.count(mark) for mark in b",[{") > _HEADER_VALUES + size // 32:
        raise ValueError(f"its {HEADER} lists more than its arrays account for: {_CHANGED}")
    try:
        header = parse(text)
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
    """Dtypes and shapes of the arrays, by name."""
    found = {}
    try:
        for name, text in header["arrays"].items():
            dtype, *shape = text.split(" ")
            if len(shape) > 32 or not all(re.fullmatch("[0-9]{1,15}", length) for length in shape):
                raise ValueError(f"{text:.80} is no shape")
            found[name] = named_dtype(dtype), tuple(map(int, shape))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its {HEADER} does not list its arrays: the file was changed") from error
    return found


def _array(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    member, expected = f"its member {info.filename:.80}", f"{dtype}{list(shape)}"
    num_bytes = dtype.itemsize * math.prod(shape)
    if info.file_size > num_bytes + _MAX_NPY:
        raise ValueError(f"{member} has {info.file_size} bytes, its header says {expected}: the file was changed")
    content = _content(zipped, info)
    start = 10 + int.from_bytes(content[8:10], "little")
    match = _NPY.fullmatch(content[10:start])
    if content[:8] != b"\x93NUMPY\x01\x00" or match is None:
        raise ValueError(f"{member} is no array as jaxmf.save writes it. Save it anew")
    found = match[1].decode("latin1"), tuple(int(length) for length in match[2].decode().split(",") if length.strip())
    if found != (stored(dtype).str, shape):
        seen = f"{_readable(found[0])}{list(found[1])}"
        raise ValueError(f"{member} is {seen}, its header says {expected}: the file was changed")
    if len(content) != start + num_bytes:
        raise ValueError(f"{member} has {len(content) - start} bytes, {expected} has {num_bytes}: {_CHANGED}")
    array = np.frombuffer(content, stored(dtype), offset=start).reshape(shape)
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{member} has truth values other than 0 and 1: {_CHANGED}")
    return array.view(dtype)


def _readable(descr: str) -> str:
    try:
        return str(named_dtype(descr))
    except ValueError:
        return descr


def _content(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    """The bytes of a member, as many as the zip says it has."""
    content = bytearray()
    try:
        with zipped.open(info) as stream:
            # Of a block at a time no more is inflated than that; the last one compares the checksum.
            while block := stream.read(min(_BLOCK, info.file_size - len(content))):
                content += block
        if len(content) < info.file_size:
            raise EOFError(f"it ends after {len(content)} of {info.file_size} bytes")
    except (*_ERRORS, ValueError, OSError) as error:
        raise ValueError(f"its member {info.filename:.80} is corrupted ({error}). Copy it or save it anew") from error
    return content
