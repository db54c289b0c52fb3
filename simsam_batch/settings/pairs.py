"""What a run about pairs of images is about."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings.declare import Component, given


class PairInput(Component, title="Input"):
    """How images are paired."""

    pairs: Literal["given", "all", "same-category", "video"] = given(
        "given",
        "of images or key points without pairs: all ordered pairs, those of one category or folder, or the first of "
        "each folder with its others",
    )
