"""Points by the attention of one token: an embedding is fitted to a point of one image, and looked for in another.

Nothing here knows a network: it is what `AttentionModel` says. Sizes are those of the square of S x S pixels that
images are squashed to, and points are (x, y) in its pixels.

Source: Hedlin et al., Unsupervised semantic correspondence using Stable Diffusion, NeurIPS 2023. Its published program
computes something else in some places; see `as_published`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

_SIGMA = 27.97853316316864 / 512
_MARGIN = 0.15
_HELD_CROPS = 2048
_COLLAPSED = 0.98

CORNERS = 4
"""How many crops of a picture cover it: those in its corners, which come first."""

Window = tuple[int, int]
"""Left and top of a crop."""


class AttentionModel(Protocol):
    """A frozen network whose cross-attention can be looked at."""

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        ...

    @property
    def tokens(self) -> int:
        """How many there are."""
        ...

    def signal(self, timestep: int) -> float:
        """The share of signal left at a time step of 1000, squared."""
        ...

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents (B, 4, h, w) of pictures (B, 3, S, S) in 0..1; no gradient."""
        ...

    def attention(self, latents: torch.Tensor, timestep: int, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """For each layer looked at (B, H, W), the attention of `TOKEN` as a mean over heads.

        Args:
            latents: (B, 4, h, w), noisy.
            timestep: how noisy, of 1000.
            embeddings: (B, T, D), with a gradient if one is wanted.
        """
        ...


TOKEN = 1
"""The one whose attention counts; all of them are trained."""


@dataclass(frozen=True, slots=True)
class Procedure:
    """How an embedding is fitted, and looked for.

    Attributes:
        side: S.
        starts: R, independent random ones.
        steps: of Adam for each.
        crops: of the other image, for each start.
        learning_rate: of Adam.
        crop: side of a crop as a share of S.
        sigma: of the Gaussian that is fitted to, as a share of S.
        timestep: of the noise when the embedding is fitted.
        timestep_found: when it is looked for.
        noise: what is added: Gaussian, or uniform in 0..1.
        combine: maps of layers are averaged as they are, or by their softmax over all pixels.
        first_pixel: where the Gaussian takes the first pixel to be.
    """

    side: int = 512
    starts: int = 5
    steps: int = 129
    crops: int = 20
    learning_rate: float = 0.0023755632081200314
    crop: float = 0.9316549294381423
    sigma: float = _SIGMA
    timestep: int = 140
    timestep_found: int = 140
    noise: Literal["gaussian", "uniform"] = "gaussian"
    combine: Literal["mean", "softmax"] = "mean"
    first_pixel: float = 0.5

    @property
    def crop_side(self) -> int:
        """Of a crop, in pixels."""
        return math.floor(self.side * self.crop)

    @property
    def nothing(self) -> float:
        """The loss of a map that is zero everywhere, where the Gaussian lies inside."""
        return math.pi * self.sigma**2


def as_published(procedure: Procedure) -> Procedure:
    """The procedure as the published program has it, which is not what its paper says.

    It also leaves half of the heads out, see `simsam_batch.features.diffusion.DiffusionAttention`.
    """
    return replace(procedure, timestep_found=40, noise="uniform", combine="softmax", first_pixel=0.0)


def bounds(place: float, side: int, crop: int) -> tuple[int, int]:
    """The first and last start of a crop along one axis that a place may have: it keeps away from the crop's edges.

    >>> bounds(256, 512, 477), bounds(71, 512, 477), bounds(441, 512, 477)
    ((0, 35), (0, 0), (35, 35))
    """
    margin = math.floor(_MARGIN * crop)
    most = side - crop
    low, high = (min(max(0.0, place - away), most) for away in (crop - margin, margin))
    return int(low), int(high)


def window_around(point: tuple[float, float], how: Procedure, draw: torch.Generator) -> Window:
    """A crop that holds a point, by chance."""
    ends = [bounds(place, how.side, how.crop_side) for place in point]
    x, y = (int(torch.randint(low, high + 1, (), generator=draw)) for low, high in ends)
    return x, y


def gaussian(points: torch.Tensor, side: int, sigma: float, first: float = 0.5) -> torch.Tensor:
    """(B, S, S) with 1 at each point, and as wide as sigma.

    Args:
        points: (B, 2) x and y in pixels.
        side: S.
        sigma: in pixels.
        first: where the first pixel is taken to be: its centre, or 0 as published, half a pixel off.
    """
    along = torch.arange(side, dtype=points.dtype, device=points.device) + first
    squares = [((along - points[:, i, None]) ** 2) for i in (0, 1)]
    return torch.exp(-(squares[1][:, :, None] + squares[0][:, None, :]) / (2 * sigma**2))


class CroppedLatents:
    """Latents of the crops of one picture; each is computed once while there is room, whoever asks for it.

    They are computed one by one, so that they do not depend on which others were asked for with them.

    Args:
        model: the network.
        picture: (3, S, S) in 0..1.
        how: the procedure.
    """

    def __init__(self, model: AttentionModel, picture: torch.Tensor, how: Procedure) -> None:
        self._model, self._picture, self._how = model, picture, how
        self._held: OrderedDict[Window, torch.Tensor] = OrderedDict()
        self.computed = 0

    def of(self, windows: Sequence[Window]) -> torch.Tensor:
        """(B, 4, h, w) of some crops, each enlarged to S x S."""
        return torch.cat([self._one(window) for window in windows])

    def _one(self, window: Window) -> torch.Tensor:
        if window in self._held:
            self._held.move_to_end(window)
            return self._held[window]
        (x, y), crop = window, self._how.crop_side
        part = self._picture[None, :, y : y + crop, x : x + crop]
        with torch.no_grad():
            found = self._model.encode(_resized(part, self._how.side))
        self.computed += 1
        self._held[window] = found
        if len(self._held) > _HELD_CROPS:
            self._held.popitem(last=False)
        return found


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted to one point.

    Attributes:
        embeddings: (R, T, D) float32.
        losses: (steps, R) float64, before each step.
        nothing: (steps, R) float64, what they would be for a map that is zero everywhere.
    """

    embeddings: torch.Tensor
    losses: NDArray[np.float64]
    nothing: NDArray[np.float64]

    def collapsed(self) -> NDArray[np.bool_]:
        """(R,) whether each has ended where the token is attended to nowhere."""
        last = slice(-min(len(self.losses), 10), None)
        found: NDArray[np.bool_] = self.losses[last].sum(axis=0) >= _COLLAPSED * self.nothing[last].sum(axis=0)
        return found


def fit(
    model: AttentionModel,
    latents: CroppedLatents,
    point: tuple[float, float],
    how: Procedure,
    seeds: Sequence[int],
    beat: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit an embedding to a point, from several starts at once; they do not see each other.

    Args:
        model: the network.
        latents: of the picture that the point is of.
        point: in pixels of the square.
        how: the procedure.
        seeds: one for each start; all that is drawn for it comes from it.
        beat: called after each step.
    """
    draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    first = torch.stack([torch.randn(model.tokens, model.width, generator=draw) for draw in draws])
    like = latents.of([(0, 0)])
    embeddings = first.to(like.device, torch.promote_types(like.dtype, torch.float32)).requires_grad_()
    adam = torch.optim.Adam([embeddings], lr=how.learning_rate)
    losses, nothing = np.zeros((how.steps, len(seeds))), np.zeros((how.steps, len(seeds)))
    for step in range(how.steps):
        windows = [window_around(point, how, draw) for draw in draws]
        noisy = _noisy(latents.of(windows), model.signal(how.timestep), how, draws)
        maps = model.attention(noisy, how.timestep, embeddings)
        inside = torch.tensor(
            [
                [(place - start) / how.crop_side * how.side for place, start in zip(point, window, strict=True)]
                for window in windows
            ]
        ).to(maps[0])
        wanted = gaussian(inside, how.side, how.sigma * how.side, how.first_pixel)
        errors = [((_upsampled(one, how.side) - wanted) ** 2).mean(dim=(1, 2)) for one in maps]
        loss = torch.stack(errors).mean(dim=0)
        adam.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses[step] = loss.detach().double().cpu().numpy()
        nothing[step] = (wanted**2).mean(dim=(1, 2)).double().cpu().numpy()
        beat()
    return Fitted(embeddings.detach().float().cpu(), losses, nothing)


def look_for(
    model: AttentionModel,
    latents: CroppedLatents,
    embeddings: torch.Tensor,
    how: Procedure,
    seeds: Sequence[int],
    beat: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Where embeddings are attended to in another picture: first in its four corners, then around what was found.

    Args:
        model: the network.
        latents: of the picture.
        embeddings: (R, T, D).
        how: the procedure.
        seeds: one for each start.
        beat: called after each crop.

    Returns:
        (R, L, S, S) float32: the mean of each layer's attention over the crops that a pixel was in.
    """
    draws = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    side, crop, starts = how.side, how.crop_side, len(seeds)
    like = latents.of([(0, 0)])
    given = embeddings.to(like.device, torch.promote_types(like.dtype, torch.float32))
    corners = [(0.0, 0.0), (0.0, float(side)), (float(side), 0.0), (float(side), float(side))]
    total = torch.zeros(0)
    count = torch.zeros(starts, side, side, device=like.device)
    for number in range(how.crops):
        anchors = [corners[number]] * starts if number < CORNERS else _highest(total, count)
        windows = [window_around(anchor, how, draw) for anchor, draw in zip(anchors, draws, strict=True)]
        with torch.no_grad():
            noisy = _noisy(latents.of(windows), model.signal(how.timestep_found), how, draws)
            maps = [_upsampled(one, crop) for one in model.attention(noisy, how.timestep_found, given)]
        if not number:
            total = torch.zeros(starts, len(maps), side, side, device=like.device)
        for start, (x, y) in enumerate(windows):
            for layer, one in enumerate(maps):
                total[start, layer, y : y + crop, x : x + crop] += one[start]
            count[start, y : y + crop, x : x + crop] += 1
        beat()
    return total / count.clamp_min(1)[:, None]


@dataclass(frozen=True, slots=True)
class Picked:
    """Where the maps of all starts point to.

    Attributes:
        point: (x, y) in pixels of the square.
        peak: the mean map there.
        margin: by how much that is above the highest value further than three sigma away.
        by_layer: (L, 2) where each layer's mean map is highest.
        by_start: (R, 2) where each start's mean map is highest.
        map: (S, S) float32, the mean of all, where the maps were.
        layers: (L, S, S) float32, each layer's mean over the starts, likewise.
    """

    point: tuple[float, float]
    peak: float
    margin: float
    by_layer: NDArray[np.float64]
    by_start: NDArray[np.float64]
    map: torch.Tensor
    layers: torch.Tensor

    @property
    def spread(self) -> float:
        """Pixels between what the starts point to, as a mean distance from their own mean."""
        away: NDArray[np.float64] = np.linalg.norm(self.by_start - self.by_start.mean(axis=0), axis=1)
        return float(away.mean())


def pick(maps: torch.Tensor, how: Procedure) -> Picked:
    """The place that maps (R, L, S, S) have in common."""
    over_starts = maps.mean(dim=0)
    weighed = over_starts
    if how.combine == "softmax":
        weighed = torch.softmax(over_starts.flatten(1), dim=1).reshape(over_starts.shape)
    x, y = _places(weighed.mean(dim=0)[None])[0].tolist()
    mean = over_starts.mean(dim=0)
    down, along = torch.meshgrid(*(torch.arange(how.side, device=maps.device),) * 2, indexing="ij")
    away = (along - x) ** 2 + (down - y) ** 2 > (3 * how.sigma * how.side) ** 2
    peak = float(mean[int(y), int(x)])
    margin = peak - float(mean[away].max()) if bool(away.any()) else 0.0
    return Picked(
        (x + 0.5, y + 0.5),
        peak,
        margin,
        _places(over_starts).double().cpu().numpy() + 0.5,
        _places(maps.mean(dim=1)).double().cpu().numpy() + 0.5,
        mean.float(),
        over_starts.float(),
    )


def _places(maps: torch.Tensor) -> torch.Tensor:
    """(B, 2) x and y of the highest value of maps (B, S, S)."""
    best = maps.flatten(1).argmax(dim=1)
    return torch.stack([best % maps.shape[2], best // maps.shape[2]], dim=1)


def _highest(total: torch.Tensor, count: torch.Tensor) -> list[tuple[float, float]]:
    """For each start where the mean over layers is highest so far."""
    mean = total.mean(dim=1) / count.clamp_min(1)
    return [(x + 0.5, y + 0.5) for x, y in _places(mean).tolist()]


def _noisy(latents: torch.Tensor, signal: float, how: Procedure, draws: Sequence[torch.Generator]) -> torch.Tensor:
    draw = torch.randn if how.noise == "gaussian" else torch.rand
    noise = torch.stack([draw(latents.shape[1:], generator=each) for each in draws]).to(latents)
    found: torch.Tensor = signal**0.5 * latents + (1 - signal) ** 0.5 * noise
    return found


def _upsampled(maps: torch.Tensor, side: int) -> torch.Tensor:
    return _resized(maps[:, None], side)[:, 0]


def _resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    found: torch.Tensor = functional.interpolate(pictures, (side, side), mode="bilinear", align_corners=False)
    return found
