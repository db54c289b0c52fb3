"""The cells of the table: a probe of a feature set under a budget; and what has to be fitted for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsam_batch.stages.probe_fits.settings import ProbeFitsSettings
from simsam_batch.stages.subsets.stage import Budget, budgets_of

CLUSTERED = ("kmeans", "ward")
"""Probes that are fitted to all train images without labels, which only name their clusters."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What is fitted at once.

    Attributes:
        probe: its kind.
        features: name of the feature set; empty for all at once.
        budget: of labels; None where labels only name clusters.
        seed: of what is drawn.
    """

    probe: str
    features: str
    budget: Budget | None
    seed: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Fit:
        """The fit of a record of the plan (`columns`)."""
        fraction, seed = record["of_fraction"], record["of_seed"]
        budget = None if fraction is None else Budget(fraction, seed)
        return cls(record["of_probe"], record["of_features"], budget, seed)

    @property
    def name(self) -> str:
        """Of its record."""
        what = f" {self.features}" if self.features else ""
        return f"{self.probe}{what}, " + (f"seed {self.seed}" if self.budget is None else self.budget.name)

    @property
    def columns(self) -> dict[str, Any]:
        """Of its record, beside its name."""
        return {
            "of_probe": self.probe,
            "of_features": self.features,
            "of_fraction": None if self.budget is None else self.budget.fraction,
            "of_seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table.

    Attributes:
        probe: its kind.
        features: name of the feature set.
        budget: of labels.
        seed: of the fit, for what is fitted by chance; else that of the budget's draw.
        clusters: of kmeans and ward; 0 for the others.
    """

    probe: str
    features: str
    budget: Budget
    seed: int
    clusters: int = 0

    @property
    def name(self) -> str:
        """Of its record."""
        many = f" {self.clusters} clusters" if self.clusters else ""
        return f"{self.probe} {self.features}{many}, {self.budget.fraction:g} of train, seed {self.seed}"

    @property
    def fit(self) -> Fit:
        """What has to be fitted for it."""
        if self.probe in CLUSTERED:
            return Fit(self.probe, self.features, None, self.seed)
        return Fit(self.probe, "", self.budget, self.budget.draw)


def clusters_of(settings: ProbeFitsSettings, classes: int, probe: str = "kmeans") -> list[int]:
    """The numbers of clusters asked for; 0 is as many as classes. Ward's of chunks say their own."""
    if probe == "ward" and settings.ward_chunks is not None:
        return [settings.ward_chunks[1]]
    return list(dict.fromkeys(many or classes for many in settings.clusters))


def cells_of(settings: ProbeFitsSettings, sets: Sequence[str], classes: int) -> list[Cell]:
    """All cells that the settings ask for, in the order of the table.

    What is fitted by chance has as many seeds as there are draws, for the whole of the labels too.
    """
    budgets = budgets_of(settings)
    found = []
    for probe in settings.probes:
        for name in sets:
            if probe not in CLUSTERED:
                found += [Cell(probe, name, budget, budget.draw) for budget in budgets]
                continue
            for many in clusters_of(settings, classes, probe):
                for fraction in settings.fractions:
                    draws = {budget.draw: budget for budget in budgets if budget.fraction == fraction}
                    found += [
                        Cell(probe, name, draws.get(seed, draws[0]), seed, many) for seed in range(settings.seeds)
                    ]
    return found


def fits_of(cells: Iterable[Cell]) -> list[Fit]:
    """All that has to be fitted for some cells, each once, in their order."""
    return list(dict.fromkeys(cell.fit for cell in cells))
