"""Two runs whose images are joined by id: the numbers that both have of each image, and how its two masks agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.results.comparing import common_images, differing_settings
from simsam_batch.results.image_scores import ImageScores, columns_of_numbers, command_name, scores_in_rows
from simsam_batch.stages.registry import scores_of
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.session import OpenedStage, Session


@dataclass(frozen=True, slots=True)
class Joined:
    """Two stages whose images are joined.

    Attributes:
        stages, runs: of each run the stage, and the numbers in its rows.
        places: (J,) of each run, which of its rows each joined image is; ``rows`` their numbers.
        only: how many images each has alone.
        other_content: how many have one id and another content.
        metrics: that both have with a value of some image in each, scores first, then what was measured.
        settings: those that differ, as `simsam_batch.results.comparing.differing_settings` gives them.
        agreements: (J,) IoU of the two masks, NaN where there is none or it is not known yet.
        agreements_known: (J,) where it was looked for.
    """

    stages: tuple[OpenedStage, OpenedStage]
    runs: tuple[ImageScores, ImageScores]
    places: tuple[NDArray[np.int64], NDArray[np.int64]]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    only: tuple[int, int]
    other_content: int
    metrics: list[str]
    settings: list[dict[str, Any]]
    agreements: NDArray[np.float64]
    agreements_known: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many images are in both."""
        return len(self.rows[0])

    @property
    def has_masks(self) -> bool:
        """Whether the rows have object masks, which can agree."""
        return self.stages[0].kind == "objects"

    def values(self, metric: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(J,) a number of A, and that of B; NaN of no metric."""
        if metric is None:
            return (np.full(self.count, np.nan),) * 2
        a, b = (run.values[metric][at] for run, at in zip(self.runs, self.places, strict=True))
        return a, b

    def ids(self, places: NDArray[np.int64]) -> list[str]:
        """Of some joined images."""
        found: list[str] = self.runs[0].ids.take(self.places[0][places]).to_pylist()
        return found

    def agreement(self, place: int) -> float:
        """IoU of A's and B's mask of one image, found once; NaN where one has failed or the images differ in size."""
        if not self.agreements_known[place]:
            self.agreements[place] = _agreement(self, place)
            self.agreements_known[place] = True
        return float(self.agreements[place])


def joined(session: Session, name: str) -> Joined:
    """A stage of both runs, kept until they are opened anew.

    Raises:
        RefusedError: 404: not both have it.
        RunError, StorageError: its rows cannot be read.
    """
    a, b = session.run("a"), session.run("b")
    if name not in a.stages or name not in b.stages:
        shared = [each for each in a.of_images if each in b.stages]
        why = f"both have {', '.join(shared)}" if shared else "they have no stage in common"
        raise RefusedError(404, f"the runs are not both of {command_name(name) if name in a.stages else name}: {why}")
    stages = a.stage(name), b.stage(name)
    kept: Kept[Joined] = stages[0].once("compared", lambda: Kept(2))
    return kept.get(stages[1], lambda: _join(stages))


def _join(stages: tuple[OpenedStage, OpenedStage]) -> Joined:
    numbers = [columns_of_numbers(stage.rows) for stage in stages]
    both = [each for each in numbers[0] if each in numbers[1]]
    scores = [name for name, held in scores_of(stages[0].name).items() if {*held} <= {*both}]
    wanted = {name: (name,) for name in both} | {name: scores_of(stages[0].name)[name] for name in scores}
    runs = scores_in_rows(stages[0].rows, wanted), scores_in_rows(stages[1].rows, wanted)
    common, places, elsewhere, other = common_images(runs)
    at = places[0], places[1]
    rows = runs[0].number[at[0]], runs[1].number[at[1]]
    valued = {name for name in wanted if all(_any(run, name, at) for run, at in zip(runs, places, strict=True))}
    # what was measured before what was counted or is so or not: sizes are the same in both
    whole = {name for name in both if not pa.types.is_floating(stages[0].rows.schema.field(name).type)}
    order = sorted(wanted, key=lambda name: (name not in scores, name in whole))
    metrics = [name for name in order if name in valued]
    unknown = np.full(common, np.nan), np.zeros(common, np.bool_)
    settings = differing_settings(runs)
    return Joined(stages, runs, at, rows, (elsewhere[0], elsewhere[1]), other, metrics, settings, *unknown)


def _any(run: ImageScores, name: str, places: NDArray[np.int64]) -> bool:
    return bool(np.isfinite(run.values[name][places]).any())


def _agreement(both: Joined, place: int) -> float:
    from pycocotools import mask as coco

    masks = []
    for stage, rows in zip(both.stages, both.rows, strict=True):
        found = row_of(stage, int(rows[place])).get("mask_rle")
        if found is None:
            return np.nan
        masks.append({"size": found["size"], "counts": found["counts"].encode("ascii")})
    if masks[0]["size"] != masks[1]["size"]:
        return np.nan
    return float(coco.iou([masks[0]], [masks[1]], [0])[0, 0])
