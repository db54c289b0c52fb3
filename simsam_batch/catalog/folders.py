"""Files of a folder, and the image records of a folder of images."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from simsam_batch.catalog.records import quoted, records_table
from simsam_batch.catalog.written import WrittenFolders, outside, planned_images
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.storage import ObjectNotFound, absolute_url, read_url, redact, walk

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Files that count as images, in any case."""

ACCEPTED = {
    "IMAGES": "IMAGES is a folder, a .txt list with one path or URL a line, Parquet with a column 'uri', or a dataset "
    "such as ecssd:ROOT",
    "truth": "Truth is a folder of masks or label maps as image files, or of partitions as .npz or .mat",
    "PREDICTIONS": "PREDICTIONS is the OUT of a run, or a folder of masks or label maps as image files",
}
_INSTEAD_OF_A_RUN = {
    "IMAGES": "to go on with that run, give its own IMAGES and then this OUT; for simsam status, report, export and "
    "score this OUT alone",
    "truth": "simsam export writes masks of a run as files; give the folder that they are in",
    "PREDICTIONS": "give the OUT itself",
}
_CHUNK = 65536


def is_file(url: str) -> bool:
    """Whether a URL leads to one file or object; False for a folder and for nothing.

    Raises:
        StorageError: the storage did not answer.
    """
    try:
        read_url(url, 0)
    except ObjectNotFound:
        return False
    return True


def listed_files(
    what: str, url: str, wanted: Callable[[str], bool], notes: list[str], without: str | None = None
) -> tuple[pa.Table, Counter[str]]:
    """Files below a folder by name; hidden ones, those of runs and exports in it and of ``without`` are left out.

    Args:
        what: the option that named the folder, for messages.
        url: of the folder.
        wanted: whether a file belongs to the result, by its name.
        notes: runs and exports that are left out are added here.
        without: name of the sub-folder to leave out.

    Returns:
        The wanted files (``name`` relative to the folder, ``uri``, ``size``, ``etag``), sorted by name; and how many
        others there are, by suffix.

    Raises:
        SettingsError: there is no such folder, it cannot be listed, or it is itself that of a run.
    """
    if is_file(url):
        raise SettingsError(f"{what}: {redact(url)} is a single file. {ACCEPTED[what]}")
    written = WrittenFolders()
    try:
        found, others = _listed(url, wanted, without, written)
    except StorageError as error:
        raise SettingsError(f"{what}: {error}. {ACCEPTED[what]}") from error
    left_out = [*written.those_of("run"), *filter(None, written.those_of("export"))]
    if "" in left_out:
        about = planned_images(url)
        run = "a run" if about is None else f"a run about {about}"
        raise SettingsError(f"{what}: {redact(url)} is the OUT of {run}. To mend it: {_INSTEAD_OF_A_RUN[what]}")
    if left_out:
        said = f"left out of {redact(url)}, for a run or an export is there: {quoted(left_out[:5], len(left_out))}"
        # a folder may be listed for its images and again for its tables
        notes += [said] if said not in notes else []
    by_suffix: Counter[str] = Counter()
    for (folder, suffix), count in others.items():
        if not f"{folder}/".startswith(tuple(f"{each}/" for each in left_out)):
            by_suffix[suffix] += count
    return outside(found, left_out), by_suffix


def _listed(
    url: str, wanted: Callable[[str], bool], without: str | None, written: WrittenFolders
) -> tuple[pa.Table, Counter[tuple[str, str]]]:
    """The wanted files, and how many others there are by folder and suffix."""
    import pyarrow as pa

    schema = pa.schema([("name", pa.string()), ("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
    batches: list[pa.RecordBatch] = []
    rows: list[tuple[str, str, int, str | None]] = []
    others: Counter[tuple[str, str]] = Counter()

    def close_batch() -> None:
        columns = list(zip(*rows, strict=True))
        batches.append(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
        rows.clear()

    for uri, info in walk(url):
        hidden = any(part.startswith(".") for part in info.name.split("/"))
        if hidden or (without is not None and info.name.startswith(without + "/")):
            continue
        written.look_at(info.name)
        if not wanted(info.name):
            folder, name = posixpath.split(info.name)
            others[folder, posixpath.splitext(name)[1].lower() or "no suffix"] += 1
            continue
        rows.append((info.name, uri, info.size, info.etag))
        if len(rows) == _CHUNK:
            close_batch()
    if rows:
        close_batch()
    return pa.Table.from_batches(batches, schema).sort_by("name"), others


def is_image(name: str) -> bool:
    """Whether a file counts as an image, by its name."""
    return name.lower().endswith(SUFFIXES)


def ends_in(suffixes: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name ends in one of some suffixes, in any case; as a function of the name."""
    endings = tuple(suffix.lower() for suffix in suffixes)
    return lambda name: name.lower().endswith(endings)


def folder_records(images: str, truth: str | None, notes: list[str]) -> pa.Table | None:
    """Image records of a folder, without its truth masks; None if it has Parquet files and no image."""
    inside = None
    if truth is not None:
        here, there = absolute_url(images), absolute_url(truth)
        if here == there:
            raise SettingsError(f"truth: {redact(truth)} is IMAGES itself; give the folder that holds the masks alone")
        inside = there.removeprefix(here + "/") if there.startswith(here + "/") else None
    found, others = listed_files("IMAGES", images, is_image, notes, inside)
    if not found.num_rows:
        if others[".parquet"]:
            return None
        raise SettingsError(f"{redact(images)} has no image in it: looked for {' '.join(SUFFIXES)}, in any case")
    if others:
        listed = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items(), key=lambda e: (-e[1], e[0])))
        notes.append(f"{others.total()} files of {redact(images)} are not in the catalog: {listed}")
    return records_table({"image_id": found["name"], "uri": found["uri"], "size": found["size"], "etag": found["etag"]})
