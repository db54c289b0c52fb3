"""One image from its file's bytes to the pixels of its patch grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import ImageError
from simsam_batch.images.decode import Decoded, ImageLimits, decode
from simsam_batch.images.resize import (
    MINIMUM_PATCHES,
    Resize,
    Way,
    check_resize,
    crop_corner,
    crop_to_grid,
    resize_image,
    resized_size,
    working_size,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready for the backbone. All sizes are (height, width) in pixels, after the orientation.

    Attributes:
        rgb: ``(Hp * patch, Wp * patch, 3)`` uint8.
        grid: ``(Hp, Wp)`` patches.
        working_size: after the resize and the crop that it may hold, before the cut to whole patches.
        full_size: the image's own size.
        orientation: EXIF value as found in the file.
        content_sha256: of the file's bytes.
        more_frames: whether the file has further frames, pages or pictures.
    """

    rgb: NDArray[np.uint8]
    grid: tuple[int, int]
    working_size: tuple[int, int]
    full_size: tuple[int, int]
    orientation: int
    content_sha256: str
    more_frames: bool


def prepare(
    data: bytes, *, limits: ImageLimits, resize: Resize, patch: int, max_patches: int | None = None
) -> Prepared:
    """Decode, orient, resize and cut to whole patches; may be called from many threads.

    Args:
        data: the file's bytes.
        limits: on pixels, before and after the resize.
        resize: see `parse_resize`.
        patch: side of a patch in pixels.
        max_patches: largest allowed number of patches of the grid; None for any.

    Raises:
        ImageError: what `decode` raises; ``too_small`` if the image at its own size has fewer than 2x2 patches;
            ``too_large`` if the resized image or its grid is over a limit.
        SettingsError: the resize leaves no image 2x2 patches.
    """
    check_resize(resize, patch)
    return prepare_decoded(decode(data, limits), limits=limits, resize=resize, patch=patch, max_patches=max_patches)


def prepare_decoded(
    decoded: Decoded,
    *,
    limits: ImageLimits,
    resize: Resize,
    patch: int,
    max_patches: int | None = None,
    way: Way = "exact",
) -> Prepared:
    """Do what `prepare` does, from an image that is decoded already; ``way`` as of `resize_image`.

    Raises:
        ImageError: ``too_small`` or ``too_large``, as `prepare`.
        SettingsError: the resize leaves no image 2x2 patches.
    """
    check_resize(resize, patch)
    full = decoded.size
    least = MINIMUM_PATCHES * patch
    if min(full) < least:
        raise ImageError(
            "too_small",
            f"{full[1]}x{full[0]} pixels are fewer than 2x2 patches: each side needs at least {least}",
            "resize",
        )
    height, width = whole = resized_size(full, resize)
    if height * width > limits.max_pixels:
        raise ImageError(
            "too_large",
            f"resized ({resize}) from {full[1]}x{full[0]} to {width}x{height} pixels it is over the limit of "
            f"{limits.max_pixels}. To mend it: choose a smaller --resize or raise --max-pixels",
            "resize",
        )
    height, width = working = working_size(full, resize)
    rows, columns = height // patch, width // patch
    if max_patches is not None and rows * columns > max_patches:
        raise ImageError(
            "too_large",
            f"{width}x{height} pixels make {rows}x{columns} patches, more than the limit of {max_patches}. "
            "To mend it: choose a smaller --resize or raise --max-patches",
            "resize",
        )
    top, left = crop_corner(full, resize)
    resized = resize_image(decoded, whole, way)[top : top + height, left : left + width]
    rgb, grid = crop_to_grid(resized, patch)
    return Prepared(rgb, grid, working, full, decoded.orientation, decoded.content_sha256, decoded.more_frames)
