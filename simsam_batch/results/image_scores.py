"""The scores that each image of a run has: those in its rows, or found by comparing its masks with their truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.results.opening import begun_stages, existing_plan
from simsam_batch.results.scoring import ScoreOptions, score_predictions
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS
from simsam_batch.scores.matching import UNMATCHED, rename
from simsam_batch.scores.probing import TRUE, TRUE_POSITIVE, class_counts, per_image_miou
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.stages.registry import command_of, scores_of, shown
from simsam_batch.storage import Folder, absolute_url

_ROWS_AT_ONCE = 65_536
_CONTENT = "content_sha256"
_IMAGES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """The confusion of each scored image, as few numbers as it has, and what clusters were matched to.

    Attributes:
        classes: names of the true classes.
        matched: (K,) the class, or -1, that each predicted id stands for; fitted on the whole run, as its own score is.
        numbers: (S,) int64, which row each confusion is of, ascending.
        cells, pixels: of each the places in the flattened (K, C) confusion that hold pixels, and how many.
    """

    classes: tuple[str, ...]
    matched: NDArray[np.int64]
    numbers: NDArray[np.int64]
    cells: Sequence[NDArray[np.int64]]
    pixels: Sequence[NDArray[np.int64]]

    def each(self, places: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Some of them as (n, 3, C) int64, see `simsam_batch.scores.probing.class_counts`, a few hundred at once.

        Args:
            places: of rows, all of them in ``numbers``.
        """
        found, size = np.searchsorted(self.numbers, places), len(self.matched) * len(self.classes)
        for start in range(0, len(found), _IMAGES_AT_ONCE):
            part = slice(start, min(start + _IMAGES_AT_ONCE, len(found)))
            tables = np.zeros((part.stop - start, size), dtype=np.int64)
            for table, place in zip(tables, found[part].tolist(), strict=True):
                table[self.cells[place]] = self.pixels[place]
            square = tables.reshape(-1, len(self.matched), len(self.classes))
            renamed = np.stack([rename(table, self.matched, len(self.classes)) for table in square])
            yield part, class_counts(renamed)


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The images of one stage of a run with their scores; arrays of (R,), a row each, in the order of the plan.

    Attributes:
        rows: of the stage.
        ids: of the images, or of the pairs.
        number: int64, of the rows.
        ok: which did not fail.
        values: float64 by the name of the score, NaN where an image has none.
        content: digests of the files; None where the stage does not have them.
        kept: further columns that were asked for.
        labels: of label maps that were compared with truth.
        truth: where the truth of each row is, if it was looked for anew.
    """

    rows: StageRows
    ids: pa.ChunkedArray
    number: NDArray[np.int64]
    ok: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]
    content: pa.ChunkedArray | None
    kept: dict[str, pa.ChunkedArray]
    labels: LabelCounts | None = None
    truth: dict[str, str] = field(default_factory=dict)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows have a score."""
        found = np.zeros(len(self.number), dtype=np.bool_)
        for each in self.values.values():
            found |= np.isfinite(each)
        return found


def stage_to_compare(url: str, wanted: str | None) -> str:
    """The stage of a run whose images have scores, or could have with a truth.

    Args:
        url: of the run.
        wanted: its name; None: the first that has begun.

    Raises:
        SettingsError: there is no run, or no such stage.
    """
    out = Folder(absolute_url(url))
    existing_plan(out)
    begun = begun_stages(out)
    found = [stage for stage in begun if scores_of(stage) or _shows(stage, "objects", "labels")]
    if wanted is None and found:
        return found[0]
    if wanted is not None and wanted in begun:
        return wanted
    has = f"it has {', '.join(begun)}" if begun else "none has begun"
    lacks = f"no stage {wanted!r}" if wanted is not None else "no stage whose images have scores"
    raise SettingsError(f"{out.url} has {lacks}; {has}. To mend it: give runs of segment, semantic, hierarchy, ...")


