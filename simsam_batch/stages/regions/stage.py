"""The ``regions`` stage: eigenvectors to regions, regions to boxes, boxes to features."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import settings
from simsam_batch.errors import SettingsError
from simsam_batch.regions import boxes, pixel_index
from simsam_batch.settings import Affinity, Eigenproblem, Features, Head, Images, Limits, Network, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.decomposition import Decomposed, check_solver, decompose_batch, regions_of, require_finite
from simsam_batch.stages.regions.rows import DESCRIPTORS, REGIONS_FIELDS, RegionsFold
from simsam_batch.stages.regions.settings import PatchBaselines, RegionsSettings
from simsam_batch.workers.images import ImageWorker, Loaded, finite_or_none, not_computable
from simsam_batch.workers.pixels import normalized
from simsam_batch.workers.records import Item, Row

if TYPE_CHECKING:
    from simsam_batch.features.vit import ViTBackbone

_CROPS_AT_ONCE = {"cpu": 32, "cuda": 512}


@dataclass(frozen=True, slots=True)
class Regions:
    """What a batch of B images came to, on the CPU.

    Attributes:
        labels: (B, Hp, Wp) int32, the region of each patch; 0 is the background.
        patch_boxes: for each image the regions and their boxes (xmin, ymin, xmax, ymax) in patches, maximum exclusive.
        features: for each image (R, C) float32, in the order of its boxes.
        descriptors: for each image (N, C) float16, of its patches; if there are baselines.
        values: (B, K) float32, NaN where the graph has fewer pairs.
        outliers, components, residual, converged, degenerate: (B,).
        solver: of each image's eigenproblem.
    """

    labels: NDArray[np.int32]
    patch_boxes: list[list[tuple[int, boxes.Box]]]
    features: list[NDArray[np.float32]]
    descriptors: list[NDArray[np.float16]]
    values: NDArray[np.float32]
    outliers: Tensor
    components: Tensor
    residual: Tensor
    converged: Tensor
    degenerate: Tensor
    solver: list[str]


@dataclass(frozen=True)
class RegionsStage(CommandStage[RegionsSettings]):
    """Cuts every image into regions."""

    name = "regions"
    components = (
        Images,
        Limits,
        Numbers,
        Network,
        Features,
        Head,
        Affinity,
        Eigenproblem,
        settings.Regions,
        PatchBaselines,
    )
    fields = REGIONS_FIELDS

    @cached_property
    def fold(self) -> RegionsFold:
        """Counts regions."""
        return RegionsFold(patches=self.options.baselines)

    def make_worker(self, beat: Callable[[], None]) -> RegionsWorker:
        """Load the backbone and be ready for shards."""
        return RegionsWorker(self, beat)


def check_crop_size(options: RegionsSettings, models: Mapping[str, Any]) -> None:
    """Refuse crops that do not divide into patches.

    Raises:
        SettingsError: naming the sizes beside it.
    """
    patch = models["backbone"]["patch"]
    if options.region_feature != "patches" and options.crop_size % patch:
        below = options.crop_size // patch * patch
        near = f"{below} and {below + patch} are" if below else f"{patch} is"
        raise SettingsError(
            f"crop_size: {options.crop_size} is no multiple of the patch size {patch}; {near}, and 0 keeps each box's "
            "own size"
        )


class RegionsWorker(ImageWorker[Regions]):
    """Cuts batches of images into regions and describes each region by one vector."""

    def __init__(self, stage: RegionsStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._options = stage.options
        check_solver(stage.options, self.device.type)
        self._encoder: ViTBackbone | None = self.model("encoder")

    def compute(self, pictures: Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Regions:
        """Cut and describe a batch."""
        options = self._options
        found = decompose_batch(pictures, grid, seeds, self.backbone, options, self.timer)
        degenerate = found.degenerate()
        with self.timer.step("regions"), torch.inference_mode():
            labels = regions_of(found, degenerate, grid, seeds, options, options.regions)
            planes = labels.cpu().numpy().astype(np.int32).reshape(-1, *grid)
            whole = np.arange(grid[0]), np.arange(grid[1])
            first = 1 if options.background else 0
            patch_boxes = [
                boxes.region_boxes(plane, whole, erode=options.erode, dilate=options.dilate, first=first)
                for plane in planes
            ]
        with self.timer.step("crops"), torch.inference_mode():
            features = self._features(pictures, found, labels, patch_boxes)
            descriptors = list(found.rows.half().cpu().numpy()) if options.baselines else []
        self.timer.settle()
        return Regions(
            planes,
            patch_boxes,
            features,
            descriptors,
            found.pairs.values[:, : options.k].cpu().numpy(),
            found.outliers.cpu(),
            found.components.cpu(),
            found.pairs.residual.cpu(),
            found.pairs.converged.cpu(),
            degenerate.cpu(),
            found.pairs.solver,
        )

    def _features(
        self, pictures: Tensor, found: Decomposed, labels: Tensor, patch_boxes: list[list[tuple[int, boxes.Box]]]
    ) -> list[NDArray[np.float32]]:
        """One vector for each box of each image, in the order of the boxes."""
        counts = [len(of_image) for of_image in patch_boxes]
        if self._encoder is None:
            ids = [[region for region, _ in of_image] for of_image in patch_boxes]
            described = [
                _mean_rows(rows, plane, one) for rows, plane, one in zip(found.points, labels, ids, strict=True)
            ]
            return [vectors.cpu().numpy() for vectors in described]
        if not sum(counts):
            return [np.zeros((0, self._encoder.channels), np.float32) for _ in counts]
        patch = self.backbone.patch
        rectangles = torch.tensor(
            [[image, *box] for image, of_image in enumerate(patch_boxes) for _, box in of_image], dtype=torch.float32
        )
        rectangles[:, 1:] *= patch
        vectors = self._describe(normalized(pictures, self._encoder.mean, self._encoder.std), rectangles)
        return np.split(vectors.numpy(), np.cumsum(counts)[:-1])

    def _describe(self, pixels: Tensor, rectangles: Tensor) -> Tensor:
        """Vectors (M, C), on the CPU, of rectangles (M, 5): the picture's number, then the box in pixels."""
        from torchvision.ops import roi_align

        assert self._encoder is not None  # noqa: S101  the caller has looked
        options, encoder = self._options, self._encoder
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, (_, left, top, right, bottom) in enumerate(rectangles.tolist()):
            own = int(bottom - top) // encoder.patch * encoder.patch, int(right - left) // encoder.patch * encoder.patch
            by_size[(options.crop_size, options.crop_size) if options.crop_size else own].append(row)
        pooling: Literal["class-token", "mean-token"] = (
            "class-token" if options.region_feature == "class-token" else "mean-token"
        )
        found: dict[int, Tensor] = {}
        at_once = _CROPS_AT_ONCE[self.device.type]
        for size, members in by_size.items():
            for start in range(0, len(members), at_once):
                part = members[start : start + at_once]
                crops = roi_align(pixels, rectangles[part].to(pixels.device), size, aligned=True)
                found |= zip(part, encoder.pooled(crops, pooling).cpu(), strict=True)
        return torch.stack([found[row] for row in range(len(rectangles))])

    def encode(self, item: Item, loaded: Loaded, found: Regions, i: int) -> Row:
        """The row of an image."""
        del item
        require_finite(found.solver[i])
        if not np.isfinite(found.features[i]).all():
            raise not_computable("the features of its regions are not finite")
        values = found.values[i]
        degenerate = bool(found.degenerate[i])
        regions = [
            {
                "region": region,
                "bbox_xyxy": _pixel_box(box, loaded.index),
                "patches": int((found.labels[i] == region).sum()),
                "feature": vector,
            }
            for (region, box), vector in zip(found.patch_boxes[i], found.features[i], strict=True)
        ]
        columns = {
            **self.image_columns(loaded),
            "outlier_tokens": int(found.outliers[i]),
            "components": int(found.components[i]),
            "region_count": len(regions),
            "region_map": found.labels[i].ravel(),
            "regions": regions,
            "eigenvalues": values[np.isfinite(values)].tolist(),
            "solver": found.solver[i],
            "converged": bool(found.converged[i]),
            "residual_max": finite_or_none(found.residual[i]),
            "degenerate": degenerate,
        }
        state = {
            "regions": len(regions),
            "images_without_regions": int(not regions),
            "degenerate": int(degenerate),
        }
        if not self._options.baselines:
            return Row(columns, state=state)
        return Row(columns, {DESCRIPTORS: found.descriptors[i]}, state | {"patches": len(found.descriptors[i])})


def _mean_rows(rows: Tensor, labels: Tensor, ids: list[int]) -> Tensor:
    """Means (R, C) of the patches' descriptors over each region."""
    member = (labels == torch.tensor(ids, device=labels.device, dtype=labels.dtype)[:, None]).to(rows.dtype)
    return member @ rows / member.sum(1, keepdim=True).clamp_min(1.0)


def _pixel_box(box: boxes.Box, index: pixel_index.UpsampleIndex) -> list[int]:
    """A box of patches in the full image's pixels."""
    rows, columns = index
    (left, right), (top, bottom) = np.searchsorted(columns, box[::2]), np.searchsorted(rows, box[1::2])
    return [int(left), int(top), int(right), int(bottom)]


STAGES = {RegionsStage.name: RegionsStage}
