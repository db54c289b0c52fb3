"""Overlap scores worked out by hand and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import fbeta_score, jaccard_score, precision_score, recall_score

from simsam_batch.scores.bits import packed
from simsam_batch.scores.overlap import (
    ObjectScores,
    OverlapCounts,
    accuracy,
    count_truth,
    f_beta,
    iou,
    mask_overlap,
    overlap_counts,
    precision_recall,
    threshold_histograms,
)


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


TRUTH = mask_of("....", ".##.", ".##.", "....")
PREDICTION = mask_of("....", "###.", ".#..", "....")
EMPTY = np.zeros((4, 4), dtype=np.bool_)


def test_counts_of_two_masks_of_4_by_4_by_hand() -> None:
    # Predicted 4, true 4, common 3: union 4 + 4 - 3 = 5; they differ at 2 of 16 pixels.
    counts = overlap_counts(PREDICTION, count_truth(TRUTH))
    assert counts == OverlapCounts(intersection=3, union=5, correct=14, pixels=16)
    assert iou(counts) == 3 / 5
    assert accuracy(counts) == 14 / 16


def test_two_empty_masks_have_no_overlap_but_agree() -> None:
    counts = overlap_counts(EMPTY, count_truth(EMPTY))
    assert iou(counts) == 0.0
    assert accuracy(counts) == 1.0


def test_an_empty_prediction_scores_zero_and_a_perfect_one_scores_one() -> None:
    assert iou(overlap_counts(EMPTY, count_truth(TRUTH))) == 0.0
    assert iou(overlap_counts(TRUTH, count_truth(TRUTH))) == 1.0


def test_masks_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\), the truth \(2, 2\)"):
        overlap_counts(TRUTH, count_truth(TRUTH[:2, :2]))
    with pytest.raises(ValueError, match="the truth"):
        threshold_histograms(np.zeros((4, 4)), count_truth(TRUTH[:2]))
    with pytest.raises(ValueError, match="the truth"):
        mask_overlap(packed(TRUTH), packed(TRUTH[:2]))
    with pytest.raises(ValueError, match="the truth"):
        count_truth(TRUTH, (np.zeros(3, dtype=int), np.zeros(4, dtype=int)), (1, 1))


def test_histograms_count_levels_apart_for_background_and_object() -> None:
    # Levels 0, 1.0 -> 255, .5 * 255 = 127.5 -> 128 (half to even), .2 * 255 = 51.
    soft = np.array([[0.0, 1.0], [0.5, 0.2]])
    truth = np.array([[False, True], [True, False]])
    histograms = threshold_histograms(soft, count_truth(truth))
    assert histograms.shape == (2, 256)
    assert histograms.dtype == np.int64
    assert {(int(row), int(level)) for row, level in np.argwhere(histograms)} == {(0, 0), (1, 255), (1, 128), (0, 51)}
    assert histograms.sum() == 4


def test_precision_and_recall_of_four_pixels_by_hand() -> None:
    # Levels 0 and 51 background, 128 and 255 object. From t = 129 one of two objects is found; from 52 to 128 both;
    # from 1 to 51 both with one false pixel (2/3); at 0 everything (2/4).
    histograms = np.zeros((2, 256), dtype=np.int64)
    histograms[0, [0, 51]] = histograms[1, [128, 255]] = 1
    precision, recall = precision_recall(histograms)
    assert precision[[0, 1, 51, 52, 128, 129, 255]].tolist() == pytest.approx([1 / 2, 2 / 3, 2 / 3, 1, 1, 1, 1])
    assert recall[[0, 1, 51, 52, 128, 129, 255]].tolist() == [1, 1, 1, 1, 1, 0.5, 0.5]
    # F at t = 1: 1.3 * 2/3 * 1 / (0.3 * 2/3 + 1) = 0.8667 / 1.2 = 0.7222.
    assert f_beta(precision, recall)[1] == pytest.approx(13 / 18)


def test_a_truth_without_object_has_no_recall_and_no_f_beta() -> None:
    precision, recall = precision_recall(threshold_histograms(np.full((4, 4), 0.4), count_truth(EMPTY)))
    assert not precision.any()
    assert not recall.any()
    assert not f_beta(precision, recall).any()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0, 1), height=st.integers(1, 12), width=st.integers(1, 12))
def test_scores_agree_with_scikit_learn(seed: int, density: float, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.random((2, height, width)) < density
    counts = overlap_counts(prediction, count_truth(truth))
    assert mask_overlap(packed(prediction), packed(truth)) == counts
    assert iou(counts) == pytest.approx(jaccard_score(truth.ravel(), prediction.ravel(), zero_division=0))

    soft = rng.random((height, width))
    threshold = int(rng.integers(256))
    precision, recall = precision_recall(threshold_histograms(soft, count_truth(truth)))
    hard = np.rint(soft * 255).ravel() >= threshold
    assert precision[threshold] == pytest.approx(precision_score(truth.ravel(), hard, zero_division=0))
    assert recall[threshold] == pytest.approx(recall_score(truth.ravel(), hard, zero_division=0))
    expected = fbeta_score(truth.ravel(), hard, beta=0.3**0.5, zero_division=0)
    assert f_beta(precision, recall)[threshold] == pytest.approx(expected)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_patches_score_as_the_map_spread_over_the_image_does(
    seed: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    soft, truth = rng.random(grid).astype(np.float32), rng.random(size) < 0.4
    # Images smaller than the grid leave patches without any pixel.
    rows, columns = (np.arange(pixels) * patches // pixels for pixels, patches in zip(size, grid, strict=True))
    spread, on_grid = np.ix_(rows, columns), count_truth(truth, (rows, columns), grid)
    assert np.array_equal(threshold_histograms(soft, on_grid), threshold_histograms(soft[spread], count_truth(truth)))
    mask = soft > 0.5
    assert overlap_counts(mask, on_grid) == overlap_counts(mask[spread], count_truth(truth))


def state_of(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, object]:
    counted = count_truth(truth)
    return ObjectScores().of_image(
        overlap_counts(prediction, counted), threshold_histograms(prediction.astype(np.float64), counted)
    )


def test_a_set_of_three_images_by_hand() -> None:
    # 4 x 4: 3/5, 14 of 16. Perfect 2 x 2 with two object pixels: 2/2, 4 of 4. 1 x 4, nothing found of 1: 0/1, 3 of 4.
    small = mask_of("#.", ".#")
    missed = mask_of("#...")
    fold = ObjectScores()
    state = fold.zero()
    for image in (state_of(PREDICTION, TRUTH), state_of(small, small), state_of(np.zeros_like(missed), missed)):
        state = fold.merge(state, image)
    result = fold.result(state)
    assert result["images_scored"] == 3
    assert result["iou_per_image_mean"] == pytest.approx((3 / 5 + 1 + 0) / 3)
    assert result["iou_pooled"] == pytest.approx((3 + 2 + 0) / (5 + 2 + 1))
    assert result["accuracy"] == pytest.approx((14 / 16 + 1 + 3 / 4) / 3)
    assert result["accuracy_pooled"] == pytest.approx((14 + 4 + 3) / (16 + 4 + 4))
    # Hard maps: for every t >= 1 precision 3/4, 1, 0 and recall 3/4, 1, 0, so both average to 7/12 and F = 7/12.
    # At t = 0 everything is object: precision 4/16, 2/4, 1/4 (mean 1/3), recall 1: F = 1.3 / 3 / 1.1 = .394.
    assert result["f_beta_max"] == pytest.approx(7 / 12)
    assert result["f_beta_threshold"] == 1 / 255
    assert result["protocol"] == "dsm-object"
    assert result["curve"]["precision"] == [0.3333] + 255 * [0.5833]
    assert result["curve"]["recall"] == [1.0] + 255 * [0.5833]
    for name in ("iou_per_image_mean", "accuracy"):
        low, high = result[f"{name}_ci"]
        assert 0 <= low < result[name] < high <= 1


def test_masks_without_soft_maps_have_no_curve_and_do_not_thin_that_of_others() -> None:
    fold = ObjectScores()
    hard = fold.of_image(mask_overlap(packed(PREDICTION), packed(TRUTH)))
    alone = fold.result(fold.merge(hard, hard))
    assert alone["iou_per_image_mean"] == 3 / 5
    assert alone["iou_per_image_mean_ci"] == [3 / 5, 3 / 5]
    assert not {"curve", "f_beta_max", "f_beta_threshold"} & alone.keys()
    soft = state_of(PREDICTION, TRUTH)
    mixed, other = fold.result(fold.merge(hard, soft)), fold.result(fold.merge(soft, hard))
    assert mixed["images_scored"] == 2
    assert mixed["curve"] == other["curve"] == fold.result(soft)["curve"]


def test_the_boundary_iou_of_a_set_is_the_mean_over_the_images_that_have_one() -> None:
    fold = ObjectScores()
    counts = mask_overlap(packed(PREDICTION), packed(TRUTH))
    state = fold.merge(fold.of_image(counts, boundary_iou=0.25), fold.of_image(counts, boundary_iou=0.75))
    result = fold.result(fold.merge(state, fold.of_image(counts)))
    assert (result["images_scored"], result["boundary_iou"]) == (3, 0.5)
    # of two images both may be drawn twice: once in four times each
    assert result["boundary_iou_ci"] == [0.25, 0.75]
    assert "boundary_iou" not in fold.result(fold.of_image(counts))


def test_nothing_scored_is_no_result() -> None:
    fold = ObjectScores()
    assert fold.result(fold.zero()) == {}
    assert fold.result(fold.merge(fold.zero(), fold.zero())) == {}


def test_states_pass_through_json_unchanged_and_counts_stay_exact_beyond_fp64() -> None:
    fold = ObjectScores()
    big = OverlapCounts(intersection=2**53 + 1, union=2**54 + 1, correct=2**54, pixels=2**54 + 3)
    state = fold.of_image(big, np.zeros((2, 256), dtype=np.int64))
    state = fold.merge(state, state_of(PREDICTION, TRUTH))
    assert json.loads(json.dumps(state)) == state
    assert state["intersection"] == 2**53 + 4
    assert state["union"] == 2**54 + 6


@settings(deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_merging_is_associative_and_zero_changes_nothing(seeds: list[int]) -> None:
    fold = ObjectScores()
    a, b, c = (state_of(*(np.random.default_rng(seed).random((2, 5, 7)) < 0.5)) for seed in seeds)
    left, right = fold.merge(fold.merge(a, b), c), fold.merge(a, fold.merge(b, c))
    for name in ("images_scored", "intersection", "union", "correct", "pixels", "iou_bins", "accuracy_bins"):
        assert left[name] == right[name]
    for name in ("iou_sum", "accuracy_sum", "precision_sum", "recall_sum"):
        assert left[name] == pytest.approx(right[name], rel=1e-14)
    assert fold.merge(fold.zero(), a) == a == fold.merge(a, fold.zero())
