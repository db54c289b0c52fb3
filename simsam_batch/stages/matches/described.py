"""Stored features of images as matches are made of them, read as they are asked for and held while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from simsam_batch import images
from simsam_batch.correspondence.descriptors import unit, with_context
from simsam_batch.correspondence.grids import PatchGrid
from simsam_batch.errors import ImageError, RunError
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, IMAGE
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.storage import Folder

_HELD_BYTES = 1_000_000_000
_COLUMNS = [IMAGE, "status", "error_type", "error", "failed_step", "width", "height", "content_sha256", "grid_h"]
_COLUMNS += ["grid_w", "patch", *(field.name for field in ARRAY_FIELDS)]


@dataclass(frozen=True, slots=True)
class Described:
    """One image.

    Attributes:
        grid: its patches.
        descriptors: (Hp, Wp, D) float32 of unit length.
        size: (width, height) in pixels.
        sha256: of its file.
    """

    grid: PatchGrid
    descriptors: torch.Tensor
    size: tuple[int, int]
    sha256: str


class DescribedImages:
    """The images of a run with descriptors, by their places in its plan. Any thread may ask.

    Descriptors that are not in memory are read and made again; those asked for longest ago make room.

    Args:
        out: the run's folder; the stage ``features`` is finished.
        names: of the stored arrays that stand side by side, each patch's scaled to unit length first.
        context: whether patches are described with those around them.
        resize: that the features were computed at.
        device: where descriptors are held.
    """

    def __init__(
        self, out: Folder, names: Sequence[str], resize: images.Resize, device: torch.device, *, context: bool
    ) -> None:
        self._rows, self._names, self._context = StageRows(out, FeaturesStage.name), list(names), context
        self._resize, self._device = resize, device
        self._lock = threading.Lock()
        self._held: OrderedDict[int, Described] = OrderedDict()
        self._bytes = 0

    def of(self, record: int) -> Described:
        """One image.

        Raises:
            ImageError: it has no features, as its row says.
            RunError: they are missing or damaged.
            StorageError: the storage did not answer.
        """
        with self._lock:
            if record in self._held:
                self._held.move_to_end(record)
                return self._held[record]
        found = self._read(record)
        with self._lock:
            if record not in self._held:
                self._held[record] = found
                self._bytes += found.descriptors.nbytes
            # the two that a pair needs are always held
            while self._bytes > _HELD_BYTES and len(self._held) > 2:
                _, gone = self._held.popitem(last=False)
                self._bytes -= gone.descriptors.nbytes
        return found

    def _read(self, record: int) -> Described:
        (row,) = self._rows.take([record], _COLUMNS).to_pylist()
        if row["status"] != "ok":
            raise ImageError(row["error_type"], f"{row[IMAGE]}: {row['error']}", row["failed_step"])
        try:
            descriptors = descriptors_of(self._rows.arrays(row), self._names, self._device, context=self._context)
        except KeyError as error:
            raise RunError(
                f"{self._rows.out.url}: {row[IMAGE]!r} has no array {error}. To mend it: use another OUT"
            ) from error
        return Described(grid_of(row, self._resize), descriptors, (row["width"], row["height"]), row["content_sha256"])


def descriptors_of(
    arrays: Mapping[str, Any], names: Sequence[str], device: torch.device, *, context: bool
) -> torch.Tensor:
    """(Hp, Wp, D) float32 of unit length: some stored arrays of an image side by side, each at unit length first.

    Args:
        arrays: of the image.
        names: of those wanted.
        device: where the descriptors go.
        context: whether patches are described with those around them.

    Raises:
        KeyError: it has not all of them.
    """
    features = torch.cat([unit(torch.from_numpy(np.asarray(arrays[name])).to(device)) for name in names], dim=-1)
    return with_context(features) if context else unit(features)


def grid_of(row: Mapping[str, int], resize: images.Resize) -> PatchGrid:
    """The patches of an image, as its row of the stage ``features`` has them."""
    size = row["height"], row["width"]
    return PatchGrid(
        size,
        images.resized_size(size, resize),
        images.crop_corner(size, resize),
        row["patch"],
        (row["grid_h"], row["grid_w"]),
    )
