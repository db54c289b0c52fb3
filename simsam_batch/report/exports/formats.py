"""Which formats there are, which stage each can be made of, and the folder that an export goes to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from simsam_batch.errors import SettingsError
from simsam_batch.report.exports.coco import Nodes, write_coco
from simsam_batch.report.exports.contact_sheet import write_contact_sheets, write_contact_sheets_of_shown
from simsam_batch.report.exports.eigenvector_files import write_eigenvectors
from simsam_batch.report.exports.hugging_face import write_hugging_face
from simsam_batch.report.exports.json_lines import write_json
from simsam_batch.report.exports.label_images import write_label_images
from simsam_batch.report.exports.matches import write_csv, write_keypoints, write_lines
from simsam_batch.report.exports.photographs import WITHOUT_OBJECT, write_cutouts, write_match_overlays, write_overlays
from simsam_batch.report.exports.pictures import write_pictures
from simsam_batch.report.exports.restyled import (
    write_restyled_hugging_face,
    write_restyled_pictures,
    write_restyled_webdataset,
)
from simsam_batch.report.exports.uris import check_root
from simsam_batch.report.exports.web_dataset import write_webdataset
from simsam_batch.report.exports.yolo import write_yolo
from simsam_batch.results.flagged import ByFlags, rows_by_flags
from simsam_batch.results.label_maps import WITHOUT_MAP
from simsam_batch.results.opening import main_stage
from simsam_batch.results.restyled import NOT_RESTYLED
from simsam_batch.runs.gone import GONE
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.records import from_json, to_json
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.stages.kinds import Kind
from simsam_batch.stages.registry import shown, stage_names, stages_with_matches, stages_with_pictures
from simsam_batch.storage import Folder, redact

RECORD = "export.json"
"""The file by which an export is known again."""

OPTIONS = ("nodes", "min_score", "max_side", "crop", "polygons", "relative_uris")
"""Names of what can be asked of some formats."""

_SAME = ("format", "stage", "nodes", "plan", "content_digest")
CHOICES = (*OPTIONS, "flagged", "not_flagged")
"""What of an export's record is None where nothing was asked for beside its format."""

