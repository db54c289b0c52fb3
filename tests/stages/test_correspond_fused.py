"""``simsam correspond`` with features of mirrored pictures, of other runs, and of Stable Diffusion."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from result_rows import rows_of
from safetensors.torch import save_file

from simsam_batch.cli import run as simsam
from simsam_batch.correspondence.descriptors import unit, with_context, with_context_mirrored
from simsam_batch.correspondence.matching import likeness
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.matches.described import completed
from simsam_batch.stages.matches.given import Given
from simsam_batch.stages.transfer.settings import TransferSettings
from simsam_batch.storage import Folder

sys.path.append(str(Path(__file__).parent.parent / "correspondence"))

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK, PATCH = "test_vit", 16
HEIGHT, WIDTH = 96, 128
POINTS = [[23.5, 7.5], [87.5, 39.5], [119.5, 87.5]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos``, ``m.png`` the mirror image of ``a.png``; ``vit.safetensors``, weights by chance; ``sd``, likewise."""
    home = tmp_path_factory.mktemp("fused")
    (home / "photos").mkdir()
    blocks = np.random.default_rng(0).integers(0, 255, (2, HEIGHT // PATCH, WIDTH // PATCH, 3)).astype(np.uint8)
    first, second = (Image.fromarray(each).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST) for each in blocks)
    first.save(home / "photos" / "a.png")
    first.save(home / "photos" / "b.bmp")
    ImageOps.mirror(first).save(home / "photos" / "m.png")
    second.save(home / "photos" / "c.png")
    torch.manual_seed(0)
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, home / "vit.safetensors")
    return home


def arguments(home: Path, out: Path, pairs: list[dict[str, Any]], *more: str) -> list[str]:
    source = out.parent / f"{out.name}.json"
    source.write_text(json.dumps(pairs))
    command = ["correspond", str(source), str(out), "--root", str(home / "photos"), "--resize", "native"]
    return [*command, "--threads", "1", "--quiet", "--allow-failed", "1", "--engine", "inline", *more]


def of_vit(home: Path, *blocks: int) -> list[str]:
    named = ["--blocks", ",".join(map(str, blocks))]
    return ["--backbone", NETWORK, "--weights", str(home / "vit.safetensors"), *named]


def features(home: Path, out: Path, resize: str, block: int) -> list[str]:
    command = ["features", str(home / "photos"), str(out), "--resize", resize, "--facets", "token", "--quiet"]
    return [*command, *of_vit(home, block)]


def pair(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, "source_points": POINTS, "target_points": POINTS} | more


def turned(points: list[list[float]]) -> list[list[float]]:
    return [[WIDTH - 1 - x, y] for x, y in points]


def digest(out: Path, stage: str = "matches") -> str:
    return str(json.loads((out / f"results/{stage}.json").read_text())["content_digest"])


EXACT = ["--window", "0", "--context", "none"]
DESCRIPTORS = ["--backbone", "descriptors"]


@pytest.mark.parametrize("network", ["descriptors", "vit"])
def test_a_picture_and_its_mirror_image_match_once_both_ways_are_looked_at(
    home: Path, tmp_path: Path, network: str
) -> None:
    chosen = DESCRIPTORS if network == "descriptors" else of_vit(home, 0)
    pairs = [pair("a.png", "m.png", target_points=turned(POINTS)), pair("a.png", "b.bmp")]
    out = tmp_path / "out"
    assert simsam(arguments(home, out, pairs, *chosen, *EXACT, "--mirrored")) == 0
    turned_round, copied = rows_of(out, "matches")
    assert (copied["mirrored"], turned_round["mirrored"]) == (False, True)
    metrics = json.loads((out / "results/matches.json").read_text())["metrics"]
    assert metrics["pairs_matched_mirrored"] == 1
    assert simsam(["report", str(out)]) == 0
    page = (out / "report" / "index.html").read_text()
    assert page.count("matched mirrored") >= 1
    assert "mirrored-" not in page.split("Shown are the features ")[1][:40]
    for row in (copied, turned_round):
        assert [(p["x"], p["y"]) for p in row["points"]] == [(p["true_x"], p["true_y"]) for p in row["points"]]
    # pictures as they are are less alike, by a network that knows left from right
    plain = tmp_path / "plain"
    assert simsam(arguments(home, plain, pairs, *chosen, *EXACT)) == 0
    assert [row["mirrored"] for row in rows_of(plain, "matches")] == [False, False]
    if network == "vit":
        means = [np.mean([p["similarity"] for p in rows_of(each, "matches")[0]["points"]]) for each in (out, plain)]
        assert means[0] > means[1]


