"""Weights files in all layouts, and everything that can be wrong with one."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.weights import read_checkpoint, weights_digest

torch.set_num_threads(1)

IMAGES = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Parameters of timm's smallest ViT, none of them at its initial value."""
    generator = torch.Generator().manual_seed(5)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    return {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor]) -> Tensor:
    """Keys of block 4 of the untouched model at its native size."""
    model = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    model.load_state_dict(state)
    seen: list[Tensor] = []
    model.blocks[4].attn.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        model.forward_features(IMAGES)
    return seen[0][:, 1:, 64:128]


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def noise(*shape: int) -> Tensor:
    return torch.full(shape, 9.0)


def layouts(state: dict[str, Tensor]) -> dict[str, tuple[str, Any]]:
    other = {key: value + 1 for key, value in state.items()}
    head = {"head.mlp.0.weight": noise(8, 64), "head.last_layer.weight_g": noise(9, 1)}
    ibot_head = head | {"head.last_layer2.weight_g": noise(9, 1)}
    arguments = argparse.Namespace(arch="vit_small", patch_size=16)
    return {
        "timm": ("timm", state | {"head.weight": noise(10, 64), "head.bias": noise(10)}),
        "timm in a training checkpoint": ("timm", {"epoch": 3, "state_dict": prefixed(state, "module.")}),
        "double precision": ("timm", {key: value.double() for key, value in state.items()}),
        "DINO full": (
            "dino",
            {
                "student": prefixed(other, "module.backbone."),
                "teacher": prefixed(state, "backbone.") | head,
                "optimizer": {"state": {}, "param_groups": []},
                "epoch": 100,
                "args": arguments,
            },
        ),
        "DINO student only": ("dino", {"student": prefixed(state, "module.backbone.")}),
        "DINO backbone prefix": ("dino", prefixed(state, "backbone.")),
        "iBOT full": (
            "ibot",
            {
                "student": prefixed(other, "module.backbone.") | {"module.backbone.masked_embed": noise(1, 64)},
                "teacher": prefixed(state, "backbone.") | prefixed(ibot_head, ""),
                "ibot_loss": {"center": noise(1, 9)},
                "args": arguments,
            },
        ),
        "iBOT nested": ("ibot", {"state_dict": prefixed(state, "backbone.") | {"backbone.masked_embed": noise(1, 64)}}),
        "iBOT backbone file": ("ibot", state | {"masked_embed": noise(1, 64)}),
    }


@pytest.mark.parametrize("layout", list(layouts({})))
def test_every_layout_gives_the_same_keys(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor, layout: str
) -> None:
    kind, content = layouts(state)[layout]
    torch.save(content, tmp_path / "checkpoint.pth")
    assert read_checkpoint(tmp_path / "checkpoint.pth").layout == kind
    backbone = load_backbone("test_vit", weights=tmp_path / "checkpoint.pth", block=4)
    torch.testing.assert_close(backbone(IMAGES).descriptors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "teacher.backbone.", "module."])
def test_safetensors_are_known_by_content_not_by_suffix(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor, prefix: str
) -> None:
    save_file(prefixed(state, prefix), tmp_path / "0a1b2c")
    backbone = load_backbone("test_vit", weights=tmp_path / "0a1b2c", block=4)
    torch.testing.assert_close(backbone(IMAGES).descriptors, expected, atol=1e-5, rtol=1e-5)


