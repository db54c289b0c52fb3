"""Every published layout of a checkpoint against the network it is of, written out in `published_vit`.

Real widths would cost minutes. Where timm has no small network of a family, its own constructor builds the one of that
name narrower or with fewer blocks; what reads, renames and fits the file is the same for each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_files import PLAIN, assert_same, head_of_ibot, noise, saved, some_images, under
from published_vit import Design, PublishedViT, fixed_positions
from safetensors.torch import save_file
from torch import nn

from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.fitting import fit_checkpoint
from simsam_batch.features.weights import Checkpoint

torch.set_num_threads(1)

DINOV2 = Design(depth=2, width=96, heads=3, patch=14, grid=5, layer_scale="ls{}.gamma")
# DINOv2 makes of a hidden width 4 C the SwiGLU of (2/3 * 4 C) rounded up to a multiple of 8: 4 * 96 * 2 / 3 = 256.
GIANT = Design(depth=2, width=96, heads=4, patch=14, grid=37, registers=4, layer_scale="ls{}.gamma", gated=256)
DINOV3 = Design(
    depth=2,
    width=96,
    heads=3,
    registers=4,
    register_name="storage_tokens",
    layer_scale="ls{}.gamma",
    rotary=True,
    epsilon=1e-5,
)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have timm build networks with other arguments, such as fewer blocks, under their own names."""
    create = timm.create_model

    def build(**arguments: Any) -> None:
        monkeypatch.setattr(timm, "create_model", lambda *names, **more: create(*names, **more | arguments))

    return build


def narrow(built: Callable[..., None], design: Design) -> None:
    built(depth=design.depth, embed_dim=design.width, num_heads=design.heads)


def test_the_backbone_file_of_ibots_22k_networks_is_the_student_with_its_mask_token(tmp_path: Path) -> None:
    network = PublishedViT(PLAIN)
    path = saved(network.names() | {"masked_embed": noise(1, 64)}, tmp_path)
    report = assert_same(network, "test_vit", path, some_images(10, 10))
    assert (report.layout, report.network, report.dropped) == ("ibot", "", ("masked_embed",))


@pytest.mark.parametrize(("name", "width", "heads"), [("base", 768, 12), ("large", 1024, 16)])
def test_ibots_22k_networks_at_their_widths_with_one_of_their_blocks(
    tmp_path: Path, built: Callable[..., None], name: str, width: int, heads: int
) -> None:
    built(depth=1)
    network = PublishedViT(Design(width=width, heads=heads, depth=1, grid=14))
    teacher, student = under("backbone.", network.names()), {"module.backbone.masked_embed": noise(1, width)}
    path = saved({"teacher": teacher | head_of_ibot(width), "student": student, "ibot_loss": {}}, tmp_path)
    report = assert_same(network, f"vit_{name}_patch16_224", path, some_images(14, 14, batch=1))
    assert report.layout == "ibot"


@pytest.mark.parametrize(
    ("name", "width", "heads", "depth", "tensors"), [("base", 768, 12, 12, 150), ("large", 1024, 16, 24, 294)]
)
def test_the_names_and_shapes_of_ibots_22k_networks_are_timms_at_full_depth(
    name: str, width: int, heads: int, depth: int, tensors: int
) -> None:
    """On torch's meta device, where tensors have shapes and no numbers."""
    with torch.device("meta"):
        names = PublishedViT(Design(width=width, heads=heads, depth=depth, grid=14)).names()
        model = timm.create_model(f"vit_{name}_patch16_224", pretrained=False, num_classes=0)
        names["masked_embed"] = torch.empty(1, width)
    report = fit_checkpoint(model, name, Checkpoint(Path("w"), "ibot", names), lambda _: True)
    assert (report.taken, report.unneeded, report.dropped, report.renamed) == (tensors, 0, ("masked_embed",), ())


def test_layer_scales_under_the_names_of_ibots_code(tmp_path: Path, built: Callable[..., None]) -> None:
    built(init_values=0.1)
    network = PublishedViT(Design(ratio=3, layer_scale="gamma_{}"))
    path = saved({"teacher": under("backbone.", network.names())}, tmp_path)
    report = assert_same(network, "test_vit", path, some_images(10, 10))
    assert ("gamma_1, gamma_2 -> ls1.gamma, ls2.gamma", 12) in report.renamed


