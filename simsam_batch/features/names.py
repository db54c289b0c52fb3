"""Names that people know networks by, for timm's names of the same ones. Costs nothing to import."""

from __future__ import annotations

from collections.abc import Mapping

ARCHITECTURES: Mapping[str, str] = {
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "ibot-small": "vit_small_patch16_224",
    "ibot-base": "vit_base_patch16_224",
    "ibot-large": "vit_large_patch16_224",
}
"""Names of their own, since positions and pictures are prepared as DINO's: runs record them, and not timm's names.

timm has no weights of iBOT, so that a file is needed."""

_HUBS = ("hf-hub:timm/", "hf_hub:timm/", "timm/")
_LETTERS = {"small": "s", "base": "b", "large": "l", "giant": "g"}
_DINOV3 = {
    "small": "s16",
    "small-plus": "s16plus",
    "base": "b16",
    "large": "l16",
    "huge-plus": "h16plus",
    "7b": "7b16",
}
# The networks of OpenAI were trained with another GELU than timm's of the plain names.
_CLIP = {
    "base": ("base-patch16", "vit_base_patch16_clip_quickgelu_224.openai"),
    "base32": ("base-patch32", "vit_base_patch32_clip_quickgelu_224.openai"),
    "large": ("large-patch14", "vit_large_patch14_clip_quickgelu_224.openai"),
    "large-336": ("large-patch14-336", "vit_large_patch14_clip_quickgelu_336.openai"),
}


def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for short, dino in {"small": "s16", "small8": "s8", "base": "b16", "base8": "b8"}.items():
        found |= dict.fromkeys((f"dino-{short}", f"facebook/dino-vit{dino}"), f"dino_vit{dino}")
    for size, letter in _LETTERS.items():
        whole, registers = f"vit_{size}_patch14_dinov2.lvd142m", f"vit_{size}_patch14_reg4_dinov2.lvd142m"
        found |= dict.fromkeys((f"dinov2-{size}", f"facebook/dinov2-{size}", f"dinov2_vit{letter}14"), whole)
        others = (f"facebook/dinov2-with-registers-{size}", f"dinov2_vit{letter}14_reg")
        found |= dict.fromkeys((f"dinov2-{size}-reg", *others), registers)
    for size, kind in _DINOV3.items():
        name = f"vit_{size.replace('-', '_')}_patch16_dinov3"
        of_hub = (f"facebook/dinov3-vit{kind}-pretrain-lvd1689m", f"dinov3_vit{kind}")
        found |= dict.fromkeys((f"dinov3-{size}", *of_hub), f"{name}.lvd1689m")
        if size in {"large", "7b"}:
            of_satellites = (f"dinov3-{size}-sat", f"facebook/dinov3-vit{kind}-pretrain-sat493m")
            found |= dict.fromkeys(of_satellites, f"{name}.sat493m")
    for short, (of_openai, name) in _CLIP.items():
        found |= dict.fromkeys((f"clip-{short}", f"openai/clip-vit-{of_openai}"), name)
    for size, patch in {"base": 16, "large": 16, "huge": 14}.items():
        found |= dict.fromkeys((f"mae-{size}", f"facebook/vit-mae-{size}"), f"vit_{size}_patch{patch}_224.mae")
    return found


ALIASES: Mapping[str, str] = _aliases()
"""Short names, and names of hubs, for timm's names or those in `ARCHITECTURES`."""


def recorded_name(name: str) -> str:
    """The one name by which a run records a network, of the several that it has; others as they are.

    Args:
        name: an alias, a name of a hub, or timm's own, which may stand after the hub's ``timm/``.
    """
    for hub in _HUBS:
        name = name.removeprefix(hub)
    return ALIASES.get(name, name)
