"""One picture of a run: images, first eigenvectors and masks side by side, spread evenly over the collection."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from simsam_batch import images
from simsam_batch.errors import ImageError, RunError, SettingsError
from simsam_batch.storage import Folder

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from simsam_batch.runs.plan import Plan

THUMBNAIL = 240
MOST_IMAGES = 200
VECTORS = 3
_GAP, _MARGIN, _LINE = 14, 24, 20
_WIDTH = 2 * _MARGIN + (VECTORS + 2) * THUMBNAIL + (VECTORS + 1) * _GAP
_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "grid_h", "grid_w", "patch", "mask_rle"]
_COLUMNS += ["bbox_xyxy", "eigenvalues", "confidence", "degenerate", "iou", "truth_error"]
_COLUMNS += ["arrays_path", "arrays_member"]

Color = tuple[int, int, int]
_TEXT, _MUTED, _FAULT, _EMPTY = (31, 35, 40), (89, 99, 110), (176, 32, 24), (236, 238, 240)
# Two hues of Okabe and Ito's palette, which every kind of colour vision tells apart; lines get a dark rim.
_MASK, _TRUTH, _BOX, _RIM = (0, 140, 220), (245, 225, 40), (255, 255, 255), (20, 20, 20)
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

    folder = Folder(out)
    plan = load_plan(folder)
    rows = [_strip(_load(folder, plan, number, row, about)) for number, row, about in _sample(folder, stage, count)]
    strips = [_header(folder, stage), *rows]
    sheet = Image.new("RGB", (_WIDTH, sum(strip.height for strip in strips) + _MARGIN), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    target = io.BytesIO()
    sheet.save(target, "PNG", dpi=(144, 144))
    return target.getvalue()


# --- reading a sample of the results ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
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


def _sample(folder: Folder, stage: str, count: int) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Rows with their position in the run and the run's settings; reads the row groups that hold them."""
    import pyarrow.parquet as pq

    names = [info.name for info in folder.list(f"results/{stage}") if info.name.endswith(".parquet")]
    total = 0
    for name in names:
        with folder.open(name) as file:
            total += pq.ParquetFile(file).metadata.num_rows
    if not total:
        raise SettingsError(f"{folder.url} holds no results of {stage!r}. To mend it: run 'simsam {stage}' to its end")
    wanted = sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))
    start = 0
    for name in names:
        with folder.open(name) as file:
            part = pq.ParquetFile(file)
            yield from _rows_of(part, start, wanted)
            start += part.metadata.num_rows


