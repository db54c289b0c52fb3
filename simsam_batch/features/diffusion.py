"""The UNet and the image encoder of Stable Diffusion from a local folder, and the cross-attention of some layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS = (
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
    "up_blocks.2.attentions.0",
)
"""Of Stable Diffusion 1.x, in the order in which they are computed: layers 7 to 10 of 16."""

TOKENS, TOKEN = 77, 1
_ATTENTION = "{}.transformer_blocks.0.attn2"
_PARTS = ("unet", "vae")
_OF_PROMPTS = ("text_encoder", "tokenizer")
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class ReachedTheLastLayer(Exception):  # noqa: N818  it is no error
    """All that was asked for has been computed."""


def alpha_bar(timestep: int) -> float:
    """The share of signal left at a time step of Stable Diffusion's schedule, squared.

    >>> round(alpha_bar(140), 5), round(alpha_bar(40), 5)
    (0.84176, 0.96189)
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return float(np.cumprod(1 - betas)[timestep])


class AttentionTap:
    """An attention processor that keeps the probabilities of one token, and ends the pass with the last of several.

    Args:
        shared: where all taps of a pass leave what they see, by the layer's name.
        name: of the layer.
        wanted: how many layers are looked at.
        heads: those that count: all, or the second half of them.
    """

    def __init__(self, shared: dict[str, torch.Tensor], name: str, wanted: int, heads: str) -> None:
        self._shared, self._name, self._wanted, self._heads = shared, name, wanted, heads

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the layer, as `diffusers.models.attention_processor.AttnProcessor` does, and keep what is wanted."""
        del temb
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        of_token = probabilities[:, :, TOKEN].reshape(-1, attn.heads, probabilities.shape[1])
        if self._heads == "half":
            of_token = of_token[:, attn.heads // 2 :]
        side = round(of_token.shape[2] ** 0.5)
        self._shared[self._name] = of_token.mean(dim=1).reshape(-1, side, side)
        if len(self._shared) == self._wanted:
            raise ReachedTheLastLayer
        found = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        dropped: torch.Tensor = attn.to_out[1](attn.to_out[0](found))
        return dropped


class DiffusionAttention:
    """A frozen Stable Diffusion whose cross-attention can be looked at.

    Args:
        unet: `diffusers.UNet2DConditionModel`.
        vae: `diffusers.AutoencoderKL`.
        layers: names of the transformers looked at.
        heads: ``all``, or ``half``: only the second half of them, as published.

    Raises:
        ValueError: the UNet has no such layer.
    """

    def __init__(self, unet: Any, vae: Any, layers: Sequence[str] = LAYERS, heads: str = "all") -> None:
        self._unet, self._vae = unet.eval().requires_grad_(False), vae.eval().requires_grad_(False)
        self._layers, self._heads = list(layers), heads
        self._modules = {}
        for name in self._layers:
            try:
                self._modules[name] = unet.get_submodule(_ATTENTION.format(name))
            except AttributeError as error:
                there = [
                    n.removesuffix(".transformer_blocks.0.attn2")
                    for n, _ in unet.named_modules()
                    if n.endswith("attn2")
                ]
                raise ValueError(f"the UNet has no layer {name}; it has {', '.join(there)}") from error
        self.width = int(unet.config.cross_attention_dim)
        self.tokens = TOKENS

    @property
    def least_side(self) -> int:
        """Pixels that a picture's side must be a multiple of."""
        downs = 2 ** (len(self._vae.config.block_out_channels) - 1)
        return int(downs * 2 ** (len(self._unet.config.block_out_channels) - 1))

    def signal(self, timestep: int) -> float:
        """The share of signal left at a time step, squared."""
        return alpha_bar(timestep)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Scaled means of the latents of pictures (B, 3, S, S) in 0..1."""
        where = next(self._vae.parameters())
        mean: torch.Tensor = self._vae.encode((2 * pictures - 1).to(where)).latent_dist.mean
        scaled: torch.Tensor = mean * self._vae.config.scaling_factor
        return scaled

    def attention(self, latents: torch.Tensor, timestep: int, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """For each layer (B, H, W) float32 or float64, computed no further than the last of them.

        Raises:
            RuntimeError: the maps are not those asked for.
            FloatingPointError: a map is not finite.
        """
        kept: dict[str, torch.Tensor] = {}
        dtype = next(self._unet.parameters()).dtype
        with self._tapped(kept), suppress(ReachedTheLastLayer):
            self._unet(latents.to(dtype), timestep, embeddings.to(dtype))
        if kept.keys() != set(self._layers):
            raise RuntimeError(f"of {len(self._layers)} layers {len(kept)} were seen: {', '.join(kept)}")
        found = [kept[name].to(torch.promote_types(dtype, torch.float32)) for name in self._layers]
        if not all(bool(one.isfinite().all()) for one in found):
            raise FloatingPointError("attention is not finite: half precision has no numbers that large")
        return found

    @contextmanager
    def _tapped(self, kept: dict[str, torch.Tensor]) -> Iterator[None]:
        """The layers with taps for one pass; what was there comes back, whatever happens."""
        before = {name: module.processor for name, module in self._modules.items()}
        try:
            for name, module in self._modules.items():
                module.set_processor(AttentionTap(kept, name, len(self._modules), self._heads))
            yield
        finally:
            for name, module in self._modules.items():
                module.set_processor(before[name])


def load_diffusion(folder: str, *, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """The UNet and the image encoder of a folder in the layout of diffusers.

    Nothing is fetched, nothing is unpickled, and no tensor may be missing or left over.

    Args:
        folder: with ``unet`` and ``vae``, each of a ``config.json`` and a safetensors file.
        dtype: of the UNet; the encoder is float32, or float64 with it.
        device: of both.

    Raises:
        ValueError: something is missing, or does not fit.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    require_folder(folder)
    unet = _loaded(UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
    vae = _loaded(AutoencoderKL, folder, "vae", torch_dtype=torch.promote_types(dtype, torch.float32))
    return unet.to(device), vae.to(device)


def load_prompt(folder: str, prompt: str) -> torch.Tensor:
    """(T, D) float32: what the UNet is told by a prompt, of the text encoder of a folder in the layout of diffusers.

    Args:
        folder: with ``text_encoder`` and ``tokenizer``.
        prompt: as text; what is longer than the encoder takes is cut off.

    Raises:
        ValueError: something is missing, or does not fit.
    """
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    missing = [name for name in _OF_PROMPTS if not (Path(folder) / name).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which a prompt is read by; the whole folder is needed")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/tokenizer cannot be loaded: {str(error)[:500]}") from error
    encoder = _loaded(CLIPTextModel, folder, "text_encoder").float().eval()
    longest = encoder.config.max_position_embeddings
    tokens = tokenizer(prompt, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = encoder(tokens.input_ids)[0][0]
    return found


def _loaded(kind: Any, folder: str, part: str, **more: Any) -> Any:
    """A network of a folder, with every tensor its own and none left over."""
    try:
        model, report = kind.from_pretrained(
            folder,
            subfolder=part,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            **more,
        )
    # files that are damaged, and tensors of other shapes
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}/{part} cannot be loaded: {str(error)[:500]}") from error
    wrong = {what: names for what, names in report.items() if what.endswith("_keys") and names}
    if wrong:
        said = "; ".join(
            f"{what.replace('_', ' ')}: {', '.join(map(str, list(names)[:3]))}" for what, names in wrong.items()
        )
        raise ValueError(f"{folder}/{part} does not fit its config.json: {said}")
    return model


def require_folder(folder: str) -> None:
    """Refuse a folder that is not in the layout of diffusers.

    Raises:
        ValueError: naming what is missing.
    """
    there = Path(folder)
    missing = [
        f"{part}/{name}" for part in _PARTS for name in ("config.json", _WEIGHTS) if not (there / part / name).is_file()
    ]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}. A folder in the layout of diffusers is needed, with safetensors: of "
            "Stable Diffusion 1.4, 1.5 or a like one (CompVis/stable-diffusion-v1-4, "
            "stable-diffusion-v1-5/stable-diffusion-v1-5); nothing is fetched"
        )


def digest_of(folder: str, *, prompts: bool = False) -> str:
    """SHA-256 over the configurations and the tensors of both networks, and of what prompts are read by if wanted."""
    there = Path(folder)
    digest = sha256()
    for part in _PARTS:
        config = json.loads((there / part / "config.json").read_text(encoding="utf-8"))
        digest.update(json.dumps(config, sort_keys=True).encode())
        _add(digest, there / part / _WEIGHTS)
    for part in _OF_PROMPTS if prompts else ():
        # weights in one file, and the words in .json and .txt; what else lies there counts for nothing
        for file in sorted((there / part).iterdir()):
            if file.suffix in (".json", ".txt") or file.name == "model.safetensors":
                digest.update(f"{part}/{file.name}".encode())
                _add(digest, file)
    return digest.hexdigest()


def _add(digest: Any, file: Path) -> None:
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
