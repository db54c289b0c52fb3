"""The features stage on real files: every array is what timm's own model computes from the same pixels."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from result_rows import rows_of
from safetensors.torch import load_file, save_file

from simsam_batch.cli import run as simsam
from simsam_batch.runs.quarantine import run_in_quarantine
from simsam_batch.runs.schema import Shard
from simsam_batch.settings import resolve
from simsam_batch.stages.features.settings import FeaturesSettings
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.workers import spool
from simsam_batch.workers.models import resolve_models

NETWORK, PATCH, CHANNELS = "test_vit", 16, 64
FACETS, BLOCKS = ["token", "key", "query", "value"], [2, 5]
SIZES = [(64, 96), (96, 64), (70, 101), (64, 96), (128, 64)]
NAMES = [f"{number}.png" for number in range(len(SIZES))]
WORDS = "words.png"
ASKED = ["--facets", ",".join(FACETS), "--blocks", "2,-1", "--class-token"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` of several sizes, one of them a text, and ``vit.safetensors``, weights by chance."""
    home = tmp_path_factory.mktemp("features")
    (home / "photos").mkdir()
    for number, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(home / "photos" / name)
    (home / "photos" / WORDS).write_text("no picture " * 20)
    torch.manual_seed(0)
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, home / "vit.safetensors")
    return home


def arguments(home: Path, out: Path, *more: str) -> list[str]:
    network = ["--backbone", NETWORK, "--weights", str(home / "vit.safetensors"), "--resize", "native"]
    command = ["features", str(home / "photos"), str(out), *network, *ASKED, "--threads", "1", "--shard-size", "2"]
    return [*command, "--allow-failed", "1", *more]


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def finished(request: pytest.FixtureRequest, home: Path) -> Path:
    out = home / str(request.param)
    assert simsam(arguments(home, out, "--dtype", request.param, "--engine", "inline", "--quiet")) == 0
    return out