_SAME_SINCE = (*OPTIONS[1:], "flagged", "not_flagged", "chosen")
"""Likewise, where an earlier release wrote nothing for what it could not leave out."""

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        about: what it is, for people.
        kinds: of what stages show, those that can be handed on so.
        write: given the rows, the folder, how many of the first rows, and what to call after each with its outcome.
        matches: the same of a stage about pairs, whose rows have matches; None where these cannot be handed on so.
        restyled: the same of a stage whose rows have restyled pictures; None likewise.
        takes: names of the options that it takes as well, see `write_export`.
        of_eigenvectors: it is made of eigenvectors.
    """

    about: str
    kinds: Sequence[Kind]
    write: Callable[..., None] | None
    matches: Callable[..., None] | None = None
    restyled: Callable[..., None] | None = None
    takes: Sequence[str] = ()
    of_eigenvectors: bool = False

    def fits(self, stage: str) -> bool:
        """Whether it can be made of the rows of a stage."""
        return self._writer(stage) is not None

    def writer(self, stage: str) -> Callable[..., None]:
        """What writes the rows of a stage that it can be made of."""
        found = self._writer(stage)
        assert found is not None  # noqa: S101  it fits
        return found

    def _writer(self, stage: str) -> Callable[..., None] | None:
        what = shown(stage)
        if what is not None:
            fits = what.kind in self.kinds and (what.eigenvectors or not self.of_eigenvectors)
            return self.write if fits else None
        if stage in stages_with_matches():
            return self.matches
        return self.restyled if stage in stages_with_pictures() else None


_MAPS: Sequence[Kind] = get_args(Kind)

_OF_KINDS: Mapping[str, tuple[Sequence[Kind], str, str]] = {
    "nodes": (["trees"], "region trees", "nodes to choose from"),
    "min_score": (["objects"], "objects", "scores to choose by"),
    "polygons": (_MAPS, "masks", "outlines"),
    "relative_uris": (_MAPS, "masks", "URIs of images"),
}
"""Of options that not every stage has that its format is made of: the kinds that do, and the words for them."""

FORMATS = {
    "coco": Format(
        "instances in one JSON file, as COCO's; of pairs their key points",
        _MAPS,
        write_coco,
        write_keypoints,
        takes=("nodes", "min_score", "polygons", "relative_uris"),
    ),
    "contact-sheet": Format(
        "all images or pairs small on numbered sheets and a page, with what was made of them",
        _MAPS,
        write_contact_sheets,
        write_contact_sheets_of_shown,
        write_contact_sheets_of_shown,
    ),
    "csv": Format("matches of pairs, a line for each point", (), None, write_csv),
    "cutout": Format(
        "objects on nothing: one PNG with transparency for each image",
        ["objects"],
        write_cutouts,
        takes=("max_side", "crop", "min_score"),
    ),
    "hf": Format(
        "Parquet with images and masks, or restyled images with their texts, for Hugging Face datasets",
        _MAPS,
        write_hugging_face,
        restyled=write_restyled_hugging_face,
    ),
    "json": Format(
        "region trees as JSON Lines, nodes nested, masks in COCO's run-length encoding; or matches of pairs",
        ["trees"],
        write_json,
        write_lines,
        takes=("relative_uris",),
    ),
    "overlay": Format(
        "photographs with masks, labels, regions or matches drawn over them, one JPEG for each image or pair",
        _MAPS,
        write_overlays,
        write_match_overlays,
        takes=("max_side",),
    ),
    "pictures": Format(
        "region trees as one PNG for each image, to look at; or restyled images",
        ["trees"],
        write_pictures,
        restyled=write_restyled_pictures,
    ),
    "png": Format("masks or label maps as one PNG for each image, values are labels", _MAPS, write_label_images),
    "pth": Format(
        "eigenvectors as PyTorch files of Deep Spectral Methods", _MAPS, write_eigenvectors, of_eigenvectors=True
    ),
    "webdataset": Format(
        "tar files with images, masks and JSON, or restyled images with their texts, for WebDataset",
        _MAPS,
        write_webdataset,
        restyled=write_restyled_webdataset,
    ),
    "yolo": Format(
        "images with outlines of objects as YOLO's text files, to train a detector on",
        ["objects"],
        write_yolo,
        takes=("min_score",),
    ),
}


def rows_for(out: Folder, stages: Sequence[str], chosen: str, stage: str | None) -> StageRows:
    """The rows that a format is made of.

    Args:
        out: the run's folder.
        stages: those it has begun.
        chosen: name of the format.
        stage: one of the stages; None for the main one if the format can be made of that, else the first.

    Raises:
        SettingsError: no such format or stage, or one cannot be made of the other.
    """
    if chosen not in FORMATS:
        raise SettingsError(f"format: {chosen!r} is not allowed; it is {' | '.join(FORMATS)}")
    has = f"it has {', '.join(stages)}" if stages else "none has begun"
    if stage is not None and stage not in stages:
        raise SettingsError(f"stage: {out.url} has no stage {stage!r}; {has}")
    named = stages if stage is None else [stage]
    first = [main_stage(named)] if named else []
    for name in filter(FORMATS[chosen].fits, [*first, *named]):
        return StageRows(out, name)
    made = f"is made of the stage {' or '.join(filter(FORMATS[chosen].fits, stage_names()))}"
    if stage is not None:
        fitting = " | ".join(name for name, each in FORMATS.items() if each.fits(stage))
        instead = f"another --format: {fitting}" if fitting else "another --stage"
        raise SettingsError(f"format: {chosen} {made}, not of {stage}. To mend it: {instead}")
    raise SettingsError(
        f"format: {chosen} {made}, which {out.url} has not; {has}. To mend it: run the command that makes it on this "
        "OUT, or take another --format"
    )


def write_export(
    rows: StageRows,
    to: Folder,
    chosen: str,
    *,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    by_flags: ByFlags | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write rows in a format, and beside them `RECORD`, ``complete`` once every image that did not fail is there.

    Args:
        rows: from `rows_for`.
        to: an empty folder, or one that holds an earlier export of the same rows in the same format, which is
            overwritten.
        chosen: name of the format.
        limit: only so many images, the first ones; None for all.
        options: by the names of `OPTIONS`; None, false, or one that is left out: the format's own choice.
        by_flags: only images that are flagged so, or not so; None for all.
        on_image: called with how many of how many images are done.

    Returns:
        What `RECORD` holds.

    Raises:
        SettingsError: nothing to export, an option that the format does not take or not of this stage, or ``to``
            holds something else.
        StorageError: the storage did not answer.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit: {limit} is not allowed; it is a whole number, at least 1")
    write = FORMATS[chosen].writer(rows.stage)
    given = {name: value for name, value in (options or {}).items() if value is not None and value is not False}
    for name, value in given.items():
        _check_option(name, value, rows, chosen)
    write = partial(write, **given)
    by_choice: dict[str, Any] = {"flagged": None, "not_flagged": None, "stale_flags": None, "chosen": None}
    if by_flags is not None and len(rows):
        rows, by_choice = rows_by_flags(rows, by_flags)
    images = min(len(rows), limit or len(rows))
    if not images:
        raise SettingsError(
            f"{rows.out.url}: no image of the stage {rows.stage} is committed yet. To mend it: try again later"
        )
    record = {
        "schema_version": SCHEMA_VERSION,
        "format": chosen,
        "stage": rows.stage,
        **dict.fromkeys(OPTIONS),
        **{name: redact(value) if isinstance(value, str) else value for name, value in given.items()},
        **by_choice,
        "plan": rows.plan,
        "content_digest": rows.content_digest,
        "images": images,
    }
    _check_place(to, rows.out, record)
    to.replace(RECORD, to_json(record | {"complete": False}, RECORD))
    outcomes: Counter[str] = Counter(
        {"ok": 0, "failed": 0, "unreadable": 0, WITHOUT_MAP: 0, NOT_RESTYLED: 0, WITHOUT_OBJECT: 0, GONE: 0}
    )
    missing: list[dict[str, str]] = []

    def count(image_id: str, outcome: str) -> None:
        outcomes[outcome] += 1
        if outcome != "ok" and outcomes[outcome] <= _NAMED:
            missing.append({"image_id": image_id, "outcome": outcome})
        if on_image is not None:
            on_image(outcomes.total(), images)

    write(rows, to, images, count)
    record |= outcomes
    record |= {"missing": missing, "complete": outcomes["ok"] > 0 and not outcomes["unreadable"]}
    to.replace(RECORD, to_json(record, RECORD))
    return record


def _check_option(name: str, value: Any, rows: StageRows, chosen: str) -> None:
    """Refuse an option that the format does not take, or not of this stage, or a value that it may not have."""
    what, having = shown(rows.stage), " | ".join(each for each, form in FORMATS.items() if name in form.takes)
    of = _OF_KINDS.get(name)
    if name not in FORMATS[chosen].takes or (of is not None and (what is None or what.kind not in of[0])):
        only = f"only {having} takes it" if of is None else f"only a stage with {of[1]} as {having} has {of[2]}"
        raise SettingsError(f"{name}: {only}. To mend it: leave it out")
    if name == "relative_uris":
        check_root(value, rows)
    if name == "nodes" and value not in get_args(Nodes):
        raise SettingsError(f"nodes: {value!r} is not allowed; it is {' | '.join(get_args(Nodes))}")
    if name == "min_score" and not math.isfinite(value):
        raise SettingsError(f"min_score: {value} is not allowed; it is a number")
    if name == "max_side" and value < 1:
        raise SettingsError(f"max_side: {value} is not allowed; it is a whole number of pixels, at least 1")


def _check_place(to: Folder, out: Folder, record: dict[str, Any]) -> None:
    if f"{to.url}/".startswith(f"{out.url}/"):
        raise SettingsError(f"to: {to.url} lies in the run itself. To mend it: name a folder outside of {out.url}")
    entries = to.entries()
    if not entries:
        return
    if RECORD not in entries:
        raise SettingsError(f"to: {to.url} is not empty. To mend it: name a new folder")
    earlier = from_json(to.read(RECORD), f"{to.url}/{RECORD}", *_SAME, "images", mend="name a new folder")
    other = [name for name in (*_SAME, *_SAME_SINCE) if earlier.get(name) != record[name]]
    if other:
        raise SettingsError(
            f"to: {to.url} holds an export of something else ({', '.join(other)} differ). To mend it: name a new folder"
        )
    if earlier["images"] > record["images"]:
        raise SettingsError(
            f"to: {to.url} holds an export of {earlier['images']} images, of which {record['images']} would be written "
            "again. To mend it: name a new folder"
        )
