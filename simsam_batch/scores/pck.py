"""PCK, the share of points that are found near enough: thresholds, hits, and scores from counts that merge exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.bootstrap import REPLICATES
from simsam_batch.scores.poisson_bootstrap import interval_of

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
"""Shares of a threshold's length at which PCK is counted."""

PUBLISHED_SIDE = 512
"""Pixels of both sides of an image in published protocols, which squash it."""

_SEED = 0

Box = Sequence[float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class PairTruth:
    """What the thresholds of a pair are made of; sizes are (width, height), all in pixels of the images themselves.

    Attributes:
        points: (N, 2) true points in the target.
        target_size, source_size: of the images.
        target_box, source_box: of the object; None where nobody has drawn one.
    """

    points: NDArray[np.float64]
    target_size: tuple[int, int]
    source_size: tuple[int, int]
    target_box: Box | None = None
    source_box: Box | None = None

    @property
    def squashed(self) -> NDArray[np.float64]:
        """(2,) what makes pixels of the target those of the published square."""
        return PUBLISHED_SIDE / np.array(self.target_size, np.float64)


Threshold = tuple[float, NDArray[np.float64]]
"""A length, and by what x and y are multiplied before distances are compared with it."""

_PIXELS = np.ones(2)


def _of_image(pair: PairTruth) -> Threshold:
    return float(max(pair.target_size)), _PIXELS


def _of_box(pair: PairTruth) -> Threshold | None:
    return None if pair.target_box is None else (_longer(pair.target_box), _PIXELS)


def _of_points(pair: PairTruth) -> Threshold | None:
    extent = float(np.ptp(pair.points, axis=0).max(initial=0.0)) if len(pair.points) else 0.0
    return (extent, _PIXELS) if extent > 0 else None


def _published_spair(pair: PairTruth) -> Threshold | None:
    if pair.source_box is None:
        return None
    scale = PUBLISHED_SIDE / np.array(pair.source_size, np.float64)
    left, top, right, bottom = pair.source_box
    return float(max((right - left) * scale[0], (bottom - top) * scale[1])), pair.squashed


def _published_pf_willow(pair: PairTruth) -> Threshold | None:
    if not len(pair.points):
        return None
    return float((pair.points * pair.squashed).max()) + 1, pair.squashed


def _published_cub(pair: PairTruth) -> Threshold | None:
    if pair.target_box is None:
        return None
    return _longer(pair.target_box) * PUBLISHED_SIDE / pair.target_size[0], pair.squashed


THRESHOLDS: Mapping[str, Callable[[PairTruth], Threshold | None]] = {
    "box": _of_box,
    "points": _of_points,
    "image": _of_image,
    "published-spair": _published_spair,
    "published-pf-willow": _published_pf_willow,
    "published-cub": _published_cub,
}
"""By name what gives the length of a pair, or None where it lacks what is needed.

``box``, ``points`` and ``image`` are the longer sides of the target's box, of the tight box of its true points, and of
the target itself. The others are what figures were published with, by mistake: the box of the source on a square of
512 pixels; the highest coordinate plus 1, since the padding by -1 was taken for a point; and a box scaled by the width
alone.
"""

MEANT = ("box", "points", "image")


def _longer(box: Box) -> float:
    left, top, right, bottom = box
    return float(max(right - left, bottom - top))


def hits(predicted: NDArray[np.float64], pair: PairTruth, kind: str) -> NDArray[np.int64] | None:
    """How many points are at most `ALPHAS` of a threshold from where they should be.

    Args:
        predicted: (N, 2) in pixels of the target, NaN for points that were not found, which are wrong.
        pair: its truth.
        kind: of `THRESHOLDS`.

    Returns:
        (A,) int64; None where the pair lacks what the threshold is made of.
    """
    held = THRESHOLDS[kind](pair)
    if held is None:
        return None
    length, scale = held
    distance = np.linalg.norm((predicted - pair.points) * scale, axis=1)
    with np.errstate(invalid="ignore"):
        near = distance[:, None] <= np.array(ALPHAS) * length
    counts: NDArray[np.int64] = near.sum(axis=0, dtype=np.int64)
    return counts


_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
# a single letter is a side where it stands alone between marks: l_eye, eye.R
_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)


def mirrored(name: str) -> str | None:
    """What a point is called on the other side; None for one that has no side.

    >>> mirrored("front_left_door"), mirrored("R_ear"), mirrored("hood")
    ('front_right_door', 'L_ear', None)
    """

    def other(found: re.Match[str]) -> str:
        text = found[0]
        swapped = _SIDES[text.lower()]
        return swapped.upper() if text.isupper() else swapped.capitalize() if text[0].isupper() else swapped

    swapped = _SIDE.sub(other, name)
    return None if swapped == name else swapped


Counts = Mapping[str, int]
"""By ``"hits/points"`` how many pairs came to that; merges exactly in any order."""


def counts_of(found: int, points: int) -> dict[str, int]:
    """Those of one pair; none of a pair without points."""
    return {f"{found}/{points}": 1} if points else {}


def points_of(counts: Counts) -> int:
    """How many points all the pairs have.

    >>> points_of({"1/3": 2, "0/4": 1})
    10
    """
    return sum(pairs * int(name.partition("/")[2]) for name, pairs in counts.items())


@dataclass(frozen=True, slots=True)
class Pck:
    """Scores of some pairs, each with its 95 % bootstrap interval over pairs.

    Attributes:
        per_point: share of all points that are right.
        per_image: mean over pairs of the share of each.
        point_replicates, image_replicates: (B,) the same of sets drawn from these pairs with replacement.
    """

    per_point: float
    per_image: float
    point_replicates: NDArray[np.float64]
    image_replicates: NDArray[np.float64]


def pck(counts: Counts, stream: int = 0) -> Pck | None:
    """Scores from counts; None without a pair.

    A replicate draws as many pairs as there are; of pairs counted by what they came to, that is one multinomial draw.
    The seed is fixed, so that equal counts give equal intervals.

    Args:
        counts: of the pairs.
        stream: of random numbers; classes whose mean is wanted have one each, so that they are drawn independently.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap, chapter 13; the counts are this project's.
    """
    held = sorted((tuple(map(int, name.split("/"))), count) for name, count in counts.items() if count)
    if not held:
        return None
    values, pairs = np.array([value for value, _ in held]), np.array([count for _, count in held])
    total = int(pairs.sum())
    draws = np.random.default_rng([_SEED, stream]).multinomial(total, pairs / total, size=REPLICATES)
    found, points, shares = values[:, 0], values[:, 1], values[:, 0] / values[:, 1]
    return Pck(
        float(pairs @ found / (pairs @ points)),
        float(pairs @ shares / total),
        (draws @ found) / (draws @ points),
        (draws @ shares) / total,
    )


def class_mean(scores: Sequence[Pck], *, per_point: bool) -> tuple[float, list[float]]:
    """The mean over classes of the scores of each, and its interval: pairs are drawn within each class.

    Args:
        scores: of the classes, at least one.
        per_point: of these the share of points, else the mean of pairs.
    """
    values = [each.per_point if per_point else each.per_image for each in scores]
    drawn = [each.point_replicates if per_point else each.image_replicates for each in scores]
    return float(np.mean(values)), interval_of(np.mean(drawn, axis=0)) or []
