"""Rows of the ``attention`` stage: those of ``matches``, by the attention of Stable Diffusion."""

from __future__ import annotations

from simsam_batch.stages.matches.rows import SCORES as SCORES

MATCHES = True
"""The rows are pairs with points that were matched."""
