"""Stored features of images as matches are made of them, read as they are asked for and held while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from simsam_batch import images
from simsam_batch.correspondence.descriptors import unit, with_context, with_context_mirrored
from simsam_batch.correspondence.grids import PatchGrid
from simsam_batch.correspondence.matching import sampled
from simsam_batch.errors import ImageError, RunError
from simsam_batch.features.contract import MIRRORED
from simsam_batch.runs.plan import ids_of, load_plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, IMAGE
from simsam_batch.stages.features.stage import FeaturesStage, complete_blocks
from simsam_batch.stages.matches.grids import grid_of
from simsam_batch.storage import Folder
from simsam_batch.workers.models import DIFFUSION

_HELD_BYTES = 1_000_000_000
STORED_COLUMNS = [IMAGE, "status", "error_type", "error", "failed_step", "width", "height", "content_sha256", "grid_h"]
STORED_COLUMNS += ["grid_w", "patch", *(field.name for field in ARRAY_FIELDS)]
"""Of a row of the stage ``features``, what stored features are found and placed by."""


@dataclass(frozen=True, slots=True)
class Described:
    """One image.

    Attributes:
        grid: its patches.
        descriptors: (Hp, Wp, D) float32 of unit length.
        mirrored: the same of its mirror image, mirrored back; None where such features are not stored.
        size: (width, height) in pixels.
        sha256: of its file.
    """

    grid: PatchGrid
    descriptors: torch.Tensor
    mirrored: torch.Tensor | None
    size: tuple[int, int]
    sha256: str

    @property
    def nbytes(self) -> int:
        """Of all descriptors."""
        return self.descriptors.nbytes + (0 if self.mirrored is None else self.mirrored.nbytes)


class DescribedImages:
    """The images of a run with descriptors, by their places in its plan. Any thread may ask.

    Descriptors that are not in memory are read and made again; those asked for longest ago make room.

    Args:
        out: the run's folder; the stage ``features`` is finished.
        names: of the stored arrays that stand side by side, each patch's scaled to unit length first; those of mirrored
            pictures are kept apart.
        resize: that the features were computed at.
        device: where descriptors are held.
        context: whether patches are described with those around them.
        fused: runs whose features stand beside these.
    """

    def __init__(
        self,
        out: Folder,
        names: Sequence[str],
        resize: images.Resize,
        device: torch.device,
        *,
        context: bool,
        fused: Sequence[FusedFeatures] = (),
    ) -> None:
        self._rows, self._names, self._context = StageRows(out, FeaturesStage.name), list(names), context
        self._resize, self._device, self._fused = resize, device, list(fused)
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
                self._bytes += found.nbytes
            # the two that a pair needs are always held
            while self._bytes > _HELD_BYTES and len(self._held) > 2:
                _, gone = self._held.popitem(last=False)
                self._bytes -= gone.nbytes
        return found

    def _read(self, record: int) -> Described:
        (row,) = self._rows.take([record], STORED_COLUMNS).to_pylist()
        require_features(row)
        grid = grid_of(row, self._resize)
        arrays: dict[str, Any] = self._rows.arrays(row)
        names = list(self._names)
        for each in self._fused:
            beside = each.on(grid, row)
            arrays |= beside
            names += beside
        try:
            both = [
                descriptors_of(arrays, side, self._device, context=self._context, mirrored=is_mirrored)
                for is_mirrored in (False, True)
                if (side := facing(names, mirrored=is_mirrored))
            ]
        except KeyError as error:
            raise RunError(
                f"{self._rows.out.url}: {row[IMAGE]!r} has no array {error}. To mend it: use another OUT"
            ) from error
        mirrored = both[1] if len(both) > 1 else None
        return Described(grid, both[0], mirrored, (row["width"], row["height"]), row["content_sha256"])


class FusedFeatures:
    """Stored features of another run over the same images, brought onto other grids of patches.

    Args:
        out: its folder; the stage ``features`` is finished.
        names: of the stored arrays.
        label: begins the names that they get here.
    """

    def __init__(self, out: Folder, names: Sequence[str], label: str) -> None:
        self._rows, self._names, self._label = StageRows(out, FeaturesStage.name), list(names), label
        self._resize = images.parse_resize(self._rows.settings["resize"])
        plan = load_plan(out)
        assert plan is not None  # noqa: S101  it has a finished stage
        names_there = (name for block in ids_of(plan) for name in block.to_pylist())
        self._records = {name: number for number, name in enumerate(names_there)}

    @property
    def digest(self) -> str:
        """Of the features, as they were first published."""
        assert self._rows.result is not None  # noqa: S101  they are finished
        return str(self._rows.result["first_content_digest"])

    def on(self, grid: PatchGrid, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """(Hp, Wp, C) by name: the features of an image on another grid of it, between patches bilinearly.

        Args:
            grid: the other.
            row: of the other run.

        Raises:
            ImageError: there are none of this image, or they are those of another file.
            RunError: they are damaged.
            StorageError: the storage did not answer.
        """
        where = f"{row[IMAGE]}: {self._rows.out.url}"
        if (record := self._records.get(row[IMAGE])) is None:
            raise ImageError("not_found", f"{where} has no image of this name", "read")
        (other,) = self._rows.take([record], STORED_COLUMNS).to_pylist()
        require_features(other)
        if other["content_sha256"] != row["content_sha256"]:
            raise ImageError("changed", f"{where} has the features of another file by this name", "read")
        rows, columns = grid.shape
        down, along = np.divmod(np.arange(rows * columns, dtype=np.float64), columns)
        cells = grid_of(other, self._resize).cells_of(grid.points_of(np.stack([along, down], axis=1)))
        arrays = self._rows.arrays(other)
        return {
            _labelled(name, self._label): sampled(unit(torch.from_numpy(arrays[name])), cells).reshape(
                rows, columns, -1
            )
            for name in self._names
        }


def _labelled(name: str, label: str) -> str:
    """Another name, by which it is still known whether it is of mirrored pictures."""
    side = MIRRORED if name.startswith(MIRRORED) else ""
    return f"{side}{label}-{name.removeprefix(MIRRORED)}"


def completed(settings: Any, out: str) -> Any:
    """The settings of a command that compares patches, with what is best of descriptors that are no ViT's."""
    # features of diffusion have seen enough around them
    if settings.backbone == DIFFUSION and "context" not in settings.model_fields_set:
        settings = settings.model_copy(update={"context": "none"})
    return complete_blocks(settings, out)


