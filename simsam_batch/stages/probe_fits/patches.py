"""Stored features and labels of the patches of many images, as probes are fitted to them and search in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.reading import StageRows, attachments_of
from simsam_batch.runs.schema import ARRAY_FIELDS, IMAGE
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.stage import LABELS, VOID, PatchLabelsStage
from simsam_batch.storage import Folder, read_ahead

T = TypeVar("T")

_BLOCK_ROWS = 65_536
_HELD_BYTES = 4_000_000_000
_AT_ONCE = 64
_THREADS = 4
_PLACES = [field.name for field in ARRAY_FIELDS]


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """What one probe sees of a patch: a facet of one block, or of several.

    Attributes:
        name: ``key-11``, ``key-5+8+11`` for several side by side, ``key-5..11`` for their mean.
        arrays: names of the stored arrays.
        mean: whether they are averaged instead of put side by side.
    """

    name: str
    arrays: tuple[str, ...]
    mean: bool = False

    def of(self, arrays: Mapping[str, Any]) -> NDArray[np.floating[Any]]:
        """(N, C) float16 or float32, the patches of an image in row-major order."""
        parts = [np.asarray(arrays[name]).reshape(-1, arrays[name].shape[-1]) for name in self.arrays]
        if len(parts) == 1:
            return parts[0]
        if self.mean:
            average: NDArray[np.floating[Any]] = np.mean([part.astype(np.float32) for part in parts], axis=0)
            return average.astype(parts[0].dtype)
        return np.concatenate(parts, axis=1)


def feature_sets(channels_of: Mapping[str, int], combine: str) -> list[FeatureSet]:
    """What probes see, of the arrays of features that a run keeps.

    Args:
        channels_of: of the network (`simsam_batch.features.taps.TappedViT`): ``<facet>-<block>``.
        combine: of a facet of several blocks ``each``, ``concat``, ``both`` or ``mean``.
    """
    by_facet: dict[str, list[str]] = {}
    for name in channels_of:
        by_facet.setdefault(name.rpartition("-")[0], []).append(name)
    found = []
    for facet, names in by_facet.items():
        blocks = [name.rpartition("-")[2] for name in names]
        if combine in ("each", "both") or len(names) == 1:
            found += [FeatureSet(name, (name,)) for name in names]
        if len(names) > 1 and combine in ("concat", "both"):
            found.append(FeatureSet(f"{facet}-{'+'.join(blocks)}", tuple(names)))
        if len(names) > 1 and combine == "mean":
            found.append(FeatureSet(f"{facet}-{blocks[0]}..{blocks[-1]}", tuple(names), mean=True))
    return found


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image as probes are fitted to it.

    Attributes:
        record: its place in the plan.
        features: for each feature set (N, C).
        labels: (M, 3) int32: patch, class, pixels.
        void: (N,) int32: pixels of each patch that do not count.
        patches: N.
    """

    record: int
    features: Sequence[NDArray[np.floating[Any]]]
    labels: NDArray[np.int32]
    void: NDArray[np.int32]
    patches: int

    def coarse(self, classes: int) -> LabelledImage:
        """The same with one class for each patch: that of most of its pixels, the lowest of equal ones.

        It takes all of the patch's pixels that count.
        """
        counts = self.histogram(classes)
        pixels = counts.sum(axis=1)
        there = np.flatnonzero(pixels)
        labels = np.stack([there, counts[there].argmax(axis=1), pixels[there]], axis=1).astype(np.int32)
        return replace(self, labels=labels)

    def labelled(self) -> NDArray[np.bool_]:
        """(N,) patches of which some pixel counts."""
        found = np.zeros(self.patches, np.bool_)
        found[self.labels[:, 0]] = True
        return found

    def background(self) -> NDArray[np.bool_]:
        """(N,) patches whose pixels that count are all of class 0; of some there are none."""
        found = self.labelled()
        found[self.labels[self.labels[:, 1] > 0, 0]] = False
        return found

    def histogram(self, classes: int) -> NDArray[np.int64]:
        """(N, classes) pixels of each class in each patch."""
        counts = np.zeros((self.patches, classes), np.int64)
        counts[self.labels[:, 0], self.labels[:, 1]] = self.labels[:, 2]
        return counts


