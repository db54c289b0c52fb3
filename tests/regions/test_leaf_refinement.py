"""Leaves of a tree at the size of the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from simsam_batch.regions.leaf_refinement import cubic_weights, leaf_evidence, refine_leaves


@pytest.mark.parametrize(("patches", "patch", "full"), [(5, 8, 40), (4, 14, 56), (7, 3, 14), (1, 16, 16), (3, 16, 7)])
def test_weights_interpolate_as_torch_does(patches: int, patch: int, full: int) -> None:
    values = torch.randn(1, 1, patches, patches, dtype=torch.float64, generator=torch.Generator().manual_seed(patches))
    expected = functional.interpolate(values, size=(full, full), mode="bicubic", align_corners=False)[0, 0].numpy()
    weights = cubic_weights(patches, patch, patches * patch, full)
    assert weights @ values[0, 0].numpy() @ weights.T == pytest.approx(expected, abs=1e-5)
    assert weights.sum(axis=1) == pytest.approx(np.ones(full), abs=1e-6)


def test_what_was_cropped_goes_to_the_last_patch() -> None:
    # 2 patches of 10 in a side of 25: pixels from 20 on lie beyond the last centre's reach.
    weights = cubic_weights(2, 10, 25, 25)
    assert weights[20:] == pytest.approx(np.tile(weights[20], (5, 1)))
    assert (weights[20:, 1] > 0.9).all()


@pytest.mark.parametrize("grid", [(4, 6), (1, 9), (7, 2), (3, 3)])
def test_cosines_are_those_of_interpolated_features(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    size = 8 * grid[0], 8 * grid[1]
    features = rng.normal(size=(*grid, 5)).astype(np.float32)
    prototypes = rng.normal(size=(3, 5)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    found = leaf_evidence(features, prototypes, patch=8, working_size=size, size=size)
    upsampled = functional.interpolate(
        torch.from_numpy(features).permute(2, 0, 1)[None], size=size, mode="bicubic", align_corners=False
    )[0]
    unit = functional.normalize(upsampled, dim=0)
    expected = torch.einsum("chw,lc->lhw", unit, torch.from_numpy(prototypes)).numpy()
    assert found.cosines() == pytest.approx(expected, abs=1e-5)


def test_borders_move_from_patches_to_the_edges_of_the_picture() -> None:
    """A square of 25 pixels a side that no patch border of 8 meets; features say which patches are mostly of it."""
    pytest.importorskip("pydensecrf.densecrf")
    size, side = 64, slice(13, 38)
    truth = np.zeros((size, size), dtype=bool)
    truth[side, side] = True
    rng = np.random.default_rng(1)
    rgb = np.where(truth[:, :, None], [200, 60, 40], [50, 90, 160]) + rng.integers(-2, 3, (size, size, 3))
    share = truth.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    features = np.stack([share, 1 - share], axis=2)
    evidence = leaf_evidence(features, np.eye(2), patch=8, working_size=(size, size), size=(size, size))
    coarse = evidence.cosines().argmax(axis=0) == 0
    refined = refine_leaves(rgb.astype(np.uint8), evidence) == 0

    def iou(mask: np.ndarray) -> float:
        return float((mask & truth).sum() / (mask | truth).sum())

    assert iou(coarse) < 0.9
    assert iou(refined) > 0.95


def test_a_single_leaf_holds_every_pixel() -> None:
    evidence = leaf_evidence(np.ones((2, 2, 3)), np.ones((1, 3)), patch=4, working_size=(8, 8), size=(8, 8))
    assert not refine_leaves(np.zeros((8, 8, 3), np.uint8), evidence).any()
    with pytest.raises(ValueError, match="the picture has"):
        refine_leaves(np.zeros((8, 9, 3), np.uint8), evidence)
