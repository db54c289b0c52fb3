"""Semantic scores worked out by hand and against scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from simsam_batch.scores.semantic import SemanticScores

NAMES = ("background", "cat", "dog")
PREDICTION = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1], [0, 0, 0, 0]])
TRUTH = np.array([[0, 0, 0, 255], [0, 1, 1, 255], [0, 1, 1, 0], [0, 0, 0, 255]])


def result_of(scores: SemanticScores, *pairs: tuple[Any, Any]) -> dict[str, Any]:
    state = scores.zero()
    for prediction, truth in pairs:
        state = scores.merge(state, scores.of_image(np.asarray(prediction), np.asarray(truth)))
    return scores.result(state)


def test_a_map_of_4_by_4_by_hand() -> None:
    # Confusion [[7, 0, 0], [2, 0, 0], [0, 4, 0]], as in test_confusion. Hungarian: cluster 0 is the background
    # (7 / 9), cluster 2 the cat (4 / 4), and cluster 1 overlaps no class that is left.
    found = result_of(SemanticScores(NAMES, ignore=255, matching="hungarian"), (PREDICTION, TRUTH))
    assert found["class_of_cluster"] == ["background", None, "cat"]
    assert found["matching_fitted_on"] == "the scored images themselves"
    assert found["iou_by_class"] == {"background": 7 / 9, "cat": 1.0}
    assert found["miou_over_classes"] == pytest.approx((7 / 9 + 1) / 2)
    assert found["pixel_accuracy"] == 11 / 13
    assert (found["images_scored"], found["ignored_pixels"], found["protocol"]) == (1, 3, "semantic")
    # Majority: cluster 1 is background too, so that background is perfect.
    assert result_of(SemanticScores(NAMES, ignore=255, matching="majority"), (PREDICTION, TRUTH))["iou_by_class"] == {
        "background": 1.0,
        "cat": 1.0,
    }
    # Ids as classes: background 7 of 9, nothing of the cat; there is no dog, and what is called one is wrong.
    found = result_of(SemanticScores(NAMES, ignore=255), (PREDICTION, TRUTH))
    assert found["iou_by_class"] == {"background": 7 / 9, "cat": 0.0}
    assert "class_of_cluster" not in found


def test_vocs_protocol_counts_every_class_and_the_plain_one_those_that_are_true() -> None:
    # The dog is neither there nor, once matched, predicted.
    plain = result_of(SemanticScores(NAMES, ignore=255, matching="hungarian"), (PREDICTION, TRUTH))
    voc = result_of(
        SemanticScores(NAMES, ignore=255, matching="hungarian", protocol="voc-semantic"), (PREDICTION, TRUTH)
    )
    assert plain["miou_over_classes"] == pytest.approx(16 / 18)
    assert voc["miou_over_classes"] == pytest.approx((7 / 9 + 1 + 0) / 3)
    assert voc["iou_by_class"]["dog"] == 0.0
    assert voc["protocol"] == "voc-semantic"


def test_a_class_that_nobody_predicts_counts_zero() -> None:
    found = result_of(SemanticScores(NAMES), (np.zeros((2, 2), int), [[0, 0], [1, 2]]))
    assert found["iou_by_class"] == {"background": 2 / 4, "cat": 0.0, "dog": 0.0}
    assert found["miou_over_classes"] == pytest.approx(1 / 6)


def test_an_all_background_prediction_scores_the_background_alone() -> None:
    found = result_of(
        SemanticScores(NAMES, predicted=21, ignore=255, matching="hungarian"), (np.zeros((4, 4), int), TRUTH)
    )
    # 13 pixels count, of which 9 are background.
    assert found["iou_by_class"] == {"background": 9 / 13, "cat": 0.0}
    assert found["class_of_cluster"] == ["background"] + 20 * [None]


def test_scores_are_of_the_whole_set_and_no_mean_over_images() -> None:
    # Image 1: the cat is 1 pixel, found. Image 2: 3 pixels, none found. 1 / 4 over the set; a mean would be 1 / 2.
    found = result_of(SemanticScores(NAMES), ([[1, 0, 0, 0]], [[1, 0, 0, 0]]), ([[0, 0, 0, 0]], [[1, 1, 1, 0]]))
    assert found["iou_by_class"]["cat"] == 1 / 4
    assert found["images_scored"] == 2


def test_truth_without_a_pixel_that_counts_has_no_scores() -> None:
    for protocol in ("semantic", "voc-semantic"):
        scores = SemanticScores(NAMES, ignore=255, matching="hungarian", protocol=protocol)
        found = result_of(scores, (PREDICTION, np.full((4, 4), 255)))
        assert found["miou_over_classes"] is None
        assert found["pixel_accuracy"] is None
        assert found["iou_by_class"] == {}
        assert (found["images_scored"], found["ignored_pixels"]) == (1, 16)
        assert scores.result(scores.zero()) == {}
        assert json.loads(json.dumps(found)) == found


def test_an_ignored_class_is_none() -> None:
    scores = SemanticScores(NAMES, ignore=0, protocol="voc-semantic")
    found = result_of(scores, ([[1, 2, 0]], [[1, 2, 0]]))
    assert found["iou_by_class"] == {"cat": 1.0, "dog": 1.0}
    assert found["miou_over_classes"] == 1.0


def test_a_given_matching_is_applied_and_its_origin_told() -> None:
    scores = SemanticScores(NAMES, predicted=3, ignore=255, given=[0, -1, 2], fitted_on="the training split")
    found = result_of(scores, (PREDICTION, TRUTH))
    # Cluster 2 is called a dog: all of the cat's pixels are wrong.
    assert found["iou_by_class"] == {"background": 7 / 9, "cat": 0.0}
    assert found["matching"] == "given"
    assert found["matching_fitted_on"] == "the training split"
    assert found["class_of_cluster"] == ["background", None, "dog"]


def test_a_state_holds_the_classes_that_occur_and_no_others() -> None:
    # By hand as above; of 256 classes two are true somewhere, and the ignored one is none.
    unnamed = [str(i) for i in range(256)]
    scores = SemanticScores(unnamed, predicted=3, ignore=255, matching="hungarian")
    state = scores.of_image(PREDICTION, TRUTH)
    assert state == {"images_scored": 1, "ignored_pixels": 3, "confusion": {"0": [7, 2, 0], "1": [0, 0, 4]}}
    assert scores.zero()["confusion"] == {}
    # The second image brings class 7, and 5 more pixels of class 1, all predicted as 0.
    merged = scores.merge(state, scores.of_image(np.zeros((2, 3), int), np.array([[1, 1, 1], [1, 1, 7]])))
    assert merged["confusion"] == {"0": [7, 2, 0], "1": [5, 0, 4], "7": [1, 0, 0]}
    assert state["confusion"] == {"0": [7, 2, 0], "1": [0, 0, 4]}


def test_classes_come_in_the_order_of_their_ids_whatever_came_first() -> None:
    scores = SemanticScores([str(i) for i in range(12)])
    found = result_of(scores, ([[10, 2]], [[10, 2]]), ([[1, 11]], [[1, 11]]))
    assert list(found["iou_by_class"]) == ["1", "2", "10", "11"]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="21 ids are more than 3 classes"):
        SemanticScores(NAMES, predicted=21)
    with pytest.raises(ValueError, match="for 2 clusters, there are 3"):
        SemanticScores(NAMES, given=[0, 1])
    with pytest.raises(ValueError, match="not one of"):
        SemanticScores(NAMES, protocol="dsm-object")
    with pytest.raises(ValueError, match="same name"):
        SemanticScores(("cat", "cat"))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 6), images=st.integers(1, 4))
def test_scores_agree_with_scikit_learn(seed: int, classes: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [rng.integers(0, classes, (2, 6, 5)) for _ in range(images)]
    ignored = rng.random((images, 6, 5)) < 0.2
    marked = [(p, np.where(skip, 255, t)) for (p, t), skip in zip(pairs, ignored, strict=True)]
    found = result_of(SemanticScores([f"c{i}" for i in range(classes)], ignore=255), *marked)
    predicted, true = (np.concatenate([pair[i][~s] for pair, s in zip(pairs, ignored, strict=True)]) for i in (0, 1))
    present = np.unique(true)
    expected = jaccard_score(true, predicted, labels=present, average=None, zero_division=0)
    assert list(found["iou_by_class"]) == [f"c{i}" for i in present]
    assert list(found["iou_by_class"].values()) == pytest.approx(expected.tolist())
    assert found["miou_over_classes"] == pytest.approx(expected.mean())
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true, predicted))


@settings(deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_merging_is_exact_in_any_order_and_passes_through_json(seeds: list[int]) -> None:
    scores = SemanticScores(NAMES)
    a, b, c = (scores.of_image(*np.random.default_rng(seed).integers(0, 3, (2, 4, 4))) for seed in seeds)
    assert scores.merge(scores.merge(a, b), c) == scores.merge(scores.merge(c, b), a)
    assert scores.merge(scores.zero(), a) == a == json.loads(json.dumps(a))
