"""What strangers named and wrote, as people may see it: it steers no terminal, and begins no line of its own."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any


def plain(text: str) -> str:
    r"""The text on one line; what is not seen, or turns the direction of its neighbours, as Python would write it.

    Spaces of all widths stay. Tables and files for programs keep the text itself.

    >>> print(plain("a\x1b[2J\nb\u202egnp.jpg"))
    a\x1b[2J\nb\u202egnp.jpg
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_seen(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _is_seen(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def counted(n: int, noun: str, several: str | None = None) -> str:
    """A number of things for people: ``1 image``, ``2,000 images``; ``several`` is a plural of another form."""
    return f"{n:,} {noun if n == 1 else several or noun + 's'}"


def log_plainly() -> None:
    """In a process of this program's own, have log records that no handler takes go to standard error as `plain`."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Plain())


class _Plain(logging.Formatter):
    """One line a record; the lines of a traceback stay lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  its parent calls it so
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(plain, super().formatException(ei).split("\n")))
