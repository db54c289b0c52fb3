"""CorLoc: the share of images whose one predicted box lies on an annotated object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simsam_batch.scores.bootstrap import STEPS, interval_of_mean

Box = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax) in pixels, the maximum exclusive."""


def _areas(a: Box, b: Box) -> tuple[float, float]:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    own = sum(max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b))
    return intersection, own - intersection


def is_localised(predicted: Box | None, annotated: Sequence[Box]) -> bool:
    """Whether a box has an IoU of one half at least with any of the annotated ones; no box has not.

    Source: CorLoc as in the evaluation of Deep Spectral Methods.
    """
    if predicted is None:
        return False
    areas = (_areas(predicted, box) for box in annotated)
    return any(2 * intersection >= union > 0 for intersection, union in areas)


class LocalisationScores:
    """The fold of one box for each image over a set: a state for each image, merged by addition, plain JSON values.

    Images without annotation are skipped and counted.
    """

    def zero(self) -> dict[str, Any]:
        """Return the state of no image."""
        return {"images_scored": 0, "correct": 0, "images_without_annotation": 0}

    def of_image(self, predicted: Box | None, annotated: Sequence[Box]) -> dict[str, Any]:
        """Return the state of one image, from its predicted box (None: nothing was found) and its annotated ones."""
        if not annotated:
            return self.zero() | {"images_without_annotation": 1}
        return self.zero() | {"images_scored": 1, "correct": int(is_localised(predicted, annotated))}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states; exact in any order."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; only the count of skipped images if none was annotated."""
        images, correct = s["images_scored"], s["correct"]
        counts = {"images_scored": images, "images_without_annotation": s["images_without_annotation"]}
        counts = {"protocol": "corloc", **counts}
        if images == 0:
            return counts if s["images_without_annotation"] else {}
        share = correct / images
        bins = {str(STEPS): correct, "0": images - correct}
        return {**counts, "corloc": share, "corloc_ci": interval_of_mean(bins, share)}
