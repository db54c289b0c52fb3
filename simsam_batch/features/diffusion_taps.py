"""Features of patches by the UNet of Stable Diffusion: what some of its up blocks give for a noisy picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import Triple, patch_grid
from simsam_batch.features.diffusion import ReachedTheLastLayer, alpha_bar
from simsam_batch.features.precision import arithmetic
from simsam_batch.features.taps import Tapped

_FACET = "token"
_ACTIVATIONS = 6
"""About so many maps of its first level the encoder, and the UNet, hold at once."""


class TappedDiffusion:
    """Stable Diffusion under the call of `simsam_batch.features.taps.Taps`.

    A picture's latents get noise, of its own seed, as strong as at one time step; the UNet looks at them beside the
    embedding of a prompt, and is run no further than the last block asked for. Features are means over several draws
    of the noise. A patch is what one cell of the finest of these blocks sees; the others are brought onto its grid,
    bilinearly.

    Args:
        unet: `diffusers.UNet2DConditionModel`; changed in place.
        vae: `diffusers.AutoencoderKL`; likewise.
        embedding: (T, D) of the prompt.
        blocks: up blocks, from 0, negative from the end; one that is named twice counts once.
        facets: ``token``, or ``key``, which is what nobody asked for.
        timestep: of the noise, of 1000.
        draws: of the noise.

    Raises:
        SettingsError: there is no such block or facet.

    Source: Tang et al., Emergent correspondence from image diffusion, NeurIPS 2023: block 1, time step 261, 8 draws.
    """

    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)

    def __init__(
        self,
        unet: Any,
        vae: Any,
        embedding: Tensor,
        *,
        blocks: Sequence[int],
        facets: Sequence[str],
        timestep: int,
        draws: int,
    ) -> None:
        self._unet, self._vae = unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)
        if set(facets) - {_FACET, "key"}:
            raise SettingsError(
                "facets: up blocks of diffusion have one kind of features. To mend it: give --facets token"
            )
        count = len(unet.up_blocks)
        if wrong := [block for block in blocks if not -count <= block < count]:
            raise SettingsError(
                f"blocks: the UNet has up blocks 0 to {count - 1} (or -1 to -{count} from the end), not {wrong[0]}"
            )
        self._blocks = list(dict.fromkeys(block % count for block in blocks))
        self._last = max(self._blocks)
        self._embedding, self._timestep, self._draws = embedding, timestep, draws
        self._pixels = 2 ** (len(vae.config.block_out_channels) - 1)
        """Side of a cell of the latents."""
        # each up block but the last is twice as fine as what it is given
        ups = [min(block + 1, count - 1) for block in range(count)]
        self._sides = {block: self._pixels * 2 ** (count - 1 - ups[block]) for block in self._blocks}
        self.patch = min(self._sides.values())
        widths = list(reversed(unet.config.block_out_channels))
        self.channels_of = {f"{_FACET}-{block}": int(widths[block]) for block in self._blocks}
        of_pictures = vae.config.block_out_channels[0] * self.patch**2
        of_latents = unet.config.block_out_channels[0] * max(self.patch // self._pixels, 1) ** 2
        self.held_numbers = int(_ACTIVATIONS * max(of_pictures, of_latents))
        self._held: dict[int, Tensor] = {}
        for block in self._blocks:
            unet.up_blocks[block].register_forward_hook(self._hold(block))

    def _hold(self, block: int) -> Any:
        def hold(module: Any, given: Any, found: Tensor) -> None:
            del module, given
            self._held[block] = found
            if block == self._last:
                raise ReachedTheLastLayer

        return hold

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tapped:
        """Describe patches.

        Args:
            images: (B, 3, H, W) float32, normalised by ``mean`` and ``std``; H and W multiples of ``patch``.
            seeds: one for each image, of its noise.

        Raises:
            ValueError: H or W is no multiple of ``patch``, or there is not a seed for each image.
        """
        return self._described(images, seeds, self._draws)

    def _described(self, images: Tensor, seeds: Sequence[int], times: int) -> Tapped:
        """The same with so many draws."""
        rows, columns = patch_grid(images, self.patch)
        if len(seeds) != len(images):
            raise ValueError(f"{len(seeds)} seeds for the noise of {len(images)} images")
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        total: dict[int, Tensor] = {}
        where = next(self._vae.parameters()).device
        # half precision is that of the weights themselves
        with torch.no_grad(), arithmetic(where, "fp32"):
            latents = self._vae.encode(images.to(next(self._vae.parameters()))).latent_dist.mean
            latents = latents.float() * self._vae.config.scaling_factor
            for _ in range(times):
                for block, found in self._pass(latents, draws).items():
                    total[block] = total[block] + found if block in total else found
        descriptors = {
            (block, _FACET): self._on_grid(block, each / times, rows, columns) for block, each in total.items()
        }
        norms = {block: torch.linalg.vector_norm(each, dim=-1) for (block, _), each in descriptors.items()}
        return Tapped(descriptors, {}, {}, norms)

    def _pass(self, latents: Tensor, draws: Sequence[torch.Generator]) -> dict[int, Tensor]:
        """(B, C, h, w) float32 by block, with new noise; that is drawn on the host, the same for every device."""
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in draws]).to(latents)
        signal = alpha_bar(self._timestep)
        noisy = signal**0.5 * latents + (1 - signal) ** 0.5 * noise
        where = next(self._unet.parameters())
        try:
            with suppress(ReachedTheLastLayer):
                self._unet(noisy.to(where), self._timestep, self._embedding.to(where).expand(len(noisy), -1, -1))
            return {block: each.float() for block, each in self._held.items()}
        finally:
            # of a pass that ran out of memory nothing stays
            self._held = {}

    def _on_grid(self, block: int, found: Tensor, rows: int, columns: int) -> Tensor:
        """(B, N, C) of maps (B, C, h, w)."""
        ratio = self._sides[block] // self.patch
        if ratio > 1:
            found = functional.interpolate(found, scale_factor=ratio, mode="bilinear", align_corners=False)
        # the last cell of a coarse block reaches beyond an odd number of patches
        return found[:, :, :rows, :columns].flatten(2).transpose(1, 2).contiguous()

    def require_fit(self) -> None:
        """Describe six patches, so that networks that do not fit each other fail here and not at every image.

        Raises:
            ValueError: they do not.
        """
        where = next(self._vae.parameters()).device
        try:
            self._described(torch.zeros(1, 3, 2 * self.patch, 3 * self.patch, device=where), [0], 1)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"its networks do not fit each other: {str(error)[:300]}") from error

    def describe(self) -> dict[str, Any]:
        """What is kept of it, as plain JSON values."""
        return {
            "name": "diffusion",
            "patch": self.patch,
            "taps": [[block, _FACET] for block in self._blocks],
            "channels_of": dict(self.channels_of),
            "timestep": self._timestep,
            "draws": self._draws,
            "precision": "bf16" if next(self._unet.parameters()).dtype == torch.bfloat16 else "fp32",
        }
