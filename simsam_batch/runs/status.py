"""How far a run is, told by its storage alone: while it goes on, and from any machine."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from simsam_batch.runs.gone import GONE
from simsam_batch.runs.ledger import Ledger
from simsam_batch.storage import Folder

_RECENT = 50
_GAPS_TO_STALL = 10


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a run.

    Attributes:
        stage: its name.
        unit: what a record of its plan is, ``image_id`` for images.
        shards, images: of its plan.
        done_shards, done_images: committed.
        started_shards: begun and not committed: in hand, or given up by a process that ended.
        most_starts: of one of these.
        failed: images that failed; None if manifests were not read.
        errors_by_type: of these, most frequent first; likewise.
        tried_again: shards whose failed images were tried again.
        images_per_second: over the last commits; None before the second, and when all is done.
        seconds_left: at that rate.
        seconds_since_commit: since the last one; None without any. Clocks of two machines may differ.
        stalled: whether that is long for this run.
        published: whether ``results/<stage>.json`` exists, of this beginning of the stage.
    """

    stage: str
    unit: str
    shards: int
    images: int
    done_shards: int
    done_images: int
    started_shards: int
    most_starts: int
    failed: int | None
    errors_by_type: dict[str, int] | None
    tried_again: int
    images_per_second: float | None
    seconds_left: float | None
    seconds_since_commit: float | None
    stalled: bool
    published: bool

    @property
    def pending_shards(self) -> int:
        """Shards without a manifest."""
        return self.shards - self.done_shards

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"pending_shards": self.pending_shards}


def stage_status(out: Folder, stage: str, *, failures: bool = True, now: float | None = None) -> StageStatus:
    """How far a stage is: one listing of its manifests, one of its starts, and with ``failures`` each manifest once.

    Args:
        out: the run's folder.
        stage: its name.
        failures: count failed images, which stand in the manifests.
        now: unix time; None for this machine's clock.

    Raises:
        StorageError: OUT cannot be listed or read.
        RunError: the stage has no record, or that or a manifest is damaged.
    """
    ledger = Ledger(out, stage)
    plan = ledger.plan()
    commits = ledger.commit_times()
    done: dict[int, int] = {}
    for shard, generation, _ in commits:
        done[shard] = max(generation, done.get(shard, 0))
    started = Counter(shard for shard in ledger.starts() if shard not in done)
    last = max((when for _, _, when in commits if when is not None), default=None)
    since = None if last is None else max(0.0, (time.time() if now is None else now) - last)
    sizes = {shard: plan.records_of(shard) for shard in done}
    recent = sorted((when, sizes[shard]) for shard, generation, when in commits if when is not None and not generation)
    rate, gap = _pace(recent[-_RECENT:])
    left = plan.records - sum(sizes.values())
    failed, errors = _failures(ledger, done) if failures else (None, None)
    result = ledger.published()
    if failures and result is not None and result.get(GONE) and result["images"] == plan.records:
        # manifests know nothing of images that have gone since
        failed, errors = int(result["failed"]), dict(result["errors_by_type"])
    return StageStatus(
        stage=stage,
        unit=plan.unit,
        shards=plan.shards,
        images=plan.records,
        done_shards=len(done),
        done_images=sum(sizes.values()),
        started_shards=len(started),
        most_starts=max(started.values(), default=0),
        failed=failed,
        errors_by_type=errors,
        tried_again=sum(generation > 0 for generation in done.values()),
        images_per_second=rate if left else None,
        seconds_left=left / rate if left and rate else None,
        seconds_since_commit=since,
        stalled=bool(left and since is not None and gap and since > _GAPS_TO_STALL * gap),
        published=result is not None,
    )


def _pace(recent: list[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Images a second and the usual seconds between commits (when, images), in order of time."""
    if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
        return None, None
    # The images of the first were computed before the time that counts.
    seconds = recent[-1][0] - recent[0][0]
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(recent)]
    return sum(images for _, images in recent[1:]) / seconds, max(statistics.fmean(gaps), 1.0)


def _failures(ledger: Ledger, generations: Mapping[int, int]) -> tuple[int, dict[str, int]]:
    failed = 0
    errors: Counter[str] = Counter()
    for manifest in ledger.manifests(generations):
        failed += manifest["failed"]
        errors.update(manifest["errors_by_type"])
    return failed, dict(errors.most_common())
