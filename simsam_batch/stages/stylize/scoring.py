"""What CLIP and VGG see of a picture as it is delivered, beside what they see of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from simsam_batch.stages.style_networks.regions import as_tensor
from simsam_batch.stages.style_networks.words import WordsOf
from simsam_batch.styling.fitting import squashed
from simsam_batch.styling.losses import content_inside, directions


class Scorer:
    """Scores the regions of pictures.

    Args:
        clip: what scores the style.
        vgg: what scores the content.
        looks: the words, as this CLIP sees them.
        side: of the squares that VGG sees.
        device: that they are on.
    """

    def __init__(self, clip: Any, vgg: Any, looks: Sequence[WordsOf], side: int, device: torch.device) -> None:
        self._clip, self._vgg, self._device, self._side = clip, vgg, device, side // 8 * 8
        self._words = {words.text: words for look in looks for words in look.values()}

    def score(
        self,
        styles: list[dict[str, Any]],
        before: NDArray[np.uint8],
        after: NDArray[np.uint8],
        masks: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Put the scores of one picture into its styles.

        Args:
            styles: of the regions, as rows have them.
            before: (H, W, 3) the image.
            after: likewise, the picture.
            masks: (H, W) of each region.
        """
        both = [as_tensor(each, self._device) for each in (before, after)]
        styled = [style for style in styles if style["status"] == "styled"]
        with torch.no_grad():
            maps = [self._vgg.maps(squashed(each, self._side)) for each in both]
            for style in styled:
                inside = torch.from_numpy(masks[style["region"]]).to(both[0])[None, None]
                others = {other["text"] for other in styled if other["region"] != style["region"]}
                style.update(self._style(style["text"], others, [each * inside for each in both]))
                style.update(_content(inside, maps), scored_by=self._clip.name)

    def _style(self, text: str, others: set[str], views: list[Tensor]) -> dict[str, float | None]:
        source, restyled = (self._clip.encode(squashed(each, self._clip.size)) for each in views)

        def way(to: str) -> float | None:
            found = directions(restyled, source, self._words[to].direction)
            return float(found.cosines) if bool(found.known) else None

        elsewhere = [cosine for other in sorted(others) if (cosine := way(other)) is not None]
        feature = self._words[text].feature
        return {
            "clip_direction": way(text),
            "clip_direction_other": max(elsewhere, default=None),
            "clip_text": float(restyled[0] @ feature),
            "clip_text_before": float(source[0] @ feature),
        }


def _content(inside: Tensor, maps: list[list[Tensor]]) -> dict[str, float | None]:
    found = {}
    for key, share in (("content_inside", inside), ("content_outside", 1 - inside)):
        terms = [
            content_inside(b, a, functional.interpolate(share, a.shape[-2:], mode="area")[0, 0])
            for a, b in zip(*maps, strict=True)
        ]
        found[key] = or_none(float(torch.stack(terms).sum()))
    return found


def or_none(value: float) -> float | None:
    """A number as rows hold it: null where there is none."""
    return value if np.isfinite(value) else None