def test_meta_layout_of_dinov2_with_registers(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    generator = torch.Generator().manual_seed(2)
    ours = {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in model.state_dict().items()}
    # Released files keep a position for the class token (timm adds it in beforehand) and the mask token of training.
    position = torch.randn(1, 1, 384, generator=generator)
    released = dict(ours)
    released["register_tokens"] = released.pop("reg_token")
    released["cls_token"] = ours["cls_token"] - position
    released["pos_embed"] = torch.cat([position, ours["pos_embed"]], dim=1)
    released["mask_token"] = noise(1, 384)
    torch.save(released, tmp_path / "dinov2.pth")
    save_file(ours, tmp_path / "timm.safetensors")
    images = torch.randn(1, 3, 42, 28, generator=generator)
    results = [
        load_backbone(name, weights=tmp_path / file, block=1)(images).descriptors
        for file in ("dinov2.pth", "timm.safetensors")
    ]
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_a_position_table_of_another_size_is_taken_over(tmp_path: Path, state: dict[str, Tensor]) -> None:
    larger = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=192).eval()
    tensors = state | {"pos_embed": 0.1 * torch.randn(1, 145, 64, generator=torch.Generator().manual_seed(4))}
    larger.load_state_dict(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    backbone = load_backbone("test_vit", weights=tmp_path / "w.safetensors", facet="token")
    assert backbone.describe()["native_grid"] == [12, 12]
    larger.norm = torch.nn.Identity()
    images = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        expected = larger.forward_features(images)[:, 1:]
    torch.testing.assert_close(backbone(images).descriptors, expected, atol=1e-5, rtol=1e-5)


def test_only_what_the_facet_needs_must_be_in_the_file(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor
) -> None:
    needless = ("blocks.5.", "blocks.4.mlp", "blocks.4.attn.proj", "blocks.4.norm2", "norm.")
    save_file({k: v for k, v in state.items() if not k.startswith(needless)}, tmp_path / "w.safetensors")
    backbone = load_backbone("test_vit", weights=tmp_path / "w.safetensors", block=4)
    torch.testing.assert_close(backbone(IMAGES).descriptors, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(SettingsError, match=r"missing: blocks\.4\.attn\.proj\.weight"):
        load_backbone("test_vit", weights=tmp_path / "w.safetensors", block=4, facet="token")


def test_normalisation_comes_from_the_file_first(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "own.safetensors", metadata={"mean": "0.1,0.2,0.3", "std": "[0.4, 0.5, 0.6]"})
    own = load_backbone("test_vit", weights=tmp_path / "own.safetensors")
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_file(state, tmp_path / "none.safetensors")
    configured = timm.get_pretrained_cfg("test_vit")
    none = load_backbone("test_vit", weights=tmp_path / "none.safetensors")
    assert (none.mean, none.std) == (tuple(configured.mean), tuple(configured.std))


@pytest.mark.parametrize("std", ["0.5,0.5", "a,b,c", "0.5,0,0.5", "NaN,1,1"])
def test_a_normalisation_that_is_none_is_refused(tmp_path: Path, state: dict[str, Tensor], std: str) -> None:
    save_file(state, tmp_path / "w.safetensors", metadata={"std": std})
    with pytest.raises(SettingsError, match="records std="):
        read_checkpoint(tmp_path / "w.safetensors")


def test_a_missing_parameter_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({k: v for k, v in state.items() if k != "blocks.1.mlp.fc1.bias"}, tmp_path / "w.safetensors")
    with pytest.raises(
        SettingsError, match=r"w\.safetensors .*backbone test_vit: .*1 missing: blocks\.1\.mlp\.fc1\.bias"
    ):
        load_backbone("test_vit", weights=tmp_path / "w.safetensors")


def test_layer_scales_the_model_has_not_are_refused_and_not_dropped(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {"blocks.0.gamma_1": noise(64)}, tmp_path / "w.safetensors")
    with pytest.raises(SettingsError, match=r"1 unexpected: blocks\.0\.gamma_1"):
        load_backbone("test_vit", weights=tmp_path / "w.safetensors")


def test_a_real_file_is_refused_for_another_model_with_both_shapes(test_weights: Path, tmp_path: Path) -> None:
    path = test_weights / "vit_tiny_patch16_224.supervised.safetensors"
    with pytest.raises(SettingsError) as caught:
        load_backbone("dino_vits16", weights=path)
    message = str(caught.value)
    assert str(path) in message
    assert "vit_tiny_patch16_224" in message
    assert "dino_vits16" in message
    assert "0 of the" in message
    assert "cls_token (file (1, 1, 192), model (1, 1, 384))" in message
    shallow = {key: value for key, value in load_file(path).items() if not key.startswith("blocks.11.")}
    save_file(shallow, tmp_path / "shallow.safetensors")
    with pytest.raises(SettingsError, match=r"missing: blocks\.11\.norm1\.weight"):
        load_backbone("vit_tiny_patch16_224", weights=tmp_path / "shallow.safetensors")


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


def test_damaged_and_dangerous_files_are_refused_with_the_reason(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = tmp_path / "whole"
    save_file(state, whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-1000])
    torch.save(state, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-1000])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"state_dict": Payload()}))
    torch.save({"payload": Payload()}, tmp_path / "code_in_zip.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"epoch": 1}, tmp_path / "nothing.pth")
    reasons = {
        "cut.safetensors": "damaged safetensors file",
        "cut.pth": "neither safetensors nor a torch file",
        "empty.pth": "neither safetensors nor a torch file",
        "page.pth": "neither safetensors nor a torch file",
        "code.pth": "without running code",
        "code_in_zip.pth": "without running code",
        "list.pth": "holds a list",
        "nothing.pth": "holds no tensors",
        "absent.pth": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(SettingsError, match=reason) as caught:
            read_checkpoint(tmp_path / name)
        assert name in str(caught.value)


def test_the_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert weights_digest(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(SettingsError, match="cannot be read"):
        weights_digest(tmp_path / "absent")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path, kind in ((tmp_path / "pipe.pth", "pipe"), (Path("/dev/zero"), "device"), (tmp_path, "directory")):
        for read in (weights_digest, read_checkpoint):
            with pytest.raises(SettingsError, match=rf"{path} is a {kind}.*To mend it"):
                read(path)


def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with ZipFile(tmp_path / "plain.pth") as plain, ZipFile(tmp_path / "small.pth", "w", ZIP_DEFLATED) as small:
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    # 40 MB of zeros: deflate makes a thousandth of them
    assert (tmp_path / "small.pth").stat().st_size < 100_000
    with pytest.raises(SettingsError, match=r"small\.pth has [\d,]+ bytes and would take up 40,0.* more than 16 times"):
        read_checkpoint(tmp_path / "small.pth")
    # one number of two bytes, shown at ten thousand million places
    torch.save({"x": torch.zeros(1, dtype=torch.float16).expand(100_000, 100_000)}, tmp_path / "shown.pth")
    with pytest.raises(SettingsError, match=r"shown\.pth has [\d,]+ bytes and would take up 40,000,000,000 when"):
        read_checkpoint(tmp_path / "shown.pth")


def test_a_checkpoint_that_was_compressed_a_little_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "plain.pth")
    with ZipFile(tmp_path / "plain.pth") as plain, ZipFile(tmp_path / "small.pth", "w", ZIP_DEFLATED) as small:
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    found = read_checkpoint(tmp_path / "small.pth").tensors
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_average_over_the_training_is_taken_as_timm_takes_it_and_said(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor, average: str
) -> None:
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": other, "model": other, average: state, "epoch": 3}, tmp_path / "trained.pth")
    backbone = load_backbone("test_vit", weights=tmp_path / "trained.pth", block=4)
    torch.testing.assert_close(backbone(IMAGES).descriptors, expected, atol=1e-5, rtol=1e-5)
    # a run that began with the other network of the same file must not go on with this one
    assert backbone.describe()["weights"] == f"timm file, {average}"
    torch.save({"state_dict": state, average: None}, tmp_path / "none.pth")
    assert load_backbone("test_vit", weights=tmp_path / "none.pth", block=4).describe()["weights"] == "timm file"


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_wrappers_around_single_blocks_are_taken_off(
    tmp_path: Path, state: dict[str, Tensor], expected: Tensor, wrapper: str
) -> None:
    inside = {re.sub(r"^(blocks\.\d\.)", rf"\1{wrapper}", key): value for key, value in state.items()}
    torch.save(prefixed(inside, f"module.{wrapper}"), tmp_path / "wrapped.pth")
    backbone = load_backbone("test_vit", weights=tmp_path / "wrapped.pth", block=4)
    torch.testing.assert_close(backbone(IMAGES).descriptors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)])
