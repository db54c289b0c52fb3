"""Backbones by name: timm's vision transformers, with weights from a file or by timm's own download."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import Triple
from simsam_batch.features.fitting import fit_checkpoint
from simsam_batch.features.names import ALIASES, ARCHITECTURES, recorded_name
from simsam_batch.features.published import not_fetched, weights_source
from simsam_batch.features.taps import Tap, TappedViT
from simsam_batch.features.vit import TOKEN_FACETS, ViTBackbone
from simsam_batch.features.weights import Checkpoint, Part, read_checkpoint

_log = logging.getLogger(__name__)

FACETS = ("key", "query", "value", *TOKEN_FACETS)

# Of other collections' names; what stands in another comes after it.
_FAMILIES = ("dinov3", "dinov2", "dino", "mae", "siglip2", "siglip", "clip", "beitv2", "deit3")
_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}

# Blocks that compute x + attention(norm1(x)): only there are keys a projection of norm1(x).
_PRE_NORM_BLOCKS = {"Block", "EvaBlock"}


def load_backbone(
    name: str,
    *,
    weights: Path | None,
    block: int | None = None,
    facet: str = "key",
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    whole: bool = False,
    checkpoint_part: Part = "auto",
) -> ViTBackbone:
    """Load a ViT by its timm name, or an alias, with weights from a file or by timm's own download.

    DINO's interpolation of positions and ImageNet's normalisation are used where the name is a DINO or iBOT one
    (``*.dino``, ``dino_vit*``, ``ibot-*``) or the file has DINO's or iBOT's layout. A bare iBOT or DINO backbone file
    has timm's very key names and cannot be told from them: name the backbone ``dino_vits16``, ``ibot-small`` or their
    kin with it.

    Args:
        name: timm name with or without tag, or one in `simsam_batch.features.names`.
        weights: local safetensors or torch file in timm, DINO or iBOT key layout; None: timm's pretrained weights.
        block: from 0; negative counts from the end; None is the last.
        facet: ``key``, ``query``, ``value``, ``token``, or ``norm-token``: the block's tokens after the network's
            final norm, which for networks that average their tokens is the norm of the average.
        device: torch's name of the device.
        precision: of the blocks; results are float32 either way. ``fp32`` uses no TF32.
        whole: keep the final norm, for `ViTBackbone.pooled`; the facet must be ``token`` and the block the last.
        checkpoint_part: which network of a file that has several, see `simsam_batch.features.weights.read_checkpoint`.

    Raises:
        SettingsError: unknown name, facet, precision or block; ``norm-token`` of a network without a final norm; a
            model that is no plain ViT with variable grids; weights that cannot be fetched, read or fitted, or a part
            that the file has not. Never falls back to random weights.
    """
    arithmetic = {"device": device, "precision": precision}
    taps, model, about = _network(name, weights, checkpoint_part, [block], [facet], **arithmetic, whole=whole)
    backbone = ViTBackbone(model, block=taps[0][0], facet=facet, whole=whole, **about)
    shape = _tried_out(lambda images: backbone(images).descriptors, backbone.patch, name)
    _require_shape(shape, backbone.channels, name)
    return backbone


def load_taps(
    name: str,
    *,
    weights: Path | None,
    blocks: Sequence[int],
    facets: Sequence[str],
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    class_token: bool = False,
    registers: bool = False,
    facet_norm: Literal["none", "final"] = "none",
    checkpoint_part: Part = "auto",
) -> TappedViT:
    """Load a ViT of which several facets of several blocks are wanted at once; see `load_backbone` for what is shared.

    Args:
        name: as for `load_backbone`, like all that is not named here.
        weights: likewise.
        blocks: from 0, negative from the end; one that is named twice counts once.
        facets: of each of the blocks.
        device: torch's name of the device.
        precision: of the blocks.
        class_token: keep what describes the class token too.
        registers: keep what describes register tokens too.
        facet_norm: ``final`` to pass ``key``, ``query`` and ``value`` through the final norm, see `TappedViT`.
        checkpoint_part: as for `load_backbone`.

    Raises:
        SettingsError: as `load_backbone`; ``facet_norm`` of a network whose final norm does not fit its projections.
    """
    normed = facet_norm == "final"
    arithmetic = {"device": device, "precision": precision}
    taps, model, about = _network(name, weights, checkpoint_part, blocks, facets, **arithmetic, whole=normed)
    without = _without_norm(model)
    network = TappedViT(model, taps=taps, class_token=class_token, registers=registers, facet_norm=facet_norm, **about)
    if normed and (without or set(network.channels_of.values()) != {network.channels}):
        raise SettingsError(f"facet_norm: the final norm of {name} does not fit its projections; use 'none'")
    last = taps[-1]
    shape = _tried_out(lambda images: network(images).descriptors[last], network.patch, name)
    _require_shape(shape, network.channels_of[f"{last[1]}-{last[0]}"], name)
    return network


def _network(
    name: str,
    weights: Path | None,
    part: Part,
    blocks: Sequence[int | None],
    facets: Sequence[str],
    *,
    device: str,
    precision: str,
    whole: bool = False,
) -> tuple[list[Tap], Any, dict[str, Any]]:
    """The taps with blocks counted from 0, the network with its weights, and what `FrozenViT` takes besides."""
    for facet in facets:
        if facet not in FACETS:
            raise SettingsError(f"facet: {facet!r} is not known; allowed: {', '.join(FACETS)}")
    if precision not in {"fp32", "bf16"}:
        raise SettingsError(f"precision: {precision!r} is not known; allowed: fp32, bf16")
    full_name, own = _known_name(name), recorded_name(name)
    if weights is None and own.startswith("ibot-"):
        raise SettingsError(
            f"backbone: the weights of {name} are not among those that timm fetches. To mend it: give iBOT's file for "
            f"{full_name}, such as its checkpoint_teacher.pth or checkpoint.pth, with --weights FILE"
        )
    checkpoint = None if weights is None else read_checkpoint(weights, part)
    model = _build(full_name, name, pretrained=checkpoint is None)
    at = dict.fromkeys(_resolve_block(len(model.blocks), block, name) for block in blocks)
    taps = [(block, facet) for block in at for facet in facets]
    for block, facet in taps:
        _check_facet(model, block, facet, name)
    loaded = None
    if checkpoint is not None:
        loaded = fit_checkpoint(model, name, checkpoint, partial(_takes_part, taps=taps, whole=whole))
        _log.debug("%s from %s: %s", name, weights, "; ".join(loaded.lines()))

    model.to(device)
    self_distilled = checkpoint is not None and checkpoint.layout in {"dino", "ibot"}
    is_dino = self_distilled or own in ARCHITECTURES or full_name.endswith(".dino")
    mean, std = _normalisation(model.pretrained_cfg, checkpoint, is_dino=is_dino)
    about = {
        "name": full_name,
        "weights": _source(checkpoint) if checkpoint else f"timm: {model.pretrained_cfg.get('tag', '')}",
        "mean": mean,
        "std": std,
        "precision": precision,
        "dino": is_dino,
        "loaded": loaded,
    }
    return taps, model, about


def _known_name(name: str) -> str:
    full_name = recorded_name(name)
    full_name = ARCHITECTURES.get(full_name, full_name)
    families = timm.list_models()
    try:
        # A tag is known by its configuration; a name with a scheme (hf-hub:...) would be looked up on the network.
        known = ":" not in full_name and timm.is_model(full_name) and timm.get_pretrained_cfg(full_name) is not None
    except RuntimeError:
        known = False
    if known:
        return full_name
    # names of hubs are like each other, whatever the network: they are guessed where nothing else is near
    short = [alias for alias in ALIASES if "/" not in alias]
    own = [*ARCHITECTURES, "descriptors", *short, *families, *timm.list_models(pretrained=True)]
    close = _same_network(name) or next(
        filter(None, (difflib.get_close_matches(name, of, 4) for of in (own, ALIASES))), []
    )
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise SettingsError(f"backbone: timm has no model {name!r}{hint}")


def _same_network(name: str) -> list[str]:
    """What timm may call a network by another's name, such as ``dinov2_vits14`` or ``facebook/dinov2-small``."""
    lower = name.lower()
    family = next((word for word in _FAMILIES if word in lower), None)
    kind = re.search(r"vit_?-?(tiny|small|base|large|huge|giant|[tsblhg])|-(small|base|large|giant)\b", lower)
    if family is None or kind is None:
        return []
    size = kind[1] or kind[2]
    patch = re.search(r"(?:patch|vit_?-?[a-z]+?)(\d+)", lower)
    beginning = f"vit_{_SIZES.get(size, size)}_patch{patch[1] if patch else ''}"
    found = [each for each in timm.list_models(pretrained=True) if each.startswith(beginning) and family in each]
    with_registers = "reg" in lower
    found.sort(key=lambda each: (("_reg" in each) != with_registers, len(each), each))
    return found[:2]


