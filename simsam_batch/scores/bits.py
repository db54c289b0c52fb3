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
    window, length = 2 * width + 1, 1
    # all rows as one long one, with so many words of nothing behind each that none reaches into the next
    held = np.zeros((len(words), words.shape[1] + window // _WORD + 1), words.dtype)
    held[:, : words.shape[1]] = words
    runs = held.ravel()
    while 2 * length <= window:
        _keep_before(runs, length)
        length *= 2
    _keep_before(runs, window - length)
    whole, part = divmod(width, _WORD)
    found = np.zeros_like(runs)
    np.left_shift(runs[: len(runs) - whole], np.uint64(part), out=found[whole:])
    if part:
        found[whole + 1 :] |= runs[: len(runs) - whole - 1] >> np.uint64(_WORD - part)
    return found.reshape(held.shape)[:, : words.shape[1]]


def _keep_before(runs: NDArray[np.uint64], by: int) -> None:
    """Clear the bits of which the one ``by`` places further is not set; words with none so far behind are 0 already."""
    whole, part = divmod(by, _WORD)
    further = runs[whole:] >> np.uint64(part)
    if part:
        further[:-1] |= runs[whole + 1 :] << np.uint64(_WORD - part)
    runs[: len(further)] &= further
