"""The texts of regions, as a CLIP sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.stages.style_networks.settings import StylizeSettings
from simsam_batch.styling.losses import text_direction, text_feature


@dataclass(frozen=True, slots=True)
class Words:
    """A text, as CLIP sees it.

    Attributes:
        text: as it was given.
        feature: (D,) of unit length.
        direction: (D,) to it from the source text.
    """

    text: str
    feature: Tensor
    direction: Tensor


WordsOf = Mapping[str, Words]
"""Those of each region of a look."""


def words_of(clip: Any, options: StylizeSettings, *, raw: bool = False) -> list[dict[str, Words]]:
    """The texts of each look.

    Args:
        clip: what sees them.
        options: of the command.
        raw: whether templates count by the length of their features, as published.

    Raises:
        SettingsError: one cannot be used, or means what images are already.
    """
    source = text_feature(clip.templates_of(options.source_text), raw=raw)
    found: dict[str, Words] = {}
    for look in options.looks:
        for region, text in look.items():
            if text in found:
                continue
            feature = text_feature(clip.templates_of(text), raw=raw)
            try:
                found[text] = Words(text, feature, text_direction(feature, source))
            except ValueError as error:
                raise SettingsError(
                    f"{region}: {text!r} means the same as --source-text {options.source_text!r}. To mend it: say what "
                    "it should become"
                ) from error
    return [{region: found[text] for region, text in look.items()} for look in options.looks]
