"""Image ids as names of files: they stay below their folder, whatever the ids are, and no two are the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b, sha256
from posixpath import splitext

import numpy as np
from numpy.typing import NDArray

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

    Where two images share folder and stem, both keep their suffix: ``a/b%2Ejpg.png``. Where their ids differ in upper
    and lower case alone, which some disks do not tell apart, both end with a digest too: ``a/b%2Ejpg%-0f45b1c2.png``.

    It takes some sixty bytes for each id to find these out, and eight for each that is one of them to know them.

    Args:
        image_ids: all ids of the run, unlike each other: on fewer of them names may be others.
        suffix: of the files, such as ``.png``.
    """

    def __init__(self, image_ids: Iterable[str], suffix: str) -> None:
        self._suffix = suffix
        digests = ((_digest(splitext(image_id)[0]), _digest(image_id)) for image_id in image_ids)
        found = np.fromiter(digests, dtype=[("stem", np.uint64), ("id", np.uint64)])
        self._shared, self._alike = _repeated(found["stem"]), _repeated(found["id"])

    def of(self, image_id: str) -> str:
        """The name for one of the ids: a relative path, separated by ``/``."""
        *folders, last = image_id.split("/")
        stem, suffix = splitext(last)
        name = _escaped(stem)
        if suffix and _holds(self._shared, _digest(splitext(image_id)[0])):
            name += "%2E" + _escaped(suffix[1:])
        if _holds(self._alike, _digest(image_id)):
            name += f"%-{sha256(image_id.encode()).hexdigest()[:8]}"
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
    """Of a text whatever its case."""
    return int.from_bytes(blake2b(text.casefold().encode(), digest_size=8).digest(), "little")


def _repeated(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those that are there more than once, ascending."""
    values, counts = np.unique(digests, return_counts=True)
    return values[counts > 1]


def _holds(ascending: NDArray[np.uint64], digest: int) -> bool:
    place = np.searchsorted(ascending, np.uint64(digest))
    return bool(place < len(ascending) and ascending[place] == digest)
