"""COCO: boxes for the images on which localisation without labels is compared, and pixel maps of things and stuff."""

from __future__ import annotations

import json
import posixpath
from functools import partial
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.datasets.hierarchies import class_names
from simsam_batch.catalog.datasets.layout import Dataset, Home, records_of, with_boxes
from simsam_batch.storage import Folder, ObjectNotFound, entries

if TYPE_CHECKING:
    import pyarrow as pa

_LIST = "coco_20k_filenames.txt"
_INSTANCES = "annotations/instances_train2014.json"
# The archive of the pixel maps has no folder of its own; its authors unpack it into annotations.
_MAPS = ("stuffthingmaps_trainval2017", "annotations")


def _read(home: Home, split: str) -> pa.Table:  # noqa: ARG001  there is one split
    names = [posixpath.basename(row[0]) for row in home.rows(_LIST, 1)]
    table = records_of(home.chosen(home.files("train2014"), names, _LIST))
    try:
        instances = Folder(home.url).read(_INSTANCES)
    except ObjectNotFound as error:
        raise home.mismatch(f"there is no file {_INSTANCES}") from error
    try:
        boxes = boxes_of(instances)
    except (ValueError, KeyError, TypeError) as error:
        raise home.mismatch(f"{_INSTANCES} is not COCO's: {type(error).__name__}: {error}") from error
    return with_boxes(table, boxes, home.notes)


def _read_maps(home: Home, split: str) -> pa.Table:
    for maps in _MAPS:
        if f"{maps}/" in home.entries and f"{split}/" in entries(f"{home.url}/{maps}"):
            return home.paired(f"images/{split}", f"{maps}/{split}")
    raise home.mismatch(f"there is no folder {' or '.join(f'{maps}/{split}' for maps in _MAPS)}")


def boxes_of(instances: bytes) -> dict[str, list[list[float]]]:
    """Boxes by file stem, as xmin, ymin, xmax, ymax in pixels, max exclusive; those of crowds are left out.

    Every image of the file has an entry, an empty one if nothing in it counts.

    Raises:
        ValueError: not JSON, or boxes that are not four numbers.
        KeyError: a key of COCO's is missing.
        TypeError: a value is of another kind than COCO's.
    """
    held = json.loads(instances, object_hook=_without_outlines)
    names = {image["id"]: posixpath.splitext(image["file_name"])[0] for image in held["images"]}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for annotation in held["annotations"]:
        if not annotation["iscrowd"]:
            x, y, width, height = annotation["bbox"]
            boxes[names[annotation["image_id"]]].append([float(x), float(y), float(x + width), float(y + height)])
    return boxes


def _without_outlines(item: dict[str, Any]) -> dict[str, Any]:
    """Drop the polygons as soon as they are parsed: they are most of the file, which has hundreds of megabytes."""
    item.pop("segmentation", None)
    return item


COCO20K = Dataset(
    name="coco20k",
    title="COCO 20k",
    layout=f"""\
├── train2014/*.jpg
├── {_INSTANCES}
└── {_LIST}    (the list of 19,817 images that LOST publishes)""",
    homes=("COCO",),
    needs=("train2014/", "annotations/", _LIST),
    splits={"train2014": 19817},
    read=_read,
    kind="boxes",
    protocol="corloc",
)
"""Lin et al.: Microsoft COCO; the selection of Vo, Pérez and Ponce, as used by LOST and Deep Spectral Methods."""


def _with_maps(name: str, title: str) -> Dataset:
    return Dataset(
        name=name,
        title=title,
        layout="""\
├── images/{train,val}2017/*.jpg
└── stuffthingmaps_trainval2017/{train,val}2017/*.png    (or annotations/{train,val}2017/*.png)""",
        homes=("dataset", "COCO"),
        needs=("images/",),
        splits={"val2017": 5000, "train2017": 118287},
        read=_read_maps,
        kind="semantic",
        protocol="semantic",
        # The maps are the same; what is foreground is not.
        classes=partial(class_names, "coco-things", "coco-stuff"),
        ignore_label=255,
        label_hierarchy=name,
    )


# Caesar, Uijlings, Ferrari: COCO-Stuff: thing and stuff classes in context, CVPR 2018.
COCO_STUFF = _with_maps("coco-stuff", "COCO-Stuff")
COCO_THINGS = _with_maps("coco-things", "COCO with COCO-Stuff's pixel maps")
