"""One update of the published procedure, plainly: crops drawn and warped one by one, networks that are not frozen.

Source: what Kamra et al., Semantic CLIPStyler, ICIP 2023, publish for one image and one text, without its reading and
writing of files. Crops are told apart by whether the mask occurs in their lowest rows, and drawn until there are
enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import RandomPerspective

from simsam_batch.styling.network import StyleNet

THRESHOLD, FEW = 0.7, 0.2


class Upstream:
    """The state between updates.

    Args:
        image: (1, 3, S, S) in 0..1.
        mask: (S, S) bool, the object.
        clip: with ``encode``, its parameters free to have gradients.
        vgg: with ``maps``, likewise.
        direction: (D,) between the texts.
        crops: n.
        side: of a crop.
    """

    def __init__(
        self, image: Tensor, mask: Tensor, clip: Any, vgg: Any, direction: Tensor, crops: int, side: int
    ) -> None:
        self.image, self.mask, self.clip, self.vgg, self.direction = image, mask, clip, vgg, direction
        self.crops, self.side = crops, side
        self.net = StyleNet()
        self.adam = torch.optim.Adam(self.net.parameters(), lr=5e-4)
        self.warp = RandomPerspective(distortion_scale=0.5, p=1.0)

    def update(self) -> None:
        """Do one step."""
        restyled = self.net(self.image)
        content = sum(
            ((a - b) ** 2).mean() for a, b in zip(self.vgg.maps(restyled), self.vgg.maps(self.image), strict=True)
        )
        source = self.clip.encode(self._squashed(self.image))
        crops = torch.cat([self._seen(restyled, *place) for place in self._places()])
        seen = self.clip.encode(crops)
        losses = 1 - (functional.normalize(seen - source, dim=1) * self.direction).sum(dim=1)
        patch = torch.where(losses >= THRESHOLD, losses, torch.zeros_like(losses)).mean()
        outside = (~self.mask).float()
        whole, before = (self.clip.encode(self._squashed(each * outside)) for each in (restyled, self.image))
        view = 1 - (functional.normalize(whole - before, dim=1) * self.direction).sum()
        right, down = restyled[..., 1:] - restyled[..., :-1], restyled[..., 1:, :] - restyled[..., :-1, :]
        smooth = right.norm() + down.norm()
        total = 9000 * patch + 150 * content + 500 * view + 0.002 * smooth
        self.adam.zero_grad()
        total.backward()
        self.adam.step()

    def _places(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        objects, most = 0, int(FEW * self.crops)
        last = int(FEW * self.side)
        while len(found) < self.crops:
            x, y = (int(torch.randint(self.image.shape[-1] - self.side + 1, ())) for _ in range(2))
            # every crop is warped before it is known whether it is wanted
            self._seen(self.image, x, y)
            is_object = bool(self.mask[y + self.side - last : y + self.side, x : x + self.side].any())
            if is_object and objects >= most:
                continue
            objects += is_object
            found.append((x, y))
        return found

    def _seen(self, image: Tensor, x: int, y: int) -> Tensor:
        return self._squashed(self.warp(image[..., y : y + self.side, x : x + self.side]))

    def _squashed(self, images: Tensor) -> Tensor:
        size = self.clip.size
        return functional.interpolate(images, (size, size), mode="bicubic", align_corners=False)


def free(model: nn.Module) -> None:
    """Let parameters have gradients, as they have where nobody forbids it."""
    for each in model.parameters():
        each.requires_grad_(True)
