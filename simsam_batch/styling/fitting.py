"""A network trained to restyle images, by what frozen networks see of them.

Nothing here knows those networks: they are what `Seer` and `ContentNet` say. All that is drawn at a step comes from the
seed and the step's number, so that a fit that goes on from a state is the one that was not interrupted.

Source: Kwon and Ye, CLIPstyler, CVPR 2022, by regions as Kamra et al., Semantic CLIPStyler, ICIP 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from simsam_batch.styling.crops import draw_corners, draw_windows, draws_of, looked_at
from simsam_batch.styling.losses import (
    content_loss,
    directions,
    patch_loss,
    total_variation,
    variation_scale,
)
from simsam_batch.styling.network import StyleNet


class Seer(Protocol):
    """A frozen network that sees images as it does texts."""

    @property
    def size(self) -> int:
        """The side of the squares that it takes."""
        ...

    def encode(self, squares: Tensor) -> Tensor:
        """(B, D) float32 features of unit length of squares (B, 3, size, size) in 0..1."""
        ...


class ContentNet(Protocol):
    """A frozen network that sees what an image is of, whatever its style."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, H', W') of some layers, of images (B, 3, H, W) in 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class Procedure:
    """How a network is fitted.

    Attributes:
        steps: updates at most.
        crops: n, looked at in each step, by all networks of an image together.
        crop: side of a crop as a share of the shorter side.
        together: crops looked at at once; their gradients are added up.
        patch, view, content, variation: weights of the four terms.
        threshold: crops whose loss is below count nothing.
        learning_rate: of Adam.
        halved_every: steps between halvings of it.
        patience: the fit ends when the mean loss of crops has not fallen by a hundredth in so many steps; 0: never.
    """

    steps: int = 400
    crops: int = 64
    crop: float = 0.25
    together: int = 64
    patch: float = 9000.0
    view: float = 500.0
    content: float = 150.0
    variation: float = 1.77
    threshold: float = 0.7
    learning_rate: float = 5e-4
    halved_every: int = 100
    patience: int = 50

    def crop_side(self, height: int, width: int) -> int:
        """Pixels of a crop of an image of so many."""
        return max(1, round(self.crop * min(height, width)))


@dataclass(frozen=True, slots=True)
class Region:
    """What is restyled, and which way.

    Attributes:
        mask: (H, W) bool, of the image as it is worked on.
        direction: (D,) between the texts.
        windows: (m, 2) those that crops are drawn from.
        crops: how many of them in each step.
    """

    mask: Tensor
    direction: Tensor
    windows: NDArray[np.int64]
    crops: int


@dataclass(slots=True)
class History:
    """What was seen at each step.

    Attributes:
        total: the sum of all terms.
        patches: the mean loss of crops, without the threshold.
        rejected: the share of crops below the threshold.
        views: the loss of the region as a whole.
        content: of the layers.
    """

    total: list[float] = field(default_factory=list)
    patches: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    views: list[float] = field(default_factory=list)
    content: list[float] = field(default_factory=list)


_SMOOTHED, _FALL = 10, 0.01


@dataclass(frozen=True, slots=True)
class Sight:
    """An image to fit to, with what the frozen networks see of it as it is.

    Attributes:
        image: (1, 3, H, W) in 0..1, of sides that the network takes.
        region: what is restyled.
        inside: (1, 1, H, W) 1 where the region is.
        whole: (1, D) features of all of it.
        view: (1, D) features of the region, black around it.
        maps: of the content.
    """

    image: Tensor
    region: Region
    inside: Tensor
    whole: Tensor
    view: Tensor
    maps: Sequence[Tensor]

    @classmethod
    def of(cls, image: Tensor, region: Region, seer: Seer, content: ContentNet) -> Self:
        """See an image."""
        inside = region.mask.to(image)[None, None]
        with torch.no_grad():
            whole, view = (seer.encode(squashed(each, seer.size)) for each in (image, image * inside))
            return cls(image, region, inside, whole, view, content.maps(image))


