"""IMAGES as it is given: one path, URL or ``NAME:ROOT``, or several paths and URLs."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch.catalog.records import quoted
from simsam_batch.storage import absolute_url, redact

Images = str | Sequence[str]


def named_paths(images: Images) -> list[str]:
    """What was named, one by one: of several paths each once, in the order of their absolute places.

    So a shell may sort them as it likes, and the input is the same.
    """
    if isinstance(images, str):
        return [images]
    return list({absolute_url(path): path for path in sorted(images, key=absolute_url)}.values())


def told_paths(images: Images) -> str:
    """The same for messages."""
    paths = named_paths(images)
    return redact(paths[0]) if len(paths) == 1 else quoted(map(redact, paths[:5]), len(paths))