def test_numbers_of_numpy_beside_the_tensors_do_no_harm(
    tmp_path: Path, state: dict[str, Tensor], number: np.generic
) -> None:
    torch.save({"model": state, "best": number, "history": [number] * 3}, tmp_path / "numbers.pth")
    found = read_checkpoint(tmp_path / "numbers.pth").tensors
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_class_in_a_file_is_named_with_how_to_save_without_it(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({"model": state, "history": np.zeros(3)}, tmp_path / "array.pth")
    torch.save({"model": state, "where": Path("x")}, tmp_path / "path.pth")
    for name, kind in (("array.pth", r"numpy\.\S*_reconstruct"), ("path.pth", r"pathlib\.\w+")):
        with pytest.raises(
            SettingsError, match=rf"{name} holds an object of {kind} .*torch\.save\(checkpoint"
        ) as caught:
            read_checkpoint(tmp_path / name)
        assert str(caught.value).isprintable()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_shells_of_tensors_without_numbers_are_no_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for odd in (torch.zeros(64, device="meta"), torch.zeros(64).to_sparse(), torch.zeros(64, dtype=torch.complex64)):
        torch.save(state | {"norm.weight": odd, "blocks.1.norm1.bias": odd}, tmp_path / "odd.pth")
        with pytest.raises(SettingsError, match=r"1 missing: blocks\.1\.norm1\.bias"):
            load_backbone("test_vit", weights=tmp_path / "odd.pth")
