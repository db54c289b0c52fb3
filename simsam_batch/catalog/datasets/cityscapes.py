"""Cityscapes: streets with maps of class ids, whose files are called otherwise than the photographs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.hierarchies import class_names
from simsam_batch.catalog.datasets.layout import Dataset, Home

if TYPE_CHECKING:
    import pyarrow as pa

_PHOTOGRAPH, _MAP = "_leftImg8bit.png", "_gtFine_labelIds.png"


def _read(home: Home, split: str) -> pa.Table:
    return home.paired(f"leftImg8bit/{split}", f"gtFine/{split}", suffixes=(_MAP,), image_suffixes=(_PHOTOGRAPH,))


CITYSCAPES = Dataset(
    name="cityscapes",
    title="Cityscapes",
    layout=f"""\
├── leftImg8bit/{{train,val}}/*/*{_PHOTOGRAPH}
└── gtFine/{{train,val}}/*/*{_MAP}""",
    homes=("cityscapes",),
    needs=("leftImg8bit/", "gtFine/"),
    splits={"val": 500, "train": 2975},
    read=_read,
    kind="semantic",
    protocol="semantic",
    classes=partial(class_names, "cityscapes"),
    ignore_label=0,
    label_hierarchy="cityscapes",
)
"""Cordts et al.: The Cityscapes dataset for semantic urban scene understanding, CVPR 2016.

Test images were published with maps that are empty. Of the ids that do not count in its benchmark one alone can be
``ignore_label``; the hierarchy knows them all.
"""
