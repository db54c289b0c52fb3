"""One picture of a run: images, first eigenvectors and masks side by side, spread evenly over the collection."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from simsam_batch import images
from simsam_batch.drawing.text import (
    EMPTY,
    FAULT,
    GAP,
    LINE,
    MARGIN,
    MUTED,
    RIM,
    RULE,
    TEXT,
    Color,
    font,
    write,
    write_lines,
)
from simsam_batch.errors import SettingsError
from simsam_batch.results.photographs import limits_of, photograph, working_size
from simsam_batch.storage import Folder

if TYPE_CHECKING:
    from simsam_batch.runs.plan import Plan
    from simsam_batch.runs.reading import StageRows

THUMBNAIL = 240
MOST_IMAGES = 200
VECTORS = 3
_WIDTH = 2 * MARGIN + (VECTORS + 2) * THUMBNAIL + (VECTORS + 1) * GAP
_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "grid_h", "grid_w", "patch", "mask_rle"]
_COLUMNS += ["bbox_xyxy", "eigenvalues", "confidence", "degenerate", "iou", "truth_error"]
_COLUMNS += ["arrays_path", "arrays_member"]

# Two hues of Okabe and Ito's palette, which every kind of colour vision tells apart; lines get a dark rim.
_MASK, _TRUTH, _BOX = (0, 140, 220), (245, 225, 40), (255, 255, 255)
# Negative to positive, from blue over near white to orange.
_DIVERGING = np.array([[18, 63, 135], [120, 170, 215], [246, 246, 244], [240, 165, 95], [150, 65, 5]], np.float64)


def contact_sheet(out: str, *, stage: str = "segment", count: int = 12) -> bytes:
    """Draw a sample of a run's results, one image a row, as a PNG about 1300 pixels wide.

    A row shows the image, the first three eigenvectors after the constant one (blue below zero, orange above, each on
    its own scale), and the mask with its box and the truth's outline where there is truth. Memory holds one image at a
    time. The layout is this project's.

    Args:
        out: folder of a run whose results are published.
        stage: which stage's results.
        count: rows of the sheet at most, 1 to `MOST_IMAGES`, spread evenly over the run.

    Raises:
        SettingsError: there are no results of this stage in OUT, or ``count`` is out of range.
        RunError: the results name arrays that are not there or cannot be read.
        StorageError: the storage did not answer.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise SettingsError(f"count: {count} is not allowed; it is a whole number from 1 to {MOST_IMAGES}")
    from simsam_batch.runs.plan import load_plan
    from simsam_batch.runs.reading import StageRows

    folder = Folder(out)
    rows = StageRows(folder, stage)
    if not rows.published:
        raise SettingsError(
            f"{folder.url} holds no results of {stage!r} yet. To mend it: run 'simsam {stage}' to its end"
        )
    plan = load_plan(folder)
    numbers = rows.spread(count)
    sample = zip(numbers, rows.take(numbers, _COLUMNS).to_pylist(), strict=True)
    entries = (_load(rows, plan, number, dict.fromkeys(_COLUMNS) | row) for number, row in sample)
    strips = [_header(folder, stage), *map(_strip, entries)]
    sheet = Image.new("RGB", (_WIDTH, sum(strip.height for strip in strips) + MARGIN), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    target = io.BytesIO()
    sheet.save(target, "PNG", dpi=(144, 144))
    return target.getvalue()


# --- reading a sample of the results ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row of the sheet shows.

    Attributes:
        row: of the published results, the columns `_COLUMNS`.
        rgb: the image, ``(height, width, 3)`` uint8; None if it cannot be read.
        truth: ``(height, width)`` booleans, or None.
        vectors: ``(K, grid_h, grid_w)`` float32, or None.
        covered: (height, width), the share of the image that lies under whole patches.
    """

    row: dict[str, Any]
    rgb: NDArray[np.uint8] | None
    truth: NDArray[np.bool_] | None
    vectors: NDArray[np.float32] | None
    covered: tuple[float, float]


def _load(rows: StageRows, plan: Plan | None, number: int, row: dict[str, Any]) -> Entry:
    truth = vectors = None
    covered = (1.0, 1.0)
    photo = photograph(row["uri"], rows.settings)
    if photo is None and row["status"] == "ok":
        row["error"] = "the image cannot be read any more"
    if row["status"] == "ok":
        size = row["height"], row["width"]
        if plan is not None:
            shard, place = plan.place_of(number)
            record = plan.shard(shard).records.slice(place, 1).to_pylist()[0]
            if record["truth_uri"] is not None and row["truth_error"] is None:
                truth = truth_mask(record["truth_uri"], limits_of(rows.settings, row), size, row)
        working = working_size(row, rows.settings)
        covered = (
            min(1.0, row["grid_h"] * row["patch"] / working[0]),
            min(1.0, row["grid_w"] * row["patch"] / working[1]),
        )
        vectors = shown_eigenvectors(rows, row)
    return Entry(row, None if photo is None else photo.rgb, truth, vectors, covered)


def truth_mask(
    uri: str, limits: images.ImageLimits, size: tuple[int, int], row: dict[str, Any]
) -> NDArray[np.bool_] | None:
    """The truth of an image of ``size`` (height, width); None, with the reason in its row, if it cannot be used."""
    try:
        return images.load_truth(uri, limits, size)
    except images.TruthError as error:
        row["truth_error"] = str(error)
        return None


def shown_eigenvectors(rows: StageRows, row: dict[str, Any]) -> NDArray[np.float32] | None:
    """The eigenvectors of a row as (K, Hp, Wp) float32; None if none were stored."""
    held = rows.arrays(row).get("eigenvectors")
    return None if held is None else held.astype(np.float32).reshape(-1, row["grid_h"], row["grid_w"])


# --- drawing ----------------------------------------------------------------------------------------------------------


def _header(folder: Folder, stage: str) -> Image.Image:
    """Title, legend and the names of the columns."""
    strip = Image.new("RGB", (_WIDTH, 104), "white")
    draw = ImageDraw.Draw(strip)
    result = json.loads(folder.read(f"results/{stage}.json"))
    mean = result["metrics"].get("iou_per_image_mean")
    title = f"{result['images']:,} images, {result['ok']:,} ok, {result['failed']:,} failed"
    title += "" if mean is None else f", mean IoU {mean:.3f}"
    write(draw, (MARGIN, 20), title, _WIDTH - 500, size=20)
    left = _WIDTH - MARGIN
    for name, color in (("truth", _TRUTH), ("box", _BOX), ("mask", _MASK)):
        left -= int(font(15).getlength(name))
        draw.text((left, 25), name, TEXT, font(15))
        left -= 34
        draw.rectangle((left, 30, left + 26, 36), RIM)
        draw.rectangle((left + 1, 32, left + 25, 34), color)
        left -= 22
    names = ["image", *(f"eigenvector v{i + 1}" for i in range(VECTORS)), "mask"]
    for column, name in enumerate(names):
        write(draw, (_left(column), 72), name, THUMBNAIL, size=15)
    draw.line((MARGIN, 94, _WIDTH - MARGIN, 94), RULE)
    return strip


def _strip(entry: Entry) -> Image.Image:
    """One row of the sheet."""
    row = entry.row
    size = _thumbnail_size(entry)
    strip = Image.new("RGB", (_WIDTH, size[1] + 2 * LINE + 26), "white")
    draw = ImageDraw.Draw(strip)
    picture = Image.new("RGB", size, EMPTY)
    if entry.rgb is not None:
        picture = Image.fromarray(entry.rgb).resize(size, Image.Resampling.LANCZOS)
    strip.paste(picture, (_left(0), 0))
    if entry.rgb is None:
        write(draw, (_left(0) + 10, size[1] // 2 - 10), "no picture", size[0] - 20, MUTED)
    below = size[1] + 6
    write(draw, (_left(0), below), row["image_id"], THUMBNAIL)
    if row["status"] != "ok":
        write_lines(draw, (_left(1), 0), f"failed: {row['error']}", _WIDTH - MARGIN - _left(1), size[1])
        return strip
    write(draw, (_left(0), below + LINE), row["error"] or f"{row['width']} x {row['height']} pixels", THUMBNAIL, MUTED)
    values = row["eigenvalues"] or []
    for i in range(1, VECTORS + 1):
        if entry.vectors is None or i >= len(entry.vectors):
            draw.rectangle((_left(i), 0, _left(i) + size[0] - 1, size[1] - 1), EMPTY)
            write(draw, (_left(i), below), "not stored" if entry.vectors is None else "no such", THUMBNAIL, MUTED)
            continue
        strip.paste(vector_picture(entry.vectors[i], size, entry.covered), (_left(i), 0))
        if i < len(values):
            write(draw, (_left(i), below), f"eigenvalue {values[i]:.3f}", THUMBNAIL, MUTED)
    last = VECTORS + 1
    strip.paste(overlay(picture, entry), (_left(last), 0))
    scores = [] if row["iou"] is None else [f"IoU {row['iou']:.2f}"]
    scores += [] if row["confidence"] is None else [f"confidence {row['confidence']:.2f}"]
    write(draw, (_left(last), below), ", ".join(scores), THUMBNAIL)
    faults = ["degenerate"] if row["degenerate"] else []
    faults += ["truth not usable"] if row["truth_error"] else []
    write(draw, (_left(last), below + LINE), ", ".join(faults), THUMBNAIL, FAULT)
    return strip


def _left(column: int) -> int:
    return MARGIN + column * (THUMBNAIL + GAP)


def _thumbnail_size(entry: Entry) -> tuple[int, int]:
    """(width, height) in pixels with the longer side `THUMBNAIL`; failed images get a third of it in height."""
    if entry.rgb is not None:
        height, width = entry.rgb.shape[:2]
    elif entry.row["width"] is not None:
        height, width = entry.row["height"], entry.row["width"]
    else:
        height, width = 1, 3
    scale = min(THUMBNAIL / width, (THUMBNAIL if entry.row["status"] == "ok" else THUMBNAIL // 3) / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def vector_picture(vector: NDArray[np.float32], size: tuple[int, int], covered: tuple[float, float]) -> Image.Image:
    """An eigenvector as colours, zero in the middle; what lies under no whole patch continues the nearest one."""
    width, height = max(1, round(size[0] * covered[1])), max(1, round(size[1] * covered[0]))
    scaled = Image.fromarray(vector).resize((width, height), Image.Resampling.BICUBIC)
    padded = np.pad(np.asarray(scaled), ((0, size[1] - height), (0, size[0] - width)), mode="edge")
    # A few extreme patches must not wash out the rest.
    limit = max(float(np.quantile(np.abs(vector), 0.98)), 1e-12)
    position = (np.clip(padded / limit, -1, 1) + 1) / 2
    steps = np.linspace(0, 1, len(_DIVERGING))
    colors = np.stack([np.interp(position, steps, channel) for channel in _DIVERGING.T], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8))


def overlay(picture: Image.Image, entry: Entry) -> Image.Image:
    """The picture with the mask tinted and outlined, the rest in pale grey, the truth's outline and the box."""
    from pycocotools import mask as coco

    size, encoded = picture.size, entry.row["mask_rle"]
    runs = {"size": encoded["size"], "counts": encoded["counts"].encode()}
    mask = _shrunk(coco.decode(runs).astype(bool), size)
    pale = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", size, "white"), 0.35)
    tinted = Image.blend(picture, Image.new("RGB", size, _MASK), 0.4)
    shown = Image.composite(tinted, pale, mask)
    _outline(shown, mask, _MASK)
    if entry.truth is not None:
        _outline(shown, _shrunk(entry.truth, size), _TRUTH)
    if entry.row["bbox_xyxy"] is not None:
        across, down = size[0] / entry.row["width"], size[1] / entry.row["height"]
        left, top, right, bottom = entry.row["bbox_xyxy"]
        corners = [round(left * across), round(top * down), round(right * across) - 1, round(bottom * down) - 1]
        corners[2:] = [max(corners[0], corners[2]), max(corners[1], corners[3])]
        draw = ImageDraw.Draw(shown)
        draw.rectangle(corners, outline=RIM, width=3)
        if corners[2] - corners[0] > 2 and corners[3] - corners[1] > 2:
            draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=_BOX)
    return shown


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def _outline(picture: Image.Image, mask: Image.Image, color: Color) -> None:
    """Draw a line two pixels wide along the inner side of the mask's edge, with a dark rim outside."""
    picture.paste(RIM, mask=ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask))
    picture.paste(color, mask=ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(5))))