def image_scores(
    url: str,
    stage: str,
    metrics: Sequence[str],
    kept: Sequence[str],
    truth: str | None,
    note: Callable[[str], None],
) -> ImageScores:
    """Read the scores of all images of a run that are there so far; where rows have none, find them from masks.

    Label maps have no score of their own in the rows: maps and truth are read again, as ``simsam score`` does. Memory
    holds some columns of all rows as Arrow has them, and of label maps the confusion of every image.

    Args:
        url: of the run.
        stage: whose rows.
        metrics: names of scores, or of other columns of numbers; none: all scores that its rows have.
        kept: names of further columns, read where the stage has them.
        truth: folder of truth to compare masks or label maps with, in place of the scores in the rows.
        note: is told what people should know.

    Raises:
        SettingsError: no such stage, metric or column of numbers; or masks cannot be compared with their truth.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    rows = StageRows(Folder(absolute_url(url)), stage)
    in_rows = scores_of(stage)
    anew = truth is not None or (not in_rows and _shows(stage, "objects", "labels"))
    # rows of some settings lack some of the stage's scores
    usual = [name for name, columns in in_rows.items() if {*columns} <= {*rows.schema.names}]
    wanted = {} if anew else {name: in_rows.get(name, (name,)) for name in metrics or usual}
    for name in (each for columns in wanted.values() for each in columns):
        _check_numbers(rows, stage, name, in_rows)
    found = scores_in_rows(rows, wanted, kept)
    # of classes that were carried over rows have no IoU
    anew = anew or (not metrics and not found.scored.any() and _shows(stage, "labels"))
    return _scored_anew(found, url, stage, truth, metrics, note) if anew else found


def scores_in_rows(rows: StageRows, wanted: Mapping[str, Sequence[str]], kept: Sequence[str] = ()) -> ImageScores:
    """What columns of a stage hold of each image that is there; no mask is compared with anything.

    Args:
        rows: of the stage.
        wanted: by the name of a score the column of numbers that holds it, or the two whose ratio it is.
        kept: names of further columns, read where the stage has them.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    columns = {*(name for several in wanted.values() for name in several)}
    table = _table(rows, [rows.unit, "status", _CONTENT, *columns, *kept])
    return ImageScores(
        rows,
        table[rows.unit],
        table[_NUMBER].to_numpy(),
        np.asarray(pc.equal(table["status"], "ok").to_numpy(), dtype=np.bool_),
        {name: _values(table, several) for name, several in wanted.items()},
        table[_CONTENT] if _CONTENT in table.column_names else None,
        {name: table[name] for name in kept if name in table.column_names},
    )


def columns_of_numbers(rows: StageRows) -> list[str]:
    """Names of the columns that can be compared as scores are."""
    taken = {each.name for each in ARRAY_FIELDS}
    return [each.name for each in rows.schema if _is_number(each.type) and each.name not in taken]


_NUMBER = "row number"
"""No column of a stage has a space in its name."""


def _table(rows: StageRows, columns: Sequence[str]) -> pa.Table:
    names = [name for name in dict.fromkeys(columns) if name in rows.schema.names]
    empty = (
        pa.schema([rows.schema.field(name) for name in names])
        .empty_table()
        .append_column(_NUMBER, pa.array([], pa.int64()))
    )
    parts = [empty]
    for first, table in rows.batches(names, _ROWS_AT_ONCE):
        number = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
        parts.append(table.select(names).append_column(_NUMBER, number))
    return pa.concat_tables(parts)


def _shows(stage: str, *kinds: str) -> bool:
    what = shown(stage)
    return what is not None and what.kind in kinds


