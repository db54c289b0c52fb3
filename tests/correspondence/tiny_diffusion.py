"""A Stable Diffusion of real classes, tiny and by chance: the same 16 layers, weights that a test can compute with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 128


def networks(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The UNet and the image encoder.

    Latents by chance are too small to be seen through the noise, and attention by chance is flat: the scaling factor
    and the weights of the queries and keys are set so that there is something to learn.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=5.5,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.to_q.weight *= 2
                module.to_k.weight *= 2
    return unet.to(dtype), vae.to(dtype)


def save(folder: Path, seed: int = 0) -> None:
    """Write them in the layout of diffusers."""
    unet, vae = networks(seed)
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    vae.save_pretrained(folder / "vae", safe_serialization=True)


def blocks(seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """(3, side, side) in 0..1: 8 x 8 random colours."""
    colors = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return colors.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)


def save_prompts(folder: Path, width: int = 16) -> None:
    """A text encoder by chance, and a tokenizer of single letters, beside them."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPTextConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes)
    CLIPTextModel(config).save_pretrained(folder / "text_encoder", safe_serialization=True)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    about |= {"bos_token": words[0], "eos_token": words[1], "pad_token": words[1], "unk_token": words[1]}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(about))
