"""BSDS500: photographs that several people each cut into regions, every one in their own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home

if TYPE_CHECKING:
    import pyarrow as pa


def _read(home: Home, split: str) -> pa.Table:
    return home.paired(f"images/{split}", f"groundTruth/{split}", suffixes=(".mat",))


BSDS500 = Dataset(
    name="bsds500",
    title="BSDS500",
    layout="""\
├── images/{train,val,test}/*.jpg
└── groundTruth/{train,val,test}/*.mat""",
    homes=("data", "BSDS500/data", "BSR/BSDS500/data"),
    needs=("images/", "groundTruth/"),
    splits={"test": 200, "train": 200, "val": 100},
    read=_read,
    kind="partitions",
    protocol="segmentation-covering",
)
"""Arbelaez, Maire, Fowlkes, Malik: Contour detection and hierarchical image segmentation, TPAMI 2011."""
