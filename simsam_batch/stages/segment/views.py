"""The chapter of object masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simsam_batch.drawing.overlays import BOX, MASK, NEGATIVE, POSITIVE, TRUTH
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, dots, leading, numbers_of, scores_or_so_far, show
from simsam_batch.report.page.choice import at_random, highest, lowest, middle, sample
from simsam_batch.report.page.pictures import draw_masks
from simsam_batch.report.page.plots import MOST_DOTS, histogram, scatter
from simsam_batch.report.page.scalars import Scalars
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command

_SCALARS = ["iou", "confidence", "area_fraction", "spectral_gap", "degenerate", "head_collapse"]
_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "content_sha256", "grid_h", "grid_w", "patch"]
_COLUMNS += ["mask_rle", "bbox_xyxy", "area_fraction", "confidence", "degenerate", "iou", "truth_error"]
_COLUMNS += ["arrays_path", "arrays_member", "objects"]
_LEGEND = (
    "Of several objects each has a colour of its own. Behind a picture, and below it in galleries, stand the first "
    "eigenvectors after the constant one."
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, distributions and galleries of object masks.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    rows = StageRows(source.out, "segment")
    numbers = Scalars(rows, source.plan, _SCALARS)
    iou = numbers["iou"]
    made.scores = scores_or_so_far(source, "segment", "iou_per_image_mean", iou)
    made.plots_note = numbers.note
    scored = np.isfinite(iou).any()
    shares = [("Area of the mask", "share of the pixels", "area_fraction"), ("Confidence", "confidence", "confidence")]
    if scored:
        made.plots.append(histogram("Overlap with the truth", "IoU", iou, (0.0, 1.0)))
        chosen = dots(len(numbers), MOST_DOTS)
        for title, name, column in (
            ("Does the spectral gap tell?", "spectral gap", "spectral_gap"),
            ("Does the confidence tell?", "confidence", "confidence"),
        ):
            plot = scatter(f"{title} IoU against it", name, "IoU", numbers[column], iou, chosen)
            made.plots += [] if plot is None else [plot]
    elif np.isfinite(numbers["spectral_gap"]).any():
        made.plots.append(histogram("Spectral gap", "third eigenvalue less the second", numbers["spectral_gap"]))
    made.plots += [
        histogram(title, name, numbers[column], (0.0, 1.0))
        for title, name, column in shares
        if np.isfinite(numbers[column]).any()
    ]
    made.legend = _LEGEND
    made.colors = [("mask", MASK), ("its box", BOX)]
    made.colors += [("outline of the truth", TRUTH)] if scored else []
    made.colors += [("eigenvector below zero", NEGATIVE), ("eigenvector above zero", POSITIVE)]
    made.sentence = _sentence(numbers)
    _fill_pictures(made, source, rows, numbers)
    return made


def _sentence(numbers: Scalars) -> str:
    """What was made, and how good or how sure it is."""
    iou, sure = numbers["iou"], numbers["confidence"]
    what = f"Object masks of {counted(int(numbers.ok.sum()), 'image')}"
    if np.isfinite(iou).any():
        return f"{what}: a mean overlap with the truth of {np.nanmean(iou):.2f} (IoU)."
    if np.isfinite(sure).any():
        return f"{what}: a median confidence of {np.nanmedian(sure):.2f}; none was compared with a truth."
    return f"{what}."


def _fill_pictures(made: Chapter, source: Source, rows: StageRows, numbers: Scalars) -> None:
    count, number = source.samples, numbers.number
    iou, sure = numbers["iou"], np.where(numbers.ok, numbers["confidence"], np.nan)
    good, bad = number[numbers.ok], number[numbers["degenerate"] == 1]
    scored, fine = counted(int(np.isfinite(iou).sum()), "scored image"), counted(len(good), "image")
    such = f"a sample of {counted(len(bad), 'such image')}"
    lead = leading(good)
    titled = {
        "Best": (f"The highest IoU of {scored}.", highest(number, iou, count)),
        "Worst": (f"The lowest IoU of {scored}, the lowest first.", lowest(number, iou, count)),
        "Degenerate": (f"No second eigenvector stands out, so that the mask is empty: {such}.", sample(bad, count)),
        "Least confident": (f"The lowest confidence of {fine}.", lowest(number, sure, count)),
        "Median": (f"Around the median IoU of {scored}.", middle(number, iou, count)),
        **at_random(good, count, without=lead),
    }
    wanted = source.rows(rows, sorted({*lead, *numbers_of(titled)}), _COLUMNS)
    drawn = {each: _picture(source, rows, each, row, leads=each in lead) for each, row in wanted}
    show(made, lead, titled, drawn)


def _picture(source: Source, rows: StageRows, number: int, row: dict[str, Any], *, leads: bool) -> Picture:
    drawn = draw_masks(row, rows, source.truth_uri(number))
    facts = [] if row["iou"] is None else [f"IoU {row['iou']:.3f}"]
    facts += [] if row["confidence"] is None else [f"confidence {row['confidence']:.2f}"]
    facts += ["degenerate"] if row["degenerate"] else []
    several = row.get("objects")
    facts += [] if several is None else [counted(len(several), "object")]
    area = "" if row["area_fraction"] is None else f", {100 * row['area_fraction']:.0f} % of the picture"
    truth = "" if row["iou"] is None else f", IoU {row['iou']:.2f} with the truth"
    what = "object mask" if several is None else counted(len(several), "object")
    alt = f"{row['image_id']}: {what}{area}{truth}{'' if leads else '; below it the first eigenvectors'}"
    return source.picture("segment", number, row, drawn, alt, facts, leads=leads)
