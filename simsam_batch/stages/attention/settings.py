"""How embeddings are looked for in targets."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings import Component, result
from simsam_batch.stages.embeddings.settings import EmbeddingsSettings


class Search(Component, title="Diffusion"):
    """How an embedding is looked for."""

    crops: int = result(20, "crops of the target for each start: its corners, then around what was found", ge=4)
    timestep_found: int = result(-1, "of the noise then; -1: as it was fitted", ge=-1, lt=1000)
    combine: Literal["mean", "softmax"] = result("mean", "of layers; softmax: over all pixels first, as published code")
    maps: Literal["none", "fp16", "layers"] = result(
        "none",
        "fp16: the attention to every point is kept, 128 x 128; layers: also of each layer in both images, 64 x 64",
    )


class AttentionSettings(Search, EmbeddingsSettings):
    """What the stage needs to know."""
