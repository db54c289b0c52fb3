"""Several facets of several blocks of a ViT from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import MIRRORED, Triple, patch_grid
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.features.precision import arithmetic
from simsam_batch.features.vit import TOKEN_FACETS, FrozenViT, projection, width_of

Tap = tuple[int, str]
"""A block, from 0, and one of its facets."""

_STREAMS_HELD = 16
"""About so many streams of all tokens a forward pass holds at once."""


class Tapped(NamedTuple):
    """What a batch of images with equal grids came to; all float32.

    Attributes:
        descriptors: (B, N, C) for each tap, N = Hp * Wp patches in row-major order.
        class_tokens: (B, C) for each tap, if kept.
        registers: (B, R, C) for each tap, if kept; register tokens in the network's order.
        norms: (B, N) for each block, length of each patch's residual stream leaving it, or entering it where only
            projections of it are asked for.
    """

    descriptors: Mapping[Tap, Tensor]
    class_tokens: Mapping[Tap, Tensor]
    registers: Mapping[Tap, Tensor]
    norms: Mapping[int, Tensor]


class Taps(Protocol):
    """A network of which several descriptors of each patch are taken at once.

    Attributes:
        patch: side of a patch, in pixels.
        mean, std: per RGB channel; images are to be normalised to ``(rgb - mean) / std`` with rgb in [0, 1].
        channels_of: by name, ``<facet>-<block>``, how long each descriptor is.
        held_numbers: about how many numbers a forward pass holds for each patch, beside what is kept.
    """

    patch: int
    mean: Triple
    std: Triple
    channels_of: dict[str, int]
    held_numbers: int

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tapped:
        """Describe patches of images (B, 3, H, W), with a seed for each of what is drawn by chance."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the network and what is kept of it, as plain JSON values."""
        ...


