"""Objects that were found compared with true ones: average precision and recall of masks and boxes, and CorLoc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import splitext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog.datasets.coco import Instance
from simsam_batch.results.objects import FoundObject
from simsam_batch.scores.detection import Detected, DetectionScores, match_detections
from simsam_batch.scores.localisation import LocalisationScores
from simsam_batch.storage import redact

PROTOCOL = "detection"


@dataclass(frozen=True, slots=True)
class TrueObjects:
    """The G true objects of one image.

    Attributes:
        masks: run lengths as pycocotools takes them; None where there are boxes alone.
        boxes: (G, 4) float64: xmin, ymin, xmax, ymax in pixels, max exclusive.
        areas: (G,) float64, pixels.
        crowd: (G,) bool, objects that stand for many.
        counted: run lengths of the pixels that count; None where all do.
    """

    masks: list[dict[str, Any]] | None
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    counted: dict[str, Any] | None = None


def of_numbers(numbers: NDArray[np.integer[Any]], void: NDArray[np.bool_]) -> TrueObjects:
    """The objects of a map (H, W) of their numbers, 0 for none, and of the pixels that do not count."""
    from pycocotools import mask as coco

    present = [number for number in np.unique(numbers).tolist() if number]
    masks = [coco.encode(np.asfortranarray(numbers == number).view(np.uint8)) for number in present]
    counted = coco.encode(np.asfortranarray(~void).view(np.uint8)) if void.any() else None
    none = np.zeros(len(masks), dtype=np.bool_)
    return TrueObjects(masks, _corners(masks), _areas(masks), none, counted)


def of_boxes(boxes: Sequence[Sequence[float]]) -> TrueObjects:
    """Objects of which boxes are known alone."""
    held = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    sides = held[:, 2:] - held[:, :2]
    return TrueObjects(None, held, sides[:, 0] * sides[:, 1], np.zeros(len(held), dtype=np.bool_))


def of_instances(instances: Sequence[Instance], size: tuple[int, int]) -> TrueObjects:
    """Objects as COCO's files have them, in an image of a size (height, width).

    Raises:
        ValueError: an outline cannot be read.
    """
    from pycocotools import mask as coco

    masks = []
    for each in instances:
        if isinstance(each.segmentation, list):
            masks.append(coco.merge(coco.frPyObjects([outline.tolist() for outline in each.segmentation], *size)))
        elif isinstance(each.segmentation["counts"], list):
            masks.append(coco.frPyObjects(each.segmentation, *size))
        else:
            masks.append(each.segmentation)
        if list(masks[-1]["size"]) != list(size):
            raise ValueError(f"it has run lengths of an image of {masks[-1]['size']} (height, width)")
    areas = _areas(masks)
    for place, each in enumerate(instances):
        areas[place] = areas[place] if each.area is None else each.area
    boxes = np.array([each.box for each in instances], dtype=np.float64).reshape(-1, 4)
    return TrueObjects(masks, boxes, areas, np.array([each.crowd for each in instances], dtype=np.bool_))


class ObjectDetectionScores:
    """The fold of found objects over a set: a state for each image, merged in the order of the images."""

    def __init__(self) -> None:
        self._detections, self._corloc = DetectionScores(), LocalisationScores()

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {
            "masks": self._detections.zero(),
            "boxes": self._detections.zero(),
            "corloc": self._corloc.zero(),
            "found": 0,
            "true": 0,
        }

    def of_image(self, found: Sequence[FoundObject], truth: TrueObjects) -> dict[str, Any]:
        """The state of one image; without true masks boxes alone are compared.

        CorLoc is of the box of the highest score, against all that are no crowd.
        """
        scores = np.array([1.0 if each.score is None else each.score for each in found], dtype=np.float64)
        boxes = np.array([each.box for each in found], dtype=np.float64).reshape(-1, 4)
        masks = self._detections.zero()
        if truth.masks is not None:
            own = [_within(each.mask_rle, truth.counted) for each in found]
            masks = match_detections(_ious(own, truth.masks, truth), scores, _areas(own), truth.areas, truth.crowd)
        sides = boxes[:, 2:] - boxes[:, :2]
        overlaps = _ious(_measured(boxes), _measured(truth.boxes), truth)
        first = boxes[int(scores.argmax())] if len(found) else None
        plain = truth.boxes[~truth.crowd]
        return {
            "masks": masks,
            "boxes": match_detections(overlaps, scores, sides[:, 0] * sides[:, 1], truth.areas, truth.crowd),
            "corloc": self._corloc.of_image(
                None if first is None else tuple(first.tolist()), [tuple(box) for box in plain.tolist()]
            ),
            "found": len(found),
            "true": len(plain),
        }

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both, those of ``a`` first."""
        folds = {"masks": self._detections, "boxes": self._detections, "corloc": self._corloc}
        merged = {name: fold.merge(a[name], b[name]) for name, fold in folds.items()}  # type: ignore[attr-defined]
        return merged | {name: a[name] + b[name] for name in ("found", "true")}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The scores of the set, those of `DetectionScores` of masks and of boxes; nothing if no image had a truth."""
        boxes: Detected = s["boxes"]
        if not boxes.images:
            return {}
        of_masks = self._detections.result(s["masks"]) if s["masks"].images else {}
        corloc = self._corloc.result(s["corloc"])
        return {
            "protocol": PROTOCOL,
            **{f"mask_{name}": value for name, value in of_masks.items()},
            **{f"box_{name}": value for name, value in self._detections.result(boxes).items()},
            **{name: corloc[name] for name in ("corloc", "corloc_ci") if name in corloc},
            "images_scored": boxes.images,
            "images_without_object": corloc["images_without_annotation"],
            "objects_found": s["found"],
            "objects_true": s["true"],
        }


def true_objects(
    record: Mapping[str, Any],
    size: tuple[int, int],
    instances: Mapping[str, tuple[tuple[int, int] | None, list[Instance]]] | None,
    ignore: int | None,
) -> TrueObjects:
    """The true objects of an image that has truth in a file of instances, or else in a file of its own.

    Args:
        record: with ``image_id`` and ``truth_uri``.
        size: (height, width).
        instances: by the path without its suffix, see `simsam_batch.catalog.datasets.coco.instances_of`; or None.
        ignore: see `simsam_batch.images.load_instances`.

    Raises:
        TruthError: it cannot be used.
        StorageError: the storage did not answer.
    """
    uri = record["truth_uri"]
    if instances is None:
        return of_numbers(*images.load_instances(uri, images.ImageLimits(), size, ignore=ignore))
    known, found = instances[splitext(record["image_id"])[0]]
    where = f"truth {redact(uri)}, {record['image_id']}"
    if known not in (None, size):
        raise images.TruthError(
            "other_size",
            f"{where}: the image is said to have {known[1]}x{known[0]} pixels (width x height), and has "
            f"{size[1]}x{size[0]}. To mend it: give the instances of these very images",
        )
    try:
        return of_instances(found, size)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise images.TruthError("unreadable", f"{where}: {type(error).__name__}: {error}") from error


def _within(mask: Mapping[str, Any], counted: Mapping[str, Any] | None) -> dict[str, Any]:
    from pycocotools import mask as coco

    found: dict[str, Any] = dict(mask) if counted is None else coco.merge([dict(mask), counted], intersect=True)
    return found


def _ious(found: Any, truth: Any, of: TrueObjects) -> NDArray[np.float64]:
    """(D, G), of crowds over the area of what was found."""
    from pycocotools import mask as coco

    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    return np.asarray(coco.iou(found, truth, of.crowd.astype(np.uint8).tolist()), dtype=np.float64)


def _areas(masks: list[dict[str, Any]]) -> NDArray[np.float64]:
    from pycocotools import mask as coco

    return np.asarray(coco.area(masks) if masks else [], dtype=np.float64)


def _corners(masks: list[dict[str, Any]]) -> NDArray[np.float64]:
    from pycocotools import mask as coco

    boxes = np.asarray(coco.toBbox(masks) if masks else [], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _measured(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes as left, top, width and height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
