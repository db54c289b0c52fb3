"""Scores of predictions that are there already, a run's or any tool's, under the protocols of `simsam_batch.scores`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog.annotations import with_annotations, with_instances
from simsam_batch.catalog.datasets.coco import Instance
from simsam_batch.catalog.datasets.voc import CLASSES as VOC_CLASSES
from simsam_batch.catalog.facts import BOXES_COLUMN, center_crops
from simsam_batch.catalog.truth import with_truth
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.results.detection_scoring import (
    PROTOCOL,
    ObjectDetectionScores,
    TrueObjects,
    of_boxes,
    true_objects,
)
from simsam_batch.results.objects import COLUMNS, FoundObject
from simsam_batch.results.one_size import OneSize
from simsam_batch.results.predictions import FilePredictions, Kind, Predictions, RunPredictions, open_predictions
from simsam_batch.scores.bits import packed
from simsam_batch.scores.boundary import boundary_iou
from simsam_batch.scores.localisation import LocalisationScores
from simsam_batch.scores.matching import Matching
from simsam_batch.scores.overlap import ObjectScores, mask_overlap
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.stages.true_classes import names_of, read_class_names
from simsam_batch.storage import absolute_url, redact

_VOC_IGNORE = 255
_THREADS = 2
_AHEAD = 16
_ROWS_AT_ONCE = 256
_LISTED = 5
_OF_LABELS = ("classes", "clusters", "matching", "ignore_label", "protocol")
_OF_PIXELS = ("resize_prediction", "center_crop")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """What to compare predictions with, and how. None leaves a choice to the predictions, as described.

    Attributes:
        truth: folder of truth masks or class id images, or COCO's instances file, whose objects the ones found are
            compared with; None for the truth a run was planned with.
        boxes: folder of VOC's XML files or COCO's instances file, for CorLoc instead.
        stage: whose results of a run; None: the first finished one with masks or label maps.
        kind: ``object`` or ``semantic``; None: what the run's stage makes, and object masks in a folder.
        classes: names of the true classes from id 0; None: those of the run.
        clusters: label maps hold 0 and the clusters 1 to this; None: as many as the run has, and class ids in a folder
            and in a run whose labels are classes.
        matching: of clusters to classes; None: ``hungarian`` for as many labels as classes, else ``majority``, which
            is upstream's rule.
        ignore_label: id in the truth that is not scored.
        protocol: ``semantic`` or ``voc-semantic``, which brings VOC's classes and ignored label; or ``detection``:
            average precision and recall of objects, several or one an image. None: ``detection`` with a file of
            instances, else that of the run, else ``semantic``.
        resize_prediction: bring predictions to the truth's size, each pixel from the nearest.
        center_crop: score the central square of each image alone; None: as the run was.
    """

    truth: str | None = None
    boxes: str | None = None
    stage: str | None = None
    kind: Kind | None = None
    classes: tuple[str, ...] | None = None
    clusters: int | None = None
    matching: Matching | None = None
    ignore_label: int | None = None
    protocol: str | None = None
    resize_prediction: bool = False
    center_crop: bool | None = None


class _Scores(Protocol):
    """A fold of `simsam_batch.scores`."""

    def zero(self) -> dict[str, Any]: ...
    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]: ...
    def result(self, s: dict[str, Any]) -> dict[str, Any]: ...


OnImage = Callable[[Mapping[str, Any], dict[str, Any], _Scores], None]
"""Called with the record of an image that is scored, its ``truth_uri`` in it, its own state, and what made that."""


def score_predictions(
    url: str, options: ScoreOptions, note: Callable[[str], None], on_image: OnImage | None = None
) -> dict[str, Any]:
    """Compare the predictions at a URL with their truth; images are read one after another, so memory stays small.

    Args:
        url: of a finished run, or of a folder of masks or label maps, joined to the truth by sub-folder and stem.
        options: see there.
        note: is told of files that have no partner and of truth that cannot be used.
        on_image: see `OnImage`; called in the order of the images.

    Returns:
        ``kind``, ``stage`` (None for a folder), ``predictions``, ``truth``, counts of images, ``notes`` and
        ``metrics``.

    Raises:
        SettingsError: nothing to compare, or a prediction that cannot be: of another size, with ids out of range, or
            no mask; it is named.
        StorageError: the storage did not answer.
    """
    if options.truth is not None and options.boxes is not None:
        raise SettingsError("boxes: give --truth or --boxes; what each measures is another thing")
    notes: list[str] = []
    predictions = open_predictions(url, options.stage, options.kind, options.truth, notes)
    if options.resize_prediction and isinstance(predictions, RunPredictions):
        raise SettingsError("resize_prediction: masks of a run have the size of their images; leave it out")
    records, instances = _with_truth(predictions, url, options, notes)
    for each in notes:
        note(each)
    comparison = _comparison(predictions, records, options, instances)
    _check_effects(options, comparison.kind, predictions)
    state, counts, faults = _compare(predictions, records, comparison, on_image)
    if faults:
        listed = f"{len(faults)} truth files cannot be used: {'; '.join(faults[:_LISTED])}"
        notes.append(listed)
        note(listed)
    metrics = comparison.scores.result(state)
    if not metrics:
        raise SettingsError(f"nothing could be scored: {'; '.join(notes) or 'no prediction has a truth'}")
    return {
        "kind": comparison.kind,
        "stage": predictions.stage if isinstance(predictions, RunPredictions) else None,
        "predictions": redact(absolute_url(url)),
        "truth": next((redact(absolute_url(u)) for u in (options.truth, options.boxes) if u), None),
        "images": records.num_rows,
        **counts,
        "truth_errors": len(faults),
        "notes": notes,
        "metrics": metrics,
    }


def class_names(text: str) -> tuple[str, ...]:
    """Names of classes from a file with one a line, or for a number N the names ``0`` to N - 1.

    Raises:
        SettingsError: there is no such file, or it is no text.
    """
    return tuple(map(str, range(int(text)))) if text.isdecimal() else read_class_names(text)


_Instances = Mapping[str, tuple[tuple[int, int] | None, list[Instance]]]


def _with_truth(
    predictions: Predictions, url: str, options: ScoreOptions, notes: list[str]
) -> tuple[pa.Table, _Instances | None]:
    """The predictions' records with ``truth_uri`` or `BOXES_COLUMN`; and the instances, if a file of them is given."""
    records = predictions.records
    if options.boxes is not None:
        return with_annotations(records, options.boxes, notes), None
    if options.truth is not None:
        at = records.column_names.index("truth_uri")
        blank = records.set_column(at, records.schema.field(at), pa.nulls(records.num_rows, pa.string()))
        blank = blank.drop_columns([BOXES_COLUMN] if BOXES_COLUMN in blank.column_names else [])
        if _of_instances(options):
            return with_instances(blank, options.truth, notes)
        return with_truth(blank, options.truth, url, notes), None
    if BOXES_COLUMN not in records.column_names and records["truth_uri"].null_count == records.num_rows:
        raise SettingsError(f"truth: {redact(url)} has no truth of its own. To mend it: give --truth FOLDER or --boxes")
    return records, None


