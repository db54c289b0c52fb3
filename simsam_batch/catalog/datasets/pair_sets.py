"""Pairs of the sets that correspondence is compared on, as their authors lay them out."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from simsam_batch.catalog.datasets.layout import Home, Layout
from simsam_batch.catalog.pair_records import Pair, Point
from simsam_batch.catalog.records import quoted
from simsam_batch.storage import Folder, ObjectNotFound

_AT_ONCE = 512
_WILLOW_POINTS = 10


_MEND = "give the folder as unpacked; other layouts go as a file of pairs, JSON, CSV or Parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet(Layout):
    """A set of pairs by name.

    Attributes:
        splits: the published number of pairs of each split, None where it is not known; the first is the default.
        read: the pairs of a split in a folder.
        published: name of the thresholds of published figures that differ from what was meant; "" for none.
    """

    splits: Mapping[str, int | None]
    read: Callable[[Home, str], list[Pair]]
    published: str = ""


def _spair(home: Home, split: str) -> list[Pair]:
    lines = [line for (line,) in home.rows(f"Layout/large/{split}.txt", 1)]
    names = [f"PairAnnotation/{split}/{line}.json" for line in lines]
    found = []
    folder = Folder(home.url)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        try:
            bodies = list(folder.read_many(some))
        except ObjectNotFound as error:
            raise home.mismatch(str(error)) from error
        for line, name, body in zip(lines[start : start + _AT_ONCE], some, bodies, strict=True):
            try:
                held = json.loads(body)
                place = f"{home.url}/JPEGImages/{held['category']}"
                found.append(
                    Pair(
                        f"{place}/{held['src_imname']}",
                        f"{place}/{held['trg_imname']}",
                        [_point(each) for each in held["src_kps"]],
                        [_point(each) for each in held["trg_kps"]],
                        [str(each) for each in held.get("kps_ids") or range(len(held["src_kps"]))],
                        (_floats(held["src_bndbox"]), _floats(held["trg_bndbox"])),
                        str(held["category"]),
                        line,
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                raise home.mismatch(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    return found


def _pf_willow(home: Home, split: str) -> list[Pair]:
    del split
    rows = list(csv.reader(io.StringIO(_text(home, "test_pairs.csv"))))
    found = []
    for row in rows[1:]:
        if not row:
            continue
        try:
            numbers = [float(each) for each in row[2 : 2 + 4 * _WILLOW_POINTS]]
            axes = [numbers[i * _WILLOW_POINTS : (i + 1) * _WILLOW_POINTS] for i in range(4)]
            source, target = (posixpath.join(*each.split("/")[1:]) for each in row[:2])
            points, truth = (list(zip(*axes[i : i + 2], strict=True)) for i in (0, 2))
        except (ValueError, TypeError, IndexError) as error:
            raise home.mismatch(f"test_pairs.csv has the line {quoted([','.join(row)])}") from error
        category = source.split("/")[0]
        found.append(Pair(f"{home.url}/{source}", f"{home.url}/{target}", points, truth, category=category))
    return found


def _pf_pascal(home: Home, split: str) -> list[Pair]:
    found = []
    for row in csv.DictReader(io.StringIO(_text(home, f"{split}_pairs.csv"))):
        try:
            axes = [[float(each) for each in row[name].split(";") if each] for name in ("XA", "YA", "XB", "YB")]
            points, truth = (list(zip(*axes[i : i + 2], strict=True)) for i in (0, 2))
            files = [
                f"{home.url}/JPEGImages/{posixpath.basename(row[name])}" for name in ("source_image", "target_image")
            ]
            found.append(Pair(files[0], files[1], points, truth, category=row.get("class")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise home.mismatch(f"{split}_pairs.csv has the line {quoted([str(row)])}") from error
    return found


def _cub(home: Home, split: str) -> list[Pair]:
    """All pairs of one class, each way once, by the parts that both show: of the first three classes, as published."""
    files = dict(home.rows("images.txt", 2))
    kinds = dict(home.rows("image_class_labels.txt", 2))
    is_train = dict(home.rows("train_test_split.txt", 2))
    boxes = {line[0]: [float(each) for each in line[1:]] for line in home.rows("bounding_boxes.txt", 5)}
    called = dict(home.rows("parts/parts.txt", 2))
    parts: dict[str, dict[str, Point]] = {}
    for number, part, x, y, visible in home.rows("parts/part_locs.txt", 5):
        if visible.strip() == "1":
            parts.setdefault(number, {})[called.get(part, part)] = (float(x), float(y))
    wanted: dict[str, list[str]] = {}
    for number in files:
        kind = kinds.get(number, "")
        if split == "all" or (is_train.get(number) == "0" and kind in ("1", "2", "3")):
            wanted.setdefault(kind, []).append(number)
    found = []
    for numbers in wanted.values():
        for one, other in combinations(numbers, 2):
            there = parts.get(other, {})
            names = [name for name in parts.get(one, {}) if name in there]
            if names:
                ends = [f"{home.url}/images/{files[each].strip()}" for each in (one, other)]
                corners = [_corners(boxes.get(each)) for each in (one, other)]
                points = [parts[one][name] for name in names]
                category = files[one].split("/")[0]
                truth = [there[name] for name in names]
                found.append(Pair(ends[0], ends[1], points, truth, names, (corners[0], corners[1]), category))
    return found


def _text(home: Home, name: str) -> str:
    """A file of the folder."""
    try:
        return Folder(home.url).read(name).decode("utf-8-sig")
    except ObjectNotFound as error:
        raise home.mismatch(f"there is no file {name}") from error
    except UnicodeDecodeError as error:
        raise home.mismatch(f"{name} is not UTF-8 text") from error


def _corners(box: Sequence[float] | None) -> Sequence[float] | None:
    return None if box is None else [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def _point(value: Sequence[Any]) -> Point:
    x, y = map(float, value)
    return x, y


def _floats(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]


PAIR_SETS = {
    each.name: each
    for each in (
        PairSet(
            name="spair",
            title="SPair-71k",
            layout="""\
