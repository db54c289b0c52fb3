"""Hierarchies of labels: which classes of a dataset are parts or kinds of what, from its published list of classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import yaml

from simsam_batch.catalog.datasets.voc import CLASSES
from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.storage import ObjectNotFound, read_url, redact
from simsam_batch.yaml_text import check_written_out

BACKGROUND = "background"
"""The one region that all labels of the background are."""

_FILES = ("coco-stuff", "coco-things", "cityscapes", "partimagenet", "pascal-part")
HIERARCHIES = ("voc2012", *_FILES)
"""Names of the hierarchies that are part of this project."""

_LARGEST_FILE = 1 << 20
_DEEPEST = 16
_MOST_LABELS = 1 << 16
_KEYS = ("title", "background", "ignore", "regions")


@dataclass(frozen=True, slots=True)
class LabelHierarchy:
    """The regions that the labels of a dataset's maps stand for.

    Attributes:
        title: of the dataset, with its source.
        names: of the regions, each with those above it and slashes between; the background comes last.
        parent: the region of which each is a part, before it in the list; -1 at the top.
        region_of_label: the region of each value of the maps.
        background: which region is `BACKGROUND`; None if there is none.
        ignore: values of pixels that do not count.
    """

    title: str
    names: tuple[str, ...]
    parent: tuple[int, ...]
    region_of_label: dict[int, int]
    background: int | None
    ignore: frozenset[int]


def label_hierarchy(which: str) -> LabelHierarchy:
    """A hierarchy by its name among `HIERARCHIES`, or from a YAML file at a path or URL.

    A file has up to four keys. ``regions`` nests names; innermost are labels: ``head: 1``, ``wheel: [3, 7..9]`` for
    one region that has several, ``wheel_*: 14..23`` for the regions ``wheel_1`` to ``wheel_10`` with one each.
    ``background`` and ``ignore`` hold labels in the same way, ``title`` a text.

    Raises:
        SettingsError: no such name, nothing there, or the file is not as described; says where.
        StorageError: the storage did not answer.
    """
    if which == "voc2012":
        return flat_hierarchy("PASCAL VOC 2012", CLASSES, background=(0,), ignore=(255,))
    if which in _FILES:
        text = files("simsam_batch.catalog.datasets").joinpath(f"label_trees/{which}.yaml").read_bytes()
        return parse_hierarchy(text, which)
    place = redact(which)
    try:
        text = read_url(which, _LARGEST_FILE)
    except ObjectNotFound as error:
        guess = did_you_mean(which, HIERARCHIES, "{}")
        raise SettingsError(
            f"hierarchy: {place}: nothing is there, and no hierarchy has that name{guess} "
            f"Known names are {', '.join(HIERARCHIES)}"
        ) from error
    if len(text) > _LARGEST_FILE:
        raise SettingsError(f"hierarchy: {place}: is larger than {_LARGEST_FILE} bytes")
    return parse_hierarchy(text, place)


def class_names(*hierarchies: str) -> tuple[str, ...]:
    """The name of each label 0, 1, ... of the maps that some hierarchies among `HIERARCHIES` have in common.

    A name is that of the region alone where no two regions have the same, else with those above it. Labels that one
    hierarchy has as background are named by another; those that are ignored below the last one that counts are called
    ``ignored 1`` for the label 1.
    """
    regions: dict[int, str] = {}
    background: dict[int, str] = {}
    for found in map(label_hierarchy, hierarchies):
        for label, region in found.region_of_label.items():
            (background if region == found.background else regions)[label] = found.names[region]
    short = {label: name.rpartition("/")[2] for label, name in regions.items()}
    named = background | (short if len(set(short.values())) == len(short) else regions)
    return tuple(named.get(label, f"ignored {label}") for label in range(max(named) + 1))


def flat_hierarchy(
    title: str, classes: Sequence[str], background: Collection[int] = (), ignore: Collection[int] = ()
) -> LabelHierarchy:
    """Classes without groups, numbered 0, 1, ... as listed; those of the background become one region.

    Raises:
        SettingsError: a name comes twice, or is `BACKGROUND` without being it.
    """
    building = _Building(title)
    for label, name in enumerate(classes):
        if label not in background and label not in ignore:
            building.add(name, -1, (label,))
    return building.finish(background, ignore)


def parse_hierarchy(text: bytes, place: str) -> LabelHierarchy:
    """A hierarchy from the text of a file as `label_hierarchy` describes it.

    Args:
        text: UTF-8.
        place: where it is from, for messages.

    Raises:
        SettingsError: the text is not as described; says where.
    """
    try:
        decoded = text.decode("utf-8-sig")
        check_written_out(decoded, deepest=_DEEPEST)
        # The nodes alone: names stay the text that they are (YAML reads "no" as false).
        root = yaml.compose(decoded, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingsError(f"hierarchy: {place}: cannot be read as YAML: {reason}") from error
    try:
        return _built(root, place)
    except _MisplacedError as error:
        raise SettingsError(f"hierarchy: {place}{error}") from error


class _MisplacedError(ValueError):
    """What is wrong with a node of the file, with its line."""

    def __init__(self, node: yaml.Node | None, reason: str) -> None:
        super().__init__((f", line {node.start_mark.line + 1}: " if node else ": ") + reason)


class _Building:
    """Regions as they are read, parents first."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.regions: dict[str, int] = {}
        self.parent: list[int] = []
        self.labels: dict[int, int] = {}

    def add(self, name: str, above: int, labels: Collection[int] = ()) -> int:
        if name in self.regions:
            raise SettingsError(f"hierarchy: {self.title}: the region {name!r} is there twice")
        if name == BACKGROUND:
            raise SettingsError(f"hierarchy: {self.title}: {BACKGROUND!r} is not one of the regions; list its labels")
        region = self.regions[name] = len(self.parent)
        self.parent.append(above)
        self.labels |= dict.fromkeys(labels, region)
        return region

    def finish(self, background: Collection[int], ignore: Collection[int]) -> LabelHierarchy:
        names, region = tuple(self.regions), None
        if background:
            names, region = (*names, BACKGROUND), len(names)
            self.parent.append(-1)
            self.labels |= dict.fromkeys(background, region)
        return LabelHierarchy(self.title, names, tuple(self.parent), self.labels, region, frozenset(ignore))


