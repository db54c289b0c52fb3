"""Several facets of several blocks from one pass: each is what it is alone, and what timm's own model computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbones import a_model, output_of, saved, some_images

from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone, load_taps
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.features.taps import TappedDescriptors, TappedViT

torch.set_num_threads(1)

FACETS = ("token", "norm-token", "key", "query", "value")
PLAIN, REGISTERS, ROTARY = "test_vit", "vit_tiny_patch16_dinov3_qkvb", "eva02_base_patch14_224"
REAL = "vit_tiny_patch16_224.supervised.safetensors"


def each_alone(network: TappedViT, name: str, weights: Path, images: torch.Tensor) -> None:
    """Assert that every tap is, bit for bit, what a backbone of it alone gives."""
    found = network(images)
    assert [*found.descriptors] == network.taps
    entering, leaving = {}, {}
    for block, facet in network.taps:
        alone = load_backbone(name, weights=weights, block=block, facet=facet)(images)
        assert torch.equal(found.descriptors[block, facet], alone.descriptors), (block, facet)
        assert found.descriptors[block, facet].dtype == torch.float32
        assert network.channels_of[f"{facet}-{block}"] == alone.descriptors.shape[-1]
        (leaving if facet in ("token", "norm-token") else entering)[block] = alone.norms
    # the length of what leaves a block, where it is computed; else of what enters it
    expected = entering | leaving
    assert {*found.norms} == {*expected}
    for block, norms in found.norms.items():
        assert torch.equal(norms, expected[block])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "facets"),
    [
        (PLAIN, [1, 4], FACETS),
        (PLAIN, [3], ("key", "value")),
        (PLAIN, [2, 3], ("query", "token")),
        (REGISTERS, [0, 11], FACETS),
        (ROTARY, [1], ("token", "key")),
    ],
    ids=["all facets", "projections alone", "blocks in a row", "class token and registers", "separate layers"],
)
def test_a_tap_is_what_a_backbone_of_it_alone_gives(
    tmp_path: Path, name: str, blocks: list[int], facets: tuple[str, ...]
) -> None:
    weights = saved(a_model(name, dynamic_img_size=True), tmp_path)
    network = load_taps(name, weights=weights, blocks=blocks, facets=facets)
    assert network.taps == [(block, facet) for block in blocks for facet in facets]
    each_alone(network, name, weights, some_images(4 * network.patch, 6 * network.patch))


def test_a_tap_of_a_trained_network_is_what_it_is_alone(test_weights: Path) -> None:
    name = "vit_tiny_patch16_224"
    network = load_taps(name, weights=test_weights / REAL, blocks=[5, 11], facets=FACETS)
    each_alone(network, name, test_weights / REAL, some_images(96, 64))


@pytest.mark.parametrize(
    ("name", "registers"), [(PLAIN, 0), ("vit_small_patch14_reg4_dinov2", 4)], ids=["plain", "registers"]
)
def test_prefix_tokens_are_those_a_hook_sees_in_the_whole_model(tmp_path: Path, name: str, registers: int) -> None:
    model = a_model(name, dynamic_img_size=True)
    images = some_images(3 * model.patch_embed.patch_size[0], 5 * model.patch_embed.patch_size[0])
    network = load_taps(
        name, weights=saved(model, tmp_path), blocks=[2, 5], facets=FACETS, class_token=True, registers=True
    )
    found = network(images)
    assert [*found.class_tokens] == network.taps
    assert [*found.registers] == (network.taps if registers else [])
    for block in (2, 5):
        stream = output_of(model, model.blocks[block], images)
        thirds = output_of(model, model.blocks[block].attn.qkv, images).chunk(3, dim=-1)
        with torch.no_grad():
            normed = model.norm(stream)
        by_hand = {"token": stream, "norm-token": normed, "query": thirds[0], "key": thirds[1], "value": thirds[2]}
        for facet, tokens in by_hand.items():
            near = {"atol": 3e-5, "rtol": 3e-5}
            torch.testing.assert_close(found.class_tokens[block, facet], tokens[:, 0], **near)
            torch.testing.assert_close(found.descriptors[block, facet], tokens[:, 1 + registers :], **near)
            if registers:
                torch.testing.assert_close(found.registers[block, facet], tokens[:, 1 : 1 + registers], **near)
                assert found.registers[block, facet].shape == (2, registers, model.embed_dim)
        lengths = stream[:, 1 + registers :].square().sum(-1).sqrt()
        torch.testing.assert_close(found.norms[block], lengths, atol=1e-4, rtol=1e-5)


def test_a_register_in_place_of_the_class_token_is_no_class_token(tmp_path: Path) -> None:
    model = a_model("test_vit2", dynamic_img_size=True)
    assert (model.cls_token, model.num_prefix_tokens) == (None, 1)
    images = some_images(32, 48)
    found = load_taps(
        "test_vit2",
        weights=saved(model, tmp_path),
        blocks=[3],
        facets=["token"],
        class_token=True,
        registers=True,
    )(images)
    stream = output_of(model, model.blocks[3], images)
    assert not found.class_tokens
    torch.testing.assert_close(found.registers[3, "token"], stream[:, :1], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found.descriptors[3, "token"], stream[:, 1:], atol=2e-5, rtol=2e-5)


def test_prefix_tokens_nobody_asked_for_are_not_there(tmp_path: Path) -> None:
    weights = saved(a_model(REGISTERS), tmp_path)
    found = load_taps(REGISTERS, weights=weights, blocks=[1], facets=["key"])(some_images(32, 32))
    assert not found.class_tokens
    assert not found.registers


@pytest.mark.parametrize(
    ("blocks", "facets", "run"),
    [
        ([0, 2, 4], FACETS, [0, 1, 2, 3, 4]),
        ([4], ("key", "query", "value"), [0, 1, 2, 3]),
        ([1], ("token",), [0, 1]),
    ],
    ids=["all facets of three blocks", "projections need no block of their own", "one tap"],
)
def test_every_block_runs_once_and_none_after_the_last_needed(
    tmp_path: Path, blocks: list[int], facets: tuple[str, ...], run: list[int]
) -> None:
    weights = saved(a_model(PLAIN, dynamic_img_size=True), tmp_path)
    network = load_taps(PLAIN, weights=weights, blocks=blocks, facets=facets)
    calls: Counter[int] = Counter()
    for number, block in enumerate(network._model.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.update([number]))
    network(some_images(64, 48))
    assert calls == dict.fromkeys(run, 1)
    network(some_images(32, 48))
    assert calls == dict.fromkeys(run, 2)


def test_images_of_another_grid_leave_nothing_behind(tmp_path: Path) -> None:
    weights = saved(a_model(PLAIN, dynamic_img_size=True), tmp_path)
    network = load_taps(PLAIN, weights=weights, blocks=[0, 5], facets=["token", "key"])
    one, other = some_images(64, 48), some_images(32, 80, batch=1)
    before = network(one).descriptors
    assert network(other).descriptors[0, "token"].shape == (1, 10, 64)
    for tap, descriptors in network(one).descriptors.items():
        assert torch.equal(descriptors, before[tap])


def test_blocks_count_from_the_end_and_once_each(tmp_path: Path) -> None:
    weights = saved(a_model(PLAIN), tmp_path)
    network = load_taps(PLAIN, weights=weights, blocks=[-1, 5, 3, -3], facets=["key"])
    assert network.taps == [(5, "key"), (3, "key")]
    assert network.channels_of == {"key-5": 64, "key-3": 64}


def test_what_the_network_has_not_is_named(tmp_path: Path) -> None:
    weights = saved(a_model(PLAIN), tmp_path)
    for blocks, facets, message in [
        ([2, 99], ["key"], r"test_vit has blocks 0 to 5 \(or -1 to -6 from the end\), not 99"),
        ([-7], ["key"], "not -7"),
        ([0], ["key", "keys"], "'keys' is not known; allowed: key, query, value, token, norm-token"),
    ]:
        with pytest.raises(SettingsError, match=message):
            load_taps(PLAIN, weights=weights, blocks=blocks, facets=facets)


def test_what_is_kept_and_by_which_weights_is_told(tmp_path: Path) -> None:
    model = a_model(PLAIN)
    weights = saved(model, tmp_path)

    def loaded(**more: Any) -> TappedViT:
        return load_taps(PLAIN, weights=weights, blocks=[1, 3], facets=["token", "key"], **more)

    about = loaded(class_token=True).describe()
    assert about["taps"] == [[1, "token"], [1, "key"], [3, "token"], [3, "key"]]
    assert (about["class_token"], about["registers"], about["patch"]) == (True, False, 16)
    before = loaded().digest()
    assert loaded(class_token=True).digest() == before
    with torch.no_grad():
        model.blocks[3].mlp.fc1.bias += 1
    saved(model, tmp_path)
    assert loaded().digest() != before


def test_descriptors_are_the_only_facet_of_the_only_block() -> None:
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    network = TappedDescriptors([-1], ["key"])
    found, alone = network(images), Descriptors()(images)
    assert network.channels_of == {"token-0": 15}
    assert torch.equal(found.descriptors[0, "token"], alone.descriptors)
    assert torch.equal(found.norms[0], alone.norms)
    assert not found.class_tokens
    assert not found.registers
    for blocks, facets in [([1], ["token"]), ([0], ["value"])]:
        with pytest.raises(SettingsError, match=r"one way only\. To mend it: give --facets token"):
            TappedDescriptors(blocks, facets)


def test_projections_pass_the_final_norm_if_asked_to_and_nothing_else_changes(tmp_path: Path) -> None:
    model = a_model(PLAIN, dynamic_img_size=True)
    with torch.no_grad():
        model.norm.weight.copy_(torch.linspace(0.5, 2, model.embed_dim))
        model.norm.bias.copy_(torch.linspace(-1, 1, model.embed_dim))
    weights, images = saved(model, tmp_path), some_images(48, 32)
    plain = load_taps(PLAIN, weights=weights, blocks=[2, 5], facets=FACETS)
    normed = load_taps(PLAIN, weights=weights, blocks=[2, 5], facets=FACETS, facet_norm="final")
    found, raw = normed(images).descriptors, plain(images).descriptors
    for (block, facet), descriptors in found.items():
        expected = raw[block, facet]
        if facet in ("key", "query", "value"):
            deviation = expected.var(dim=-1, correction=0, keepdim=True).add(model.norm.eps).sqrt()
            scaled = (expected - expected.mean(dim=-1, keepdim=True)) / deviation
            expected = scaled * torch.linspace(0.5, 2, model.embed_dim) + torch.linspace(-1, 1, model.embed_dim)
        torch.testing.assert_close(descriptors, expected, atol=1e-5, rtol=1e-5)
    assert "facet_norm" not in plain.describe(), "records of runs that began before it must stay equal"
    assert normed.describe() == plain.describe() | {"facet_norm": "final"}


def test_the_final_norm_is_read_from_a_file_of_weights_for_projections_alone(tmp_path: Path) -> None:
    model = a_model(PLAIN, dynamic_img_size=True)
    with torch.no_grad():
        model.norm.weight.fill_(3)
        model.norm.bias.fill_(5)
    network = load_taps(PLAIN, weights=saved(model, tmp_path), blocks=[0], facets=["key"], facet_norm="final")
    rows = network(some_images(32, 32)).descriptors[0, "key"]
    # of length sqrt(D) before scale and shift
    torch.testing.assert_close(rows.mean(dim=-1), torch.full(rows.shape[:-1], 5.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(dim=-1, correction=0), torch.full(rows.shape[:-1], 3.0), atol=1e-2, rtol=0)


def test_a_network_without_a_final_norm_refuses_it(tmp_path: Path) -> None:
    name = "vit_pe_spatial_tiny_patch16_512"
    weights = saved(a_model(name, dynamic_img_size=True), tmp_path)
    with pytest.raises(SettingsError, match=f"facet_norm: the final norm of {name} does not fit"):
        load_taps(name, weights=weights, blocks=[0], facets=["key"], facet_norm="final")
