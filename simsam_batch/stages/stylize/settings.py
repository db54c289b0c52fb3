"""The settings of ``simsam stylize``."""

from __future__ import annotations

from simsam_batch.stages.style_networks.settings import StylizeSettings

SETTINGS = StylizeSettings
