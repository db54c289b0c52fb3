"""What a chapter of pairs has: how many points are right, and pairs with their matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch import images
from simsam_batch.drawing.matches import COLORS_SAY, dense_picture, side_by_side
from simsam_batch.drawing.overlays import map_over
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, dots, leading, numbers_of, show
from simsam_batch.report.page.choice import at_random, highest, lowest
from simsam_batch.report.page.pictures import Drawn, captioned, jpeg, stacked
from simsam_batch.report.page.plots import histogram
from simsam_batch.report.page.scores import scores_of
from simsam_batch.report.page.tables import pck_table
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS
from simsam_batch.stages.matches.grids import grid_of
from simsam_batch.stages.registry import Command, stages_with_features

_OWN = ["pair_id", "source_record", "target_record", "source_size", "target_size", "points", "points_scored"]
_OWN += ["source_sha256", "target_sha256"]
_OWN += ["points_right", "category", "mirrored", *(field.name for field in ARRAY_FIELDS)]
_OF_FEATURES = ["width", "height", "grid_h", "grid_w", "patch"]
_SMALL, _LARGE = 220, 640
"""Pixels: heights of a card's picture and of the one behind it."""

_ABREAST, _GAP = 3, 6
_FEW, _MORE = _ABREAST, 2 * _ABREAST
"""Points whose maps these show at most."""

_LEGEND = (
    f"Points of the left image and where they were found in the right one: {COLORS_SAY}. Below, where maps were "
    "kept, some of the points that were found, each with its similarity and the highest quarter of its map in purple. "
    "Last, where every patch was matched, the right image brought onto the left one, and in colours where each patch "
    "went."
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
            if wrong := metrics.get("points_failed"):
                made.tables_title += f"; {counted(wrong, 'point')} of pairs that failed among the wrong ones"
            made.tables = [pck_table(metrics["pck"])]
    if stage in stages:
        _fill_pictures(made, source, stage, _Grids(source, stages))
    return made


def _fill_pictures(made: Chapter, source: Source, stage: str, grids: _Grids) -> None:
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
    lead = leading(fine)
    titled = {
        "Best": ("Pairs with the largest share of right points.", highest(fine, share, source.samples)),
        "Worst": ("Pairs with the smallest share of right points.", lowest(fine, share, source.samples)),
        "Least sure": (
            "Pairs whose best patches are hardly better than others elsewhere.",
            lowest(fine, np.array(margins, np.float32), source.samples),
        ),
        **at_random(fine, source.samples, "pair", without=lead),
    }
    pictures = {
        number: _picture(source, number, row, rows, grids)
        for number, row in source.rows(rows, sorted({*lead, *numbers_of(titled)}), _OWN)
    }
    show(made, lead, titled, pictures, wide=True)
    made.legend = _LEGEND


class _Grids:
    """Where maps lie in their images: on the patches that features were stored of, or over the whole image."""

    def __init__(self, source: Source, stages: Sequence[str]) -> None:
        self._source = source
        named = next((name for name in stages_with_features() if name in stages), None)
        self._features = None if named is None else StageRows(source.out, named)

    def window(self, record: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a map (Hp, Wp) of an image, as shares of its width and height."""
        if self._features is not None:
            ((_, row),) = self._source.rows(self._features, [record], _OF_FEATURES)
            if (row["grid_h"], row["grid_w"]) == shape:
                grid = grid_of(row, images.parse_resize(self._features.settings["resize"]))
                corners = grid.points_of(np.array([[-0.5, -0.5], [grid.shape[1] - 0.5, grid.shape[0] - 0.5]]))
                left, top, right, bottom = ((corners + 0.5) / grid.size[::-1]).ravel().tolist()
                return left, top, right, bottom
        return 0.0, 0.0, 1.0, 1.0


def _map_panels(
    ends: tuple[Image.Image, Image.Image],
    row: Mapping[str, Any],
    maps: NDArray[np.float16],
    window: Sequence[float],
    height: int,
    most: int,
) -> list[list[Image.Image]]:
    """Strips for below a picture so high: points spread evenly, each with its map, of (N, Hp, Wp), over the target."""
    found = [number for number, point in enumerate(row["points"]) if point["x"] is not None]
    chosen = np.array(found)[dots(len(found), most)].tolist() if found else []
    sizes = row["source_size"], row["target_size"]
    target = ends[1].copy()
    target.thumbnail((_LARGE, _LARGE))
    panels = []
    for number in chosen:
        point = row["points"][number]
        shown = map_over(target, maps[number].astype(np.float32), window)
        panel = side_by_side(ends[0], shown, sizes, [point], (height - 2 * _GAP) // _ABREAST)
        name = point["name"] or f"point {number}"
        panels.append(captioned(panel, f"{name}: {point['similarity']:.2f}"))
    return [panels[i : i + _ABREAST] for i in range(0, len(panels), _ABREAST)]


def _picture(source: Source, number: int, row: Mapping[str, Any], rows: StageRows, grids: _Grids) -> Picture:
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
    arrays = rows.arrays(row)
    maps = arrays.get("similarity")
    window = None if maps is None else grids.window(row["target_record"], maps.shape[1:])

    def drawn_at(height: int, most: int) -> Image.Image:
        strips = [[side_by_side(first, second, sizes, row["points"], height)]]
        if maps is not None and window is not None:
            strips += _map_panels((first, second), row, maps, window, height, most)
        if "dense_places" in arrays:
            places = ((arrays["dense_places"] + 0.5) / np.array(sizes[1])).astype(np.float32)
            strips.append([dense_picture(first, second, places, height)])
        return stacked(strips)

    small, large = drawn_at(_SMALL, _FEW), drawn_at(_LARGE, _MORE)
    fault = next((each for _, each in shown if each is not None), None)
    drawn = Drawn(jpeg(small), jpeg(large), small.size, fault, {})
    right, scored = row["points_right"], row["points_scored"]
    facts = [f"{right} of {scored} right" if scored else counted(len(row["points"]), "point")]
    facts += [row["category"]] if row["category"] else []
    facts += ["matched mirrored"] if row["mirrored"] else []
    names = [end["image_id"] for end in ends]
    alt = f"{counted(len(row['points']), 'point')} of {names[0]} and where they were found in {names[1]}; {facts[0]}"
    return source.picture(rows.stage, number, {"image_id": row["pair_id"]}, drawn, alt, facts)