def test_an_ibot_file_brings_the_interpolation_of_its_code(tmp_path: Path) -> None:
    """``interpolate_pos_encoding`` of iBOT: bicubic, scaled by (side + 0.1) / side of the table, not antialiased."""
    network = PublishedViT(PLAIN)
    path = saved(network.names() | {"masked_embed": noise(1, 64)}, tmp_path)
    images = some_images(7, 13)
    backbone = load_backbone("test_vit", weights=path, facet="token")
    assert backbone.describe()["position_resampling"] == "dino"
    assert backbone.mean == (0.485, 0.456, 0.406)
    table = network.pos_embed[:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    scale = ((7 + 0.1) / 10, (13 + 0.1) / 10)
    resampled = nn.functional.interpolate(table, scale_factor=scale, mode="bicubic")
    assert resampled.shape[2:] == (7, 13)
    patches = resampled.permute(0, 2, 3, 1).reshape(1, 91, 64)
    network.pos_embed = nn.Parameter(torch.cat([network.pos_embed[:, :1], patches], dim=1), requires_grad=False)
    expected = network(images).tokens[-1][:, 1:]
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-4, rtol=1e-5)


def test_timms_own_layout(tmp_path: Path) -> None:
    network = PublishedViT(PLAIN)
    path = tmp_path / "model.safetensors"
    save_file(network.names() | {"head.weight": noise(10, 64), "head.bias": noise(10)}, path)
    report = assert_same(network, "test_vit", path, some_images(10, 10))
    assert (report.layout, report.network, report.beside, report.renamed) == ("timm", "", (), ())
    assert report.dropped == ("head.bias", "head.weight")


def test_dinov2_of_another_grid_than_the_release_keeps_its_own_positions(
    tmp_path: Path, built: Callable[..., None]
) -> None:
    """Trained at 70 pixels, patches of 14: its table of 5x5 must not go through one of the 37x37 of 518 pixels."""
    narrow(built, DINOV2)
    network = PublishedViT(DINOV2)
    path = saved(network.names() | {"mask_token": noise(1, 96)}, tmp_path)
    report = assert_same(network, "vit_small_patch14_dinov2", path, some_images(5, 5, patch=14))
    assert (report.grid, report.dropped) == (5, ("mask_token",))
    backbone = load_backbone("vit_small_patch14_dinov2", weights=path)
    assert backbone.describe()["native_grid"] == [5, 5]


def test_dinov2_with_registers_and_the_gated_layers_of_its_largest_network(
    tmp_path: Path, built: Callable[..., None]
) -> None:
    narrow(built, GIANT)
    network = PublishedViT(GIANT)
    path = saved(network.names() | {"mask_token": noise(1, 96)}, tmp_path)
    report = assert_same(network, "vit_giant_patch14_reg4_dinov2", path, some_images(37, 37, patch=14, batch=1))
    assert report.grid is None
    # two blocks, weight and bias each
    assert {("w12 -> fc1", 4), ("w3 -> fc2", 4), ("registers -> reg_token", 1)} < set(report.renamed)


def test_dinov2_as_it_is_in_training_with_blocks_in_chunks(tmp_path: Path, built: Callable[..., None]) -> None:
    """A chunk holds empty places for the blocks before it, so that the second number is that of the block."""
    narrow(built, DINOV2)
    network = PublishedViT(DINOV2)
    chunked = {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): value
        for name, value in network.names().items()
    }
    teacher = under("teacher.backbone.", chunked | {"mask_token": noise(1, 96)})
    heads = {"teacher.dino_head.mlp.0.weight": noise(3), "teacher.ibot_head.last_layer.weight_v": noise(3)}
    path = saved({"model": teacher | heads | under("student.", {"backbone.cls_token": noise(1)})}, tmp_path)
    report = assert_same(network, "vit_small_patch14_dinov2", path, some_images(5, 5, patch=14))
    assert sorted(report.dropped) == ["dino_head.mlp.0.weight", "ibot_head.last_layer.weight_v", "mask_token"]


@pytest.mark.parametrize("rows", [3, 5])
def test_dinov3_as_it_is_released(tmp_path: Path, built: Callable[..., None], rows: int) -> None:
    narrow(built, DINOV3)
    network = PublishedViT(DINOV3)
    path = saved(network.names() | {"mask_token": noise(1, 96)}, tmp_path)
    report = assert_same(network, "vit_tiny_patch16_dinov3_qkvb", path, some_images(rows, 4))
    assert ("qkv.bias taken apart into q_bias, v_bias", 2) in report.renamed
    assert "rope_embed.periods" in report.dropped


def test_dinov3_with_gated_layers(tmp_path: Path, built: Callable[..., None]) -> None:
    # DINOv3 makes of the hidden width 6 C the SwiGLU of 2/3 * 6 C: 384
    design = Design(**{**vars(DINOV3), "gated": 384, "packed": False})
    narrow(built, design)
    network = PublishedViT(design)
    path = saved(network.names(), tmp_path)
    report = assert_same(network, "vit_small_plus_patch16_dinov3_qkvb", path, some_images(3, 4))
    assert {("w1 -> fc1_g", 4), ("w2 -> fc1_x", 4), ("w3 -> fc2", 4)} < set(report.renamed)


