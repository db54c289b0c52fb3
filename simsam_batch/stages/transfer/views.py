"""The chapter of labels carried over: label maps beside truth, and how well they fit it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simsam_batch.report.page.chapters import Chapter, Source, begun
from simsam_batch.report.page.class_maps import fill_class_maps
from simsam_batch.report.page.scores import scores_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command
from simsam_batch.stages.transfer.stage import TransferStage


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, pictures, and what all chapters have.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    metrics = source.metrics(TransferStage.name)
    if metrics is not None:
        made.scores = scores_of(metrics)
    if TransferStage.name in stages:
        rows = StageRows(source.out, TransferStage.name)
        fine = np.array([number for number, row in rows.each(["status"]) if row["status"] == "ok"], np.int64)
        fill_class_maps(
            made, source, rows, fine, "image", ["segments"], lambda row: [("carried over", row["segments"] or ())]
        )
        made.legend = f"Labels are carried over from {', '.join(rows.settings['exemplars'])}. White does not count."
    return made
