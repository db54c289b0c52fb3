"""Photographs as small JPEGs, with what a stage found drawn over them; never another image than the one judged."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from anyio import from_thread
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch import __version__, images
from simsam_batch.drawing.cut_out import around, picked_out
from simsam_batch.drawing.labels import UNNAMED, painted
from simsam_batch.drawing.overlays import Entry, Window, overlay, pale
from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.drawing.tree_levels import draw_level, nodes_at
from simsam_batch.errors import ImageError
from simsam_batch.regions.pixel_index import nearest
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.label_maps import WITHOUT_MAP
from simsam_batch.results.photographs import limits_of, profile_of
from simsam_batch.results.restyled import restyled
from simsam_batch.results.trees import RegionTree
from simsam_batch.storage import ObjectNotFound, read_url
from simsam_batch.viewer.answers import RefusedError, one_of, text, whole, whole_of
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.maps import colors_for, good_row, reader_of, segments_map
from simsam_batch.viewer.payload import file_of
from simsam_batch.viewer.session import OpenedStage, Session

SIDES = (128, 256, 640, 1280, 2048)
"""Pixels that the longer side of a picture may have at most."""

OVERLAYS = ("none", "mask", "labels", "tree", "styled")

CUT_OUT = (4, 3)
"""Proportions of a region that is cut out: width to height."""

_OUTLINE = (200, 30, 90)
_REDUCTIONS = (8, 4, 2)
_QUALITY = 85
_JPEGS_BYTES, _PHOTOGRAPHS_BYTES = 32 * 2**20, 48 * 2**20
_DEPTH = 3
_FOR_EVER = "private, max-age=31536000, immutable"

_DECODERS = threading.BoundedSemaphore(4)
# By the hash of the bytes that they were decoded from, so that none can be taken for another.
_PHOTOGRAPHS: Kept[Image.Image] = Kept(_PHOTOGRAPHS_BYTES, lambda picture: picture.width * picture.height * 3)


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``images/{row}.jpg``: an image, a part of it by ``box``, or one ``region`` of it cut out."""

    def picture(request: Request) -> Response:
        which = one_of(request, "run", ("a", "b"), "a")
        run = session.run(which)
        stage = run.stage(text(request, "stage", most=100) or next(iter(run.of_images), ""))
        row = whole_of(request.path_params["row"], "row")
        side = whole_of(one_of(request, "side", [str(each) for each in SIDES], "256"), "side")
        over = one_of(request, "overlay", OVERLAYS, "none")
        depth = whole(request, "depth", _DEPTH, 0, 1000) if over == "tree" else 0
        which_picture = whole(request, "of", 0, 0, 1000) if over == "styled" else 0
        box = _box(text(request, "box", most=60))
        kept: Kept[bytes] = session.once("pictures", lambda: Kept(_JPEGS_BYTES, len))
        region = whole(request, "region", 0) if text(request, "region", most=10) else None
        # what a retry has replaced is of another version
        key = (which, stage.name, version_of(stage, row), row, side, over, depth, which_picture, box, region)
        if gone(request):
            raise RefusedError(499, "nobody waits for this picture any more")

        def made() -> bytes:
            if region is not None:
                return _jpeg(cut(stage, row, side, region))
            if over == "styled":
                return _jpeg(styled(stage, row, side, box, which_picture))
            return _jpeg(drawn(stage, row, side, box, over, depth))

        body = kept.get(key, made)
        keep = _FOR_EVER if text(request, "v", most=200) else "no-store"
        return Response(body, 200, {"Cache-Control": keep}, "image/jpeg")

    return [("GET", "images/{row}.jpg", picture)]


def version_of(stage: OpenedStage, row: int) -> str:
    """What stands in the address of a row's pictures, so that browsers may keep them; empty where they may not.

    It goes by what the stage has committed for the row and by what was read as its image; nothing is read for it.
    """
    try:
        read = reader_of(stage)
    except RefusedError:
        return ""
    versions = dict.fromkeys(each.version(row) for each in (stage, read))
    return "" if "" in versions else ".".join((__version__, *versions))


def gone(request: Request) -> bool:
    """Whether the browser has gone on: of many pictures that wait for a turn, those are left out."""
    try:
        return from_thread.run(request.is_disconnected)
    except RuntimeError:
        # not called by the server, in one of its threads
        return False


