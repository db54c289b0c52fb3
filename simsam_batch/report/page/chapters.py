"""One chapter of the page: what a kind of run came to, from its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.drawing.text import Color
from simsam_batch.report.page.album import Album, Gallery, Picture
from simsam_batch.report.page.choice import sample
from simsam_batch.report.page.clusters import Cluster
from simsam_batch.report.page.pictures import CUT_OUT, Drawn, jpeg
from simsam_batch.report.page.plots import Plot, over_time
from simsam_batch.report.page.scores import Scores, scores_of, so_far
from simsam_batch.report.page.settings import Settings, settings_of
from simsam_batch.report.page.tables import Table
from simsam_batch.report.page.work import Work, pace, work_of
from simsam_batch.results.confusions import Confusion
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.records import PUBLISH_ANEW, from_json
from simsam_batch.stages.registry import Command, own_stages
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.telling.status import duration, noun_of

LEAD = 6
"""Pictures that a chapter begins with, at most."""

_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: its name.
        noun: what a record of its plan is called.
        images, planned, failed: records committed, of the plan, and failed ones of the former.
        finished: whether its results are published.
        rate: images a second while something was worked on; None before the first commit.
        last: UTC time of the last commit; None before.
    """

    stage: str
    noun: str
    images: int
    planned: int
    failed: int
    finished: bool
    rate: str | None
    last: str | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed images of one cause: how many, and some with what is said of them."""

    stage: str
    cause: str
    count: int
    named: Sequence[tuple[str, str]]


@dataclass(slots=True)
class Chapter:
    """All that the page says of one kind of run; the template reads it."""

    kind: str
    title: str
    progress: list[Progress]
    settings: Settings
    failures: list[Failures]
    sentence: str = ""
    lead: list[Picture] = field(default_factory=list)
    wide: bool = False
    all_images: list[tuple[str, str]] = field(default_factory=list)
    scores: Scores = field(default_factory=Scores)
    tables_title: str = ""
    lacking: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: list[Plot] = field(default_factory=list)
    scored_again: list[tuple[str, Scores]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    plots_note: str = ""
    galleries: list[Gallery] = field(default_factory=list)
    legend: str = ""
    colors: list[tuple[str, Color]] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    clusters_note: str = ""
    confusion: Confusion | None = None
    steps: list[tuple[str, str, str, float, str]] = field(default_factory=list)
    paces: list[Plot] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """What chapters are made from.

    Attributes:
        out: the run's folder.
        plan: of the run.
        album: where pictures go.
        samples: images of a gallery at most.
    """

    out: Folder
    plan: Plan
    album: Album
    samples: int

    def truth_uri(self, number: int) -> str | None:
        """Of a row, as the plan has it."""
        shard, place = self.plan.place_of(number)
        uri = self.plan.shard(shard).records["truth_uri"][place].as_py()
        return None if uri is None else str(uri)

    def image(self, number: int) -> dict[str, Any]:
        """The record of an image, as the plan has it."""
        shard, place = self.plan.place_of(number)
        found: dict[str, Any] = self.plan.shard(shard).records.slice(place, 1).to_pylist()[0]
        return found

    def rows(
        self, rows: StageRows, numbers: Sequence[int], columns: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows by their numbers as Python values, a few in memory at once; columns a stage has not are None."""
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            for number, row in zip(some, rows.take(some, columns).to_pylist(), strict=True):
                yield number, dict.fromkeys(columns) | row

    def picture(
        self,
        stage: str,
        number: int,
        row: Mapping[str, Any],
        drawn: Drawn,
        alt: str,
        facts: Sequence[str],
        *,
        leads: bool = False,
    ) -> Picture:
        """Put what was drawn of a row into the album; of one that leads its chapter, the picture by itself."""
        shown, size, name = drawn.small, drawn.size, "small"
        if leads and drawn.alone is not None:
            shown, size, name = jpeg(drawn.alone), drawn.alone.size, "lead"
        small, large = (
            self.album.add(f"{stage}-{number:07d}-{which}", content)
            for which, content in ((name, shown), ("large", drawn.large))
        )
        return Picture(row["image_id"], small, large, size, alt, facts, drawn.fault)

    def cut_out(self, stage: str, number: int, label: int, content: bytes, whole: Picture) -> Picture:
        """Put a region with a label into the album; it leads to the picture of the whole image."""
        small = self.album.add(f"{stage}-{number:07d}-label-{label}", content)
        return Picture(whole.name, small, whole.large, CUT_OUT, f"region with label {label} in {whole.name}", ())

    def metrics(self, stage: str) -> dict[str, Any] | None:
        """The scores in a stage's result file; None while there is none."""
        found = Ledger(self.out, stage).published()
        return None if found is None else dict(found["metrics"])

    def scored_again(self, stages: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Name and scores of what ``simsam score`` found of some stages."""
        found = []
        for entry in self.out.entries():
            if entry == "results/":
                names = [info.name for info in self.out.list("results")]
                files = [name for name in names if name.startswith("results/score-") and name.endswith(".json")]
                for name in files:
                    held = self._json(name, "stage", "metrics")
                    if held is not None and held["stage"] in stages:
                        found.append((name, dict(held["metrics"])))
        return found

    def _json(self, name: str, *keys: str) -> dict[str, Any] | None:
        try:
            return from_json(self.out.read(name), f"{self.out.url}/{name}", *keys, mend=PUBLISH_ANEW)
        except ObjectNotFound:
            return None


def begun(source: Source, command: Command, stages: Sequence[str]) -> tuple[Chapter, dict[str, Work]]:
    """What all chapters have: progress, settings, failures, time; and what the manifests say by stage.

    They are of the stages that belong to the command: one that it shares stands in the chapter of the first to have it.

    Args:
        source: what it is made from.
        command: whose chapter it is.
        stages: those of the run that have begun.
    """
    begun_own = [stage for stage in own_stages(command) if stage in stages]
    ledgers = {stage: Ledger(source.out, stage) for stage in begun_own}
    works = {stage: work_of(ledger.manifests(), ledger.plan().unit) for stage, ledger in ledgers.items()}
    chapter = Chapter(
        # ids of the page hold no space
        command.name.replace(" ", "-"),
        command.title,
        [_progress(source, stage, work) for stage, work in works.items()],
        settings_of(source.out, command, works),
        [
            Failures(stage, cause, count, work.named.get(cause, ()))
            for stage, work in works.items()
            for cause, count in work.errors.most_common()
        ],
    )
    total = sum(sum(work.seconds.values()) for work in works.values())
    nouns = {progress.stage: progress.noun for progress in chapter.progress}
    for stage, work in works.items():
        noun = nouns[stage]
        for step, seconds in sorted(work.seconds.items(), key=lambda each: -each[1]):
            share = seconds / total if total else 0.0
            milliseconds = 1000 * seconds / work.images
            each = f"{milliseconds:,.{1 if milliseconds < 10 else 0}f} ms" + ("" if noun == "image" else f" a {noun}")
            in_all = duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
            chapter.steps.append((stage, step, in_all, share, each))
        seconds, rates = pace(work.spans)
        # one shard has no pace
        if seconds and len(work.spans) > 1:
            chapter.paces.append(over_time(f"{noun.capitalize()}s a second: {stage}", noun, seconds, rates))
    chapter.scored_again = [(name, scores_of(found)) for name, found in source.scored_again(list(works))]
    return chapter, works


def scores_or_so_far(source: Source, stage: str, name: str, values: Any) -> Scores:
    """The published scores of a stage; before they are, the mean of one over the rows so far."""
    metrics = source.metrics(stage)
    return scores_of(metrics) if metrics is not None else so_far(name, values)


def _progress(source: Source, stage: str, work: Work) -> Progress:
    seconds, _ = pace(work.spans)
    plan = Ledger(source.out, stage).plan()
    last = max((end for _, end, _ in work.spans), default=None)
    return Progress(
        stage,
        noun_of(plan.unit),
        work.images,
        plan.records,
        work.failed,
        source.metrics(stage) is not None,
        f"{work.images / seconds:.2f}" if seconds else None,
        None if last is None else f"{datetime.fromtimestamp(last, UTC):%Y-%m-%d %H:%M} UTC",
    )


Titled = Mapping[str, tuple[str, Sequence[int]]]
"""By the title of a gallery what is to be said of it, and the numbers of its images."""


def numbers_of(titled: Titled) -> set[int]:
    """Of all images in some galleries."""
    return {number for _, numbers in titled.values() for number in numbers}


def leading(numbers: NDArray[np.int64]) -> list[int]:
    """The numbers of the images that a chapter begins with: a sample at random, the same one every time."""
    return sample(numbers, LEAD)


def show(
    made: Chapter, lead: Sequence[int], titled: Titled, pictures: Mapping[int, Picture], *, wide: bool = False
) -> None:
    """Put pictures into a chapter: those that it begins with, and galleries, so that no image is shown twice.

    Args:
        made: the chapter.
        lead: numbers of the images that it begins with.
        titled: the galleries in their order; what an earlier one has shown is left out of later ones.
        pictures: by the numbers of their images.
        wide: whether pictures take more room than usual.
    """
    made.lead, made.wide = [pictures[number] for number in lead], wide
    shown = set(lead)
    for title, (about, numbers) in titled.items():
        left = [number for number in numbers if number not in shown]
        shown.update(left)
        if left:
            more = " Images that are shown above are left out." if len(left) < len(numbers) else ""
            made.galleries.append(Gallery(title, about + more, [pictures[number] for number in left], wide))


def dots(count: int, most: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(count,) which of so many rows get a dot: all, or ``most`` spread evenly."""
    chosen = np.zeros(count, np.bool_)
    chosen[np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int))] = True
    return chosen
