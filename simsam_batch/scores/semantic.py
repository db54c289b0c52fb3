"""How well label maps agree with true classes over a whole set: one confusion, matched, then IoU of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.confusion import confusion
from simsam_batch.scores.matching import UNMATCHED, Matching, hungarian, iou_table, majority, rename

FITTED_ON_ITSELF = "the scored images themselves"


class SemanticScores:
    """The fold of label maps over a set: a state for each image, merged by addition.

    States are plain JSON values: two counts, and the confusion as a list for each true class that occurs, under its
    number: how many of its pixels were predicted as each id. The IoU of a class is a ratio of sums over all pixels of
    the set, not a mean over images.

    Two protocols differ in the classes that ``miou_over_classes`` is the mean of. ``voc-semantic`` (evaluation of Deep
    Spectral Methods): all of them, a class that is neither predicted nor true counting 0. ``semantic`` (this project):
    those that the truth of the set holds. In both, a class that is true somewhere and never predicted counts 0, and a
    class that is ignored is no class.

    Args:
        classes: names of the true classes, 0 to C - 1.
        predicted: how many ids can be predicted; None for as many as classes.
        ignore: value of true pixels that do not count.
        matching: ``none``: ids are classes; ``hungarian`` or ``majority``: ids are clusters, see
            `simsam_batch.scores.matching`. It is fitted on the confusion that it is then applied to, as upstream does.
        given: a matching made elsewhere, a class or -1 for each id, in place of fitting one.
        fitted_on: what ``given`` was fitted on, for the result.
        protocol: ``semantic`` or ``voc-semantic``.

    Raises:
        ValueError: a given matching that does not fit, or none where ids and classes differ in number.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        predicted: int | None = None,
        ignore: int | None = None,
        matching: Matching = "none",
        given: Sequence[int] | None = None,
        fitted_on: str | None = None,
        protocol: str = "semantic",
    ) -> None:
        if protocol not in ("semantic", "voc-semantic"):
            raise ValueError(f"protocol {protocol!r} is not one of semantic, voc-semantic")
        if len(set(classes)) < len(classes):
            raise ValueError("two classes have the same name, so their scores could not be told apart")
        self.classes, self.ignore, self.protocol = tuple(classes), ignore, protocol
        self.predicted = len(classes) if predicted is None else predicted
        self.matching, self.fitted_on = matching, fitted_on
        self.given = None if given is None else np.asarray(given, dtype=np.int64)
        if self.given is not None:
            rename(np.zeros((self.predicted, len(classes)), dtype=np.int64), self.given, len(classes))
        elif matching == "none" and self.predicted > len(classes):
            raise ValueError(f"{self.predicted} ids are more than {len(classes)} classes: they need a matching")

    def zero(self) -> dict[str, Any]:
        """Return the state of no image."""
        return {"images_scored": 0, "ignored_pixels": 0, "confusion": {}}

    def of_image(self, prediction: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]]) -> dict[str, Any]:
        """Return the state of one image from its label maps, both (H, W).

        Raises:
            ValueError: the shapes differ, or an id is out of range; it is named.
        """
        counts, ignored = confusion(prediction, truth, self.predicted, len(self.classes), self.ignore)
        columns = {str(c): counts[:, c].tolist() for c in np.flatnonzero(counts.any(axis=0)).tolist()}
        return {"images_scored": 1, "ignored_pixels": ignored, "confusion": columns}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states; exact in any order."""
        columns = dict(a["confusion"])
        for name, column in b["confusion"].items():
            there = columns.get(name)
            columns[name] = [x + y for x, y in zip(there, column, strict=True)] if there else column
        return {
            "images_scored": a["images_scored"] + b["images_scored"],
            "ignored_pixels": a["ignored_pixels"] + b["ignored_pixels"],
            "confusion": columns,
        }

    def counts(self, s: dict[str, Any]) -> NDArray[np.int64]:
        """Return the confusion as a table, (predicted ids, classes)."""
        table = np.zeros((self.predicted, len(self.classes)), dtype=np.int64)
        for name, column in s["confusion"].items():
            table[:, int(name)] = column
        return table

    def match(self, s: dict[str, Any]) -> NDArray[np.int64]:
        """Return the class, or -1, that each predicted id stands for."""
        if self.given is not None:
            return self.given
        if self.matching == "hungarian":
            return hungarian(self.counts(s))
        return majority(self.counts(s)) if self.matching == "majority" else np.arange(self.predicted, dtype=np.int64)

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; nothing if no image had a truth.

        ``miou_over_classes`` is the mean of the classes' IoU over the set, ``iou_by_class`` each one's that
        is part of the mean, ``pixel_accuracy`` the share of the pixels that count whose class is right.
        ``class_of_cluster`` names the class of each id, None where it stands for none. With no pixel that counts, mean
        and accuracy are None.
        """
        if s["images_scored"] == 0:
            return {}
        matched = self.match(s)
        table = rename(self.counts(s), matched, len(self.classes))
        pixels = int(table.sum())
        # The extra row of pixels that stand for no class takes part in the unions of the true classes.
        ious = np.diagonal(iou_table(table)[:-1])
        counted = np.ones(len(self.classes), dtype=bool) if self.protocol == "voc-semantic" else table.sum(axis=0) > 0
        if self.ignore is not None and 0 <= self.ignore < len(self.classes):
            counted[self.ignore] = False
        scores = {
            "protocol": self.protocol,
            "miou_over_classes": float(ious[counted].mean()) if pixels and counted.any() else None,
            "iou_by_class": {
                name: float(value)
                for name, value, in_mean in zip(self.classes, ious, counted, strict=True)
                if pixels and in_mean
            },
            "pixel_accuracy": int(np.trace(table)) / pixels if pixels else None,
            "matching": "given" if self.given is not None else self.matching,
            "images_scored": s["images_scored"],
            "ignored_pixels": s["ignored_pixels"],
        }
        if self.given is not None or self.matching != "none":
            scores["matching_fitted_on"] = FITTED_ON_ITSELF if self.given is None else self.fitted_on or "not stated"
            scores["class_of_cluster"] = [None if c == UNMATCHED else self.classes[c] for c in matched.tolist()]
        return scores