def _of_instances(options: ScoreOptions) -> bool:
    return options.truth is not None and options.truth.lower().endswith(".json")


def _of_objects(options: ScoreOptions) -> bool:
    """Whether all objects of an image are compared."""
    if _of_instances(options) and options.protocol not in (None, PROTOCOL):
        raise SettingsError(f"protocol: {options.truth} holds instances, which {PROTOCOL} alone compares")
    return options.protocol == PROTOCOL or _of_instances(options)


def _check_effects(options: ScoreOptions, kind: str, predictions: Predictions) -> None:
    """Refuse options that do nothing in a comparison of this kind."""
    idle = {
        "semantic": (),
        "object": _OF_LABELS,
        "corloc": (*_OF_LABELS, *_OF_PIXELS),
        "detection": ("classes", "clusters", "matching", *_OF_PIXELS),
    }[kind]
    if kind == "detection" and (options.boxes is not None or _of_instances(options)):
        idle = (*idle, "ignore_label")
    given = [name for name in idle if getattr(options, name) not in (None, False)]
    if given:
        compared = {"corloc": "boxes", "detection": "objects"}.get(kind, "object masks")
        raise SettingsError(f"{', '.join(given)}: no effect where {compared} are scored. To mend it: leave it out")
    if options.stage is not None and isinstance(predictions, FilePredictions):
        raise SettingsError("stage: a folder of files has no stages. To mend it: leave it out, or give a run's OUT")
    if isinstance(predictions, RunPredictions) and predictions.of_classes:
        matched = [name for name in ("clusters", "matching") if getattr(options, name) not in (None, "none")]
        if matched:
            raise SettingsError(
                f"{', '.join(matched)}: no effect on the stage {predictions.stage}, whose labels are classes. To mend "
                "it: leave it out"
            )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How predictions are compared.

    Attributes:
        kind: of what is compared.
        scores: their fold.
        of_image: makes the state of one image from its prediction and the record with its truth.
        load: the prediction of a row; None where there is none.
        columns: that ``load`` needs besides.
    """

    kind: str
    scores: _Scores
    of_image: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
    load: Callable[[Mapping[str, Any]], Any]
    columns: Sequence[str] = ()


def _detection(
    predictions: Predictions, records: pa.Table, options: ScoreOptions, instances: _Instances | None
) -> _Comparison:
    whole = not isinstance(predictions, RunPredictions) or predictions.has_objects
    if predictions.kind != "object" or not whole:
        raise SettingsError(f"protocol: {PROTOCOL} takes objects, which simsam segment finds, or a folder of masks")
    scores, by_boxes = ObjectDetectionScores(), BOXES_COLUMN in records.column_names

    def of_objects(found: tuple[tuple[int, int], list[FoundObject]], row: Mapping[str, Any]) -> dict[str, Any]:
        size, objects = found
        truth: TrueObjects
        if by_boxes:
            truth = of_boxes(row[BOXES_COLUMN] or [])
        else:
            truth = true_objects(row, size, instances, options.ignore_label)
        return scores.of_image(objects, truth)

    return _Comparison("detection", scores, of_objects, predictions.objects, COLUMNS)


def _comparison(
    predictions: Predictions, records: pa.Table, options: ScoreOptions, instances: _Instances | None
) -> _Comparison:
    if _of_objects(options):
        return _detection(predictions, records, options, instances)
    if BOXES_COLUMN in records.column_names:
        if predictions.kind != "object":
            raise SettingsError("boxes: CorLoc takes one box an image, from object masks; label maps have many")
        boxes = LocalisationScores()
        return _Comparison(
            "corloc",
            boxes,
            lambda mask, row: boxes.of_image(largest_box(mask), row[BOXES_COLUMN] or []),
            predictions.load,
        )
    source = predictions.source if isinstance(predictions, RunPredictions) else {}
    crop = center_crops(source) if options.center_crop is None else options.center_crop
    paired = OneSize(options.resize_prediction, crop, isinstance(predictions, FilePredictions))
    limits = images.ImageLimits()
    if predictions.kind == "object":
        objects = ObjectScores()

        def of_masks(mask: NDArray[Any], row: Mapping[str, Any]) -> dict[str, Any]:
            predicted, true = paired(mask, row, lambda u, size: images.load_truth(u, limits, size))
            pair = packed(predicted), packed(true)
            return objects.of_image(mask_overlap(*pair), boundary_iou=boundary_iou(*pair))

        return _Comparison("object", objects, of_masks, predictions.load)
    scores = _semantic_scores(predictions, options)

    def read(uri: str, size: tuple[int, int]) -> NDArray[Any]:
        return images.load_labels(uri, limits, size, classes=len(scores.classes), ignore=scores.ignore)

    def of_maps(labels: NDArray[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        pair = paired(labels, row, read)
        try:
            return scores.of_image(*pair)
        except ValueError as error:
            raise SettingsError(
                f"prediction {row['image_id']}: {error}. To mend it: give the number of --clusters, or all --classes"
            ) from error

    return _Comparison("semantic", scores, of_maps, predictions.load)


def _semantic_scores(predictions: Predictions, options: ScoreOptions) -> SemanticScores:
    """The fold for label maps; what the options leave open is as the run's stage had it."""
    run = predictions if isinstance(predictions, RunPredictions) else None
    settings = run.about["settings"] if run else {}
    as_run = (run.about["resolved"].get("truth") if run else None) or {}
    if options.protocol not in (None, as_run.get("protocol")):
        # Another protocol has other classes.
        as_run = {}
    protocol = options.protocol or as_run.get("protocol", "semantic")
    is_voc = protocol == "voc-semantic"
    names = options.classes or (names_of(as_run["classes"]) if as_run else VOC_CLASSES if is_voc else ())
    if not names:
        raise SettingsError("classes: label maps need the classes of the truth: give --classes FILE or a number")
    ignore = options.ignore_label
    if ignore is None:
        ignore = as_run.get("ignore_label", _VOC_IGNORE if is_voc else None)
    holds_clusters = run is not None and not run.of_classes
    clusters = run.most_clusters() if run and holds_clusters and options.clusters is None else options.clusters
    labels = len(names) if clusters is None else clusters + 1
    matching = options.matching or settings.get("matching")
    if matching is None:
        matching = "none" if clusters is None else "hungarian" if labels == len(names) else "majority"
    try:
        return SemanticScores(names, predicted=labels, ignore=ignore, matching=matching, protocol=protocol)
    except ValueError as error:
        raise SettingsError(f"classes: {error}") from error


