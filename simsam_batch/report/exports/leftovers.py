"""Numbered files of an earlier export that had more of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from simsam_batch.storage import Folder


def delete_leftovers(to: Folder, folder: str, name: str, files: int) -> None:
    """Delete the files that an export would have written after its last one, had fewer images gone since.

    Args:
        to: the export's folder, with the record of an earlier export of the same content.
        folder: of the files, below it; empty for itself.
        name: of a file, with a place for its number.
        files: how many there are now, from number 0 on.
    """
    there = {info.name for info in to.list(folder)}

    def left() -> Iterator[str]:
        for number in count(files):
            path = f"{folder}/{name.format(number)}" if folder else name.format(number)
            if path not in there:
                return
            yield path

    to.delete(list(left()))
