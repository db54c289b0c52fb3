"""Rows of any stage as label maps: one number for every pixel, and what the numbers are called."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.results.trees import RegionTree, tree_rows
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.records import from_json
from simsam_batch.storage import Folder, ObjectNotFound

Kind = Literal["objects", "labels", "trees"]

KINDS: dict[str, Kind] = {"segment": "objects", "semantic": "labels", "hierarchy": "trees"}
"""The stages that have maps, and what these are: object masks, labels of the whole collection, region trees.

Columns would not tell: those that a run keeps of its input may have the names of another stage's.
"""

_FACTS: dict[Kind, list[str]] = {
    "objects": ["confidence", "spectral_gap", "degenerate", "refined", "area_fraction", "bbox_xyxy", "iou", "accuracy"],
    "labels": ["degenerate", "refined"],
    "trees": [],
}
_COLUMNS = ["image_id", "uri", "status", "width", "height"]
_MOST_OF_8_BITS = 255


def kind_of(rows: StageRows) -> Kind:
    """What the rows of a stage are, one of `KINDS`."""
    return KINDS[rows.stage]


def facts_of(rows: StageRows) -> list[str]:
    """The columns of the stage's own that go with an image as they are."""
    return [name for name in _FACTS[kind_of(rows)] if name in rows.schema.names]


def map_rows(rows: StageRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows in order with their numbers, with all that a map and its image need; bounded memory.

    ``content_sha256`` of label maps is that of the regions they were made of.
    """
    kind = kind_of(rows)
    if kind == "trees":
        yield from tree_rows(rows)
        return
    if kind == "objects":
        yield from rows.each([*_COLUMNS, "content_sha256", "mask_rle", *facts_of(rows)])
        return
    own = rows.each([*_COLUMNS, "segments", *facts_of(rows)])
    for (number, row), (_, read) in zip(own, rows.beside("regions", ["content_sha256"]), strict=True):
        yield number, row | (read or {})


def decoded(mask: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A mask (height, width) from COCO's compressed run lengths."""
    from pycocotools import mask as coco

    pixels = coco.decode({"size": mask["size"], "counts": mask["counts"].encode("ascii")})
    return np.ascontiguousarray(pixels).view(np.bool_)


def label_map(row: Mapping[str, Any], settings: Mapping[str, Any], kind: Kind) -> NDArray[np.int32]:
    """The map of an image that is ``ok``, (height, width), at its full size.

    Of object masks 1 is the object and 0 the rest. Of label maps these are the labels, 0 the background. Of trees it is
    the number in ``nodes`` of the node that a pixel ends in, plus 1; 0 for none.

    Args:
        row: from `map_rows`, or any row with the columns that hold masks.
        settings: of its stage.
        kind: of `kind_of`.
    """
    if kind == "objects":
        return decoded(row["mask_rle"]).astype(np.int32)
    if kind == "trees":
        return RegionTree(row, settings).owners((row["height"], row["width"])) + np.int32(1)
    labels = np.zeros((row["height"], row["width"]), dtype=np.int32)
    for segment in row["segments"]:
        labels[decoded(segment["mask_rle"])] = segment["label"]
    return labels


def label_names(rows: StageRows) -> list[str] | None:
    """The name of every number that a map may hold, that of 0 first; None for trees: each has numbers of its own.

    A label is called by the class that its cluster was matched to, if the run had truth and is published; with its
    number behind it if the class has other clusters. Else it goes by its number. No two have one name: where a class is
    called like another one with a number, all have their numbers.
    """
    kind = kind_of(rows)
    if kind == "trees":
        return None
    if kind == "objects":
        return ["background", "object"]
    from simsam_batch.stages.clusters.stage import REGIONS, committed_settings

    clusters = int(committed_settings(rows.out, REGIONS)["clusters"])
    name = f"results/{rows.stage}.json"
    matched: list[str | None] = []
    with suppress(ObjectNotFound):
        result = from_json(rows.out.read(name), f"{rows.out.url}/{name}", "metrics")
        matched = result["metrics"].get("class_of_cluster") or []
    matched = [*matched, *[None] * (clusters + 1 - len(matched))][: clusters + 1]
    numbered = [f"{of_class or 'cluster'} {label}" for label, of_class in enumerate(matched)]
    often = Counter(matched)
    often["background"] += 1
    plain = [of_class if of_class and often[of_class] == 1 else numbered[i] for i, of_class in enumerate(matched)]
    for names in (["background", *plain[1:]], ["background", *numbered[1:]]):
        if len({*names}) == len(names):
            break
    return names


def write_label_names(to: Folder, names: list[str] | None) -> None:
    """Write ``labels.txt``, the name of each value a line, that of 0 first; nothing for trees.

    Raises:
        StorageError: the storage did not answer.
    """
    if names is not None:
        to.replace("labels.txt", "".join(f"{name}\n" for name in names).encode())


def most_labels(names: list[str] | None, row: Mapping[str, Any]) -> int:
    """The largest number that the map of a row may hold: one for the collection, or that of a tree's own nodes."""
    return len(row["nodes"]) if names is None else len(names) - 1


def png(labels: NDArray[np.int32], most: int, *, palette: bool) -> bytes:
    """A map as PNG whose values are the labels: 8 bits as long as ``most`` fits into them, else 16 bits of grey.

    Args:
        labels: (height, width), 0 to ``most``.
        most: the largest label that there may be.
        palette: give 8 bits the colours of `PALETTE`; else they are grey.
    """
    target = io.BytesIO()
    picture = Image.fromarray(labels.astype(np.uint8 if most <= _MOST_OF_8_BITS else np.uint16))
    if palette and most <= _MOST_OF_8_BITS:
        picture.putpalette(PALETTE)
    picture.save(target, "PNG", compress_level=6)
    return target.getvalue()


def _palette() -> bytes:
    """256 colours as those of PASCAL VOC's label maps: bit by bit of the index into the highest bits of R, G and B."""
    index = np.arange(256, dtype=np.uint8)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            of_channel = 3 * bit + channel
            if of_channel < 8:
                colors[:, channel] |= ((index >> np.uint8(of_channel)) & np.uint8(1)) << np.uint8(7 - bit)
    return colors.tobytes()


PALETTE = _palette()
"""Colours of an 8-bit map, 256 times R, G, B; 0 is black."""