def _check_numbers(rows: StageRows, stage: str, name: str, scores: Mapping[str, Sequence[str]]) -> None:
    names = rows.schema.names
    if name not in names:
        numbers = [each.name for each in rows.schema if _is_number(each.type)]
        raise SettingsError(
            f"metric: the stage {stage} of {rows.out.url} has no score {name!r}{did_you_mean(name, numbers)}. To mend "
            f"it: name one of {', '.join(dict.fromkeys([*scores, *numbers]))}"
        )
    if not _is_number(rows.schema.field(name).type):
        raise SettingsError(f"metric: the column {name} of {rows.out.url} holds no numbers. To mend it: name another")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _values(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float64]:
    numbers = [table[name].cast(pa.float64()).to_numpy().astype(np.float64) for name in columns]
    if len(numbers) == 1:
        return np.where(np.isfinite(numbers[0]), numbers[0], np.nan)
    ratio = np.full(len(numbers[0]), np.nan)
    np.divide(numbers[0], numbers[1], out=ratio, where=numbers[1] > 0)
    return ratio


def _scored_anew(
    found: ImageScores,
    url: str,
    stage: str,
    truth: str | None,
    metrics: Sequence[str],
    note: Callable[[str], None],
) -> ImageScores:
    """The scores of masks or label maps against their truth, image by image."""
    if not _shows(stage, "objects", "labels"):
        raise SettingsError(f"truth: the stage {stage} of {found.rows.out.url} has neither masks nor label maps")
    ids: list[str] = []
    uris: dict[str, str] = {}
    overlaps: list[tuple[float, float]] = []
    cells: list[NDArray[np.int64]] = []
    pixels: list[NDArray[np.int64]] = []
    folds: list[Any] = []

    def take(record: Mapping[str, Any], state: dict[str, Any], fold: Any) -> None:
        ids.append(record["image_id"])
        uris[record["image_id"]] = record["truth_uri"]
        folds[:] = [fold]
        if isinstance(fold, SemanticScores):
            flat = fold.counts(state).reshape(-1)
            cells.append(np.flatnonzero(flat))
            pixels.append(flat[cells[-1]])
        else:
            overlaps.append((state["iou_sum"], state["accuracy_sum"]))

    scored = score_predictions(url, ScoreOptions(truth=truth, stage=stage), note, take)["metrics"]
    place = pc.index_in(pa.array(ids, pa.string()), value_set=found.ids.combine_chunks().cast(pa.string()))
    at = np.asarray(place.to_numpy(), dtype=np.int64)
    order = np.argsort(at)
    values = {}
    if overlaps:
        names, columns = ("iou", "accuracy"), np.array(overlaps).T
        labels = None
    else:
        fold = folds[0]
        matched = np.arange(fold.predicted, dtype=np.int64)
        if "class_of_cluster" in scored:
            by_name = {name: number for number, name in enumerate(fold.classes)}
            matched = np.array([by_name.get(each, UNMATCHED) for each in scored["class_of_cluster"]], dtype=np.int64)
        labels = LabelCounts(fold.classes, matched, at[order], [cells[i] for i in order], [pixels[i] for i in order])
        at, order = at[order], np.arange(len(at))
        names, columns = ("miou", "pixel_accuracy"), np.full((2, len(at)), np.nan)
        for part, counts in labels.each(at):
            columns[0, part] = per_image_miou(counts)
            right, all_pixels = counts[:, TRUE_POSITIVE].sum(-1), counts[:, TRUE].sum(-1)
            np.divide(right, all_pixels, out=columns[1, part], where=all_pixels > 0)
    unknown = [name for name in metrics if name not in (*names, SET_SCORE)]
    if unknown:
        raise SettingsError(
            f"metric: {', '.join(unknown)} is no score of masks that are compared with truth. To mend it: name one of "
            f"{', '.join([*names, *([SET_SCORE] if labels else [])])}"
        )
    for name, column in zip(names, columns, strict=True):
        if not metrics or name in metrics or SET_SCORE in metrics:
            values[name] = np.full(len(found.number), np.nan)
            values[name][at] = column
    return replace(found, values=values, labels=labels, truth=uris)


SET_SCORE = "miou_over_classes"
"""The score of label maps that a set has, and no image: the mean over classes of the IoU over all pixels."""


def command_name(stage: str) -> str:
    """The command that a stage belongs to, for people."""
    return f"simsam {command_of(stage).name}"
