"""Hierarchies of labels: those of known datasets against other lists of their classes, and files that people write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import Cityscapes
from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES

from simsam_batch.catalog.datasets.hierarchies import (
    HIERARCHIES,
    LabelHierarchy,
    flat_hierarchy,
    label_hierarchy,
    parse_hierarchy,
)
from simsam_batch.errors import SettingsError
from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.nodes import TreeNodes

CLOTHES = """\
title: people and their clothes
background: 0
ignore: [255, 7..8]
regions:
  person:
    garments: {shirt: 3, trousers: [4, 9]}
    skin: 1
    hair: 2
  "no": 5
  shoe_*: 10..12
"""


def classes_of(hierarchy: LabelHierarchy) -> dict[int, str]:
    """The label of every class that is not background, with the last part of its name."""
    held = hierarchy.region_of_label.items()
    return {label: hierarchy.names[r].split("/")[-1] for label, r in held if r != hierarchy.background}


def groups_by_level(hierarchy: LabelHierarchy) -> list[int]:
    """How many groups there are at each level."""
    levels = Counter(hierarchy.names[region].count("/") for region in set(hierarchy.parent) - {-1})
    return [levels[level] for level in sorted(levels)]


def read(text: str) -> LabelHierarchy:
    return parse_hierarchy(text.encode(), "mine.yaml")


@pytest.mark.parametrize(
    ("name", "groups", "classes", "background", "ignored"),
    [
        ("voc2012", [], 20, 1, 1),
        ("coco-stuff", [1, 2, 15], 91, 91, 1),
        ("coco-things", [1, 2, 12], 91, 91, 1),
        ("cityscapes", [7], 19, 0, 16),
        ("partimagenet", [11], 40, 1, 0),
        ("pascal-part", [16], 388, 1, 1),
    ],
)
def test_hierarchies_have_as_many_classes_as_their_datasets(
    name: str, groups: list[int], classes: int, background: int, ignored: int
) -> None:
    # Sizes as the datasets publish them: of COCO's pixel maps 91 things in 12 groups and 91 stuff in 15.
    hierarchy = label_hierarchy(name)
    assert groups_by_level(hierarchy) == groups
    assert len(classes_of(hierarchy)) == classes
    assert sum(region == hierarchy.background for region in hierarchy.region_of_label.values()) == background
    assert len(hierarchy.ignore) == ignored
    assert name in HIERARCHIES


def test_every_hierarchy_is_one_that_scores_take() -> None:
    for name in HIERARCHIES:
        h = label_hierarchy(name)
        scores = CoveringScores(h.names, h.parent, h.region_of_label, background=h.background, ignore=h.ignore)
        label = min(label for label, region in h.region_of_label.items() if region != h.background)
        one = TreeNodes(np.array([-1]), np.array([0]), np.array([1]), np.array([0]))
        found = scores.result(scores.of_image(np.zeros((2, 2), int), np.full((2, 2), label), one))
        assert found["nmcovering"] == 1.0


def test_cityscapes_ids_and_groups_are_those_of_torchvision() -> None:
    known = Cityscapes.classes
    hierarchy = label_hierarchy("cityscapes")
    expected = {c.id: f"{c.category}/{c.name}" for c in known if not c.ignore_in_eval}
    assert {label: hierarchy.names[r] for label, r in hierarchy.region_of_label.items()} == expected
    assert hierarchy.ignore == {c.id for c in known if c.ignore_in_eval}
    assert hierarchy.background is None


def test_coco_things_are_those_of_torchvision_one_less() -> None:
    # Eleven of the things were never annotated; torchvision's list names none of them and ends before the last.
    things = classes_of(label_hierarchy("coco-things"))
    assert sorted(things) == list(range(91))
    for label, name in enumerate(_COCO_CATEGORIES[1:]):
        assert name in (things[label], "N/A")
    never = {"street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender"}
    assert {things[label] for label, name in enumerate(_COCO_CATEGORIES[1:]) if name == "N/A"} == never
    assert things[90] == "hair brush"


def test_coco_stuff_is_numbered_in_the_order_of_its_names() -> None:
    stuff = classes_of(label_hierarchy("coco-stuff"))
    assert sorted(stuff) == list(range(91, 182))
    assert [stuff[label] for label in sorted(stuff)] == sorted(stuff.values())
    things = label_hierarchy("coco-things")
    assert {label for label, region in things.region_of_label.items() if region == things.background} == set(stuff)


def test_pascal_classes_are_those_of_torchvision() -> None:
    voc = label_hierarchy("voc2012")
    names = {"__background__": "background"}
    assert {voc.names[r]: label for label, r in voc.region_of_label.items()} == {
        names.get(name, name): label for label, name in enumerate(_VOC_CATEGORIES)
    }
    parts = label_hierarchy("pascal-part")
    tops = [name for name, above in zip(parts.names, parts.parent, strict=True) if above == -1]
    assert {"diningtable" if name == "table" else name for name in tops} == set(voc.names)
    # Four things of the set have no parts.
    assert {name for name in tops if name in classes_of(parts).values()} == {"boat", "chair", "sofa", "table"}


def test_pascal_parts_are_numbered_on_from_class_to_class() -> None:
    parts = label_hierarchy("pascal-part")
    assert sorted(parts.region_of_label) == list(range(389))
    labels = [label for label in parts.region_of_label if label]
    assert labels == sorted(labels)
    named = {parts.names[region]: label for label, region in parts.region_of_label.items()}
    assert (named["aeroplane/engine_1"], named["aeroplane/engine_10"], named["bus/window_20"]) == (2, 11, 115)
    assert (named["person/torso"], named["train/head"], named["tvmonitor/screen"]) == (288, 373, 388)


def test_partimagenet_names_its_parts_as_published() -> None:
    hierarchy = label_hierarchy("partimagenet")
    # The table of the paper, in the order of its classes: how many parts each has.
    parts = Counter(hierarchy.names[r].split("/")[0] for r in hierarchy.region_of_label.values())
    expected = {"quadruped": 4, "biped": 5, "fish": 4, "bird": 5, "snake": 2, "reptile": 4, "car": 3, "bicycle": 4}
    assert parts == expected | {"boat": 2, "aeroplane": 5, "bottle": 2, "background": 1}
    assert hierarchy.region_of_label[40] == hierarchy.background


def test_a_file_says_what_is_part_of_what(tmp_path: Path) -> None:
    path = tmp_path / "clothes.yaml"
    path.write_text(CLOTHES, encoding="utf-8")
    found = label_hierarchy(str(path))
    assert found.title == "people and their clothes"
    assert found.names == (
        *("person", "person/garments", "person/garments/shirt", "person/garments/trousers", "person/skin"),
        *("person/hair", "no", "shoe_1", "shoe_2", "shoe_3", "background"),
    )
    assert found.parent == (-1, 0, 1, 1, 0, 0, -1, -1, -1, -1, -1)
    assert found.region_of_label == {3: 2, 4: 3, 9: 3, 1: 4, 2: 5, 5: 6, 10: 7, 11: 8, 12: 9, 0: 10}
    assert found.background == 10
    assert found.ignore == {255, 7, 8}


def test_a_file_needs_regions_alone() -> None:
    found = read("regions: {sky: -1..1, land: [5]}")
    assert (found.title, found.names, found.parent) == ("mine.yaml", ("sky", "land"), (-1, -1))
    assert found.region_of_label == {-1: 0, 0: 0, 1: 0, 5: 1}
    assert (found.background, found.ignore) == (None, frozenset())


def test_classes_without_groups_are_numbered_as_listed() -> None:
    found = flat_hierarchy("three", ("null", "sky", "road", "void"), background=(0,), ignore=(3, 255))
    assert found.names == ("sky", "road", "background")
    assert found.region_of_label == {1: 0, 2: 1, 0: 2}
    assert (found.background, found.ignore) == (2, {3, 255})
    with pytest.raises(SettingsError, match="three: the region 'sky' is there twice"):
        flat_hierarchy("three", ("sky", "road", "sky"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml: is empty; at least 'regions' is needed"),
        ("title: no regions", "line 1: the key 'regions' is missing"),
        ("- a\n- b", "line 1: expected 'name: ...' lines"),
        ("regions: {a: 1}\nbackgrund: 0", "line 2: unknown key 'backgrund'; keys are title, background, ignore"),
        ("regions:\n  a: 1\n  b: 1", "line 3: the label 1 is there twice"),
        ("ignore: 1\nregions:\n  a: 1", "line 3: the label 1 is there twice"),
        ("regions:\n  a: 1\n  a: 2", "line 3: 'a' is there twice"),
        ("regions:\n  a: {b: 1}\n  a: {c: 2}", "line 3: 'a' is there twice"),
        ("regions:\n  a: one", "line 2: expected a label such as 7, or labels such as 7..9 or .*, found 'one'"),
        ("regions:\n  a: 1.5", "line 2: expected a label"),
        ("regions:\n  a:", "line 2: expected a label"),
        ("regions:\n  a: []", "line 2: expected a label"),
        ("regions:\n  a: [[1]]", "line 2: expected a label"),
        ("regions:\n  a: 9..7", "line 2: 9..7 is no range of labels"),
        ("regions:\n  a: 0..999999999", "line 2: 0..999999999 is no range of labels, or makes them more than 65536"),
        (
            "regions:\n  a: 0..40000\n  b: 50000..90000",
            "line 3: 50000..90000 is no range of labels, or makes them more",
        ),
        ("regions:\n  a: {}", "line 2: expected 'name: ...' lines"),
        ("regions:\n  a/b: 1", "line 2: a region cannot be called 'a/b'"),
        ("regions:\n  background: 1", "line 2: a region cannot be called 'background'"),
        ("regions:\n  '': 1", "line 2: expected a name"),
        ("regions:\n  ? {a: 1}\n  : 2", "line 2: expected a name"),
        ("regions:\n  wheel_*: 1..2\n  wheel_2: 7", "'wheel_2' is there twice"),
        ("regions: &all {a: *all}", "YAML: aliases .* and more than 16 levels are not read"),
        ("regions: {a: &one {b: 1}, c: *one}", "aliases .* are not read"),
        ("regions: {a: 1", "mine.yaml: cannot be read as YAML: while parsing a flow mapping"),
        ("[" * 100_000, "more than 16 levels"),
        ("a: \x00", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_wrong_is_told_where(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(text)


def test_what_is_neither_a_name_nor_a_file_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"cityscape: nothing is there.*did you mean cityscapes\? Known names are voc"
    ):
        label_hierarchy("cityscape")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(SettingsError, match="larger than 1048576 bytes"):
        label_hierarchy(str(large))
    with pytest.raises(SettingsError, match="cannot be read as YAML"):
        parse_hierarchy(b"\xff\xfe\x00", "mine.yaml")


@settings(deadline=None, max_examples=150)
@given(text=st.one_of(st.binary(max_size=60), st.text("ab:{}[]&*!- \n,01.", max_size=40).map(str.encode)))
def test_any_content_is_a_hierarchy_or_a_short_message(text: bytes) -> None:
    for content in (text, b"regions: " + text):
        try:
            found = parse_hierarchy(content, "mine.yaml")
        except SettingsError as error:
            told = str(error)
        else:
            told = found.title
            assert all(above < region for region, above in enumerate(found.parent))
            assert set(found.region_of_label.values()) <= set(range(len(found.names)))
        assert 0 < len(told) < 500
