"""``simsam correspond diffusion`` with a tiny network of real classes: planted points, interruptions, wrong input."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
from PIL import Image
from result_rows import rows_of

pytest.importorskip("diffusers")

sys.path.append(str(Path(__file__).parent.parent / "correspondence"))

from tiny_diffusion import SIDE, blocks, save

from simsam_batch.cli import run as simsam
from simsam_batch.stages.embeddings import stage as embeddings

pytestmark = pytest.mark.usefixtures("one_thread")

POINTS = [[43.0, 83.0], [90.0, 30.0]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos``: ``a.png``, the same as ``b.bmp``, twice as wide as ``c.png``; and the network ``sd``."""
    home = tmp_path_factory.mktemp("diffusion")
    (home / "photos").mkdir()
    pixels = (blocks(0) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(home / "photos" / "a.png")
    Image.fromarray(pixels).save(home / "photos" / "b.bmp")
    Image.fromarray(pixels).resize((2 * SIDE, SIDE), Image.Resampling.NEAREST).save(home / "photos" / "c.png")
    save(home / "sd")
    return home


def pair(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, "source_points": POINTS, "target_points": POINTS} | more


def arguments(home: Path, out: Path, pairs: list[dict[str, Any]], *more: str) -> list[str]:
    source = out.parent / f"{out.name}.json"
    source.write_text(json.dumps(pairs))
    command = ["correspond", "diffusion", str(source), str(out), "--root", str(home / "photos")]
    network = ["--weights", str(home / "sd"), "--side", str(SIDE), "--threads", "1", "--quiet", "--allow-failed", "1"]
    quick = ["--starts", "2", "--steps", "3", "--crops", "5", "--learning-rate", ".05"]
    return [*command, *network, *quick, *more]


def result_of(out: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"results/{stage}.json").read_text())
    return found


MANY = [pair("a.png", "b.bmp"), pair("a.png", "c.png"), pair("c.png", "a.png", source_points=[[5.0, 5.0], POINTS[1]])]


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    out = home / "alone"
    assert simsam(arguments(home, out, MANY, "--engine", "inline")) == 0
    return out


