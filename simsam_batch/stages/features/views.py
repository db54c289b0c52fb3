"""The chapter of features: how they lie, in colours, over photographs of the set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch import images
from simsam_batch.drawing.labels import fitted
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.drawing.text import EMPTY
from simsam_batch.features.contract import MIRRORED
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, leading, numbers_of, show
from simsam_batch.report.page.choice import at_random
from simsam_batch.report.page.pictures import LARGE, SMALL, Drawn, jpeg, stacked
from simsam_batch.report.page.plots import histogram
from simsam_batch.report.page.scalars import Scalars
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command

_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "content_sha256", "grid_h", "grid_w", "patch"]
_COLUMNS += ["outlier_tokens", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]
_AUXILIARY = ("norm-", "class-", "registers-", MIRRORED)

_LEGEND = (
    "The photograph, and its patches in the colours of the first three principal components of all images shown: "
    "patches that the network describes alike have like colours, in all pictures. Shown are the features {name}."
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """What was computed, and a gallery of features as colours.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    rows = StageRows(source.out, next(iter(command.stages)))
    numbers = Scalars(rows, source.plan, ["outlier_tokens", "grid_h", "grid_w"])
    made.plots_note = numbers.note
    if numbers.ok.any():
        patches = numbers["grid_h"] * numbers["grid_w"]
        made.plots.append(histogram("Patches of an image", "patches", patches))
        made.plots.append(histogram("Outlier tokens of an image", "outlier tokens", numbers["outlier_tokens"]))
    fine = numbers.number[numbers.ok]
    lead = leading(fine)
    titled = at_random(fine, source.samples, without=lead)
    held = dict(source.rows(rows, sorted({*lead, *numbers_of(titled)}), _COLUMNS))
    name = next((n for row in held.values() for n in rows.arrays(row) if not n.startswith(_AUXILIARY)), None)
    if name is not None:
        colors = patch_colors({number: rows.arrays(row)[name] for number, row in held.items()})
        pictures = {number: _picture(source, rows, number, held[number], colors[number], name) for number in held}
        show(made, lead, titled, pictures)
        made.legend = _LEGEND.format(name=name)
    return made


def patch_colors(features: Mapping[int, NDArray[Any]]) -> dict[int, NDArray[np.uint8]]:
    """(Hp, Wp, 3) for each image: its features (Hp, Wp, C) in the first three principal components of them all.

    Features are scaled to unit length first, so that tokens of outlying length do not decide; each component runs from
    its 2nd to its 98th percentile. Memory holds the scaled features of one image at a time.
    """
    channels = next(iter(features.values())).shape[-1]
    count, total, products = 0, np.zeros(channels), np.zeros((channels, channels))
    for each in features.values():
        unit = _unit_rows(each)
        count, total, products = count + len(unit), total + unit.sum(axis=0), products + unit.T @ unit
    mean = total / count
    _, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    axes = directions[:, ::-1][:, :3]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    along = {number: (_unit_rows(each) - mean) @ axes for number, each in features.items()}
    low, high = np.percentile(np.concatenate([*along.values()]), [2, 98], axis=0)
    found = {}
    for number, each in along.items():
        scaled = np.clip((each - low) / np.maximum(high - low, 1e-12), 0, 1)
        shape = (*features[number].shape[:2], axes.shape[1])
        found[number] = (255 * scaled).round().astype(np.uint8).reshape(shape)
    return found


def _unit_rows(features: NDArray[Any]) -> NDArray[np.float64]:
    """(Hp * Wp, C), each patch scaled to unit length."""
    rows: NDArray[np.float64] = features.astype(np.float64).reshape(-1, features.shape[-1])
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def _picture(
    source: Source, rows: StageRows, number: int, row: dict[str, Any], colors: NDArray[np.uint8], name: str
) -> Picture:
    photo, fault = shown_photograph(row, rows.settings)
    patches = Image.fromarray(colors)
    resize = images.parse_resize(rows.settings["resize"])
    full = row["height"], row["width"]
    whole, corner = images.resized_size(full, resize), images.crop_corner(full, resize)
    sides = row["grid_h"] * row["patch"], row["grid_w"] * row["patch"]

    def beside(side: int) -> Image.Image:
        size = fitted(photo.size, side)
        # what lies under no whole patch stays empty, so that a patch is where it is in the photograph
        flat = Image.new("RGB", size, EMPTY)
        (top, bottom), (left, right) = (
            (round(shown * first / resized), round(shown * min(first + part, resized) / resized))
            for shown, first, part, resized in zip(size[::-1], corner, sides, whole, strict=True)
        )
        shown_patches = patches.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.NEAREST)
        flat.paste(shown_patches, (left, top))
        return stacked([[photo.resize(size, Image.Resampling.LANCZOS), flat]])

    small = beside(SMALL // 2)
    drawn = Drawn(jpeg(small), jpeg(beside(LARGE)), small.size, fault, {})
    facts = [f"{row['grid_h']} x {row['grid_w']} patches", counted(row["outlier_tokens"], "outlier token")]
    alt = f"{row['image_id']}: the photograph, and beside it the features {name} of its patches as colours"
    return source.picture(rows.stage, number, row, drawn, alt, facts)
