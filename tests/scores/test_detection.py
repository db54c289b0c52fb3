"""Average precision and recall of detections: by hand, and to the last digits as pycocotools' COCOeval has them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from simsam_batch.scores.detection import Detected, DetectionScores, match_detections

NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
NAMES += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
SIZE = 160


def box_mask(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def runs_of(mask: NDArray[np.uint8]) -> dict[str, Any]:
    found: dict[str, Any] = coco.encode(np.asfortranarray(mask))
    return found


def judged(truth: list[dict[str, Any]], found: list[dict[str, Any]], images: int, kind: str) -> list[float | None]:
    """What COCOeval says; None for its -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        of_truth = COCO()
        listed = [{"id": number, "width": SIZE, "height": SIZE} for number in range(images)]
        of_truth.dataset = {"images": listed, "categories": [{"id": 1, "name": "object"}], "annotations": truth}
        of_truth.createIndex()
        of_found = COCO()
        of_found.dataset = {**of_truth.dataset, "annotations": found}
        of_found.createIndex()
        evaluation = COCOeval(of_truth, of_found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else float(value) for value in evaluation.stats]


def state_of(truth: list[dict[str, Any]], found: list[dict[str, Any]], kind: str) -> Detected:
    what = "segmentation" if kind == "segm" else "bbox"
    crowd = [each["iscrowd"] for each in truth]
    if truth and found:
        ious = coco.iou([each[what] for each in found], [each[what] for each in truth], crowd)
    else:
        ious = np.zeros((len(found), len(truth)))
    return match_detections(
        np.asarray(ious, np.float64),
        np.array([each["score"] for each in found], np.float64),
        np.array([each["area"] for each in found], np.float64),
        np.array([each["area"] for each in truth], np.float64),
        np.array(crowd, np.bool_),
    )


def drawn(rng: np.random.Generator, images: int, most: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes here and there of all sizes, with equal scores, crowds, detections beside the truth and next to nothing."""
    truth, found = [], []
    for image in range(images):
        for into, count in ((truth, rng.integers(0, 5)), (found, rng.integers(0, most))):
            for _ in range(count):
                near = into is found and truth and truth[-1]["image_id"] == image and rng.random() < 0.7
                if near:
                    held = [each for each in truth if each["image_id"] == image]
                    left, top, width, height = held[rng.integers(len(held))]["bbox"]
                    left, top = left + int(rng.integers(0, 3)), top + int(rng.integers(0, 3))
                else:
                    left, top = (int(value) for value in rng.integers(0, 60, 2))
                    side = int(rng.choice([8, 24, 31, 32, 40, 96, 97]))
                    width = height = side
                box = [left, top, min(width, SIZE - left), min(height, SIZE - top)]
                mask = box_mask(*box)
                if rng.random() < 0.3:
                    mask[::2, left : left + 5] = 0
                into.append(
                    {
                        "id": len(into) + 1,
                        "image_id": image,
                        "category_id": 1,
                        "bbox": box,
                        "segmentation": runs_of(mask),
                        "area": int(mask.sum()),
                        "iscrowd": int(into is truth and rng.random() < 0.15),
                        **({"score": float(rng.integers(0, 5)) / 4} if into is found else {}),
                    }
                )
    return truth, found


def scores_of(truth: list[dict[str, Any]], found: list[dict[str, Any]], images: int, kind: str) -> dict[str, Any]:
    fold = DetectionScores()
    state = fold.zero()
    for image in range(images):
        own = [[each for each in of if each["image_id"] == image] for of in (truth, found)]
        state = fold.merge(state, state_of(own[0], own[1], kind))
    assert state.images == images
    return fold.result(state)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 7))
def test_all_twelve_figures_are_those_of_cocoeval(kind: str, seed: int, images: int) -> None:
    truth, found = drawn(np.random.default_rng(seed), images, most=7)
    expected = judged(truth, found, images, kind)
    ours = scores_of(truth, found, images, kind)
    assert list(ours) == NAMES
    assert list(ours.values()) == pytest.approx(expected, abs=1e-12)


def test_so_are_they_with_more_detections_than_take_part() -> None:
    truth, found = drawn(np.random.default_rng(3), 2, most=6)
    crowd = [
        {**each, "id": len(found) + 1 + number, "score": 0.5, "image_id": 0}
        for number, each in enumerate(found * 60)
        if number < 130
    ]
    everything = found + crowd
    assert list(scores_of(truth, everything, 2, "segm").values()) == pytest.approx(
        judged(truth, everything, 2, "segm"), abs=1e-12
    )


def test_a_set_by_hand() -> None:
    # One true object; the first guess misses, the second is exact: precision 1/2 at every recall, at every threshold.
    ious = np.array([[0.2], [1.0]])
    areas = np.array([5000.0, 5000.0])
    state = match_detections(ious, np.array([0.9, 0.8]), areas, np.array([5000.0]), np.array([False]))
    found = DetectionScores().result(state)
    assert found["ap"] == found["ap50"] == found["ap75"] == found["ap_medium"] == pytest.approx(0.5)
    assert (found["ar_1"], found["ar_10"], found["ar_100"]) == (0.0, 1.0, 1.0)
    assert found["ap_small"] is found["ap_large"] is found["ar_small"] is None
    # Without any detection there is recall 0 of what is there; without truth there is nothing to say.
    none = np.zeros(0)
    empty = match_detections(np.zeros((0, 1)), none, none, np.array([5000.0]), np.array([False]))
    assert (DetectionScores().result(empty)["ap"], DetectionScores().result(empty)["ar_100"]) == (0.0, 0.0)
    nothing = match_detections(np.zeros((1, 0)), np.ones(1), np.ones(1), none, np.zeros(0, np.bool_))
    assert set(DetectionScores().result(nothing).values()) == {None}
    assert set(DetectionScores().result(DetectionScores().zero()).values()) == {None}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(0, 6))
def test_shards_in_order_give_what_the_whole_set_gives(seed: int, cut: int) -> None:
    truth, found = drawn(np.random.default_rng(seed), 6, most=5)
    fold = DetectionScores()
    states = []
    for image in range(6):
        own = [[each for each in of if each["image_id"] == image] for of in (truth, found)]
        states.append(state_of(own[0], own[1], "segm"))
    left, right = fold.zero(), fold.zero()
    for number, state in enumerate(states):
        left, right = (fold.merge(left, state), right) if number < cut else (left, fold.merge(right, state))
    assert fold.result(fold.merge(left, right)) == scores_of(truth, found, 6, "segm")


def test_a_long_set_is_held_in_few_blocks() -> None:
    fold = DetectionScores()
    one = match_detections(np.ones((3, 1)), np.ones(3), np.ones(3), np.ones(1), np.zeros(1, np.bool_))
    state = fold.zero()
    for _ in range(2000):
        state = fold.merge(state, one)
    assert sum(map(len, state.blocks)) == 6000
    assert len(state.blocks) <= 13  # log2 of 6000
    assert sum(block.nbytes for block in state.blocks) == 6000 * 25


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 detections with 3 true objects"):
        match_detections(np.zeros((2, 2)), np.zeros(2), np.zeros(2), np.zeros(3), np.zeros(3, np.bool_))
