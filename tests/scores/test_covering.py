"""Covering scores worked out by hand, by masks node by node, and against what must hold for any tree."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.nodes import TreeNodes, best_nodes
from simsam_batch.scores.partitions import PartitionScores

NAMES = ("background", "animal", "animal/head", "animal/body", "car", "car/wheel", "car/chassis")
PARENT = (-1, -1, 1, 1, -1, 4, 4)
LABELS = {0: 0, 1: 2, 2: 3, 3: 5, 4: 6}
SCORES = CoveringScores(NAMES, PARENT, LABELS, background=0, ignore=(255,))

TRUTH = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 4], [0, 0, 3, 4]])
WITHOUT_BODY = np.where(TRUTH == 2, 255, TRUTH)
LEAVES = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])

Nested = int | tuple["Nested", ...]


def tree_of(nested: Nested) -> tuple[TreeNodes, dict[int, int]]:
    """The arrays of a tree written as tuples of superpixels, in pre-order, and each superpixel's place in it."""
    parent, lo, hi, depth = [], [], [], []
    place: dict[int, int] = {}

    def add(node: Nested, above: int, level: int) -> None:
        me = len(parent)
        for column, value in ((parent, above), (lo, len(place)), (hi, 0), (depth, level)):
            column.append(value)
        if isinstance(node, int):
            place[node] = len(place)
        else:
            for child in node:
                add(child, me, level + 1)
        hi[me] = len(place)

    add(nested, -1, 0)
    return TreeNodes(*(np.array(column) for column in (parent, lo, hi, depth))), place


def image(nested: Nested, superpixels: np.ndarray = LEAVES) -> tuple[np.ndarray, TreeNodes]:
    tree, place = tree_of(nested)
    return np.array([place.get(i, 0) for i in range(superpixels.max() + 1)])[superpixels], tree


T1, T2, T3 = image(((0, 1), (2, 3))), image(((0, 2), (1, 3))), image(((0, (1, 3)), 2))


def result_of(*images: tuple[Any, Any], scores: CoveringScores = SCORES) -> dict[str, Any]:
    state = scores.zero()
    for (superpixels, tree), truth in images:
        state = scores.merge(state, scores.of_image(superpixels, truth, tree))
    return scores.result(state)


def test_trees_that_follow_the_truth_by_hand() -> None:
    # 16 pixels; background 4, head 4, body 4, wheel 2, chassis 2, so animal 8 and car 4. Leaves: 0 has 5 pixels (all 4
    # of the head, 1 of the body), 1 has 3 (of the body), 2 is the background, 3 the car.
    # Best: background 2 (1), animal (0,1) (1), head 0 (4/5), body 1 (3/4), car 3 (1), wheel 3 (2/4), chassis 3 (2/4).
    # Every match lies below that of the group: nothing is lost. As a set, wheel and car share node 3: 1 of 2 counts.
    found = result_of((T1, TRUTH))
    assert found["nmcovering"] == pytest.approx(5.55 / 7)
    assert found["nhcovering"] == pytest.approx(5.55 / 7)
    assert found["nhcovering_distinct"] == pytest.approx((5.55 - 0.25 - 0.25) / 7)
    assert found["nfcovering"] == pytest.approx((0.8 + 0.75 + 0.5 + 0.5) / 4)
    groups, classes = found["levels"]
    assert classes["nmcovering"] == pytest.approx((1 + 0.8 + 0.75 + 0.5 + 0.5) / 5) == pytest.approx(classes["miou"])
    # Of 16 true pixels 15 lie in the best node of their class: one of the body's does not.
    assert classes["pixel_accuracy"] == 15 / 16
    assert classes["mean_accuracy"] == pytest.approx((1 + 1 + 0.75 + 1 + 1) / 5)
    assert classes["frequency_weighted_iou"] == pytest.approx((4 * 1 + 4 * 0.8 + 4 * 0.75 + 2 * 0.5 + 2 * 0.5) / 16)
    assert groups == {
        **groups,
        "nmcovering": 1.0,
        "miou": 1.0,
        "pixel_accuracy": 1.0,
        "frequency_weighted_iou": 1.0,
        "iou_by_region": {"background": 1.0, "animal": 1.0, "car": 1.0},
    }
    assert (found["images_scored"], found["images_without_foreground"], found["ignored_pixels"]) == (1, 0, 0)
    assert json.loads(json.dumps(found)) == found


