"""The ``features`` stage: patch features of every image, several facets and blocks from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch.features.outliers import spike_mask
from simsam_batch.runs.plan import Plan
from simsam_batch.settings import Images, Limits, Network, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.rows import FEATURES_FIELDS, FeaturesFold
from simsam_batch.stages.features.settings import FeaturesSettings, Taps
from simsam_batch.stages.sizes import mean_patches
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.workers.images import ImageWorker, Loaded, not_computable
from simsam_batch.workers.models import DESCRIPTORS, DIFFUSION
from simsam_batch.workers.pixels import normalized
from simsam_batch.workers.records import Item, Row

if TYPE_CHECKING:
    # it brings all of timm, and stages that read features import this one
    from simsam_batch.features.taps import Tapped

_OUTLIER_RATIO = 4.0
_NORM_BYTES = 4


@dataclass(frozen=True)
class FeaturesStage(CommandStage[FeaturesSettings]):
    """Keeps features of every image."""

    name = "features"
    components = (Images, Limits, Numbers, Network, Taps)
    fields = FEATURES_FIELDS
    keeps_columns = True

    @cached_property
    def fold(self) -> FeaturesFold:
        """Counts patches."""
        return FeaturesFold()

    def array_bytes(self, plan: Plan) -> float | None:
        """About how many bytes the features will take; None if no image of a sample can be read."""
        facts = self.resolved["models"]["taps"]
        patches = mean_patches(plan, self.options, facts["patch"])
        itemsize = 2 if self.options.dtype == "fp16" else 4
        blocks = {name.rpartition("-")[2] for name in facts["channels_of"]}
        numbers = sum(facts["channels_of"].values()) * itemsize + _NORM_BYTES * len(blocks)
        return None if patches is None else plan.records * patches * numbers

    def make_worker(self, beat: Callable[[], None]) -> FeaturesWorker:
        """Load the network and be ready for shards."""
        return FeaturesWorker(self, beat)


Arrays = list[dict[str, NDArray[np.generic]]]
"""For each image of a batch its arrays by name."""


class FeaturesWorker(ImageWorker[Arrays]):
    """Runs batches of images through the network once, and keeps what was asked for."""

    role = "taps"

    def __init__(self, stage: FeaturesStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._dtype = stored_dtype(stage.options)
        self._channels = sum(stage.resolved["models"]["taps"]["channels_of"].values())

    def cost(self, patches: int) -> int:
        """Bytes of memory that one image of so many patches takes on the device, beside the network."""
        numbers: int = self._channels + self.backbone.held_numbers
        return 4 * patches * numbers

    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Arrays:
        """Describe a batch."""
        count = len(pictures)
        with self.timer.step("forward"), torch.inference_mode():
            found = self.backbone(normalized(pictures, self.backbone.mean, self.backbone.std), seeds)
            on_device = descriptors_by_name(found, grid, self._dtype)
            for (block, facet), tokens in found.class_tokens.items():
                on_device[f"class-{facet}-{block}"] = self._kept(tokens)
            for (block, facet), tokens in found.registers.items():
                on_device[f"registers-{facet}-{block}"] = self._kept(tokens)
            for block, norms in found.norms.items():
                on_device[f"norm-{block}"] = norms.reshape(count, *grid)
            arrays = {name: tensor.cpu().numpy() for name, tensor in on_device.items()}
        self.timer.settle()
        return [{name: array[i] for name, array in arrays.items()} for i in range(count)]

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        return _stored(values, self._dtype)

    def encode(self, item: Item, loaded: Loaded, found: Arrays, i: int) -> Row:
        """The row of an image."""
        del item
        arrays = found[i]
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise not_computable("the network's features are not finite")
        norms = arrays[max((name for name in arrays if name.startswith("norm-")), key=_block)]
        outliers = int(spike_mask(torch.from_numpy(norms.reshape(1, -1)), _OUTLIER_RATIO).sum())
        columns = {**self.image_columns(loaded), "outlier_tokens": outliers}
        return Row(columns, arrays, {"patches": norms.size, "outlier_tokens": outliers})


def descriptors_by_name(found: Tapped, grid: tuple[int, int], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The descriptors of a batch as they are stored, ``<facet>-<block>`` (B, Hp, Wp, C).

    Args:
        found: what the network gave.
        grid: (Hp, Wp).
        dtype: that they are stored in.
    """
    return {
        f"{facet}-{block}": _stored(descriptors, dtype).reshape(len(descriptors), *grid, -1)
        for (block, facet), descriptors in found.descriptors.items()
    }


def stored_dtype(options: FeaturesSettings) -> torch.dtype:
    """That of features, as the settings say."""
    return torch.float16 if options.dtype == "fp16" else torch.float32


def _stored(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values as they are stored; what half precision cannot hold becomes its largest number."""
    if dtype == torch.float16:
        most = torch.finfo(torch.float16).max
        values = values.clamp(-most, most)
    return values.to(dtype)


def _block(name: str) -> int:
    return int(name.rpartition("-")[2])


def _stages(job: Job) -> Stages:
    yield FeaturesStage(job.settings, job.resolved, job.plan)


def _say_size(job: Job, stage: CommandStage[Any]) -> None:
    """Say how much room the features will take, whatever it is: it is what people misjudge."""
    from rich.filesize import decimal

    size = stage.array_bytes(job.plan) if isinstance(stage, FeaturesStage) else None
    if size is not None and not job.settings.quiet:
        job.note(f"the features of {job.plan.records:,} images will take about {decimal(round(size))} in OUT")


STAGES = {FeaturesStage.name: FeaturesStage}
_BLOCKS = {DESCRIPTORS: (-1,), DIFFUSION: (1,)}


def complete_blocks(settings: Any, out: str) -> Any:
    """The settings with the blocks that are best of what is no ViT, and its one facet, where none were given."""
    del out
    if settings.backbone not in _BLOCKS:
        return settings
    update: dict[str, Any] = {} if "blocks" in settings.model_fields_set else {"blocks": _BLOCKS[settings.backbone]}
    # a single facet nobody asked for is taken as it is
    if "facets" not in settings.model_fields_set and len(settings.facets) > 1:
        update["facets"] = ("token",)
    return settings.model_copy(update=update)


STEPS = Steps(_stages, FeaturesStage.name, roles=("taps",), complete=complete_blocks, before_first=_say_size)
