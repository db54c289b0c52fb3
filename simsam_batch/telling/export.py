"""What `simsam_batch.operations.export` wrote, and what is missing, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsam_batch.plain_text import counted

_WHY = {
    "failed": "failed in the run",
    "gone": "gone from the run's input, as simsam was told by --prune",
    "unreadable": "gone or changed since the run read them",
    "without_map": "without a map, for probes were fitted on them",
    "not_restyled": "with nothing restyled, as their rows say",
    "without_object": "without an object",
}
_MENDS = {
    "unreadable": "put the files back where the run read them, and run the same command again",
    "failed": "simsam retry tries failed images again; then run the same command again",
    "without_map": "export an image that probes were not fitted on, by a higher --limit or none",
    "not_restyled": "restyle what is in the images, in another OUT, with other words or masks",
    "without_object": "take a lower --min-score or none, or look at the masks with --format overlay",
    "gone": "the run has no image that is still there; --prune takes the marks away from those that are back",
}
"""Of several outcomes the first is what is to be mended."""


def export_lines(record: Mapping[str, Any], where: str, noun: str) -> list[str]:
    """How many images or pairs were written, and what became of the others, with a few names.

    Args:
        record: what ``export.json`` holds.
        where: the folder that it is in.
        noun: what its stage is about.
    """
    lines = [f"{counted(record['ok'], noun)} of the stage {record['stage']} in {where}"]
    for outcome, why in _WHY.items():
        if count := record[outcome]:
            names = [repr(each["image_id"]) for each in record["missing"] if each["outcome"] == outcome]
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            lines.append(f"  {count:,} of {record['images']:,} {why}: {', '.join(names)}{more}")
    return lines


def mend_of(record: Mapping[str, Any]) -> str:
    """What to do about an export that is not complete."""
    outcome = next(name for name in _MENDS if record[name])
    what = "the export is not complete" if record["ok"] else "no image could be exported whole"
    return f"{what}. To mend it: {_MENDS[outcome]}"