@pytest.mark.slow
def test_points_are_found_in_a_copy_and_in_one_that_is_twice_as_wide(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wide = [[2 * x + 0.5, y] for x, y in POINTS]
    pairs = [pair("a.png", "b.bmp"), pair("a.png", "c.png", target_points=wide)]
    more = ["--steps", "100", "--crops", "6", "--engine", "inline", "--maps", "layers"]
    assert simsam(arguments(home, out, pairs, *more)) == 0
    metrics = result_of(out, "attention")["metrics"]
    lines = {(line["threshold"], line["average"]): line["pck"] for line in metrics["pck"]["lines"]}
    # a tenth of the image
    assert lines["image", "point"][3] == 1
    fitted = result_of(out, "embeddings")["metrics"]
    assert (fitted["points"], fitted["starts"]) == (2, 4)
    assert fitted["loss_last"] < 0.95 * fitted["loss_first"]
    first, second = rows_of(out, "attention")
    assert (first["source"], first["target"], first["identical"]) == ("a.png", "b.bmp", False)
    assert second["target_size"] == [2 * SIDE, SIDE]
    for point in (*first["points"], *second["points"]):
        assert point["similarity"] > 0
        assert point["mutual"] is None
        assert point["spread"] >= 0
    with np.load(out / first["arrays_path"]) as file:
        maps, layers = (file[f"{first['arrays_member']}.{name}"] for name in ("similarity", "layers"))
    assert (maps.shape, maps.dtype) == ((2, 128, 128), np.float16)
    assert (layers.shape, layers.dtype) == ((2, 2, 4, 64, 64), np.float16)
    # one half of the side: means of two by two pixels are what a bilinear filter comes near to
    halved = maps.astype(np.float64).reshape(2, 64, 2, 64, 2).mean(axis=(2, 4))
    assert layers[:, 1].astype(np.float64).mean(axis=1) == pytest.approx(halved, abs=0.02)
    for point, (x, y) in zip(layers[:, 0].astype(np.float64).mean(axis=1), POINTS, strict=True):
        down, across = np.unravel_index(point.argmax(), point.shape)
        assert np.hypot((across + 0.5) * SIDE / 64 - x, (down + 0.5) * SIDE / 64 - y) < SIDE / 10
    assert simsam(["verify", str(out)]) == 0
    assert simsam(["report", str(out)]) == 0
    assert len([*(out / "report").rglob("attention-*-small-*.jpg")]) == 2
    assert simsam(["export", str(out), "--format", "csv", "--to", str(tmp_path / "csv")]) == 0
    assert len((tmp_path / "csv/matches.csv").read_text().splitlines()) == 5


def test_every_point_is_fitted_once_however_many_pairs_ask_for_it(alone: Path) -> None:
    rows = rows_of(alone, "embeddings")
    assert [(row["source"], row["x"], row["y"]) for row in rows] == [
        ("a.png", 43, 83),
        ("a.png", 90, 30),
        ("c.png", 5, 5),
        ("c.png", 90, 30),
    ]
    with np.load(alone / rows[0]["arrays_path"]) as file:
        held = file[f"{rows[0]['arrays_member']}.embedding"]
    assert (held.shape, held.dtype) == ((2, 77, 16), np.float32)
    assert [len(row["points"]) for row in rows_of(alone, "attention")] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_every_engine_computes_the_same_bits(
    engine: str, home: Path, alone: Path, tmp_path: Path, run_on: Callable[[str, list[str]], None]
) -> None:
    out = tmp_path / "out"
    run_on(
        engine,
        [sys.executable, "-m", "simsam_batch", *arguments(home, out, MANY, "--shard-size", "1", "--workers", "2")],
    )
    for stage in ("embeddings", "attention"):
        # whatever shards they are in
        mine, other = (rows_of(each, stage) for each in (out, alone))
        for row in (*mine, *other):
            for name in ("arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"):
                row.pop(name)
        assert mine == other


def test_a_run_that_was_cut_off_goes_on_where_it_was(home: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = arguments(home, out, MANY, "--engine", "inline")
    assert simsam(command) == 0
    digests = [result_of(alone, stage)["content_digest"] for stage in ("embeddings", "attention")]
    assert [result_of(out, stage)["content_digest"] for stage in ("embeddings", "attention")] == digests
    import shutil

    shutil.rmtree(out / "results")
    (out / "attention/manifests/0000000.0.json").unlink()
    assert simsam(command) == 0
    assert [result_of(out, stage)["content_digest"] for stage in ("embeddings", "attention")] == digests


def test_half_of_the_starts_at_once_when_memory_runs_out(
    home: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    fit, parts = embeddings.fit, []

    def scarce(model: Any, latents: Any, point: Any, how: Any, seeds: Any, beat: Any) -> Any:
        parts.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit(model, latents, point, how, seeds, beat)

    monkeypatch.setattr(embeddings, "fit", scarce)
    out = tmp_path / "out"
    assert simsam(arguments(home, out, MANY, "--engine", "inline")) == 0
    assert parts == [2, *[1] * 8]
    for mine, other in zip(rows_of(out, "embeddings"), rows_of(alone, "embeddings"), strict=True):
        assert mine["loss_last"] == pytest.approx(other["loss_last"], rel=1e-5)


def test_wrong_input_is_named_and_costs_no_other_pair(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "photos" / "words.png").write_text("no picture")
    out = tmp_path / "out"
    pairs = [
        pair("a.png", "b.bmp", source_points=[[500.0, 5.0], POINTS[1]]),
        pair("a.png", "words.png"),
        pair("words.png", "a.png"),
        {"source": "b.bmp", "target": "a.png"},
        *[pair("a.png", "c.png")],
    ]
    assert simsam(arguments(home, out, pairs, "--engine", "inline")) == 0
    rows = {row["pair_id"]: row for row in rows_of(out, "attention")}
    assert [point["fault"] for point in rows["a.png:b.bmp"]["points"]] == ["outside", None]
    assert (rows["a.png:words.png"]["status"], rows["words.png:a.png"]["status"]) == ("failed", "failed")
    assert rows["b.bmp:a.png"]["points"] == []
    assert rows["a.png:c.png"]["status"] == "ok"
    counts = {"pairs": 5, "pairs_scored": 4, "pairs_failed": 2, "points_scored": 1 + 2 + 2 + 2, "points_failed": 4}
    metrics = result_of(out, "attention")["metrics"]
    assert {name: metrics[name] for name in counts} == counts
    capsys.readouterr()
    given = ("--weights", str(home / "sd"))
    no_weights = [word for word in arguments(home, tmp_path / "w", pairs) if word not in given]
    assert simsam(no_weights) == 1
    assert "weights: none are given" in capsys.readouterr().err
    assert simsam(arguments(home, tmp_path / "x", pairs, "--weights", str(home / "photos"))) == 1
    assert "lacks unet/config.json" in capsys.readouterr().err
    assert simsam(arguments(home, tmp_path / "y", pairs, "--layers", "up_blocks.9.attentions.0")) == 1
    assert "the UNet has no layer up_blocks.9.attentions.0; it has" in capsys.readouterr().err
    assert simsam(arguments(home, tmp_path / "z", pairs, "--side", "100")) == 1
    assert "give a multiple of 64" in capsys.readouterr().err
    assert not any((tmp_path / name).exists() for name in "wxyz")
    assert simsam(arguments(home, tmp_path / "v", [{"source": "a.png", "target": "b.bmp"}], "--engine", "inline")) == 1
    assert "no pair has points of its source" in capsys.readouterr().err


def test_a_target_that_its_storage_refuses_costs_its_own_pair(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simsam_batch import images
    from simsam_batch.errors import UnreadableError

    fetch = images.fetch

    def refused(uri: str, limits: Any) -> bytes:
        if uri.endswith("c.png"):
            raise UnreadableError(f"{uri}: 403", uri, refused=True)
        return fetch(uri, limits)

    monkeypatch.setattr(images, "fetch", refused)
    out = tmp_path / "out"
    assert simsam(arguments(home, out, MANY[:2], "--engine", "inline")) == 0
    rows = {row["pair_id"]: row for row in rows_of(out, "attention")}
    assert (rows["a.png:c.png"]["status"], rows["a.png:c.png"]["error_type"]) == ("failed", "unreadable")
    assert rows["a.png:b.bmp"]["status"] == "ok"


def test_the_published_code_is_a_preset(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert simsam(arguments(home, out, MANY[:1], "--engine", "inline", "--preset", "hedlin-code")) == 0
    settings = json.loads((out / "attention/stage.json").read_text())["settings"]
    published = {"heads": "half", "timestep": 140, "timestep_found": 40, "noise": "uniform"}
    published |= {"combine": "softmax", "gaussian": "published"}
    assert {name: settings[name] for name in published} == published
