"""The network that restyles: its size, its shapes, and that images of a batch do not see each other."""

from __future__ import annotations

import pytest
import torch

from simsam_batch.styling.network import StyleNet, working_size


def test_it_has_as_many_parameters_as_published_and_gives_images_of_the_same_size() -> None:
    net = StyleNet()
    assert sum(each.numel() for each in net.parameters()) == 615_267
    found = net(torch.rand(2, 3, 64, 72))
    assert found.shape == (2, 3, 64, 72)
    assert float(found.detach().min()) > 0
    assert float(found.detach().max()) < 1


def test_an_image_of_a_batch_is_as_it_is_alone() -> None:
    torch.manual_seed(0)
    net, images = StyleNet(), torch.rand(3, 3, 32, 40)
    with torch.no_grad():
        together = net(images)
        for number in range(3):
            assert torch.allclose(net(images[number : number + 1])[0], together[number], atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (60, 64), (64, 60)])
def test_sides_that_do_not_halve_three_times_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        StyleNet()(torch.rand(1, 3, *size))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((640, 480), 512, (680, 512)),
        ((480, 640), 512, (512, 680)),
        ((300, 300), 256, (256, 256)),
        ((9, 900), 16, (16, 1600)),
    ],
)
def test_images_are_worked_on_in_their_own_shape(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert working_size(*size, side) == expected
