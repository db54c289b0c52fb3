"""The weight-free backbone."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.features.contract import Backbone
from simsam_batch.features.descriptors import Descriptors, _lab, _oriented_gradients
from simsam_batch.features.outliers import spike_mask

torch.set_num_threads(1)


def a_disc(seed: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """A plain reddish disc on a busy greenish background, (1, 3, 320, 384) and its truth."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:320, :384]
    waves = 0.35 + 0.15 * np.sin(x / 3) * np.sin(y / 4)
    rgb = np.stack([waves + 0.08 * random.standard_normal(x.shape) for _ in range(3)]) * [[[0.9]], [[1.1]], [[0.8]]]
    truth = (x - 200) ** 2 + (y - 150) ** 2 < 88**2
    rgb[:, truth] = np.array([[0.75], [0.3], [0.2]]) + 0.04 * random.standard_normal((3, int(truth.sum())))
    return torch.from_numpy(rgb.clip(0, 1)).float()[None], truth


def fiedler_vector(descriptors: Tensor) -> NDArray[np.float64]:
    unit = torch.nn.functional.normalize(descriptors.double(), dim=1).numpy()
    affinity = np.clip(unit @ unit.T, 0, None) + 1e-5
    root = np.sqrt(affinity.sum(1))
    vector: NDArray[np.float64] = np.linalg.eigh(affinity / np.outer(root, root))[1][:, -2] / root
    return vector


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_disc_stands_out_from_a_textured_background(seed: int) -> None:
    images, truth = a_disc(seed)
    patches = truth.reshape(20, 16, 24, 16).mean((1, 3)) > 0.5
    side = fiedler_vector(Descriptors(16)(images).descriptors[0]).reshape(20, 24) > 0
    overlaps = [(mask & patches).sum() / (mask | patches).sum() for mask in (side, ~side)]
    assert max(overlaps) > 0.9


@pytest.mark.parametrize("colour", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.7, 0.4)])
def test_one_colour_gives_one_direction(colour: tuple[float, float, float]) -> None:
    images = torch.tensor(colour).view(1, 3, 1, 1).expand(2, 3, 64, 96)
    rows = Descriptors(16)(images).descriptors
    assert rows.isfinite().all()
    unit = torch.nn.functional.normalize(rows, dim=-1)
    torch.testing.assert_close(unit @ unit.mT, torch.ones(2, 24, 24), atol=1e-5, rtol=0)


def test_an_image_alone_gives_what_it_gives_in_a_batch() -> None:
    images = torch.cat([a_disc(0)[0], a_disc(1)[0], torch.zeros(1, 3, 320, 384)])
    together = Descriptors(16)(images).descriptors
    for i in range(3):
        torch.testing.assert_close(Descriptors(16)(images[i : i + 1]).descriptors[0], together[i], atol=1e-5, rtol=1e-5)


def test_rows_follow_the_grid_row_by_row() -> None:
    images = torch.full((1, 3, 48, 80), 0.5)
    images[:, 0, 16:, 48:] = 1.0
    rows = Descriptors(16)(images).descriptors[0].view(3, 5, -1)
    corner = torch.nn.functional.cosine_similarity(rows, rows[2, 4].expand_as(rows), dim=-1)
    # The median takes the corner off the region, as it should; its core is left.
    assert corner[2, 3] > 0.9
    assert corner[0, 0] < 0.5
    assert corner[2, 0] < 0.5


def test_it_is_a_backbone_without_outliers() -> None:
    backbone: Backbone = Descriptors(8)
    features = backbone(torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0)))
    assert features.descriptors.shape == (2, 15, backbone.channels)
    assert features.norms.shape == (2, 15)
    assert not spike_mask(features.norms).any()
    assert (backbone.patch, backbone.mean, backbone.std) == (8, (0, 0, 0), (1, 1, 1))
    assert backbone.describe()["name"] == "descriptors"
    with pytest.raises(ValueError, match="41x24 pixels do not divide into patches of 8"):
        backbone(torch.zeros(1, 3, 41, 24))


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # Published values for sRGB primaries under D65, over 100.
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((1, 0, 0), (0.5324, 0.8009, 0.6720)),
        ((0, 1, 0), (0.8773, -0.8618, 0.8318)),
        ((0, 0, 1), (0.3230, 0.7919, -1.0786)),
    ],
)
def test_colours_are_cie_lab(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    result = _lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(result, torch.tensor(lab), atol=5e-4, rtol=0)


def test_greys_have_no_chroma() -> None:
    hues = torch.tensor([colorsys.hls_to_rgb(0.3, level / 9, 0.0) for level in range(10)]).T.reshape(1, 3, 1, 10)
    torch.testing.assert_close(_lab(hues)[:, 1:], torch.zeros(1, 2, 1, 10), atol=1e-4, rtol=0)


def test_a_ramp_has_its_slope_in_its_own_orientation() -> None:
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8) * 0.1
    across = _oriented_gradients(ramp)[0, :, 3, 3]
    torch.testing.assert_close(across, torch.tensor([0.1, 0, 0, 0, 0, 0, 0, 0]), atol=1e-6, rtol=0)
    down = _oriented_gradients(ramp.mT)[0, :, 3, 3]
    # 90 of 180 degrees is bin 4 of 8.
    torch.testing.assert_close(down, torch.tensor([0, 0, 0, 0, 0.1, 0, 0, 0]), atol=1e-6, rtol=0)
