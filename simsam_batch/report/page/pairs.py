"""What a chapter of pairs has: how many points are right, and pairs with their matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simsam_batch.drawing.matches import dense_picture, side_by_side
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, galleries_of, numbers_of
from simsam_batch.report.page.choice import highest, lowest, sample
from simsam_batch.report.page.pictures import Drawn, jpeg, stacked
from simsam_batch.report.page.plots import histogram
from simsam_batch.report.page.scores import scores_of
from simsam_batch.report.page.tables import pck_table
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS
from simsam_batch.stages.registry import Command

_OWN = ["pair_id", "source_record", "target_record", "source_size", "target_size", "points", "points_scored"]
_OWN += ["source_sha256", "target_sha256"]
_OWN += ["points_right", "category", *(field.name for field in ARRAY_FIELDS)]
_SMALL, _LARGE = 220, 640
"""Pixels: heights of a card's picture and of the one behind it."""

_LEGEND = (
    "Points of the left image and where they were found in the right one: blue is right, orange is wrong, with a thin "
    "line on to the yellow cross where the point should be; white is not scored. Below, where every patch was matched, "
    "stand the right image brought onto the left one, and in colours where each patch went."
)


def pairs_chapter(source: Source, command: Command, stages: Sequence[str], stage: str) -> Chapter:
    """Scores, the table of PCK, and galleries of pairs.

    Args:
        source: what it is made from.
        command: whose chapter it is.
        stages: those of the run that have begun.
        stage: the one whose rows are pairs.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    metrics = source.metrics(stage)
    if metrics is not None:
        made.scores = scores_of(metrics)
        if "pck" in metrics:
            made.tables_title = f"PCK over {counted(metrics['pairs_scored'], 'pair')}"
            made.tables = [pck_table(metrics["pck"])]
    if stage in stages:
        _fill_pictures(made, source, stage)
    return made


def _fill_pictures(made: Chapter, source: Source, stage: str) -> None:
    rows = StageRows(source.out, stage)
    columns = ["status", "points_scored", "points_right", "points"]
    numbers, shares, margins = [], [], []
    for number, row in rows.each(columns):
        if row["status"] == "ok":
            numbers.append(number)
            shares.append(row["points_right"] / row["points_scored"] if row["points_scored"] else np.nan)
            held = [point["margin"] for point in row["points"] if point["margin"] is not None]
            margins.append(float(np.mean(held)) if held else np.nan)
    fine, share = np.array(numbers, np.int64), np.array(shares, np.float32)
    scored = share[~np.isnan(share)]
    if len(scored):
        made.plots.append(histogram("Share of a pair's points that are right", "share", scored, noun="pair"))
    titled = {
        "At random": (
            f"A random sample of {counted(len(fine), 'pair')}, the same one every time.",
            sample(fine, source.samples),
        ),
        "Best": ("Pairs with the largest share of right points.", highest(fine, share, source.samples)),
        "Worst": ("Pairs with the smallest share of right points.", lowest(fine, share, source.samples)),
        "Least sure": (
            "Pairs whose best patches are hardly better than others elsewhere.",
            lowest(fine, np.array(margins, np.float32), source.samples),
        ),
    }
    pictures = {
        number: _picture(source, number, row, rows)
        for number, row in source.rows(rows, sorted(numbers_of(titled)), _OWN)
    }
    made.galleries = galleries_of(titled, pictures, wide=True)
    made.legend = _LEGEND


def _picture(source: Source, number: int, row: Mapping[str, Any], rows: StageRows) -> Picture:
    sizes = row["source_size"], row["target_size"]
    ends = [source.image(row[f"{side}_record"]) for side in ("source", "target")]
    digests = row["source_sha256"], row["target_sha256"]
    shown = [
        shown_photograph(
            {"uri": end["uri"], "width": size[0], "height": size[1], "content_sha256": digest}, rows.settings
        )
        for end, size, digest in zip(ends, sizes, digests, strict=True)
    ]
    (first, _), (second, _) = shown
    small, large = (side_by_side(first, second, sizes, row["points"], height) for height in (_SMALL, _LARGE))
    if "dense_places" in (arrays := rows.arrays(row)):
        places = ((arrays["dense_places"] + 0.5) / np.array(sizes[1])).astype(np.float32)
        dense = (dense_picture(first, second, places, height) for height in (_SMALL, _LARGE))
        small, large = (stacked([[above], [below]]) for above, below in zip((small, large), dense, strict=True))
    fault = next((each for _, each in shown if each is not None), None)
    drawn = Drawn(jpeg(small), jpeg(large), small.size, fault, {})
    right, scored = row["points_right"], row["points_scored"]
    facts = [f"{right} of {scored} right" if scored else counted(len(row["points"]), "point")]
    facts += [row["category"]] if row["category"] else []
    names = [end["image_id"] for end in ends]
    alt = f"{counted(len(row['points']), 'point')} of {names[0]} and where they were found in {names[1]}; {facts[0]}"
    return source.picture(rows.stage, number, {"image_id": row["pair_id"]}, drawn, alt, facts)
