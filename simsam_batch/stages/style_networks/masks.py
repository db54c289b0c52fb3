"""The regions of looks as masks, of what the stages that they are of have of an image; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.run_lengths import decode
from simsam_batch.runs.schema import FAILURE
from simsam_batch.stages.style_networks.looks import OBJECT, Look, label_of

_OF_MASKS: dict[str, tuple[str, ...]] = {"segment": (*FAILURE, "mask_rle", "degenerate", "content_sha256")}
_OF_LABELS: dict[str, tuple[str, ...]] = {
    "semantic": (*FAILURE, "segments"),
    "regions": (*FAILURE, "content_sha256"),
}


def joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all stages that regions are of have of one image; of the failure where one has failed."""
    merged: dict[str, Any] = {}
    for row in rows:
        merged |= row
    bad = next((row for row in rows if row["status"] != "ok"), rows[0])
    digests = {row["content_sha256"] for row in rows if row.get("content_sha256")}
    return merged | {name: bad[name] for name in FAILURE} | {"digests": digests}


def columns_of(looks: Sequence[Look]) -> dict[str, tuple[str, ...]]:
    """The stages that regions are of, and what is read of each."""
    labels = {label_of(region) is not None for look in looks for region in look}
    return (_OF_MASKS if False in labels else {}) | (_OF_LABELS if True in labels else {})


def mask_of(region: str, row: Mapping[str, Any], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) of a region, empty if the image has none of it.

    Args:
        region: its name in a look.
        row: what the stages that regions are of have of the image, `joined`.
        size: (H, W) of the image.
    """
    label = label_of(region)
    if label is None:
        mask = decode(row["mask_rle"]).astype(bool)
        return mask if region == OBJECT else ~mask
    found = np.zeros(size, np.bool_)
    for segment in row["segments"]:
        if segment["label"] == label:
            found |= decode(segment["mask_rle"]).astype(bool)
    return found
