"""Pairs as records, and the tables of a run that is about them: its images, each once, and its pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.records import quoted, records_table
from simsam_batch.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

Point = tuple[float, float]
"""x and y in pixels of the image as it is shown upright, the centre of the first at (0, 0)."""

PAIR_UNIT = "pair_id"

PAIRS = "pairs"
"""What the plan of a run's pairs is called among its further plans."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Points of one image that are to be found in another.

    Attributes:
        source, target: paths or URLs of the images.
        points: of the source, None where it is hidden or not known; None without any.
        truth: for each point where it is in the target, None where it is hidden or not known; None without any truth.
        names: of the points.
        boxes: of the object in the source and in the target: left, top, right, bottom in pixels.
        category: of the object.
        pair_id: None to be called by the images.
        kept: values of further columns.
    """

    source: str
    target: str
    points: Sequence[Point | None] | None = None
    truth: Sequence[Point | None] | None = None
    names: Sequence[str] | None = None
    boxes: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None)
    category: str | None = None
    pair_id: str | None = None
    kept: dict[str, Any] = field(default_factory=dict)


def pair_of(record: Any, where: str) -> Pair:
    """A pair from plain values, as JSON has them.

    They are ``source``, ``target`` and, as far as they are known, ``source_points``, ``target_points``,
    ``point_names``, ``source_box``, ``target_box``, ``category``, ``pair_id``.

    Args:
        record: the values by name.
        where: what to call it in messages.

    Raises:
        SettingsError: a value is missing or is not what it should be.
    """
    if not isinstance(record, dict):
        raise SettingsError(
            f"{where} is no pair: {str(record)[:100]!r}. To mend it: give an object with source, target"
        )
    ends = [record.get(side) for side in ("source", "target")]
    if not all(isinstance(end, str) and end for end in ends):
        raise SettingsError(f"{where} needs a path or URL as source and as target, and has {ends}")
    points = _points(record.get("source_points"), f"{where}: source_points")
    truth = _points(record.get("target_points"), f"{where}: target_points")
    names = record.get("point_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise SettingsError(f"{where}: point_names are texts, and are {str(names)[:100]}")
    for what, held in (("target_points", truth), ("point_names", names)):
        if held is not None and (points is None or len(held) != len(points)):
            many = "no" if points is None else len(points)
            raise SettingsError(
                f"{where} has {many} source_points and {len(held)} {what}. To mend it: give one for each"
            )
    source_box, target_box = (_box(record.get(name), f"{where}: {name}") for name in ("source_box", "target_box"))
    return Pair(
        str(ends[0]),
        str(ends[1]),
        points,
        truth,
        names,
        (source_box, target_box),
        _text(record.get("category"), f"{where}: category"),
        _text(record.get("pair_id"), f"{where}: pair_id"),
    )


def tables_of(
    pairs: Sequence[Pair], ids: Sequence[tuple[str, str]], uris: Sequence[tuple[str, str]], where: str
) -> tuple[pa.Table, pa.Table]:
    """The images of some pairs, each once, and the pairs in the order of their sources, then of their targets.

    So pairs that share an image come near each other, whoever computes them.

    Args:
        pairs: at least one.
        ids: of the images of each.
        uris: likewise.
        where: what to call them in messages.

    Raises:
        SettingsError: one id for two images, or one pair_id for two pairs.
    """
    import pyarrow as pa

    places: dict[str, int] = {}
    of_image: dict[str, str] = {}
    for both, files in zip(ids, uris, strict=True):
        for name, file in zip(both, files, strict=True):
            places.setdefault(name, len(places))
            if of_image.setdefault(name, file) != file:
                raise SettingsError(f"{where}: {name!r} means two images, {quoted([of_image[name], file])}")
    numbers = [(places[source], places[target]) for source, target in ids]
    order = sorted(range(len(pairs)), key=lambda each: numbers[each])
    names = _pair_ids(pairs, ids, where)
    point = pa.list_(pa.float64())
    columns = {
        PAIR_UNIT: pa.array([names[i] for i in order], pa.string()),
        "source": pa.array([ids[i][0] for i in order], pa.string()),
        "target": pa.array([ids[i][1] for i in order], pa.string()),
        "source_record": pa.array([numbers[i][0] for i in order], pa.int64()),
        "target_record": pa.array([numbers[i][1] for i in order], pa.int64()),
        "category": pa.array([pairs[i].category for i in order], pa.string()),
        "point_names": pa.array([pairs[i].names for i in order], pa.list_(pa.string())),
        "source_points": pa.array([pairs[i].points for i in order], pa.list_(point)),
        "target_points": pa.array([pairs[i].truth for i in order], pa.list_(point)),
        "source_box": pa.array([pairs[i].boxes[0] for i in order], pa.list_(pa.float64())),
        "target_box": pa.array([pairs[i].boxes[1] for i in order], pa.list_(pa.float64())),
    }
    for name in pairs[0].kept:
        columns[name] = pa.array([pairs[i].kept.get(name) for i in order])
    images = records_table({"image_id": pa.array([*places]), "uri": pa.array([*of_image.values()])})
    return images, pa.table(columns)


def _pair_ids(pairs: Sequence[Pair], ids: Sequence[tuple[str, str]], where: str) -> list[str]:
    """A name for each pair: its own, or those of its images with a number where they come more than once."""
    given = [pair.pair_id for pair in pairs if pair.pair_id is not None]
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise SettingsError(f"{where}: more than one pair has the pair_id {quoted(twice)}. To mend it: name each once")
    taken, found = Counter(given), []
    for pair, (source, target) in zip(pairs, ids, strict=True):
        if pair.pair_id is not None:
            found.append(pair.pair_id)
            continue
        name = f"{source}:{target}"
        number = 1
        while taken[numbered := name if number == 1 else f"{name}#{number}"]:
            number += 1
        taken[numbered] += 1
        found.append(numbered)
    return found


def _points(values: Any, where: str) -> list[Point | None] | None:
    if values is None:
        return None
    if not isinstance(values, list):
        raise SettingsError(f"{where} is a list of [x, y], and is {str(values)[:100]}")
    return [None if value is None else _numbers(value, 2, where) for value in values]  # type: ignore[misc]


def _box(value: Any, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    left, top, right, bottom = _numbers(value, 4, where)
    if not (left < right and top < bottom):
        raise SettingsError(f"{where} is left, top, right, bottom, and is {value}")
    return left, top, right, bottom


def _numbers(value: Any, many: int, where: str) -> tuple[float, ...]:
    try:
        # a text has letters where a list has numbers
        found = tuple(map(float, value if isinstance(value, list | tuple) else ()))
    except (TypeError, ValueError, OverflowError):
        found = ()
    if len(found) != many or not all(map(math.isfinite, found)):
        raise SettingsError(f"{where} has {str(value)[:100]} where {many} numbers are expected")
    return found


def _text(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise SettingsError(f"{where} is a text, and is {str(value)[:100]}")