def photograph(stage: OpenedStage, row: int, side: int, box: Window | None = None) -> Image.Image:
    """The image of a row, or a part of it, upright, its longer side at most ``side`` pixels; never larger than it is.

    Args:
        stage: any whose rows are images.
        row: the number of its row.
        side: in pixels.
        box: the part, in pixels of the image; None for all of it.

    Raises:
        RefusedError: 400: a box that is not within the image; 404: there is no such row, or no image any more; 409: the
            image failed, or has other bytes now.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    reader = reader_of(stage)
    found = good_row(reader, row)
    return _part(found, side, box, lambda scale: _reduced(found, reader.rows.settings_of_reading, scale))


def styled(stage: OpenedStage, row: int, side: int, box: Window | None = None, which: int = 0) -> Image.Image:
    """A restyled picture of a row, or a part of it, likewise; it is read from the run, whatever became of the image.

    Args:
        stage: one that restyles.
        row: the number of its row.
        side: in pixels.
        box: the part; None for all of it.
        which: of several pictures of the image, from 0.

    Raises:
        RefusedError: as `photograph`; 404: there is no such picture; 409: it is none, or not of the image's size.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    found = good_row(stage, row)
    pictures = restyled(found["styles"]) if stage.kind == "restyled" else []
    if which >= len(pictures):
        raise RefusedError(404, f"{stage.name} has {len(pictures)} restyled pictures of image {row}, from 0")
    window = _window(found, box)
    data = file_of(stage, row, pictures[which].name)
    key = (sha256(data).hexdigest(), "restyled", 1)
    try:
        whole_picture = _PHOTOGRAPHS.get(key, lambda: _decoded(data, found, {}, 1))
    except RefusedError as error:
        raise RefusedError(409, f"the {pictures[which].name} of image {row} cannot be decoded") from error
    if whole_picture.size != (found["width"], found["height"]):
        raise RefusedError(409, f"the {pictures[which].name} of image {row} has another size than the image")
    return _part(found, side, window, lambda _: whole_picture)


def _part(
    found: Mapping[str, Any], side: int, box: Window | None, picture_at: Callable[[float], Image.Image]
) -> Image.Image:
    """A part of a picture, its longer side at most ``side`` pixels, of one that has a scale at least."""
    left, top, right, bottom = window = _window(found, box)
    scale = min(1.0, side / max(right - left, bottom - top))
    whole_image = picture_at(scale)
    across, down = whole_image.width / found["width"], whole_image.height / found["height"]
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    part = (left * across, top * down, right * across, bottom * down)
    if size == whole_image.size and window == _window(found, None):
        return whole_image.copy()
    return whole_image.resize(size, Image.Resampling.LANCZOS, part, reducing_gap=2.0)


def photograph_of(read: Mapping[str, Any], settings: Mapping[str, Any], side: int) -> Image.Image:
    """Likewise an image of a pair.

    Args:
        read: ``uri``, ``content_sha256``, ``width`` and ``height`` of the image as the run has read it.
        settings: of the stage that read it.
        side: in pixels.
    """
    scale = min(1.0, side / max(read["width"], read["height"]))
    size = max(1, round(read["width"] * scale)), max(1, round(read["height"] * scale))
    found = _reduced(read, settings, scale)
    return found.copy() if size == found.size else found.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def drawn(
    stage: OpenedStage, row: int, side: int, box: Window | None = None, over: str = "none", depth: int = _DEPTH
) -> Image.Image:
    """Likewise with what the stage found drawn over it, pale where it has no map of this image; raises likewise.

    Args:
        stage: which.
        row: the number of its row.
        side: in pixels.
        box: the part; None for all of it.
        over: one of `OVERLAYS`.
        depth: at which a tree is cut.

    Raises:
        RefusedError: 404: the stage has nothing of this kind.
    """
    picture = photograph(stage, row, side, box)
    if over == "none":
        return picture
    found = good_row(stage, row)
    left, top, right, bottom = window = _window(good_row(reader_of(stage), row), box)
    part = np.s_[top:bottom, left:right]
    if over == "mask" and stage.kind == "objects":
        return overlay(picture, Entry(found, None), window)
    if over == "labels" and (segments := segments_of(stage, found)) is not None:
        # 0 is nothing where labels are clusters, and a class as any other where they are classes
        first = 1 if stage.what is not None and stage.what.classes else 0
        labels = segments_map(found, segments) + np.int32(first)
        colors = {label + first: color for label, color in colors_for(stage, labels - np.int32(first)).items()}
        return painted(picture, labels[part], colors)
    if over == "tree" and stage.kind == "trees":
        tree = RegionTree(found, stage.rows.settings)
        size = picture.height, picture.width
        owners = (
            tree.owners(size) if box is None else nearest(tree.owners((found["height"], found["width"]))[part], size)
        )
        at, trunk = (np.append(nodes_at(tree, each), np.int32(-1))[owners] for each in (depth, min(depth, 1)))
        return draw_level(picture, at, trunk, tree_colors(tree.children))
    if found["status"] == WITHOUT_MAP:
        return pale(picture)
    raise RefusedError(404, f"{stage.name} has nothing to draw as {over} over image {row}")


