"""Images as squares, with the latents of their crops, held while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.correspondence.attention import AttentionModel, CroppedLatents, Procedure
from simsam_batch.images import ColorProfile

_HELD = 4


@dataclass(frozen=True, slots=True)
class Squashed:
    """An image squashed to a square.

    Attributes:
        pixels: (S, S, 3) uint8.
        size: (width, height) of the image.
        sha256: of its file.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    sha256: str

    def to_square(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) points of the image, the centre of its first pixel at (0, 0), in pixels from the square's edge."""
        found: NDArray[np.float64] = (points + 0.5) * len(self.pixels) / np.array(self.size)
        return found

    def from_square(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `to_square`."""
        found: NDArray[np.float64] = points * np.array(self.size) / len(self.pixels) - 0.5
        return found

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) whether each point lies in the image."""
        found: NDArray[np.bool_] = np.all((points >= -0.5) & (points <= np.array(self.size) - 0.5), axis=1)
        return found


def read_squashed(uri: str, limits: images.ImageLimits, side: int, color_profile: ColorProfile) -> Squashed:
    """An image file, upright.

    Raises:
        ImageError: it is missing, or cannot be decoded.
        UnreadableError: the storage does not give it.
    """
    data = images.fetch(uri, limits)
    decoded = images.decode(data, limits, color_profile)
    size = decoded.size[1], decoded.size[0]
    return Squashed(images.resize_image(decoded, (side, side)), size, decoded.content_sha256)


class HeldLatents:
    """Latents of the last few images, by their digests."""

    def __init__(self, model: AttentionModel, how: Procedure, device: torch.device) -> None:
        self._model, self._how, self._device = model, how, device
        self._held: OrderedDict[str, CroppedLatents] = OrderedDict()

    def of(self, picture: Squashed) -> CroppedLatents:
        """Those of an image."""
        if picture.sha256 not in self._held:
            pixels = torch.from_numpy(picture.pixels).to(self._device).permute(2, 0, 1).float() / 255
            self._held[picture.sha256] = CroppedLatents(self._model, pixels, self._how)
            if len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(picture.sha256)
        return self._held[picture.sha256]


class PicturesAhead:
    """Reads images in the threads that load ahead, each of the last few once."""

    def __init__(self, limits: images.ImageLimits, side: int, color_profile: ColorProfile) -> None:
        self._how = (limits, side, color_profile)
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Squashed] = OrderedDict()

    def of(self, uri: str) -> Squashed:
        """One image; see `read_squashed`."""
        with self._lock:
            if uri in self._held:
                self._held.move_to_end(uri)
                return self._held[uri]
        limits, side, profile = self._how
        found = read_squashed(uri, limits, side, profile)
        with self._lock:
            self._held[uri] = found
            if len(self._held) > 4 * _HELD:
                self._held.popitem(last=False)
        return found
