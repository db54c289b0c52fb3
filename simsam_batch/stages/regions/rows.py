"""The ``regions`` stage, first of ``semantic``: every image cut into regions, each with a box and a feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import IMAGE, ROW_FIELDS, Needs
from simsam_batch.settings import SemanticSettings, extra
from simsam_batch.stages.segment.rows import IMAGE_FIELDS

if TYPE_CHECKING:
    from simsam_batch.stages.regions.stage import RegionsWorker

LATER_GROUPS = ("Clusters", "Scores", "Refinement")
"""Groups of settings that do not change what this stage computes."""

REGION = pa.struct(
    [
        ("region", pa.int32()),
        ("bbox_xyxy", pa.list_(pa.int32())),
        ("patches", pa.int32()),
        ("feature", pa.list_(pa.float32())),
    ]
)

REGIONS_FIELDS = [
    *IMAGE_FIELDS,
    pa.field("outlier_tokens", pa.int32()),
    pa.field("components", pa.int32()),
    pa.field("region_count", pa.int32()),
    pa.field("region_map", pa.list_(pa.int32())),
    pa.field("regions", pa.list_(REGION)),
    pa.field("eigenvalues", pa.list_(pa.float32())),
    pa.field("solver", pa.string()),
    pa.field("converged", pa.bool_()),
    pa.field("residual_max", pa.float32()),
    pa.field("degenerate", pa.bool_()),
]
"""Columns of a row of this stage after `ROW_FIELDS`. All null where the image failed."""


class RegionsFold:
    """How many regions there are."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"regions": 0, "images_without_regions": 0, "degenerate": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts."""
        return dict(s)


@dataclass(frozen=True)
class RegionsStage:
    """What every worker of this stage needs to know.

    Attributes:
        options: the settings.
        resolved: what the backbone's name resolved to.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: SemanticSettings
    resolved: dict[str, Any]
    recorded: dict[str, Any] | None = None
    name: str = "regions"
    unit = IMAGE
    reads = ()
    needs = Needs()
    fold: RegionsFold = field(default_factory=RegionsFold)

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings of this stage as plain JSON values."""
        if self.recorded is not None:
            return self.recorded
        fields = SemanticSettings.model_fields
        values = self.options.values_of("result")
        return {name: value for name, value in values.items() if extra(fields[name])["group"] not in LATER_GROUPS}

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *REGIONS_FIELDS])

    def make_worker(self, beat: Callable[[], None]) -> RegionsWorker:
        """Load the backbone and be ready for shards."""
        from simsam_batch.stages.regions.stage import RegionsWorker

        return RegionsWorker(self, beat)


def check_crop_size(options: SemanticSettings, resolved: dict[str, Any]) -> None:
    """Refuse crops that do not divide into patches.

    Raises:
        SettingsError: naming the sizes beside it.
    """
    patch = resolved["patch"]
    if options.region_feature != "patches" and options.crop_size % patch:
        below = options.crop_size // patch * patch
        raise SettingsError(
            f"crop_size: {options.crop_size} is no multiple of the patch size {patch}; "
            f"{below} and {below + patch} are, and 0 keeps each box's own size"
        )
