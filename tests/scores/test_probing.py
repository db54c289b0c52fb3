"""Scores of probes from counts, against hand-worked pictures, scikit-learn and loops over pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from simsam_batch.scores.confusion import confusion
from simsam_batch.scores.probing import (
    class_counts,
    counts_of_one_class,
    ious,
    mean_iou,
    per_image_miou,
    pixel_accuracy,
)
from simsam_batch.scores.repeats import spread_of

VOID = 255


def counts_of(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return class_counts(confusion(prediction, truth, classes, classes, VOID)[0])


def pictures(seed: int, images: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predictions and truths (images, 12, 16), of which a tenth of the pixels do not count and one class is rare."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (images, 12, 16)).astype(np.uint8)
    truth[truth == classes - 1] = 0
    prediction = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, classes - 1, truth.shape))
    truth[random.random(truth.shape) < 0.1] = VOID
    return prediction.astype(np.uint8), truth


def miou_of_sets(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> float:
    """Intersection over union of sets of pixels, as its definition has it."""
    counted = truth != VOID
    scores = []
    for c in range(classes):
        found, there = (set(np.flatnonzero((ids == c) & counted).tolist()) for ids in (prediction, truth))
        if found | there:
            scores.append(len(found & there) / len(found | there))
    return sum(scores) / len(scores)


def test_the_three_counts_are_read_off_the_confusion() -> None:
    # rows are predicted: of 10 pixels of class 1, 6 were found, 3 called 0, 1 called nothing at all
    table = np.array([[5, 3, 0], [2, 6, 0], [0, 0, 0], [4, 1, 0]])
    np.testing.assert_array_equal(class_counts(table), [[5, 6, 0], [8, 8, 0], [11, 10, 0]])
    assert class_counts(table.astype(np.int32)).dtype == np.int64
    with pytest.raises(ValueError, match="2 predicted ids and 3 classes"):
        class_counts(table[:2])


def test_a_class_that_is_neither_predicted_nor_true_is_left_out() -> None:
    counts = class_counts(np.array([[5, 3, 0], [2, 6, 0], [0, 0, 0]]))
    # unions are 8 + 7 - 5 and 8 + 9 - 6 pixels
    np.testing.assert_allclose(ious(counts), [5 / 10, 6 / 11, np.nan])
    assert mean_iou(counts) == pytest.approx((5 / 10 + 6 / 11) / 2)
    assert pixel_accuracy(counts) == pytest.approx(11 / 16)


def test_a_class_that_is_only_predicted_counts_zero() -> None:
    assert mean_iou(class_counts(np.array([[3, 0], [1, 0]]))) == pytest.approx((3 / 4 + 0) / 2)


def test_without_any_pixel_there_is_no_score() -> None:
    empty = np.zeros((2, 3, 4), np.int64)
    assert np.isnan(ious(empty)).all()
    assert np.isnan(per_image_miou(empty)).all()
    assert np.isnan([mean_iou(empty[0]), pixel_accuracy(empty[0])]).all()


@pytest.mark.parametrize("seed", range(3))
def test_scores_over_a_set_are_those_of_scikit_learn(seed: int) -> None:
    prediction, truth = pictures(seed, 4, 5)
    counts = counts_of(prediction.reshape(48, 16), truth.reshape(48, 16), 5)
    counted = truth != VOID
    expected = jaccard_score(truth[counted], prediction[counted], labels=range(4), average=None)
    np.testing.assert_allclose(ious(counts)[:4], expected)
    # the last class occurs nowhere
    assert np.isnan(ious(counts)[4])
    assert mean_iou(counts) == pytest.approx(expected.mean())
    assert pixel_accuracy(counts) == pytest.approx((truth == prediction)[counted].mean())


def test_the_legacy_score_is_the_mean_of_each_image_over_its_own_classes() -> None:
    prediction, truth = pictures(7, 6, 5)
    # an image without class 2, one that is all void but for a pixel
    truth[0][truth[0] == 2], prediction[0][prediction[0] == 2] = 0, 1
    truth[1], truth[1, 0, 0], prediction[1, 0, 0] = VOID, 3, 1
    counts = np.stack([counts_of(p, t, 5) for p, t in zip(prediction, truth, strict=True)])
    expected = [miou_of_sets(p, t, 5) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_allclose(per_image_miou(counts), expected)
    assert expected[1] == 0


def test_the_legacy_score_is_not_that_of_voc() -> None:
    # Two images of 100 pixels, all predicted as background: one is, the other has 40 pixels of class 1.
    counts = np.array([[[100, 0], [100, 0], [100, 0]], [[60, 0], [100, 0], [60, 40]]])
    # 1, and the mean of 60/100 and 0; over both 160/200 and 0
    np.testing.assert_allclose(per_image_miou(counts), [1, 0.3])
    assert per_image_miou(counts).mean() == pytest.approx(0.65)
    assert mean_iou(counts.sum(axis=0)) == pytest.approx(0.4)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_counts_of_parts_add_up_to_those_of_the_whole(seed: int, parts: list[int]) -> None:
    prediction, truth = pictures(seed, sum(parts), 5)
    whole = counts_of(prediction.reshape(-1, 16), truth.reshape(-1, 16), 5)
    ends = np.cumsum([0, *parts])
    streamed = sum(counts_of(prediction[a:b].reshape(-1, 16), truth[a:b].reshape(-1, 16), 5) for a, b in pairwise(ends))
    np.testing.assert_array_equal(streamed, whole)
    assert mean_iou(whole) == pytest.approx(miou_of_sets(prediction, truth, 5))


@given(st.integers(0, 10_000))
def test_void_pixels_change_nothing_whatever_is_predicted_there(seed: int) -> None:
    prediction, truth = pictures(seed, 1, 5)
    other = np.where(truth == VOID, (prediction + 1) % 5, prediction).astype(np.uint8)
    np.testing.assert_array_equal(counts_of(prediction[0], truth[0], 5), counts_of(other[0], truth[0], 5))


@given(st.integers(0, 10_000), st.integers(0, 4))
def test_the_floor_is_what_one_class_everywhere_scores(seed: int, predicted: int) -> None:
    prediction, truth = pictures(seed, 2, 5)
    counts = np.stack([counts_of(p, t, 5) for p, t in zip(prediction, truth, strict=True)])
    everywhere = np.full_like(truth, predicted)
    np.testing.assert_array_equal(
        counts_of_one_class(counts, predicted), [counts_of(p, t, 5) for p, t in zip(everywhere, truth, strict=True)]
    )


def test_background_everywhere_scores_a_share_of_one_over_the_classes() -> None:
    # of 1000 pixels 670 are background, the others of 20 classes; all of these count 0
    true = np.array([670, *[16] * 10, *[17] * 10])
    floor = counts_of_one_class(np.stack([np.zeros_like(true), np.zeros_like(true), true]), 0)
    assert mean_iou(floor) == pytest.approx(0.67 / 21)
    assert pixel_accuracy(floor) == pytest.approx(0.67)


def test_label_draws_are_spread_by_their_sample_deviation() -> None:
    draws = [{"miou": value} for value in (0.4, 0.5, 0.6)]
    spread = spread_of(draws, ["miou"])
    # deviations -.1, 0, .1: their squares sum to .02, over n - 1 = 2
    assert spread == {"repeats": 3, "over_repeats": {"miou": pytest.approx({"mean": 0.5, "std": 0.1})}}
