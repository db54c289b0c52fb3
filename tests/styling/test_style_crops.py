"""Windows of regions and what is seen of them, against plain loops and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from simsam_batch.styling.crops import draw_corners, draw_windows, draws_of, looked_at, window_shares, windows_of


def test_shares_of_windows_equal_those_counted_one_by_one() -> None:
    mask = np.random.default_rng(0).random((13, 17)) < 0.4
    expected = np.array([[mask[y : y + 5, x : x + 5].mean() for x in range(13)] for y in range(9)])
    assert window_shares(mask, 5) == pytest.approx(expected)
    assert window_shares(mask, 13).shape == (1, 5)


def test_windows_are_those_with_at_least_half_and_without_any_those_with_most() -> None:
    mask = np.zeros((20, 30), bool)
    mask[:, 20:] = True
    found = windows_of(mask, 8)
    # from x = 16 on, four of eight columns or more
    assert {tuple(each) for each in found} == {(x, y) for x in range(16, 23) for y in range(13)}
    single = np.zeros((20, 30), bool)
    single[10, 10] = True
    assert {tuple(each) for each in windows_of(single, 8)} == {(x, y) for x in range(3, 11) for y in range(3, 11)}


def test_every_window_is_drawn_as_often() -> None:
    windows = np.array([[0, 0], [3, 1], [5, 5]])
    drawn = draw_windows(windows, 9000, torch.Generator().manual_seed(1))
    counts = [int((drawn == torch.tensor(each)).all(dim=1).sum()) for each in windows]
    assert sum(counts) == 9000
    assert min(counts) > 2800


def test_corners_move_inwards_by_at_most_a_quarter() -> None:
    seen = draw_corners(torch.zeros(500, 2), 128, torch.Generator().manual_seed(0))
    x, y = seen[..., 0], seen[..., 1]
    assert (x[:, [0, 3]].min(), x[:, [0, 3]].max()) == (0, 32)
    assert (x[:, [1, 2]].min(), x[:, [1, 2]].max()) == (95, 127)
    assert (y[:, [2, 3]].min(), y[:, [2, 3]].max()) == (95, 127)


def test_what_is_seen_is_a_crop_a_perspective_and_a_resize_one_after_the_other() -> None:
    torch.manual_seed(0)
    # smooth, so that how often it was interpolated matters little
    image = transforms.resize(torch.rand(1, 3, 3, 4), [192, 256], antialias=True)
    windows = torch.tensor([[0, 0], [100, 40], [128, 64]])
    seen = draw_corners(windows, 128, torch.Generator().manual_seed(3))
    found = looked_at(image, windows, seen, 128, 224)
    assert found.shape == (3, 3, 224, 224)
    start = [[0, 0], [127, 0], [127, 127], [0, 127]]
    for number, (x, y) in enumerate(windows.tolist()):
        crop = image[:, :, y : y + 128, x : x + 128]
        warped = transforms.perspective(crop, start, seen[number].tolist(), fill=0)
        expected = transforms.resize(warped, [224, 224], antialias=False)[0]
        black = ((found[number] == 0).all(dim=0) | (expected == 0).all(dim=0)).float()
        # interpolation mixes black into what is next to it
        inside = torch.nn.functional.max_pool2d(black[None, None], 9, stride=1, padding=4)[0, 0] == 0
        assert float(inside.float().mean()) > 0.25
        assert float((found[number] - expected).abs()[:, inside].mean()) < 0.003
        shares = [float((each == 0).all(dim=0).float().mean()) for each in (found[number], expected)]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_without_a_perspective_a_window_of_its_own_size_is_what_it_was() -> None:
    image = torch.rand(1, 3, 40, 50, dtype=torch.float64)
    corners = torch.tensor([[[0.0, 0], [15, 0], [15, 15], [0, 15]]], dtype=torch.float64)
    found = looked_at(image, torch.tensor([[7, 9]]), corners, 16, 16)
    assert torch.allclose(found[0], image[0, :, 9:25, 7:23], atol=1e-9)


def test_what_is_drawn_differs_from_step_to_step() -> None:
    # of seeds torch takes 32 bits, so that seeds which differ above them would draw the same
    steps = [(step, place) for step in range(50) for place in range(4)]
    drawn = {tuple(torch.randint(1000, (8,), generator=draws_of(2**40 + 3, *where)).tolist()) for where in steps}
    assert len(drawn) == len(steps)
    assert torch.equal(*(torch.rand(5, generator=draws_of(3, 1, 2)) for _ in range(2)))
