"""COCO: boxes for the images on which localisation without labels is compared, and pixel maps of things and stuff."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from simsam_batch.catalog.datasets.hierarchies import class_names
from simsam_batch.catalog.datasets.layout import Dataset, Home, records_of, with_boxes
from simsam_batch.catalog.records import quoted
from simsam_batch.storage import Folder, ObjectNotFound, entries

if TYPE_CHECKING:
    import pyarrow as pa

_LIST = "coco_20k_filenames.txt"
_INSTANCES = "annotations/instances_train2014.json"
# The archive of the pixel maps has no folder of its own; its authors unpack it into annotations.
_MAPS = ("stuffthingmaps_trainval2017", "annotations")
_ENDLESS = float("inf")


def _read(home: Home, split: str) -> pa.Table:  # noqa: ARG001  there is one split
    names = [posixpath.basename(row[0]) for row in home.rows(_LIST, 1)]
    table = records_of(home.chosen(home.files("train2014"), names, _LIST))
    try:
        instances = Folder(home.url).read(_INSTANCES)
    except ObjectNotFound as error:
        raise home.mismatch(f"there is no file {_INSTANCES}") from error
    try:
        boxes = boxes_of(instances, home.notes)
    except ValueError as error:
        raise home.mismatch(f"{_INSTANCES} is not COCO's: {error}") from error
    return with_boxes(table, boxes, home.notes)


def _read_maps(home: Home, split: str) -> pa.Table:
    for maps in _MAPS:
        if f"{maps}/" in home.entries and f"{split}/" in entries(f"{home.url}/{maps}"):
            return home.paired(f"images/{split}", f"{maps}/{split}")
    raise home.mismatch(f"there is no folder {' or '.join(f'{maps}/{split}' for maps in _MAPS)}")


def boxes_of(instances: bytes, notes: list[str] | None = None) -> dict[str, list[list[float]]]:
    """Boxes by file stem, as xmin, ymin, xmax, ymax in pixels, max exclusive; those of crowds are left out.

    Every image of the file has an entry, an empty one if nothing in it counts. Numbers may be texts, and where
    ``iscrowd`` is not there it means 0, as LVIS and many tools for labelling write it.

    Args:
        instances: content of the file, JSON.
        notes: annotations of images that are not in the file, as files cut down to fewer images have them, are named
            here; None: nowhere.

    Raises:
        ValueError: not JSON or not COCO's; boxes that are not four finite numbers; or images whose boxes cannot be told
            apart: two of one id or of one sub-folder and stem.
    """

    def box_of(annotation: dict[str, Any]) -> list[float] | None:
        return None if int(annotation.get("iscrowd") or 0) else _box(annotation)

    return {stem: found for stem, (_, found) in _by_stem(instances, _without_outlines, box_of, notes).items()}


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation.

    Attributes:
        segmentation: polygons, each numbers x, y, x, y and so on in pixels, or run lengths as the file has them.
        box: xmin, ymin, xmax, ymax in pixels, max exclusive.
        area: pixels, as the file says; None where it does not.
        crowd: it stands for many objects.
    """

    segmentation: list[NDArray[np.float64]] | dict[str, Any]
    box: list[float]
    area: float | None
    crowd: bool


def instances_of(
    instances: bytes, notes: list[str] | None = None
) -> dict[str, tuple[tuple[int, int] | None, list[Instance]]]:
    """Annotations by file stem, those of crowds among them, and before them the size (height, width) of the image.

    Every image of the file has an entry; its size is None where the file does not say it.

    Args:
        instances: see `boxes_of`.
        notes: likewise.

    Raises:
        ValueError: see `boxes_of`; also an annotation without an outline.
    """
    return _by_stem(instances, _with_packed_outlines, _instance, notes)


T = TypeVar("T")


def _by_stem(
    instances: bytes,
    hook: Callable[[dict[str, Any]], dict[str, Any]],
    made: Callable[[dict[str, Any]], T | None],
    notes: list[str] | None,
) -> dict[str, tuple[tuple[int, int] | None, list[T]]]:
    """What is made of the annotations, by the stem of their image, those that nothing is made of left out."""
    try:
        held = json.loads(instances, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    try:
        names = _names(held["images"])
        sizes = {_id(image["id"]): _size(image) for image in held["images"]}
        found: dict[str, tuple[tuple[int, int] | None, list[T]]] = {
            posixpath.splitext(name)[0]: (sizes[number], []) for number, name in names.items()
        }
        left_over = []
        for annotation in held["annotations"]:
            name = names.get(_id(annotation["image_id"]))
            if name is None:
                left_over.append(annotation["image_id"])
            elif (each := made(annotation)) is not None:
                found[posixpath.splitext(name)[0]][1].append(each)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if left_over and notes is not None:
        ids = list(dict.fromkeys(left_over))
        notes.append(
            f"{len(left_over)} annotations are of images that the file does not have: {quoted(ids[:5], len(ids))}"
        )
    return found


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    return (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None


def _instance(annotation: dict[str, Any]) -> Instance:
    outlines = annotation.get("segmentation")
    if not outlines:
        raise ValueError(
            f"the annotation {annotation.get('id')} has no outline (segmentation). To mend it: give the file as boxes"
        )
    area = annotation.get("area")
    crowd = bool(int(annotation.get("iscrowd") or 0))
    return Instance(outlines, _box(annotation), None if area is None else float(area), crowd)


def _names(images: list[dict[str, Any]]) -> dict[str, str]:
    """Names of files by the ids of images."""
    names: dict[str, str] = {}
    for image in images:
        number, name = _id(image["id"]), str(image["file_name"])
        if names.setdefault(number, name) != name:
            raise ValueError(f"two images have the id {number}: {quoted([names[number], name])}")
    stems = Counter(posixpath.splitext(name)[0] for name in dict.fromkeys(names.values()))
    shared = sorted(stem for stem, count in stems.items() if count > 1)
    if shared:
        raise ValueError(
            f"more than one image would have the same boxes, for they are joined by sub-folder and stem: "
            f"{quoted(shared[:5], len(shared))}. To mend it: leave all but one of each out of the file"
        )
    return names


def _id(value: Any) -> str:
    """An id as text, whether it is a number or the text of one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box(annotation: dict[str, Any]) -> list[float]:
    given = annotation["bbox"]
    fault = f"the annotation {annotation.get('id')} has the box {str(given)[:100]}"
    try:
        # a text has letters where a list has numbers
        x, y, width, height = map(float, given if isinstance(given, list) else ())
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{fault}: {error}") from error
    # not a number compares as false
    if not (abs(x) < _ENDLESS and abs(y) < _ENDLESS and 0 <= width < _ENDLESS and 0 <= height < _ENDLESS):
        raise ValueError(f"{fault}: a size is negative, or a number is not finite")
    return [x, y, x + width, y + height]


def _with_packed_outlines(item: dict[str, Any]) -> dict[str, Any]:
    """Pack the polygons as soon as they are parsed: 8 bytes a number instead of 32."""
    outlines = item.get("segmentation")
    if isinstance(outlines, list):
        item["segmentation"] = [np.asarray(outline, dtype=np.float64) for outline in outlines]
    return item


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
