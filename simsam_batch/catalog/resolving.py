"""Paths of lists and tables made absolute, and the ids that they give."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

from simsam_batch.catalog.records import quoted
from simsam_batch.errors import SettingsError
from simsam_batch.storage import absolute_url, local_path, redact

_ABSOLUTE_PATTERN = r"^(/|([A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]*://)"
_ROWS = 65_536
_DOTS_PATTERN = r"(^|/)\.\.?(/|$)"
_FILE_URL_PATTERN = r"^(?i)(file|local):"


def resolved_column(entries: Any, root: str, source: str, *, with_ids: bool) -> tuple[Any, Any]:
    """What `resolved` gives, in blocks, so that what it makes on the way is never as long as the column."""
    import pyarrow as pa

    ids, uris = [], []
    for chunk in entries.chunks:
        for start in range(0, len(chunk), _ROWS):
            found = resolved(chunk.slice(start, _ROWS), root, source)
            ids += [found[0]] if with_ids else []
            uris.append(found[1])
    return pa.chunked_array(ids, pa.string()), pa.chunked_array(uris, pa.string())


def resolved(entries: Any, root: str, source: str) -> tuple[Any, Any]:
    """Image ids and absolute URIs of paths that may be relative to a root."""
    import pyarrow.compute as pc

    top = absolute_url(root)
    base = top if top.endswith("/") else top + "/"
    entries = _replaced(entries, pc.match_substring_regex(entries, _FILE_URL_PATTERN), local_path)
    absolute = pc.match_substring_regex(entries, _ABSOLUTE_PATTERN)
    dotted = pc.and_not(pc.match_substring_regex(entries, _DOTS_PATTERN), absolute)
    entries = _replaced(entries, dotted, posixpath.normpath)
    left = entries.filter(dotted)
    outside = left.filter(pc.match_substring_regex(left, r"^\.\.(/|$)")).to_pylist()
    if outside:
        raise SettingsError(
            f"{redact(source)}: {quoted(outside)} would leave the root {redact(base)}. "
            "To mend it: give a --root that holds all images, or absolute paths"
        )
    uris = pc.if_else(absolute, entries, pc.binary_join_element_wise(base, entries, ""))
    below = pc.utf8_slice_codeunits(entries, len(base), None)
    is_below = pc.and_not(pc.starts_with(entries, base), pc.match_substring_regex(below, _DOTS_PATTERN))
    return pc.if_else(is_below, below, entries), uris


def _replaced(entries: Any, where: Any, by: Callable[[str], str]) -> Any:
    """The entries with those chosen put through a function."""
    import pyarrow as pa
    import pyarrow.compute as pc

    made = [by(entry) for entry in entries.filter(where).to_pylist()]
    return pc.replace_with_mask(entries, where, pa.array(made, pa.string())) if made else entries


def parent_of(url: str) -> str:
    """The folder of a file."""
    scheme, separator, path = absolute_url(url).rpartition("://")
    return scheme + separator + path.rpartition("/")[0] or "/"
