"""Correspondence: what matching a pair costs beside its forward passes, and diffusion beside a plain loop."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import material
from benchmarks.measure import Row, Setup, alternate, cores, ratios, threads
from simsam_batch.correspondence.attention import (
    TOKEN,
    CroppedLatents,
    Procedure,
    as_published,
    fit,
    look_for,
    window_around,
)
from simsam_batch.correspondence.descriptors import with_context
from simsam_batch.correspondence.matching import match
from simsam_batch.features.backbones import load_taps
from simsam_batch.features.diffusion import LAYERS, DiffusionAttention, alpha_bar

GROUP = "correspondence"
POINTS = 10


def rows(setup: Setup) -> Iterator[Row]:
    """A pair by features, then a point by diffusion."""
    yield from matching(setup)
    yield from diffusion(setup)


def matching(setup: Setup) -> Iterator[Row]:
    """Descriptors with context and matches of a pair, against the forward passes of its two images."""
    size = setup.pick(cpu="384x512", cuda="384x512", smoke="64x96")
    with tempfile.TemporaryDirectory() as folder:
        weights = material.write_random_weights(Path(folder))
        network = load_taps(material.VIT_SMALL, weights=weights, blocks=[4], facets=["token"], device=setup.device.type)
    photographs = material.photographs()
    pictures = [material.pixels(file, size) for file in photographs.files[:2]]
    grid = pictures[0][1]
    batches = [material.normalized(pixels[None].to(setup.device), network) for pixels, _ in pictures]
    features = [next(iter(network(batch).descriptors.values()))[0].reshape(*grid, -1).float() for batch in batches]
    points = np.random.default_rng(0).uniform(0, min(grid) - 1, (POINTS, 2))

    def matched(*, held: list[Tensor] | None = None) -> None:
        source, target = held or [with_context(each) for each in features]
        match(source, target, points, radius=2, temperature=0.02)

    described = [with_context(each) for each in features]
    cases = {
        "forward": lambda: [network(batch) for batch in batches],
        "whole": matched,
        "held": lambda: matched(held=described),
    }
    with threads(cores()), torch.inference_mode():
        seconds = alternate(cases, setup, rounds=setup.pick(cpu=9, cuda=25, smoke=2))
    for name, ours in (("whole", "descriptors of both images and the matches"), ("held", "the matches alone")):
        yield Row(
            GROUP,
            f"a pair of {size} with {POINTS} points",
            ours,
            f"forward passes of both images, {material.VIT_SMALL}",
            ratios(seconds[name], seconds["forward"]),
            float(np.median(seconds[name])),
            float(np.median(seconds["forward"])),
            threads=f"{cores()} each",
            target=0.1,
            at_most=True,
            note=f"the first two of {photographs.source}; seconds for the pair. Descriptors of an image are made once "
            "for all its pairs while there is room",
        )


def diffusion(setup: Setup) -> Iterator[Row]:
    """One point fitted and found in another picture: starts batched, latents held, ended early; against a loop."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    side, steps, starts, crops = setup.pick(cpu=(128, 40, 5, 20), cuda=(128, 129, 5, 20), smoke=(128, 2, 2, 5))
    how = as_published(Procedure(side=side, starts=starts, steps=steps, crops=crops))
    unet, vae = tiny_networks(setup.device)
    model = DiffusionAttention(unet, vae, heads="half")
    draw = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, side, side, generator=draw).to(setup.device) for _ in range(2)]
    seeds = list(range(starts))

    def ours() -> None:
        fitted = fit(model, CroppedLatents(model, pictures[0], how), (50.0, 70.0), how, seeds)
        look_for(model, CroppedLatents(model, pictures[1], how), fitted.embeddings, how, seeds)

    cases = {"ours": ours, "loop": lambda: [published(unet, vae, pictures, how, seed) for seed in seeds]}
    # the small network's layers are too small for several threads
    with threads(1):
        seconds = alternate(cases, setup, rounds=setup.pick(cpu=3, cuda=5, smoke=1))
    yield Row(
        GROUP,
        f"a point, {starts} starts x {steps} steps, {crops} crops, {side} pixels",
        "starts batched, latents of crops held, ended with the last layer",
        "a plain loop of the published procedure",
        ratios(seconds["loop"], seconds["ours"]),
        float(np.median(seconds["ours"])),
        float(np.median(seconds["loop"])),
        threads="1 each",
        target=3.0,
        note="a small UNet and encoder of Stable Diffusion's classes, weights by chance; seconds for the point. The "
        "tests hold both to the same numbers in double precision",
    )