def _rows_of(
    part: pq.ParquetFile, start: int, wanted: list[int]
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    about = json.loads((part.schema_arrow.metadata or {}).get(b"settings", b"{}"))
    columns = [name for name in _COLUMNS if name in part.schema_arrow.names]
    for group in range(part.num_row_groups):
        rows = part.metadata.row_group(group).num_rows
        inside = [number for number in wanted if start <= number < start + rows]
        if inside:
            table = part.read_row_group(group, columns=columns).take([number - start for number in inside])
            for number, row in zip(inside, table.to_pylist(), strict=True):
                yield number, dict.fromkeys(_COLUMNS) | row, about
        start += rows


def _load(folder: Folder, plan: Plan | None, number: int, row: dict[str, Any], about: dict[str, Any]) -> _Entry:
    names = ("max_bytes", "max_pixels", "decode_seconds")
    limits = images.ImageLimits(**{key: about[key] for key in names if key in about})
    rgb = truth = vectors = None
    covered = (1.0, 1.0)
    try:
        rgb = images.decode(images.fetch(row["uri"], limits), limits).rgb
    except ImageError:
        if row["status"] == "ok":
            row["error"] = "the image cannot be read any more"
    if row["status"] == "ok":
        size = row["height"], row["width"]
        if plan is not None:
            record = plan.shard(number // plan.shard_size).records.slice(number % plan.shard_size, 1).to_pylist()[0]
            if record["truth_uri"] is not None and row["truth_error"] is None:
                truth = _truth(record["truth_uri"], limits, size, row)
        working = images.working_size(size, images.parse_resize(about["resize"])) if "resize" in about else size
        covered = (
            min(1.0, row["grid_h"] * row["patch"] / working[0]),
            min(1.0, row["grid_w"] * row["patch"] / working[1]),
        )
        vectors = _eigenvectors(folder, row)
    return _Entry(row, rgb, truth, vectors, covered)


def _truth(
    uri: str, limits: images.ImageLimits, size: tuple[int, int], row: dict[str, Any]
) -> NDArray[np.bool_] | None:
    try:
        return images.load_truth(uri, limits, size)
    except images.TruthError as error:
        row["truth_error"] = str(error)
        return None


def _eigenvectors(folder: Folder, row: dict[str, Any]) -> NDArray[np.float32] | None:
    if row["arrays_path"] is None:
        return None
    try:
        with folder.open(row["arrays_path"]) as file, np.load(file, allow_pickle=False) as arrays:
            held = np.asarray(arrays[f"{row['arrays_member']}.eigenvectors"], np.float32)
            return held.reshape(-1, row["grid_h"], row["grid_w"])
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{folder.url}/{row['arrays_path']}: the eigenvectors of {row['image_id']!r} cannot be read: {error}. "
            "To mend it: restore the file"
        ) from error


# --- drawing ----------------------------------------------------------------------------------------------------------


def _header(folder: Folder, stage: str) -> Image.Image:
    """Title, legend and the names of the columns."""
    strip = Image.new("RGB", (_WIDTH, 104), "white")
    draw = ImageDraw.Draw(strip)
    result = json.loads(folder.read(f"results/{stage}.json"))
    mean = result["metrics"].get("iou_per_image_mean")
    title = f"{result['images']:,} images, {result['ok']:,} ok, {result['failed']:,} failed"
    title += "" if mean is None else f", mean IoU {mean:.3f}"
    _write(draw, (_MARGIN, 20), title, _WIDTH - 500, size=20)
    left = _WIDTH - _MARGIN
    for name, color in (("truth", _TRUTH), ("box", _BOX), ("mask", _MASK)):
        left -= int(_font(15).getlength(name))
        draw.text((left, 25), name, _TEXT, _font(15))
        left -= 34
        draw.rectangle((left, 30, left + 26, 36), _RIM)
        draw.rectangle((left + 1, 32, left + 25, 34), color)
        left -= 22
    names = ["image", *(f"eigenvector v{i + 1}" for i in range(VECTORS)), "mask"]
    for column, name in enumerate(names):
        _write(draw, (_left(column), 72), name, THUMBNAIL, size=15)
    draw.line((_MARGIN, 94, _WIDTH - _MARGIN, 94), (208, 213, 218))
    return strip


def _strip(entry: _Entry) -> Image.Image:
    """One row of the sheet."""
    row = entry.row
    size = _thumbnail_size(entry)
    strip = Image.new("RGB", (_WIDTH, size[1] + 2 * _LINE + 26), "white")
    draw = ImageDraw.Draw(strip)
    picture = Image.new("RGB", size, _EMPTY)
    if entry.rgb is not None:
        picture = Image.fromarray(entry.rgb).resize(size, Image.Resampling.LANCZOS)
    strip.paste(picture, (_left(0), 0))
    if entry.rgb is None:
        _write(draw, (_left(0) + 10, size[1] // 2 - 10), "no picture", size[0] - 20, _MUTED)
    below = size[1] + 6
    _write(draw, (_left(0), below), row["image_id"], THUMBNAIL)
    if row["status"] != "ok":
        _write_lines(draw, (_left(1), 0), f"failed: {row['error']}", _WIDTH - _MARGIN - _left(1), size[1])
        return strip
    _write(
        draw, (_left(0), below + _LINE), row["error"] or f"{row['width']} x {row['height']} pixels", THUMBNAIL, _MUTED
    )
    values = row["eigenvalues"] or []
    for i in range(1, VECTORS + 1):
        if entry.vectors is None or i >= len(entry.vectors):
            draw.rectangle((_left(i), 0, _left(i) + size[0] - 1, size[1] - 1), _EMPTY)
            _write(draw, (_left(i), below), "not stored" if entry.vectors is None else "no such", THUMBNAIL, _MUTED)
            continue
        strip.paste(_map(entry.vectors[i], size, entry.covered), (_left(i), 0))
        if i < len(values):
            _write(draw, (_left(i), below), f"eigenvalue {values[i]:.3f}", THUMBNAIL, _MUTED)
    last = VECTORS + 1
    strip.paste(_overlay(picture, entry), (_left(last), 0))
    scores = [] if row["iou"] is None else [f"IoU {row['iou']:.2f}"]
    scores += [] if row["confidence"] is None else [f"confidence {row['confidence']:.2f}"]
    _write(draw, (_left(last), below), ", ".join(scores), THUMBNAIL)
    faults = ["degenerate"] if row["degenerate"] else []
    faults += ["truth not usable"] if row["truth_error"] else []
    _write(draw, (_left(last), below + _LINE), ", ".join(faults), THUMBNAIL, _FAULT)
    return strip


def _left(column: int) -> int:
    return _MARGIN + column * (THUMBNAIL + _GAP)


def _thumbnail_size(entry: _Entry) -> tuple[int, int]:
    """(width, height) in pixels with the longer side `THUMBNAIL`; failed images get a third of it in height."""
    if entry.rgb is not None:
        height, width = entry.rgb.shape[:2]
    elif entry.row["width"] is not None:
        height, width = entry.row["height"], entry.row["width"]
    else:
        height, width = 1, 3
    scale = min(THUMBNAIL / width, (THUMBNAIL if entry.row["status"] == "ok" else THUMBNAIL // 3) / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _map(vector: NDArray[np.float32], size: tuple[int, int], covered: tuple[float, float]) -> Image.Image:
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


def _overlay(picture: Image.Image, entry: _Entry) -> Image.Image:
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
        draw.rectangle(corners, outline=_RIM, width=3)
        if corners[2] - corners[0] > 2 and corners[3] - corners[1] > 2:
            draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=_BOX)
    return shown


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def _outline(picture: Image.Image, mask: Image.Image, color: Color) -> None:
    """Draw a line two pixels wide along the inner side of the mask's edge, with a dark rim outside."""
    picture.paste(_RIM, mask=ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask))
    picture.paste(color, mask=ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(5))))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101  Pillow gives this kind whenever a size is asked for
    return font


def _write(
    draw: ImageDraw.ImageDraw, where: tuple[int, int], text: str, width: int, color: Color = _TEXT, size: int = 15
) -> None:
    """Write one line; what does not fit loses its middle, so that the file's name stays."""
    text, font = _printable(text), _font(size)
    kept = len(text)
    shown = text
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (kept - kept // 2) :]}"
    draw.text(where, shown, color, font)


def _write_lines(draw: ImageDraw.ImageDraw, where: tuple[int, int], text: str, width: int, height: int) -> None:
    """Write words over as many lines as fit."""
    font, lines = _font(15), [""]
    for word in _printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    most = max(1, height // _LINE)
    if len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    for i, line in enumerate(lines):
        _write(draw, (where[0], where[1] + i * _LINE), line, width, _FAULT)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
