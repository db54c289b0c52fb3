"""A frozen vision transformer of timm: any block, any facet, any grid, and no more computed than that needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from simsam_batch.features.contract import Features, Triple, patch_grid
from simsam_batch.features.fitting import LoadReport
from simsam_batch.features.precision import arithmetic

TOKEN_FACETS = ("token", "norm-token")
"""Facets of the residual stream; all others are projections inside a block."""

_PROJECTION_ROW = {"query": 0, "key": 1, "value": 2}
# Every grid needs its own position table, as large as one image's tokens; images at native size bring many grids.
_GRIDS_REMEMBERED = 64


class FrozenViT:
    """A timm ViT cut off after the last block that is needed, for any grid.

    One instance serves one thread: it sets the model to the grid of the images it is given.

    Args:
        model: timm's, with its weights, on its device; changed in place.
        blocks: how many of its blocks are kept.
        name: the resolved name.
        weights: where the weights are from, in words.
        mean: of the normalisation.
        std: of the normalisation.
        precision: ``fp32`` (without TF32) or ``bf16``.
        dino: whether positions are resampled as DINO does rather than as timm does.
        with_norm: keep the network's final norm.
        loaded: what became of the tensors of a weights file, if the weights are from one.
    """

    def __init__(
        self,
        model: Any,
        blocks: int,
        *,
        name: str,
        weights: str,
        mean: Triple,
        std: Triple,
        precision: str,
        dino: bool,
        with_norm: bool,
        loaded: LoadReport | None = None,
    ) -> None:
        self.name = name
        self.loaded = loaded
        self.patch: int = model.patch_embed.patch_size[0]
        self.blocks = len(model.blocks)
        self.mean = mean
        self.std = std
        self.prefix_tokens: int = model.num_prefix_tokens
        self.channels: int = model.embed_dim
        self._precision = precision
        self._weights = weights
        self._device: torch.device = model.patch_embed.proj.weight.device
        model.blocks = model.blocks[:blocks]
        # One of the two is the identity, by how the model was pooled in training.
        self._final_norm = nn.Sequential(model.norm, model.fc_norm).eval() if with_norm else None
        model.norm = model.fc_norm = nn.Identity()
        model.attn_pool = None
        self._has_class_token = getattr(model, "cls_token", None) is not None
        self._model = model.eval().requires_grad_(requires_grad=False)

        self._native_grid: tuple[int, int] = tuple(model.patch_embed.grid_size)
        self._positions: Callable[[tuple[int, int]], Tensor] | None = None
        self._resampling = "none"
        if getattr(model, "pos_embed", None) is not None:
            self._resampling = "dino" if dino else "timm"
            table = model.pos_embed.detach()
            # From here on a plain attribute: each grid puts its own table in place.
            del model.pos_embed
            prefix = 0 if getattr(model, "no_embed_class", False) else self.prefix_tokens
            resample = dino_positions if dino else _timm_positions
            self._positions = lru_cache(_GRIDS_REMEMBERED)(partial(resample, table, self._native_grid, prefix))

    def _tokens(self, images: Tensor) -> Tensor:
        """All tokens (B, prefix + N, C) that leave the last block kept; called within `_arithmetic`."""
        self._set_grid(patch_grid(images, self.patch))
        tokens: Tensor = self._model.forward_features(images.to(self._device))
        return tokens

    def _about(self) -> dict[str, Any]:
        """What identifies the network, as plain JSON values."""
        return {
            "name": self.name,
            "weights": self._weights,
            "patch": self.patch,
            "channels": self.channels,
            "blocks": self.blocks,
            "prefix_tokens": self.prefix_tokens,
            "mean": list(self.mean),
            "std": list(self.std),
            "precision": self._precision,
            "position_resampling": self._resampling,
            "native_grid": list(self._native_grid),
        }

    def _digest(self, *modules: nn.Module | None) -> str:
        """Sha256 over the names and values of the parameters of some modules, and of the positions."""
        hashed = hashlib.sha256()
        for module in modules:
            for name, tensor in module.named_parameters() if module is not None else ():
                hashed.update(name.encode())
                hashed.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        if self._positions is not None:
            hashed.update(self._positions(self._native_grid).to("cpu", torch.float32).contiguous().numpy().tobytes())
        return hashed.hexdigest()

    def _set_grid(self, grid: tuple[int, int]) -> None:
        """Hand timm a position table made for this very grid, which it then adds as it is."""
        if self._positions is not None:
            self._model.pos_embed = self._positions(grid)
            self._model.patch_embed.grid_size = grid


class ViTBackbone(FrozenViT):
    """A ViT that describes each patch by one vector; see `simsam_batch.features.contract.Backbone` for the attributes.

    Facets ``key``, ``query`` and ``value`` are the raw output of the block's linear projection, heads side by side,
    before any normalisation per head and before rotary positions. ``token`` is the block's output before the model's
    final norm, ``norm-token`` that after it (for the last block the facet of hierarchy-agnostic segmentation, Rossetti
    and Pirri, NeurIPS 2024; for others as in the code of DINOv2). The norms in `Features` are those of the residual
    stream where the computation ends: entering the block for the projections, leaving it for the tokens, before any
    final norm; both show the same outlier tokens (this project, measured).

    Args:
        model: its block must be x + attention(norm1(x)) for ``key``, ``query`` and ``value``.
        block: from 0.
        facet: ``key``, ``query``, ``value``, ``token`` or ``norm-token``.
        whole: keep the final norm, for `pooled`; ``facet`` must be ``token`` and ``block`` the last.
        about: what `FrozenViT` takes besides.

    Raises:
        ValueError: ``whole`` with another facet or block.
    """

    def __init__(self, model: Any, *, block: int, facet: str, whole: bool = False, **about: Any) -> None:
        if whole and (facet != "token" or block != len(model.blocks) - 1):
            msg = f"pooled vectors need the tokens of the last block, not {facet} of block {block}"
            raise ValueError(msg)
        self._projection = None if facet in TOKEN_FACETS else projection(model.blocks[block], facet)
        with_norm = whole or facet == "norm-token"
        super().__init__(model, block + (facet in TOKEN_FACETS), with_norm=with_norm, **about)
        self.block = block
        self.facet = facet
        if self._projection is not None:
            self.channels = width_of(self._projection)

    def __call__(self, images: Tensor) -> Features:
        """Describe patches.

        Args:
            images: (B, 3, H, W) float32, normalised by ``mean`` and ``std``; H and W multiples of ``patch``.

        Returns:
            (B, N, C) descriptors and (B, N) norms, float32, on the backbone's device.

        Raises:
            ValueError: H or W is no multiple of ``patch``.
        """
        with torch.no_grad(), arithmetic(self._device, self._precision):
            stream = self._tokens(images)[:, self.prefix_tokens :]
            following = self._final_norm if self.facet == "norm-token" else self._projection
            descriptors = stream if following is None else following(stream)
        return Features(descriptors.float().contiguous(), torch.linalg.vector_norm(stream.float(), dim=-1))

    def pooled(self, images: Tensor, pooling: Literal["class-token", "mean-token"]) -> Tensor:
        """Describe whole images, each by one vector after the network's final norm.

        Args:
            images: (B, 3, H, W) as for ``__call__``.
            pooling: the class token (Deep Spectral Methods), or the mean of the patch tokens; the mean as well for a
                network without a class token.

        Returns:
            (B, C) float32.

        Raises:
            ValueError: H or W is no multiple of ``patch``, or the final norm was not kept.
        """
        if self._final_norm is None:
            msg = "the final norm was not kept: load the backbone with whole=True"
            raise ValueError(msg)
        with torch.no_grad(), arithmetic(self._device, self._precision):
            tokens = self._final_norm(self._tokens(images))
        if pooling == "class-token" and self._has_class_token:
            return torch.as_tensor(tokens[:, 0].float())
        return torch.as_tensor(tokens[:, self.prefix_tokens :].float().mean(dim=1))

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the backbone, as plain JSON values."""
        return self._about() | {"block": self.block, "facet": self.facet}

    def digest(self) -> str:
        """Sha256 over the names and values of the parameters in use; the same on every device."""
        return self._digest(self._model, self._projection, self._final_norm)