class Training:
    """One network with its optimiser, trained step by step on whatever images it is given.

    Args:
        like: a tensor of the device and type that it computes on.
        seer: judges the style.
        content: judges what is kept.
        how: the procedure.
        seed: of the network, and of all that is drawn.
    """

    def __init__(self, like: Tensor, seer: Seer, content: ContentNet, how: Procedure, seed: int) -> None:
        self._how, self._seed = how, seed % 2**63
        self._seer, self._content = seer, content
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.net = StyleNet()
        self.net.to(like)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=how.learning_rate)
        self.history = History()

    @property
    def step(self) -> int:
        """How many have been done."""
        return len(self.history.total)

    @property
    def over(self) -> bool:
        """Whether all steps are done, or nothing gets better any more."""
        return self.step >= self._how.steps or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether it has ended before its last step."""
        patience, seen = self._how.patience, self.history.patches
        if not patience or len(seen) < patience + _SMOOTHED:
            return False
        means = np.convolve(seen, np.ones(_SMOOTHED) / _SMOOTHED, "valid")
        return bool(means[-patience:].min() > (1 - _FALL) * means[:-patience].min())

    def train(self, sights: Sequence[Sight]) -> None:
        """Do one step by the mean of the losses of some images, which may differ in size."""
        for group in self._adam.param_groups:
            group["lr"] = self._rate()
        self._adam.zero_grad()
        seen = [
            self._look(sight, draws_of(self._seed, self.step, place), 1 / len(sights))
            for place, sight in enumerate(sights)
        ]
        self._move()
        for name in History.__slots__:
            getattr(self.history, name).append(float(np.mean([each[name] for each in seen])))

    def _rate(self) -> float:
        """Of the step that is about to be done."""
        return float(self._how.learning_rate * 0.5 ** (self.step // self._how.halved_every))

    def _move(self) -> None:
        """Let the gradients change the network."""
        self._adam.step()

    def _look(self, sight: Sight, draw: torch.Generator, share: float) -> dict[str, float]:
        """What is seen of an image as it is restyled now; its share of the gradient goes to the network."""
        how = self._how
        restyled = self.net(sight.image)
        # the frozen networks see a leaf, part by part, and what they say goes back through the small one once
        leaf = restyled.detach().requires_grad_()
        view = self._look_at_view(leaf, sight)
        patches, counted = self._look_at_crops(leaf, sight, draw)
        content = content_loss(self._content.maps(leaf), sight.maps).sum()
        smooth = self._variation(leaf)
        (how.content * content + how.variation * smooth).backward()  # type: ignore[no-untyped-call]
        restyled.backward(share * leaf.grad)
        kept, smooth = content.detach(), smooth.detach()
        total = how.patch * counted + how.view * view + how.content * kept + how.variation * smooth
        return {
            "total": float(total),
            "patches": float(patches.mean()),
            "rejected": float((patches < how.threshold).float().mean()),
            "views": float(view),
            "content": float(kept),
        }

    def _variation(self, leaf: Tensor) -> Tensor:
        return total_variation(leaf).sum() / variation_scale(*leaf.shape[1:])

    def _look_at_view(self, leaf: Tensor, sight: Sight) -> Tensor:
        seen = self._seer.encode(squashed(leaf * sight.inside, self._seer.size))
        loss = directions(seen, sight.view, sight.region.direction).losses.sum()
        (self._how.view * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _look_at_crops(self, leaf: Tensor, sight: Sight, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Losses of all crops, and the term that they make."""
        how, (seen, weights) = self._how, self._crops(leaf, sight, draw)
        found, term = [], torch.zeros((), device=leaf.device)
        for start in range(0, len(weights), how.together):
            some = slice(start, start + how.together)
            losses = directions(self._seer.encode(seen(some)), sight.whole, sight.region.direction).losses
            share = patch_loss(losses, weights[some].to(losses), how.threshold) * len(losses) / len(weights)
            (how.patch * share).backward()  # type: ignore[no-untyped-call]
            found.append(losses.detach())
            term = term + share.detach()
        return torch.cat(found), term

    def _crops(self, leaf: Tensor, sight: Sight, draw: torch.Generator) -> tuple[Callable[[slice], Tensor], Tensor]:
        """What some of the crops look like to the network that judges the style, and the weights (n,) of all."""
        count, side = sight.region.crops, self._how.crop_side(*leaf.shape[-2:])
        windows = draw_windows(sight.region.windows, count, draw)
        corners = draw_corners(windows, side, draw)
        return lambda some: looked_at(leaf, windows[some], corners[some], side, self._seer.size), torch.ones(count)

    def state(self) -> dict[str, Any]:
        """What it goes on from."""
        return {"net": self.net.state_dict(), "adam": self._adam.state_dict(), "history": asdict(self.history)}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of one of the same images, regions, procedure and seed."""
        self.net.load_state_dict(state["net"])
        self._adam.load_state_dict(state["adam"])
        self.history = History(**{name: list(values) for name, values in state["history"].items()})


class Fit(Training):
    """A network of one image.

    Args:
        image: (1, 3, H, W) in 0..1, of sides that the network takes.
        region: what is restyled.
        seer: judges the style.
        content: judges what is kept.
        how: the procedure.
        seed: of the network, and of all that is drawn.
    """

    def __init__(
        self, image: Tensor, region: Region, seer: Seer, content: ContentNet, how: Procedure, seed: int
    ) -> None:
        super().__init__(image, seer, content, how, seed)
        self._sight = self._seen(image, region)

    def _seen(self, image: Tensor, region: Region) -> Sight:
        return Sight.of(image, region, self._seer, self._content)

    def update(self) -> None:
        """Do one step."""
        self.train([self._sight])

    def restyled(self) -> Tensor:
        """(1, 3, H, W) what the network makes of the image now."""
        return restyled_by(self.net, self._sight.image)


def restyled_by(net: StyleNet, image: Tensor) -> Tensor:
    """(1, 3, H, W) what a network makes of an image."""
    with torch.no_grad():
        found: Tensor = net(image)
    return found


def squashed(images: Tensor, size: int) -> Tensor:
    """(B, 3, size, size) images at the side that a network takes, antialiased; their shape is not kept."""
    return functional.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


def split_crops(count: int, areas: Sequence[float]) -> list[int]:
    """Crops of each region, by its area; of n regions each has 1 / 2n of them at least, and one: they may become more.

    >>> split_crops(64, [0.05, 0.95]), split_crops(64, [1.0]), split_crops(16, [0.5, 0.5])
    ([16, 48], [64], [8, 8])
    >>> split_crops(64, [0.01, 0.33, 0.66]), split_crops(2, [0.1, 0.2, 0.7])
    ([10, 18, 36], [1, 1, 1])
    """
    if not areas:
        return []
    least = max(1, count // (2 * len(areas)))
    small = {place for place, area in enumerate(areas) if count * area < least * sum(areas)}
    large = [place for place in range(len(areas)) if place not in small]
    rest, whole = max(count - least * len(small), least * len(large)), sum(areas[place] for place in large)
    # rounded off where the sum is told, so that none is lost and none is made
    ends = np.rint(np.cumsum([0.0, *(rest * areas[place] / whole for place in large)])).astype(int)
    found = [least] * len(areas)
    for place, crops in zip(large, np.diff(ends), strict=True):
        found[place] = max(least, int(crops))
    return found
