"""The scores of a stage as tables and plots: what ``results/<stage>.json`` says, with its intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.report.page.plots import Plot, curve, over_depth
from simsam_batch.scores.bootstrap import bin_of, interval_of_mean

ABOUT = {
    "iou_per_image_mean": "mean over images of intersection over union with the truth",
    "iou_pooled": "all intersections by all unions, in pixels",
    "accuracy": "mean over images of the share of pixels that agree with the truth",
    "accuracy_pooled": "all correct pixels by all pixels",
    "f_beta_max": "best F-beta (beta squared 0.3) over thresholds of the soft map",
    "f_beta_threshold": "threshold of the soft map at which it is reached",
    "miou_over_classes": "mean over classes of the IoU over the whole set",
    "pixel_accuracy": "share of the pixels that count that are right",
    "nmcovering": "mean over true regions of the IoU with the node that covers each best",
    "nhcovering": "the same, times the share of the region's ancestors that are matched",
    "nhcovering_distinct": "likewise, a node that several ancestors are matched to counted once",
    "nfcovering": "best IoU of foreground classes with leaves",
    "miou": "mean over regions of the IoU over the set with the nodes that cover them best",
    "mean_accuracy": "mean over regions of the share of their pixels that those nodes hold",
    "frequency_weighted_iou": "IoU weighted by the pixels of each region",
    "corloc": "share of images whose box has an IoU of at least 0.5 with a true one",
    "nodes_mean": "nodes of a tree, on average",
    "leaves_mean": "leaves of a tree, on average",
    "images_scored": "images with usable truth",
    "matching_fitted_on": "what clusters were matched to classes on",
    "degenerate": "images without a clear second eigenvector",
    "root_only": "trees that are a root alone",
    "truth_errors": "truth files that could not be used",
    "protocol": "how it was scored",
}
"""In words what a score is; see docs/output.md for all of them."""

_BAR = 120.0


@dataclass(frozen=True, slots=True)
class Score:
    """One line of a table.

    Attributes:
        name, about: of the score.
        value: as text.
        interval: low and high end of its 95 % interval, as text; None without.
        bar: (start of the interval, its width, the value) on a scale of 0 to 1, in pixels; None for other numbers.
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


@dataclass(slots=True)
class Scores:
    """All that is known of how good a stage's results are.

    Attributes:
        tables: of scores.
        plots: over thresholds or depths.
        provisional: whether they are of the rows so far.
    """

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    provisional: bool = False


def scores_of(metrics: Mapping[str, Any]) -> Scores:
    """Metrics as they stand in a result file."""
    main: list[Score] = []
    found = Scores([Table("", main)])
    for name, value in metrics.items():
        if name.endswith("_ci") or value is None or name == "class_of_cluster":
            continue
        interval = metrics.get(f"{name}_ci")
        if name == "curve":
            title = "Precision and recall over thresholds"
            found.plots.append(curve(title, "recall", "precision", value["recall"], value["precision"]))
        elif isinstance(value, Mapping):
            between = interval if isinstance(interval, Mapping) else {}
            lines = [_score(str(key), inner, between.get(key)) for key, inner in value.items()]
            found.tables.append(Table(_title(name), lines, folded=len(lines) > 12))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for level, inner in enumerate(value):
                lines = [_score(k, v, inner.get(f"{k}_ci")) for k, v in inner.items() if _plain(k, v)]
                found.tables.append(Table(f"{_title(name)} {level}", lines, folded=True))
        elif isinstance(value, list) and value and name.endswith("_by_depth"):
            found.plots.append(over_depth(_title(name), name.removesuffix("_by_depth"), value))
        elif isinstance(value, list):
            ends = interval if isinstance(interval, list) else [None] * len(value)
            lines = [_score(f"depth {i + 1}", v, b) for i, (v, b) in enumerate(zip(value, ends, strict=False))]
            found.tables.append(Table(_title(name), lines))
        else:
            main.append(_score(name, value, interval))
    # what has an interval is what people look for, and how it was scored comes last
    main.sort(key=lambda score: (score.interval is None, score.bar is None))
    return found


def so_far(name: str, values: NDArray[np.float32]) -> Scores:
    """The mean of a score over the rows that are there, with its interval."""
    held = values[np.isfinite(values)].astype(np.float64)
    if not len(held):
        return Scores(provisional=True)
    counts = Counter(key for value in held.clip(0, 1).tolist() for key in bin_of(value))
    mean = float(held.mean())
    lines = [_score(name, mean, interval_of_mean(counts, mean)), _score("images_scored", len(held), None)]
    return Scores([Table("", lines)], provisional=True)


def _plain(name: str, value: Any) -> bool:
    return not name.endswith("_ci") and isinstance(value, str | int | float)


def _score(name: str, value: Any, interval: Sequence[float] | None) -> Score:
    bar = None
    share = isinstance(value, float) and 0 <= value <= 1
    if share:
        low, high = interval or (value, value)
        bar = round(_BAR * low, 1), round(max(_BAR * (high - low), 1.0), 1), round(_BAR * value, 1)
    between = None if interval is None else (f"{interval[0]:.4f}", f"{interval[1]:.4f}")
    return Score(name, ABOUT.get(name, ""), _number(value), between, bar)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _title(name: str) -> str:
    return name.replace("_", " ")
