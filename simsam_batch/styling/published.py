"""What the published programs compute, their faults among it: one network an image, and all of the picture changed.

They see the object in two places alone: black in the views of the whole, and in the lower rows of crops, which weigh
less then. Their order of weights is not that of their crops, so it is mostly other crops that do.

Sources: the programs of Kwon and Ye, CLIPstyler, 2022, and of Kamra et al., Semantic CLIPStyler, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from simsam_batch.styling.crops import draw_corners
from simsam_batch.styling.fitting import ContentNet, Fit, Procedure, Region, Seer, Sight
from simsam_batch.styling.losses import directions, total_variation

LOWER_ROWS, MOST_OF_OBJECT, CONTRAST = 0.2, 0.2, 1.5
"""The share of a crop's rows that are looked for the object, that of crops which may have it there, and what the
contrast of the picture is multiplied by."""


@dataclass(frozen=True, slots=True)
class Program:
    """What tells one published program from another, beside its settings.

    Attributes:
        knows_object: whether crops with the object in their lower rows are fewer, and weigh less.
        object_weight: of such a crop.
        crop_size: what crops are resized to, before they are to what the network takes.
        softmax: whether features of the image as it is are put through one, which those of the picture are not.
        early: updates by which the rate is halved too early: its schedule is told of an update before it is made.
    """

    knows_object: bool
    object_weight: float
    crop_size: int
    softmax: bool
    early: int


PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        "clipstyler": Program(knows_object=False, object_weight=1.0, crop_size=224, softmax=False, early=1),
        "sem-cs-single": Program(knows_object=True, object_weight=0.3, crop_size=512, softmax=False, early=0),
        "sem-cs-double": Program(knows_object=True, object_weight=0.3, crop_size=224, softmax=True, early=0),
    }
)


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a picture is to go.

    Attributes:
        object: (H, W) what the program calls the object.
        crops: (D,) the direction of all crops.
        views: what is seen of the whole, as (H, W) masks, each with its direction (D,).
    """

    object: NDArray[np.bool_]
    crops: Tensor
    views: Sequence[tuple[NDArray[np.bool_], Tensor]]


