"""IMAGES and OUT the wrong way round, noticed before anything is written."""

from __future__ import annotations

import shlex
from itertools import islice

from simsam_batch.catalog.datasets import DATASETS, PAIR_SETS
from simsam_batch.catalog.folders import has_row, is_file, is_image
from simsam_batch.catalog.named import Images, named_paths, told_paths
from simsam_batch.catalog.paths import pattern_of
from simsam_batch.catalog.records import quoted
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.storage import absolute_url, redact, walk

_PATHS_NAMED = 3
_LOOKED_AT = 1000
"""So many files of OUT are looked at: one page of a listing of S3."""


def require_right_way_round(images: Images, out: str, command: str) -> None:
    """Refuse an OUT that is no run yet and has images, where these were meant to be IMAGES or would be written among.

    Args:
        images: as given.
        out: likewise.
        command: the command line up to IMAGES, for the message.

    Raises:
        SettingsError: OUT is an image, or has images directly in it, or it has images and IMAGES has none.
    """
    paths = named_paths(images)
    where, given = redact(absolute_url(out)), told_paths(paths)
    words = " ".join(shlex.quote(redact(path)) for path in paths[:_PATHS_NAMED]) + " ..." * (len(paths) > _PATHS_NAMED)
    if has_row(out) and is_file(out):
        raise SettingsError(
            f"OUT: {where} is an image file; OUT is the folder for the results, and the last that is named. "
            f"To mend it: {command} {words} {shlex.quote(redact(out))} OUT"
        )
    held = _images_in(out)
    if not held:
        return
    turned = f"{command} {shlex.quote(redact(out))} {words}"
    if len(paths) == 1 and (why := _without_images(paths[0])):
        raise SettingsError(
            f"IMAGES and OUT seem to be swapped: OUT, {where}, has images in it, such as {quoted(held[:1])}, and "
            f"IMAGES, {given}, {why}. Nothing is written. To mend it: {turned}"
        )
    if direct := [name for name in held if "/" not in name]:
        swapped = f"; or, if IMAGES and OUT are swapped: {turned}" * (len(paths) == 1)
        raise SettingsError(
            f"OUT: {where} has images in it, such as {quoted(direct[:1])}, and what the run writes would be among "
            f"them. To mend it: name another folder as the last{swapped}"
        )


def _images_in(out: str) -> list[str]:
    """Names of images among the first files below OUT; none where it cannot be listed, which is said later."""
    try:
        return [info.name for _, info in islice(walk(out), _LOOKED_AT) if is_image(info.name)]
    except StorageError:
        return []


def _without_images(images: str) -> str | None:
    """Why IMAGES cannot be what a run is about; None where it can."""
    named = images.partition(":")[0].lower() in {*DATASETS, *PAIR_SETS}
    if named or is_file(images) or pattern_of(images) is not None:
        return None
    if is_file(f"{absolute_url(images)}/run.json"):
        return "is the OUT of a run"
    try:
        names = [info.name for _, info in walk(images)]
    except StorageError:
        return "is not there"
    if any(has_row(name) or name.lower().endswith(".parquet") for name in names):
        return None
    return "has no image in it" if names else "is empty"
