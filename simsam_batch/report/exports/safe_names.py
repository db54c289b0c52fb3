"""Image ids as names of files: they stay below their folder, whatever the ids are, and no two are the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b, sha256
from posixpath import splitext

import numpy as np

_ODD = re.compile(r'[\x00-\x1f\x7f%\\<>:"|?*#]')
_LONGEST_PART, _LONGEST = 200, 700
"""Bytes: file systems take 255 in a part of a path, S3 takes 1024 in all."""


def is_plain(image_id: str) -> bool:
    """Whether an id is a relative path without ``..`` and the like, so that it may be joined to a folder as it is."""
    parts = image_id.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\x00\\]", image_id)


def safe_path(image_id: str) -> str:
    """A relative path for any text, unlike that of any other text; ordinary paths are their own.

    Letters that storages or file systems take amiss are written as in URLs (``%3A``), and so are ``.`` and ``..``. What
    is too long ends with a digest.
    """
    return _fitting("/".join(map(_fitted, map(_escaped, image_id.split("/")))), image_id)


class SafeNames:
    """Names for files beside images, ``a/b.png`` for ``a/b.jpg``.

    Where two images share folder and stem, both keep their suffix: ``a/b%2Ejpg.png``. Eight bytes are held for each id.

    Args:
        image_ids: all ids, unlike each other.
        suffix: of the files, such as ``.png``.
    """

    def __init__(self, image_ids: Iterable[str], suffix: str) -> None:
        self._suffix = suffix
        found = np.fromiter((_digest(splitext(image_id)[0]) for image_id in image_ids), dtype=np.uint64)
        stems, counts = np.unique(found, return_counts=True)
        self._shared = frozenset(stems[counts > 1].tolist())

    def of(self, image_id: str) -> str:
        """The name for one of the ids: a relative path, separated by ``/``."""
        *folders, last = image_id.split("/")
        stem, suffix = splitext(last)
        name = _escaped(stem)
        if suffix and _digest(splitext(image_id)[0]) in self._shared:
            name += "%2E" + _escaped(suffix[1:])
        parts = [self._as_folder(_fitted(_escaped(folder))) for folder in folders]
        return _fitting("/".join([*parts, _fitted(name)]), image_id) + self._suffix

    def _as_folder(self, name: str) -> str:
        """A folder has no name that a file may have."""
        if not name.lower().endswith(self._suffix):
            return name
        return f"{name[: -len(self._suffix)]}%2E{name[1 - len(self._suffix) :]}"


def _escaped(part: str) -> str:
    if part in ("", ".", ".."):
        return "%" + "2E%" * (len(part) - 1) + "2E" * bool(part)
    return _ODD.sub(lambda found: f"%{ord(found[0]):02X}", part)


def _fitted(part: str) -> str:
    """A part of a path that file systems take; no escaped letter begins like its digest."""
    encoded = part.encode()
    if len(encoded) <= _LONGEST_PART:
        return part
    start = encoded[: _LONGEST_PART // 2].decode(errors="ignore")
    return f"{start}%-{sha256(encoded).hexdigest()[:32]}"


def _fitting(path: str, image_id: str) -> str:
    return path if len(path.encode()) <= _LONGEST else f"%-{sha256(image_id.encode()).hexdigest()}"


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
