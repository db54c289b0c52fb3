"""Rows of the ``matches`` stage: where each point of a pair was found, and how many of them are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa

from simsam_batch.scores.bootstrap import merge_bins
from simsam_batch.scores.pck import ALPHAS, MEANT, Pck, class_mean, pck, points_of
from simsam_batch.scores.poisson_bootstrap import interval_of

MATCHES = True
"""The rows are pairs with points that were matched."""

SCORES = {"pck_0.1": ("points_right", "points_scored")}
"""Scores of single rows: the share of the points of a pair that are right."""

POINT = pa.struct(
    [
        ("name", pa.string()),
        ("source_x", pa.float64()),
        ("source_y", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("similarity", pa.float32()),
        ("margin", pa.float32()),
        ("returned", pa.float32()),
        ("mutual", pa.bool_()),
        ("spread", pa.float32()),
        ("true_x", pa.float64()),
        ("true_y", pa.float64()),
        ("distance", pa.float64()),
        ("right", pa.bool_()),
        ("fault", pa.string()),
    ]
)
"""One point: where it is in the source and was found in the target, in pixels, upright; null where it was not.

``similarity`` is the cosine with the best patch, ``margin`` by how much that is above the best one elsewhere,
``returned`` how many patches from the point the way back ends, ``mutual`` whether that is near; of attention
``similarity`` is its peak, and ``spread`` how far apart the starts point to, in pixels. ``distance`` is from
where the point should be, ``right`` whether it is at most a tenth of the row's ``length``. ``fault`` says why there is
no match: ``outside``, the point is not in the source; ``unseen``, it is in no patch; ``flat``, all patches are alike.
"""

MATCHES_FIELDS = [
    pa.field("source_size", pa.list_(pa.int32())),
    pa.field("target_size", pa.list_(pa.int32())),
    pa.field("source_sha256", pa.string()),
    pa.field("target_sha256", pa.string()),
    pa.field("identical", pa.bool_()),
    pa.field("mirrored", pa.bool_()),
    pa.field("points", pa.list_(POINT)),
    pa.field("threshold", pa.string()),
    pa.field("length", pa.float64()),
    pa.field("points_scored", pa.int32()),
    pa.field("points_right", pa.int32()),
]
"""Columns of a row; those of the pair follow. All null where the pair failed.

