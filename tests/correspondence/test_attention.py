"""Fitting an embedding to a point and finding it again: geometry by hand, a plain loop in fp64, planted matches."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("diffusers")

from tiny_diffusion import SIDE, blocks, networks, save

from simsam_batch.correspondence.attention import (
    CroppedLatents,
    Procedure,
    as_published,
    bounds,
    fit,
    gaussian,
    look_for,
    pick,
    window_around,
)
from simsam_batch.features.diffusion import LAYERS, TOKEN, DiffusionAttention, alpha_bar, digest_of, load_diffusion

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Procedure(side=SIDE, starts=2, steps=4, crops=6, learning_rate=0.05)


@pytest.mark.parametrize(
    ("place", "expected"),
    [(0, (0, 0)), (71, (0, 0)), (106, (0, 35)), (256, (0, 35)), (406, (0, 35)), (441, (35, 35)), (512, (35, 35))],
)
def test_a_crop_keeps_a_point_away_from_its_edges(place: float, expected: tuple[int, int]) -> None:
    assert Procedure().crop_side == 477
    assert bounds(place, 512, 477) == expected


def test_crops_hold_their_point_and_those_of_the_corners_cover_the_picture() -> None:
    how, draw = Procedure(), torch.Generator().manual_seed(0)
    starts = [window_around((250.0, 120.0), how, draw) for _ in range(400)]
    assert {x for x, _ in starts} == {*range(36)}
    # 120 is 71 from the first start that would bring it nearer to an edge than 15 %
    assert {y for _, y in starts} == {*range(36)}
    assert all(x <= 250 < x + 477 and y <= 120 < y + 477 for x, y in starts)
    corners = [window_around(corner, how, draw) for corner in ((0, 0), (0, 512), (512, 0), (512, 512))]
    assert corners == [(0, 0), (0, 35), (35, 0), (35, 35)]


def test_the_gaussian_peaks_at_its_point_and_its_mean_is_the_loss_of_nothing() -> None:
    how = Procedure()
    found = gaussian(torch.tensor([[256.5, 200.5]], dtype=torch.float64), 512, how.sigma * 512)[0]
    published = gaussian(torch.tensor([[256.0, 200.0]], dtype=torch.float64), 512, how.sigma * 512, 0.0)[0]
    assert torch.equal(found, published)
    assert found.argmax() == 200 * 512 + 256
    assert found[200, 256] == 1
    assert float(found[200, 256 + 28]) == pytest.approx(np.exp(-(28**2) / (2 * 27.97853316316864**2)))
    assert how.nothing == pytest.approx(0.009381, abs=1e-6)
    assert float((found**2).mean()) == pytest.approx(how.nothing, rel=1e-3)


def test_the_schedule_is_that_of_stable_diffusion() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    scheduler.set_timesteps(50)
    assert (int(scheduler.timesteps[-8]), int(scheduler.timesteps[-3])) == (140, 40)
    assert (Procedure().timestep, as_published(Procedure()).timestep_found) == (140, 40)
    for step in (0, 40, 140, 999):
        assert alpha_bar(step) == pytest.approx(float(scheduler.alphas_cumprod[step]), rel=1e-5)


def test_the_named_layers_are_those_of_the_published_web_page() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(attention_head_dim=8, cross_attention_dim=768, sample_size=64)
    seen = [name for name, _ in unet.named_modules() if name.endswith("attn2")]
    # mid_block is registered last and computed seventh
    order = [n for n in seen if n.startswith("down")] + [n for n in seen if n.startswith("mid")]
    order += [n for n in seen if n.startswith("up")]
    assert len(order) == 16
    assert [order.index(f"{name}.transformer_blocks.0.attn2") for name in LAYERS] == [7, 8, 9, 10]
    widths = [unet.get_submodule(order[i]).to_q.weight.shape[0] for i in (7, 8, 9, 10)]
    assert widths == [1280, 1280, 1280, 640]


class Kept:
    """An attention processor of the test's own, which keeps all probabilities and computes the layer."""

    def __init__(self, into: list[torch.Tensor]) -> None:
        self.into = into

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):  # type: ignore[no-untyped-def]
        batch, tokens, _ = hidden_states.shape
        heads = attn.heads
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (x.reshape(batch, x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
        p = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        self.into.append(p)
        return attn.to_out[1](attn.to_out[0]((p @ v).transpose(1, 2).reshape(batch, tokens, -1)))


def by_the_book(picture: torch.Tensor, point: tuple[float, float], how: Procedure, seed: int, heads: slice):  # type: ignore[no-untyped-def]
    """One start, one crop after the other, every layer of the UNet computed, nothing held: (S, S) maps and losses."""
    unet, vae = networks(dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    embedding = torch.randn(77, 16, generator=draw).double()[None].requires_grad_()
    adam = torch.optim.Adam([embedding], lr=how.learning_rate)
    side, crop = how.side, how.crop_side

    def maps_of(x: int, y: int, time: int, given: torch.Tensor) -> list[torch.Tensor]:
        part = functional.interpolate(picture[None, :, y : y + crop, x : x + crop], (side, side), mode="bilinear")
        with torch.no_grad():
            latent = vae.encode(2 * part - 1).latent_dist.mean * vae.config.scaling_factor
        make = torch.randn if how.noise == "gaussian" else torch.rand
        noise = make(latent.shape[1:], generator=draw).double()[None]
        seen: list[torch.Tensor] = []
        for name in LAYERS:
            unet.get_submodule(f"{name}.transformer_blocks.0.attn2").set_processor(Kept(seen))
        unet(alpha_bar(time) ** 0.5 * latent + (1 - alpha_bar(time)) ** 0.5 * noise, time, given)
        return [p[0, heads, :, TOKEN].reshape(-1, *(round(p.shape[2] ** 0.5),) * 2) for p in seen]

    def start_of(v: float) -> int:
        low, high = bounds(v, side, crop)
        return int(torch.randint(low, high + 1, (), generator=draw))

    losses = []
    for _ in range(how.steps):
        x, y = start_of(point[0]), start_of(point[1])
        errors = []
        for heads_of_layer in maps_of(x, y, how.timestep, embedding):
            # upsampled head by head, and then averaged
            large = functional.interpolate(heads_of_layer[None], (side, side), mode="bilinear")[0].mean(dim=0)
            px, py = (point[0] - x) / crop * side, (point[1] - y) / crop * side
            first = 0.0 if how.noise == "uniform" else 0.5
            i, j = (each + first for each in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
            wanted = torch.exp(-((j - px) ** 2 + (i - py) ** 2) / (2 * (how.sigma * side) ** 2))
            errors.append(((large - wanted) ** 2).mean())
        loss = torch.stack(errors).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    draw = torch.Generator().manual_seed(seed + 1000)
    total, count = torch.zeros(4, side, side, dtype=torch.float64), torch.zeros(side, side, dtype=torch.float64)
    for number in range(how.crops):
        if number < 4:
            anchor = ((0, 0), (0, side), (side, 0), (side, side))[number]
        else:
            best = int((total.mean(dim=0) / count.clamp_min(1)).argmax())
            anchor = (best % side + 0.5, best // side + 0.5)
        x, y = start_of(anchor[0]), start_of(anchor[1])
        with torch.no_grad():
            for layer, found in enumerate(maps_of(x, y, how.timestep_found, embedding)):
                large = functional.interpolate(found[None], (crop, crop), mode="bilinear")[0].mean(dim=0)
                total[layer, y : y + crop, x : x + crop] += large
        count[y : y + crop, x : x + crop] += 1
    return total / count, np.array(losses)


@pytest.mark.parametrize("published", [False, True])
def test_batched_starts_held_latents_and_an_early_end_change_nothing(published: bool) -> None:
    how = as_published(SMALL) if published else SMALL
    model = DiffusionAttention(*networks(dtype=torch.float64), heads="half" if published else "all")
    picture = blocks().double()
    latents = CroppedLatents(model, picture, how)
    fitted = fit(model, latents, (50.0, 70.0), how, [11, 12])
    maps = look_for(model, latents, fitted.embeddings.double(), how, [1011, 1012])
    for number, seed in enumerate((11, 12)):
        expected, losses = by_the_book(picture, (50.0, 70.0), how, seed, slice(2, 4) if published else slice(0, 4))
        assert fitted.losses[:, number] == pytest.approx(losses, rel=1e-6)
        # the embedding is kept in single precision
        assert maps[number].numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    # 8 + 4 crops asked for in all, of which some come again
    assert latents.computed < 2 * (how.steps + how.crops)


def test_only_the_embedding_has_a_gradient_and_weights_and_processors_stay() -> None:
    unet, vae = networks()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    processors = {name: type(each) for name, each in unet.attn_processors.items()}
    model = DiffusionAttention(unet, vae)
    embeddings = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = model.attention(torch.randn(2, 4, 16, 16), 140, embeddings)
    assert [tuple(one.shape) for one in maps] == [(2, 4, 4)] * 3 + [(2, 8, 8)]
    sum(one.pow(2).sum() for one in maps).backward()
    assert embeddings.grad is not None
    size = embeddings.grad.abs().mean(dim=(0, 2))
    assert size[TOKEN] > 10 * size[TOKEN + 1] > 0
    assert all(parameter.grad is None for parameter in (*unet.parameters(), *vae.parameters()))
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())
    assert {name: type(each) for name, each in unet.attn_processors.items()} == processors
    with pytest.raises(RuntimeError):
        model.attention(torch.randn(2, 4, 16, 16), 140, torch.randn(2, 77, 9))
    assert {name: type(each) for name, each in unet.attn_processors.items()} == processors


def test_attention_that_is_not_finite_is_refused() -> None:
    model = DiffusionAttention(*networks())
    with pytest.raises(FloatingPointError, match="not finite"):
        model.attention(torch.full((1, 4, 16, 16), torch.nan), 140, torch.randn(1, 77, 16))


def test_a_layer_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no layer up_blocks.9.attentions.0; it has down_blocks.0.attentions.0"):
        DiffusionAttention(*networks(), layers=["up_blocks.9.attentions.0"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_falls_and_a_point_is_found_in_its_own_picture(seed: int) -> None:
    how = Procedure(side=SIDE, starts=2, steps=100, crops=6, learning_rate=0.05)
    model = DiffusionAttention(*networks(seed))
    latents = CroppedLatents(model, blocks(seed), how)
    point = (44.0, 84.0)
    fitted = fit(model, latents, point, how, [5, 6])
    assert (fitted.losses[-5:].mean(axis=0) / fitted.losses[:5].mean(axis=0) < 0.95).all()
    found = pick(look_for(model, latents, fitted.embeddings, how, [7, 8]), how)
    assert np.hypot(found.point[0] - point[0], found.point[1] - point[1]) < 0.1 * SIDE
    again = fit(model, CroppedLatents(model, blocks(seed), how), point, how, [5, 6])
    assert torch.equal(again.embeddings, fitted.embeddings)
    assert again.losses.tolist() == fitted.losses.tolist()


def test_the_place_is_that_of_the_mean_or_of_the_softmax() -> None:
    maps = torch.zeros(2, 2, 16, 16)
    maps[:, 0, 3, 4] = 0.9
    maps[:, 1, 10, 12] = 0.8
    maps[1, 1, 2, 2] = 0.7
    how = Procedure(side=16, sigma=0.02)
    found = pick(maps, how)
    assert found.point == (4.5, 3.5)
    assert found.peak == pytest.approx(0.45)
    assert found.margin == pytest.approx(0.05)
    assert found.by_layer.tolist() == [[4.5, 3.5], [12.5, 10.5]]
    assert found.spread == 0
    # the softmax over 256 pixels is nearly affine
    assert pick(maps, as_published(how)).point == (4.5, 3.5)


def test_a_perfect_map_gives_its_own_point_without_a_bias() -> None:
    how = Procedure(side=64)
    points = torch.from_numpy(np.random.default_rng(0).uniform(8, 56, (40, 2)))
    maps = gaussian(points, 64, how.sigma * 64)
    found = np.array([pick(one[None, None], how).point for one in maps])
    away = found - points.numpy()
    assert np.abs(away).max() <= 0.5 + 1e-9
    assert np.abs(away.mean(axis=0)).max() < 0.12
    # as published a point is half a pixel off
    published = gaussian(points, 64, how.sigma * 64, 0.0)
    assert (np.array([pick(one[None, None], how).point for one in published]) - points.numpy()).mean() > 0.38


def test_a_start_that_came_to_nothing_is_seen_near_a_border_too() -> None:
    class Blind:
        width, tokens = 4, 77

        def signal(self, timestep: int) -> float:
            return alpha_bar(timestep)

        def encode(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 4, 2, 2)

        def attention(self, latents: torch.Tensor, timestep: int, embeddings: torch.Tensor) -> list[torch.Tensor]:
            return [0 * embeddings.sum(dim=(1, 2))[:, None, None].expand(-1, 2, 2)]

    for point in ((2.0, 2.0), (60.0, 70.0)):
        fitted = fit(Blind(), CroppedLatents(Blind(), blocks(), SMALL), point, SMALL, [1, 2])
        assert fitted.collapsed().tolist() == [True, True]


def test_a_folder_is_loaded_whole_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "sd")
    unet, vae = load_diffusion(str(tmp_path / "sd"), dtype=torch.float32, device="cpu")
    expected, _ = networks()
    assert all(torch.equal(expected.state_dict()[name], value) for name, value in unet.state_dict().items())
    assert vae.config.scaling_factor == 5.5
    first = digest_of(str(tmp_path / "sd"))
    save(tmp_path / "other", seed=1)
    assert digest_of(str(tmp_path / "other")) != first == digest_of(str(tmp_path / "sd"))
    from safetensors.torch import load_file, save_file

    file = tmp_path / "other/unet/diffusion_pytorch_model.safetensors"
    held = load_file(file)
    held.pop("conv_in.weight")
    save_file(held, file)
    with pytest.raises(ValueError, match=r"does not fit its config\.json: missing keys"):
        load_diffusion(str(tmp_path / "other"), dtype=torch.float32, device="cpu")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="unet cannot be loaded"):
        load_diffusion(str(tmp_path / "other"), dtype=torch.float32, device="cpu")
    (tmp_path / "other/vae/config.json").unlink()
    with pytest.raises(ValueError, match=r"lacks vae/config\.json"):
        load_diffusion(str(tmp_path / "other"), dtype=torch.float32, device="cpu")
