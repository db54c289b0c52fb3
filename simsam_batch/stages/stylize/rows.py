"""Rows of the ``stylize`` stage: what became of each region of an image; the picture lies beside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

EACH = "-each"
"""Behind the name of a picture that another by a network of the image's own stands beside."""

PICTURES = True
"""Rows have pictures."""

STYLE = pa.struct(
    [
        ("picture", pa.string()),
        ("fit", pa.string()),
        ("region", pa.string()),
        ("text", pa.string()),
        ("status", pa.string()),
        ("skip_reason", pa.string()),
        ("steps", pa.int32()),
        ("stopped", pa.bool_()),
        ("loss_first", pa.float64()),
        ("loss_last", pa.float64()),
        ("patch_first", pa.float64()),
        ("patch_last", pa.float64()),
        ("rejected_last", pa.float64()),
        ("content_inside", pa.float64()),
        ("content_outside", pa.float64()),
        ("clip_direction", pa.float64()),
        ("clip_direction_other", pa.float64()),
        ("clip_text", pa.float64()),
        ("clip_text_before", pa.float64()),
        ("scored_by", pa.string()),
    ]
)
"""One region of an image."""

STYLIZE_FIELDS = [
    pa.field("content_sha256", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("working_width", pa.int32()),
    pa.field("working_height", pa.int32()),
    pa.field("area_fraction", pa.float64()),
    pa.field("leak_max", pa.int32()),
    pa.field("leak_mean", pa.float64()),
    pa.field("leak_share", pa.float64()),
    pa.field("styles", pa.list_(STYLE)),
]
"""Columns of a row. All null where the image failed.

``area_fraction`` is the object's, null without a mask. Of each style ``picture`` names the attachment, a PNG of the
image's own size, that it is in, and ``fit`` what its network was fitted to: ``image`` or ``run``.
``leak_*`` tell what differs from the image where nothing was restyled: the greatest
difference of 255, the mean as a share of 255, and the share of pixels. Its ``status`` is ``styled`` or
``skipped``; ``*_first`` and ``*_last`` are means of the first and last ten updates.
``clip_direction_other`` is the greatest cosine with the way to another restyled region's words, ``scored_by`` the
network that scored.
"""

MEANS = (
    "patch_first",
    "patch_last",
    "clip_direction",
    "clip_direction_other",
    "clip_text",
    "clip_text_before",
    "content_inside",
    "content_outside",
)
"""Figures of a region whose means over images are told."""

SPREAD = ("patch_last", "clip_direction", "clip_text")
"""Those whose quantiles are told too; all of them are about 1 in size."""

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
_BIN = 0.005
"""Width of what is counted for quantiles: none is off by more than half of it."""


class StylizeFold:
    """Counts regions by their texts, sums their figures, and keeps the worst leak."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"images": 0, "leak_max": 0, "regions": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        regions = {name: dict(held) for name, held in a["regions"].items()}
        for name, held in b["regions"].items():
            own = regions.setdefault(name, {})
            for key, value in held.items():
                own[key] = _counted(own.get(key, {}), value) if key == "spread" else own.get(key, 0) + value
        return {
            "images": a["images"] + b["images"],
            "leak_max": max(a["leak_max"], b["leak_max"]),
            "regions": regions,
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Counts, and means and quantiles over the regions that were restyled."""
        found: dict[str, Any] = {"images_styled": s["images"], "leak_max": s["leak_max"]}
        for name in sorted(s["regions"]):
            held = s["regions"][name]
            told: dict[str, Any] = {key: held.get(key, 0) for key in ("styled", "skipped", "stopped", "steps")}
            for key in MEANS:
                count = held.get(f"{key}_n", 0)
                told[key] = held[key] / count if count else None
            for key in SPREAD:
                told |= _quantiles(key, held.get("spread", {}))
            found[name] = told
        return found


def _counted(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}


def _quantiles(key: str, spread: Mapping[str, int]) -> dict[str, float | None]:
    """The middles of the bins that the ranks of quantiles fall into."""
    counts = sorted(
        (int(number), count) for name, count in spread.items() for of, number in [name.split(" ")] if of == key
    )
    whole, found = sum(count for _, count in counts), dict[str, float | None]()
    for name, share in QUANTILES.items():
        rank, found[f"{key}_{name}"] = share * whole, None
        for number, count in counts:
            rank -= count
            if rank <= 0:
                found[f"{key}_{name}"] = round((number + 0.5) * _BIN, 6)
                break
    return found


def state_of(leak_max: int, styles: list[dict[str, Any]]) -> dict[str, Any]:
    """The share of one image in the state of `StylizeFold`."""
    regions = {}
    for style in styles:
        held: dict[str, Any] = {style["status"]: 1, "stopped": int(bool(style.get("stopped")))}
        held["steps"] = style.get("steps") or 0
        for key in MEANS:
            if style.get(key) is not None:
                held |= {key: style[key], f"{key}_n": 1}
        held["spread"] = {f"{key} {math.floor(style[key] / _BIN)}": 1 for key in SPREAD if style.get(key) is not None}
        regions[f"{style['region']}: {style['text']}"] = held
    return {
        "images": int(any(style["status"] == "styled" for style in styles)),
        "leak_max": leak_max,
        "regions": regions,
    }
