"""Masks as rows of bits: an eighth of the memory, and 64 pixels to an operation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = 64
_LITTLE = "<u8"


@dataclass(frozen=True, slots=True)
class Bits:
    """A mask (H, W), True on the object, one bit a pixel.

    Attributes:
        words: (H, ceil(W / 64)) uint64; the pixel in column x is bit x % 64 of word x // 64, and bits beyond the width
            are 0.
        width: W.
    """

    words: NDArray[np.uint64]
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.words), self.width

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.words.nbytes

    def count(self) -> int:
        """How many pixels are object."""
        return int(np.bitwise_count(self.words).sum(dtype=np.int64))

    def unpacked(self) -> NDArray[np.bool_]:
        """The same mask as (H, W) bool."""
        found = np.unpackbits(self.words.view(np.uint8), axis=1, count=self.width, bitorder="little")
        return found.view(np.bool_)

    def __and__(self, other: Bits) -> Bits:
        return Bits(self.words & other.words, self.width)

    def __or__(self, other: Bits) -> Bits:
        return Bits(self.words | other.words, self.width)

    def without(self, other: Bits) -> Bits:
        """The pixels that are object here and not there."""
        return Bits(self.words & ~other.words, self.width)


def packed(mask: NDArray[np.bool_]) -> Bits:
    """A mask (H, W) bool as bits."""
    height, width = mask.shape
    held = np.zeros((height, 8 * -(-width // _WORD)), np.uint8)
    held[:, : -(-width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    return Bits(held.view(_LITTLE), width)


def packed_cells(mask: NDArray[np.bool_], index: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Bits:
    """The mask of an image's pixels, each with the value of its cell, without making it.

    Args:
        mask: (Hp, Wp) bool, of the cells.
        index: the cell row of each pixel row (H,), and the cell column of each pixel column (W,).
    """
    rows, columns = index
    lines = packed(np.take(mask, columns, axis=1))
    return Bits(lines.words[rows], lines.width)


def eroded(mask: Bits, width: int) -> Bits:
    """Pixels with nothing but object within ``width`` rows and columns; outside the image nothing is object.

    Args:
        mask: of any size.
        width: pixels, at least 1.
    """
    window = 2 * width + 1
    if min(mask.shape) < window:
        return Bits(np.zeros_like(mask.words), mask.width)
    # only lines that hold object can keep some, so that the time is that of the object's height
    held = np.flatnonzero(mask.words.any(axis=1))
    found = np.zeros_like(mask.words)
    if len(held) and held[-1] - held[0] + 1 >= window:
        box = slice(held[0], held[-1] + 1)
        found[box] = _along_rows(_down(mask.words[box], width), width)
    return Bits(found, mask.width)


def _down(words: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """Bits whose neighbours up to ``width`` above and below are all set."""
    # Runs of twice the length each time, by where they begin.
    runs, length, window = words, 1, 2 * width + 1
    while 2 * length <= window:
        runs, length = runs[:-length] & runs[length:], 2 * length
    rest = window - length
    found = np.zeros_like(words)
    found[width:-width] = runs[: len(runs) - rest] & runs[rest:]
    return found


def _along_rows(words: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """Bits whose neighbours up to ``width`` to both sides are all set."""
    runs, length, window = words, 1, 2 * width + 1
    while 2 * length <= window:
        runs, length = runs & _moved(runs, length), 2 * length
    runs = runs & _moved(runs, window - length)
    return _moved(runs, -width)


def _moved(words: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
    """Each row's bits moved ``by`` columns to the left, or to the right if that is negative; what comes in is 0."""
    if not by:
        return words
    whole, part = divmod(abs(by), _WORD)
    found = np.zeros_like(words)
    count = words.shape[1] - whole
    if count <= 0:
        return found
    left = by > 0
    source = words[:, whole:] if left else words[:, :count]
    target = found[:, :count] if left else found[:, whole:]
    if not part:
        target[...] = source
        return found
    here, beside = (np.right_shift, np.left_shift) if left else (np.left_shift, np.right_shift)
    here(source, np.uint64(part), out=target)
    rest = beside(source, np.uint64(_WORD - part))
    if left:
        target[:, :-1] |= rest[:, 1:]
    else:
        target[:, 1:] |= rest[:, :-1]
    return found
