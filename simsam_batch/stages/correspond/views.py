"""The chapter of correspondence: how many points are right, and pairs with their matches."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.report.page.chapters import Chapter, Source, begun
from simsam_batch.report.page.scores import scores_of
from simsam_batch.stages.matches.stage import MatchesStage
from simsam_batch.stages.registry import Command


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, and what all chapters have.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    metrics = source.metrics(MatchesStage.name)
    if metrics is not None:
        made.scores = scores_of(metrics)
    return made