def cut(stage: OpenedStage, row: int, side: int, region: int) -> Image.Image:
    """One region of an image, cut out: in the photograph's colours, what is around it pale and grey.

    Args:
        stage: of label maps or trees.
        row: the number of its row.
        side: width in pixels at most; the proportions are those of `CUT_OUT` as far as the image allows.
        region: its place in the list of the row: a segment, or a node.

    Raises:
        RefusedError: as `drawn`; 404: there is no such region, or it has no pixels.
    """
    found = good_row(stage, row)
    regions = found["nodes"] if stage.kind == "trees" else segments_of(stage, found)
    if regions is None or region >= len(regions):
        raise RefusedError(404, f"{stage.name} has no region {region} in image {row}")
    tight = tuple(regions[region]["bbox_xyxy"])
    if not (tight[0] < tight[2] and tight[1] < tight[3]):
        raise RefusedError(404, f"region {region} of image {row} has no pixels")
    left, top, right, bottom = box = around(tight, (found["width"], found["height"]), CUT_OUT)
    picture = photograph(stage, row, side, box)
    if stage.kind == "trees":
        tree = RegionTree(found, stage.rows.settings)
        owners = tree.owners((found["height"], found["width"]))[top:bottom, left:right]
        return picked_out(picture, (owners >= region) & (owners < tree.end[region]), _OUTLINE, 0)
    label = regions[region]["label"]
    color = colors_for(stage, np.array([label], np.int32)).get(label, UNNAMED)
    return picked_out(picture, decode(regions[region]["mask_rle"])[top:bottom, left:right], color, 0)


def segments_of(stage: OpenedStage, row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The labelled segments of a row; None where it has none: the stage makes no such, or not of this image."""
    name = "segments" if stage.kind == "labels" else "regions"
    found: list[dict[str, Any]] | None = row.get(name) if stage.kind in ("labels", "objects") else None
    return found


def _reduced(row: Mapping[str, Any], settings: Mapping[str, Any], scale: float) -> Image.Image:
    """The whole photograph at no less than a scale; JPEGs are decoded no larger than that asks for."""
    reduction = next((each for each in _REDUCTIONS if scale * each <= 1), 1)
    profile = profile_of(settings)
    key = (row["content_sha256"], profile, reduction)
    return _PHOTOGRAPHS.get(key, lambda: _decoded(_bytes_of(row, settings), row, settings, reduction))


def _bytes_of(row: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
    """The file of a row, which is the one that the run has read: only what was decoded once is decoded again."""
    most = max(limits_of(settings).max_bytes, images.ImageLimits().max_bytes)
    try:
        data = read_url(row["uri"], most)
    except ObjectNotFound as error:
        raise RefusedError(404, "the image is not where the run has read it any more") from error
    if sha256(data).hexdigest() != row["content_sha256"]:
        raise RefusedError(409, "the image is another one than the run has read: its file has changed since")
    return data


def _decoded(data: bytes, row: Mapping[str, Any], settings: Mapping[str, Any], reduction: int) -> Image.Image:
    limits, profile = limits_of(settings, row), profile_of(settings)

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        return max(1, size[0] // reduction), max(1, size[1] // reduction)

    with _DECODERS:
        try:
            decoded = images.decode(data, limits, profile, enough=enough)
        except ImageError as error:
            raise RefusedError(409, f"the image cannot be decoded again: {error}") from error
        return decoded.picture.reduce(reduction // decoded.reduction)


def _box(given: str) -> Window | None:
    if not given:
        return None
    parts = given.split(",")
    if len(parts) != 4:
        raise RefusedError(400, "box: give left, top, right and bottom in pixels, with commas between")
    left, top, right, bottom = (whole_of(part, "box") for part in parts)
    return left, top, right, bottom


def _window(row: Mapping[str, Any], box: Window | None) -> Window:
    width, height = row["width"], row["height"]
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = box
    if not (left < right <= width and top < bottom <= height):
        raise RefusedError(400, f"box: give a part of the image, which has {width} x {height} pixels")
    return box


def _jpeg(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_QUALITY)
    return target.getvalue()