def test_a_tree_across_the_groups_loses_where_parts_leave_their_whole() -> None:
    # Root children (0,2) and (1,3). The animal (8 pixels) is best covered by leaf 0: 5/8, against (0,2): 5/12 and
    # (1,3): 3/12. Body stays with leaf 1, which is not below leaf 0: half its weight is gone, 3/4 -> 3/8.
    found = result_of((T2, TRUTH))
    assert found["nmcovering"] == pytest.approx((1 + 0.625 + 0.8 + 0.75 + 1 + 0.5 + 0.5) / 7)
    assert found["nhcovering"] == pytest.approx((5.175 - 0.375) / 7)
    # The set form counts the head once, whose group shares its node, and the car's parts: 3.9 of 7.
    assert found["nhcovering_distinct"] == pytest.approx((4.8 - 0.4 - 0.25 - 0.25) / 7)
    groups, classes = found["levels"]
    assert classes["nmcovering"] == pytest.approx(0.71)
    # background 1, animal 5/8, car 1; 3 of the animal's 8 pixels are missed.
    assert groups["nmcovering"] == pytest.approx((1 + 0.625 + 1) / 3)
    assert groups["pixel_accuracy"] == 13 / 16
    assert groups["frequency_weighted_iou"] == pytest.approx((4 + 5 + 4) / 16)