def test_biases_of_dinov3_are_not_lost_in_a_network_without(
    tmp_path: Path, built: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(built, DINOV3)
    network = PublishedViT(DINOV3)
    path = saved(network.names(), tmp_path)
    with pytest.raises(SettingsError, match=r"2 unexpected: blocks\.0\.attn\.qkv\.bias, blocks\.1\.attn\.qkv\.bias"):
        load_backbone("vit_small_patch16_dinov3", weights=path)
    for block in network.blocks:
        # the key's is masked, whatever it is
        block.attn.qkv.bias[:96] = block.attn.qkv.bias[192:] = 0
    path = saved(network.names(), tmp_path)
    assert_same(network, "vit_small_patch16_dinov3", path, some_images(3, 4))
    assert capsys.readouterr().out == ""


def test_a_key_bias_that_nothing_masks_is_not_lost(tmp_path: Path, built: Callable[..., None]) -> None:
    """timm's network has none, so that one in force in the file cannot be what it computes by."""
    narrow(built, DINOV3)
    names = {name: value for name, value in PublishedViT(DINOV3).names().items() if not name.endswith("bias_mask")}
    with pytest.raises(
        SettingsError, match=r"missing: blocks\.0\.attn\.q_bias.*2 unexpected: blocks\.0\.attn\.qkv\.bias"
    ):
        load_backbone("vit_tiny_patch16_dinov3_qkvb", weights=saved(names, tmp_path))
    for block in range(2):
        names[f"blocks.{block}.attn.qkv.bias"][96:192] = 0
    load_backbone("vit_tiny_patch16_dinov3_qkvb", weights=saved(names, tmp_path))


def test_rotary_positions_by_other_periods_are_refused(tmp_path: Path, built: Callable[..., None]) -> None:
    narrow(built, DINOV3)
    names = PublishedViT(DINOV3).names()
    path = saved(names | {"rope_embed.periods": names["rope_embed.periods"].bfloat16()}, tmp_path)
    load_backbone("vit_tiny_patch16_dinov3_qkvb", weights=path)
    path = saved(names | {"rope_embed.periods": names["rope_embed.periods"] * 1.1}, tmp_path)
    with pytest.raises(SettingsError, match=r"checkpoint\.pth does not fit.*rope_embed\.periods are not the periods"):
        load_backbone("vit_tiny_patch16_dinov3_qkvb", weights=path)


def mae() -> PublishedViT:
    network = PublishedViT(PLAIN)
    network.pos_embed = nn.Parameter(fixed_positions(64, 10), requires_grad=False)
    return network


def test_mae_as_it_is_pretrained_without_its_decoder(tmp_path: Path) -> None:
    network = mae()
    decoder = under("decoder_blocks.0.", {n[9:]: v for n, v in network.names().items() if n.startswith("blocks.0.")})
    decoder |= {"decoder_embed.weight": noise(32, 64), "decoder_pos_embed": noise(1, 101, 32)}
    decoder |= {"decoder_norm.weight": noise(32), "decoder_pred.bias": noise(768), "mask_token": noise(1, 1, 32)}
    path = saved({"model": network.names() | decoder, "epoch": 799, "scaler": {"scale": 1.0}}, tmp_path)
    report = assert_same(network, "test_vit", path, some_images(10, 10))
    assert sorted(report.dropped) == sorted(decoder)
    assert report.taken == 4 + 6 * 12 + 2


def test_mae_as_it_is_fine_tuned_on_the_class_token(tmp_path: Path) -> None:
    network = mae()
    path = saved({"model": network.names() | {"head.weight": noise(10, 64), "head.bias": noise(10)}}, tmp_path)
    assert_same(network, "test_vit", path, some_images(10, 10))


def test_mae_as_it_is_fine_tuned_on_the_average_has_the_norm_of_the_average(tmp_path: Path) -> None:
    network, images = mae(), some_images(10, 10)
    names = {name: value for name, value in network.names().items() if not name.startswith("norm.")}
    names |= {"fc_norm.weight": noise(64), "fc_norm.bias": noise(64), "head.weight": noise(10, 64)}
    path = saved({"model": names}, tmp_path)
    backbone = load_backbone("test_vit", weights=path, facet="token")
    torch.testing.assert_close(backbone(images).descriptors, network(images).tokens[-1][:, 1:], atol=1e-4, rtol=1e-5)
    # timm's network of that name ends in a norm of the tokens, and the file has none
    with pytest.raises(SettingsError, match=r"2 missing: norm\.weight, norm\.bias"):
        load_backbone("test_vit", weights=path, facet="norm-token")
