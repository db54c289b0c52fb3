"""The ``semantic`` stage: regions and clusters to label maps, compared with class ids where there is truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from simsam_batch.catalog import center_crops, facts_of, truth_kind
from simsam_batch.catalog.datasets.hierarchies import label_hierarchy
from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import IMAGE, ROW_FIELDS, Needs
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.settings import SemanticSettings, extra
from simsam_batch.stages.segment.rows import spread_of
from simsam_batch.stages.segments import SEGMENT
from simsam_batch.storage import Folder, ObjectNotFound, read_url, redact

if TYPE_CHECKING:
    from simsam_batch.stages.clusters.stage import FittedClusters
    from simsam_batch.stages.semantic.stage import SemanticWorker

SEMANTIC_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field("refined", pa.bool_()),
    pa.field("degenerate", pa.bool_()),
    pa.field("truth_error", pa.string()),
]
"""Columns of a row of this stage after `ROW_FIELDS`; kept input columns follow. All null where the image failed."""

_AVERAGED = ("miou_over_classes", "pixel_accuracy")
_UNNAMED_CLASSES = 256
"""As many ids as an 8-bit image of class ids can hold."""


class SemanticFold:
    """Scores of each repeat, and how many images could not be scored.

    Args:
        scores: what turns a confusion into scores.
        repeats: how many sets of clusters there are.
    """

    def __init__(self, scores: SemanticScores, repeats: int) -> None:
        self.scores, self.repeats = scores, repeats

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"repeats": [self.scores.zero() for _ in range(self.repeats)], "truth_errors": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        pairs = zip(a["repeats"], b["repeats"], strict=True)
        return {
            "repeats": [self.scores.merge(x, y) for x, y in pairs],
            "truth_errors": a["truth_errors"] + b["truth_errors"],
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The scores of the first repeat, whose labels are in the rows; then mean and deviation over all."""
        found = [self.scores.result(state) for state in s["repeats"]]
        result = found[0] | spread_of(found, _AVERAGED)
        if s["truth_errors"]:
            result["truth_errors"] = s["truth_errors"]
        return result


@dataclass(frozen=True)
class SemanticStage:
    """What every worker of this stage needs to know.

    Attributes:
        resolved: see `resolved_of`.
        out: the run's folder, which holds the regions and the codebooks.
        kept: the plan's further columns.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: SemanticSettings
    resolved: dict[str, Any]
    out: Folder
    kept: Sequence[pa.Field] = ()
    recorded: dict[str, Any] | None = None
    name: str = "semantic"
    unit = IMAGE
    reads = ()
    needs = Needs()

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings of this stage as plain JSON values; the regions and clusters are named by digests."""
        if self.recorded is not None:
            return self.recorded
        fields = SemanticSettings.model_fields
        values = self.options.values_of("result")
        groups = ("Scores", "Refinement")
        return {name: value for name, value in values.items() if extra(fields[name])["group"] in groups}

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *SEMANTIC_FIELDS, *self.kept])

    @cached_property
    def fold(self) -> SemanticFold:
        """Merges confusions."""
        truth = self.resolved["truth"] or {"classes": None, "ignore_label": None, "protocol": "semantic"}
        scores = SemanticScores(
            names_of(truth["classes"]),
            predicted=self.options.clusters + 1,
            ignore=truth["ignore_label"],
            matching=self.options.matching,
            protocol=truth["protocol"],
        )
        return SemanticFold(scores, len(self.resolved["codebooks"]))

    def make_worker(self, beat: Callable[[], None]) -> SemanticWorker:
        """Read the codebooks and be ready for shards."""
        from simsam_batch.stages.semantic.stage import SemanticWorker

        return SemanticWorker(self, beat)


def resolved_of(regions: str, fitted: FittedClusters, truth: dict[str, Any] | None) -> dict[str, Any]:
    """What the stage comes down to.

    Args:
        regions: the first content digest of what it reads.
        fitted: the clusters; names and digests of the codebooks are kept, and what is known of the fit.
        truth: see `truth_of`.
    """
    files = [list(file) for file in fitted.files]
    return {"regions": regions, "codebooks": files, "truth": truth, "fit": fitted.facts}


def truth_of(options: SemanticSettings, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the truth is to be read, or None if it is not one of class ids.

    Keys are ``classes`` (names by id, None where nobody has named them, see `names_of`), ``ignore_label``,
    ``also_ignored`` (further ids, to be read as that one), ``protocol`` and ``center_crop``. A dataset by name knows
    all of it; otherwise the settings say it.

    Args:
        options: the settings.
        source: of the plan.

    Raises:
        SettingsError: the file of class names cannot be read.
    """
    facts = facts_of(source)
    if truth_kind(source) not in (None, "semantic"):
        return None
    ignore = None if options.ignore_label < 0 else options.ignore_label
    classes: tuple[str, ...] | None = None
    protocol, also_ignored = "semantic", set[int]()
    if facts is not None:
        if facts.label_hierarchy is not None and facts.ignore_label is not None:
            also_ignored = set(label_hierarchy(facts.label_hierarchy).ignore)
        classes, protocol = facts.classes, facts.protocol
        ignore = facts.ignore_label if ignore is None else ignore
    if options.class_names is not None:
        classes = read_class_names(options.class_names)
    named = None if classes is None else list(classes)
    return {
        "classes": named,
        "ignore_label": ignore,
        "also_ignored": sorted(also_ignored - {ignore}),
        "protocol": protocol,
        "center_crop": center_crops(source),
    }


def names_of(classes: Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes by id; those that nobody has named are called by their ids, 0 to 255."""
    return tuple(map(str, range(_UNNAMED_CLASSES))) if classes is None else tuple(classes)


def read_class_names(url: str) -> tuple[str, ...]:
    """The lines of a text file, the name of class 0 first.

    Raises:
        SettingsError: there is no such file, it is no text, or it holds a name twice or none.
    """
    try:
        text = read_url(url).decode("utf-8")
    except (ObjectNotFound, UnicodeDecodeError) as error:
        raise SettingsError(f"class_names: {redact(url)} cannot be read as text: {error}") from error
    names = tuple(line.strip() for line in text.strip().splitlines())
    repeated = sorted({name for name in names if names.count(name) > 1})
    fault = ""
    if not names:
        fault = "holds no name"
    elif "" in names:
        fault = "has a line without a name"
    elif repeated:
        fault = f"holds {', '.join(repeated)} more than once"
    if fault:
        raise SettingsError(f"class_names: {redact(url)} {fault}; one name a line is needed, that of id 0 first")
    return names
