"""The photographs that a run's rows are of, read again to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simsam_batch import images
from simsam_batch.settings.refinement import refines_whole

_LONG = 3600.0
"""Processor seconds for an image that was decoded once, within whatever time it was given."""


def limits_of(settings: Mapping[str, Any], row: Mapping[str, Any] | None = None) -> images.ImageLimits:
    """The limits on an image that a stage's settings name; else those by default.

    Args:
        settings: of the stage, as the run began: not every stage has limits, and a second try may have had wider ones.
        row: of an image that is ``ok``: its pixels have been decoded once, and so they may again.
    """
    names = ("max_bytes", "max_pixels", "decode_seconds")
    limits = images.ImageLimits(**{name: settings[name] for name in names if name in settings})
    if row is None:
        return limits
    pixels = max(limits.max_pixels, images.ImageLimits().max_pixels, row["width"] * row["height"])
    return replace(limits, max_pixels=pixels, decode_seconds=max(limits.decode_seconds, _LONG))


def profile_of(settings: Mapping[str, Any]) -> images.ColorProfile:
    """What a stage did with the colour profiles of its images."""
    return "srgb" if settings.get("color_profile") == "srgb" else "ignore"


def enough_of(settings: Mapping[str, Any]) -> images.Enough | None:
    """What a stage decoded of its images, see `simsam_batch.images.decode`; None: they were decoded whole."""
    refine = settings.get("refine", "none")
    if settings.get("decode") != "scaled" or refines_whole(refine):
        return None
    kept_side = 0 if refine == "none" else settings["refine_max_side"]
    return images.enough_for(images.parse_resize(settings["resize"]), kept_side)


def working_size(row: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) at which the image of a row was computed, before the cut to whole patches."""
    size = row["height"], row["width"]
    return images.working_size(size, images.parse_resize(settings["resize"])) if "resize" in settings else size
