"""PartImageNet and Pascal-Part: maps of the parts of objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.hierarchies import class_names
from simsam_batch.catalog.datasets.layout import Dataset, Home
from simsam_batch.catalog.datasets.voc import photographs, with_maps

if TYPE_CHECKING:
    import pyarrow as pa

_PART_MAPS = "Annotations_Part_Ids"


def _read_partimagenet(home: Home, split: str) -> pa.Table:
    return home.paired(f"images/{split}", f"annotations/{split}")


def _read_pascal_part(home: Home, split: str) -> pa.Table:
    return with_maps(home, photographs(home, "Main", split), _PART_MAPS)


PARTIMAGENET = Dataset(
    name="partimagenet",
    title="PartImageNet",
    layout="""\
├── images/{train,val,test}/*.JPEG
└── annotations/{train,val,test}/*.png    (ids 0 to 39 for parts, 40 for background)""",
    homes=("PartImageNet", "PartImageNet/PartImageNet", "PartImageNet_Seg"),
    needs=("images/", "annotations/"),
    splits={"val": None, "train": None, "test": None},
    read=_read_partimagenet,
    kind="semantic",
    protocol="semantic",
    classes=partial(class_names, "partimagenet"),
    label_hierarchy="partimagenet",
)
"""He et al.: PartImageNet: a large, high-quality dataset of parts, ECCV 2022.

It has two releases, whose splits differ under the same names. Its maps of 40 parts go with the hierarchy of 40 parts
in every split; upstream's settings read those of val as parts of 158 species.
"""

PASCAL_PART = Dataset(
    name="pascal-part",
    title="Pascal-Part",
    layout=f"""\
├── JPEGImages/*.jpg
├── {_PART_MAPS}/*.png    (16-bit ids, made from the .mat files)
└── ImageSets/
    └── Main/{{train,val,trainval}}.txt""",
    homes=("VOC2010", "VOCdevkit/VOC2010"),
    needs=("JPEGImages/", f"{_PART_MAPS}/", "ImageSets/"),
    splits={"val": 5105, "train": 4998, "trainval": 10103},
    read=_read_pascal_part,
    kind="semantic",
    protocol="semantic",
    classes=partial(class_names, "pascal-part"),
    ignore_label=389,
    label_hierarchy="pascal-part",
)
"""Chen et al.: Detect what you can, CVPR 2014: parts of the objects of PASCAL VOC 2010, with its splits."""