def holds_object(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(H - side + 1, W - side + 1): whether a window has any of a mask in its lower rows, by its upper left corner.

    Args:
        mask: (H, W).
        side: of a window; no more than those of the mask.
    """
    rows = max(1, int(LOWER_ROWS * side))
    pooled = functional.max_pool2d(torch.from_numpy(mask)[None].float(), (rows, 1), stride=1)
    pooled = functional.max_pool2d(pooled, (1, side), stride=1)[0, side - rows :]
    found: NDArray[np.bool_] = pooled.numpy() > 0
    return found


def draw_windows(holding: NDArray[np.bool_], count: int, most: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows in the order that they are drawn, all as likely, but no more than some with the object.

    Published code draws one after the other, and another one where that has the object and enough have it. Here it is
    drawn of those without: the same chances, and no end is missed.

    Args:
        holding: of `holds_object`.
        count: of windows.
        most: of those with the object.
        draw: of the chances.

    Returns:
        (count, 2) x and y of their upper left corners, and (count,) which have the object.

    Raises:
        ValueError: there are too few without it.
    """
    flat = torch.from_numpy(holding.ravel())
    free = torch.nonzero(~flat)[:, 0]
    if count > most and not len(free):
        raise ValueError("every window has the object in its lower rows")
    which = torch.randint(len(flat), (count,), generator=draw)
    if len(free):
        again = free[torch.randint(len(free), (count,), generator=draw)]
        which = torch.where(flat[which] & (flat[which].cumsum(0) > most), again, which)
    y, x = which // holding.shape[1], which % holding.shape[1]
    return torch.stack([x, y], dim=1), flat[which]


def order_and_weights(holding: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """(n,) the order in which crops are looked at, those without the object first, and (n,) what weighs them there.

    The weights are in the order of the draw all the same, as published: a crop has that of another one.

    Args:
        holding: (n,) which have the object, in the order of the draw.
        weight: of those.
    """
    weights = torch.where(holding, weight, 1.0)
    return torch.argsort(holding.int(), stable=True), weights


def seen_of(image: Tensor, windows: Tensor, corners: Tensor, side: int, size: int) -> Tensor:
    """(n, C, size, size) windows cut out, each by itself in its perspective on black, and resized.

    Args:
        image: (1, C, H, W).
        windows: (n, 2) x and y of their upper left corners.
        corners: (n, 4, 2) of `draw_corners`.
        side: of a window.
        size: of what comes.
    """
    # workers of other stages import this file, and need no torchvision
    from torchvision.transforms import functional as transforms

    last = side - 1
    start = [[0, 0], [last, 0], [last, last], [0, last]]
    nothing = [0.0] * image.shape[1]
    seen = [
        transforms.perspective(image[..., y : y + side, x : x + side], start, to, fill=nothing)
        for (x, y), to in zip(windows.tolist(), corners.tolist(), strict=True)
    ]
    return functional.interpolate(torch.cat(seen), (size, size), mode="bilinear", align_corners=False)


def squashed(images: Tensor, size: int) -> Tensor:
    """(B, C, size, size) images at the side that a network takes; not antialiased."""
    return functional.interpolate(images, (size, size), mode="bicubic", align_corners=False)


def joint_variation(images: Tensor) -> Tensor:
    """The `total_variation` of a batch (B, C, H, W) as if it were one image: it grows with the root of B."""
    return total_variation(images.flatten(0, 1)[None])[0]


def rate(step: int, how: Procedure, early: int) -> float:
    """The learning rate of an update, counted from 0."""
    return float(how.learning_rate * 0.5 ** ((step + early) // how.halved_every))


def enhanced(picture: Tensor) -> Tensor:
    """(1, 3, H, W) a picture in 0..1 as it is saved: of more contrast, and stretched from black to white."""
    from torchvision.transforms import functional as transforms

    found = transforms.adjust_contrast(picture.clamp(0, 1), CONTRAST)
    low, high = found.min(), found.max()
    stretched: Tensor = (found - low) / (high - low).clamp(min=1e-5)
    return stretched


class PublishedFit(Fit):
    """One network of one image, fitted as a published program does.

    Its last update is not made: the published programs save what the network gave before it.

    Args:
        image: (1, 3, H, W) in 0..1, of sides that the network takes.
        aim: where it is to go.
        seer: judges the style.
        content: judges what is kept.
        how: the procedure.
        program: the published one.
        seed: of the network, and of all that is drawn.

    Raises:
        ValueError: no window is without the object, where some must be.
    """

    def __init__(
        self, image: Tensor, aim: Aim, seer: Seer, content: ContentNet, how: Procedure, program: Program, seed: int
    ) -> None:
        side, self._program = how.crop_side(*image.shape[-2:]), program
        self._most = int(MOST_OF_OBJECT * how.crops) if program.knows_object else how.crops
        self._holding = holds_object(aim.object if program.knows_object else np.zeros_like(aim.object), side)
        # what cannot be drawn is found out now
        draw_windows(self._holding, how.crops, self._most, torch.Generator().manual_seed(0))
        self._views = torch.from_numpy(np.stack([mask for mask, _ in aim.views]))[:, None]
        self._ways = torch.stack([way for _, way in aim.views])
        region = Region(torch.from_numpy(aim.object), aim.crops, np.argwhere(~self._holding)[:, ::-1], how.crops)
        super().__init__(image, region, seer, content, how, seed)

    def _seen(self, image: Tensor, region: Region) -> Sight:
        inside = self._views.to(image)
        with torch.no_grad():
            whole, views = (self._before(each) for each in (image, image * inside))
            return Sight(image, region, inside, whole, views, self._content.maps(image))

    def _before(self, images: Tensor) -> Tensor:
        found = self._seer.encode(squashed(images, self._seer.size))
        return functional.softmax(found, dim=-1) if self._program.softmax else found

    def _rate(self) -> float:
        return rate(self.step, self._how, self._program.early)

    def _move(self) -> None:
        if self.step + 1 < self._how.steps:
            super()._move()

    def _variation(self, leaf: Tensor) -> Tensor:
        return joint_variation(leaf)

    def _look_at_view(self, leaf: Tensor, sight: Sight) -> Tensor:
        seen = self._seer.encode(squashed(leaf * sight.inside, self._seer.size))
        loss = directions(seen, sight.view, self._ways).losses.sum()
        (self._how.view * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _crops(self, leaf: Tensor, sight: Sight, draw: torch.Generator) -> tuple[Callable[[slice], Tensor], Tensor]:
        del sight
        how, program = self._how, self._program
        side = how.crop_side(*leaf.shape[-2:])
        windows, holding = draw_windows(self._holding, how.crops, self._most, draw)
        corners = draw_corners(windows, side, draw)
        order, weights = order_and_weights(holding, program.object_weight)

        def seen(some: slice) -> Tensor:
            cut = seen_of(leaf, windows[order[some]], corners[order[some]], side, program.crop_size)
            return squashed(cut, self._seer.size)

        return seen, weights
