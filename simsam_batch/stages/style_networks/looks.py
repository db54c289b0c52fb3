"""What is to be restyled by which words: of each picture the regions and their texts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simsam_batch.errors import SettingsError
from simsam_batch.storage import ObjectNotFound, read_url, redact

OBJECT, BACKGROUND = "object", "background"
"""Regions of a mask of ``segment``."""

Look = dict[str, str]
"""The text of each region that one picture has restyled."""

_LABEL = re.compile(r"(?:label )?([1-9][0-9]{0,8})")
_LABEL_TEXT = re.compile(rf"{_LABEL.pattern}\s*=\s*(.*)", re.DOTALL)


def label_of(region: str) -> int | None:
    """The label of ``semantic`` that a region is of; None for one of a mask."""
    return int(region.removeprefix("label ")) if region.startswith("label ") else None


def look_of(object: str, background: str, labels: Iterable[str]) -> Look:  # noqa: A002  what the flag is called
    """The look that flags ask for.

    Args:
        object: its text; empty for none.
        background: likewise.
        labels: ``7=a text`` each.

    Raises:
        SettingsError: one of the labels is not written so, or twice.
    """
    look = {OBJECT: object, BACKGROUND: background}
    for given in labels:
        found = _LABEL_TEXT.fullmatch(given.strip())
        if found is None:
            raise SettingsError(f'label: {given[:80]!r} is no label with words. To mend it: write it as "7=a lawn"')
        region = f"label {found[1]}"
        if region in look:
            raise SettingsError(
                f"label: {found[1]} is given twice. To mend it: leave one out; for several pictures "
                "of an image write --texts"
            )
        look[region] = found[2]
    return _with_words(look)


def read_looks(url: str) -> list[Look]:
    """The looks of a file, one a line.

    A ``.txt`` has a text for the object in each line; a ``.csv`` names in its first line, and each object of a
    ``.jsonl``, what is restyled: ``object``, ``background`` or a label. Empty lines are left out.

    Raises:
        SettingsError: it cannot be read, names anything else, or has no words, or the same line twice.
    """
    place = f"texts: {redact(url)}"
    try:
        text = read_url(url).decode("utf-8-sig")
    except (ObjectNotFound, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{place} cannot be read: {error}. To mend it: name a file of UTF-8 text") from error
    looks = [
        _with_words({_region(name, place): str(words or "") for name, words in line.items()})
        for line in _lines(text, url, place)
    ]
    looks = [look for look in looks if look]
    if not looks:
        raise SettingsError(f"{place} has no words. To mend it: write a text in each line")
    for place_, look in enumerate(looks):
        if look in looks[:place_]:
            raise SettingsError(f"{place}: {look} is there twice. To mend it: leave one out")
    return looks


def _lines(text: str, url: str, place: str) -> list[Mapping[str, Any]]:
    if url.endswith(".csv"):
        return [{str(name): words for name, words in line.items()} for line in csv.DictReader(io.StringIO(text))]
    if not url.endswith(".jsonl"):
        return [{OBJECT: line} for line in text.splitlines()]
    found: list[Mapping[str, Any]] = []
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise SettingsError(f"{place}: line {number} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise SettingsError(f'{place}: line {number} is no object. To mend it: write {{"object": "a text"}}')
        found.append(value)
    return found


def _region(name: str, place: str) -> str:
    name = name.strip()
    if name in (OBJECT, BACKGROUND):
        return name
    found = _LABEL.fullmatch(name)
    if found is None:
        raise SettingsError(f"{place} has {name[:40]!r}. To mend it: name object, background or the number of a label")
    return f"label {found[1]}"


def _with_words(look: Mapping[str, str]) -> Look:
    return {region: words.strip() for region, words in look.items() if words.strip()}


def pictures_of(looks: Sequence[Any]) -> list[str]:
    """The names of the pictures of an image, one for each look, as attachments of its row."""
    return ["picture"] if len(looks) == 1 else [f"picture-{number}" for number in range(1, len(looks) + 1)]