def _built(root: yaml.Node | None, place: str) -> LabelHierarchy:
    if root is None:
        raise _MisplacedError(None, "is empty; at least 'regions' is needed")
    keys = {}
    for key, node in _entries(root):
        if key not in _KEYS:
            raise _MisplacedError(node, f"unknown key {key!r}; keys are {', '.join(_KEYS)}")
        keys[key] = node
    if "regions" not in keys:
        raise _MisplacedError(root, "the key 'regions' is missing")
    building = _Building(_text(keys["title"]) if "title" in keys else place)
    seen: set[int] = set()
    background, ignore = (_labels(keys[key], seen) if key in keys else [] for key in ("background", "ignore"))
    _add_regions(keys["regions"], building, "", -1, seen)
    return building.finish(background, ignore)


def _add_regions(node: yaml.Node, building: _Building, path: str, above: int, seen: set[int]) -> None:
    for name, value in _entries(node):
        if "/" in name or (not path and name == BACKGROUND):
            raise _MisplacedError(value, f"a region cannot be called {name!r}")
        if isinstance(value, yaml.MappingNode):
            _add_regions(value, building, f"{path}{name}/", building.add(path + name, above), seen)
            continue
        labels = _labels(value, seen)
        if not name.endswith("*"):
            building.add(path + name, above, labels)
            continue
        for number, label in enumerate(labels, 1):
            building.add(f"{path}{name[:-1]}{number}", above, (label,))


def _entries(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """The names and values of a mapping."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise _MisplacedError(node, "expected 'name: ...' lines")
    for key, value in node.value:
        yield _text(key), value


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise _MisplacedError(node, "expected a name")
    return str(node.value)


def _labels(node: yaml.Node, seen: set[int]) -> list[int]:
    """The labels of a number, a range, or a list of them."""
    found: list[int] = []
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        text = item.value if isinstance(item, yaml.ScalarNode) else ""
        parts = re.fullmatch(r"(-?\d{1,9})(?:\.\.(-?\d{1,9}))?", text)
        if parts is None:
            raise _MisplacedError(
                item, f"expected a label such as 7, or labels such as 7..9 or [3, 7..9], found {text!r}"
            )
        first = int(parts[1])
        last = first if parts[2] is None else int(parts[2])
        if not first <= last < first + _MOST_LABELS - len(seen):
            raise _MisplacedError(item, f"{text} is no range of labels, or makes them more than {_MOST_LABELS}")
        for label in range(first, last + 1):
            if label in seen:
                raise _MisplacedError(item, f"the label {label} is there twice")
            seen.add(label)
            found.append(label)
    if not found:
        raise _MisplacedError(node, "expected a label")
    return found
