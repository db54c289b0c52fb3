"""Image records of what was named by its path: a folder, an archive, an image file, a pattern, or several."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets import named_dataset
from simsam_batch.catalog.folders import (
    folder_records,
    has_row,
    is_file,
    is_there,
    listed_files,
    note_others,
    note_unread,
)
from simsam_batch.catalog.named import told_paths
from simsam_batch.catalog.records import records_table
from simsam_batch.catalog.tables import parent_of
from simsam_batch.catalog.text_tables import SUFFIXES
from simsam_batch.errors import SettingsError
from simsam_batch.formats import kind_by_name, mend_of
from simsam_batch.storage import ObjectNotFound, absolute_url, is_archive, object_info, read_ahead, redact
from simsam_batch.storage.filesystems import READ_THREADS
from simsam_batch.storage.urls import WEB, protocol_of

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = re.compile(r"[*?\[]")
_PARTS_OF_A_BUCKET = 3
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_ALONE = (".txt", ".parquet", *SUFFIXES)
_Row = tuple[str, str, int | None, str | None]


def path_records(images: str, truth: str | None, notes: list[str], *, hidden: bool = False) -> pa.Table | None:
    """Records of a folder, an archive, an image file or a pattern; None of a folder with Parquet files and no image.

    Raises:
        SettingsError: nothing is there, or no image.
        StorageError: the storage did not answer.
    """
    among = pattern_of(images)
    if among is None and has_row(images) and (facts := _facts_of_file(images)) is not None:
        return _file_record(images, facts)
    _refuse_packed(images)
    if among is not None and is_archive(images):
        listing = listed_files("IMAGES", among[0], is_archive, notes, hidden=hidden, among=among[1])
        if listing.files.num_rows:
            return several_records(listing.files["uri"].to_pylist(), truth, notes, hidden=hidden)
    return folder_records(images, truth, notes, hidden=hidden, among=among)


def _refuse_packed(images: str) -> None:
    if images.lower().endswith(_PACKED) and is_file(images):
        raise SettingsError(
            f"{redact(images)}: of an archive of this kind no image can be read without all that is before it. To mend "
            "it: unpack it, and give the folder, the plain .tar that is in it, or a .zip of the images"
        )


def pattern_of(images: str) -> tuple[str, Callable[[str], bool]] | None:
    """The folder that a pattern is about, and whether it matches a name relative to it; None for anything else.

    What is there under that very name is no pattern, nor are the first folders of one that are on the local disk; on
    web servers nothing is, for they list nothing.

    Raises:
        SettingsError: it cannot be a pattern.
    """
    from fsspec.utils import glob_translate

    url = absolute_url(images)
    if _MAGIC.search(url) is None or protocol_of(url) in WEB:
        return None
    parts = url.split("/")
    special = [number for number, part in enumerate(parts) if _MAGIC.search(part)]
    if "://" in url and special[0] < _PARTS_OF_A_BUCKET:
        raise SettingsError(f"{redact(images)}: a pattern begins in a bucket. To mend it: write the bucket's name")
    if is_there(images):
        return None
    if protocol_of(url) == "file":
        special = [number for number in special if not Path("/".join(parts[: number + 1])).is_dir()] or special[-1:]
    first = special[0]
    try:
        matches = re.compile(glob_translate("/".join(parts[first:])))
    except (ValueError, re.error) as error:
        raise SettingsError(
            f"{redact(images)} is no pattern: {error}. To mend it: write ** alone between slashes, as in **/*.jpg"
        ) from error
    return "/".join(parts[:first]) or "/", lambda name: matches.match(name) is not None


def several_records(paths: Sequence[str], truth: str | None, notes: list[str], *, hidden: bool = False) -> pa.Table:
    """Records of image files, folders, archives and patterns, by their ids, which count from the folder above all.

    Raises:
        SettingsError: one of them cannot be used, or no image is among them.
        StorageError: the storage did not answer.
    """
    import numpy as np
    import pyarrow as pa

    for path in paths:
        if path.lower().endswith(_ALONE) or named_dataset(path) is not None:
            raise SettingsError(
                f"{redact(path)} is a list, a table or a dataset, and can only be given alone; of several paths each "
                "is an image file, a folder, an archive or a pattern. To mend it: leave it out, or give it alone"
            )
    pictures = [path for path in paths if has_row(path)]
    found = read_ahead(pictures, _facts_of_file, threads=READ_THREADS, most=4 * READ_THREADS, name="simsam-look")
    facts = {path: fact for path, fact in zip(pictures, found, strict=True) if fact is not None}
    files = [(posixpath.basename(path), absolute_url(path), *fact) for path, fact in facts.items()]
    by_folder: dict[str, list[_Row]] = {}
    for row in files:
        by_folder.setdefault(parent_of(row[1]), []).append(row)
    parts = [(folder, _table(rows)) for folder, rows in by_folder.items()]
    others: Counter[str] = Counter()
    for path in paths:
        if path in facts:
            continue
        among = pattern_of(path)
        _refuse_packed(path)
        if among is None and is_file(path) and not is_archive(path):
            others[posixpath.splitext(path)[1].lower() or "no suffix"] += 1
            continue
        table = folder_records(path, truth, notes, hidden=hidden, among=among)
        if table is None:
            raise SettingsError(f"{redact(path)} holds tables, and can only be given alone")
        parts.append((absolute_url(path) if among is None else among[0], table))
    if not parts:
        raise SettingsError(f"{told_paths(paths)}: none of them is an image")
    note_unread([row[0] for row in files], told_paths(paths), notes)
    note_others(others, told_paths(paths), notes)
    above = _above_all([top for top, _ in parts])
    joined = pa.concat_tables([_with_ids_from(above, top, table) for top, table in parts])
    # a file and the folder that it is in may both be named
    _, first = np.unique(joined["uri"].to_numpy(), return_index=True)
    return joined.take(first).sort_by("image_id")


def _above_all(tops: Sequence[str]) -> list[str] | None:
    """The parts of the folder that holds all; None for places that have nothing in common."""
    first, *others = (top.rstrip("/").split("/") for top in tops)
    common = [part for number, part in enumerate(first) if all(o[: number + 1] == first[: number + 1] for o in others)]
    return common if len(common) >= (_PARTS_OF_A_BUCKET if "://" in tops[0] else 1) else None


def _with_ids_from(above: list[str] | None, top: str, table: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    if above is None:
        return table.set_column(0, table.schema.field(0), table["uri"])
    below = "/".join(top.rstrip("/").split("/")[len(above) :])
    ids = pc.binary_join_element_wise(below, table["image_id"], "/") if below else table["image_id"]
    return table.set_column(0, table.schema.field(0), ids)


def _facts_of_file(image: str) -> tuple[int | None, str | None] | None:
    """Size and ETag of a file, as far as they are known; None where there is none."""
    url = absolute_url(image)
    if protocol_of(url) in WEB:
        # only the bytes themselves tell their number
        return (None, None) if is_file(url) else None
    try:
        info = object_info(url)
    except ObjectNotFound:
        return None
    return info.size, info.etag


def _file_record(image: str, facts: tuple[int | None, str | None]) -> pa.Table:
    url = absolute_url(image)
    kind = kind_by_name(url)
    if kind is not None and (mend := mend_of(kind)) is not None:
        raise SettingsError(f"{redact(image)} is {kind.name}, which is not read. To mend it: {mend}")
    return _table([(posixpath.basename(url), url, *facts)])


def _table(rows: list[_Row]) -> pa.Table:
    import pyarrow as pa

    types = {"image_id": pa.string(), "uri": pa.string(), "size": pa.int64(), "etag": pa.string()}
    columns = zip(*rows, strict=True)
    return records_table({name: pa.array(values, types[name]) for name, values in zip(types, columns, strict=True)})
