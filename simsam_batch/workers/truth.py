"""The truth of an image as the worker of a stage is to compare with, read as the stage's record says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.storage import redact

_ANY_LABEL = 2**31


class TruthReader:
    """Reads truth of one kind.

    Args:
        truth: what the stage's record says: ``kind`` (``object``, ``classes``, ``labels``, ``partitions``, or anything
            else for none that is read); ``center_crop``; of classes ``count``, ``ignore_label`` and ``also_ignored``,
            ids that are read as that one; of labels ``region_of_label`` and ``ignore``, which together are all known.
        limits: on the files.
    """

    def __init__(self, truth: Mapping[str, Any], limits: images.ImageLimits) -> None:
        self._truth, self._limits = truth, limits
        self.kind: str | None = truth.get("kind")
        self._known = {int(label) for label in truth.get("region_of_label", ())} | set(truth.get("ignore", ()))

    def part(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of an image of a size (height, width) that are scored."""
        return images.central_square(size) if self._truth.get("center_crop") else (slice(None), slice(None))

    def read(self, uri: str | None, size: tuple[int, int]) -> tuple[Any, str | None]:
        """What is compared with an image, of the part that is scored, and why there is nothing.

        Args:
            uri: of the truth; None where the image has none.
            size: (height, width) of the image.

        Returns:
            Of objects a mask (H, W) bool; of classes and labels their ids (H, W); of partitions a list of such maps;
            None without truth, with the reason if it is a fault.
        """
        read = {
            "object": self._object,
            "classes": self._classes,
            "labels": self._labels,
            "partitions": self._partitions,
        }.get(self.kind or "")
        if uri is None or read is None:
            return None, None
        try:
            return read(uri, size), None
        except images.TruthError as error:
            return None, str(error)

    def _object(self, uri: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        return images.load_truth(uri, self._limits, size)[self.part(size)]

    def _classes(self, uri: str, size: tuple[int, int]) -> NDArray[np.integer[Any]]:
        ignore = self._truth["ignore_label"]
        ids = images.load_labels(uri, self._limits, size, classes=self._truth["count"], ignore=ignore)[self.part(size)]
        also = self._truth["also_ignored"]
        return np.where(np.isin(ids, also), ignore, ids) if also else ids

    def _labels(self, uri: str, size: tuple[int, int]) -> NDArray[np.integer[Any]]:
        labels = images.load_labels(uri, self._limits, size, classes=_ANY_LABEL, ignore=None)
        unknown = sorted(set(np.unique(labels).tolist()) - self._known)
        if unknown:
            raise images.TruthError("unreadable", f"truth {redact(uri)}: nothing is said of its label {unknown[0]}")
        return np.ascontiguousarray(labels[self.part(size)])

    def _partitions(self, uri: str, size: tuple[int, int]) -> list[NDArray[np.integer[Any]]]:
        part = self.part(size)
        return [np.ascontiguousarray(each[part]) for each in images.load_partitions(uri, self._limits, size)]
