"""Average precision and recall of objects whatever their class: COCO's definition, over sets of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection may be of a true object."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall at which precision is read."""

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Ranges of area, in pixels, both ends inside."""

MOST = (1, 10, 100)
"""How many detections an image may have, those of the highest scores."""

_BITS = np.array([1 << place for place in range(len(THRESHOLDS))], np.uint16)
_HELD = np.dtype([("score", "f8"), ("rank", "u1"), ("right", "u2", len(AREAS)), ("wrong", "u2", len(AREAS))])
_UNMATCHED = -1.0


@dataclass(frozen=True, slots=True)
class Detected:
    """What is known of the detections of some images once they were matched.

    Attributes:
        blocks: arrays of 25 bytes a detection in the order of the images, each at least twice as long as the next: its
            score, its rank in its image from 0, and for each range of area, a bit for each threshold, whether it is
            right and whether it is wrong; neither where it does not count.
        truths: (4,) int64, how many true objects count in each range of area.
        images: how many images.
    """

    blocks: tuple[NDArray[Any], ...]
    truths: NDArray[np.int64]
    images: int


def match_detections(
    ious: NDArray[np.float64],
    scores: NDArray[np.floating[Any]],
    areas: NDArray[np.floating[Any]],
    true_areas: NDArray[np.floating[Any]],
    crowd: NDArray[np.bool_],
) -> Detected:
    """Match the D detections of one image to its G true objects, the highest score first.

    Each detection takes the true object with the highest IoU that no other has taken, the last of equal ones; an object
    that counts before one that does not. Those of crowds and those outside a range of area do not count: whoever is
    matched to them is neither right nor wrong, and so is what is matched to none and lies outside the range itself. The
    first 100 detections take part.

    Args:
        ious: (D, G); with a crowd the intersection over the detection's own area.
        scores: (D,); of equal ones the first comes first.
        areas: (D,) pixels.
        true_areas: (G,) pixels.
        crowd: (G,), objects that stand for many.

    Raises:
        ValueError: the shapes differ.

    Source: ``pycocotools.cocoeval.COCOeval.evaluateImg`` with one category, all thresholds and ranges at once.
    """
    if ious.shape != (len(scores), len(true_areas)) or areas.shape != scores.shape or crowd.shape != true_areas.shape:
        raise ValueError(f"{ious.shape} overlaps of {len(scores)} detections with {len(true_areas)} true objects")
    low, high = np.array(list(AREAS.values())).T[:, :, None]
    left_out = crowd | (true_areas < low) | (true_areas > high)
    outside = (areas < low) | (areas > high)
    order = np.argsort(-scores, kind="stable")[: MOST[-1]]
    held = np.zeros(len(order), _HELD)
    held["score"], held["rank"] = scores[order], np.arange(len(order))
    taken = np.zeros((len(AREAS), len(THRESHOLDS), len(true_areas)), dtype=np.bool_)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for place, each in enumerate(order):
        free = (ious[each] >= least) & (~taken | crowd)
        counts, matched = _best(ious[each], free & ~left_out[:, None])
        other, matched_to_other = _best(ious[each], free & left_out[:, None])
        right = matched >= 0
        neither = ~right & ((matched_to_other >= 0) | outside[:, each, None])
        held["right"][place] = right @ _BITS
        held["wrong"][place] = ~(right | neither) @ _BITS
        taken |= counts | (other & ~right[:, :, None])
    return Detected((held,), (~left_out).sum(axis=1).astype(np.int64), 1)


def _best(ious: NDArray[np.float64], allowed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which of the allowed has the highest IoU, (..., G) with one True at most, and that IoU, (...), or -1."""
    if not ious.size:
        return allowed, np.full(allowed.shape[:-1], _UNMATCHED)
    values = np.where(allowed, ious, _UNMATCHED)
    last = ious.size - 1 - values[..., ::-1].argmax(axis=-1)
    highest = values.max(axis=-1)
    chosen = (np.arange(ious.size) == last[..., None]) & (highest >= 0)[..., None]
    return chosen, highest


class DetectionScores:
    """The fold of detections over a set: a state for each image, merged in the order of the images.

    Of detections with equal scores those of earlier images come first, so that the order counts. A set of a million
    images with three detections each takes 75 MB, and a few times as much while the result is made.
    """

    def zero(self) -> Detected:
        """Return the state of no image."""
        return Detected((), np.zeros(len(AREAS), np.int64), 0)

    def merge(self, a: Detected, b: Detected) -> Detected:
        """The state of the images of both, those of ``a`` first."""
        blocks = [*a.blocks, *(block for block in b.blocks if len(block))]
        while len(blocks) > 1 and len(blocks[-2]) < 2 * len(blocks[-1]):
            blocks[-2:] = [np.concatenate(blocks[-2:])]
        return Detected(tuple(blocks), a.truths + b.truths, a.images + b.images)

    def result(self, s: Detected) -> dict[str, float | None]:
        """Return the scores of the set, each 0 to 1, or None where no true object counts.

        ``ap`` is the mean precision over recall 0, 0.01, ..., 1 and IoU thresholds .5, .55, ..., .95; ``ap50`` and
        ``ap75`` are of one threshold, ``ap_small``, ``ap_medium`` and ``ap_large`` of true objects of up to 32 x 32, up
        to 96 x 96 and more pixels. ``ar_1``, ``ar_10`` and ``ar_100`` are the mean recall over the thresholds with so
        many detections an image at most; ``ar_small`` and so on are of 100.

        Source: ``pycocotools.cocoeval.COCOeval``, ``accumulate`` and ``summarize``.
        """
        held = np.concatenate(s.blocks) if s.blocks else np.zeros(0, _HELD)
        held = held[np.argsort(-held["score"], kind="stable")]
        of_range = {name: self._curves(held, place, int(s.truths[place])) for place, name in enumerate(AREAS)}
        precision, recall = of_range["all"]
        found = {"ap": precision, "ap50": precision[:1], "ap75": precision[5:6]}
        sizes = [name for name in AREAS if name != "all"]
        found |= {f"ap_{name}": of_range[name][0] for name in sizes}
        for most in MOST:
            fewer = held[held["rank"] < most]
            found[f"ar_{most}"] = recall if most == MOST[-1] else self._curves(fewer, 0, int(s.truths[0]))[1]
        found |= {f"ar_{name}": of_range[name][1] for name in sizes}
        return {name: float(values.mean()) if values.size else None for name, values in found.items()}

    @staticmethod
    def _curves(held: NDArray[Any], area: int, truths: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision (10, 101) at each recall and recall (10,) at each threshold; of no true object, empty ones."""
        if not truths:
            return np.empty((0, len(RECALLS))), np.empty(0)
        precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
        for place, bit in enumerate(_BITS):
            right = np.cumsum((held["right"][:, area] & bit) > 0)
            wrong = np.cumsum((held["wrong"][:, area] & bit) > 0)
            if not len(right):
                continue
            reached = right / truths
            recall[place] = reached[-1]
            exact = right / (right + wrong + np.spacing(1))
            # what a threshold on the score further down can still reach
            envelope = np.maximum.accumulate(exact[::-1])[::-1]
            at = np.searchsorted(reached, RECALLS, side="left")
            there = at < len(envelope)
            precision[place, there] = envelope[at[there]]
        return precision, recall
