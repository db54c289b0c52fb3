"""Leaves in pixels: what a refined run writes, and how it is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from tree_runs import command, inline, result_of, rows_of

from simsam_batch.cli import run

pytest.importorskip("pydensecrf.densecrf")


@pytest.fixture(scope="module")
def refined(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "out"
    assert run(inline(pictures, out, "--refine", "crf", "--refine-max-side", "160")) == 0
    return out


def test_leaves_tile_the_image_and_nodes_are_boxed_by_their_leaves(refined: Path) -> None:
    for row in rows_of(refined):
        masks = {each["node"]: coco.decode(each["mask_rle"]).astype(bool) for each in row["leaf_masks"]}
        assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
        nodes = row["nodes"]
        assert set(masks) == {i for i, n in enumerate(nodes) if i not in {child["parent"] for child in nodes}}
        for node in nodes:
            inside = [
                m for leaf, m in masks.items() if node["lo"] <= nodes[leaf]["lo"] and nodes[leaf]["hi"] <= node["hi"]
            ]
            down, across = np.nonzero(np.any(inside, axis=0))
            box = [across.min(), down.min(), across.max() + 1, down.max() + 1] if len(down) else [0] * 4
            assert node["bbox_xyxy"] == box


def test_refined_trees_are_scored_by_their_pixels_and_better(pictures: Path, refined: Path, finished: Path) -> None:
    for row in rows_of(refined):
        truth = np.asarray(Image.open(pictures / "truth" / row["image_id"]))
        leaves = {each["node"]: coco.decode(each["mask_rle"]).astype(bool) for each in row["leaf_masks"]}
        nodes = row["nodes"]
        masks = [
            np.any([m for leaf, m in leaves.items() if node["lo"] <= nodes[leaf]["lo"] < node["hi"]], axis=0)
            for node in nodes[1:]
        ]
        best = [max((m & (truth == v)).sum() / (m | (truth == v)).sum() for m in masks) for v in np.unique(truth)]
        assert row["nmcovering"] == pytest.approx(np.mean(best), rel=1e-12)
    assert result_of(refined)["metrics"]["nmcovering"] > result_of(finished)["metrics"]["nmcovering"]


@pytest.mark.slow
def test_processes_that_refine_change_no_bit(pictures: Path, refined: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--refine", "crf", "--refine-max-side", "160", "--refine-processes", "2", "--workers", "1"]
    assert run(command(pictures, out, *more)[3:]) == 0
    assert result_of(out)["content_digest"] == result_of(refined)["content_digest"]


def test_leaves_without_patches_get_no_pixels(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--refine", "crf", "--refine-max-side", "80", "--numbering", "upstream", "--limit", "2"]
    assert run(inline(pictures, out, *more)) == 0
    for row in rows_of(out):
        empty = {i for i, node in enumerate(row["nodes"]) if not node["patches"]}
        assert empty
        assert not empty & {each["node"] for each in row["leaf_masks"]}
