"""Datasets by name: ``NAME:ROOT``, with the layout, splits, truth and protocol that their authors published."""

from __future__ import annotations

import re

from simsam_batch.catalog.datasets import ade20k, berkeley, camvid, cityscapes, coco, cub, parts, saliency, voc
from simsam_batch.catalog.datasets.layout import Dataset
from simsam_batch.catalog.datasets.pair_sets import PAIR_SETS, PairSet
from simsam_batch.catalog.datasets.splits import read_dataset
from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.storage import absolute_url, redact

DATASETS = {
    dataset.name: dataset
    for dataset in (
        *(saliency.ECSSD, saliency.DUTS_TE, saliency.DUT_OMRON, cub.CUB),
        *(voc.VOC2007, voc.VOC2012, voc.VOC2007_BOXES, voc.VOC2012_BOXES, coco.COCO20K),
        *(berkeley.BSDS500, cityscapes.CITYSCAPES, coco.COCO_STUFF, coco.COCO_THINGS),
        *(parts.PARTIMAGENET, parts.PASCAL_PART, camvid.CAMVID, ade20k.ADE20K),
    )
}
"""Every known dataset by its name."""

__all__ = ["DATASETS", "PAIR_SETS", "Dataset", "PairSet", "absolute_input", "named_dataset", "pair_set", "read_dataset"]


def named_dataset(images: str) -> tuple[Dataset, str] | None:
    """The dataset and ROOT that ``NAME:ROOT`` means; None for a path or URL.

    A name has at least two letters, so that ``C:`` is none, and no ``//`` or second colon after its own, so that
    ``s3://`` is none. A path that begins like a known name is written with ``./`` before it.

    Raises:
        SettingsError: no dataset has that name and nothing of that name is there, it is one of pairs, or the ROOT is
            missing.
    """
    found = _named(images)
    if found is not None and isinstance(found[0], PairSet):
        raise SettingsError(
            f"{redact(images)} is a set of pairs, which simsam correspond takes. To mend it: give its folder of images"
        )
    return found  # type: ignore[return-value]


def pair_set(images: str) -> tuple[PairSet, str] | None:
    """The set of pairs and ROOT that ``NAME:ROOT`` means; None for a path or URL, and for other datasets.

    Raises:
        SettingsError: as `named_dataset`.
    """
    found = _named(images)
    return found if found is not None and isinstance(found[0], PairSet) else None  # type: ignore[return-value]


def _named(images: str) -> tuple[Dataset | PairSet, str] | None:
    parts = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]+):(?!:)(.*)", images, re.DOTALL)
    if parts is None:
        return None
    known: dict[str, Dataset | PairSet] = {**DATASETS, **PAIR_SETS}
    name, root = parts[1].lower(), parts[2]
    if name in known:
        if not root or root.startswith("//"):
            raise SettingsError(f"{redact(images)}: a dataset is written {name}:ROOT, where ROOT is a path or URL")
        return known[name], root
    from simsam_batch.catalog.folders import is_there

    if root.startswith("//") or is_there(images):
        return None
    guess = did_you_mean(name, known, "{}:ROOT")
    raise SettingsError(
        f"{redact(images)}: nothing is there, and no dataset has the name {name!r}{guess} "
        f"Known names are {', '.join(known)}"
    )


def absolute_input(images: str) -> str:
    """What one path or dataset is, the same from every working folder and without credentials; nothing is listed.

    Raises:
        SettingsError: as `named_dataset`.
    """
    named = _named(images)
    return redact(absolute_url(images)) if named is None else f"{named[0].name}:{redact(absolute_url(named[1]))}"
