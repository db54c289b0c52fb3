"""The chapter of an applied probe: its label maps, and how well they fit truth, where there is some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simsam_batch.report.page.chapters import Chapter, Source, begun
from simsam_batch.report.page.class_maps import fill_class_maps
from simsam_batch.report.page.scores import scores_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.probe_apply.stage import ProbeApplyStage
from simsam_batch.stages.registry import Command


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, pictures, and what all chapters have.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    metrics = source.metrics(ProbeApplyStage.name)
    if metrics is not None:
        made.scores = scores_of(metrics)
    if ProbeApplyStage.name in stages:
        rows = StageRows(source.out, ProbeApplyStage.name)
        fine = np.array([number for number, row in rows.each(["status"]) if row["status"] == "ok"], np.int64)
        fill_class_maps(
            made,
            source,
            rows,
            fine,
            "image",
            ["shown", "segments"],
            lambda row: [(row["shown"], row["segments"] or ())],
        )
        made.legend = "The label maps are of the applied probe. White does not count."
    return made
