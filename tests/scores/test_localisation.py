"""Boxes and CorLoc worked out by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsam_batch.scores.localisation import Box, LocalisationScores, is_localised


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0),
        # 4 x 4 and 4 x 4 moved by 2: 2 * 4 = 8 in common, 16 + 16 - 8 in either.
        ((0, 0, 4, 4), (2, 0, 6, 4), 8 / 24),
        # The maximum is exclusive: boxes that touch share nothing, and (0, 0, 1, 1) is a pixel.
        ((0, 0, 4, 4), (4, 0, 8, 4), 0.0),
        ((0, 0, 1, 1), (0, 0, 2, 2), 1 / 4),
        ((3, 3, 3, 9), (0, 0, 9, 9), 0.0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),
        ((9, 9, 3, 3), (0, 0, 9, 9), 0.0),
    ],
)
def test_boxes_lie_on_each_other_by_hand(a: Box, b: Box, expected: float) -> None:
    assert is_localised(a, [b]) == is_localised(b, [a]) == (expected >= 0.5)


def test_exactly_one_half_is_enough_and_one_pixel_less_is_not() -> None:
    # 10 x 10 = 100 within 10 x 20 = 200: exactly one half. Within 201 pixels: less.
    assert is_localised((0, 0, 10, 10), [(0, 0, 10, 20)])
    assert not is_localised((0, 0, 10, 10), [(0, 0, 1, 201), (0, 0, 10, 20.1)])


def test_any_annotated_box_will_do() -> None:
    far, near = (50, 50, 60, 60), (0, 0, 10, 10)
    assert is_localised(near, [far, near])
    assert not is_localised(near, [far])
    assert not is_localised(None, [near])
    assert not is_localised(near, [])


def test_a_set_of_five_images_by_hand() -> None:
    fold = LocalisationScores()
    box = (0.0, 0.0, 10.0, 10.0)
    state = fold.zero()
    for predicted, annotated in [
        (box, [box]),
        (box, [(20.0, 20.0, 30.0, 30.0)]),
        (None, [box]),
        (box, []),
        (box, [(0.0, 0.0, 10.0, 15.0)]),
    ]:
        state = fold.merge(state, fold.of_image(predicted, annotated))
    assert state == json.loads(json.dumps(state))
    found = fold.result(state)
    assert found["corloc"] == 2 / 4
    assert (found["images_scored"], found["images_without_annotation"], found["protocol"]) == (4, 1, "corloc")
    low, high = found["corloc_ci"]
    assert 0 <= low < 0.5 < high <= 1


def test_images_without_annotation_are_counted_and_alone_they_have_no_score() -> None:
    fold = LocalisationScores()
    assert fold.result(fold.zero()) == {}
    assert fold.result(fold.of_image((0, 0, 1, 1), [])) == {
        "protocol": "corloc",
        "images_scored": 0,
        "images_without_annotation": 1,
    }


corners = st.tuples(*4 * [st.integers(0, 12)])


@given(a=corners, b=corners)
def test_half_of_the_pixels_is_what_counts(a: Box, b: Box) -> None:
    pixels = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    either = pixels[0] | pixels[1]
    assert is_localised(a, [b]) == (2 * len(pixels[0] & pixels[1]) >= len(either) > 0)
