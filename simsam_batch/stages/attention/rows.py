"""Rows of the ``attention`` stage: those of ``matches``, by the attention of Stable Diffusion."""

from __future__ import annotations

MATCHES = True
"""The rows are pairs with points that were matched."""
