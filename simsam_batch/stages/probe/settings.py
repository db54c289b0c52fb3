"""The settings of ``simsam probe``."""

from __future__ import annotations

from simsam_batch.settings import Facet, result
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings


class ProbeSettings(ProbeMapsSettings):
    """Settings of ``simsam probe``: how well patch features segment."""

    facets: tuple[Facet, ...] = result(
        ("norm-token", "query", "key", "value"),
        "vectors of each block, several with commas: key, query, value, token, norm-token",
    )


SETTINGS = ProbeSettings