def test_a_tree_of_unequal_depth_by_hand() -> None:
    # (0,(1,3)) covers the animal with 8 of 12 pixels; all of its parts lie below, and so does the car.
    found = result_of((T3, TRUTH))
    assert found["nmcovering"] == pytest.approx((1 + 8 / 12 + 0.8 + 0.75 + 1 + 0.5 + 0.5) / 7)
    assert found["nhcovering"] == pytest.approx(found["nmcovering"])
    assert found["nhcovering_distinct"] == pytest.approx((5.216667 - 0.5) / 7, abs=1e-6)
    groups = found["levels"][0]
    assert groups["nmcovering"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    # Every pixel is inside its group's node, the animal's node holds the car's 4 too: fIoU (4 + 8 * 2/3 + 4) / 16.
    assert (groups["pixel_accuracy"], groups["mean_accuracy"]) == (1.0, 1.0)
    assert groups["frequency_weighted_iou"] == pytest.approx((4 + 16 / 3 + 4) / 16)


def test_three_images_add_up_over_the_set() -> None:
    # NM: (5.55/7 + 5.175/7 + 5/6) / 3 = .788492; NH: (5.55/7 + 4.8/7 + 5/6) / 3 = .770635.
    # Animal over the set: T1 8 of 8; T2 5 found, 3 missed; third image 4 of 4: 17/20. Head: 4/5, 4/5, 4/4: 12/14.
    found = result_of((T1, TRUTH), (T2, TRUTH), (T1, WITHOUT_BODY))
    assert found["nmcovering"] == pytest.approx((5.55 / 7 + 5.175 / 7 + 5 / 6) / 3) == pytest.approx(0.788492, abs=1e-6)
    assert found["nhcovering"] == pytest.approx((5.55 / 7 + 4.8 / 7 + 5 / 6) / 3) == pytest.approx(0.770635, abs=1e-6)
    expected = (1, 17 / 20, 12 / 14, 6 / 8, 1, 6 / 12, 6 / 12)
    assert list(found["iou_by_region"]) == list(NAMES)
    assert list(found["iou_by_region"].values()) == pytest.approx(expected)
    assert found["miou"] == pytest.approx(sum(expected) / 7) == pytest.approx(0.779592, abs=1e-6)
    # True pixels: 12 + 20 + 12 + 8 + 12 + 6 + 6 = 76; missed: 3 of the animal, 1 of the body in two images.
    assert found["pixel_accuracy"] == pytest.approx(71 / 76) == pytest.approx(0.934211, abs=1e-6)
    assert found["mean_accuracy"] == pytest.approx((1 + 17 / 20 + 1 + 6 / 8 + 1 + 1 + 1) / 7)
    assert found["frequency_weighted_iou"] == pytest.approx(0.832707, abs=1e-6)
    classes = found["levels"][1]
    assert classes["nmcovering"] == pytest.approx((0.71 + 0.71 + 0.75) / 3)
    assert classes["miou"] == pytest.approx(0.721429, abs=1e-6)
    assert classes["pixel_accuracy"] == pytest.approx(0.954545, abs=1e-6)
    assert classes["frequency_weighted_iou"] == pytest.approx(0.779221, abs=1e-6)
    assert found["ignored_pixels"] == 4


def test_ignored_pixels_count_neither_in_regions_nor_in_nodes() -> None:
    # Without the body, head and animal are the same 4 pixels, and leaf 0 has lost the pixel it held too much of.
    # background 1, animal 1, head 1, car 1, wheel 1/2, chassis 1/2: 5 of 6. Set form: 1 + 1 + .5 + 1 + .25 + .25.
    found = result_of((T1, WITHOUT_BODY))
    assert found["nmcovering"] == found["nhcovering"] == pytest.approx(5 / 6)
    assert found["nhcovering_distinct"] == pytest.approx(4 / 6)
    assert found["levels"][1]["nmcovering"] == pytest.approx(3 / 4)
    assert "animal/body" not in found["iou_by_region"]


def test_exclusive_matching_gives_a_node_to_one_region() -> None:
    # Six nodes for seven regions: wheel and chassis cannot both have leaf 3, and the car takes it whole (1). The node
    # (2,3) is left for one of the two: 2 of 8 pixels. 1 + 1 + .8 + .75 + 1 + .25 + 0 = 4.8.
    exclusive = CoveringScores(NAMES, PARENT, LABELS, background=0, ignore=(255,), exclusive=True)
    found = result_of((T1, TRUTH), scores=exclusive)
    assert found["protocol"] == "covering-exclusive"
    assert found["nmcovering"] == pytest.approx(4.8 / 7)
    # Among the classes alone the car is no rival: one of its parts has leaf 3 (1/2), the other (2,3) (1/4).
    assert found["levels"][1]["nmcovering"] == pytest.approx((1 + 0.8 + 0.75 + 0.5 + 0.25) / 5)


def test_exclusive_matching_stands_more_regions_than_nodes() -> None:
    match = best_nodes(np.array([[0.2], [0.9], [0.5]]), exclusive=True)
    assert match.tolist() == [-1, 0, -1]
    # One node, the whole image, for seven regions: it goes to the animal, 8/16, and six have none.
    exclusive = CoveringScores(NAMES, PARENT, LABELS, background=0, exclusive=True)
    found = result_of((image(0, np.zeros((4, 4), int)), TRUTH), scores=exclusive)
    assert found["nmcovering"] == found["nhcovering"] == pytest.approx(0.5 / 7)
    assert found["iou_by_region"] == dict.fromkeys(NAMES, 0.0) | {"animal": 0.5}


def test_pixels_labelled_with_inner_nodes_cost_what_published_code_pays() -> None:
    # Published numbering gives the pixels of a node's first leaf the number of the topmost node above it: those of leaf
    # 0 belong to the root alone, those of leaf 2 to (2,3) alone. So (0,1) and 1 are 3 pixels, 0 and 2 have none.
    # background: (2,3) 4/8; animal 3/8; head 0; body 3/4; car: 3; wheel, chassis 1/2: 3.625 of 7.
    arrays = ([-1, 0, 1, 1, 0, 4, 4], [0, 1, 1, 1, 2, 2, 3], [4, 2, 1, 2, 4, 2, 4], [0, 1, 2, 2, 1, 2, 2])
    found = result_of(((LEAVES, TreeNodes(*map(np.array, arrays))), TRUTH))
    assert found["nmcovering"] == found["nhcovering"] == pytest.approx(3.625 / 7) == pytest.approx(0.517857, abs=1e-6)


def test_a_tree_that_is_only_a_root_is_scored_as_that_one_node() -> None:
    # Published code stops with an error. 16 pixels: background 4, animal 8, head 4, body 4, car 4, wheel 2, chassis 2.
    found = result_of((image(0, np.zeros((4, 4), int)), TRUTH))
    assert found["nmcovering"] == found["nhcovering"] == pytest.approx(28 / 16 / 7)
    assert found["nfcovering_by_depth"] == [pytest.approx(12 / 16 / 4)]
    assert found["levels"][1]["pixel_accuracy"] == 1.0


def test_an_image_without_truth_is_counted_and_scores_nothing() -> None:
    # Published code stops at an image that is ignored whole.
    nothing = np.full((4, 4), 255)
    assert result_of((T1, nothing)) == {"images_without_truth": 1}
    both = result_of((T1, TRUTH), (T1, nothing))
    assert both == result_of((T1, TRUTH)) | {"images_without_truth": 1, "ignored_pixels": 16}
    assert SCORES.result(SCORES.zero()) == {}


def test_an_image_of_background_alone_counts_at_the_levels_only() -> None:
    # Leaf 2 is 4 of the 16 pixels, (0,1) and (2,3) are 8 each: background's best is the first, 1/2.
    found = result_of((T1, np.zeros((4, 4), int)))
    assert found["nmcovering"] is found["nhcovering"] is found["nfcovering"] is None
    assert [level["nmcovering"] for level in found["levels"]] == [0.5, 0.5]
    assert (found["images_scored"], found["images_without_foreground"]) == (1, 1)
    both = result_of((T1, np.zeros((4, 4), int)), (T1, TRUTH))
    assert both["nmcovering"] == pytest.approx(5.55 / 7)
    assert both["levels"][0]["nmcovering"] == pytest.approx((0.5 + 1) / 2)
    # Background over the set: 8 + 4 pixels found, 8 missed at the levels; the first image is left out above them.
    assert both["levels"][0]["iou_by_region"]["background"] == 12 / 20
    assert both["iou_by_region"]["background"] == 1.0
    assert json.loads(json.dumps(both)) == both


def test_a_label_that_nobody_declared_is_named() -> None:
    # Published code stops with a KeyError.
    for label in (7, -1, 256):
        truth = np.where(TRUTH == 3, label, TRUTH)
        with pytest.raises(ValueError, match=f"the truth has the label {label}, which the hierarchy neither names nor"):
            SCORES.of_image(T1[0], truth, T1[1])


def test_labels_may_be_negative_and_of_any_integer_type() -> None:
    # Cityscapes' licence plates are -1.
    scores = CoveringScores(NAMES, PARENT, LABELS, background=0, ignore=(-1,))
    shifted = result_of((T1, np.where(TRUTH == 2, -1, TRUTH)), scores=scores)
    assert shifted == result_of((T1, WITHOUT_BODY))
    for dtype in (np.uint8, np.int16, np.uint16, np.uint64):
        assert result_of((T1, WITHOUT_BODY.astype(dtype))) == result_of((T1, WITHOUT_BODY))
    with pytest.raises(ValueError, match="labels are integers"):
        SCORES.of_image(T1[0], TRUTH.astype(float), T1[1])


def test_classes_of_mixed_depth_stay_at_the_level_where_they_end() -> None:
    # Published code lifts every class by the same number of generations, so that the higher ones reach the root.
    # Level 2 is head, body and the plain class "sky"; level 1 animal and sky.
    scores = CoveringScores(("animal", "animal/head", "animal/body", "sky"), (-1, 0, 0, -1), {1: 1, 2: 2, 3: 3})
    truth = np.where(TRUTH > 2, 3, np.where(TRUTH == 0, 3, TRUTH))
    groups, classes = result_of((T1, truth), scores=scores)["levels"]
    assert classes["iou_by_region"] == {"animal/head": 0.8, "animal/body": 0.75, "sky": 1.0}
    assert groups["iou_by_region"] == {"animal": 1.0, "sky": 1.0}


def test_groups_of_groups_by_hand() -> None:
    # Superpixel 0 holds the 2 pixels of the dog and one of 3 of the cat, 1 the others of the cat, 2 the rock: dog 2/3,
    # cat 2/3, animal and things (0,1) (1), rock 1. As a set, the line dog, animal, things has 2 nodes for 3 and that of
    # animal 1 for 2.
    names, parent = ("things", "things/animal", "dog", "cat", "rock"), (-1, 0, 1, 1, -1)
    scores = CoveringScores(names, parent, {1: 2, 2: 3, 3: 4})
    places, tree = image(((0, 1), 2), np.array([[0, 0, 0, 1, 1, 2, 2, 2]]))
    found = result_of(((places, tree), np.array([[1, 1, 2, 2, 2, 3, 3, 3]])), scores=scores)
    assert found["nmcovering"] == found["nhcovering"] == pytest.approx((1 + 1 + 2 / 3 + 2 / 3 + 1) / 5)
    assert found["nhcovering_distinct"] == pytest.approx((1 + 1 / 2 + 4 / 9 + 4 / 9 + 1) / 5)
    assert [list(level["iou_by_region"]) for level in found["levels"]] == [
        ["things", "rock"],
        ["things/animal", "rock"],
        ["dog", "cat", "rock"],
    ]


def test_pixels_of_no_superpixel_belong_to_regions_and_to_no_node() -> None:
    # The bottom left pixel is lost to background's node: 3/4. The other regions keep what they had.
    found = result_of(((np.where(np.arange(16).reshape(4, 4) == 12, -1, T1[0]), T1[1]), TRUTH))
    assert found["nmcovering"] == pytest.approx((5.55 - 1 / 4) / 7)
    assert found["iou_by_region"]["background"] == 3 / 4
    # A tree of nothing at all, as of a constant image.
    nothing = TreeNodes(np.array([-1]), np.array([0]), np.array([0]), np.array([0]))
    found = result_of(((np.full((4, 4), -1), nothing), TRUTH))
    assert found["nmcovering"] == found["nhcovering"] == found["nfcovering"] == found["pixel_accuracy"] == 0.0


def test_a_region_smaller_than_a_patch_counts() -> None:
    # Two patches of 8 by 8; one pixel of the left one is a class of its own. Published code samples the truth at the
    # patches, where that class is not to be found: 1 then, (63/64 + 1/64 + 1) / 3 at the truth's own size.
    truth = np.kron([[0, 1]], np.ones((8, 8), int))
    truth[2, 5] = 2
    scores = CoveringScores(("a", "b", "speck"), (-1, -1, -1), {0: 0, 1: 1, 2: 2})
    superpixels = np.kron([[0, 1]], np.ones((8, 8), int))
    found = result_of((image((0, 1), superpixels), truth), scores=scores)
    assert found["nmcovering"] == pytest.approx((63 / 64 + 1 / 64 + 1) / 3)


def test_equal_nodes_are_matched_to_the_first_in_pre_order_whatever_their_numbers() -> None:
    # Superpixel 1 is empty, so the node (0,1) and leaf 0 are the same pixels. Car and wheel lie on both alike: the
    # upper one is the match, for arrays in any order.
    superpixels = np.array([[0, 0, 2, 2]])
    scores = CoveringScores(("car", "car/wheel", "rest"), (-1, 0, -1), {1: 1, 0: 2})
    tree, _ = tree_of(((0, 1), 2))
    found = scores.of_image(superpixels, np.array([[1, 1, 0, 0]]), tree)
    for order in ([2, 1, 0, 4, 3], [4, 3, 2, 1, 0]):
        place = np.argsort(order)
        parent = np.append(place, -1)[tree.parent[order]]
        mixed = TreeNodes(parent, tree.lo[order], tree.hi[order], tree.depth[order])
        assert scores.of_image(superpixels, np.array([[1, 1, 0, 0]]), mixed) == found
        assert order[mixed.candidates()[0]] == 1
    assert scores.result(found)["nhcovering_distinct"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_segments_of_one_depth_by_hand() -> None:
    # T3 = ((0,(1,3)),2). Depth 1: 12 and 4 pixels; head 4/12, body 4/12, wheel and chassis 2/12. Depth 2: leaf 0 (5),
    # (1,3) (7), and leaf 2 which ended above: head 4/5, body 3/8, wheel 2/7, chassis 2/7. Depth 3: the leaves.
    found = result_of((T3, TRUTH))["nfcovering_by_depth"]
    expected = [(4 + 4 + 2 + 2) / 12 / 4, (4 / 5 + 3 / 8 + 2 / 7 + 2 / 7) / 4, 0.6375]
    assert found == pytest.approx(expected)


def test_a_shallow_tree_goes_on_with_its_leaves_at_greater_depths() -> None:
    # T1 has two levels, T3 three; the third of T1 is its second, .6375.
    one, other = result_of((T1, TRUTH))["nfcovering_by_depth"], result_of((T3, TRUTH))["nfcovering_by_depth"]
    expected = [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2, (0.6375 + 0.6375) / 2]
    for images in ([T1, T3], [T3, T1]):
        assert result_of(*((each, TRUTH) for each in images))["nfcovering_by_depth"] == pytest.approx(expected)


def test_a_tree_like_the_truth_is_perfect() -> None:
    # Superpixels are the classes themselves and the tree is the hierarchy of the labels.
    found = result_of((image((0, (1, 2), (3, 4)), TRUTH), TRUTH))
    for name in ("nmcovering", "nhcovering", "nhcovering_distinct", "nfcovering", "miou", "pixel_accuracy"):
        assert found[name] == 1.0
    assert all(level["nmcovering"] == level["miou"] == 1.0 for level in found["levels"])
    assert found["nmcovering_ci"] == [1.0, 1.0]


def test_partitions_by_several_people_are_averaged() -> None:
    # Against T1: the classes (any numbers) give .71; halves top and bottom give 1; one region is (0,1): 8/16.
    halves, whole = np.repeat([[7], [7], [900], [900]], 4, axis=1), np.full((4, 4), 3)
    scores = PartitionScores()
    found = scores.result(scores.of_image(T1[0], [TRUTH + 40, halves.astype(np.uint16), whole], T1[1]))
    assert found["nmcovering"] == pytest.approx((0.71 + 1 + 0.5) / 3)
    # Leaves alone: .71, then (5/8 + 4/8) / 2, then 5/16. Depth 1, two halves: classes 4/8 4/8 4/8 2/8 2/8, 1, 1/2.
    assert found["nfcovering"] == pytest.approx((0.71 + 0.5625 + 0.3125) / 3)
    assert found["nfcovering_by_depth"][0] == pytest.approx((0.4 + 1 + 0.5) / 3)
    assert (found["images_scored"], found["partitions"]) == (1, 3)


def test_partitions_that_are_ignored_whole_are_none() -> None:
    scores = PartitionScores(ignore=[255])
    found = scores.of_image(T1[0], [WITHOUT_BODY, np.full((4, 4), 255)], T1[1])
    assert found["partitions"] == 1
    assert found["nmcovering"]["sum"] == pytest.approx(3 / 4)
    for none in ([], [np.full((4, 4), 255)]):
        empty = scores.of_image(T1[0], none, T1[1])
        assert scores.result(empty) == {"images_without_truth": 1}
        assert scores.result(scores.merge(found, empty)) == scores.result(found) | {"images_without_truth": 1}
    assert scores.result(scores.zero()) == {}


def test_trees_that_are_none_are_refused() -> None:
    root = ([-1, 0, 0], [0, 0, 2], [4, 2, 4], [0, 1, 1])
    TreeNodes(*map(np.array, root))
    for column, wrong, message in (
        (0, [-1, -1, 0], "one node whose parent is -1, here 2"),
        (0, [-1, 3, 0], "node 1 of 3"),
        (0, [-1, 2, 1], "node 1 of 3"),
        (1, [0, 3, 2], "node 1 of 3"),
        (2, [4, 2, 5], "node 2 of 3"),
        (3, [0, 1, 2], "node 2 of 3"),
        (3, [0, 1], "four arrays of one length"),
    ):
        arrays = [wrong if i == column else held for i, held in enumerate(root)]
        with pytest.raises(ValueError, match=message):
            TreeNodes(*map(np.array, arrays))


def test_a_node_that_begins_before_its_parent_is_refused() -> None:
    parent, lo, hi, depth = [-1, 0, 0, 2, 2], [0, 0, 2, 1, 3], [4, 2, 4, 3, 4], [0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="node 3 of 5 does not lie within its parent"):
        TreeNodes(*map(np.array, (parent, lo, hi, depth)))
    lo[3] = 2
    TreeNodes(*map(np.array, (parent, lo, hi, depth)))


def test_labels_that_do_not_fit_the_regions_are_refused() -> None:
    for arguments, message in (
        ((("a", "a"), (-1, -1), {0: 0}), "different names"),
        ((("a", "b"), (1, -1), {0: 0}), "stands before it"),
        ((("a", "b"), (-1, 0), {0: 2}), "beyond the 2"),
        ((("a", "b"), (-1, 0), {0: 0}), "'a', which has parts"),
        ((("a",), (-1,), {}), "there must be labels"),
        ((("a", "b"), (-1, -1), {0: 0, 2**40: 1}), "lie within"),
    ):
        with pytest.raises(ValueError, match=message):
            CoveringScores(*arguments)
    with pytest.raises(ValueError, match="cannot both stand for a region and be ignored"):
        CoveringScores(("a",), (-1,), {0: 0}, ignore=(0,))
    with pytest.raises(ValueError, match="neither a parent nor parts"):
        CoveringScores(("a", "b"), (-1, 0), {0: 1}, background=0)


def test_maps_that_do_not_fit_the_tree_are_refused() -> None:
    for beyond, named in ((LEAVES + 1, 4), (LEAVES - 2, -2)):
        with pytest.raises(ValueError, match=f"a pixel is of superpixel {named}, the tree has 4"):
            SCORES.of_image(beyond, TRUTH, T1[1])
    with pytest.raises(ValueError, match="the truth"):
        SCORES.of_image(LEAVES[:2], TRUTH, T1[1])


def random_tree(rng: np.random.Generator, superpixels: int) -> tuple[TreeNodes, list[int]]:
    """A tree by splitting runs at random, its nodes in random order; and its nodes from the top down."""
    parent, lo, hi, depth = [-1], [0], [superpixels], [0]
    waiting = [0]
    while waiting:
        node = waiting.pop()
        size = hi[node] - lo[node]
        if size < 2 or (node and rng.random() < 0.3):
            continue
        cuts = np.sort(rng.choice(np.arange(1, size), rng.integers(1, min(size, 4)), replace=False)) + lo[node]
        for start, end in zip([lo[node], *cuts], [*cuts, hi[node]], strict=True):
            waiting.append(len(parent))
            for column, value in ((parent, node), (lo, start), (hi, end), (depth, depth[node] + 1)):
                column.append(int(value))
    order = rng.permutation(len(parent))
    place = np.append(np.argsort(order), -1)
    arrays = place[np.array(parent)[order]], *(np.array(column)[order] for column in (lo, hi, depth))
    return TreeNodes(*arrays), place[:-1].tolist()


def pre_order(tree: TreeNodes) -> list[int]:
    """Nodes by walking down from the root, children from the left."""
    listed = []
    waiting = [int(np.flatnonzero(tree.parent == -1)[0])]
    while waiting:
        node = waiting.pop(0)
        listed.append(node)
        waiting = sorted(np.flatnonzero(tree.parent == node).tolist(), key=lambda child: tree.lo[child]) + waiting
    return listed


def by_masks(superpixels: np.ndarray, truth: np.ndarray, tree: TreeNodes) -> dict[str, Any]:
    """The scores of one image from masks of every region and node, as the definitions read."""
    counts = truth != 255
    order = pre_order(tree)
    nodes = order[1:] or order
    mask = {v: (superpixels >= tree.lo[v]) & (superpixels < tree.hi[v]) & counts for v in order}
    values = [[label for label, leaf in LABELS.items() if g in (leaf, PARENT[leaf])] for g in range(len(NAMES))]
    region = {g: np.isin(truth, values[g]) for g in range(len(NAMES))}
    region = {g: m for g, m in region.items() if m.any()}
    iou = {(g, v): (m & mask[v]).sum() / (m | mask[v]).sum() for g, m in region.items() for v in nodes}
    best = {g: max(nodes, key=lambda v: iou[g, v]) for g in region}

    def above(v: int) -> set[int]:
        return {v} | (above(int(tree.parent[v])) if tree.parent[v] >= 0 else set())

    covered = {g: iou[g, best[g]] for g in region}
    lines = {g: [g] + [p for p in [PARENT[g]] if p >= 0] for g in region}
    multiple = {g: sum(best[p] in above(best[g]) for p in line) / len(line) for g, line in lines.items()}
    distinct = {g: len({best[p] for p in line} & above(best[g])) / len(line) for g, line in lines.items()}
    leaves = [v for v in order if v not in tree.parent]
    parts = [g for g in region if g in (2, 3, 5, 6)]
    classes = [g for g in region if g in LABELS.values()]

    def mean(numbers: list[float]) -> float:
        return sum(numbers) / len(numbers)

    found: dict[str, Any] = {
        "classes_nmcovering": mean([covered[g] for g in classes]),
        "classes_accuracy": sum((region[g] & mask[best[g]]).sum() for g in classes)
        / sum(region[g].sum() for g in classes),
    }
    if parts:
        found |= {
            "nmcovering": mean(list(covered.values())),
            "nhcovering": mean([covered[g] * multiple[g] for g in region]),
            "nhcovering_distinct": mean([covered[g] * distinct[g] for g in region]),
            "nfcovering": mean(
                [max((region[g] & mask[v]).sum() / (region[g] | mask[v]).sum() for v in leaves) for g in parts]
            ),
            "iou_by_region": [covered[g] for g in sorted(region)],
        }
    return found


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), superpixels=st.integers(1, 12))
def test_scores_from_prefix_sums_are_those_of_masks(seed: int, superpixels: int) -> None:
    rng = np.random.default_rng(seed)
    tree, _ = random_tree(rng, superpixels)
    places = rng.integers(-1, superpixels, (7, 9))
    truth = rng.choice([0, 1, 2, 3, 4, 255], (7, 9), p=rng.dirichlet(np.ones(6) / 2))
    truth[0, 0] = rng.integers(5)
    found, expected = result_of(((places, tree), truth)), by_masks(places, truth, tree)
    assert found["levels"][1]["nmcovering"] == pytest.approx(expected.pop("classes_nmcovering"))
    assert found["levels"][1]["pixel_accuracy"] == pytest.approx(expected.pop("classes_accuracy"))
    if expected:
        assert list(found["iou_by_region"].values()) == pytest.approx(expected.pop("iou_by_region"))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_what_must_hold_for_any_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree, _ = random_tree(rng, 9)
    places, truth = rng.integers(0, 9, (6, 8)), rng.choice([0, 1, 2, 3, 4, 255], (6, 8))
    truth[0, 0] = 1
    found = result_of(((places, tree), truth))
    assert 0 <= found["nhcovering_distinct"] <= found["nhcovering"] <= found["nmcovering"] <= 1
    # Half of the weight of a part is its own, and a group's all of it.
    assert found["nhcovering"] >= found["nmcovering"] / 2
    assert found["nfcovering_by_depth"][-1] == found["nfcovering"]
    # One more node, a leaf cut in two where there is one of two superpixels at least.
    wide = [
        v for v in range(len(tree.parent)) if v not in tree.parent and tree.hi[v] - tree.lo[v] > 1 and len(tree.lo) > 1
    ]
    if wide:
        v = wide[0]
        middle, end = tree.lo[v] + 1, tree.hi[v]
        finer = TreeNodes(
            np.append(tree.parent, [v, v]),
            np.append(tree.lo, [tree.lo[v], middle]),
            np.append(tree.hi, [middle, end]),
            np.append(tree.depth, [tree.depth[v] + 1] * 2),
        )
        assert result_of(((places, finer), truth))["nmcovering"] >= found["nmcovering"]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_other_numbers_for_labels_and_regions_give_the_same_scores_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree, _ = random_tree(rng, 7)
    places, truth = rng.integers(0, 7, (6, 8)), rng.choice([0, 1, 2, 3, 4, 255], (6, 8))
    truth[0, 0] = 1
    number = dict(zip(LABELS, rng.choice(254, len(LABELS), replace=False).tolist(), strict=True)) | {255: 255}
    renamed = np.vectorize(number.get)(truth)
    # Regions in another order whose parents still come first.
    order = [*rng.permutation([0, 1, 4]).tolist(), *rng.permutation([2, 3, 5, 6]).tolist()]
    place = {region: i for i, region in enumerate(order)} | {-1: -1}
    other = CoveringScores(
        [NAMES[g] for g in order],
        [place[PARENT[g]] for g in order],
        {number[label]: place[region] for label, region in LABELS.items()},
        background=place[0],
        ignore=(255,),
    )
    assert result_of(((places, tree), renamed), scores=other) == result_of(((places, tree), truth))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_siblings_in_another_order_give_the_same_scores_unless_nodes_tie(seed: int) -> None:
    rng = np.random.default_rng(seed)
    places, tree = image(((0, (1, 2)), (3, 4, (5, 6))), rng.integers(0, 7, (31, 29)))
    mirrored, to = tree_of((((6, 5), 4, 3), ((2, 1), 0)))
    truth = rng.choice([0, 1, 2, 3, 4], (31, 29))
    other = np.array([to[i] for i in range(7)])[places]
    one, two = result_of(((places, tree), truth)), result_of(((other, mirrored), truth))
    assert two["nmcovering"] == one["nmcovering"]
    assert two["nfcovering_by_depth"] == one["nfcovering_by_depth"]


