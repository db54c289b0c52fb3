"""What `simsam_batch.runs.verify` found, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
        age_s: seconds since it was written, by the clock of the storage if orphans were to be deleted, else by that of
            this machine; None if the storage does not say.
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
        unit: what a record of its plan is, as ``image_id`` for images.
        shards, committed, pending: of the plan; pending shards are work to be done, and no damage.
        images, ok, failed: rows by the manifests in force.
        files, bytes: hashed, of all generations.
        published: whether ``results/<stage>.json`` is there.
    """

    stage: str
    unit: str
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
        at_work: stages with shards that are started and not committed, for which no orphan was deleted.
    """

    out: str
    stages: list[StageVerified] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether something is not as it was committed."""
        return bool(self.problems)

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"damaged": self.damaged, **asdict(self)}
