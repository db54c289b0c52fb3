"""Several objects of an image: by one choice among the cuts, or by cutting again what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_segment import mask_of, run, save, shard_of, worker_of

TRUE = {"red": (slice(16, 80), slice(16, 80)), "blue": (slice(96, 160), slice(128, 224))}


def two_objects(seed: int = 0) -> np.ndarray:
    """A red and a blue square on green noise."""
    pixels = np.zeros((192, 256, 3), dtype=np.uint8)
    pixels[..., 1] = np.random.default_rng(seed).integers(90, 140, (192, 256))
    pixels[TRUE["red"]] = (220, 30, 30)
    pixels[TRUE["blue"]] = (30, 30, 220)
    return pixels


def row_of(tmp_path: Path, pixels: np.ndarray, **settings: Any) -> dict[str, Any]:
    shard = shard_of([save(tmp_path, "a.png", pixels)])
    ((row,),) = (output.rows.to_pylist() for output in run(worker_of(head="none", **settings), shard))
    return row


def covered(row: dict[str, Any], name: str) -> float:
    """The best IoU of one of the objects with a square."""
    truth = np.zeros((192, 256), dtype=bool)
    truth[TRUE[name]] = True
    masks = [mask_of(each) for each in row["objects"]]
    return max(float((mask & truth).sum() / (mask | truth).sum()) for mask in masks)


@pytest.mark.parametrize("cut", ["chosen", "fixed"])
def test_both_squares_are_objects_of_their_own(tmp_path: Path, cut: str) -> None:
    more = {"component": "peak", "side": "largest-entry"} if cut == "fixed" else {}
    row = row_of(tmp_path, two_objects(), cut=cut, objects=6, least_score=0.0, **more)
    assert 2 <= len(row["objects"]) <= 6
    assert covered(row, "red") > 0.5
    assert covered(row, "blue") > 0.5
    scores = [each["score"] for each in row["objects"]]
    assert scores == sorted(scores, reverse=True)
    for each in row["objects"]:
        mask = mask_of(each)
        ys, xs = np.nonzero(mask)
        assert each["bbox_xyxy"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert each["area_fraction"] == pytest.approx(mask.mean())
    if cut == "chosen":
        assert row["objects"][0]["mask_rle"] == row["mask_rle"]
        assert row["objects"][0]["score"] == row["confidence"]


def test_of_equal_cuts_no_two_objects_are_the_same(tmp_path: Path) -> None:
    row = row_of(tmp_path, two_objects(), objects=8, least_score=0.0)
    masks = [mask_of(each) for each in row["objects"]]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one & other).sum() / (one | other).sum() < 0.75


def test_where_nothing_stands_out_there_are_no_objects_and_the_confidence_says_so(tmp_path: Path) -> None:
    flat = row_of(tmp_path, np.full((192, 256, 3), 90, np.uint8), objects=3)
    assert flat["objects"] == []
    assert flat["confidence"] == 0
    assert flat["cut"] is None
    noise = np.random.default_rng(0).integers(0, 255, (192, 256, 3)).astype(np.uint8)
    doubtful = row_of(tmp_path, noise, objects=3, least_score=0.6)
    assert doubtful["objects"] == []
    assert 0 < doubtful["confidence"] < 0.6


def test_no_column_of_objects_where_none_are_asked_for(tmp_path: Path) -> None:
    assert "objects" not in row_of(tmp_path, two_objects())
    assert row_of(tmp_path, two_objects(), objects=1)["objects"] is not None


def test_rows_of_fixed_cuts_have_the_columns_that_they_always_had(tmp_path: Path) -> None:
    published = row_of(tmp_path, two_objects(), cut="fixed")
    assert not {"cut", "runner_up", "boundary_iou", "objects"} & published.keys()
    chosen = row_of(tmp_path, two_objects())
    assert set(chosen) - set(published) == {"cut", "runner_up", "boundary_iou"}


def test_the_cut_and_the_best_other_one_are_said(tmp_path: Path) -> None:
    row = row_of(tmp_path, two_objects())
    assert 1 <= row["cut"]["vector"] <= 3
    assert row["cut"]["sign"] in {1, -1}
    assert row["cut"]["score"] >= row["runner_up"]["score"]
    assert row["cut"] != row["runner_up"]


def test_refined_objects_follow_the_edges(tmp_path: Path) -> None:
    pytest.importorskip("pydensecrf.densecrf")
    pixels = np.roll(two_objects(), (5, 7), axis=(0, 1))  # off the patches
    truth = np.zeros((192, 256), dtype=bool)
    truth[TRUE["red"]] = True
    truth = np.roll(truth, (5, 7), axis=(0, 1))
    found = {}
    for refine in ("none", "crf"):
        row = row_of(tmp_path, pixels, objects=4, least_score=0.0, refine=refine)
        masks = [mask_of(each) for each in row["objects"]]
        found[refine] = max(float((mask & truth).sum() / (mask | truth).sum()) for mask in masks)
    assert found["crf"] > 0.97 > found["none"]
