"""Rows of any stage as label maps: one number for every pixel, and what the numbers are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.objects import COLUMNS
from simsam_batch.results.trees import RegionTree
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.records import from_json
from simsam_batch.stages.kinds import Kind, Shown
from simsam_batch.stages.registry import shown
from simsam_batch.storage import Folder, ObjectNotFound

WITHOUT_MAP = "without_map"
"""Status of an image that did not fail, and of which its stage makes no map: one that probes were fitted on."""

_COLUMNS = ["image_id", "uri", "status", "error_type", "error", "width", "height", "content_sha256"]
_OF_KIND: Mapping[Kind, list[str]] = {
    "objects": list(COLUMNS),
    "labels": ["segments"],
    "trees": ["grid_h", "grid_w", "patch", "superpixel_map", "leaf_masks", "nodes"],
}


def shown_by(rows: StageRows) -> Shown:
    """What the rows of a stage show.

    Raises:
        SettingsError: neither masks nor labels nor trees.
    """
    found = shown(rows.stage)
    if found is None:
        raise SettingsError(
            f"stage: {rows.stage} of {rows.out.url} has no masks. To mend it: name a stage that has some"
        )
    return found


def kind_of(rows: StageRows) -> Kind:
    """The kind of what the rows of a stage show."""
    return shown_by(rows).kind


def facts_of(rows: StageRows) -> list[str]:
    """The columns of the stage's own that go with an image as they are."""
    return [name for name in shown_by(rows).facts if name in rows.schema.names]


def map_rows(rows: StageRows, more: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows in order with their numbers, with all that a map and its image need; bounded memory.

    Of trees each has under ``labels`` the dataset-wide label of every node (0: none) if the nodes were labelled, else
    None. ``content_sha256`` of label maps is that of the regions they were made of. The ``status`` of an image that did
    not fail and has no map is `WITHOUT_MAP`, so that whoever takes those that are ``ok`` takes those with a map.

    Args:
        rows: of a stage that shows something.
        more: further columns of its own, as far as it has them.

    Raises:
        RunError: the labels are not those of these trees.
    """
    what = shown_by(rows)
    own = rows.each(dict.fromkeys([*_COLUMNS, *_OF_KIND[what.kind], *facts_of(rows), *more]))
    beside = [(dict.fromkeys(columns), rows.beside(stage, columns)) for stage, columns in what.beside.items()]
    for number, of_stage in own:
        row = of_stage
        for nothing, others in beside:
            row = row | (next(others)[1] or nothing)
        yield number, _checked(rows, what, row)


def map_row(rows: StageRows, number: int) -> dict[str, Any]:
    """One of the rows that `map_rows` gives, by its number; others are not read.

    Raises:
        RunError: it is not there, or the labels are not those of this tree.
    """
    what = shown_by(rows)
    row: dict[str, Any] = rows.take([number], [*_COLUMNS, *_OF_KIND[what.kind], *facts_of(rows)]).to_pylist()[0]
    for stage, columns in what.beside.items():
        # another stage may not have begun, or not have come so far
        row |= dict.fromkeys(columns)
        with suppress(SettingsError, RunError):
            row |= StageRows(rows.out, stage).take([number], columns).to_pylist()[0]
    return _checked(rows, what, row)


def _checked(rows: StageRows, what: Shown, row: dict[str, Any]) -> dict[str, Any]:
    if lacks_map(row):
        row["status"] = WITHOUT_MAP
    if what.kind == "trees" and row["labels"] is not None and len(row["labels"]) != len(row["nodes"] or ()):
        raise RunError(
            f"{rows.out.url}: the stage {', '.join(what.beside)} has {len(row['labels'])} labels for the "
            f"{len(row['nodes'] or ())} nodes of {row['image_id']!r}. To mend it: label the nodes again"
        )
    return row


def lacks_map(row: Mapping[str, Any]) -> bool:
    """Whether a row is of an image that did not fail, and of which its stage makes no map."""
    return row["status"] == "ok" and "segments" in row and row["segments"] is None


def label_map(row: Mapping[str, Any], settings: Mapping[str, Any], kind: Kind) -> NDArray[np.int32]:
    """The map of an image that is ``ok``, (height, width), at its full size.

    Of object masks 1 is the object and 0 the rest. Of label maps these are the labels, 0 the background; or true
    classes, of which 0 is one as any other. Of trees it is the number in ``nodes`` of the node that a pixel ends in,
    plus 1; 0 for none.

    Args:
        row: from `map_rows`, or any row with the columns that hold masks; its ``segments`` are there.
        settings: of its stage.
        kind: of `kind_of`.
    """
    if kind == "objects":
        return decode(row["mask_rle"]).astype(np.int32)
    if kind == "trees":
        return RegionTree(row, settings).owners((row["height"], row["width"])) + np.int32(1)
    labels = np.zeros((row["height"], row["width"]), dtype=np.int32)
    for segment in row["segments"]:
        labels[decode(segment["mask_rle"])] = segment["label"]
    return labels


def label_names(rows: StageRows) -> list[str] | None:
    """The name of every number that a map may hold, that of 0 first; None for trees: each has numbers of its own.

    A label is called by the class that its cluster was matched to, if the run had truth and is published; with its
    number behind it if the class has other clusters. Else it goes by its number. No two have one name: where a class is
    called like another one with a number, all have their numbers. Labels that are true classes have their names; those
    that nobody has named are called by their ids.
    """
    if shown_by(rows).classes:
        return true_class_names(rows.resolved)
    kind = kind_of(rows)
    if kind == "trees":
        return None
    if kind == "objects":
        return ["background", "object"]
    clusters = cluster_count(rows)
    matched: list[str | None] = [] if rows.result is None else rows.result["metrics"].get("class_of_cluster") or []
    matched = [*matched, *[None] * (clusters + 1 - len(matched))][: clusters + 1]
    numbered = [f"{of_class or 'cluster'} {label}" for label, of_class in enumerate(matched)]
    often = Counter(matched)
    often["background"] += 1
    plain = [of_class if of_class and often[of_class] == 1 else numbered[i] for i, of_class in enumerate(matched)]
    for names in (["background", *plain[1:]], ["background", *numbered[1:]]):
        if len({*names}) == len(names):
            break
    return names


def true_class_names(resolved: Mapping[str, Any]) -> list[str]:
    """Names of the classes 0 to C - 1, their ids as text where nobody has named them.

    Args:
        resolved: of a stage whose labels are true classes: how many there are under ``classes``, their names under
            ``truth``.
    """
    named = resolved["truth"]["classes"]
    return [str(label) for label in range(resolved["classes"])] if named is None else list(named)


def cluster_count(rows: StageRows) -> int:
    """How many clusters the labels of a stage come from; 0 before they are fitted."""
    stage = shown_by(rows).clusters
    return 0 if stage is None else int(recorded_settings(rows.out, stage).get("clusters", 0))


def recorded_settings(out: Folder, stage: str) -> dict[str, Any]:
    """The settings of a stage as they are recorded; none before it has begun.

    Of runs of release 0.1 a fit of clusters has its record in ``clusters.json``.
    """
    for name in (f"{stage}/stage.json", f"{stage}/clusters.json"):
        with suppress(ObjectNotFound):
            return dict(from_json(out.read(name), f"{out.url}/{name}", "settings")["settings"])
    return {}