def largest_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The box of a mask's largest part, parts being connected by sides or corners; of an empty mask, everything.

    Returns:
        (xmin, ymin, xmax, ymax) in pixels, the maximum exclusive. Of parts of equal size the one that begins higher.

    Source: localisation of Deep Spectral Methods.
    """
    from scipy import ndimage

    if not mask.any():
        return 0, 0, mask.shape[1], mask.shape[0]
    parts, _ = ndimage.label(mask, np.ones((3, 3), dtype=int))
    pixels = np.bincount(parts.ravel())
    rows, columns = ndimage.find_objects(parts)[int(pixels[1:].argmax())]
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def _compare(
    predictions: Predictions, records: pa.Table, comparison: _Comparison, on_image: OnImage | None
) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """The merged state of all images; how many have no prediction or no truth; what is wrong with truth files."""
    counts = {"images_without_prediction": 0, "images_without_truth": 0}
    state, faults = comparison.scores.zero(), list[str]()
    truth = BOXES_COLUMN if BOXES_COLUMN in records.column_names else "truth_uri"

    def load(item: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any] | None:
        row, record = item
        prediction = comparison.load(row)
        return None if prediction is None else comparison.of_image(prediction, record)

    def items() -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        for row, record in zip(predictions.items(comparison.columns), _rows(records), strict=True):
            if row["image_id"] != record["image_id"]:
                raise RunError(
                    f"the results have {row['image_id']!r} where the plan has {record['image_id']!r}. To mend it: "
                    "simsam verify names what is damaged"
                )
            # CorLoc itself counts images without boxes
            if record[truth] is not None or comparison.kind == "corloc":
                yield row, record
            else:
                counts["images_without_truth"] += 1

    with closing(images.decode_ahead(items(), load, threads=_THREADS, max_pending=_AHEAD)) as arrived:
        for (_, record), loaded in arrived:
            if isinstance(loaded, images.TruthError):
                faults.append(str(loaded))
            elif isinstance(loaded, Exception):
                raise loaded
            elif loaded is None:
                counts["images_without_prediction"] += 1
            else:
                state = comparison.scores.merge(state, loaded)
                if on_image is not None:
                    on_image(record, loaded, comparison.scores)
    return state, counts, faults


def _rows(table: pa.Table) -> Iterator[Mapping[str, Any]]:
    for batch in table.to_batches(_ROWS_AT_ONCE):
        yield from batch.to_pylist()
