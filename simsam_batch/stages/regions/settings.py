"""How regions are made and described."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings import Component, Regions, SpectralSettings, result


class DescribedRegions(Regions):
    """Regions that are described one by one."""

    regions: int = result(15, "regions of an image, background included; 0: as many as the eigengap says", ge=0)
    erode: int = result(2, "erosions of a region before its box is drawn", ge=0)
    dilate: int = result(3, "dilations after them", ge=0)
    region_feature: Literal["patches", "class-token", "mean-token"] = result(
        "patches",
        "what describes a region: its patches' mean, or the class token or mean token of its box seen alone",
    )
    crop_size: int = result(
        224, "side in pixels that boxes are resized to; 0: their own size", idle={"region_feature": ["patches"]}, ge=0
    )


class PatchBaselines(Component, title="Scores"):
    """What label maps are compared with."""

    baselines: bool = result(
        False,
        "score plain k-means of all patches, and one class everywhere, beside the label maps; keeps the patches' "
        "descriptors in OUT",
        unrecorded=False,
    )


class RegionsSettings(PatchBaselines, DescribedRegions, SpectralSettings):
    """What the stage has to know, whatever its regions are for."""
