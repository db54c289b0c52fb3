"""The labels that a whole collection shares: how much has each, its regions, and how labels fit true classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.drawing.labels import UNNAMED, palette
from simsam_batch.results.confusions import Confusion, best_table, class_name, confusion_of, summed_confusion
from simsam_batch.results.label_maps import true_class_names
from simsam_batch.scores.probing import class_counts, ious
from simsam_batch.stages.probe_maps.rows import REFERENCES
from simsam_batch.stages.true_classes import names_of
from simsam_batch.viewer.answers import RefusedError, as_json, one_of, whole, whole_of
from simsam_batch.viewer.label_index import ORDERS, LabelIndex, Order, nodes_index, segments_index
from simsam_batch.viewer.labels import rows_with_labels
from simsam_batch.viewer.maps import label_colors
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.pictures import version_of
from simsam_batch.viewer.session import OpenedStage, Session

MOST_REGIONS = 60
"""Of a gallery's page."""


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/clusters/{stage}`` and ``api/clusters/{stage}/{label}``."""

    def clusters(request: Request) -> Response:
        return as_json(clusters_of(_stage(session, request)))

    def gallery(request: Request) -> Response:
        label = whole_of(request.path_params["label"], "label", 0, 2**31 - 1)
        order = cast("Order", one_of(request, "order", ORDERS, "random"))
        offset, limit = whole(request, "offset", 0), whole(request, "limit", MOST_REGIONS, 1, MOST_REGIONS)
        return as_json(regions_of(_stage(session, request), label, order, offset, limit))

    return [("GET", "api/clusters/{stage}", clusters), ("GET", "api/clusters/{stage}/{label}", gallery)]


def _stage(session: Session, request: Request) -> OpenedStage:
    return session.run(one_of(request, "run", ("a", "b"), "a")).stage(request.path_params["stage"])


def clusters_of(stage: OpenedStage) -> dict[str, Any]:
    """Every label that occurs, the one in most images first, and the confusion with truth if there is one.

    Raises:
        RefusedError: 404: the stage has no labels that all images share.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    index, fit = _index(stage), _fit(stage)
    found = [
        {
            "label": label,
            "images": images,
            "regions": regions,
            "share": share,
            "class": fit.stands_for(label),
            "iou": fit.iou.get(label),
            "color": color,
        }
        for label, images, regions, share, color in zip(
            index.labels.tolist(),
            index.images_of.tolist(),
            index.counts.tolist(),
            index.shares.tolist(),
            _colors(stage, index),
            strict=True,
        )
    ]
    return {
        "kind": stage.kind,
        "classes": _of_classes(stage),
        "matched": fit.matched,
        "clusters": sorted(found, key=lambda each: (-each["images"], each["label"])),
        "total": len(index.rows),
        "images": index.images,
        "complete": stage.rows.published,
        "rest": _rest(index),
        "nought": fit.stands_for(0) if _of_classes(stage) else None,
        "confusion": fit.confusion and _as_values(fit.confusion),
    }


