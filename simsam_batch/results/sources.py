"""The files that a run's images were read from, for formats that take the images along."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from simsam_batch import images
from simsam_batch.errors import ImageError
from simsam_batch.images.decode import opened
from simsam_batch.results.photographs import limits_of, profile_of
from simsam_batch.storage import ObjectNotFound, read_ahead, read_url

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 8


@dataclass(frozen=True, slots=True)
class Upright:
    """An image file whose pixels lie as those of the masks do.

    Attributes:
        data: its bytes.
        suffix: ``jpg`` or ``png``.
        as_read: they are those of the file that the run read.
    """

    data: bytes
    suffix: str
    as_read: bool


def file_of(row: Mapping[str, Any]) -> bytes | None:
    """The file that an image was read from; None if it has gone, or is another one by now.

    Args:
        row: of an image that is ``ok``: its file was within the limits that were in force, which the stage's settings
            need not tell, so that it is read whatever its size.

    Raises:
        StorageError: the storage did not answer.
    """
    try:
        data = read_url(row["uri"])
    except ObjectNotFound:
        return None
    known = row.get("content_sha256")
    return data if known in (None, sha256(data).hexdigest()) else None


def decoded_of(
    row: Mapping[str, Any], settings: Mapping[str, Any], enough: images.Enough | None = None
) -> images.Decoded | None:
    """Likewise its pixels, upright; ``enough`` as for `simsam_batch.images.decode`.

    Raises:
        StorageError: the storage did not answer.
    """
    data = file_of(row)
    try:
        return (
            None if data is None else images.decode(data, limits_of(settings, row), profile_of(settings), enough=enough)
        )
    except ImageError:
        return None


def upright(row: Mapping[str, Any], settings: Mapping[str, Any]) -> Upright | None:
    """Likewise as JPEG or PNG, as read; else, or where EXIF turns it, its pixels as PNG.

    Raises:
        StorageError: the storage did not answer.
    """
    data, limits = file_of(row), limits_of(settings, row)
    if data is None:
        return None
    try:
        with opened(data, limits, load=False) as found:
            suffix = {"JPEG": "jpg", "PNG": "png"}.get(found.image.format or "")
        if suffix is not None and found.orientation == 1:
            return Upright(data, suffix, as_read=True)
        target = io.BytesIO()
        images.decode(data, limits, profile_of(settings)).picture.save(target, "PNG")
    except ImageError:
        return None
    return Upright(target.getvalue(), "png", as_read=False)


def side_by_side(items: Iterable[T], make: Callable[[T], R]) -> Generator[R, None, None]:
    """What ``make`` makes of the items, in their order; a few at a time, since most of it is waiting for storage."""
    return read_ahead(items, make, threads=_THREADS, most=2 * _THREADS, name="simsam-export")


def with_files(
    numbered: Iterable[tuple[int, dict[str, Any]]],
) -> Generator[tuple[int, dict[str, Any], bytes | None], None, None]:
    """Rows with their numbers and the files that their images were read from, in order; a few are read ahead.

    Args:
        numbered: from `simsam_batch.results.label_maps.map_rows`.

    Returns:
        None in place of the file where the image failed, or where `file_of` gives none.
    """
    return side_by_side(numbered, lambda item: (*item, file_of(item[1]) if item[1]["status"] == "ok" else None))
