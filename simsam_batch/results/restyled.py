"""What a stage that restyles has made of one image: its pictures, and what each region became in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NOT_RESTYLED = "not_restyled"
"""Outcome of an image that did not fail, and in which every region was left as it is."""

_ONLY = "picture"


@dataclass(frozen=True, slots=True)
class Restyled:
    """One picture of an image.

    Attributes:
        name: of the attachment that it is, such as ``picture``, or ``picture-2`` of several.
        styles: of the regions that were to become something in it, as the row has them, each ``styled`` or ``skipped``.
    """

    name: str
    styles: list[dict[str, Any]]

    @property
    def changed(self) -> bool:
        """Whether any region was restyled; else the picture is the image."""
        return any(style["status"] == "styled" for style in self.styles)

    @property
    def text(self) -> str:
        """The words of what was restyled; of several regions each with its name."""
        done = [style for style in self.styles if style["status"] == "styled"]
        if len(done) == 1:
            return str(done[0]["text"])
        return ", ".join(f"{style['region']}: {style['text']}" for style in done)


def restyled(styles: Iterable[Mapping[str, Any]] | None) -> list[Restyled]:
    """The pictures of a row, in order; none of an image that failed.

    Args:
        styles: the row's column of this name; one that names no ``picture`` belongs to the only one there is.
    """
    found: dict[str, Restyled] = {}
    for style in styles or ():
        name = str(style.get("picture") or _ONLY)
        found.setdefault(name, Restyled(name, [])).styles.append(dict(style))
    return list(found.values())
