"""Files of a folder, and the image records of a folder of images."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simsam_batch.catalog.records import quoted, records_table
from simsam_batch.catalog.written import WrittenFolders, outside, planned_images
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.formats import KINDS, SUFFIXES, Format, kind_by_name, mend_of
from simsam_batch.plain_text import counted
from simsam_batch.storage import ObjectNotFound, absolute_url, is_archive, read_url, redact, walk

if TYPE_CHECKING:
    import pyarrow as pa

ACCEPTED = {
    "IMAGES": "IMAGES is a folder, an image file, a quoted pattern like 'photos/**/*.jpg', a .zip or .tar of images, "
    "a table (.csv, .jsonl, .parquet) or .txt list of paths or URLs, or a dataset such as ecssd:ROOT",
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
_HIDDEN_NAMED = 5
_WITH_ROW = frozenset(suffix for kind in KINDS for suffix in kind.suffixes)


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


def is_there(images: str) -> bool:
    """Whether there is a file, or a folder with files, of this very name."""
    try:
        return is_file(images) or next(walk(images), None) is not None
    except StorageError:
        return False


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: those that are wanted (``name`` relative to the folder, ``uri``, ``size``, ``etag``), sorted by name.
        others: how many others there are that are not hidden, by suffix.
        hidden: up to a few names of files that would be wanted if they were not hidden.
        hidden_count: how many there are.
    """

    files: pa.Table
    others: Counter[str]
    hidden: list[str]
    hidden_count: int

    def note_hidden(self, url: str, notes: list[str], *, option: bool) -> None:
        """Say that files were left out because they are hidden, and the option that takes them, if there is one."""
        if self.hidden_count:
            notes.append(
                f"{counted(self.hidden_count, 'file')} of {redact(url)} left out for a name in the path that begins "
                f"with a dot: {quoted(self.hidden, self.hidden_count)}{'. To take them: --hidden' * option}"
            )


def listed_files(
    what: str,
    url: str,
    wanted: Callable[[str], bool],
    notes: list[str],
    without: str | None = None,
    *,
    hidden: bool = False,
    among: Callable[[str], bool] | None = None,
) -> Listing:
    """Files below a folder by name; those of runs and exports in it and of ``without`` are left out.

    Args:
        what: the option that named the folder, for messages.
        url: of the folder.
        wanted: whether a file belongs to the result, by its name.
        notes: runs and exports that are left out are added here.
        without: name of the sub-folder to leave out.
        hidden: take files and folders whose names begin with a dot, too.
        among: which files count at all, by their names; None for all.

    Raises:
        SettingsError: there is no such folder, it cannot be listed, or it is itself that of a run.
    """
    if is_file(url) and not is_archive(url):
        raise SettingsError(f"{what}: {redact(url)} is a single file. {ACCEPTED[what]}")
    written = WrittenFolders()
    try:
        listing, by_folder = _listed(url, wanted, without, written, hidden, among)
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
    for (folder, suffix), count in by_folder.items():
        if not f"{folder}/".startswith(tuple(f"{each}/" for each in left_out)):
            by_suffix[suffix] += count
    return replace(listing, files=outside(listing.files, left_out), others=by_suffix)


