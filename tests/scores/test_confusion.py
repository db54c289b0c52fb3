"""Confusion counts worked out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from simsam_batch.scores.confusion import confusion

PREDICTION = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1], [0, 0, 0, 0]])
TRUTH = np.array([[0, 0, 0, 255], [0, 1, 1, 255], [0, 1, 1, 0], [0, 0, 0, 255]])


def test_a_map_of_4_by_4_by_hand() -> None:
    # Predicted 0: 8 pixels, of which the last is ignored: 7 of class 0. Predicted 1: 4, two ignored: 2 of class 0.
    # Predicted 2: 4, all of class 1.
    counts, ignored = confusion(PREDICTION, TRUTH, 3, 2, ignore=255)
    assert counts.tolist() == [[7, 0], [2, 0], [0, 4]]
    assert counts.dtype == np.int64
    assert ignored == 3


def test_an_ignored_label_among_the_classes_is_not_counted_either() -> None:
    counts, ignored = confusion(PREDICTION, np.where(TRUTH == 255, 2, TRUTH), 3, 4, ignore=1)
    assert counts.tolist() == [[7, 0, 1, 0], [2, 0, 2, 0], [0, 0, 0, 0]]
    assert ignored == 4


def test_all_ignored_and_no_pixels_at_all_count_nothing() -> None:
    counts, ignored = confusion(PREDICTION, np.full((4, 4), 255), 3, 2, ignore=255)
    assert (counts.sum(), ignored) == (0, 16)
    counts, ignored = confusion(np.zeros((0, 4), int), np.zeros((0, 4), int), 3, 2)
    assert (counts.shape, counts.sum(), ignored) == ((3, 2), 0, 0)


@pytest.mark.parametrize(
    ("prediction", "truth", "ignore", "message"),
    [
        ([[3]], [[0]], None, "prediction has the id 3; ids run from 0 to 2"),
        ([[-1]], [[0]], None, "prediction has the id -1; ids run from 0 to 2"),
        ([[0, 0]], [[0, 2]], None, "truth has the id 2; ids run from 0 to 1"),
        ([[0, 0]], [[255, 7]], 255, "truth has the id 7; ids run from 0 to 1"),
        ([[0, 0]], [[-1, 0]], 255, "truth has the id -1"),
        ([[0, 0]], [[-1, -2]], -1, "truth has the id -2"),
    ],
)
def test_ids_out_of_range_are_named(
    prediction: list[list[int]], truth: list[list[int]], ignore: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(np.array(prediction), np.array(truth), 3, 2, ignore)


def test_a_negative_label_can_be_ignored() -> None:
    counts, ignored = confusion(np.array([[1, 0]]), np.array([[-1, 1]]), 3, 2, ignore=-1)
    assert (counts.tolist(), ignored) == ([[0, 1], [0, 0], [0, 0]], 1)


def test_other_shapes_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\), the truth \(2, 4\)"):
        confusion(PREDICTION, TRUTH[:2], 3, 2)
    with pytest.raises(ValueError, match="prediction holds float64"):
        confusion(PREDICTION.astype(float), TRUTH, 3, 2)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    predicted=st.integers(1, 300),
    true=st.integers(1, 300),
    dtypes=st.tuples(*2 * [st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])]),
    ignore=st.sampled_from([None, 0, 255]),
)
def test_counts_agree_with_scikit_learn_for_every_dtype(
    seed: int, predicted: int, true: int, dtypes: tuple[type, type], ignore: int | None
) -> None:
    rng = np.random.default_rng(seed)
    # Maps of more than one block of counting, with rows that are not next to each other in memory.
    p = rng.integers(0, min(predicted, 256 if dtypes[0] is np.uint8 else 300), (200, 400)).astype(dtypes[0])[:, ::2]
    t = rng.integers(0, min(true, 256 if dtypes[1] is np.uint8 else 300), (200, 400)).astype(dtypes[1])[:, ::2]
    if ignore is not None:
        t[rng.random(t.shape) < 0.1] = ignore
    counts, ignored = confusion(p, t, predicted, true, ignore)
    counted = np.ones(t.shape, bool) if ignore is None else t != ignore
    expected = np.zeros((predicted, true), np.int64)
    if counted.any():
        side = max(predicted, true, 2)
        square = confusion_matrix(p[counted].astype(np.int64), t[counted].astype(np.int64), labels=range(side))
        expected[:] = square[:predicted, :true]
    assert np.array_equal(counts, expected)
    assert ignored == (~counted).sum()


def test_an_image_of_any_size_is_counted_whole() -> None:
    # 600 x 700 pixels, more than the 500 x 500 that published code makes room for: the last row is another class.
    prediction, truth = np.zeros((600, 700), np.uint8), np.zeros((600, 700), np.uint8)
    prediction[599], truth[599, :300] = 2, 1
    counts, _ = confusion(prediction, truth, 3, 2)
    assert counts.tolist() == [[599 * 700, 0], [0, 0], [400, 300]]


def test_masks_count_as_ids_0_and_1() -> None:
    counts, _ = confusion(np.array([[True, False]]), np.array([[True, True]]), 2, 2)
    assert counts.tolist() == [[0, 1], [0, 1]]
