"""The pictures of a page on storage: written as they are drawn, under names that tell their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from simsam_batch.storage import Folder

PAGES = "report/"
"""Where in a run its page is."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image on the page.

    Attributes:
        name: the image's id.
        small, large: files relative to the page.
        size: (width, height) of the small one, in pixels.
        alt: what it shows, for those who do not see it.
        facts: lines below its name.
        fault: what is wrong with it; None if nothing is.
    """

    name: str
    small: str
    large: str
    size: tuple[int, int]
    alt: str
    facts: Sequence[str]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures with something in common.

    Attributes:
        title, about: what that is, and how they were chosen out of how many.
        pictures: of the images.
        wide: whether they take more room than usual.
    """

    title: str
    about: str
    pictures: Sequence[Picture]
    wide: bool = False


class Album:
    """Writes the pictures of one page.

    A file's name holds a digest of its content: the page of a finished run has the same files however often it is made,
    and one that is open never shows another picture than it meant. As everywhere in a run, nothing is deleted.

    Args:
        out: the folder that the page is written to.
        pages: where in it, with a slash behind; empty for the folder itself.
    """

    def __init__(self, out: Folder, pages: str = PAGES) -> None:
        self._out, self._pages, self._names = out, pages, set[str]()

    def add(self, name: str, content: bytes) -> str:
        """Write a JPEG file; returns its name relative to the page."""
        full = f"{self._pages}pictures/{name}-{sha256(content).hexdigest()[:12]}.jpg"
        if full not in self._names:
            self._out.replace(full, content)
            self._names.add(full)
        return full.removeprefix(self._pages)
