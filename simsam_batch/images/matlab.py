"""MATLAB files made safe to read: unpacked within a bound, and checked before any array is made of them."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Literal

_HEADER_BYTES = 128
_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL, _STRUCTURE = 1, 2
# Besides cells and structures text and numbers. Objects, sparse matrices and functions have forms of their own.
_CLASSES = {_CELL, _STRUCTURE, 4, *range(6, 16)}
# A file of BSDS500 has 28 at most: one for nine people, and for each of them a structure and its two maps. Whatever
# their own sizes state, a reader nests no deeper than there are arrays.
_MOST_ARRAYS = 1000
_LONGEST_NAMES = 1 << 16

ByteOrder = Literal["<", ">"]


def checked_matlab(data: bytes, most_bytes: int) -> bytes:
    """A MATLAB file of level 5 without compression, so that whoever reads it needs no more memory than its bytes.

    The format's own compression has no bound, and its nested cells may state any size and any depth: all of that is
    looked at here (MATLAB, "MAT-File Format", chapter 1).

    Args:
        data: the file.
        most_bytes: that it may unpack to.

    Raises:
        ValueError: not such a file, cut short, larger when unpacked, or with contents that are not looked into; says
            which.
    """
    order = _byte_order(data)
    unpacked = [data[:_HEADER_BYTES]]
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
        unpacked.append(content)
    plain = b"".join(unpacked)
    _check_arrays(plain, order)
    return plain


def _byte_order(data: bytes) -> ByteOrder:
    version, mark = data[124:126], data[126:_HEADER_BYTES]
    if (version, mark) == (b"\x00\x01", b"IM"):
        return "<"
    if (version, mark) == (b"\x01\x00", b"MI"):
        return ">"
    raise ValueError("it is no MATLAB file of level 5, as save -v7 and save -v6 write them")


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


def _check_arrays(data: bytes, order: ByteOrder) -> None:
    # Where to go on, where to end, and how long anything but an array may be there.
    waiting, count = [(_HEADER_BYTES, len(data), 0)], 0
    while waiting:
        at, end, longest = waiting.pop()
        while at < end:
            kind, start, stop, at = _element(data, order, at, end)
            if kind != _MATRIX:
                if stop - start > longest:
                    raise ValueError("it has more than arrays, or names that are too long")
            elif stop > start:
                count += 1
                if count > _MOST_ARRAYS:
                    raise ValueError(f"it has more than {_MOST_ARRAYS} arrays in it")
                waiting.append(_contents(data, order, start, stop))


def _contents(data: bytes, order: ByteOrder, start: int, stop: int) -> tuple[int, int, int]:
    """Check the class and size that an array begins with; what of it is still to be looked at."""
    kind, flags, flags_stop, at = _element(data, order, start, stop)
    sizes_kind, sizes, sizes_stop, at = _element(data, order, at, stop)
    if (kind, flags_stop - flags, sizes_kind) != (_UINT32, 8, _INT32) or (sizes_stop - sizes) % 4:
        raise ValueError("an array of it does not begin with its class and size")
    which = data[flags if order == "<" else flags + 3]
    if which not in _CLASSES:
        raise ValueError("it has an object, a sparse matrix or a function in it; plain arrays can be read")
    shape = struct.unpack_from(f"{order}{(sizes_stop - sizes) // 4}i", data, sizes)
    nests = which in (_CELL, _STRUCTURE)
    if min(shape, default=0) < 0 or math.prod(shape) > (_MOST_ARRAYS if nests else stop - start):
        raise ValueError(f"an array of it states the size {'x'.join(map(str, shape))}, which its bytes cannot hold")
    return at, stop, _LONGEST_NAMES if nests else stop - start