def test_of_a_mirrored_source_the_other_side_is_looked_for(home: Path, tmp_path: Path) -> None:
    # what is the left ear of the one looks like the right ear of the other
    names = ["left_ear", "right_ear", "nose"]
    expected = turned([POINTS[1], POINTS[0], POINTS[2]])
    both = pair("a.png", "m.png", point_names=names, target_points=expected)
    # the other ear is not to be seen: the left one is looked for as it is
    one = pair("b.bmp", "m.png", point_names=names, source_points=[POINTS[0], None, POINTS[2]])
    out = tmp_path / "out"
    assert simsam(arguments(home, out, [both, one], *DESCRIPTORS, *EXACT, "--mirrored", "--maps", "fp16")) == 0
    first, second = rows_of(out, "matches")
    assert (first["mirrored"], second["mirrored"]) == (True, True)
    assert [[p["x"], p["y"]] for p in first["points"]] == expected
    assert [second["points"][1]["x"], second["points"][1]["y"]] == turned([POINTS[2]])[0]
    # maps are those of the features that a point was looked for by: alone in its row it is the same
    maps = StageRows(Folder(str(out)), "matches").arrays(second)["similarity"]
    plain = tmp_path / "plain"
    assert simsam(arguments(home, plain, [one], *DESCRIPTORS, *EXACT, "--maps", "fp16")) == 0
    (alone,) = rows_of(plain, "matches")
    of_alone = StageRows(Folder(str(plain)), "matches").arrays(alone)["similarity"]
    np.testing.assert_array_equal(maps[0], of_alone[0])
    assert (maps[1] != of_alone[1]).any()


def test_the_other_side_of_points() -> None:
    record = {
        "source_points": [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0], [7.0, 8.0]],
        "target_points": None,
        "point_names": ["left eye", "right eye", "left ear", "right ear", "nose"],
    }
    places, known = Given.of(record).on_the_other_side()
    assert known.tolist() == [True, True, False, True]
    assert places[known].tolist() == [[3, 4], [1, 2], [7, 8]]
    # of two animals in one pair nobody knows whose is whose
    twice = {**record, "point_names": ["left eye", "right eye", "nose", "left eye", "right eye"]}
    assert Given.of(twice).on_the_other_side()[1].tolist() == [False, False, False, False]
    one_side = {**record, "point_names": ["left eye", "right eye", "nose", "left eye", "chin"]}
    assert Given.of(one_side).on_the_other_side()[1].tolist() == [False, False, False, True]
    assert Given.at(np.array([[1.0, 2.0]])).on_the_other_side()[0].tolist() == [[1, 2]]


def test_context_of_the_mirrored_picture_is_that_of_the_picture_turned_round() -> None:
    features = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(with_context_mirrored(features).flip(1), with_context(features.flip(1)))
    # so that a picture with mirrored features is as like its mirror image as to itself
    mirrored = with_context_mirrored(features)
    assert likeness(mirrored, with_context(features.flip(1))) == pytest.approx(1, abs=1e-6)
    assert likeness(unit(features), unit(features)) == pytest.approx(1, abs=1e-6)
    assert likeness(with_context(features), with_context(features.flip(1))) < 0.95


