"""Label maps as rows: every label of an image with its mask, box and share of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions import boxes, pixel_index
from simsam_batch.regions.run_lengths import run_lengths


def segments_of(labels: NDArray[np.int32], index: pixel_index.UpsampleIndex) -> list[dict[str, Any]]:
    """The parts of a map of cells that carry a label above 0, as masks of the full image, by ascending label.

    Args:
        labels: (Hp, Wp); a label whose cells have no pixel, as may be in images smaller than the grid, is left out.
        index: from `simsam_batch.regions.pixel_index.upsample_index`.
    """
    pixels = pixel_index.patch_pixels((labels.shape[0], labels.shape[1]), index)
    total = int(pixels.sum())
    found = []
    for label in np.unique(labels[pixels > 0]).tolist():
        if label > 0:
            mask = labels == label
            found.append(
                {
                    "label": label,
                    "area_fraction": int(pixels[mask].sum()) / total,
                    "bbox_xyxy": boxes.tight_box(mask, index),
                    "mask_rle": run_lengths(mask, index),
                }
            )
    return found


def objects_of(
    found: Sequence[NDArray[np.bool_]], scores: Sequence[float], index: pixel_index.UpsampleIndex, least_score: float
) -> list[dict[str, Any]]:
    """Several objects of an image as its row holds them, by falling score.

    Args:
        found: masks of cells; one without a pixel is left out.
        scores: of each.
        index: from `simsam_batch.regions.pixel_index.upsample_index`.
        least_score: those with less are left out.
    """
    made = []
    for mask, score in sorted(zip(found, scores, strict=True), key=lambda each: -each[1]):
        box = boxes.tight_box(mask, index)
        if box is None or score < least_score:
            continue
        pixels = pixel_index.patch_pixels((mask.shape[0], mask.shape[1]), index)
        made.append(
            {
                "mask_rle": run_lengths(mask, index),
                "bbox_xyxy": box,
                "area_fraction": int(pixels[mask].sum()) / int(pixels.sum()),
                "score": score,
            }
        )
    return made