@settings(deadline=None, max_examples=25)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_merging_is_exact_in_any_order_and_passes_through_json(seeds: list[int]) -> None:
    labelled, partitioned = [], []
    scores = PartitionScores()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tree, _ = random_tree(rng, 6)
        places, truth = rng.integers(0, 6, (5, 6)), rng.choice([0, 1, 3, 4, 255], (5, 6))
        labelled.append(SCORES.of_image(places, truth, tree))
        partitioned.append(scores.of_image(places, [truth, truth // 2], tree))
    for fold, (a, b, c) in ((SCORES, labelled), (scores, partitioned)):
        forward, backward = fold.merge(fold.merge(a, b), c), fold.merge(fold.merge(c, b), a)
        assert fold.merge(fold.zero(), a) == fold.merge(a, fold.zero()) == a == json.loads(json.dumps(a))
        assert approximately(forward, backward)
        assert counts_of(forward) == counts_of(backward)


def counts_of(state: Any) -> Any:
    """A state without its sums of floats."""
    if isinstance(state, dict):
        return {name: counts_of(held) for name, held in state.items()}
    if isinstance(state, list):
        return [counts_of(held) for held in state]
    return None if isinstance(state, float) else state


def approximately(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(approximately(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(approximately, one, other))
    return math.isclose(one, other, abs_tol=1e-12)
