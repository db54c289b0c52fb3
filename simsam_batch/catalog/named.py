"""IMAGES as it is given: one path, URL or ``NAME:ROOT``, or several paths and URLs."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.catalog.records import quoted
from simsam_batch.errors import SettingsError
from simsam_batch.storage import absolute_url, redact

Images = str | Sequence[str]


def named_paths(images: Images) -> list[str]:
    """What was named, one by one: of several paths each once, in the order of their absolute places.

    So a shell may sort them as it likes, and the input is the same. No path at all is refused by a `SettingsError`.
    """
    if isinstance(images, str):
        return [images]
    if not images:
        raise SettingsError("IMAGES: no path is given. To mend it: name one or more")
    return [path for _, path in sorted({absolute_url(path): path for path in images}.items())]


def told_paths(images: Images) -> str:
    """The same for messages."""
    paths = named_paths(images)
    return redact(paths[0]) if len(paths) == 1 else quoted(map(redact, paths[:5]), len(paths))
