"""Networks by the names that people know them by: every one is timm's, and the run is the same under each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.names import ALIASES, ARCHITECTURES, recorded_name
from simsam_batch.stages.segment.settings import SegmentSettings

NETWORKS = sorted({ARCHITECTURES.get(name, name) for name in (*ARCHITECTURES, *ALIASES.values())})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_leads_to_a_plain_network_with_published_weights(name: str) -> None:
    assert name in timm.list_models(pretrained=True) or timm.is_model(name)
    assert timm.get_pretrained_cfg(name).has_weights
    # shapes alone: the largest have 7 thousand million parameters
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    assert len(set(network.patch_embed.patch_size)) == 1
    assert type(network.blocks[0]).__name__ in {"Block", "EvaBlock"}


@pytest.mark.parametrize(
    ("name", "recorded", "channels", "patch"),
    [
        ("dinov2-small", "vit_small_patch14_dinov2.lvd142m", 384, 14),
        ("dinov2-base", "vit_base_patch14_dinov2.lvd142m", 768, 14),
        ("facebook/dinov2-base", "vit_base_patch14_dinov2.lvd142m", 768, 14),
        ("dinov2_vitl14_reg", "vit_large_patch14_reg4_dinov2.lvd142m", 1024, 14),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "vit_base_patch16_dinov3.lvd1689m", 768, 16),
        ("dinov3-small-plus", "vit_small_plus_patch16_dinov3.lvd1689m", 384, 16),
        ("timm/vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m", 384, 14),
        ("hf-hub:timm/vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m", 384, 14),
        ("clip-large-336", "vit_large_patch14_clip_quickgelu_336.openai", 1024, 14),
        ("openai/clip-vit-base-patch32", "vit_base_patch32_clip_quickgelu_224.openai", 768, 32),
        ("mae-huge", "vit_huge_patch14_224.mae", 1280, 14),
        ("facebook/dino-vitb8", "dino_vitb8", 768, 8),
        ("dino-small", "dino_vits16", 384, 16),
        ("ibot-large", "ibot-large", 1024, 16),
        ("descriptors", "descriptors", 0, 0),
    ],
)
def test_a_run_records_one_name_of_a_network(name: str, recorded: str, channels: int, patch: int) -> None:
    assert recorded_name(recorded) == recorded
    assert SegmentSettings(backbone=name).backbone == recorded
    assert SegmentSettings(backbone=name) == SegmentSettings(backbone=recorded)
    if channels:
        with torch.device("meta"):
            network = timm.create_model(ARCHITECTURES.get(recorded, recorded), pretrained=False)
        assert (network.embed_dim, network.patch_embed.patch_size) == (channels, (patch, patch))


def test_a_run_goes_on_under_another_name_of_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, file = tmp_path / "photos", tmp_path / "weights.safetensors"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(80, 120, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(photos / "0.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict(), file)
    command = ["segment", str(photos), str(tmp_path / "out"), "--weights", str(file), "--head", "none", "--k", "3"]
    command += ["--resize", "native", "--engine", "inline", "--block", "0", "--backbone"]
    assert run([*command, "timm/test_vit.r160_in1k"]) == 0
    result = (tmp_path / "out" / "results" / "segment.json").read_text()
    capsys.readouterr()
    assert run([*command, "test_vit.r160_in1k"]) == 0
    assert "1 shard done before" in capsys.readouterr().err
    assert (tmp_path / "out" / "results" / "segment.json").read_text() == result
    record = json.loads((tmp_path / "out" / "segment" / "stage.json").read_text())
    assert record["settings"]["backbone"] == record["resolved"]["models"]["backbone"]["name"] == "test_vit.r160_in1k"


def test_ibot_is_prepared_as_it_was_trained_and_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"ibot-small.*vit_small_patch16_224.*checkpoint_teacher\.pth.*--weights"):
        load_backbone("ibot-small", weights=None)
    file = tmp_path / "bare.safetensors"
    save_file(timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0).state_dict(), file)
    described = load_backbone("ibot-small", weights=file, block=0).describe()
    assert (described["name"], described["position_resampling"]) == ("vit_small_patch16_224", "dino")
    assert described["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov2-bse", "dinov2-base"),
        ("dinov3-larg", "dinov3-large"),
        ("facebok/dinov2-base", "vit_base_patch14_dinov2.lvd142m"),
    ],
)
def test_a_name_that_is_nearly_known_is_guessed(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"no model '{name}'; did you mean .*{meant}\b"):
        load_backbone(name, weights=None)
