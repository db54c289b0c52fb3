"""What `simsam_batch.operations.verify` found, for people."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.runs.verify_report import VerifyReport

_NAMES_SHOWN = 10


def as_text(report: VerifyReport) -> str:
    """The report for people, a line for each stage, problem and group of orphans."""
    lines = [f"{report.out}: {'DAMAGED' if report.damaged else 'all that is committed is as it was'}"]
    for stage in report.stages:
        todo = f", {stage.pending} pending" if stage.pending else "" if stage.published else ", not published yet"
        lines.append(
            f"  {stage.stage}: {stage.committed} of {stage.shards} shards{todo}; {stage.images} images, "
            f"{stage.failed} of them failed; {stage.files} files, {_size(stage.bytes)} read"
        )
    lines += [f"  {p.where}: {p.what}. To mend it: {p.mend}" for p in report.problems]
    for deleted, what in ((True, "deleted"), (False, "read by nothing (--delete-orphans deletes those old enough)")):
        orphans = [orphan for orphan in report.orphans if orphan.deleted is deleted]
        if orphans:
            names = _shown([orphan.name for orphan in orphans])
            lines.append(f"  {len(orphans)} orphans, {_size(sum(o.bytes for o in orphans))}, {what}: {names}")
    if report.at_work and report.orphans:
        lines.append(
            f"  nothing was deleted: shards of {', '.join(report.at_work)} are started and not committed, so that a "
            "command may be at work. To mend it: let it finish, or say --nobody-at-work"
        )
    if report.foreign:
        lines.append(f"  {len(report.foreign)} files that are not of this run: {_shown(report.foreign)}")
    return "\n".join(lines)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
