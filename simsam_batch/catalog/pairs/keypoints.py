"""Images with named key points, as COCO and DeepLabCut write them, and the pairs that are made of them."""

from __future__ import annotations

import csv
import io
import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations, takewhile
from typing import Any, Literal

from simsam_batch.catalog.pair_records import Pair, Point
from simsam_batch.errors import SettingsError
from simsam_batch.storage import redact

Pairing = Literal["given", "all", "same-category", "video"]
"""How images are paired that come without pairs: all ordered pairs, those of one category (of a folder, where images
have none), or the first image of each folder with all others of it."""

_CORNERS = 4
_MOST = 2_000_000
"""Pairs of which the tables take some gigabytes; more are hardly meant."""
_HEADS = ("scorer", "individuals", "bodyparts", "coords")


@dataclass(frozen=True, slots=True)
class Instance:
    """An object in an image, or an image as a whole.

    Attributes:
        path: path or URL of the image.
        points: by name, those that are known; None where nobody has named any.
        box: left, top, right, bottom in pixels.
        category: of the object.
        number: of the object in its image, from 0.
    """

    path: str
    points: Mapping[str, Point] | None = None
    box: Sequence[float] | None = None
    category: str | None = None
    number: int = field(default=0)

    @property
    def folder(self) -> str:
        """That of the image."""
        return posixpath.dirname(self.path)


def is_coco(held: Any) -> bool:
    """Whether JSON is COCO's."""
    return isinstance(held, dict) and {"images", "annotations", "categories"} <= held.keys()


def instances_of_coco(held: Mapping[str, Any], images: str) -> list[Instance]:
    """The annotated objects of COCO's key points: points that are marked as 0 are not known; a crowd is left out.

    Raises:
        SettingsError: it is not what COCO writes.
    """
    try:
        names = {each["id"]: list(each.get("keypoints") or ()) for each in held["categories"]}
        called = {each["id"]: str(each["name"]) for each in held["categories"]}
        files = {each["id"]: str(each["file_name"]) for each in held["images"]}
        found, often = [], dict.fromkeys(files, 0)
        for each in held["annotations"]:
            values = each.get("keypoints")
            if not values or int(each.get("iscrowd") or 0):
                continue
            kind, image = each["category_id"], each["image_id"]
            triples = zip(names[kind], values[::3], values[1::3], values[2::3], strict=True)
            points = {name: (float(x), float(y)) for name, x, y, seen in triples if seen}
            found.append(Instance(files[image], points, _box_of(each.get("bbox")), called[kind], often[image]))
            often[image] += 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{redact(images)} is not COCO's: {type(error).__name__}: {error}") from error
    if not found:
        raise SettingsError(
            f"{redact(images)} has no annotation with key points. To mend it: give COCO's person_keypoints, or pairs"
        )
    return found


def _box_of(box: Sequence[float] | None) -> Sequence[float] | None:
    """COCO's left, top, width, height as corners; None where there is none, or an empty one."""
    if box is None or len(box) != _CORNERS or min(box[2:]) <= 0:
        return None
    left, top, width, height = map(float, box)
    return left, top, left + width, top + height


def is_deeplabcut(text: str) -> bool:
    """Whether CSV is DeepLabCut's."""
    return text.startswith("scorer,")