def test_blocks_of_two_runs_fused_are_those_of_one(home: Path, tmp_path: Path) -> None:
    pairs = [pair("a.png", "b.bmp"), pair("a.png", "c.png")]
    together, second, fused = tmp_path / "together", tmp_path / "second", tmp_path / "fused"
    assert simsam(arguments(home, together, pairs, *of_vit(home, 1, 2))) == 0
    # another order of the images, and more of them
    assert simsam(features(home, second, "native", 2)) == 0
    assert simsam(arguments(home, fused, pairs, *of_vit(home, 1), "--fuse", str(second))) == 0
    for one, other in zip(rows_of(fused, "matches"), rows_of(together, "matches"), strict=True):
        for name in ("x", "y", "similarity", "margin", "returned"):
            values = [[point[name] for point in row["points"]] for row in (one, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-3), name
    assert simsam(["verify", str(fused)]) == 0
    # features at another size, a little off
    smaller, off = tmp_path / "smaller", tmp_path / "off"
    assert simsam(features(home, smaller, "short:80", 2)) == 0
    assert simsam(arguments(home, off, pairs, *of_vit(home, 1), "--fuse", f"{second},{smaller}")) == 0
    assert [point["right"] for point in rows_of(off, "matches")[0]["points"]] == [True] * 3
    assert digest(off) != digest(fused)


def test_what_cannot_be_fused_is_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [pair("a.png", "b.bmp"), pair("a.png", "c.png")]
    other, out = tmp_path / "other", tmp_path / "out"
    photos = tmp_path / "photos"
    shutil.copytree(home / "photos", photos)
    (photos / "b.bmp").unlink()
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(photos / "c.png")
    assert simsam(["features", str(photos), str(other), "--backbone", "descriptors", "--resize", "native"]) == 0
    cases = [
        (["--fuse", str(tmp_path / "nothing")], "has no stage features"),
        (["--fuse", str(out)], "is OUT itself"),
        (["--fuse", str(other), "--mirrored"], "differ in --mirrored"),
    ]
    for more, said in cases:
        assert simsam(arguments(home, out, pairs, *DESCRIPTORS, *more)) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    # images that the other run has not, or that were others then, fail, and are named
    assert simsam(arguments(home, out, pairs, *DESCRIPTORS, "--fuse", str(other))) == 0
    rows = rows_of(out, "matches")
    assert [(row["status"], row["error_type"]) for row in rows] == [("failed", "not_found"), ("failed", "changed")]
    assert "has no image of this name" in rows[0]["error"]
    # tried again it is fused with the same run, which still has not got them
    assert simsam(["retry", str(out)]) == 3
    assert [row["error_type"] for row in rows_of(out, "matches")] == ["not_found", "changed"]
    # gone on with otherwise it is refused
    assert simsam(arguments(home, out, pairs, *DESCRIPTORS)) == 1
    assert "fused" in capsys.readouterr().err


def test_a_stage_that_was_begun_without_others_is_tried_again_without_them(home: Path, tmp_path: Path) -> None:
    pairs = [pair("a.png", "b.bmp"), pair("a.png", "missing.png")]
    other, out = tmp_path / "other", tmp_path / "out"
    assert simsam(["features", str(home / "photos"), str(other), "--backbone", "descriptors", "--quiet"]) == 0
    assert simsam(arguments(home, out, pairs, *DESCRIPTORS, "--fuse", str(other))) == 0
    # as if it had been stopped after the features, and gone on with otherwise
    shutil.rmtree(out / "matches")
    shutil.rmtree(out / "results/matches")
    (out / "results/matches.json").unlink()
    assert simsam(arguments(home, out, pairs, *DESCRIPTORS)) == 0
    assert simsam(["retry", str(out)]) == 3
    assert [row["error_type"] for row in rows_of(out, "matches")] == [None, "not_found"]


@pytest.fixture(scope="module")
def diffusion(home: Path) -> list[str]:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tiny_diffusion import save, save_prompts

    save(home / "sd")
    save_prompts(home / "sd")
    return ["--backbone", "diffusion", "--weights", str(home / "sd"), "--draws", "2"]


def test_stable_diffusion_describes_patches(home: Path, diffusion: list[str], tmp_path: Path) -> None:
    pairs = [pair("a.png", "b.bmp"), pair("c.png", "b.bmp")]
    out = tmp_path / "out"
    assert simsam(arguments(home, out, pairs, *diffusion)) == 0
    first, second = rows_of(out, "matches")
    # noise is each picture's own, so that a copy is not found to the last bit
    assert sum(point["right"] for point in first["points"]) >= 2
    assert first["points"][0]["similarity"] > second["points"][0]["similarity"]
    record = json.loads((out / "features/stage.json").read_text())
    assert record["settings"]["blocks"] == [1]
    facts = record["resolved"]["models"]["taps"]
    assert (facts["patch"], facts["channels_of"]) == (PATCH, {"token-1": 16})
    assert json.loads((out / "matches/stage.json").read_text())["settings"]["context"] == "none"
    # the prompt counts; half precision is told by what computed so
    told = tmp_path / "told"
    assert simsam(arguments(home, told, pairs, *diffusion, "--prompt", "a cat", "--precision", "bf16")) == 0
    made = [json.loads(next((each / "features/manifests").glob("*.json")).read_text()) for each in (out, told)]
    assert ["fp32" in json.dumps(made[0]), "bf16" in json.dumps(made[1])] == [True, True]
    assert digest(told, "features") != digest(out, "features")
    # for labels carried over they are compared alone too
    assert completed(TransferSettings(backbone="diffusion"), "out").context == "none"
    assert completed(TransferSettings(), "out").context == "log-bins"
    # beside a ViT
    fused = tmp_path / "fused"
    assert simsam(arguments(home, fused, pairs, *of_vit(home, 1), "--fuse", str(out))) == 0
    assert digest(fused) not in (digest(out), digest(told))
    assert [point["right"] for point in rows_of(fused, "matches")[0]["points"]] == [True] * 3


@pytest.mark.slow
def test_another_engine_draws_the_same_noise(
    home: Path, diffusion: list[str], tmp_path: Path, run_on: Callable[[str, list[str]], None]
) -> None:
    pairs = [pair("a.png", "b.bmp"), pair("c.png", "b.bmp"), pair("m.png", "c.png")]
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert simsam(arguments(home, alone, pairs, *diffusion, "--shard-size", "1", "--mirrored")) == 0
    command = arguments(home, out, pairs, *diffusion, "--shard-size", "1", "--mirrored", "--workers", "1")
    run_on("local", [sys.executable, "-m", "simsam_batch", *command])
    assert [digest(out, each) for each in ("features", "matches")] == [
        digest(alone, each) for each in ("features", "matches")
    ]


def test_what_diffusion_has_not_is_named(
    home: Path, diffusion: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_diffusion import save_prompts

    pairs = [pair("a.png", "b.bmp")]
    other = tmp_path / "other"
    shutil.copytree(home / "sd", other)
    shutil.rmtree(other / "text_encoder")
    shutil.rmtree(other / "tokenizer")
    save_prompts(other, 24)
    bare = tmp_path / "bare"
    shutil.copytree(home / "sd", bare)
    shutil.rmtree(bare / "tokenizer")
    cases = [
        (["--facets", "query"], "give --facets token"),
        (["--blocks", "4"], "has up blocks 0 to 3"),
        (["--weights", str(bare)], "lacks tokenizer, which a prompt is read by"),
        (["--weights", str(tmp_path)], "lacks unet/config.json"),
        (["--weights", str(other)], "its networks do not fit each other"),
        (["--class-token"], "class_token: it has no effect with backbone 'diffusion'"),
    ]
    for more, said in cases:
        assert simsam(arguments(home, tmp_path / "out", pairs, *diffusion, *more)) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert simsam(arguments(home, tmp_path / "out", pairs, "--backbone", "diffusion")) == 1
    assert "name a folder in the layout of diffusers" in " ".join(capsys.readouterr().err.split())
    assert simsam(arguments(home, tmp_path / "out", pairs, *DESCRIPTORS, "--prompt", "a cat")) == 1
    assert "prompt: it has no effect with backbone 'descriptors'" in " ".join(capsys.readouterr().err.split())
    assert simsam(["segment", str(home / "photos"), str(tmp_path / "out"), *diffusion[:4]]) == 1
    assert "name a ViT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
