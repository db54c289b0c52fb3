"""From what the user named to a checked catalog."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from simsam_batch.catalog import text_tables
from simsam_batch.catalog.datasets import named_dataset, read_dataset
from simsam_batch.catalog.facts import SPLIT_COLUMN, DatasetFacts
from simsam_batch.catalog.named import Images, named_paths, told_paths
from simsam_batch.catalog.paths import path_records, several_records
from simsam_batch.catalog.records import COLUMNS, quoted, repeated_values
from simsam_batch.catalog.tables import list_records, parquet_records, text_records
from simsam_batch.catalog.truth import PARTITIONS, holds_partitions, with_truth
from simsam_batch.errors import SettingsError
from simsam_batch.formats import SUFFIXES
from simsam_batch.storage import carries_secret, redact

if TYPE_CHECKING:
    import pyarrow as pa

_RESERVED = {*COLUMNS, "shard", "status", "error_type", "error", "failed_step"}


@dataclass(frozen=True, slots=True)
class Catalog:
    """The image records of a run.

    Attributes:
        table: columns ``image_id``, ``uri`` (strings, never null), ``size`` (int64), ``etag``, ``truth_uri`` (strings),
            and then the kept columns, or of a dataset `BOXES_COLUMN` where its truth is boxes and `SPLIT_COLUMN` where
            several splits were asked for; one row for each image, in the order of the run.
        notes: what a person should know about it, one sentence each (files left out, images without truth).
        dataset: how the truth is meant, of a dataset by name.
        truth_kind: of a folder, a list or a table whose truth says by its suffixes what it is: partitions are of no
            image format. None for image files and for no truth.
    """

    table: pa.Table
    notes: list[str]
    dataset: DatasetFacts | None = None
    truth_kind: Literal["partitions"] | None = None
    pairs: pa.Table | None = None
    pair_set: dict[str, str] | None = None


def read_catalog(
    images: Images,
    *,
    root: str | None = None,
    truth: str | None = None,
    split: str | None = None,
    keep_columns: Sequence[str] = (),
    limit: int | None = None,
    hidden: bool = False,
    uri_column: str | None = None,
) -> Catalog:
    """List the images of what the user named, and join truth to them by name.

    A folder is searched with all its sub-folders for files with one of `SUFFIXES`, and for pictures and videos of kinds
    that are not read, in the order of their relative paths; of a pattern it is the folder before the first part with a
    ``*``, ``?`` or ``[``. Members of an archive are ``archive.zip#folder/a.jpg``, with the rest as their id. Hidden
    files and folders are left out, and those that a run or an export was written to; a note says so. A list or table
    keeps its own order, and nobody asks whether its files exist. Truth belongs to the image with the same sub-folder
    and file stem; it is image files, or partitions with one of `PARTITIONS`. A dataset brings its own truth.

    Args:
        images: path or URL of a folder, a zip or plain tar archive, an image file, a pattern, a ``.txt`` list, a table
            (Parquet, CSV, JSON lines) or a folder of Parquet files; or ``NAME:ROOT``. Several paths are none of lists,
            tables and datasets, and ids count from the folder that is above all.
        root: folder that relative paths of a list or table start from; the folder of the list or table if None.
        truth: folder of truth; None for no truth, or for a table's own column ``truth_uri``.
        split: of a dataset by name; several are joined, ``train+val``; None for its usual one.
        keep_columns: further columns of a table to pass through.
        limit: keep only so many images, from the start; None for all.
        hidden: take files and folders whose names begin with a dot, too, of what is listed.
        uri_column: of a table, the column with the paths or URLs; None to find it by its name.

    Raises:
        SettingsError: nothing there, no image in it, names that are not unique, a path that leaves ``root``, URLs that
            carry credentials, columns that do not exist, truth that is ambiguous, of two kinds or matches nothing, or a
            dataset that has not its layout.
        StorageError: the storage did not answer.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit: {limit} images are none; give 1 or more")
    _check_kept(keep_columns)
    paths = named_paths(images)
    images = paths[0] if len(paths) == 1 else told_paths(paths)
    named = named_dataset(images) if len(paths) == 1 else None
    if named is None and split is not None:
        raise SettingsError(
            f"split: {redact(images)} has none; leave it out, or give a dataset by name, such as voc2012:ROOT"
        )
    if named is not None:
        given = {"root": root, "truth": truth, "keep_columns": ", ".join(keep_columns), "hidden": "true" * hidden}
        for option, value in (given | {"uri_column": uri_column}).items():
            if value:
                raise SettingsError(f"{option}: {redact(value)} has no meaning for {named[0].name}:ROOT; leave it out")
        table, notes, split = read_dataset(*named, split)
        require_no_secrets(table, images)
        limited = table.slice(0, limit)
        _note_splits_cut_off(table, limited, notes)
        return Catalog(limited, notes, named[0].facts(split))
    notes = []
    table = _records(paths, root, truth, keep_columns, notes, hidden=hidden, uri_column=uri_column)
    missing = [name for name in keep_columns if name not in table.column_names]
    if missing:
        raise SettingsError(f"keep_columns: {', '.join(missing)}: {redact(images)} is no table and has no such columns")
    _check_ids(table, images)
    require_no_secrets(table, images)
    if truth is not None:
        table = with_truth(table, truth, images, notes, suffixes=(*SUFFIXES, *PARTITIONS), hidden=hidden)
    partitions = holds_partitions(table["truth_uri"], images if truth is None else truth)
    limited = table if limit is None else table.slice(0, limit)
    return Catalog(limited, notes, truth_kind="partitions" if partitions else None)


def _records(
    paths: Sequence[str],
    root: str | None,
    truth: str | None,
    keep_columns: Sequence[str],
    notes: list[str],
    *,
    hidden: bool,
    uri_column: str | None,
) -> pa.Table:
    """The records of what is no dataset by name, as its name says what it is."""
    images = paths[0]
    suffix = posixpath.splitext(images.rstrip("/"))[1].lower() if len(paths) == 1 else ""
    if suffix in (".txt", *text_tables.SUFFIXES) and hidden and truth is None:
        raise SettingsError(f"hidden: {redact(images)} is a list, which is taken as it is; leave it out")
    if suffix in text_tables.SUFFIXES:
        return text_records(images, root, keep_columns, uri_column)
    if suffix == ".parquet":
        return parquet_records(images, root, keep_columns, notes, uri_column=uri_column, hidden=hidden)
    table: pa.Table | None
    if suffix == ".txt":
        table = list_records(images, root)
    elif len(paths) > 1:
        table = several_records(paths, truth, notes, hidden=hidden)
    else:
        table = path_records(images, truth, notes, hidden=hidden)
    if table is None:
        return parquet_records(images, root, keep_columns, notes, uri_column=uri_column, hidden=hidden)
    for option, value in {"root": None if suffix == ".txt" else root, "uri_column": uri_column}.items():
        if value is not None:
            what = "a list" if suffix == ".txt" else "a folder of images"
            raise SettingsError(f"{option}: {redact(value)} has no meaning for {what}; leave it out")
    return table


def _note_splits_cut_off(table: pa.Table, limited: pa.Table, notes: list[str]) -> None:
    """Say which of several splits have no image left, since those of the first one come first."""
    if SPLIT_COLUMN in table.column_names:
        left = set(limited[SPLIT_COLUMN].unique().to_pylist())
        gone = [name for name in table[SPLIT_COLUMN].unique().to_pylist() if name not in left]
        if gone:
            notes.append(f"limit: none of the first {limited.num_rows} images is of the split {' or '.join(gone)}")


def _check_kept(keep_columns: Sequence[str]) -> None:
    clashing = [name for name in keep_columns if name in _RESERVED]
    if clashing:
        raise SettingsError(
            f"keep_columns: {', '.join(clashing)}: the results have columns of that name already; rename them"
        )
    twice = [name for name, count in Counter(keep_columns).items() if count > 1]
    if twice:
        raise SettingsError(f"keep_columns: {', '.join(twice)} is given more than once")


def require_no_secrets(table: pa.Table, images: str) -> None:
    """Refuse URLs that carry a password or a signature: they would stand in the plan and in the results for ever."""
    import pyarrow.compute as pc

    carrying: list[str] = []
    for name in ("uri", "truth_uri"):
        urls = table[name].drop_null()
        suspects = urls.filter(pc.match_substring_regex(urls, r"://[^/]*@|://.*[?&;#]")).to_pylist()
        carrying += filter(carries_secret, suspects)
    if carrying:
        raise SettingsError(
            f"{redact(images)}: {len(carrying)} URLs carry a password, key or signature: "
            f"{quoted(map(redact, carrying[:5]), len(carrying))}. To mend it: list plain URLs, and give access through "
            "the environment or the storage's own profile"
        )


def _check_ids(table: pa.Table, images: str) -> None:
    import pyarrow.compute as pc

    ids = table["image_id"]
    if pc.any(pc.equal(ids, "")).as_py():
        raise SettingsError(f"{redact(images)} has records with an empty image_id. To mend it: name or remove them")
    repeated = repeated_values(ids)
    if repeated:
        raise SettingsError(
            f"{redact(images)}: image_id must be unique, and {len(repeated)} occur more than once: {quoted(repeated)}. "
            "To mend it: remove the repeated records, or give Parquet with an image_id column of its own"
        )
