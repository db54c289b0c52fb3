"""A uniform sample of a stream of rows that depends on what is in the stream, and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.generic] | Sequence[bytes]
"""One id per row, unique in the whole stream: (N,) int64, or N byte strings."""

MOST_ROWS = 1_000_000


class RowSample:
    """The rows with the smallest hashes of (seed, id), at most ``capacity`` of them: a bottom-k sketch.

    A hash is as good as a random number drawn once per id (Cohen and Kaplan, "Summarizing data using bottom-k
    sketches", PODC 2007): every subset of the stream is equally likely to be kept, and neither the order of the rows,
    nor batches, nor the number of processes whose samples are merged can change which. All rows are kept while there
    are at most ``capacity``.

    Memory is ``capacity`` rows and a sixteenth of that for rows that wait. Addresses for all rows are reserved at the
    first `add`; pages are used as they fill.
    """

    def __init__(self, seed: int, capacity: int = MOST_ROWS) -> None:
        if capacity < 1:
            raise ValueError(f"a sample of {capacity} rows is none; capacity must be at least 1")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed} is not between 0 and 2^64 - 1")
        self.seed = seed
        self.capacity = capacity
        self.seen = 0
        self._kept = 0
        self._edge: np.uint64 | None = None
        self._hashes = np.empty(capacity, dtype=np.uint64)
        self._ids = np.empty(0, dtype=np.int64)
        self._features = np.empty((0, 0), dtype=np.float32)
        self._waiting: list[tuple[NDArray[np.uint64], NDArray[np.generic], NDArray[np.float32]]] = []
        self._waiting_rows = 0

    def add(self, ids: Ids, features: NDArray[np.float32]) -> None:
        """Take in a batch.

        Args:
            ids: of the rows; all batches of one sample have ids of one type.
            features: (N, C) float32, finite.

        Raises:
            ValueError: for features that are not finite, naming the id; if shapes or types of ids do not match.
        """
        keys = _as_array(ids)
        if features.ndim != 2 or len(keys) != len(features):
            raise ValueError(f"{len(keys)} ids do not fit features of shape {features.shape}")
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(f"the features of region {keys[int(finite.argmin())]!r} are not finite")
        self._take(hashes_of(keys, self.seed), keys, features)
        self.seen += len(keys)

    def merge(self, other: RowSample) -> None:
        """Take in the sample of another part of the stream; ``other`` stays as it is.

        Raises:
            ValueError: if the two differ in seed or capacity, or in features or ids.
        """
        if (self.seed, self.capacity) != (other.seed, other.capacity):
            raise ValueError(
                f"samples of (seed, capacity) {(self.seed, self.capacity)} and {(other.seed, other.capacity)} "
                "cannot be merged"
            )
        other._settle()
        kept = slice(other._kept)
        self._take(other._hashes[kept], other._ids[kept], other._features[kept])
        self.seen += other.seen

    def rows(self) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """What was kept, ascending by id.

        Returns:
            ids (n,) int64, or bytes objects; features (n, C) float32, a copy. (0,) and (0, 0) of an empty stream.

        Raises:
            ValueError: if two kept rows have the same id.
        """
        self._settle()
        ids = self._ids[: self._kept]
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            raise ValueError(f"region {ids[twice[0]]!r} occurs twice; ids must be unique")
        return ids, self._features[: self._kept][order]

    def _take(self, hashes: NDArray[np.uint64], ids: NDArray[np.generic], features: NDArray[np.float32]) -> None:
        if len(ids) == 0:
            return
        if self._features.shape[1] == 0:
            self._ids = np.empty(self.capacity, dtype=ids.dtype)
            self._features = np.empty((self.capacity, features.shape[1]), dtype=np.float32)
        if features.shape[1] != self._features.shape[1] or ids.dtype != self._ids.dtype:
            raise ValueError(
                f"rows of {features.shape[1]} channels with ids of type {ids.dtype} do not go with "
                f"{self._features.shape[1]} channels and {self._ids.dtype}"
            )
        if self._edge is not None:
            # The largest kept hash never grows: what exceeds it now will never be kept. Equal ones may, by their id.
            within = hashes <= self._edge
            hashes, ids, features = hashes[within], ids[within], features[within]
        batch = max(1, self.capacity // 16)
        for start in range(0, len(ids), batch):
            part = slice(start, start + batch)
            self._waiting.append((hashes[part], ids[part], features[part].copy()))
            self._waiting_rows += len(ids[part])
            if self._waiting_rows >= batch:
                self._settle()

    def _settle(self) -> None:
        """Give rows that wait the place of kept ones with larger hashes."""
        if not self._waiting:
            return
        hashes, ids, features = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._waiting_rows = 0
        kept = self._kept
        free = min(self.capacity - kept, len(ids))
        all_hashes = np.concatenate([self._hashes[:kept], hashes])
        if kept + len(ids) <= self.capacity:
            places, chosen = np.arange(kept, kept + free), np.arange(free)
        else:
            winners = _smallest(all_hashes, np.concatenate([self._ids[:kept], ids]), self.capacity)
            evicted = np.flatnonzero(~winners[:kept])
            chosen = np.flatnonzero(winners[kept:])
            places = np.concatenate([evicted, np.arange(kept, self.capacity)])
        self._hashes[places], self._ids[places], self._features[places] = hashes[chosen], ids[chosen], features[chosen]
        self._kept = kept + free
        if self._kept == self.capacity:
            self._edge = self._hashes.max()


def _smallest(hashes: NDArray[np.uint64], ids: NDArray[np.generic], count: int) -> NDArray[np.bool_]:
    """Mark the ``count`` smallest hashes; among equal ones at the edge, those of the smallest ids."""
    edge = np.partition(hashes, count - 1)[count - 1]
    chosen: NDArray[np.bool_] = hashes < edge
    level = np.flatnonzero(hashes == edge)
    chosen[level[np.argsort(ids[level], kind="stable")][: count - int(chosen.sum())]] = True
    return chosen


def hashes_of(ids: Ids, seed: int) -> NDArray[np.uint64]:
    """Hash (seed, id) to 64 bits: SplitMix64's finaliser for numbers, keyed BLAKE2b for byte strings.

    Args:
        ids: (N,) int64 or N byte strings.
        seed: 0 to 2^64 - 1.

    Returns:
        (N,) uint64. Different numbers never share a hash; byte strings practically never.
    """
    key = seed.to_bytes(8, "little")
    keys = _as_array(ids)
    if keys.dtype == np.int64:
        start = np.frombuffer(hashlib.blake2b(key, digest_size=8).digest(), dtype="<u8")
        # Each step maps 64 bits one to one: products wrap around, and the factors are odd.
        mixed: NDArray[np.uint64] = keys.view(np.uint64) + start
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return mixed
    digests = b"".join(hashlib.blake2b(one, digest_size=8, key=key).digest() for one in keys)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _as_array(ids: Ids) -> NDArray[np.generic]:
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or ids.dtype not in (np.int64, np.object_):
            raise ValueError(f"ids of type {ids.dtype} and shape {ids.shape}; int64 numbers or byte strings are needed")
        return ids
    # NumPy's own byte strings would lose zero bytes at the end.
    array = np.empty(len(ids), dtype=np.object_)
    array[:] = ids
    return array
