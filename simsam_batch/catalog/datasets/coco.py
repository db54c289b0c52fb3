"""COCO 20k: the part of COCO 2014's training images on which localisation without labels is compared."""

from __future__ import annotations

import json
import posixpath
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.datasets.layout import Dataset, Home, records_of, with_boxes
from simsam_batch.storage import Folder, ObjectNotFound

if TYPE_CHECKING:
    import pyarrow as pa

_LIST = "coco_20k_filenames.txt"
_INSTANCES = "annotations/instances_train2014.json"


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
