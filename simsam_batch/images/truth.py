"""Truth masks and label maps from image files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from simsam_batch.errors import ImageError, SimsamError
from simsam_batch.images.decode import ImageLimits, fetch, opened, orientation_of, oriented
from simsam_batch.images.grey import deep_values, is_deep
from simsam_batch.storage import redact

_FULL_SCALES = (1, 255, 65535)
_VOC_BORDER = 255


class TruthError(SimsamError):
    """A truth mask that cannot be used; the image itself is not at fault.

    Attributes:
        kind: short stable name of the cause: ``unreadable``, ``other_size``, ``not_a_mask`` or ``not_labels``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


def load_truth(uri: str, limits: ImageLimits, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The truth of one image as booleans, True on the object.

    The first channel counts, and is object over one half of full scale (evaluation of Deep Spectral Methods). The
    other rules are this project's. Full scale is the smallest of 1, 255 and 65535 that the values fit, so that a 0/1
    mask does not read as empty. Palettes of greys are read as grey; in other palettes the index counts, and must be 0
    with 1 or 255. Values of neither form (a label map) are refused. An EXIF orientation is applied.

    Args:
        uri: of an image file, read like any image.
        limits: as for images.
        size: (height, width) that the mask must have: the image's own, after its orientation.

    Returns:
        ``size`` booleans.

    Raises:
        TruthError: not found, not readable, of another size, or not a mask of two values.
        StorageError: the storage did not answer; the read may be repeated.
    """
    return _foreground(*_read(uri, limits, size, first_channel), uri)


def central_square(size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the largest square in the middle of an image; an odd remainder is larger at the end.

    Deep Spectral Methods scores CUB-200-2011 on it alone.

    Args:
        size: (height, width).
    """
    side = min(size)
    top, left = ((length - side) // 2 for length in size)
    return slice(top, top + side), slice(left, left + side)


def load_labels(
    uri: str, limits: ImageLimits, size: tuple[int, int], *, classes: int, ignore: int | None
) -> NDArray[np.integer[Any]]:
    """The truth of one image as class ids: palette indices, or grey values as they are stored.

    Args:
        uri: of an image file, read like any image.
        limits: as for images.
        size: (height, width) that the map must have: the image's own, after its orientation.
        classes: ids must be below this.
        ignore: an id that is allowed besides, for pixels that do not count.

    Returns:
        ``size`` ids, in the dtype of the file.

    Raises:
        TruthError: not found, not readable, of another size, in colours, or with an id out of range.
        StorageError: the storage did not answer; the read may be repeated.
    """
    values, form = _read(uri, limits, size, class_ids)
    present = np.flatnonzero(np.bincount(values.ravel())) if values.itemsize == 1 else np.unique(values)
    wrong = present[((present < 0) | (present >= classes)) & (present != (-1 if ignore is None else ignore))]
    if wrong.size:
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if wrong.size > 5 else "")
        raise TruthError(
            "not_labels",
            f"truth {redact(uri)}: its {form} hold {shown}, and class ids run from 0 to {classes - 1}. "
            "To mend it: name more classes, or the id of pixels that do not count with --ignore-label",
        )
    return values


def load_instances(
    uri: str, limits: ImageLimits, size: tuple[int, int], *, ignore: int | None
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """The true objects of one image: the number of the object at every pixel, and which pixels do not count.

    A file with a palette of colours holds numbers of objects, 0 for none, and of them 255 does not count, as in PASCAL
    VOC's ``SegmentationObject``. A grey one whose highest value is 0, 1, 255 or 65535 is a mask of one object, as
    `load_truth` reads it; any other holds numbers. The rule is this project's.

    Args:
        uri: of an image file, read like any image.
        limits: as for images.
        size: (height, width) that it must have: the image's own, after its orientation.
        ignore: the number of pixels that do not count; with it, a file holds numbers whatever its values are.

    Returns:
        ``size`` numbers, 0 for none, and ``size`` booleans, True where a pixel does not count; these are of no object.

    Raises:
        TruthError: not found, not readable, of another size, or in colours.
        StorageError: the storage did not answer; the read may be repeated.
    """
    values, form = _read(uri, limits, size, _object_numbers)
    if ignore is None and form == "palette indices":
        ignore = _VOC_BORDER
    elif ignore is None and int(values.max()) in (0, *_FULL_SCALES):
        return _foreground(values, form, uri).astype(np.uint8), np.zeros(size, dtype=np.bool_)
    void = values == (-1 if ignore is None else ignore)
    return np.where(void, 0, values), void


_Reader = Callable[[ImageFile.ImageFile], tuple[NDArray[Any], str]]


def _read(uri: str, limits: ImageLimits, size: tuple[int, int], read: _Reader) -> tuple[NDArray[Any], str]:
    """What ``read`` takes out of a file, upright, of the size asked for; and what it is, in words."""
    try:
        with opened(fetch(uri, limits), limits) as found:
            values, form = read(found.image)
            values = oriented(values, orientation_of(found.image))
    except ImageError as error:
        raise TruthError("unreadable", f"truth {redact(uri)}: {error}") from error
    if values.shape != size:
        raise TruthError(
            "other_size",
            f"truth {redact(uri)}: it is {values.shape[1]}x{values.shape[0]} pixels (width x height), its image "
            f"{size[1]}x{size[0]}. To mend it: give truth of the image's own size",
        )
    return values, form


def class_ids(image: ImageFile.ImageFile) -> tuple[NDArray[Any], str]:
    """Class ids ``(H, W)``: never colours, of which several could mean the same."""
    if image.mode in ("P", "PA"):
        return np.asarray(image if image.mode == "P" else image.getchannel("P")), "palette indices"
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8), "grey values"
    if image.mode == "L" or image.mode.startswith("I"):
        return deep_values(image) if is_deep(image) else np.asarray(image), "grey values"
    channels = np.asarray(image.convert("RGB"))
    if image.mode in ("RGB", "RGBA", "LA") and (channels == channels[:, :, :1]).all():
        return channels[:, :, 0], "grey values"
    raise ImageError(
        "unsupported", f"it has colours (mode {image.mode}), and class ids are grey values or palette indices", "decode"
    )


def first_channel(image: ImageFile.ImageFile) -> tuple[NDArray[Any], str]:
    """Values ``(H, W)`` that say what is object, and what they are, for messages."""
    if image.mode in ("P", "PA"):
        indices = np.asarray(image if image.mode == "P" else image.getchannel("P"))
        colours = np.zeros((256, 3), np.uint8)
        stored = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        colours[: len(stored)] = stored
        used = colours[np.unique(indices)]
        if (used == used[:, :1]).all():
            return colours[indices, 0], "grey values"
        return indices, "palette indices"
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        values = deep_values(image) if is_deep(image) else np.asarray(image)
        return (values.astype(np.uint8) if image.mode == "1" else values), "grey values"
    rgb = np.asarray(image.convert("LA").convert("RGB") if image.mode == "La" else image.convert("RGB"))
    if not rgb[:, :, 0].any() and rgb.any():
        # the first channel alone would read as an empty mask
        raise ImageError("unsupported", "its first channel is empty and another is not", "decode")
    return rgb[:, :, 0], "values of the first channel"


def _object_numbers(image: ImageFile.ImageFile) -> tuple[NDArray[Any], str]:
    return first_channel(image) if image.mode in ("P", "PA") else class_ids(image)


def _foreground(values: NDArray[Any], form: str, uri: str) -> NDArray[np.bool_]:
    low, high = values.min(), values.max()
    if form == "palette indices":
        full = 255 if high == 255 else 1
        is_mask = bool(np.isin(values, (0, full)).all())
    else:
        full = next((scale for scale in _FULL_SCALES if high <= scale), 0)
        # everything at or below half of full scale, but not zero: a label map, which would read as an empty mask
        is_mask = bool(low >= 0 and full and (high == 0 or high > full / 2))
    if not is_mask:
        raise TruthError(
            "not_a_mask",
            f"truth {redact(uri)}: its {form} run from {low} to {high}, and a mask has 0 and 1 or 0 and 255. "
            "To mend it: write the object as 255 and everything else as 0",
        )
    # whole numbers are compared as what they are: as floats they would all be converted
    return np.asarray(values > full / 2 if values.dtype.kind == "f" else values > full // 2)