├── JPEGImages/*/*.jpg
├── PairAnnotation/{test,val,trn}/*.json
└── Layout/large/{test,val,trn}.txt""",
            homes=("SPair-71k",),
            needs=("JPEGImages/", "PairAnnotation/", "Layout/"),
            mend=_MEND,
            splits={"test": 12234, "val": 5384, "trn": 53340},
            read=_spair,
            published="published-spair",
        ),
        PairSet(
            name="pf-willow",
            title="PF-Willow",
            layout="""\
├── test_pairs.csv
└── */*.png""",
            homes=("PF-WILLOW",),
            needs=("test_pairs.csv",),
            mend=_MEND,
            splits={"test": 900},
            read=_pf_willow,
            published="published-pf-willow",
        ),
        PairSet(
            name="pf-pascal",
            title="PF-Pascal",
            layout="""\
├── JPEGImages/*.jpg
└── {test,val,trn}_pairs.csv""",
            homes=("PF-PASCAL",),
            needs=("JPEGImages/",),
            mend=_MEND,
            splits={"test": None, "val": None, "trn": None},
            read=_pf_pascal,
        ),
        PairSet(
            name="cub-parts",
            title="CUB-200-2011 with its parts",
            layout="""\
├── images/*/*.jpg
├── images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt
└── parts/{parts,part_locs}.txt""",
            homes=("CUB_200_2011",),
            needs=("images/", "images.txt", "image_class_labels.txt", "bounding_boxes.txt", "parts/"),
            mend=_MEND,
            splits={"published": None, "all": None},
            read=_cub,
            published="published-cub",
        ),
    )
}
"""Every known set of pairs by its name.

Sources: Min et al., SPair-71k, 2019; Ham et al., Proposal Flow, 2017; Wah et al., CUB-200-2011, 2011 (pairs as in
Hedlin et al., 2023: the test images of the first three classes).
"""