def instances_of_deeplabcut(text: str, images: str) -> list[Instance]:
    """The frames of a project labelled in DeepLabCut (``CollectedData_<scorer>.csv``); empty fields are not known.

    Lines name the scorer, maybe individuals, body parts and coordinates; then comes a line for each frame, whose path
    is in one column or in three (``labeled-data``, video, file).

    Raises:
        SettingsError: it is not what DeepLabCut writes.
    """
    lines = list(csv.reader(io.StringIO(text)))
    heads = {line[0]: line for line in takewhile(lambda line: line and line[0] in _HEADS, lines)}
    if not {"bodyparts", "coords"} <= heads.keys():
        raise SettingsError(f"{redact(images)} begins like DeepLabCut's CSV, and has no lines bodyparts and coords")
    parts, coordinates = heads["bodyparts"], heads["coords"]
    animals = heads.get("individuals") or [""] * len(parts)
    first = next((i for i, each in enumerate(coordinates) if each == "x"), len(coordinates))
    found = []
    for line in lines[len(heads) :]:
        if not line:
            continue
        of_animal: dict[str, dict[str, list[float]]] = {}
        for animal, part, axis, value in zip(
            animals[first:], parts[first:], coordinates[first:], line[first:], strict=False
        ):
            place = of_animal.setdefault(animal, {}).setdefault(part, [math.nan, math.nan])
            if axis in ("x", "y"):
                try:
                    place[axis == "y"] = float(value) if value else math.nan
                except ValueError as error:
                    raise SettingsError(f"{redact(images)}: {value!r} of {line[0]!r} is no number") from error
        path = posixpath.join(*(each.replace("\\", "/") for each in line[:first] if each))
        for number, named in enumerate(of_animal.values()):
            points = {name: (x, y) for name, (x, y) in named.items() if math.isfinite(x) and math.isfinite(y)}
            found.append(Instance(path, points, number=number))
    if not found:
        raise SettingsError(f"{redact(images)} has no frame in it")
    return found


def paired(instances: Sequence[Instance], how: Pairing, where: str, limit: int | None) -> list[Pair]:
    """Pairs of objects of two images, in the order of their sources; those of key points need one that both have.

    Args:
        instances: the objects.
        how: they are paired. Of a video those with one number go together: of an individual, or of the only one there.
        where: what to call them in messages.
        limit: of pairs, from the start; None for all.

    Raises:
        SettingsError: nobody said how, nothing was found to pair, or so many would be made that nobody means it.
    """
    if how == "given":
        raise SettingsError(
            f"pairs: {where} has images, and no pairs. To mend it: say which are to be matched by --pairs all, "
            "same-category or video, or give a file of pairs"
        )
    groups: dict[Any, list[Instance]] = {}
    for each in instances:
        if each.points is None or each.points:
            groups.setdefault(_group_of(each, how), []).append(each)
    many = sum(len(group) - 1 if how == "video" else len(group) * (len(group) - 1) for group in groups.values())
    if limit is None and many > _MOST:
        raise SettingsError(
            f"pairs: {how!r} makes {many:,} pairs of {where}. To mend it: choose another, name pairs in a file, or "
            "take the first ones by --limit"
        )
    found = list(islice(_pairs_in(groups.values(), how), limit))
    if not found:
        raise SettingsError(f"pairs: no two images of {where} go together by {how!r}. To mend it: choose another")
    return found


def _group_of(instance: Instance, how: Pairing) -> Any:
    if how == "all":
        return None
    if how == "video":
        return instance.folder, instance.category, instance.number
    return instance.category or instance.folder


def _pairs_in(groups: Iterable[list[Instance]], how: Pairing) -> Iterator[Pair]:
    for group in groups:
        both = ((group[0], other) for other in group[1:]) if how == "video" else permutations(group, 2)
        for source, target in both:
            free = source.points is None or target.points is None
            if source.path != target.path and (free or source.points.keys() & target.points.keys()):  # type: ignore[union-attr]
                yield _pair(source, target)


def _pair(source: Instance, target: Instance) -> Pair:
    numbers = (source.number, target.number)
    name = f"{source.path}:{target.path}" + (f"#{numbers[0]}-{numbers[1]}" if any(numbers) else "")
    boxes, category = (source.box, target.box), source.category
    if source.points is None:
        return Pair(source.path, target.path, boxes=boxes, category=category, pair_id=name)
    there = target.points
    names = [*dict.fromkeys([*source.points, *(there or ())])]
    points = [source.points.get(each) for each in names]
    truth = None if there is None else [there.get(each) for each in names]
    return Pair(source.path, target.path, points, truth, names, boxes, category, name)