def dino_positions(table: Tensor, native: tuple[int, int], prefix: int, grid: tuple[int, int]) -> Tensor:
    """Resample a position table the way DINO does.

    Bicubic with a = -0.75, no antialiasing. The stated scale (grid + 0.1) / native sets where samples are taken,
    x = (i + 0.5) / scale - 0.5, though the result has ``grid`` entries; the 0.1 only guarded against rounding, but
    it moves every sample (``interpolate_pos_encoding`` in DINO's published code).

    Args:
        table: (1, prefix + native rows * native columns, C).
        native: rows and columns of the table.
        prefix: entries before the grid's, kept as they are.
        grid: rows and columns wanted; equal to ``native`` returns the table itself.

    Returns:
        (1, prefix + grid rows * grid columns, C).
    """
    if grid == native:
        return table
    channels = table.shape[-1]
    image = table[:, prefix:].reshape(1, *native, channels).permute(0, 3, 1, 2)
    scale = [(wanted + 0.1) / has for wanted, has in zip(grid, native, strict=True)]
    image = nn.functional.interpolate(image, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return torch.cat([table[:, :prefix], image.permute(0, 2, 3, 1).reshape(1, -1, channels)], dim=1)


def _timm_positions(table: Tensor, native: tuple[int, int], prefix: int, grid: tuple[int, int]) -> Tensor:
    resampled: Tensor = resample_abs_pos_embed(table, list(grid), old_size=list(native), num_prefix_tokens=prefix)
    return resampled


def projection(block: Any, facet: str) -> nn.Sequential:
    """What gives ``key``, ``query`` or ``value`` of a block from the stream that enters it: its norm, then linear."""
    rows = _projection_rows(block.attn, facet)
    return nn.Sequential(block.norm1, rows).eval().requires_grad_(requires_grad=False)


def width_of(projection: nn.Sequential) -> int:
    """How many numbers a projection gives."""
    return int(projection[-1].out_features)  # type: ignore[arg-type]


def _projection_rows(attention: Any, facet: str) -> nn.Linear:
    """The one third of the block's projection that gives the facet, in whichever of timm's three forms it is kept."""
    letter = facet[0]
    separate: nn.Linear | None = getattr(attention, f"{letter}_proj", None)
    if separate is not None:
        return separate
    weight: Tensor = attention.qkv.weight.detach().chunk(3)[_PROJECTION_ROW[facet]]
    bias: Tensor | None = getattr(attention, f"{letter}_bias", None)
    if attention.qkv.bias is not None:
        bias = attention.qkv.bias.chunk(3)[_PROJECTION_ROW[facet]]
    rows = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    rows.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        rows.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return rows