class LabelledImages:
    """The images of a run that have features and labels, read as they are asked for, ahead of the consumer.

    Args:
        out: the run's folder; both stages are finished.
        sets: what is wanted of each patch.
        coarse: how many classes there are, if each patch is to have one alone (`LabelledImage.coarse`); else 0.
    """

    def __init__(self, out: Folder, sets: Sequence[FeatureSet], *, coarse: int = 0) -> None:
        self._out, self.sets, self._coarse = out, list(sets), coarse
        self._features = StageRows(out, FeaturesStage.name)
        self._labels = StageRows(out, PatchLabelsStage.name)

    def read(self, records: NDArray[np.int64]) -> Iterator[LabelledImage]:
        """Some images by their places in the plan, in this order; one range request each for features and labels.

        Raises:
            RunError: features or labels are missing or damaged.
            StorageError: the storage did not answer.
        """
        return read_ahead(self._places(records), self._read, threads=_THREADS, most=2 * _THREADS, name="simsam-patches")

    def _places(self, records: NDArray[np.int64]) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE].tolist()
            columns = [IMAGE, *_PLACES]
            both = (rows.take(some, columns).to_pylist() for rows in (self._features, self._labels))
            yield from zip(some, *both, strict=True)

    def _read(self, place: tuple[int, dict[str, Any], dict[str, Any]]) -> LabelledImage:
        record, features, labels = place
        read = partial(attachments_of, self._out, unit=IMAGE)
        arrays = read(features)
        try:
            found = [each.of(arrays) for each in self.sets]
            truth = read(labels)
            counted, void = (np.asarray(truth[name], np.int32) for name in (LABELS, VOID))
        except KeyError as error:
            raise RunError(
                f"{self._out.url}: {features[IMAGE]!r} has no array {error}. To mend it: use another OUT"
            ) from error
        image = LabelledImage(record, found, counted, void, len(found[0]))
        return image.coarse(self._coarse) if self._coarse else image


def taken_patches(
    images: Callable[[], Iterable[LabelledImage]], *, published: bool
) -> Iterator[tuple[LabelledImage, NDArray[np.bool_]]]:
    """Images, each with which of its labelled patches are taken (N,), in the order of rows.

    Args:
        images: gives them all, as often as it is called.
        published: rows as `simsam_batch.probes.balance.published_balance` has them: all patches of some other class
            than 0, and after them as many patches as there are others, from the first on, whatever they are.
    """
    left = 0
    for image in images():
        taken = image.labelled()
        if published:
            left += int(image.background().sum())
            taken &= ~image.background()
        yield image, taken
    if not left:
        return
    for image in images():
        taken = first_of(image.labelled(), left)
        yield image, taken
        left -= int(taken.sum())
        if not left:
            return


def first_of(chosen: NDArray[np.bool_], many: int) -> NDArray[np.bool_]:
    """The first so many of what is chosen (N,)."""
    return chosen & (np.cumsum(chosen) <= many)


def quota(bank: int, images: int) -> int:
    """How many patches of each train image a bank of so many holds at the most; 0 for all that have labels."""
    return -(-bank // images)


def in_blocks(parts: Iterable[T], rows_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Parts together as they come, as soon as they have the rows of a block, and the rest."""
    waiting: list[T] = []
    rows = 0
    for part in parts:
        waiting.append(part)
        rows += rows_of(part)
        if rows >= _BLOCK_ROWS:
            yield waiting
            waiting, rows = [], 0
    if waiting:
        yield waiting


class Held(Generic[T]):
    """Blocks that are gone over again and again, by a call for each pass.

    They are held if they are few enough, else read anew for each pass: memory does not grow with them.

    Args:
        read: reads them all.
        bytes_of: how large one is.
    """

    def __init__(self, read: Callable[[], Iterable[T]], bytes_of: Callable[[T], int]) -> None:
        self._read, self._bytes_of = read, bytes_of
        self._blocks: list[T] | None = None

    def __call__(self) -> Iterable[T]:
        """All of them, in order."""
        return self._reading() if self._blocks is None else self._blocks

    def _reading(self) -> Iterator[T]:
        blocks: list[T] | None = []
        size = 0
        for block in self._read():
            size += self._bytes_of(block)
            if size > _HELD_BYTES:
                blocks = None
            if blocks is not None:
                blocks.append(block)
            yield block
        self._blocks = blocks
