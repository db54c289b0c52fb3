"""A prediction and its truth at one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.regions.pixel_index import nearest
from simsam_batch.storage import redact


@dataclass(frozen=True, slots=True)
class OneSize:
    """Brings a prediction and its truth to one size.

    Attributes:
        resize: whether the prediction may be resized.
        crop: whether the central square alone is kept.
        may_differ: whether a difference in size may be the prediction's fault: a run's has its image's size.
    """

    resize: bool
    crop: bool
    may_differ: bool

    def __call__(
        self,
        prediction: NDArray[Any],
        row: Mapping[str, Any],
        read: Callable[[str, tuple[int, int]], NDArray[Any]],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The prediction and the truth on what is scored.

        Args:
            prediction: (H, W).
            row: with ``image_id`` and ``truth_uri``.
            read: the truth at a URL, which must have a size.

        Raises:
            TruthError: the truth cannot be used.
            SettingsError: the prediction has another size.
        """
        uri = row["truth_uri"]
        size = (prediction.shape[0], prediction.shape[1])
        if self.resize:
            limits = images.ImageLimits()
            try:
                size = images.image_size(images.fetch(uri, limits), limits)
            except ImageError as error:
                raise images.TruthError("unreadable", f"truth {redact(uri)}: {error}") from error
        try:
            truth = read(uri, size)
        except images.TruthError as error:
            if error.kind != "other_size" or not self.may_differ:
                raise
            raise SettingsError(
                f"prediction {row['image_id']} has {size[1]}x{size[0]} pixels (width x height), another size than its "
                f"truth {redact(uri)}. To mend it: write masks of the truth's size, or --resize-prediction nearest"
            ) from error
        prediction = nearest(prediction, size)
        part = images.central_square(size) if self.crop else (slice(None), slice(None))
        return prediction[part], truth[part]