def _listed(
    url: str,
    wanted: Callable[[str], bool],
    without: str | None,
    written: WrittenFolders,
    hidden: bool,
    among: Callable[[str], bool] | None,
) -> tuple[Listing, Counter[tuple[str, str]]]:
    """What the folder holds, but for the others, which are counted by folder and suffix."""
    import pyarrow as pa

    schema = pa.schema([("name", pa.string()), ("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
    batches: list[pa.RecordBatch] = []
    rows: list[tuple[str, str, int, str | None]] = []
    others: Counter[tuple[str, str]] = Counter()
    left_out: list[str] = []
    left_out_count = 0

    def close_batch() -> None:
        columns = list(zip(*rows, strict=True))
        batches.append(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
        rows.clear()

    for uri, info in walk(url):
        if without is not None and info.name.startswith(without + "/"):
            continue
        if among is not None and not among(info.name):
            written.look_at(info.name)
            continue
        if not hidden and any(part.startswith(".") for part in info.name.split("/")):
            if wanted(info.name):
                left_out_count += 1
                left_out += [info.name] if len(left_out) < _HIDDEN_NAMED else []
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
    files = pa.Table.from_batches(batches, schema).sort_by("name")
    return Listing(files, Counter(), left_out, left_out_count), others


def is_image(name: str) -> bool:
    """Whether a file counts as an image, by its name."""
    return name.lower().endswith(SUFFIXES)


def has_row(name: str) -> bool:
    """Whether a file of a folder is a record of the run, by its name: images, and pictures and videos not read."""
    return posixpath.splitext(name)[1].lower() in _WITH_ROW


def ends_in(suffixes: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name ends in one of some suffixes, in any case; as a function of the name."""
    endings = tuple(suffix.lower() for suffix in suffixes)
    return lambda name: name.lower().endswith(endings)


def folder_records(
    images: str,
    truth: str | None,
    notes: list[str],
    *,
    hidden: bool = False,
    among: tuple[str, Callable[[str], bool]] | None = None,
) -> pa.Table | None:
    """Records of a folder, without its truth masks; None if it has Parquet files and no image.

    Pictures and videos of kinds that are not read are among them, so that a row says what became of each.

    Args:
        images: the folder, as people call it.
        truth: that of its truth.
        notes: what people should know is added here.
        hidden: as of `listed_files`.
        among: for a pattern the folder itself, and which files of it count, by their names.
    """
    folder, counts = (images, None) if among is None else among
    inside = None
    if truth is not None:
        here, there = absolute_url(folder), absolute_url(truth)
        if here == there:
            raise SettingsError(f"truth: {redact(truth)} is IMAGES itself; give the folder that holds the masks alone")
        inside = there.removeprefix(here + "/") if there.startswith(here + "/") else None
    listing = listed_files("IMAGES", folder, has_row, notes, inside, hidden=hidden, among=counts)
    found, others = listing.files, listing.others
    unread = _unread(found["name"])
    if unread.total() == found.num_rows:
        if others[".parquet"] and among is None and not is_archive(folder):
            return None
        if unread:
            raise SettingsError(f"{redact(images)} has no image in it that can be read, but {_told(unread)}")
        if counts is not None and not others:
            raise SettingsError(
                f"{redact(images)}: no file below {redact(folder)} matches this. To mend it: check the pattern, in "
                "which * and ? stand for parts of one name and ** for any sub-folders"
            )
        hidden_alone = f"; {listing.hidden_count} are hidden, which --hidden takes" * bool(listing.hidden_count)
        raise SettingsError(
            f"{redact(images)} has no image in it: looked for {' '.join(SUFFIXES)}, in any case{hidden_alone}"
        )
    _note_unread(unread, redact(images), notes)
    note_others(others, redact(images), notes)
    listing.note_hidden(images, notes, option=True)
    return records_table({"image_id": found["name"], "uri": found["uri"], "size": found["size"], "etag": found["etag"]})


def note_unread(names: Sequence[str], where: str, notes: list[str]) -> None:
    """Say which of some files are pictures or videos that are not read."""
    import pyarrow as pa

    _note_unread(_unread(pa.chunked_array([pa.array(names, pa.string())])), where, notes)


def _note_unread(unread: Counter[Format], where: str, notes: list[str]) -> None:
    if unread:
        notes.append(f"{counted(unread.total(), 'file')} of {where} cannot be read and will fail: {_told(unread)}")


def note_others(others: Counter[str], where: str, notes: list[str]) -> None:
    """Say which files are no images, by how many there are of each suffix."""
    if others:
        listed = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items(), key=lambda e: (-e[1], e[0])))
        notes.append(f"{counted(others.total(), 'file')} of {where} not in the catalog: {listed}")


def _unread(names: pa.ChunkedArray) -> Counter[Format]:
    """How many files there are of each kind that is not read, or not by what is installed here."""
    import pyarrow.compute as pc

    kinds = [kind for kind in KINDS if kind.suffixes and mend_of(kind) is not None]
    endings = "|".join(re.escape(suffix) for kind in kinds for suffix in kind.suffixes)
    unread = names.filter(pc.match_substring_regex(names, f"(?i)({endings})$"))
    return Counter(kind for name in unread.to_pylist() if (kind := kind_by_name(name)) is not None)


def _told(unread: Counter[Format]) -> str:
    """Such files for people, with the mend of each kind."""
    return "; ".join(f"{count} of {kind.name} (to mend it: {mend_of(kind)})" for kind, count in unread.most_common())
