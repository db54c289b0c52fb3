"""The scores of a stage as tables and plots: what ``results/<stage>.json`` says, with its intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.report.page.plots import Plot, curve, over_depth
from simsam_batch.scores.bootstrap import bin_of, interval_of_mean
from simsam_batch.telling.metrics import Metric, extremes, number_text, shown_metrics

ABOUT = {
    "iou_per_image_mean": "mean over images of intersection over union with the truth",
    "iou_pooled": "all intersections by all unions, in pixels",
    "accuracy": "mean over images of the share of pixels that agree with the truth",
    "accuracy_pooled": "all correct pixels by all pixels",
    "boundary_iou": "mean over images of the IoU of the bands along the borders, 2 % of the diagonal wide",
    "f_beta_max": "best F-beta (beta squared 0.3) over thresholds of the soft map",
    "f_beta_threshold": "threshold of the soft map at which it is reached",
    "miou_over_classes": "mean over classes of the IoU over the whole set",
    "pixel_accuracy": "share of the pixels that count that are right",
    "nmcovering": "mean over true regions of the IoU with the node that covers each best",
    "nhcovering": "nmcovering, times the share of the region's ancestors that are matched",
    "nhcovering_distinct": "likewise, a node that several ancestors are matched to counted once",
    "nfcovering": "best IoU of foreground classes with leaves",
    "miou": "mean over regions of the IoU over the set with the nodes that cover them best",
    "mean_accuracy": "mean over regions of the share of their pixels that the nodes hold that cover them best",
    "frequency_weighted_iou": "IoU weighted by the pixels of each region",
    "corloc": "share of images whose box has an IoU of at least 0.5 with a true one",
    "pck_0.1": "share of all points found within a tenth of the threshold's length",
    "pck_0.1_per_image": "mean over pairs of the share of each",
    "pck_0.1_with_other_side": "the same of points whose left or right counterpart is in the target too",
    "found_at_other_side": "share of these found at the counterpart instead",
    "mutual_share": "share of points whose match leads back to them",
    "pck_0.1_of_mutual": "share of right points of those",
    "threshold": "whose length that is: the first that all scored pairs have",
    "points_without_truth": "points of the source that the target does not show, or nobody has marked",
    "points_outside": "points that are not in the source image; not counted",
    "points_unseen": "points in no patch, beside a crop; counted as wrong",
    "points_flat": "points whose target is alike everywhere; counted as wrong",
    "points_failed": "points with truth of pairs that failed; counted as wrong, also of what needs no features",
    "pairs_failed": "pairs of which an image could not be used",
    "chance": "a random point of the true box",
    "same-place": "the same place in the image",
    "relative-place": "the same place in the true box",
    "nodes_mean": "nodes of a tree, on average",
    "leaves_mean": "leaves of a tree, on average",
    "images_scored": "images with usable truth",
    "images_without_truth": "images none of whose pixels have a truth that counts",
    "images_without_foreground": "images whose truth is background alone; not scored but in the groups and classes",
    "images_without_annotation": "images not scored, for want of boxes",
    "ignored_pixels": "true pixels that do not count",
    "partitions": "segmentations by people, of all images",
    "matching": "of clusters to classes",
    "matching_fitted_on": "what clusters were matched to classes on",
    "degenerate": "images without a clear second eigenvector",
    "root_only": "trees that are a root alone",
    "truth_errors": "truth files that could not be used",
    "protocol": "how it was scored",
    "grid": "quarters of the image, quarters of those, and so on",
    "kmeans": "the coarsest of these partitions, with at most as many parts together as the tree has nodes",
    "kmeans_all": "all of these partitions together, which have more parts",
}
"""In words what a score is; see docs/output.md for all of them."""

_BAR = 120.0
_MOST_LINES, _FOLDED = 60, 12
_ELSEWHERE = ("class_of_cluster",)
"""Groups that stand in another place of the page."""


@dataclass(frozen=True, slots=True)
class Score:
    """One line of a table.

    Attributes:
        name, about: of the score.
        value: as text, with its deviation over repeats if it has one.
        interval: low and high end of its 95 % interval, as text; None without.
        bar: (start of the interval or of the deviation around the value, its width, the value) on a scale of 0 to 1,
            in pixels; None for other numbers.
    """

    name: str
    about: str
    value: str
    interval: tuple[str, str] | None = None
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Scores of the same kind.

    Attributes:
        title: of the table; empty for the main one.
        scores: its lines.
        folded: whether it opens only when asked to.
    """

    title: str
    scores: list[Score]
    folded: bool = False

    @property
    def has_intervals(self) -> bool:
        """Whether any of them has one."""
        return any(score.interval is not None for score in self.scores)

    @property
    def has_bars(self) -> bool:
        """Whether any of them is a share."""
        return any(score.bar is not None for score in self.scores)


