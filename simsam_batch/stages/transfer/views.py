"""The chapter of labels carried over: label maps beside truth, and how well they fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simsam_batch.report.page.chapters import Chapter, Source
from simsam_batch.report.page.class_maps import Maps, class_maps_chapter
from simsam_batch.stages.registry import Command


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, pictures, and what all chapters have.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, rows = class_maps_chapter(source, command, stages, "transfer", ["segments"], _maps_of)
    if rows is not None:
        made.legend = f"Labels are carried over from {', '.join(rows.settings['exemplars'])}. White does not count."
    return made


def _maps_of(row: Mapping[str, Any]) -> Maps:
    return [("carried over", row["segments"] or ())]