def regions_of(stage: OpenedStage, label: int, order: Order, offset: int, limit: int) -> dict[str, Any]:
    """Some regions of a label: where each lies, its box in pixels and its share of the image.

    Raises:
        RefusedError: 404: the stage has no labels, or none has this one.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    index, fit = _index(stage), _fit(stage)
    places = index.of(label, order)
    if not len(places):
        raise RefusedError(404, f"no region of {stage.name} has the label {label}, of the rows that are there")
    field = "nodes" if stage.kind == "trees" else "segments"
    shown = sorted(places[offset : offset + limit].tolist(), key=lambda place: int(index.rows[place]))
    regions = {}
    # row after row, so that of each shard's file the rows are read together
    for place in shown:
        number, region = int(index.rows[place]), int(index.regions[place])
        row = row_of(stage, number)
        regions[place] = {
            "row": number,
            "id": row[stage.rows.unit],
            "region": region,
            "box": row[field][region]["bbox_xyxy"],
            "area": float(index.sizes[place]),
            "v": version_of(stage, number),
        }
    at = int(np.searchsorted(index.labels, label))
    return {
        "kind": "class" if _of_classes(stage) else "label",
        "trees": stage.kind == "trees",
        "complete": stage.rows.published,
        "label": label,
        "class": fit.stands_for(label),
        "iou": fit.iou.get(label),
        "color": _colors(stage, index)[at],
        "share": float(index.shares[at]),
        "images": int(index.images_of[at]),
        "total": len(places),
        "offset": offset,
        "regions": [regions[place] for place in places[offset : offset + limit].tolist()],
    }


@dataclass(frozen=True, slots=True)
class _Fit:
    """How labels fit true classes.

    Attributes:
        classes: what each label stands for, from 0 on; None or beyond the end for none.
        matched: whether labels were matched to classes at all.
        iou: over the set, by label.
        confusion: with truth.
    """

    classes: list[str | None]
    matched: bool
    iou: Mapping[int, float | None]
    confusion: Confusion | None

    def stands_for(self, label: int) -> str | None:
        named = self.classes[label] if label < len(self.classes) else None
        return None if named is None else class_name(named)


def _index(stage: OpenedStage) -> LabelIndex:
    def make() -> LabelIndex:
        if stage.kind == "labels":
            return segments_index(stage.rows)
        beside = rows_with_labels(stage.rows)
        if beside is not None:
            return nodes_index(stage.rows, beside)
        how = "simsam hierarchy IMAGES OUT --clusters K" if stage.kind == "trees" else "simsam semantic IMAGES OUT"
        raise RefusedError(
            404, f"{stage.name} has no labels that all images share. To mend it: {how}", command=how, none=True
        )

    index: LabelIndex = stage.once("label index", make)
    return index


def _fit(stage: OpenedStage) -> _Fit:
    fit: _Fit = stage.once("fit of labels", lambda: _fit_of(stage))
    return fit


def _fit_of(stage: OpenedStage) -> _Fit:
    metrics = (stage.rows.result or {}).get("metrics") or {}
    if stage.kind == "trees":
        return _Fit([], False, {}, None)
    if not _of_classes(stage):
        classes = list(metrics.get("class_of_cluster") or [])
        by_class = metrics.get("iou_by_class") or {}
        iou = {label: by_class.get(name) for label, name in enumerate(classes) if name is not None}
        return _Fit(classes, bool(classes), iou, _confusion_of_clusters(stage, classes))
    names = true_class_names(stage.rows.resolved)
    named = stage.rows.resolved["truth"]["classes"] or ()
    confusions = metrics.get("confusions") or ({"": metrics["confusion"]} if metrics.get("confusion") else {})
    found = best_table(confusions, len(names), REFERENCES)
    if found is None:
        by_class = metrics.get("iou_by_class") or {}
        return _Fit(list(names), False, {label: by_class.get(name) for label, name in enumerate(names)}, None)
    best, table = found
    about = f"Of the best of the label maps shown: {best}." if best else ""
    confusion = confusion_of({c: table[:, c] for c in range(len(names))}, names, named, about)
    return _Fit(list(names), False, _finite(ious(class_counts(table))), confusion)


def _finite(values: NDArray[np.float64]) -> dict[int, float | None]:
    return {label: None if np.isnan(value) else value for label, value in enumerate(values.tolist())}


def _confusion_of_clusters(stage: OpenedStage, stands_for: list[str | None]) -> Confusion | None:
    truth = stage.rows.resolved.get("truth")
    if truth is None:
        return None
    columns = summed_confusion(stage.ledger.manifests(stage.generations))
    return confusion_of(columns, names_of(truth["classes"]), stands_for)


def _rest(index: LabelIndex) -> float | None:
    """The mean share of an image that no region covers: of label or class 0; None where regions lie in each other."""
    if index.nested or not index.images:
        return None
    return max(0.0, 1.0 - float(index.shares.sum()))


def _of_classes(stage: OpenedStage) -> bool:
    return stage.what is not None and stage.what.classes


def _colors(stage: OpenedStage, index: LabelIndex) -> list[str]:
    """Of each label that occurs, as label maps and the report have them."""
    colors = label_colors(stage)
    # labels of trees have none in pictures, in which colours are those of nodes
    if not colors and len(index.labels):
        colors = dict(enumerate(palette(int(index.labels.max())), 1))
    return ["#{:02x}{:02x}{:02x}".format(*colors.get(label, UNNAMED)) for label in index.labels.tolist()]


def _as_values(confusion: Confusion) -> dict[str, Any]:
    return asdict(confusion)
