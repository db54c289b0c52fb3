"""Which network of a checkpoint is taken, what is refused, and what is told of the rest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_files import PLAIN, assert_same, full_dino, full_ibot, noise, saved, some_images, under
from published_vit import Design, PublishedViT
from safetensors.torch import save_file

from simsam_batch.errors import SettingsError
from simsam_batch.features.backbones import load_backbone, load_taps

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def two() -> tuple[PublishedViT, PublishedViT]:
    """A teacher and a student, of other numbers."""
    return PublishedViT(PLAIN, seed=1), PublishedViT(PLAIN, seed=2)


@pytest.mark.parametrize(("part", "which"), [("auto", 0), ("teacher", 0), ("student", 1)])
@pytest.mark.parametrize(("full", "layout"), [(full_ibot, "ibot"), (full_dino, "dino")])
def test_either_network_of_a_full_checkpoint_is_what_was_trained(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT], full: Any, layout: str, part: Any, which: int
) -> None:
    path = saved(full(*two), tmp_path)
    report = assert_same(two[which], "test_vit", path, some_images(10, 10), checkpoint_part=part)
    # the class token, positions and two tensors of the patches, 12 of each block, two of the norm
    assert report.taken == 4 + 6 * 12 + 2
    taken, left = (("teacher", "student"), ("student", "teacher"))[which]
    assert (report.network, report.beside, report.layout) == (taken, (left,), layout)
    # an earlier release said no more of the usual network, and its runs can be gone on with
    said = load_backbone("test_vit", weights=path, checkpoint_part=part).describe()["weights"]
    assert said == (f"{layout} file" if part == "auto" else f"{layout} file, {part}")


@pytest.mark.parametrize("part", ["teacher", "student"])
@pytest.mark.parametrize("start", ["", "model."])
def test_parts_are_told_by_the_beginnings_of_names_too(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT], part: Any, start: str
) -> None:
    """As in safetensors, and in the sharded checkpoints of DINOv2's training, which lie in ``model``."""
    names = under("teacher.backbone.", two[0].names()) | under("student.backbone.", two[1].names())
    path = tmp_path / "w.safetensors"
    if start:
        path = saved({"model": names, "iteration": 3}, tmp_path)
    else:
        save_file(names, path)
    report = assert_same(two[part == "student"], "test_vit", path, some_images(10, 10, batch=1), checkpoint_part=part)
    assert report.network == part


def test_a_part_that_is_not_there_is_refused_with_what_is(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT]
) -> None:
    whole = full_ibot(*two)
    path = saved({"teacher": whole["teacher"], "args": whole["args"]}, tmp_path)
    with pytest.raises(
        SettingsError, match=r"checkpoint\.pth has no student; it has a teacher\. To mend it: give --ch"
    ):
        load_backbone("test_vit", weights=path, checkpoint_part="student")
    path = saved({"model": under("student.", two[1].names())}, tmp_path)
    with pytest.raises(SettingsError, match=r"has no teacher; it has a student.*--checkpoint-part student"):
        load_backbone("test_vit", weights=path, checkpoint_part="teacher")


@pytest.mark.parametrize("part", ["teacher", "student"])
@pytest.mark.parametrize("nest", ["", "model"])
def test_a_file_of_one_network_has_no_parts_to_choose_from(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT], nest: str, part: Any
) -> None:
    names = two[0].names()
    path = saved({nest: names} if nest else names, tmp_path)
    with pytest.raises(
        SettingsError, match=rf"has no {part}.*holds one network alone.*leave out --checkpoint-part"
    ) as e:
        load_backbone("test_vit", weights=path, checkpoint_part=part)
    assert ("(model)" in str(e.value)) == bool(nest)


@pytest.mark.parametrize("full", [full_ibot, full_dino])
@pytest.mark.parametrize("lost", ["cls_token", "blocks.3.attn.qkv.bias", "blocks.5.mlp.fc2.weight"])
def test_a_tensor_that_is_missing_or_strange_is_named(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT], full: Any, lost: str
) -> None:
    content = full(*two)
    kept = content["teacher"].pop(f"backbone.{lost}")
    with pytest.raises(SettingsError, match=rf"77 of the 78 tensors needed match; 1 missing: {lost}"):
        load_backbone("test_vit", weights=saved(content, tmp_path), facet="norm-token")
    content["teacher"] |= {f"backbone.{lost}": kept, "backbone.blocks.0.attn.gate.weight": noise(2)}
    with pytest.raises(SettingsError, match=r"1 unexpected: blocks\.0\.attn\.gate\.weight"):
        load_backbone("test_vit", weights=saved(content, tmp_path))


def test_a_prefix_is_taken_off_the_beginning_of_a_name_only(tmp_path: Path) -> None:
    """Upstream's loader replaces it everywhere, and so takes in what is no part of the network."""
    network = PublishedViT(PLAIN)
    path = saved({"teacher": under("backbone.", network.names()) | {"blocks.backbone.x": noise(2)}}, tmp_path)
    with pytest.raises(SettingsError, match=r"1 unexpected: blocks\.backbone\.x"):
        load_backbone("test_vit", weights=path)


def test_a_file_that_is_not_there_never_becomes_random_weights(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_backbone("test_vit", weights=tmp_path / "absent.pth")
    with pytest.raises(SettingsError, match=r"absent\.pth"):
        load_taps("test_vit", weights=tmp_path / "absent.pth", blocks=[0], facets=["key"], checkpoint_part="student")


def test_what_became_of_the_file_is_told_in_a_few_lines(
    tmp_path: Path, two: tuple[PublishedViT, PublishedViT], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "simsam_batch.features.backbones"):
        backbone = load_backbone("test_vit", weights=saved(full_ibot(*two), tmp_path), block=4)
    assert backbone.loaded is not None
    # keys of block 4: its first norm and fused projection, 4, all of the four blocks before, and 4 of the embedding;
    # the head has 6 tensors of an MLP, 2 + 1 of last layers and one of a second MLP
    assert backbone.loaded.lines() == [
        "56 tensors taken (teacher, ibot file, beside student); 22 more take no part in what is computed",
        "renamed: backbone. taken off (78)",
        "dropped 10: head.mlp.0.weight, head.mlp.0.bias, head.mlp.2.weight, and 7 more",
    ]
    assert caplog.messages == [f"test_vit from {tmp_path}/checkpoint.pth: {'; '.join(backbone.loaded.lines())}"]


def test_a_table_that_was_taken_over_is_told(tmp_path: Path) -> None:
    network = PublishedViT(Design(ratio=3, grid=3))
    path = saved(network.names(), tmp_path)
    report = assert_same(network, "test_vit", path, some_images(3, 3))
    assert report.lines() == [
        "78 tensors taken (timm file)",
        "positions: a table of 3x3 patches, taken over as it is",
    ]


def test_what_is_fetched_by_timm_has_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr("simsam_batch.features.backbones.weights_source", lambda *_: {})
    monkeypatch.setattr(timm, "create_model", lambda *names, **more: create(*names, **more | {"pretrained": False}))
    assert load_backbone("test_vit.r160_in1k", weights=None).loaded is None