def _source(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.layout} file" + (f", {checkpoint.part}" if checkpoint.part else "")


def _build(full_name: str, name: str, *, pretrained: bool) -> Any:
    not_a_vit = f"backbone: {name} is no plain vision transformer (one list of blocks, one patch size, any grid)"
    if pretrained and not timm.get_pretrained_cfg(full_name).has_weights:
        raise SettingsError(f"backbone: timm publishes no weights for {name}; give a file with --weights FILE")
    source = _where_published(full_name, name) if pretrained else {}
    try:
        model = timm.create_model(
            full_name, pretrained=pretrained, pretrained_cfg_overlay=source, num_classes=0, dynamic_img_size=True
        )
    except TypeError as error:
        raise SettingsError(f"{not_a_vit}: {error}") from error
    # Hub clients raise errors of several HTTP libraries, so no narrower class covers a failed download.
    except Exception as error:
        if not pretrained:
            raise
        if source:
            raise SettingsError(
                f"backbone: the weights of {name} in {source['file']} cannot be loaded ({error}). To mend it: delete "
                "that file, so that it is fetched again"
            ) from error
        raise not_fetched(full_name, name, error) from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    is_vit = isinstance(getattr(model, "blocks", None), nn.Sequential | nn.ModuleList) and hasattr(
        model, "num_prefix_tokens"
    )
    if not is_vit or patch is None or patch[0] != patch[1]:
        raise SettingsError(not_a_vit)
    return model


