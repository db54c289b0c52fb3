"""The settings of ``simsam correspond``."""

from __future__ import annotations

from simsam_batch.settings import Facet, result
from simsam_batch.stages.matches.settings import MatchesSettings


class CorrespondSettings(MatchesSettings):
    """Settings of ``simsam correspond``: features of every image, and matches of every pair."""

    facets: tuple[Facet, ...] = result(
        ("token",), "vectors of each block, several with commas: key, query, value, token, norm-token"
    )
    blocks: tuple[int, ...] = result(
        (-8,), "transformer blocks, or up blocks of diffusion, from 0, several with commas; negative from the end"
    )


SETTINGS = CorrespondSettings
