"""What `simsam_batch.operations.verify` found, for people."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.plain_text import counted
from simsam_batch.runs.verify_report import VerifyReport
from simsam_batch.telling.status import noun_of

_NAMES_SHOWN = 10


def verify_lines(report: VerifyReport) -> list[str]:
    """The report for people, a line for each stage, problem and group of orphans."""
    lines = [f"{report.out}: {'DAMAGED' if report.damaged else 'all that is committed is as it was'}"]
    for stage in report.stages:
        todo = f", {stage.pending} pending" if stage.pending else "" if stage.published else ", not published yet"
        lines.append(
            f"  {stage.stage}: {stage.committed} of {counted(stage.shards, 'shard')}{todo}; "
            f"{counted(stage.images, noun_of(stage.unit))}, {stage.failed} of them failed; "
            f"{counted(stage.files, 'file')}, {_size(stage.bytes)} read"
        )
    for problem in report.problems:
        # an error that is quoted knows a mend of its own, which does not know of the whole
        what = problem.what.partition(". To mend it: ")[0]
        lines.append(f"  {problem.where}: {what}. To mend it: {problem.mend}")
    for deleted, what in ((True, "deleted"), (False, "read by nothing (--delete-orphans deletes those old enough)")):
        orphans = [orphan for orphan in report.orphans if orphan.deleted is deleted]
        if orphans:
            names = _shown([orphan.name for orphan in orphans])
            lines.append(
                f"  {counted(len(orphans), 'orphan')}, {_size(sum(o.bytes for o in orphans))}, {what}: {names}"
            )
    if report.at_work and report.orphans:
        lines.append(
            f"  nothing was deleted: shards of {', '.join(report.at_work)} are started and not committed, so that a "
            "command may be at work. To mend it: let it finish, or say --nobody-at-work"
        )
    if report.foreign:
        lines.append(f"  {counted(len(report.foreign), 'file')} not of this run: {_shown(report.foreign)}")
    return lines


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
