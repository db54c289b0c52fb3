"""Image records of what was named by its path: a folder, one image file, or a pattern."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from simsam_batch.catalog.folders import ACCEPTED, folder_records, has_row, is_file, is_there
from simsam_batch.catalog.records import records_table
from simsam_batch.errors import SettingsError
from simsam_batch.formats import kind_by_name, mend_of
from simsam_batch.storage import ObjectNotFound, absolute_url, object_info, redact
from simsam_batch.storage.urls import WEB, protocol_of

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = re.compile(r"[*?\[]")
_PARTS_OF_A_BUCKET = 3


def path_records(images: str, truth: str | None, notes: list[str], *, hidden: bool = False) -> pa.Table | None:
    """Records of a folder, an image file, or what a pattern matches; None of a folder with Parquet files and no image.

    Raises:
        SettingsError: nothing is there, or no image.
        StorageError: the storage did not answer.
    """
    among = pattern_of(images)
    if among is None and has_row(images) and is_file(images):
        return _file_record(images)
    return folder_records(images, truth, notes, hidden=hidden, among=among)


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


def _file_record(image: str) -> pa.Table:
    url = absolute_url(image)
    kind = kind_by_name(url)
    if kind is not None and (mend := mend_of(kind)) is not None:
        raise SettingsError(f"{redact(image)} is {kind.name}, which is not read. To mend it: {mend}")
    try:
        # of a web server only the bytes themselves tell their number
        info = None if protocol_of(url) in WEB else object_info(url)
    except ObjectNotFound as error:
        raise SettingsError(f"IMAGES: {error}. {ACCEPTED['IMAGES']}") from error
    size, etag = (None, None) if info is None else (info.size, info.etag)
    return _table([(posixpath.basename(url), url, size, etag)])


def _table(rows: list[tuple[str, str, int | None, str | None]]) -> pa.Table:
    import pyarrow as pa

    types = {"image_id": pa.string(), "uri": pa.string(), "size": pa.int64(), "etag": pa.string()}
    columns = zip(*rows, strict=True)
    return records_table({name: pa.array(values, types[name]) for name, values in zip(types, columns, strict=True)})