Sizes are (width, height), digests of the files; ``identical`` says that both images have the same bytes,
``mirrored`` that the source's mirror image is like the target more, and was matched with it.
``threshold`` names what ``length`` is of: the first of box, points and image that the pair has. With ``--maps fp16``
the array ``similarity`` beside a row is (N, Hp, Wp) float16, the cosine of each point with every patch of the target.
"""

FAULTS = ("outside", "unseen", "flat", "failed")
"""Of points; of pairs that failed all that have truth are wrong."""

BASELINES = ("chance", "same-place", "relative-place")
"""What needs no features: a random point of the true box, the same place in the image, the same place in the true
box."""

HEADLINE = 0.1
_AT = ALPHAS.index(HEADLINE)
_NAMES = {"point": "", "image": "_per_image"}
_COVERAGES = (0.25, 0.5, 0.75, 1.0)

MARGIN_STEPS = 100
"""Margins are counted by their hundredth."""

Scores = dict[str, dict[str, list[dict[str, int]]]]
"""By threshold and category, for each of `ALPHAS` the counts of `simsam_batch.scores.pck.counts_of`."""


class MatchesFold:
    """Counts hits, and scores them.

    Args:
        published: name of the thresholds that the set's figures were published with; None without.
    """

    def __init__(self, published: str | None) -> None:
        self._kinds = [*MEANT, *([published] if published else [])]

    def zero(self) -> dict[str, Any]:
        """The state of no pair."""
        return {
            "pairs": 0,
            "pairs_scored": 0,
            "points": 0,
            "points_scored": 0,
            "points_without_truth": 0,
            "pairs_failed": 0,
            "identical": 0,
            "turned": 0,
            "faults": {},
            "scores": {},
            "baselines": {},
            "mirrored": {},
            "mutual": {},
            "margins": {},
        }

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the pairs of both."""
        return {name: _merged(a[name], b[name]) for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """How many pairs and points there are, and PCK at every threshold, of all pairs that have truth."""
        counted = {name: s[name] for name in ("pairs", "pairs_scored", "points", "points_scored")}
        counted["points_without_truth"] = s["points_without_truth"]
        faults = {"pairs_failed": s["pairs_failed"]} if s["pairs_failed"] else {}
        faults |= {f"points_{name}": s["faults"].get(name, 0) for name in FAULTS if s["faults"].get(name)}
        if s["identical"]:
            faults["pairs_of_identical_images"] = s["identical"]
        if s["turned"]:
            faults["pairs_matched_mirrored"] = s["turned"]
        kinds = [kind for kind in self._kinds if kind in s["scores"]]
        if not kinds:
            return counted | faults
        # what all scored pairs have: scores of a part of them would not compare
        headline = next((kind for kind in kinds if _pairs_of(s["scores"][kind]) == s["pairs_scored"]), kinds[0])
        lines = [line for kind in kinds for line in _lines(kind, s["scores"][kind])]
        found: dict[str, Any] = {"threshold": headline}
        for line in lines:
            if line["threshold"] == headline and line["average"] in _NAMES:
                name = f"pck_{HEADLINE}{_NAMES[line['average']]}"
                found |= {name: line["pck"][_AT], f"{name}_ci": line["pck_ci"][_AT]}
        of_all = {"pairs": s["pairs_scored"], "points": s["points_scored"]}
        found |= counted | faults | {"pck": {"at": list(ALPHAS), **of_all, "lines": lines}}
        by_category = _by_category(s["scores"][headline], _AT)
        if len(by_category) > 1:
            found |= {
                f"pck_{HEADLINE}_by_category": {name: each.per_point for name, each in by_category.items()},
                f"pck_{HEADLINE}_by_category_ci": {
                    name: interval_of(each.point_replicates) for name, each in by_category.items()
                },
            }
        # of all the pairs that the figure beside them is of
        baselines = {name: s["baselines"].get(name, {}).get(headline, {}) for name in BASELINES}
        whole = _pairs_of(s["scores"][headline])
        found[f"pck_{HEADLINE}_of_baselines"] = {
            name: score.per_point
            for name, counts in baselines.items()
            if sum(counts.values()) == whole and (score := pck(counts)) is not None
        }
        of_headline = {name: s[name].get(headline, {}) for name in ("mirrored", "mutual", "margins")}
        return found | _mirrored(of_headline["mirrored"]) | _confidence(of_headline, s["points_scored"])


def _merged(a: Any, b: Any) -> Any:
    """Sums of numbers, of counts, and of what holds some by name or by place."""
    if isinstance(a, Mapping):
        return {name: _merged(a[name], b[name]) if name in a and name in b else (a | b)[name] for name in {**a, **b}}
    if isinstance(a, list):
        return [merge_bins(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


def _by_category(scores: Mapping[str, Sequence[Mapping[str, int]]], place: int) -> dict[str, Pck]:
    """The scores of each category at one of `ALPHAS`; pairs without one are a category of no name."""
    found = ((name, pck(scores[name][place], stream)) for stream, name in enumerate(sorted(scores)))
    return {name: score for name, score in found if score is not None}


def _pairs_of(scores: Mapping[str, Sequence[Mapping[str, int]]]) -> int:
    return sum(sum(counts[0].values()) for counts in scores.values())


def _lines(kind: str, scores: Mapping[str, Sequence[Mapping[str, int]]]) -> Iterator[dict[str, Any]]:
    """PCK of one threshold: of all points, of pairs, and the means of classes if there are several.

    Beside them stands how many pairs and points have that threshold.
    """
    overall = [reduce(merge_bins, (counts[place] for counts in scores.values())) for place in range(len(ALPHAS))]
    there = [score for counts in overall if (score := pck(counts)) is not None]
    held = {"pairs": _pairs_of(scores), "points": points_of(overall[0])}
    values = [("point", [(each.per_point, interval_of(each.point_replicates)) for each in there])]
    values.append(("image", [(each.per_image, interval_of(each.image_replicates)) for each in there]))
    if len(scores) > 1:
        classes = [list(_by_category(scores, place).values()) for place in range(len(ALPHAS))]
        values.append(("class, of points", [class_mean(each, per_point=True) for each in classes]))
        values.append(("class, of images", [class_mean(each, per_point=False) for each in classes]))
    for average, found in values:
        means, ends = zip(*found, strict=True)
        yield {"threshold": kind, "average": average, **held, "pck": list(means), "pck_ci": list(ends)}


def _mirrored(counts: Mapping[str, int]) -> dict[str, Any]:
    """Of points whose other side is in the target too, how many were found, and how many on that side instead."""
    points = counts.get("points", 0)
    if not points:
        return {}
    return {
        "points_with_other_side": points,
        f"pck_{HEADLINE}_with_other_side": counts.get("right", 0) / points,
        "found_at_other_side": counts.get("swapped", 0) / points,
    }


def _confidence(s: Mapping[str, Any], scored: int) -> dict[str, Any]:
    """PCK of the mutual matches, and of those with the largest margins.

    Args:
        s: the counts of both, at one threshold.
        scored: how many points there are.
    """
    found: dict[str, Any] = {}
    mutual = s["mutual"]
    if mutual.get("points"):
        found["mutual_share"] = mutual["points"] / scored
        found[f"pck_{HEADLINE}_of_mutual"] = mutual.get("right", 0) / mutual["points"]
    held = sorted(((int(name), counts) for name, counts in s["margins"].items()), reverse=True)
    total = sum(counts["points"] for _, counts in held)
    if total:
        of_margin: dict[str, float] = {}
        for coverage in _COVERAGES:
            points = right = 0
            for _, counts in held:
                points, right = points + counts["points"], right + counts.get("right", 0)
                if points >= coverage * total:
                    break
            of_margin[f"{100 * coverage:g} %"] = right / points
        found[f"pck_{HEADLINE}_of_largest_margins"] = of_margin
    return found
