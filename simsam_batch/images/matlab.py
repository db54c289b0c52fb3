"""One field of the structures in a MATLAB file, read within a bound and without trust in what the file states."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 128
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL, _STRUCTURE, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 6, 15
_COMPLEX = 0x800
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MOST_AXES = 32
_MOST_PARTS = 1000
_LONGEST_NAMES = 1 << 16

ByteOrder = Literal["<", ">"]


@dataclass(frozen=True, slots=True)
class _Array:
    """The header of an array, and where its contents are."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: bytes
    start: int
    stop: int


def field_of_cells(data: bytes, variable: str, field: str, most_bytes: int) -> list[list[NDArray[Any]] | None]:
    """A field of the structures that a cell array of a MATLAB file holds.

    Read here, since SciPy's reader ends the process on some damaged files (1.17). What is asked for has three levels,
    so that nothing nests without end; compression is undone within a bound; sizes are compared with the bytes that are
    there before anything is made of them. Level 5 of the format is read, as MATLAB's ``save -v6`` and ``-v7`` write it
    (MATLAB, "MAT-File Format", chapter 1).

    Args:
        data: the file.
        variable: name of the cell array.
        field: of the structures.
        most_bytes: that the file may unpack to.

    Returns:
        For each cell the field of its structures, each an array of numbers in the type in which they are stored, or of
        objects where it has no real numbers; None for a cell, or a variable, that is of another kind or has no such
        field. No cell where there is no such variable.

    Raises:
        ValueError: not such a file, damaged, or larger when unpacked; says which.
    """
    order = _byte_order(data)
    plain = _unpacked(data, order, most_bytes)
    for held in _arrays(plain, order, 0, len(plain)):
        if held.name == variable.encode():
            if held.kind != _CELL:
                return [None]
            cells = list(_arrays(plain, order, held.start, held.stop))
            if len(cells) != math.prod(held.shape):
                raise ValueError("it is cut short")
            return [_field(plain, order, cell, field.encode()) for cell in cells]
    return []


def _byte_order(data: bytes) -> ByteOrder:
    version, mark = data[124:126], data[126:_HEADER_BYTES]
    if (version, mark) == (b"\x00\x01", b"IM"):
        return "<"
    if (version, mark) == (b"\x01\x00", b"MI"):
        return ">"
    raise ValueError("it is no MATLAB file of level 5, as save -v7 and save -v6 write them")


def _unpacked(data: bytes, order: ByteOrder, most_bytes: int) -> bytes:
    """The variables of a file, without compression."""
    contents: list[bytes] = []
    left, following = most_bytes, _HEADER_BYTES
    while following < len(data):
        at = following
        kind, start, stop, following = _element(data, order, at, len(data), padded=False)
        content = data[at:following]
        if kind == _COMPRESSED:
            try:
                content = zlib.decompressobj().decompress(data[start:stop], left + 1)
            except zlib.error as error:
                raise ValueError(f"its compressed data are damaged: {error}") from error
        left -= len(content)
        if left < 0:
            raise ValueError(f"it unpacks to more than {most_bytes} bytes")
        contents.append(content + bytes(-len(content) % 8))
    return b"".join(contents)


def _element(data: bytes, order: ByteOrder, at: int, end: int, *, padded: bool = True) -> tuple[int, int, int, int]:
    """The kind of the element at a position, where its contents begin and end, and where the next one begins."""
    if at + 8 > end:
        raise ValueError("it is cut short")
    kind, size = struct.unpack_from(order + "II", data, at)
    start = at + 8
    if kind >> 16:
        # A small element: its size and kind share four bytes, and its contents are the other four.
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
    stop = start + size
    following = at + 8 if start == at + 4 else stop + (-size % 8 if padded else 0)
    if stop > min(following, end):
        raise ValueError("it is cut short")
    return kind, start, stop, following


def _arrays(data: bytes, order: ByteOrder, at: int, end: int) -> Iterator[_Array]:
    """The arrays that follow each other in a part of a file."""
    count = 0
    while at < end:
        kind, start, stop, at = _element(data, order, at, end)
        count += 1
        if kind != _MATRIX or count > _MOST_PARTS:
            raise ValueError(f"it has other contents than arrays, or more than {_MOST_PARTS} of them")
        yield _array(data, order, start, stop) if stop > start else _Array(0, False, (), b"", start, stop)


def _array(data: bytes, order: ByteOrder, start: int, stop: int) -> _Array:
    kind, flags, flags_stop, at = _element(data, order, start, stop)
    sizes_kind, sizes, sizes_stop, at = _element(data, order, at, stop)
    _, name, name_stop, at = _element(data, order, at, stop)
    rank = (sizes_stop - sizes) // 4
    if (kind, flags_stop - flags, sizes_kind) != (_UINT32, 8, _INT32) or not 2 <= rank <= _MOST_AXES:
        raise ValueError("an array of it does not begin with its class and size")
    (word,) = struct.unpack_from(order + "I", data, flags)
    shape = struct.unpack_from(f"{order}{rank}i", data, sizes)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of it states the size {'x'.join(map(str, shape))}")
    return _Array(word & 0xFF, bool(word & _COMPLEX), shape, data[name:name_stop], at, stop)


def _field(data: bytes, order: ByteOrder, cell: _Array, field: bytes) -> list[NDArray[Any]] | None:
    if cell.kind != _STRUCTURE:
        return None
    kind, start, stop, at = _element(data, order, cell.start, cell.stop)
    _, names, names_stop, at = _element(data, order, at, cell.stop)
    if kind != _INT32 or stop - start != 4 or names_stop - names > _LONGEST_NAMES:
        raise ValueError("a structure of it does not begin with the names of its fields")
    (length,) = struct.unpack_from(order + "i", data, start)
    if length < 1:
        raise ValueError(f"the names of a structure of it have {length} letters")
    known = [data[i : i + length].partition(b"\0")[0] for i in range(names, names_stop, length)]
    held = list(_arrays(data, order, at, cell.stop))
    if len(held) != math.prod(cell.shape) * len(known):
        raise ValueError("it is cut short")
    if field not in known:
        return None
    return [_numbers(data, order, array) for array in held[known.index(field) :: len(known)]]


def _numbers(data: bytes, order: ByteOrder, array: _Array) -> NDArray[Any]:
    if not _FIRST_NUMERIC <= array.kind <= _LAST_NUMERIC or array.is_complex:
        return np.empty(0, dtype=object)
    kind, start, stop, _ = _element(data, order, array.start, array.stop)
    if kind not in _DTYPES:
        raise ValueError("an array of it has numbers of an unknown type")
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(order)
    if math.prod(array.shape) * dtype.itemsize != stop - start:
        raise ValueError(
            f"an array of it states the size {'x'.join(map(str, array.shape))}, and has {stop - start} bytes"
        )
    # MATLAB has columns first.
    return np.frombuffer(data[start:stop], dtype).reshape(array.shape, order="F")