def arrays_of(out: Path, row: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a row, read by numpy alone."""
    with np.load(out / row["arrays_path"]) as file:
        mine = f"{row['arrays_member']}."
        return {name.removeprefix(mine): file[name] for name in file.files if name.startswith(mine)}


def by_timm(home: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """The same arrays, float32, from a model of timm that nothing was changed in, by hooks."""
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(home / "vit.safetensors"))
    with Image.open(home / "photos" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    grid = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    whole = torch.from_numpy(pixels[: grid[0] * PATCH, : grid[1] * PATCH].astype(np.float32) / 255)
    about = model.pretrained_cfg
    batch = ((whole - torch.tensor(about["mean"])) / torch.tensor(about["std"])).permute(2, 0, 1)[None]
    seen: dict[str, torch.Tensor] = {}
    for block in BLOCKS:
        at = model.blocks[block]
        at.register_forward_hook(lambda _m, _i, out, block=block: seen.update({f"token-{block}": out[0]}))
        at.attn.qkv.register_forward_hook(
            lambda _m, _i, out, block=block: seen.update(
                {
                    f"{facet}-{block}": part
                    for facet, part in zip(("query", "key", "value"), out[0].chunk(3, -1), strict=True)
                }
            )
        )
    with torch.no_grad():
        model.forward_features(batch)
    found = {name: tokens[1:].reshape(*grid, CHANNELS).numpy() for name, tokens in seen.items()}
    found |= {f"class-{name}": tokens[0].numpy() for name, tokens in seen.items()}
    lengths = {f"norm-{block}": np.linalg.norm(found[f"token-{block}"].astype(np.float64), axis=-1) for block in BLOCKS}
    return found | {name: each.astype(np.float32) for name, each in lengths.items()}


def test_every_array_is_what_timm_computes(home: Path, finished: Path) -> None:
    half = finished.name == "fp16"
    rows = {row["image_id"]: row for row in rows_of(finished, "features")}
    assert [*rows] == [*NAMES, WORDS]
    for name, (height, width) in zip(NAMES, SIZES, strict=True):
        row, expected = rows[name], by_timm(home, name)
        found = arrays_of(finished, row)
        assert {*found} == {*expected}
        assert (row["status"], row["grid_h"], row["grid_w"]) == ("ok", height // PATCH, width // PATCH)
        assert (row["width"], row["height"], row["patch"]) == (width, height, PATCH)
        for array, values in expected.items():
            assert found[array].shape == values.shape
            # norms are never rounded
            assert found[array].dtype == (np.float16 if half and not array.startswith("norm-") else np.float32)
            # half precision has 11 bits: rounding is off by at most 2^-11 of the value
            near = 2.0**-11 if found[array].dtype == np.float16 else 1e-5
            np.testing.assert_allclose(found[array].astype(np.float32), values, rtol=near, atol=1e-5)
        lengths = expected["norm-5"]
        assert row["outlier_tokens"] == int((lengths > 4 * np.median(lengths)).sum())


def test_an_image_that_fails_has_no_arrays_and_costs_no_other(finished: Path) -> None:
    row = rows_of(finished, "features")[-1]
    assert (row["image_id"], row["status"], row["error_type"]) == (WORDS, "failed", "not_an_image")
    assert row["arrays_path"] is None
    assert row["outlier_tokens"] is None
    result = json.loads((finished / "results/features.json").read_text())
    patches = sum((height // PATCH) * (width // PATCH) for height, width in SIZES)
    assert (result["images"], result["ok"], result["failed"]) == (6, 5, 1)
    assert result["metrics"]["patches"] == patches


def test_the_run_verifies(finished: Path) -> None:
    assert simsam(["verify", str(finished)]) == 0


def test_what_half_precision_cannot_hold_is_its_largest_number(home: Path) -> None:
    worker = stage_of(home).make_worker(lambda: None)
    values = torch.tensor([1e6, -1e6, 1.0])
    assert worker._kept(values).tolist() == [65504.0, -65504.0, 1.0]


def stage_of(home: Path, **more: Any) -> FeaturesStage:
    asked = {"backbone": NETWORK, "weights": str(home / "vit.safetensors"), "resize": "native", "device": "cpu"}
    settings = resolve(FeaturesSettings, {**asked, "facets": FACETS, "blocks": BLOCKS, **more})
    return FeaturesStage(settings, {"models": resolve_models(("taps",), settings)})


def shard_of(home: Path, names: list[str]) -> Shard:
    return Shard(0, pa.table({"image_id": names, "uri": [str(home / "photos" / name) for name in names]}))


def test_four_facets_of_two_blocks_take_one_pass(home: Path) -> None:
    worker = stage_of(home, batch_size=2).make_worker(lambda: None)
    calls: Counter[int] = Counter()
    for number, block in enumerate(worker.backbone._model.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.update([number]))
    (output,) = worker.run(iter([shard_of(home, ["0.png", "3.png"])]))
    # both images have one size, and so make one batch
    assert calls == dict.fromkeys(range(6), 1)
    assert [len(arrays) for arrays in output.attachments] == [10, 10]


@pytest.mark.slow
def test_a_process_for_each_image_gives_what_one_for_all_gives(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_BYTES", 0)
    stage, shard = stage_of(home, threads=1), shard_of(home, [*NAMES[:3], WORDS])
    (expected,) = stage.make_worker(lambda: None).run(iter([shard]))
    sent = pickle.loads(pickle.dumps(expected))
    alone = run_in_quarantine(stage, shard, lambda: None, 60.0)
    for output in (sent, alone):
        assert output.rows.to_pylist() == expected.rows.to_pylist()
        assert output.statistics == expected.statistics
        for found, arrays in zip(output.attachments, expected.attachments, strict=True):
            assert [*found] == [*arrays]
            for name, array in arrays.items():
                assert np.array_equal(found[name], array)


def digest_of(out: Path) -> str:
    return str(json.loads((out / "results/features.json").read_text())["content_digest"])


@pytest.mark.slow
@pytest.mark.parametrize("finished", ["fp16"], indirect=True)
def test_several_processes_write_the_same(home: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--dtype", finished.name, "--engine", "local", "--workers", "2", "--quiet"]
    assert simsam(arguments(home, out, *more)) == 0
    assert digest_of(out) == digest_of(finished)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(home: Path, tmp_path: Path) -> None:
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (320, 320, 3)).astype(np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02d}.png")
    (tmp_path / "vit.safetensors").symlink_to(home / "vit.safetensors")
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    more = ["--engine", "inline", "--quiet", "--shard-size", "1"]
    command = arguments(tmp_path, out, *more)
    process = subprocess.Popen([sys.executable, "-m", "simsam_batch", *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len([*out.glob("features/manifests/*.json")]) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait(timeout=20) == -signal.SIGKILL
    committed = len([*out.glob("features/manifests/*.json")])
    assert 0 < committed < 24
    assert not (out / "results").exists()
    assert simsam(command) == 0
    assert len([*out.glob("features/manifests/*.json")]) == 24
    assert simsam(["verify", str(out)]) == 0
    assert simsam(arguments(tmp_path, undisturbed, *more)) == 0
    assert digest_of(out) == digest_of(undisturbed)


def test_how_much_room_features_take_is_said_before_the_start(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(10):
        # of one number of patches, so that any sample tells
        size = (160, 192) if number % 2 else (192, 160)
        Image.new("RGB", size, (number, 50, 90)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "vit.safetensors").symlink_to(home / "vit.safetensors")
    assert simsam(arguments(tmp_path, tmp_path / "out", "--engine", "inline")) == 0
    said = re.search(r"features of 10 images will take about ([\d.]+) (kB|MB) in OUT", capsys.readouterr().err)
    assert said is not None
    expected = float(said[1]) * {"kB": 1e3, "MB": 1e6}[said[2]]
    # 120 patches of 8 vectors of 64 halves and 2 single norms
    exact = 10 * 120 * (8 * 64 * 2 + 2 * 4)
    assert expected == pytest.approx(exact, rel=0.05), "it is said in two digits"
    on_disk = sum(path.stat().st_size for path in (tmp_path / "out/features/data").iterdir())
    assert on_disk == pytest.approx(exact, rel=0.1)


def test_a_block_that_is_not_there_is_named_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [word if word != "2,-1" else "2,99" for word in arguments(home, tmp_path / "out", "--engine", "inline")]
    assert simsam(command) == 1
    assert "test_vit has blocks 0 to 5 (or -1 to -6 from the end), not 99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
