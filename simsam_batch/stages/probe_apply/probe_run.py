"""A finished run of ``simsam probe`` as others apply it: its settings, its fits by what they are, its network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from simsam_batch.errors import RunError, SettingsError, did_you_mean
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.stage_record import read_record
from simsam_batch.settings import NetworkSettings
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.stage import PatchLabelsStage
from simsam_batch.stages.probe.settings import ProbeSettings
from simsam_batch.stages.probe_apply.settings import FittedProbe
from simsam_batch.stages.probe_fits.cells import CLUSTERED, Cell, cells_of
from simsam_batch.stages.probe_fits.patches import FeatureSet, feature_sets
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.fits import Fits, faults_of_fits
from simsam_batch.stages.probe_maps.stage import ProbeMapsStage
from simsam_batch.stages.subsets.stage import SubsetsStage
from simsam_batch.storage import Folder
from simsam_batch.workers.models import resolve_models

_STAGES = (*ProbeMapsStage.reads, ProbeMapsStage.name)

_CHOICES: Mapping[str, Callable[[Cell], Any]] = {
    "probe": lambda cell: cell.probe,
    "features": lambda cell: cell.features,
    "clusters": lambda cell: cell.clusters,
    "fraction": lambda cell: cell.budget.fraction,
    "seed_of_fit": lambda cell: cell.seed,
}
"""By the settings that choose a cell, in the order in which they do, what of a cell they choose by."""


class ProbeRun:
    """A run of ``simsam probe`` whose fits and label maps are finished. Its records are read, and none of its rows.

    Args:
        out: its folder.

    Attributes:
        out: the folder.
        settings: the result settings of its stages.
        network: what identifies the network, as its stage ``features`` was resolved to.
        weights: what the run was begun with; None for those that timm fetches, and for none.
        truth: how its truth is read, see `simsam_batch.stages.true_classes.truth_of`.
        class_names: by id; ids as text where nobody has named them.
        sets: what its probes see.

    Raises:
        SettingsError: there is no such run, or it is not finished.
        RunError: its records are damaged.
        StorageError: the storage did not answer.
    """

    def __init__(self, out: Folder) -> None:
        self.out = out
        records = {name: _record(out, name) for name in _STAGES}
        held: dict[str, Any] = ProbeSettings.unrecorded()
        for record in records.values():
            held |= record["settings"]
        self.settings = ProbeSettings(**held)
        of_features, of_maps = records[FeaturesStage.name], records[ProbeMapsStage.name]["resolved"]
        self.network: dict[str, Any] = of_features["resolved"]["models"]["taps"]
        self.weights: str | None = of_features["started_with"].get("weights")
        self.truth: dict[str, Any] = of_maps["truth"]
        names: Sequence[str] | None = self.truth["classes"]
        self.class_names = tuple(map(str, range(of_maps["classes"]))) if names is None else tuple(names)
        self.sets = feature_sets(of_maps["channels_of"], self.settings.combine)
        self._digests = {name: _finished(out, name) for name in _STAGES}

    @cached_property
    def _cells(self) -> list[Cell]:
        return cells_of(self.settings, [each.name for each in self.sets], len(self.class_names))

    @cached_property
    def _faults(self) -> dict[Cell, str]:
        """Why cells could not be fitted."""
        faults = faults_of_fits(self.out)
        return {cell: fault for cell in self._cells if (fault := faults[cell.fit]) is not None}

    def chosen(self, wanted: FittedProbe) -> Cell:
        """The cell of the table that is asked for; of what is left open the first that is fitted, with most labels.

        Raises:
            SettingsError: there is none, or it could not be fitted; names what the run has.
        """
        cells = self._cells
        for name, of in _CHOICES.items():
            if name != "clusters" or cells[0].probe in CLUSTERED:
                value = self._choice(name, getattr(wanted, name), of, cells)
                cells = [cell for cell in cells if of(cell) == value]
            elif wanted.clusters is not None:
                raise SettingsError(
                    f"clusters: it has no effect with probe {cells[0].probe!r}. To mend it: leave it out, or choose "
                    f"--probe {' or '.join(CLUSTERED)}"
                )
        (cell,) = cells
        if cell in self._faults:
            raise SettingsError(
                f"probe: {cell.name}, could not be fitted in {self.out.url}: {self._faults[cell]}. To mend it: choose "
                "another one"
            )
        return cell

    def _choice(self, name: str, asked: Any, of: Callable[[Cell], Any], cells: Sequence[Cell]) -> Any:
        """What is asked for of some cells, or what is best of those that are fitted."""
        there = list(dict.fromkeys(of(cell) for cell in cells))
        if asked is None:
            fitted = list(dict.fromkeys(of(cell) for cell in cells if cell not in self._faults)) or there
            return max(fitted) if name == "fraction" else fitted[0]
        asked = len(self.class_names) if (name, asked) == ("clusters", 0) else asked
        if asked not in there:
            guess = did_you_mean(asked, there) if isinstance(asked, str) else ""
            which = "probe" if name == "probe" else f"{cells[0].probe} probe"
            raise SettingsError(
                f"{name}: {_said(asked)}: {self.out.url} has no such {which}{guess}. To mend it: choose one that "
                f"it has: {', '.join(map(_said, there))}"
            )
        return asked

    def fits(self, cell: Cell) -> Fits:
        """What applies one cell alone."""
        return Fits(self.out, self.settings, [self.set_of(cell)], [cell], len(self.class_names))

    def set_of(self, cell: Cell) -> FeatureSet:
        """What a cell sees of a patch."""
        return next(each for each in self.sets if each.name == cell.features)

    def digests(self, cell: Cell) -> dict[str, str]:
        """Digests of the results that a cell rests on, by stage: of knn all that it searches in."""
        bank = (FeaturesStage.name, PatchLabelsStage.name, SubsetsStage.name) if cell.probe == "knn" else ()
        return {name: self._digests[name] for name in (*bank, ProbeFitsStage.name)}

    def taps_of(self, cell: Cell) -> dict[str, Any]:
        """The settings by which no more features are computed than a cell sees."""
        taps = [name.rpartition("-") for name in self.set_of(cell).arrays]
        blocks, facets = ((*dict.fromkeys(each),) for each in zip(*((int(b), f) for f, _, b in taps), strict=True))
        return {"blocks": blocks, "facets": facets, "class_token": False, "registers": False}

    def require_network(self, given: NetworkSettings) -> None:
        """Refuse weights, or a network, that the run was not begun with.

        Args:
            given: of the new command; its ``weights`` count.

        Raises:
            SettingsError: it is another one, which is named with the one that it should be.
        """
        asked = self.settings.model_copy(update={"weights": given.weights})
        found: Mapping[str, Any] = resolve_models(("taps",), asked)["taps"]
        for name, value in self.network.items():
            if found.get(name) != value:
                whose = "timm's own weights" if given.weights is None else given.weights
                began = "timm's own weights" if self.weights is None else self.weights
                raise SettingsError(
                    f"weights: {whose} are not what {self.out.url} was begun with, {began}: {name} is "
                    f"{found.get(name)!r}, and there it was {value!r}. To mend it: give --weights with that file"
                )


def _record(out: Folder, stage: str) -> dict[str, Any]:
    record = read_record(out, stage)
    if record is None:
        there = [name for name in _STAGES if read_record(out, name) is not None]
        raise SettingsError(
            f"probe_run: {out.url} has no stage {stage}, so that nothing is fitted there; it has "
            f"{', '.join(there) or 'no stage of a probe run'}. To mend it: give the OUT of a finished simsam probe"
        )
    return record


def _finished(out: Folder, stage: str) -> str:
    result = Ledger(out, stage).published("first_content_digest")
    if result is None:
        raise SettingsError(
            f"probe_run: the stage {stage} of {out.url} is not finished. To mend it: run the simsam probe that began "
            "it again, to its end"
        )
    return str(result["first_content_digest"])


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_same(recorded: Mapping[str, str], run: ProbeRun, cell: Cell) -> None:
    """Refuse to go on where the fits have become others.

    Raises:
        RunError: naming what has.
    """
    for stage, digest in run.digests(cell).items():
        if recorded.get(stage) != digest:
            raise RunError(
                f"the results of {stage} in {run.out.url} are not those that this run began with: their digest was "
                f"{recorded.get(stage)!r}, now it is {digest!r}. To mend it: restore them, or use another OUT"
            )
