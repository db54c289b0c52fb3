"""Which fits are applied, and what they found, as it is committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from simsam_batch.errors import RunError
from simsam_batch.runs.committed import CommittedShard, committed_shards
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import Attachment
from simsam_batch.stages.probe_fits.cells import Cell, Fit
from simsam_batch.stages.probe_fits.patches import FeatureSet
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings
from simsam_batch.storage import Folder


@dataclass(frozen=True, slots=True)
class Fits:
    """Which fits are applied.

    Attributes:
        out: folder of the run that made them.
        settings: of that run.
        sets: what probes see.
        cells: of the table.
        classes: C.
    """

    out: Folder
    settings: ProbeMapsSettings
    sets: Sequence[FeatureSet]
    cells: Sequence[Cell]
    classes: int


def read_fits(out: Folder, wanted: Set[Fit]) -> tuple[dict[Fit, Mapping[str, Attachment]], dict[Fit, str]]:
    """What some fits of a run found, and why others of them came to nothing.

    Raises:
        RunError: fits are missing or damaged.
    """
    found: dict[Fit, Mapping[str, Attachment]] = {}
    faults: dict[Fit, str] = {}
    for shard, fits in _fits_in(out):
        if wanted.isdisjoint(fits):
            continue
        for (fit, fault), held in zip(fits.items(), shard.attachments(), strict=True):
            if fit in wanted and fault is None:
                found[fit] = held
            elif fit in wanted and fault is not None:
                faults[fit] = fault
    if not found and not faults:
        raise RunError(f"{out.url}: no probe has been fitted. To mend it: run the same command again")
    return found, faults


def faults_of_fits(out: Folder) -> dict[Fit, str | None]:
    """All fits of a run, and of those that came to nothing the reason.

    Raises:
        RunError: fits are missing or damaged.
    """
    return {fit: fault for _, fits in _fits_in(out) for fit, fault in fits.items()}


def _fits_in(out: Folder) -> Iterator[tuple[CommittedShard, dict[Fit, str | None]]]:
    """The committed shards of fits, with the fits of each in their order; what they found is not read."""
    ledger = Ledger(out, ProbeFitsStage.name)
    plan = ledger.plan()
    for shard in committed_shards(out, ledger.manifests()):
        fits: dict[Fit, str | None] = {}
        rows = shard.rows(["status", "error"]).to_pylist()
        for record, row in zip(plan.shard(shard.number).records.to_pylist(), rows, strict=True):
            fits[Fit.of(record)] = None if row["status"] == "ok" else row["error"]
        yield shard, fits
