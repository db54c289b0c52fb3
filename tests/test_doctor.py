"""What the doctor finds here, and in places that are not well."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pytest
import timm
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import features

from simsam_batch import doctor
from simsam_batch.doctor import Check, checks, lines
from simsam_batch.errors import RunError, StorageError
from simsam_batch.spectral import eigen
from simsam_batch.storage import Folder
from simsam_batch.storage.folder import PROBE
from simsam_batch.workers import models


def by_name(**arguments: Any) -> dict[str, Check]:
    """What each check came to; the backbone is one that needs no network, unless another is named."""
    return {check.name: check for check in checks(**{"backbone": "descriptors"} | arguments)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    out = tmp_path_factory.mktemp("doctor") / "out"
    return by_name(out=str(out), backbone="descriptors")


def test_a_machine_that_passes_the_suite_is_well(here: dict[str, Check]) -> None:
    assert [lines(check) for check in here.values() if not check.ok] == []
    assert list(here)[:5] == ["python", "packages", "machine", "gpu", "cupy"]
    assert {"eigh", "arpack", "lobpcg", "block-lanczos", "jpeg", "png", "webp", "tiff", "ray", "s3", "crf"} < set(here)
    assert list(here)[-3:] == ["backbone", "storage", "clock"]


def test_versions_are_those_of_the_packages(here: dict[str, Check]) -> None:
    for package in ("torch", "numpy", "scipy", "pillow", "pyarrow"):
        assert f"{package} {metadata.version(package)}" in here["packages"].text
    assert here["ray"].text == metadata.version("ray")
    assert f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}" == here["jpeg"].text


def test_the_storage_was_written_and_read(here: dict[str, Check]) -> None:
    assert "0 entries; written and read back; honours conditional create" in here["storage"].text
    assert here["clock"].text.startswith("within ")


def test_a_place_that_cannot_be_written_is_a_failure_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = by_name(out=str(tmp_path / "file" / "out"))
    assert not found["storage"].ok
    assert str(tmp_path / "file") in found["storage"].text
    assert "To mend it: " in lines(found["storage"])[1]
    assert found["python"].ok


def test_what_is_not_trusted_on_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU-{index}")
    found: dict[int | None, list[str]] = {0: [], 1: ["bf16 is off by 2.0e-01 of the length"]}
    monkeypatch.setattr(models, "replaced_on", lambda device: found[device.index])
    assert doctor._gpu().startswith("GPU-0, GPU-1; torch ")
    assert doctor._gpu().endswith("; not trusted on GPU 1 and replaced: bf16 is off by 2.0e-01 of the length")

    def wrong(device: torch.device) -> list[str]:
        raise RunError(f"{device} computes wrong in fp32")

    monkeypatch.setattr(models, "replaced_on", wrong)
    check = doctor._checked("gpu", doctor._gpu, "")
    assert (check.ok, check.text) == (False, "cuda:0 computes wrong in fp32")


class OverwritingFileSystem(MemoryFileSystem):
    """A store that takes no notice of ``If-None-Match``."""

    protocol = "overwriting"
    store: dict[str, Any] = {}  # noqa: RUF012 - the shape of its parent
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        super().pipe_file(path, value, mode="overwrite", **more)


@pytest.fixture
def overwriting() -> Iterator[str]:
    fsspec.register_implementation("overwriting", OverwritingFileSystem, clobber=True)
    yield "overwriting://bucket/out"
    OverwritingFileSystem.store.clear()


def test_a_store_that_overwrites_is_a_failure_that_says_what_to_do(overwriting: str) -> None:
    storage = by_name(out=overwriting)["storage"]
    assert not storage.ok
    assert "ignores If-None-Match" in storage.text
    assert storage.mend.startswith("use a store that honours it")
    assert by_name(out=overwriting, single_driver=True)["storage"].ok


def test_the_backbone_of_a_command_without_settings_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check = by_name(backbone=None)["backbone"]
    assert not check.ok
    assert "weights of dino_vits16 could not be fetched" in check.text
    assert "--weights FILE" in check.mend


def test_a_backbone_that_does_not_exist_is_a_failure() -> None:
    check = by_name(backbone="no_such_vit")["backbone"]
    assert not check.ok
    assert "no_such_vit" in check.text


def test_real_weights_are_loaded_and_named_by_their_digest(test_weights: Path) -> None:
    weights = str(test_weights / "vit_tiny_patch16_224.supervised.safetensors")
    check = by_name(backbone="vit_tiny_patch16_224", weights=weights)["backbone"]
    assert check.ok
    assert "patch 16" in check.text


@pytest.mark.parametrize(("part", "other"), [("teacher", "student"), ("student", "teacher")])
def test_what_became_of_a_weights_file_is_told_below_the_backbone(tmp_path: Path, part: str, other: str) -> None:
    network = timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict()
    names = {f"backbone.{name}": value for name, value in network.items()} | {"head.mlp.0.weight": torch.zeros(3)}
    torch.save({"teacher": names, "student": names}, tmp_path / "dino.pth")
    check = by_name(backbone="test_vit", weights=str(tmp_path / "dino.pth"), checkpoint_part=part)["backbone"]
    assert f"weights dino file, {part}, patch 16" in check.text
    # keys of the last of 6 blocks: 4 tensors of the embedding, 12 of each of the 5 blocks before, 4 of its own
    taken = f"68 tensors taken ({part}, dino file, beside {other}); 10 more take no part in what is computed"
    below = [taken, "renamed: backbone. taken off (78)", "dropped 1: head.mlp.0.weight"]
    assert lines(check)[1:] == [f"{'':23}{line}" for line in below]


def test_a_part_that_the_weights_file_lacks_is_a_failure_with_its_mend(test_weights: Path) -> None:
    weights = str(test_weights / "vit_tiny_patch16_224.supervised.safetensors")
    check = by_name(backbone="vit_tiny_patch16_224", weights=weights, checkpoint_part="student")["backbone"]
    assert (check.ok, check.mend) == (False, "leave out --checkpoint-part")
    assert "has no student" in check.text


def test_a_solver_that_computes_wrong_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    right = eigen.smallest_eigenpairs

    def slightly_wrong(*arguments: Any, **settings: Any) -> eigen.EigenResult:
        found = right(*arguments, **settings)
        return replace(found, values=found.values + 1e-3)

    monkeypatch.setattr(eigen, "smallest_eigenpairs", slightly_wrong)
    found = by_name()
    assert [name for name, check in found.items() if not check.ok] == ["eigh", "arpack", "lobpcg", "block-lanczos"]
    assert "off by 1.0e-03" in found["arpack"].text


def test_a_decoder_that_pillow_lacks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    found = by_name()
    assert [name for name, check in found.items() if not check.ok] == ["webp"]
    assert "pillow" in found["webp"].mend


def test_few_open_files_are_a_failure() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        check = next(check for check in checks() if check.name == "machine")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (check.ok, check.text) == (False, "only 256 files may be open at once")
    assert "ulimit -n" in lines(check)[1]


def check_named(name: str) -> Check:
    """That check alone; those after it are not made."""
    return next(check for check in checks() if check.name == name)


def test_what_is_optional_and_absent_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    found = check_named("ray")
    assert (found.ok, found.text) == (True, "absent: pip install 'simsam-batch[ray]'")


@pytest.mark.parametrize(
    ("version", "is_new_enough"),
    [("2.6", True), ("2.15.0+cu132", True), ("2.10", True), ("2.5.9", False), ("1.15.0+cu132", False)],
)
def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, version: str, is_new_enough: bool) -> None:
    """torch>=2.6 is what the package asks for, and as texts 2.15 comes before it."""
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "torch" else real(name))
    found = check_named("packages")
    assert found.ok == is_new_enough
    assert (f"torch {version} is older than 2.6" in found.text) != is_new_enough


def test_a_line_shows_the_mend_of_a_failure_alone() -> None:
    assert lines(Check("ray", ok=True, text="2.60.0", mend="unused")) == ["ok      ray            2.60.0"]
    assert lines(Check("ray", ok=False, text="broken", mend="do this")) == [
        "FAILED  ray            broken",
        "                       To mend it: do this",
    ]


@pytest.mark.parametrize("single_driver", [False, True])
def test_nothing_of_it_is_left_behind(out_url: str, tmp_path: Path, single_driver: bool) -> None:
    """Not even the folders that were made for it; what was there stays."""
    here = sorted(tmp_path.rglob("*"))
    assert all(check.ok for check in checks(f"{out_url}/a/b", backbone="descriptors", single_driver=single_driver))
    assert Folder(out_url).list() == []
    assert sorted(tmp_path.rglob("*")) == here
    Folder(out_url).replace(PROBE, b"{}")
    assert all(check.ok for check in checks(out_url, backbone="descriptors", single_driver=single_driver))
    assert [(info.name, Folder(out_url).read(info.name)) for info in Folder(out_url).list()] == [(PROBE, b"{}")]


def test_files_that_may_not_be_deleted_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StorageError("no right to delete")

    monkeypatch.setattr(Folder, "delete", refused)
    found = by_name(out=str(tmp_path / "out"))
    assert found["cleaning"].ok
    assert found["cleaning"].text == f"two small files stay in {tmp_path}/out/doctor: no right to delete"