@dataclass(slots=True)
class Scores:
    """All that is known of how good a stage's results are.

    Attributes:
        tables: of scores, none of them empty.
        plots: over thresholds or depths.
        provisional: whether they are of the rows so far.
    """

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    provisional: bool = False


def scores_of(metrics: Mapping[str, Any]) -> Scores:
    """Metrics as they stand in a result file."""
    found = Scores()
    if "curve" in metrics:
        held, title = metrics["curve"], "Precision and recall over thresholds"
        found.plots.append(curve(title, "recall", "precision", held["recall"], held["precision"]))
    for group in shown_metrics(metrics):
        values = [metric for metric in group.metrics if metric.value is not None]
        if not values or group.name in _ELSEWHERE:
            continue
        if group.name.endswith("_by_depth"):
            name = group.name.removesuffix("_by_depth")
            found.plots.append(over_depth(_heading(group.title), name, [metric.value for metric in values]))
            continue
        shown, left_out = extremes(values, _MOST_LINES)
        title = _heading(group.title)
        title += f": the highest and the lowest of {len(values):,}" if left_out else ""
        lines = [_score(metric) for metric in shown]
        if not group.name:
            # what has an interval is what people look for, and how it was scored comes last
            lines.sort(key=lambda score: (score.interval is None, score.bar is None))
        found.tables.append(
            Table(title, lines, folded=group.name == "levels" or (bool(group.name) and len(lines) > _FOLDED))
        )
    return found


def _heading(title: str) -> str:
    return title[:1].upper() + title[1:]


def so_far(name: str, values: NDArray[np.float32]) -> Scores:
    """The mean of a score over the rows that are there, with its interval."""
    held = values[np.isfinite(values)].astype(np.float64)
    if not len(held):
        return Scores(provisional=True)
    counts = Counter(key for value in held.clip(0, 1).tolist() for key in bin_of(value))
    mean = float(held.mean())
    lines = [_score(Metric(name, mean, interval_of_mean(counts, mean))), _score(Metric("images_scored", len(held)))]
    return Scores([Table("", lines)], provisional=True)


def _score(metric: Metric) -> Score:
    value, around, bar = metric.value, metric.interval, None
    text = number_text(value)
    if metric.deviation is not None:
        text = f"{text} ± {metric.deviation:.4f}"
        around = max(value - metric.deviation, 0.0), min(value + metric.deviation, 1.0)
    if isinstance(value, float) and 0 <= value <= 1:
        low, high = around or (value, value)
        bar = round(_BAR * low, 1), round(max(_BAR * (high - low), 1.0), 1), round(_BAR * value, 1)
    between = None if metric.interval is None else (number_text(metric.interval[0]), number_text(metric.interval[1]))
    parts = metric.name.removeprefix("kmeans_")
    about = f"partitions into {parts} by k-means" if parts.isdecimal() else ABOUT.get(metric.name, "")
    return Score(metric.name, about, text, between, bar)
