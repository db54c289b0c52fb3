"""Images with the regions that are restyled, read from where the run has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from simsam_batch import images
from simsam_batch.errors import ImageError
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import Shard
from simsam_batch.stages.style_networks.looks import label_of
from simsam_batch.stages.style_networks.masks import columns_of, joined, mask_of
from simsam_batch.stages.style_networks.settings import StylizeSettings
from simsam_batch.storage import Folder
from simsam_batch.workers.records import EarlierStage, Item

_SHARDS_HELD = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image with its regions.

    Attributes:
        pixels: (H, W, 3) uint8.
        masks: (H, W) of each region that some look has words for.
        degenerate: the mask of the object means nothing.
        sha256: of the file.
    """

    pixels: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    degenerate: bool
    sha256: str


class RegionReader:
    """Reads images and their regions. Any thread may read.

    Args:
        out: the run's folder.
        options: of the command.
        limits: what one image may cost.
    """

    def __init__(self, out: Folder, options: StylizeSettings, limits: images.ImageLimits) -> None:
        self._limits, self._profile = limits, options.color_profile
        self._names = {region for look in options.looks for region in look}
        self._sources = {
            name: (EarlierStage(out, name), columns) for name, columns in columns_of(options.looks).items()
        }
        self.rows = lru_cache(_SHARDS_HELD)(self._rows)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images of shards, each with what the stages of its regions have of it."""
        first, _ = next(iter(self._sources.values()))
        return first.items(shards, lambda there: self._rows(there.number, there))

    def _rows(self, number: int, first: CommittedShard | None = None) -> list[dict[str, Any]]:
        """What all stages have of the images of a shard, which they have in one order.

        Args:
            number: of the shard.
            first: that of the first stage, where it is open already.
        """
        tables = []
        for place, (earlier, columns) in enumerate(self._sources.values()):
            shard = first if first is not None and place == 0 else earlier.shard(number)
            tables.append(shard.rows(list(columns)).to_pylist())
        return [joined(rows) for rows in zip(*tables, strict=True)]

    def load(self, uri: str, row: Mapping[str, Any]) -> Loaded | None:
        """An image and its regions; None for one that has failed before.

        Raises:
            ImageError: it cannot be used.
        """
        if row["status"] != "ok":
            return None
        data = images.fetch(uri, self._limits)
        digest = sha256(data).hexdigest()
        if row["digests"] != {digest}:
            raise ImageError("changed", "the image is another file than the one its mask is of", "read")
        decoded = images.decode(data, self._limits, self._profile)
        masks = {name: mask_of(name, row, decoded.size) for name in self._names}
        return Loaded(decoded.rgb, masks, bool(row.get("degenerate")), digest)


def shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w) where at least half of a place is in a mask."""
    found = functional.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="area")
    return (found[0, 0] >= 0.5).numpy()


def why_not(loaded: Loaded, name: str, small: NDArray[np.bool_]) -> str | None:
    """Why a region is left as it is; None if it is restyled."""
    mask = loaded.masks[name]
    if loaded.degenerate and label_of(name) is None:
        return "the mask is degenerate"
    if not mask.any():
        return "nothing of the image is in it"
    if mask.all():
        return "all of the image is in it"
    return None if small.any() else "it is too small to be seen"


def as_tensor(pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """(1, 3, H, W) in 0..1 of pixels (H, W, 3)."""
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255


def at_size(pixels: NDArray[np.uint8], size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(1, 3, h, w) in 0..1 of pixels (H, W, 3), as networks work on them."""
    return functional.interpolate(as_tensor(pixels, device), size, mode="bicubic", antialias=True).clamp(0, 1)
