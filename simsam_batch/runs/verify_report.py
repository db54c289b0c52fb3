"""What `simsam_batch.runs.verify` found, as values and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in OUT that is not as it was committed.

    Attributes:
        what: what is wrong.
        where: the object, relative to OUT.
        mend: what to do about it.
    """

    what: str
    where: str
    mend: str


@dataclass(slots=True)
class Orphan:
    """A file that no manifest names.

    Attributes:
        name: relative to OUT.
        bytes: its size.
        age_s: seconds since it was written, by the clock of this machine; None if the storage does not say.
        deleted: whether this call deleted it.
    """

    name: str
    bytes: int
    age_s: float | None
    deleted: bool = False


@dataclass(slots=True)
class StageVerified:
    """What one stage of the run holds.

    Attributes:
        stage: its name.
        shards, committed, pending: of the plan; pending shards are work to be done, and no damage.
        images, ok, failed: rows by the manifests in force.
        files, bytes: hashed, of all generations.
        published: whether ``results/<stage>.json`` is there.
    """

    stage: str
    shards: int
    committed: int = 0
    pending: int = 0
    images: int = 0
    ok: int = 0
    failed: int = 0
    files: int = 0
    bytes: int = 0
    published: bool = False


@dataclass(slots=True)
class VerifyReport:
    """What `verify` found; the run is damaged if there are problems.

    Attributes:
        out: the run's folder.
        stages: one entry for each.
        problems: everything that is not as it was committed.
        orphans: files that nothing reads.
        foreign: names among the run's files that are none of its own; never deleted.
    """

    out: str
    stages: list[StageVerified] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether something is not as it was committed."""
        return bool(self.problems)

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"damaged": self.damaged, **asdict(self)}


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
    if report.foreign:
        lines.append(f"  {len(report.foreign)} files that are not of this run: {_shown(report.foreign)}")
    return "\n".join(lines)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
