"""The settings of ``simsam probe apply``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from simsam_batch.settings import Component, Images, Network, Numbers, operation, result
from simsam_batch.stages.features.settings import Taps
from simsam_batch.stages.patch_labels.settings import LabelledSettings
from simsam_batch.stages.probe_fits.settings import Probe


class FittedProbe(Component, title="Probe"):
    """Which of the probes that a run has fitted."""

    probe_run: str | None = operation(None, "OUT of simsam probe, whose fits are applied", place=True)
    probe: Probe | None = result(None, "which of its probes; none: the first that is fitted")
    features: str | None = result(None, "which features it sees, such as key-11; none: the first that it is fitted to")
    fraction: float | None = result(None, "with which share of the train images; none: the largest", gt=0, le=1)
    seed_of_fit: int = result(0, "which draw of that share, or fit of what is fitted by chance", ge=0)
    clusters: int | None = result(
        None,
        "of kmeans and ward how many; none: the first number fitted; 0: as many as classes",
        ge=0,
    )


class ProbeApplySettings(FittedProbe, LabelledSettings):
    """Settings of ``simsam probe apply``: one fitted probe, and other images.

    What features are computed by is that of the run whose probe it is, and is not given anew.
    """

    before_images: ClassVar[Sequence[str]] = ("probe_run",)

    @classmethod
    def not_given(cls) -> list[str]:
        """Names of the settings that the fitted probe fixes: what its features depend on, and the names of classes."""
        return [*cls.fields_of("result", (Images, Numbers, Network, Taps)), "class_names"]

    @classmethod
    def left_open(cls) -> list[str]:
        """Names of further settings that are as in that run, unless they are given."""
        return [*cls.limits(), "ignore_label", "weights"]

    def written(self) -> dict[str, Any]:
        """What can be given, but for what is left open."""
        left_open = {name for name in self.left_open() if name not in self.model_fields_set}
        return self.model_dump(mode="json", exclude={*self.not_given(), *left_open})


SETTINGS = ProbeApplySettings