def _where_published(full_name: str, name: str) -> dict[str, Any]:
    try:
        return weights_source(full_name, name)
    except SettingsError:
        # a network that is no plain ViT is no use with its weights either, and that is then what is said
        _build(full_name, name, pretrained=False)
        raise


def _resolve_block(depth: int, block: int | None, name: str) -> int:
    block = -1 if block is None else block
    if not -depth <= block < depth:
        raise SettingsError(f"block: {name} has blocks 0 to {depth - 1} (or -1 to -{depth} from the end), not {block}")
    return block % depth


def _check_facet(model: Any, block: int, facet: str, name: str) -> None:
    kind = type(model.blocks[block]).__name__
    if facet not in TOKEN_FACETS and kind not in _PRE_NORM_BLOCKS:
        raise SettingsError(f"facet: blocks of {name} ({kind}) have no {facet} projection of their own; use 'token'")
    if facet == "norm-token" and _without_norm(model):
        raise SettingsError(f"facet: {name} has no final norm, so that it has no 'norm-token'; use 'token'")


def _without_norm(model: Any) -> bool:
    return all(isinstance(norm, nn.Identity) for norm in (model.norm, model.fc_norm))


def _takes_part(parameter: str, *, taps: Sequence[Tap], whole: bool) -> bool:
    """Whether a parameter, by timm's name, is needed for any of these facets of blocks."""
    inside = re.match(r"blocks\.(\d+)\.(.*)", parameter)
    if inside is None:
        normed = whole or any(facet == "norm-token" for _, facet in taps)
        if normed and re.match(r"(norm|fc_norm)\.", parameter):
            return True
        return not re.match(r"(head|norm|fc_norm|attn_pool)\w*\.", parameter) or parameter.startswith("norm_pre.")
    index, rest = int(inside[1]), inside[2]
    if any(index < block or (index == block and facet in TOKEN_FACETS) for block, facet in taps):
        return True
    letters = {facet[0] for block, facet in taps if index == block}
    return any(re.match(rf"norm1\.|attn\.(qkv\.|{letter}_proj\.|{letter}_bias$)", rest) for letter in letters)


def _normalisation(config: dict[str, Any], checkpoint: Checkpoint | None, *, is_dino: bool) -> tuple[Triple, Triple]:
    """The file's own record first; then ImageNet's for DINO and iBOT, timm's for everything else."""
    mean, std = config["mean"], config["std"]
    if is_dino:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if checkpoint is not None:
        mean, std = checkpoint.mean or mean, checkpoint.std or std
    return tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[return-value]


def _tried_out(describe: Callable[[torch.Tensor], torch.Tensor], patch: int, name: str) -> tuple[int, ...]:
    """Run six patches, so that a model which does not fit its class fails here and not at the first image."""
    images = torch.zeros(1, 3, 2 * patch, 3 * patch)
    try:
        return tuple(describe(images).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise SettingsError(f"backbone: {name} does not run on a grid of 2x3 patches: {error}") from error


def _require_shape(shape: tuple[int, ...], channels: int, name: str) -> None:
    if shape != (1, 6, channels):
        raise SettingsError(f"backbone: {name} gives {shape[1]} tokens for 2x3 patches: it is no plain ViT")
