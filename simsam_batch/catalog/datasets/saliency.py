"""ECSSD, DUTS-TE and DUT-OMRON: a folder of photographs and a folder of object masks with the same stems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home

if TYPE_CHECKING:
    import pyarrow as pa


def _dataset(name: str, title: str, *, images: str, masks: str, home: str, split: str, published: int) -> Dataset:
    def read(found: Home, split: str) -> pa.Table:  # noqa: ARG001  there is one split
        return found.paired(images, masks)

    return Dataset(
        name=name,
        title=title,
        layout=f"├── {images}/*.jpg\n└── {masks}/*.png",
        homes=(home,),
        needs=(f"{images}/", f"{masks}/"),
        splits={split: published},
        read=read,
        kind="object",
        protocol="dsm-object",
    )


# Shi, Yan, Xu, Jia: Hierarchical image saliency detection on extended CSSD
ECSSD = _dataset(
    "ecssd", "ECSSD", images="images", masks="ground_truth_mask", home="ECSSD", split="all", published=1000
)

# Wang et al.: Learning to detect salient objects with image-level supervision
DUTS_TE = _dataset(
    "duts-te",
    "DUTS-TE",
    images="DUTS-TE-Image",
    masks="DUTS-TE-Mask",
    home="DUTS-TE",
    split="test",
    published=5019,
)

# Yang et al.: Saliency detection via graph-based manifold ranking
DUT_OMRON = _dataset(
    "dut-omron",
    "DUT-OMRON",
    images="DUT-OMRON-image",
    masks="pixelwiseGT-new-PNG",
    home="DUT-OMRON",
    split="all",
    published=5168,
)
