"""Boxes joined to images by name, from VOC's XML files or COCO's instances file."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets import coco, voc
from simsam_batch.catalog.facts import BOXES_COLUMN
from simsam_batch.catalog.records import quoted, repeated_values
from simsam_batch.errors import SettingsError
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, read_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

_XML = ".xml"


def with_annotations(table: pa.Table, url: str, notes: list[str]) -> pa.Table:
    """The records with `BOXES_COLUMN`, by the path without its suffix: null for images without an annotation.

    Args:
        table: a catalog's.
        url: of a folder of XML files, or of a ``.json`` file.
        notes: what people should know is added here.

    Raises:
        SettingsError: nothing there, it cannot be read, nothing in it belongs to any of the images, or two images
            of one stem would get the same boxes.
        StorageError: the storage did not answer.
    """
    import pyarrow as pa

    boxes = _of_coco(url, notes) if url.lower().endswith(".json") else _of_voc(url)
    _joined(table, boxes, "boxes", "boxes", url, notes)
    column = [boxes.get(posixpath.splitext(name)[0]) for name in table["image_id"].to_pylist()]
    return table.append_column(BOXES_COLUMN, pa.array(column, pa.list_(pa.list_(pa.float64()))))


def with_instances(
    table: pa.Table, url: str, notes: list[str]
) -> tuple[pa.Table, dict[str, tuple[tuple[int, int] | None, list[coco.Instance]]]]:
    """The records with ``truth_uri`` the URL of a file of instances, null for images that are not in it; and these.

    Args:
        table: a catalog's.
        url: of COCO's ``.json`` file.
        notes: what people should know is added here.

    Returns:
        The instances by the path of their image without its suffix.

    Raises:
        SettingsError: nothing there, it cannot be read, nothing in it belongs to any of the images, or two images
            of one stem would get the same instances.
        StorageError: the storage did not answer.
    """
    import pyarrow as pa

    try:
        instances = coco.instances_of(read_url(url), notes)
    except (ObjectNotFound, ValueError) as error:
        raise SettingsError(f"truth: {redact(url)} is not COCO's: {error}") from error
    has = _joined(table, instances, "instances", "truth", url, notes)
    at = table.column_names.index("truth_uri")
    column = pa.array([url if each else None for each in has], pa.string())
    return table.set_column(at, table.schema.field(at), column), instances


def _joined(
    table: pa.Table, found: Mapping[str, object], what: str, option: str, url: str, notes: list[str]
) -> list[bool]:
    """Whether something was found for each image, by the path without its suffix."""
    import pyarrow as pa

    names = table["image_id"].to_pylist()
    stems = [posixpath.splitext(name)[0] for name in names]
    shared = repeated_values(pa.array([stem for stem in stems if stem in found], pa.string()))
    if shared:
        raise SettingsError(
            f"{option}: more than one image would get the same {what}: {quoted(shared)}. To mend it: give each image a "
            "stem of its own"
        )
    without = [name for name, stem in zip(names, stems, strict=True) if stem not in found]
    if len(without) == len(names):
        shown = f"such as {min(found)!r}" if found else "and there are none"
        raise SettingsError(
            f"{option}: no annotation of {redact(url)} ({shown}) has the sub-folder and stem of any image "
            f"(such as {names[0]!r})"
        )
    if without:
        notes.append(f"{len(without)} of {len(names)} images have no annotation: {quoted(without[:5], len(without))}")
    if extra := sorted(found.keys() - stems):
        notes.append(f"{len(extra)} annotations belong to no image: {quoted(extra[:5], len(extra))}")
    return [stem in found for stem in stems]


def _of_coco(url: str, notes: list[str]) -> dict[str, list[list[float]]]:
    try:
        return coco.boxes_of(read_url(url), notes)
    except (ObjectNotFound, ValueError) as error:
        raise SettingsError(f"boxes: {redact(url)} is not COCO's: {error}") from error


def _of_voc(url: str) -> dict[str, list[list[float]]]:
    import pyarrow as pa

    folder = Folder(absolute_url(url))
    names = [info.name for info in folder.list() if info.name.lower().endswith(_XML)]
    if not names:
        raise SettingsError(f"boxes: {folder.url} has no XML file in it; give VOC's Annotations, or COCO's .json file")
    stems = [name[: -len(_XML)] for name in names]
    if shared := repeated_values(pa.array(stems, pa.string())):
        raise SettingsError(
            f"boxes: {folder.url} has more than one file for {quoted(shared)}. To mend it: keep one of each"
        )
    boxes = {}
    for name, stem, content in zip(names, stems, folder.read_many(names), strict=True):
        try:
            boxes[stem] = voc.boxes_of(content)
        except ValueError as error:
            raise SettingsError(f"boxes: {folder.url}/{name}: {error}") from error
    return boxes
