"""Truth masks joined to images by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from simsam_batch.catalog.folders import SUFFIXES, is_image, listed_files
from simsam_batch.catalog.records import quoted, repeated_values
from simsam_batch.errors import SettingsError
from simsam_batch.storage import redact

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIX_PATTERN = rf"(?i)({'|'.join(map(re.escape, SUFFIXES))})$"


def with_truth(table: pa.Table, truth: str, images: str, notes: list[str], *, note_extra: bool = True) -> pa.Table:
    """The table with ``truth_uri`` filled from a folder, by the path without its suffix.

    ``note_extra`` says whether masks without an image are worth a note: not where the table is a part of a set.
    """
    import pyarrow.compute as pc

    if table["truth_uri"].null_count < table.num_rows:
        raise SettingsError(f"truth: {redact(images)} has a column truth_uri; leave out --truth or the column")
    masks, _ = listed_files("truth", truth, is_image)
    stems = pc.replace_substring_regex(table["image_id"], _SUFFIX_PATTERN, "")
    mask_stems = pc.replace_substring_regex(masks["name"], _SUFFIX_PATTERN, "")
    ambiguous = repeated_values(mask_stems)
    if ambiguous:
        raise SettingsError(
            f"truth: {redact(truth)} has more than one file for {quoted(ambiguous)}. To mend it: keep one of each"
        )
    position = pc.index_in(stems, mask_stems)
    matched = position.drop_null()
    if not len(matched):
        example = (
            f"such as {masks['name'][0].as_py()!r}" if masks.num_rows else "and there is none with an image suffix"
        )
        raise SettingsError(
            f"truth: no file of {redact(truth)} ({example}) has the sub-folder and stem of any image "
            f"(such as {table['image_id'][0].as_py()!r})"
        )
    shared = repeated_values(stems.filter(pc.is_valid(position)))
    if shared:
        raise SettingsError(
            f"truth: more than one image would get the same mask: {quoted(shared)}. To mend it: give each image a stem "
            "of its own, or Parquet with a column truth_uri"
        )
    without = table["image_id"].filter(pc.is_null(position))
    if len(without):
        notes.append(f"{len(without)} of {table.num_rows} images have no truth: {quoted(without[:5], len(without))}")
    extra = masks["name"].filter(pc.invert(pc.is_in(mask_stems, stems)))
    if note_extra and len(extra):
        notes.append(f"{len(extra)} truth files belong to no image: {quoted(extra[:5], len(extra))}")
    at = table.column_names.index("truth_uri")
    return table.set_column(at, table.schema.field(at), masks["uri"].take(position))
