"""Truth made of class ids: what the ids are called, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simsam_batch.catalog import center_crops, facts_of, truth_kind
from simsam_batch.catalog.datasets.hierarchies import label_hierarchy
from simsam_batch.errors import SettingsError
from simsam_batch.settings import TrueClasses
from simsam_batch.storage import ObjectNotFound, read_url, redact

_UNNAMED_CLASSES = 256
"""As many ids as an 8-bit image of class ids can hold."""


def truth_of(options: TrueClasses, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the truth is to be read, or None if it is not one of class ids.

    Keys are ``kind``, which is ``classes``; ``classes`` (names by id, None where nobody has named them, see `names_of`)
    and their ``count``; ``ignore_label``; ``also_ignored`` (further ids, to be read as that one); ``protocol`` and
    ``center_crop``. A dataset by name knows all of it; otherwise the settings say it.

    Args:
        options: the settings.
        source: of the plan.

    Raises:
        SettingsError: the file of class names cannot be read.
    """
    facts = facts_of(source)
    if truth_kind(source) not in (None, "semantic"):
        return None
    ignore = None if options.ignore_label < 0 else options.ignore_label
    classes: tuple[str, ...] | None = None
    protocol, also_ignored = "semantic", set[int]()
    if facts is not None:
        if facts.label_hierarchy is not None and facts.ignore_label is not None:
            also_ignored = set(label_hierarchy(facts.label_hierarchy).ignore)
        classes, protocol = facts.classes, facts.protocol
        ignore = facts.ignore_label if ignore is None else ignore
    if options.class_names is not None:
        classes = read_class_names(options.class_names)
    named = None if classes is None else list(classes)
    return {
        "kind": "classes",
        "classes": named,
        "count": len(names_of(named)),
        "ignore_label": ignore,
        "also_ignored": sorted(also_ignored - {ignore}),
        "protocol": protocol,
        "center_crop": center_crops(source),
    }


def names_of(classes: Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes by id; those that nobody has named are called by their ids, 0 to 255."""
    return tuple(map(str, range(_UNNAMED_CLASSES))) if classes is None else tuple(classes)


def read_class_names(url: str) -> tuple[str, ...]:
    """The lines of a text file, the name of class 0 first.

    Raises:
        SettingsError: there is no such file, it is no text, or it holds a name twice or none.
    """
    try:
        text = read_url(url).decode("utf-8")
    except (ObjectNotFound, UnicodeDecodeError) as error:
        raise SettingsError(f"class_names: {redact(url)} cannot be read as text: {error}") from error
    names = tuple(line.strip() for line in text.strip().splitlines())
    repeated = sorted({name for name in names if names.count(name) > 1})
    fault = ""
    if not names:
        fault = "holds no name"
    elif "" in names:
        fault = "has a line without a name"
    elif repeated:
        fault = f"holds {', '.join(repeated)} more than once"
    if fault:
        raise SettingsError(f"class_names: {redact(url)} {fault}; one name a line is needed, that of id 0 first")
    return names
