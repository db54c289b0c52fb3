"""The chapter of label maps: regions, the labels they share, and how these fit classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from simsam_batch.drawing.labels import UNNAMED, palette
from simsam_batch.drawing.text import Color
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, leading, numbers_of, show
from simsam_batch.report.page.choice import at_random, by_label, sample
from simsam_batch.report.page.clusters import MOST_CLUSTERS, Cluster, clusters_of
from simsam_batch.report.page.pictures import Drawn, draw_labels, true_classes
from simsam_batch.report.page.plots import histogram
from simsam_batch.report.page.scalars import Scalars, tables_of
from simsam_batch.report.page.scores import scores_of
from simsam_batch.results.confusions import class_name, confusion_of
from simsam_batch.results.label_maps import cluster_count
from simsam_batch.results.photographs import limits_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command
from simsam_batch.stages.true_classes import names_of

_OF_REGIONS = ["image_id", "uri", "width", "height", "content_sha256", "grid_h", "grid_w", "patch", "region_map"]
_OF_REGIONS += ["region_count"]
_OF_LABELS = ["labels", "segments", "degenerate", "truth_error"]

_LEGEND = (
    "Every label has its colour, on all pictures. Behind a picture stand the photograph, the borders of its regions, "
    "its labels, and the truth if there is one, whose classes have the colour of the label that is matched to them, or "
    "grey; what does not count is white."
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, distributions, pictures and labels of label maps, or of the regions as long as there is no more.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, works = begun(source, command, stages)
    regions = StageRows(source.out, "regions")
    counts = Scalars(regions, source.plan, ["region_count", "degenerate"])
    made.plots_note = counts.note
    if counts.ok.any():
        made.plots.append(histogram("Regions of an image", "regions", counts["region_count"]))
    metrics = source.metrics("semantic")
    if metrics is not None:
        made.scores = scores_of(metrics)
    maps = _Maps(source, regions, StageRows(source.out, "semantic") if "semantic" in works else None, metrics)
    found: dict[int, tuple[int, list[int]]] = {}
    numbers = counts
    if maps.labelled is not None:
        numbers = Scalars(maps.labelled, source.plan, ["degenerate"])
        found = by_label(tables_of(maps.labelled, source.plan, ["labels"]), source.samples)
        made.confusion = confusion_of(works["semantic"].confusion, maps.classes, maps.stands_for)
    fine, bad = numbers.number[numbers.ok], numbers.number[numbers["degenerate"] == 1]
    lead = leading(fine)
    titled = {
        "Degenerate": (
            f"No second eigenvector stands out: a sample of {counted(len(bad), 'such image')}.",
            sample(bad, source.samples),
        ),
        **at_random(fine, source.samples, without=lead),
    }
    shown = dict(list(found.items())[:MOST_CLUSTERS])
    wanted = numbers_of(titled).union(lead, *(numbers for _, numbers in shown.values()))
    pictures, cut_outs = maps.drawn(sorted(wanted), lead)
    made.legend = _LEGEND
    made.sentence = _sentence(len(fine), maps, metrics)
    made.colors = [(f"label {maps.name(label)}", maps.colors.get(label, UNNAMED)) for label in shown]
    show(made, lead, titled, pictures)
    made.clusters = _clusters(maps, shown, cut_outs, metrics)
    made.clusters_note = clusters_of(len(found), maps.fitted_on)
    return made


def _sentence(images: int, maps: _Maps, metrics: Mapping[str, Any] | None) -> str:
    """What was made, and how good it is."""
    if maps.labelled is None:
        return f"Regions of {counted(images, 'image')}, which have no labels yet."
    what = f"Label maps of {counted(images, 'image')}, with {counted(len(maps.colors), 'label')} in all"
    if metrics is None:
        return f"{what} so far."
    if (overlap := metrics.get("miou_over_classes")) is not None:
        return f"{what}: a mean overlap with the true classes of {overlap:.2f} (mIoU)."
    return f"{what}; none was compared with true classes."


class _Maps:
    """Label maps of a run, and what their labels mean.

    Attributes:
        labelled: rows of the stage ``semantic``; None as long as none is committed.
        classes: names of the true classes.
        stands_for: by label the class that it is matched to.
        fitted_on: what the matching rests on; None without truth.
        colors: of the labels.
    """

    def __init__(
        self, source: Source, regions: StageRows, labelled: StageRows | None, metrics: Mapping[str, Any] | None
    ) -> None:
        self._source, self._regions = source, regions
        self.labelled = labelled if labelled is not None and len(labelled) else None
        self._truth = None if self.labelled is None else self.labelled.resolved["truth"]
        self.classes = () if self._truth is None else names_of(self._truth["classes"])
        held = metrics or {}
        self.stands_for: list[str | None] = held.get("class_of_cluster") or []
        self.fitted_on: str | None = held.get("matching_fitted_on")
        count = 0 if self.labelled is None else cluster_count(self.labelled)
        self.colors = dict(enumerate(palette(count), 1))

    def drawn(
        self, numbers: list[int], lead: Sequence[int]
    ) -> tuple[dict[int, Picture], dict[tuple[int, int], Picture]]:
        """Pictures by the number of their row, and regions cut out by number and label."""
        pictures: dict[int, Picture] = {}
        cut_outs: dict[tuple[int, int], Picture] = {}
        for number, row in self._rows(numbers):
            drawn = draw_labels(row, self._regions.settings, self._colors_for(row), self._true(number, row))
            pictures[number] = picture = self._picture(number, row, drawn, leads=number in lead)
            for label, content in drawn.regions.items():
                cut_outs[number, label] = self._source.cut_out("semantic", number, label, content, picture)
        return pictures, cut_outs

    def _rows(self, numbers: list[int]) -> Iterable[tuple[int, dict[str, Any]]]:
        below = self._source.rows(self._regions, numbers, _OF_REGIONS)
        if self.labelled is None:
            for number, row in below:
                yield number, row | {"segments": [], "labels": [], "truth_error": None}
            return
        above = self._source.rows(self.labelled, numbers, _OF_LABELS)
        for (number, row), (_, labels) in zip(below, above, strict=True):
            yield number, row | labels

    def _colors_for(self, row: Mapping[str, Any]) -> dict[int, Color]:
        return self.colors | {label: UNNAMED for label in row["labels"] if label not in self.colors}

    def _true(self, number: int, row: dict[str, Any]) -> Image.Image | None:
        uri = self._source.truth_uri(number)
        if self._truth is None or uri is None or row["truth_error"] is not None:
            return None
        matched = {name: label for label, name in reversed(list(enumerate(self.stands_for))) if name is not None}
        colors = {place: self.colors.get(matched.get(name, -1), UNNAMED) for place, name in enumerate(self.classes)}
        return true_classes(uri, limits_of(self._regions.settings, row), row, self._truth, colors)

    def _picture(self, number: int, row: dict[str, Any], drawn: Drawn, *, leads: bool) -> Picture:
        regions = counted(row["region_count"], "region")
        facts = [regions]
        alt = f"{row['image_id']}: the borders of its {regions}"
        if self.labelled is not None:
            facts.append(counted(len(row["labels"]), "label"))
            names = [self.name(label) for label in row["labels"]]
            alt = f"{row['image_id']}: its regions in the colours of their labels, {', '.join(names) or 'none'}"
        return self._source.picture("semantic", number, row, drawn, alt, facts, leads=leads)

    def name(self, label: int) -> str:
        """A label with the class that it stands for."""
        stands = self.stands_for[label] if label < len(self.stands_for) else None
        return f"{label}" if stands is None else f"{label} ({class_name(stands)})"


def _clusters(
    maps: _Maps,
    shown: Mapping[int, tuple[int, Sequence[int]]],
    cut_outs: Mapping[tuple[int, int], Picture],
    metrics: Mapping[str, Any] | None,
) -> list[Cluster]:
    iou = (metrics or {}).get("iou_by_class", {})
    found = []
    for label, (images, numbers) in shown.items():
        stands = maps.stands_for[label] if label < len(maps.stands_for) else None
        about = f"In {counted(images, 'image')}; a random sample of them."
        if stands is not None and stands in iou:
            about += f" The IoU of {class_name(stands)} is {iou[stands]:.2f} over the set."
        elif maps.stands_for:
            about += " No class is matched to it."
        pictures = [cut_outs[number, label] for number in numbers if (number, label) in cut_outs]
        named = None if stands is None else class_name(stands)
        found.append(Cluster(label, maps.colors.get(label), named, about, pictures))
    return found
