"""The chapter of correspondence by attention: as that of matches."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.report.page.chapters import Chapter, Source
from simsam_batch.report.page.pairs import pairs_chapter
from simsam_batch.stages.registry import Command


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, the table of PCK, and galleries of pairs.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    return pairs_chapter(source, command, stages, "attention")