def require_features(row: Mapping[str, Any]) -> None:
    """Refuse an image without features.

    Raises:
        ImageError: as its row of the stage ``features`` says.
    """
    if row["status"] != "ok":
        raise ImageError(row["error_type"], f"{row[IMAGE]}: {row['error']}", row["failed_step"])


def facing(names: Iterable[str], *, mirrored: bool) -> list[str]:
    """The names of stored arrays of pictures as they are, or of mirrored ones."""
    return [name for name in names if name.startswith(MIRRORED) == mirrored]


def descriptors_of(
    arrays: Mapping[str, Any], names: Sequence[str], device: torch.device, *, context: bool, mirrored: bool = False
) -> torch.Tensor:
    """(Hp, Wp, D) float32 of unit length: some stored arrays of an image side by side, each at unit length first.

    Args:
        arrays: of the image.
        names: of those wanted.
        device: where the descriptors go.
        context: whether patches are described with those around them.
        mirrored: whether these are of the mirrored picture, so that those around lie on the other side.

    Raises:
        KeyError: it has not all of them.
    """
    features = torch.cat([unit(torch.as_tensor(arrays[name]).to(device)) for name in names], dim=-1)
    if not context:
        return unit(features)
    return with_context_mirrored(features) if mirrored else with_context(features)
