"""Truth files joined to images by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.folders import ends_in, listed_files
from simsam_batch.catalog.records import quoted, repeated_values
from simsam_batch.errors import SettingsError
from simsam_batch.formats import SUFFIXES
from simsam_batch.storage import redact

if TYPE_CHECKING:
    import pyarrow as pa

PARTITIONS = (".npz", ".mat")
"""Files that count as partitions of an image, in any case."""


def with_truth(
    table: pa.Table,
    truth: str,
    images: str,
    notes: list[str],
    *,
    suffixes: Sequence[str] = SUFFIXES,
    image_suffixes: Sequence[str] = SUFFIXES,
    note_extra: bool = True,
    hidden: bool | None = None,
) -> pa.Table:
    """The table with ``truth_uri`` filled from a folder, by the path without its suffix.

    Args:
        table: a catalog's.
        truth: URL of the folder.
        images: what the table is of, for messages.
        notes: what people should know is added here.
        suffixes: of files that are truth, in any case; may begin before the dot, where names end differently.
        image_suffixes: the same of images.
        note_extra: whether truth without an image is worth a note: not where the table is a part of a set.
        hidden: take files of the folder that are hidden, too; None: no, and there is no option to ask for it.

    Raises:
        SettingsError: the folder cannot be listed, or it cannot be said which truth belongs to which image.
    """
    import pyarrow.compute as pc

    if table["truth_uri"].null_count < table.num_rows:
        raise SettingsError(f"truth: {redact(images)} has a column truth_uri; leave out --truth or the column")
    listing = listed_files("truth", truth, ends_in(suffixes), notes, hidden=bool(hidden))
    masks = listing.files
    listing.note_hidden(truth, notes, option=hidden is not None)
    holds_partitions(masks["name"], truth)
    stems = pc.replace_substring_regex(table["image_id"], _pattern(image_suffixes), "")
    mask_stems = pc.replace_substring_regex(masks["name"], _pattern(suffixes), "")
    ambiguous = repeated_values(mask_stems)
    if ambiguous:
        raise SettingsError(
            f"truth: {redact(truth)} has more than one file for {quoted(ambiguous)}. To mend it: keep one of each"
        )
    position = pc.index_in(stems, mask_stems)
    matched = position.drop_null()
    if not len(matched):
        example = (
            f"such as {masks['name'][0].as_py()!r}" if masks.num_rows else f"and none ends in {' '.join(suffixes)}"
        )
        raise SettingsError(
            f"truth: no file of {redact(truth)} ({example}) has the sub-folder and stem of any image "
            f"(such as {table['image_id'][0].as_py()!r})"
        )
    shared = repeated_values(stems.filter(pc.is_valid(position)))
    if shared:
        raise SettingsError(
            f"truth: more than one image would get the same truth: {quoted(shared)}. To mend it: give each image a "
            "stem of its own, or Parquet with a column truth_uri"
        )
    without = table["image_id"].filter(pc.is_null(position))
    if len(without):
        notes.append(f"{len(without)} of {table.num_rows} images have no truth: {quoted(without[:5], len(without))}")
    extra = masks["name"].filter(pc.invert(pc.is_in(mask_stems, stems)))
    if note_extra and len(extra):
        notes.append(f"{len(extra)} truth files belong to no image: {quoted(extra[:5], len(extra))}")
    at = table.column_names.index("truth_uri")
    return table.set_column(at, table.schema.field(at), masks["uri"].take(position))


def holds_partitions(files: Any, where: str) -> bool:
    """Whether names or URLs of truth files, as a column, are those of partitions; nulls are no truth.

    Raises:
        SettingsError: some are and some are not.
    """
    import pyarrow.compute as pc

    present = files.drop_null()
    # only web servers take what follows a ? or # for no part of the name
    are = pc.match_substring_regex(present, rf"{_pattern(PARTITIONS)}|^https?://[^?#]*({_any(PARTITIONS)})[?#]")
    count = pc.sum(are).as_py() or 0
    if 0 < count < len(present):
        one, other = present.filter(are)[0].as_py(), present.filter(pc.invert(are))[0].as_py()
        raise SettingsError(
            f"truth: {redact(where)} has partitions, such as {quoted([redact(one)])}, and image files, such as "
            f"{quoted([redact(other)])}. To mend it: give each kind on its own, in a run of its own"
        )
    return bool(count)


def _pattern(suffixes: Sequence[str]) -> str:
    return rf"(?i)({_any(suffixes)})$"


def _any(suffixes: Sequence[str]) -> str:
    return "|".join(map(re.escape, suffixes))
