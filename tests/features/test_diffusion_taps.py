"""Features of the UNet of Stable Diffusion beside a plain forward pass, by a tiny network of real classes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

sys.path.append(str(Path(__file__).parent.parent / "correspondence"))

from tiny_diffusion import networks, save, save_prompts

from simsam_batch.errors import SettingsError
from simsam_batch.features.diffusion import digest_of, load_prompt
from simsam_batch.features.diffusion_taps import TappedDiffusion

pytestmark = pytest.mark.usefixtures("one_thread")

EMBEDDING = torch.randn(77, 16, generator=torch.Generator().manual_seed(5))


def tapped(blocks: tuple[int, ...] = (1,), draws: int = 2, dtype: torch.dtype = torch.float64) -> TappedDiffusion:
    unet, vae = networks(dtype=dtype)
    how = {"facets": ["token"], "timestep": 261, "draws": draws}
    return TappedDiffusion(unet, vae, EMBEDDING, blocks=blocks, **how)


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def up_blocks_of(picture: torch.Tensor, seed: int, draws: int) -> list[torch.Tensor]:
    """What each up block gives for one picture, by the parts of the UNet one after the other; means over draws."""
    unet, vae = networks(dtype=torch.float64)
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    draw = torch.Generator().manual_seed(seed)
    totals: list[Any] = [0.0] * len(unet.up_blocks)
    with torch.no_grad():
        latents = vae.encode(picture[None].double()).latent_dist.mean * vae.config.scaling_factor
        for _ in range(draws):
            noise = torch.randn(latents.shape[1:], generator=draw)[None].double()
            now = scheduler.add_noise(latents, noise, torch.tensor([261]))
            time = unet.time_embedding(unet.time_proj(torch.tensor([261])).double())
            words = EMBEDDING[None].double()
            now = unet.conv_in(now)
            sides = [now]
            for block in unet.down_blocks:
                more = {"encoder_hidden_states": words} if getattr(block, "has_cross_attention", False) else {}
                now, beside = block(now, time, **more)
                sides += beside
            now = unet.mid_block(now, time, encoder_hidden_states=words)
            for number, block in enumerate(unet.up_blocks):
                more = {"encoder_hidden_states": words} if getattr(block, "has_cross_attention", False) else {}
                own, sides = sides[-len(block.resnets) :], sides[: -len(block.resnets)]
                size = sides[-1].shape[2:] if sides else None
                now = block(now, res_hidden_states_tuple=tuple(own), temb=time, upsample_size=size, **more)
                totals[number] = totals[number] + now
    return [total[0] / draws for total in totals]


@pytest.mark.parametrize(("block", "patch", "channels"), [(0, 32, 16), (1, 16, 16), (2, 8, 16), (3, 8, 8)])
def test_a_block_gives_what_a_plain_pass_gives(block: int, patch: int, channels: int) -> None:
    network = tapped((block,))
    assert network.patch == patch
    assert network.channels_of == {f"token-{block}": channels}
    # a side of three large patches halves to odd numbers of cells
    images = pictures(2, 96, 160)
    found = network(images, [7, 8]).descriptors[block, "token"]
    assert found.shape == (2, 96 // patch * (160 // patch), channels)
    for image, seed, own in zip(images, (7, 8), found, strict=True):
        expected = up_blocks_of(image, seed, 2)[block].flatten(1).T
        torch.testing.assert_close(own.double(), expected, atol=2e-6, rtol=2e-6)


def test_a_coarse_block_lies_on_the_grid_of_the_finest() -> None:
    both = tapped((0, 1))
    assert both.patch == 16
    images = pictures(1, 96, 160)
    found = both(images, [7])
    alone = tapped((1,))(images, [7])
    torch.testing.assert_close(found.descriptors[1, "token"], alone.descriptors[1, "token"])
    coarse = up_blocks_of(images[0], 7, 2)[0][None]
    assert coarse.shape[2:] == (3, 5)
    enlarged = functional.interpolate(coarse, (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        found.descriptors[0, "token"][0].double(), enlarged[0].flatten(1).T, atol=2e-6, rtol=2e-6
    )
    # an odd number of patches: the last coarse cell reaches beyond the picture
    assert both(pictures(1, 80, 80), [7]).descriptors[0, "token"].shape == (1, 25, 16)


def test_a_picture_alone_is_what_it_is_in_a_batch_and_noise_is_its_own() -> None:
    network = tapped(dtype=torch.float32)
    images = pictures(3, 64, 64)
    together = network(images, [1, 2, 3]).descriptors[1, "token"]
    alone = network(images[1:2], [2]).descriptors[1, "token"]
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)
    other = network(images[1:2], [4]).descriptors[1, "token"]
    assert (alone - other).abs().max() > 1e-3
    with pytest.raises(ValueError, match="0 seeds for the noise of 3 images"):
        network(images)


def test_nothing_after_the_last_block_is_computed_and_a_network_can_be_asked_again() -> None:
    unet, vae = networks()
    seen: list[int] = []
    for number, block in enumerate(unet.up_blocks):
        block.register_forward_pre_hook(lambda module, given, number=number: seen.append(number))
    network = TappedDiffusion(unet, vae, EMBEDDING, blocks=[-3, 0], facets=["key"], timestep=261, draws=1)
    first = network(pictures(1, 64, 64), [1])
    assert seen == [0, 1]
    assert [*network.channels_of] == ["token-1", "token-0"]
    torch.testing.assert_close(network(pictures(1, 64, 64), [1]).norms[1], first.norms[1])


def test_of_a_pass_that_ran_out_of_memory_nothing_stays() -> None:
    unet, vae = networks()
    network = TappedDiffusion(unet, vae, EMBEDDING, blocks=[0, 1], facets=["token"], timestep=261, draws=1)

    def full(module: Any, given: Any) -> None:
        del module, given
        raise torch.OutOfMemoryError

    scarce = unet.up_blocks[1].register_forward_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        network(pictures(1, 64, 64), [1])
    assert network._held == {}
    scarce.remove()
    assert len(network(pictures(1, 64, 64), [1]).descriptors) == 2


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(SettingsError, match=r"up blocks 0 to 3 \(or -1 to -4 from the end\), not 4"):
        tapped((1, 4))
    unet, vae = networks()
    with pytest.raises(SettingsError, match="give --facets token"):
        TappedDiffusion(unet, vae, EMBEDDING, blocks=[1], facets=["query"], timestep=1, draws=1)


def test_a_prompt_is_read_by_the_folder_s_own_encoder(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ValueError, match="lacks text_encoder, tokenizer, which a prompt is read by"):
        load_prompt(str(tmp_path), "")
    save_prompts(tmp_path)
    nothing, cat = load_prompt(str(tmp_path), ""), load_prompt(str(tmp_path), "a cat")
    assert nothing.shape == cat.shape == (77, 16)
    # what comes before the first word cannot see it
    torch.testing.assert_close(nothing[0], cat[0])
    assert (nothing[1] - cat[1]).abs().max() > 1e-3
    # what lies beside the networks counts for nothing, and what they are told by does
    before = digest_of(str(tmp_path), prompts=True)
    (tmp_path / "tokenizer" / "README.md").write_text("words")
    (tmp_path / "text_encoder" / "notes").mkdir()
    assert digest_of(str(tmp_path), prompts=True) == before
    # a file in half precision is computed with in full
    encoder = tmp_path / "text_encoder" / "model.safetensors"
    save_file({name: each.half() for name, each in load_file(encoder).items()}, encoder, metadata={"format": "pt"})
    assert digest_of(str(tmp_path), prompts=True) != before
    assert load_prompt(str(tmp_path), "").dtype == torch.float32
    # what is longer than the encoder takes is cut off
    assert load_prompt(str(tmp_path), "cat " * 100).shape == (77, 16)
    (tmp_path / "tokenizer" / "vocab.json").unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        load_prompt(str(tmp_path), "")
