"""PASCAL VOC 2007 and 2012: maps of class ids for a small part, boxes for all."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from simsam_batch.catalog.datasets.layout import Dataset, Home, records_of, with_boxes
from simsam_batch.catalog.records import quoted
from simsam_batch.catalog.truth import with_truth
from simsam_batch.storage import Folder

if TYPE_CHECKING:
    import pyarrow as pa

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def photographs(home: Home, task: str, split: str) -> pa.Table:
    """The files that a list of a task and a split names, in the order of the list."""
    name = f"ImageSets/{task}/{split}.txt"
    ids = [row[0].split()[0] for row in home.rows(name, 1)]
    return home.chosen(home.files("JPEGImages"), ids, name)


def with_maps(home: Home, table: pa.Table, maps: str) -> pa.Table:
    """Photographs that a list named, with the maps of class ids of a folder of the home."""
    home.files(maps)
    place = f"{home.url}/JPEGImages"
    return with_truth(records_of(table), f"{home.url}/{maps}", place, home.notes, note_extra=False)


def _read_semantic(home: Home, split: str) -> pa.Table:
    return with_maps(home, photographs(home, "Segmentation", split), "SegmentationClass")


def _read_boxes(home: Home, split: str) -> pa.Table:
    table = records_of(photographs(home, "Main", split))
    stems = {name.rpartition(".")[0] for name in table["image_id"].to_pylist()}
    listed = home.files("Annotations", (".xml",))["name"].to_pylist()
    files = [name for name in listed if name.removesuffix(".xml") in stems]
    boxes, unreadable = {}, []
    for name, text in zip(files, Folder(f"{home.url}/Annotations").read_many(files), strict=True):
        try:
            boxes[name.removesuffix(".xml")] = boxes_of(text)
        except ValueError as error:
            unreadable.append(f"{name}: {error}")
    if unreadable:
        home.notes.append(f"{len(unreadable)} annotations cannot be read: {quoted(unreadable)}")
    if not boxes:
        raise home.mismatch("no file of Annotations/ belongs to an image of the split and can be read")
    return with_boxes(table, boxes, home.notes)


def boxes_of(annotation: bytes) -> list[list[float]]:
    """Boxes of one VOC annotation as xmin, ymin, xmax, ymax in pixels from 0, max exclusive.

    VOC counts pixels from 1 and the last one belongs to the box, so that xmin and ymin are less by 1. Objects marked
    as difficult count, as in the evaluation of Deep Spectral Methods and LOST. Boxes of parts of an object do not.

    Raises:
        ValueError: not XML, no VOC annotation, or a box that is not four finite numbers in order.
    """
    try:
        # Entities outside the file are never fetched, and expat itself bounds what those inside may grow to.
        tree = ET.fromstring(annotation)  # noqa: S314
    except ET.ParseError as error:
        raise ValueError(f"not XML: {error}") from error
    if tree.tag != "annotation":
        raise ValueError(f"its outer element is {tree.tag!r}, not 'annotation'")
    found = []
    for number, item in enumerate(tree.findall("object")):
        texts = [item.findtext(f"bndbox/{corner}") for corner in _CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text or "") for text in texts)
        except ValueError as error:
            raise ValueError(f"object {number} has the corners {texts}") from error
        # Not a number compares as false.
        if not (0 <= xmin - 1 < xmax < float("inf") and 0 <= ymin - 1 < ymax < float("inf")):
            raise ValueError(f"object {number} has the corners {texts}")
        found.append([xmin - 1, ymin - 1, xmax, ymax])
    return found


def _semantic(year: int, splits: dict[str, int], label_hierarchy: str | None = None) -> Dataset:
    return Dataset(
        name=f"voc{year}",
        title=f"PASCAL VOC {year}",
        layout="""\
├── JPEGImages/*.jpg
├── SegmentationClass/*.png
└── ImageSets/
    └── Segmentation/{train,val,trainval}.txt""",
        homes=(f"VOC{year}", f"VOCdevkit/VOC{year}"),
        needs=("JPEGImages/", "SegmentationClass/", "ImageSets/"),
        splits=splits,
        read=_read_semantic,
        kind="semantic",
        protocol="voc-semantic",
        classes=CLASSES,
        ignore_label=255,
        label_hierarchy=label_hierarchy,
    )


def _boxes(year: int, splits: dict[str, int]) -> Dataset:
    return Dataset(
        name=f"voc{year}-boxes",
        title=f"PASCAL VOC {year}",
        layout="""\
├── JPEGImages/*.jpg
├── Annotations/*.xml
└── ImageSets/
    └── Main/{train,val,trainval}.txt""",
        homes=(f"VOC{year}", f"VOCdevkit/VOC{year}"),
        needs=("JPEGImages/", "Annotations/", "ImageSets/"),
        splits=splits,
        read=_read_boxes,
        kind="boxes",
        protocol="corloc",
    )


# Everingham et al.: The PASCAL visual object classes challenge; sizes from the pages of its results.
VOC2007 = _semantic(2007, {"val": 213, "train": 209, "trainval": 422, "test": 210})
VOC2012 = _semantic(2012, {"val": 1449, "train": 1464, "trainval": 2913}, "voc2012")
VOC2007_BOXES = _boxes(2007, {"trainval": 5011, "train": 2501, "val": 2510, "test": 4952})
VOC2012_BOXES = _boxes(2012, {"trainval": 11540, "train": 5717, "val": 5823})
