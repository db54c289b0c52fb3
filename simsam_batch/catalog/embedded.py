"""Image records of tables that hold the images themselves, as Hugging Face's datasets on disk do."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.records import quoted, records_table
from simsam_batch.catalog.resolving import resolved
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.storage import read_url, redact
from simsam_batch.storage.rows import arrow_batches, is_image_column

if TYPE_CHECKING:
    import pyarrow as pa


def image_column_of(schema: pa.Schema, given: str | None, where: str) -> str | None:
    """The column of a table whose values are images; None for a table that names them by path or URL.

    Raises:
        SettingsError: several could be it.
    """
    found: list[str] = [field.name for field in schema if is_image_column(field.type)]
    if given is not None:
        return given if given in found else None
    if "uri" in schema.names or not found:
        return None
    if len(found) > 1:
        raise SettingsError(
            f"{where} has images in several columns: {', '.join(found)}. To mend it: say which by --uri-column"
        )
    return found[0]


def embedded_records(table: pa.Table, url: str, name: str, root: str, column: str, keep: Sequence[str]) -> pa.Table:
    """The records of a table's rows: their ids are the name of its file without its suffix, and their number.

    A row that has no bytes but a path is the image of this path.

    Args:
        table: the column of images, of which the bytes may be left out where no row lacks them, and those to keep.
        url: of its file.
        name: of its file, with the sub-folders of the input.
        root: that paths count from.
        column: whose values are images.
        keep: columns to pass through.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    with_bytes = any(field.name == "bytes" for field in table.schema.field(column).type)
    stem = posixpath.splitext(name)[0]
    ids, uris, sizes, row = [], [], [], 0
    # block by block: joined, the images would be copied
    for images in table[column].chunks:
        numbers = pa.array(np.arange(row, row := row + len(images))).cast(pa.string())
        ids.append(pc.binary_join_element_wise(stem, numbers, "/"))
        places = pc.binary_join_element_wise(f"{url}#{column}", numbers, "/")
        if with_bytes:
            held, paths = (pc.struct_field(images, name) for name in ("bytes", "path"))
            sizes.append(pc.binary_length(held).cast(pa.int64()))
            elsewhere = pc.and_(pc.is_null(held), pc.is_valid(paths))
            if pc.any(elsewhere).as_py():
                found = resolved(paths.cast(pa.string()).filter(elsewhere), root, url)[1]
                places = pc.replace_with_mask(places, elsewhere, found)
        uris.append(places)
    columns: dict[str, Any] = {
        "image_id": pa.chunked_array(ids, pa.string()),
        "uri": pa.chunked_array(uris, pa.string()),
        "size": pa.chunked_array(sizes, pa.int64()) if with_bytes else None,
    }
    return records_table(columns, {name: table[name] for name in keep})


def arrow_records(
    files: Mapping[str, str],
    root: str | None,
    keep: Sequence[str],
    given: str | None,
    *,
    whole: bool,
    left_out: list[str] | None = None,
) -> pa.Table | None:
    """The records of Arrow files that ``save_to_disk`` of Hugging Face's datasets wrote.

    Args:
        files: names in the input by their URLs.
        root: that paths in the rows count from; None for the folder of each file.
        keep: columns to pass through.
        given: as ``--uri-column`` says.
        whole: these are all that there are in their folders, of which those alone count that a folder's ``state.json``
            names, if it has one.
        left_out: takes the names of files without a column of images; None: they are refused.

    Returns:
        None if all are left out.

    Raises:
        SettingsError: no images are in them, a file cannot be read, or one that ``state.json`` names is missing.
    """
    import pyarrow as pa

    tables = []
    of_folder: dict[str, set[str] | None] = {}
    for url, name in files.items():
        folder, base = posixpath.split(url)
        if folder not in of_folder:
            of_folder[folder] = _named_by_state(folder) if whole else None
        named = of_folder[folder]
        if named is not None and base not in named:
            continue
        where = redact(url)
        try:
            table = pa.Table.from_batches(arrow_batches(url))
        except StorageError as error:
            raise SettingsError(str(error)) from error
        except (pa.ArrowException, OSError) as error:
            raise SettingsError(f"{where} is no Arrow file that can be read: {str(error)[:500]}") from error
        column = image_column_of(table.schema, given, where)
        if column is None and left_out is not None:
            left_out.append(name)
            continue
        if column is None:
            raise SettingsError(f"{where} has no column of images; its columns are {', '.join(table.column_names)}")
        absent = [each for each in keep if each not in table.column_names]
        if absent:
            raise SettingsError(
                f"keep_columns: {where} has no {', '.join(absent)}; its columns are {', '.join(table.column_names)}"
            )
        tables.append(embedded_records(table, url, name, root or folder, column, keep))
    for folder, named in of_folder.items():
        there = {base for within, base in map(posixpath.split, files) if within == folder}
        if missing := sorted((named or set()) - there):
            raise SettingsError(
                f"{redact(folder)} lacks {', '.join(missing[:3])}{' and others' * (len(missing) > 3)}, which its "
                "state.json names. To mend it: copy the dataset again"
            )
    if not tables and left_out:
        return None
    if not tables:
        raise SettingsError(f"{quoted(map(redact, of_folder))}: state.json names no files, so that there are no images")
    return pa.concat_tables(tables)


def _named_by_state(folder: str) -> set[str] | None:
    """The files that a saved dataset consists of; others beside them are caches."""
    try:
        return {each["filename"] for each in json.loads(read_url(f"{folder}/state.json"))["_data_files"]}
    except (StorageError, ValueError, KeyError, TypeError, RecursionError):
        return None
