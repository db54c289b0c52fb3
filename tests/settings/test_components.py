"""Settings made of components: where each stands in the help, and which of them components name."""

from __future__ import annotations

import pytest

from simsam_batch.settings import Component, Settings, given, operation, result


class Size(Component, title="Size"):
    width: int = result(3, "in metres")
    height: int = result(2, "in metres")


class Colour(Component, title="Colour"):
    colour: str = result("red", "of the outside")
    brushes: int = operation(1, "to paint with")


class Depth(Size):
    depth: int = result(1, "in metres", unrecorded=4)


class Place(Component, title="Where"):
    street: str = given("", "where it is to stand")


class House(Place, Colour, Depth, Size, Settings):
    height: int = result(9, "in metres, with its roof")


def test_the_last_base_comes_first_and_a_setting_with_another_default_keeps_its_place() -> None:
    assert list(House.model_fields) == ["width", "height", "depth", "colour", "brushes", "street"]
    assert House().height == 9


def test_settings_of_a_kind_are_those_that_were_declared_as_it() -> None:
    assert House.fields_of("result") == ["width", "height", "depth", "colour"]
    assert House.fields_of("operation") == ["brushes"]
    assert House.fields_of("input") == ["street"]


def test_a_component_names_its_settings_and_what_derived_ones_add() -> None:
    assert House(width=5).values_of("result", (Size,)) == {"width": 5, "height": 9, "depth": 1}
    assert House().values_of("result", (Depth,)) == {"depth": 1}
    assert House().values_of("result", (Colour, Depth)) == {"depth": 1, "colour": "red"}
    assert House().values_of("result", ()) == {}


def test_what_runs_did_before_there_was_a_setting_need_not_be_its_default() -> None:
    assert House.unrecorded() == House.unrecorded((Depth,)) == {"depth": 4}
    assert House.unrecorded((Size,)) == {"depth": 4}, "a derived component's settings are its own too"
    assert House.unrecorded((Colour,)) == {}


def test_a_section_is_the_component_s_title_and_input_and_operation_have_one_each() -> None:
    sections = {name: House.section_of(name) for name in House.model_fields}
    assert sections == {
        "width": "Size",
        "height": "Size",
        "depth": "Size",
        "colour": "Colour",
        "brushes": "Operation",
        "street": "Input",
    }


def test_a_title_has_no_part_in_what_a_component_names() -> None:
    class Windows(Component, title="Size"):
        windows: int = result(4, "on every side")

    class Cottage(Windows, Size, Settings):
        """With windows."""

    assert Cottage.section_of("windows") == "Size"
    assert Cottage.fields_of("result", (Size,)) == ["width", "height"]


def test_a_setting_outside_any_component_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Cabin\.logs is part of no component"):

        class Cabin(Size, Settings):
            logs: int = result(40, "to build it of")


def test_a_component_that_the_settings_lack_is_not_taken_for_an_empty_one() -> None:
    class Garden(Component, title="Garden"):
        trees: int = result(0, "behind the house")

    with pytest.raises(TypeError, match="House has no component Garden"):
        House().values_of("result", (Size, Garden))
