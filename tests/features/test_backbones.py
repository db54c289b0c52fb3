"""Backbones against timm's own forward pass, observed by hooks on untouched models."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.outliers import spike_mask
from simsam_batch.features.vit import dino_positions

torch.set_num_threads(1)


def a_model(name: str, **options: Any) -> Any:
    """timm's model with every parameter random: zero biases and unit scales would hide mistakes."""
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 and parameter.mean() > 0.5 else 0.1 * noise)
    return model


def saved(model: Any, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def some_images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def output_of(model: Any, module: torch.nn.Module, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        model.forward_features(images)
    hook.remove()
    return seen[0]


def bicubic_table(table: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Cubic convolution (Keys 1981, a = -0.75) of (h, w, C), sampled at (i + 0.5) * h / (rows + 0.1) - 0.5."""

    def weight(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    def matrix(size: int, wanted: int) -> NDArray[np.float64]:
        result = np.zeros((wanted, size))
        for i in range(wanted):
            x = (i + 0.5) * size / (wanted + 0.1) - 0.5
            for tap in range(math.floor(x) - 1, math.floor(x) + 3):
                result[i, min(max(tap, 0), size - 1)] += weight(x - tap)
        return result

    down = np.einsum("ih,hwc->iwc", matrix(table.shape[0], rows), table)
    return np.einsum("jw,iwc->ijc", matrix(table.shape[1], columns), down)


@pytest.mark.parametrize("block", [0, 3, 5, -1])
@pytest.mark.parametrize(("facet", "third"), [("query", 0), ("key", 1), ("value", 2)])
def test_projections_are_those_a_hook_sees_in_the_whole_model(
    tmp_path: Path, facet: str, third: int, block: int
) -> None:
    model = a_model("test_vit", dynamic_img_size=True)
    images = some_images(160, 160)
    expected = output_of(model, model.blocks[block].attn.qkv, images)[:, 1:].chunk(3, dim=-1)[third]
    backbone = load_backbone("test_vit", weights=saved(model, tmp_path), block=block, facet=facet)
    assert backbone.block == block % 6
    assert (backbone.patch, backbone.channels, backbone.blocks, backbone.prefix_tokens) == (16, 64, 6, 1)
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [0, 4, 5])
def test_tokens_are_the_output_of_the_block_before_the_final_norm(tmp_path: Path, block: int) -> None:
    model = a_model("test_vit", dynamic_img_size=True)
    images = some_images(96, 128)
    expected = output_of(model, model.blocks[block], images)[:, 1:]
    features = load_backbone("test_vit", weights=saved(model, tmp_path), block=block, facet="token")(images)
    torch.testing.assert_close(features.descriptors, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.norms, expected.square().sum(-1).sqrt(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("test_vit", 1), ("test_vit3", 1), ("vit_tiny_patch16_dinov3_qkvb", 5)],
    ids=["class token", "register instead of class token", "class token and four registers"],
)
def test_norm_tokens_are_what_timm_ends_with_and_their_norms_are_of_the_stream_before(
    tmp_path: Path, name: str, prefix: int
) -> None:
    model = a_model(name, dynamic_img_size=True)
    images = some_images(64, 96)
    with torch.no_grad():
        expected = model.forward_features(images)[:, prefix:]
    stream = output_of(model, model.blocks[-1], images)[:, prefix:]
    backbone = load_backbone(name, weights=saved(model, tmp_path), facet="norm-token")
    assert (backbone.facet, backbone.block) == ("norm-token", backbone.blocks - 1)
    assert backbone.prefix_tokens == prefix
    features = backbone(images)
    torch.testing.assert_close(features.descriptors, expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(features.norms, stream.square().sum(-1).sqrt(), atol=1e-4, rtol=1e-5)


def test_the_final_norm_takes_the_tokens_of_any_block(tmp_path: Path) -> None:
    model = a_model("test_vit", dynamic_img_size=True)
    images = some_images(32, 48)
    with torch.no_grad():
        expected = model.norm(output_of(model, model.blocks[2], images))[:, 1:]
    backbone = load_backbone("test_vit", weights=saved(model, tmp_path), facet="norm-token", block=2)
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=2e-5, rtol=2e-5)


def test_norm_tokens_of_a_network_that_averages_are_those_its_average_is_of(tmp_path: Path) -> None:
    model = a_model("test_vit2", dynamic_img_size=True)
    assert isinstance(model.norm, torch.nn.Identity)
    images = some_images(64, 96)
    with torch.no_grad():
        expected = model.fc_norm(model.forward_features(images)[:, model.num_prefix_tokens :])
    backbone = load_backbone("test_vit2", weights=saved(model, tmp_path), facet="norm-token")
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=2e-5, rtol=2e-5)


def test_a_backbone_of_norm_tokens_is_told_apart_by_the_norm_it_has(tmp_path: Path) -> None:
    model = a_model("test_vit")
    path = saved(model, tmp_path)
    before = load_backbone("test_vit", weights=path, facet="norm-token").digest()
    tokens = load_backbone("test_vit", weights=path, facet="token").digest()
    with torch.no_grad():
        model.norm.bias += 1
    path = saved(model, tmp_path)
    assert load_backbone("test_vit", weights=path, facet="norm-token").digest() != before
    assert load_backbone("test_vit", weights=path, facet="token").digest() == tokens


def test_norms_of_a_projection_are_those_of_the_stream_entering_its_block(tmp_path: Path) -> None:
    model = a_model("test_vit", dynamic_img_size=True)
    images = some_images(64, 96)
    entering = output_of(model, model.blocks[2], images)[:, 1:]
    features = load_backbone("test_vit", weights=saved(model, tmp_path), block=3, facet="key")(images)
    torch.testing.assert_close(features.norms, entering.square().sum(-1).sqrt(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "block", "prefix"),
    [
        ("test_vit2", 2, 1),
        ("test_vit3", 3, 1),
        ("vit_small_patch14_reg4_dinov2", 2, 5),
        ("vit_xsmall_patch16_clip_224", 1, 1),
    ],
    ids=["register instead of class token", "layer scale", "class token and four registers", "norm before the blocks"],
)
def test_every_grid_gives_what_timm_gives_whatever_the_prefix_tokens(
    tmp_path: Path, name: str, block: int, prefix: int
) -> None:
    model = a_model(name, dynamic_img_size=True)
    backbone = load_backbone(name, weights=saved(model, tmp_path), block=block, facet="key")
    patch = backbone.patch
    assert backbone.prefix_tokens == prefix
    for rows, columns in [(3, 5), (5, 3), (2, 2), (3, 5)]:
        images = some_images(rows * patch, columns * patch, batch=1)
        expected = output_of(model, model.blocks[block].attn.qkv, images)[:, prefix:].chunk(3, dim=-1)[1]
        descriptors = backbone(images).descriptors
        assert descriptors.shape == (1, rows * columns, backbone.channels)
        torch.testing.assert_close(descriptors, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("facet", "third"), [("query", 0), ("key", 1), ("value", 2)])
def test_dinov3_with_rotary_positions_and_biases_kept_apart(tmp_path: Path, facet: str, third: int) -> None:
    name = "vit_tiny_patch16_dinov3_qkvb"
    model = a_model(name)
    images = some_images(64, 96, batch=1)
    attention = model.blocks[3].attn
    assert attention.q_bias.abs().sum() > 0
    normed = output_of(model, model.blocks[3].norm1, images)[:, 5:]
    # q = W_q x + b_q, k = W_k x (DINOv3 masks the key's bias), v = W_v x + b_v.
    bias = (attention.q_bias, torch.zeros(192), attention.v_bias)[third]
    expected = normed @ attention.qkv.weight[third * 192 : (third + 1) * 192].T + bias
    backbone = load_backbone(name, weights=saved(model, tmp_path), block=3, facet=facet)
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_separate_query_key_and_value_layers(tmp_path: Path) -> None:
    name = "eva02_base_patch14_224"
    model = a_model(name, dynamic_img_size=True)
    path = saved(model, tmp_path)
    images = some_images(28, 42, batch=1)
    attention = model.blocks[1].attn
    for facet, layer in [("key", attention.k_proj), ("value", attention.v_proj)]:
        expected = output_of(model, layer, images)[:, 1:]
        features = load_backbone(name, weights=path, block=1, facet=facet)(images)
        torch.testing.assert_close(features.descriptors, expected, atol=2e-5, rtol=2e-5)


def test_an_image_alone_gives_what_it_gives_in_a_batch(tmp_path: Path) -> None:
    backbone = load_backbone("test_vit", weights=saved(a_model("test_vit"), tmp_path), block=4)
    images = some_images(96, 80, batch=3)
    together = backbone(images)
    for i in range(3):
        alone = backbone(images[i : i + 1])
        torch.testing.assert_close(alone.descriptors[0], together.descriptors[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.norms[0], together.norms[i], atol=1e-5, rtol=1e-5)


def test_bf16_is_close_to_fp32_and_returns_fp32(tmp_path: Path) -> None:
    path = saved(a_model("test_vit"), tmp_path)
    images = some_images(64, 64)
    exact, rough = (load_backbone("test_vit", weights=path, precision=p)(images) for p in ("fp32", "bf16"))
    assert rough.descriptors.dtype == rough.norms.dtype == torch.float32
    assert not torch.equal(exact.descriptors, rough.descriptors)
    assert torch.nn.functional.cosine_similarity(exact.descriptors, rough.descriptors, dim=-1).min() > 0.99


@pytest.mark.parametrize(("rows", "columns"), [(6, 10), (14, 9), (23, 23), (10, 40)])
def test_dino_positions_equal_cubic_convolution_written_out(rows: int, columns: int) -> None:
    table = torch.randn(1, 1 + 14 * 14, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = bicubic_table(table[0, 1:].numpy().reshape(14, 14, 8), rows, columns).reshape(-1, 8)
    result = dino_positions(table, (14, 14), 1, (rows, columns))
    assert torch.equal(result[:, :1], table[:, :1])
    np.testing.assert_allclose(result[0, 1:].numpy(), expected, atol=1e-10)


def test_dino_positions_of_the_native_grid_are_the_table_itself() -> None:
    table = torch.randn(1, 17, 4)
    assert dino_positions(table, (4, 4), 1, (4, 4)) is table
    # As many entries in another shape is another grid.
    assert not torch.equal(dino_positions(table, (4, 4), 1, (2, 8)), table)


def test_a_dino_file_brings_dinos_positions_and_imagenets_normalisation(tmp_path: Path) -> None:
    model = a_model("test_vit")
    torch.save({"teacher": {f"backbone.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "d.pth")
    backbone = load_backbone("test_vit", weights=tmp_path / "d.pth", block=2)
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.std == (0.229, 0.224, 0.225)
    fixed = a_model("test_vit", img_size=(96, 112))
    weights = model.state_dict()
    grid = bicubic_table(weights["pos_embed"][0, 1:].double().numpy().reshape(10, 10, 64), 6, 7).reshape(1, 42, 64)
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], torch.tensor(grid).float()], dim=1)
    fixed.load_state_dict(weights)
    images = some_images(96, 112)
    expected = output_of(fixed, fixed.blocks[2].attn.qkv, images)[:, 1:].chunk(3, dim=-1)[1]
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-5, rtol=1e-5)


def test_an_alias_is_timms_dino_model(tmp_path: Path) -> None:
    path = saved(a_model("vit_small_patch16_224"), tmp_path)
    described = load_backbone("dino_vits16", weights=path, block=0).describe()
    assert described["name"] == "vit_small_patch16_224.dino"
    assert described["position_resampling"] == "dino"
    assert described["mean"] == [0.485, 0.456, 0.406]


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(SettingsError, match=r"no model 'dino_vits61'.*dino_vits16"):
        load_backbone("dino_vits61", weights=None)
    with pytest.raises(SettingsError, match=r"no model 'vit_small_patch16_224\.dimo'.*vit_small_patch16_224\.dino"):
        load_backbone("vit_small_patch16_224.dimo", weights=None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "resnet18 is no plain vision transformer"),
        ("swin_tiny_patch4_window7_224", {}, "swin_tiny_patch4_window7_224 is no plain vision transformer"),
        ("test_vit", {"facet": "keys"}, "facet: 'keys' is not known; allowed: key, query, value, token, norm-token"),
        ("vit_pe_spatial_tiny_patch16_512", {"facet": "norm-token"}, "no final norm.* use 'token'"),
        ("test_vit", {"block": 6}, "has blocks 0 to 5 .* not 6"),
        ("test_vit", {"block": -7}, "has blocks 0 to 5 .* not -7"),
        ("test_vit", {"precision": "fp16"}, "precision: 'fp16'"),
        ("vit_dpwee_patch16_reg1_gap_256", {}, "have no key projection .* use 'token'"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    path = saved(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(SettingsError, match=message):
        load_backbone(name, weights=path, **options)


def test_weights_that_cannot_be_fetched_never_become_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SettingsError, match=r"weights of test_vit could not be fetched.*--weights FILE"):
        load_backbone("test_vit", weights=None)


def test_pixels_that_fill_no_patch_are_refused(tmp_path: Path) -> None:
    backbone = load_backbone("test_vit", weights=saved(a_model("test_vit"), tmp_path), block=0)
    with pytest.raises(ValueError, match="100x96 pixels do not divide into patches of 16"):
        backbone(torch.zeros(1, 3, 100, 96))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fp32_on_the_gpu_uses_no_tf32(tmp_path: Path) -> None:
    path = saved(a_model("test_vit"), tmp_path)
    images = some_images(96, 128)
    on_cpu, on_gpu = (load_backbone("test_vit", weights=path, device=d)(images) for d in ("cpu", "cuda"))
    assert on_gpu.descriptors.is_cuda
    # TF32 keeps 10 bits of the mantissa: its error would be near 1e-3.
    torch.testing.assert_close(on_gpu.descriptors.cpu(), on_cpu.descriptors, atol=5e-5, rtol=5e-5)


def test_real_keys_and_outlier_tokens_of_a_photograph(test_weights: Path, test_data: Path) -> None:
    path = test_weights / "vit_tiny_patch16_224.supervised.safetensors"
    backbone = load_backbone("vit_tiny_patch16_224", weights=path, block=8)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(path))
    photograph = min((test_data / "weizmann_horses" / "images").iterdir())
    pixels = np.asarray(Image.open(photograph).convert("RGB").resize((512, 384)), dtype=np.float32)
    images = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    expected = output_of(model, model.blocks[8].attn.qkv, images)[:, 1:].chunk(3, dim=-1)[1]
    features = backbone(images)
    torch.testing.assert_close(features.descriptors, expected, atol=1e-4, rtol=1e-4)
    outliers = spike_mask(features.norms)[0]
    assert 5 <= outliers.sum() <= 24
    # The gap is wide: the others are near the median, and the count hardly depends on the ratio.
    ratios = features.norms[0] / features.norms[0].median()
    assert ratios[~outliers].max() < 3
    assert ratios.max() > 20


def test_real_norm_tokens_of_a_photograph(test_weights: Path, test_data: Path) -> None:
    path = test_weights / "vit_tiny_patch16_224.supervised.safetensors"
    backbone = load_backbone("vit_tiny_patch16_224", weights=path, facet="norm-token")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(path))
    photograph = min((test_data / "weizmann_horses" / "images").iterdir())
    pixels = np.asarray(Image.open(photograph).convert("RGB").resize((512, 384)), dtype=np.float32)
    images = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = model.forward_features(images)[:, 1:]
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["class-token", "mean-token"])
def test_pooled_vectors_are_those_of_the_whole_network(
    tmp_path: Path, pooling: Literal["class-token", "mean-token"]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    # timm begins with norms that change nothing.
    torch.nn.init.normal_(model.norm.weight)
    torch.nn.init.normal_(model.norm.bias)
    file = tmp_path / "whole.safetensors"
    save_file(model.state_dict(), file)
    backbone = load_backbone("vit_tiny_patch16_224", weights=file, facet="token", whole=True)
    images = torch.randn(3, 3, 48, 64)
    with torch.no_grad():
        tokens = model.forward_features(images)
    expected = tokens[:, 0] if pooling == "class-token" else tokens[:, 1:].mean(dim=1)
    assert torch.allclose(backbone.pooled(images, pooling), expected, atol=1e-4)


def test_a_backbone_that_was_cut_off_has_no_pooled_vectors(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    file = tmp_path / "whole.safetensors"
    save_file(model.state_dict(), file)
    with pytest.raises(ValueError, match="last block"):
        load_backbone("vit_tiny_patch16_224", weights=file, block=3, facet="token", whole=True)
    with pytest.raises(ValueError, match="whole=True"):
        load_backbone("vit_tiny_patch16_224", weights=file).pooled(torch.zeros(1, 3, 32, 32), "class-token")


@pytest.mark.parametrize(
    ("name", "timms"),
    [
        ("google/siglip-base-patch16-224", "vit_base_patch16_siglip_224.webli"),
        ("facebook/deit3-small-patch16", "deit3_small_patch16_224"),
        ("beitv2-vit-base-patch16", "beitv2_base_patch16_224"),
    ],
)
def test_a_network_under_the_name_of_another_collection_is_answered_with_timms(name: str, timms: str) -> None:
    with pytest.raises(SettingsError, match=rf"did you mean (deit3_small_patch16_384 or )?{re.escape(timms)}"):
        load_backbone(name, weights=None)