def tiny_networks(device: torch.device) -> tuple[Any, Any]:
    """A UNet with the 16 cross-attention layers of Stable Diffusion 1.x, and its encoder, of a few channels."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    return unet.to(device).eval().requires_grad_(False), vae.to(device).eval().requires_grad_(False)


class _AllKept:
    """What the published hook does: probabilities of every layer are kept, whether they are wanted or not."""

    def __init__(self, into: dict[str, Tensor], name: str) -> None:
        self._into, self._name = into, name

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        del temb
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        self._into[self._name] = probabilities
        found: Tensor = attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probabilities, value)))
        return found


def published(unet: Any, vae: Any, pictures: list[Tensor], how: Procedure, seed: int) -> Tensor:
    """One start as published: a crop encoded for every step, the whole UNet, every head enlarged on its own."""
    draw = torch.Generator().manual_seed(seed)
    device = pictures[0].device
    embedding = torch.randn(1, 77, unet.config.cross_attention_dim, generator=draw).to(device).requires_grad_()
    adam = torch.optim.Adam([embedding], lr=how.learning_rate)
    point, side, crop = (50.0, 70.0), how.side, how.crop_side
    kept: dict[str, Tensor] = {}
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: _AllKept(kept, name) for name in before})

    def maps(picture: Tensor, window: tuple[int, int], timestep: int, size: int) -> Tensor:
        x, y = window
        part = picture[None, :, y : y + crop, x : x + crop]
        part = functional.interpolate(part, (side, side), mode="bilinear")
        with torch.no_grad():
            latents = vae.encode(2 * part - 1).latent_dist.mean * vae.config.scaling_factor
        noise = torch.rand(latents.shape, generator=draw).to(device)
        signal = alpha_bar(timestep)
        unet(signal**0.5 * latents + (1 - signal) ** 0.5 * noise, timestep, embedding)
        found = []
        for name in LAYERS:
            one = kept[f"{name}.transformer_blocks.0.attn2.processor"]
            of_token = one[one.shape[0] // 2 :, :, TOKEN]
            square = of_token.reshape(len(of_token), 1, *(round(of_token.shape[1] ** 0.5),) * 2)
            found.append(functional.interpolate(square, (size, size), mode="bilinear")[:, 0].mean(dim=0))
        return torch.stack(found)

    rows_, columns = torch.meshgrid(*(torch.arange(side, device=device),) * 2, indexing="ij")
    for _ in range(how.steps):
        window = window_around(point, how, draw)
        x, y = ((place - start) / crop * side for place, start in zip(point, window, strict=True))
        wanted = torch.exp(-((columns - x) ** 2 + (rows_ - y) ** 2) / (2 * (how.sigma * side) ** 2))
        loss = ((maps(pictures[0], window, how.timestep, side) - wanted) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    total = torch.zeros(len(LAYERS), side, side, device=device)
    count = torch.zeros(side, side, device=device)
    corners = [(0.0, 0.0), (0.0, float(side)), (float(side), 0.0), (float(side), float(side))]
    for number in range(how.crops):
        best = int((total.mean(dim=0) / count.clamp_min(1)).argmax())
        anchor = corners[number] if number < len(corners) else (best % side + 0.5, best // side + 0.5)
        window = window_around(anchor, how, draw)
        with torch.no_grad():
            found = maps(pictures[1], window, how.timestep_found, crop)
        x, y = window
        total[:, y : y + crop, x : x + crop] += found
        count[y : y + crop, x : x + crop] += 1
    unet.set_attn_processor(before)
    return total / count