class TappedViT(FrozenViT):
    """A ViT of which each facet asked for is what `simsam_batch.features.vit.ViTBackbone` of it alone gives.

    Every block runs once, and none after the last that is needed.

    Args:
        model: timm's, with its weights, on its device; changed in place. Its blocks must be x + attention(norm1(x))
            for ``key``, ``query`` and ``value``.
        taps: what is asked for, each once.
        class_token: keep the class token too.
        registers: keep register tokens too.
        facet_norm: ``final`` to pass ``key``, ``query`` and ``value`` through the network's final norm, which is made
            for another place, as the published code of probes of iBOT's features does.
        about: what `FrozenViT` takes besides.
    """

    def __init__(
        self,
        model: Any,
        *,
        taps: Sequence[Tap],
        class_token: bool = False,
        registers: bool = False,
        facet_norm: str = "none",
        **about: Any,
    ) -> None:
        self.taps = list(taps)
        self._norms_projections = facet_norm == "final"
        self._projections: dict[Tap, nn.Sequential] = {
            (block, facet): projection(model.blocks[block], facet) for block, facet in taps if facet not in TOKEN_FACETS
        }
        # the stream that enters block b is s_b, and s_(b + 1) leaves it
        self._stream_of = {(block, facet): block + (facet in TOKEN_FACETS) for block, facet in taps}
        last = max(self._stream_of.values())
        self._held: dict[int, Tensor] = {}
        for number in {*self._stream_of.values()} - {last}:
            model.blocks[number].register_forward_pre_hook(partial(self._hold, number))
        has_class = getattr(model, "cls_token", None) is not None
        self._keeps_class, self._keeps_registers = class_token and has_class, registers
        with_norm = self._norms_projections or any(facet == "norm-token" for _, facet in taps)
        super().__init__(model, last, with_norm=with_norm, **about)
        self._last = last
        widths = dict.fromkeys(taps, self.channels)
        widths |= {tap: width_of(each) for tap, each in self._projections.items()}
        self.channels_of = {f"{facet}-{block}": widths[block, facet] for block, facet in taps}
        self.held_numbers = _STREAMS_HELD * self.channels

    def _hold(self, number: int, module: nn.Module, given: tuple[Any, ...]) -> None:
        del module
        self._held[number] = given[0]

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tapped:
        """Describe patches.

        Args:
            images: (B, 3, H, W) float32, normalised by ``mean`` and ``std``; H and W multiples of ``patch``.
            seeds: of what is drawn by chance for each image; nothing is, here.

        Raises:
            ValueError: H or W is no multiple of ``patch``.
        """
        del seeds
        found = Tapped({}, {}, {}, {})
        with torch.no_grad(), arithmetic(self._device, self._precision):
            streams = {self._last: self._tokens(images)} | self._held
            self._held = {}
            normed: dict[tuple[int, int], Tensor] = {}
            for tap in self.taps:
                stream = streams[self._stream_of[tap]]
                self._describe(tap, stream, normed, found)
                # leaving counts before entering, whichever facet comes first
                if tap[1] in TOKEN_FACETS or tap[0] not in found.norms:
                    patches = stream[:, self.prefix_tokens :]
                    _put(found.norms, tap[0], torch.linalg.vector_norm(patches.float(), dim=-1))
        return found

    def _describe(self, tap: Tap, stream: Tensor, normed: dict[tuple[int, int], Tensor], found: Tapped) -> None:
        of_class = int(self._has_class_token)
        parts: list[tuple[Mapping[Tap, Tensor], Tensor]] = [(found.descriptors, stream[:, self.prefix_tokens :])]
        if self._keeps_class:
            parts.append((found.class_tokens, stream[:, :1]))
        if self._keeps_registers and self.prefix_tokens > of_class:
            parts.append((found.registers, stream[:, of_class : self.prefix_tokens]))
        for part, (place, tokens) in enumerate(parts):
            described = self._following(tap, part, tokens, normed).float().contiguous()
            _put(place, tap, described[:, 0] if place is found.class_tokens else described)

    def _following(self, tap: Tap, part: int, tokens: Tensor, normed: dict[tuple[int, int], Tensor]) -> Tensor:
        """What a facet makes of a part of the tokens; ``normed`` holds those that a block's projections share."""
        if tap in self._projections:
            norm, rows = self._projections[tap]
            if (tap[0], part) not in normed:
                normed[tap[0], part] = norm(tokens)
            projected: Tensor = rows(normed[tap[0], part])
            if self._norms_projections and self._final_norm is not None:
                projected = self._final_norm(projected)
            return projected
        if tap[1] == "norm-token" and self._final_norm is not None:
            last: Tensor = self._final_norm(tokens)
            return last
        return tokens

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the network and what is kept of it, as plain JSON values."""
        kept = {"class_token": self._keeps_class, "registers": self._keeps_registers}
        # older runs have no word for it
        norms = {"facet_norm": "final"} if self._norms_projections else {}
        taps = {"taps": [list(tap) for tap in self.taps], "channels_of": dict(self.channels_of)}
        return self._about() | taps | kept | norms

    def digest(self) -> str:
        """Sha256 over the names and values of the parameters in use; the same on every device."""
        return self._digest(self._model, *self._projections.values(), self._final_norm)


def _put(place: Any, key: Any, value: Tensor) -> None:
    place[key] = value


class TappedDescriptors:
    """Descriptors under the same call: the only facet, ``token``, of the only block, 0.

    Args:
        blocks: asked for; 0 or -1.
        facets: asked for; ``token``, or ``key``, which is what nobody asked for.

    Raises:
        SettingsError: others.
    """

    def __init__(self, blocks: Sequence[int], facets: Sequence[str]) -> None:
        self._descriptors = alone = Descriptors()
        if set(blocks) - {0, -1} or set(facets) - {"token", "key"}:
            raise SettingsError(
                f"blocks, facets: {alone.name} describe each patch in one way only. To mend it: give --facets token "
                "and leave out --blocks, or choose a network by --backbone"
            )
        self.patch, self.mean, self.std, self.channels = alone.patch, alone.mean, alone.std, alone.channels
        self.channels_of = {f"{alone.facet}-{alone.block}": alone.channels}
        self.held_numbers = _STREAMS_HELD * self.channels

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tapped:
        """Describe patches; see `Descriptors`."""
        del seeds
        alone = self._descriptors
        found = alone(images)
        return Tapped({(alone.block, alone.facet): found.descriptors}, {}, {}, {alone.block: found.norms})

    def describe(self) -> dict[str, Any]:
        """Everything that identifies it, as plain JSON values."""
        return self._descriptors.describe() | {"channels_of": dict(self.channels_of)}


class TappedBothWays:
    """Descriptors of pictures, and of their mirror images, mirrored back: those of a block's facet ``mirrored-...``.

    What is looked at both ways tells less of which way a thing faces.

    Args:
        taps: of pictures as they are.
    """

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        self.patch, self.mean, self.std = taps.patch, taps.mean, taps.std
        self.loaded = getattr(taps, "loaded", None)
        mirrored = {MIRRORED + name: channels for name, channels in taps.channels_of.items()}
        self.channels_of = taps.channels_of | mirrored
        self.held_numbers = taps.held_numbers

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tapped:
        """Describe patches; class tokens, registers and norms are those of pictures as they are."""
        found, others = self._taps(images, seeds), self._taps(images.flip(-1), seeds).descriptors
        rows, columns = patch_grid(images, self.patch)
        back = {
            (block, MIRRORED + facet): each.reshape(len(each), rows, columns, -1).flip(2).flatten(1, 2)
            for (block, facet), each in others.items()
        }
        return found._replace(descriptors={**found.descriptors, **back})

    def describe(self) -> dict[str, Any]:
        """Everything that identifies it, as plain JSON values."""
        return self._taps.describe() | {"channels_of": dict(self.channels_of)}
