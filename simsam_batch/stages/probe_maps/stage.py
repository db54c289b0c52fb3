"""The ``probe-maps`` stage: label maps by all fitted probes, compared with truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.probe_fits.cells import Cell, cells_of
from simsam_batch.stages.probe_fits.patches import FeatureSet, feature_sets
from simsam_batch.stages.probe_fits.settings import Probes
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.fits import Fits
from simsam_batch.stages.probe_maps.rows import PROBE_MAPS_FIELDS, ProbeMapsFold
from simsam_batch.stages.probe_maps.settings import Prediction, ProbeMapsSettings
from simsam_batch.stages.probe_maps.worker import MapWorker
from simsam_batch.stages.subsets.selection import roles_of
from simsam_batch.stages.subsets.stage import Subsets


@dataclass(frozen=True)
class ProbeMapsStage(CommandStage[ProbeMapsSettings]):
    """Labels images by every probe.

    ``resolved`` holds ``truth``, as the stage ``patch-labels``; ``classes``, how many there are; ``channels_of`` the
    stored features.
    """

    name = "probe-maps"
    components = (Numbers, Probes, Prediction)
    fields = PROBE_MAPS_FIELDS
    keeps_columns = True
    reads = (*ProbeFitsStage.reads, ProbeFitsStage.name)

    @cached_property
    def sets(self) -> list[FeatureSet]:
        """What probes see."""
        return feature_sets(self.resolved["channels_of"], self.options.combine)

    @cached_property
    def cells(self) -> list[Cell]:
        """Of the table."""
        return cells_of(self.options, [each.name for each in self.sets], self.resolved["classes"])

    @cached_property
    def fold(self) -> ProbeMapsFold:
        """Merges confusions."""
        return ProbeMapsFold()

    def make_worker(self, beat: Callable[[], None]) -> ProbeMapsWorker:
        """Read the fits and be ready for shards."""
        return ProbeMapsWorker(self, beat)


class ProbeMapsWorker(MapWorker):
    """Labels by the fits of its own run what these were not fitted on, and scores what is to be scored."""

    def __init__(self, stage: ProbeMapsStage, beat: Callable[[], None]) -> None:
        assert stage.plan is not None  # noqa: S101  it is where the fits are
        out, options = stage.plan.out, stage.options
        super().__init__(stage, beat, Fits(out, options, stage.sets, stage.cells, int(stage.resolved["classes"])))
        roles = roles_of(stage.plan, options)
        self._val = {roles.ids[record] for record in Subsets(out).val.tolist()}
        self._train = {roles.ids[record] for record in roles.train.tolist()}

    def is_scored(self, image_id: str) -> bool:
        """Whether it is of val, with features and truth."""
        return image_id in self._val

    def is_labelled(self, image_id: str) -> bool:
        """Whether it is scored, or nothing was fitted on it."""
        return image_id in self._val or image_id not in self._train


STAGES = {ProbeMapsStage.name: ProbeMapsStage}
