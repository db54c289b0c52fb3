"""Runs by the published programs, scores by another network, and what identifies a network."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_fitting import SmallContent, SmallSeer
from tiny_networks import write_clip, write_vgg

from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.settings import resolve
from simsam_batch.stages.style_networks.settings import PRESETS, StylizeSettings
from simsam_batch.stages.style_networks.words import Words
from simsam_batch.stages.stylize.published import aim_of, check_looks, driven_by, why_never
from simsam_batch.stages.stylize.rows import StylizeFold, state_of
from simsam_batch.storage import Folder
from simsam_batch.styling.composite import alpha_of, composite
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Procedure, Region
from simsam_batch.styling.published import PROGRAMS, PublishedFit

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
WIDTH, HEIGHT = 97, 61


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a coloured thing and one of a single colour, masks in ``out``, and the weights of two CLIPs."""
    root = tmp_path_factory.mktemp("published")
    (root / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(90, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels[10:40, 30:60] = (220, 60, 30)
    Image.fromarray(pixels).save(root / "photos" / "thing.png")
    Image.new("RGB", (48, 48), (90, 90, 90)).save(root / "photos" / "flat.png")
    arguments = ["segment", str(root / "photos"), str(root / "out"), "--backbone", "descriptors", "--resize", "native"]
    run([*arguments, "--head", "none", "--engine", "inline", "--quiet"])
    write_clip(root)
    write_clip(root, "other-clip", seed=7)
    write_vgg(root)
    return root


def stylize(home: Path, out: Path, *more: str, clip: str = "tiny-clip.json") -> int:
    files = ["--clip", str(home / clip), "--clip-weights", str(home / "tiny-clip.safetensors")]
    files += ["--vgg-weights", str(home / "vgg19.safetensors")]
    quick = ["--side", "32", "--crops", "8", "--steps", "3", "--engine", "inline", "--quiet"]
    return run(["stylize", str(out), *files, *quick, *more])


def alone(home: Path, to: Path) -> Path:
    """The masks, without what was made of them."""
    return Path(shutil.copytree(home / "out", to / "out"))


def row_and_picture(out: Path, image: str = "thing.png") -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    rows = StageRows(Folder(str(out)), "stylize")
    row = next(row for _, row in rows.each() if row["image_id"] == image)
    file = rows.attachments(row)["picture"]
    assert isinstance(file, File)
    return row, np.asarray(Image.open(io.BytesIO(file.data)))


@pytest.mark.parametrize(
    ("preset", "words", "driven"),
    [
        ("clipstyler", ["--object", "fire"], [("object", "fire")]),
        ("sem-cs-single", ["--background", "snow"], [("background", "snow")]),
        # as published, either text drives the other region
        ("sem-cs-double", ["--object", "fire", "--background", "snow"], [("object", "snow"), ("background", "fire")]),
    ],
)
def test_published_programs_change_all_of_the_picture(
    home: Path, tmp_path: Path, preset: str, words: list[str], driven: list[tuple[str, str]]
) -> None:
    out = alone(home, tmp_path)
    assert stylize(home, out, "--preset", preset, *words) == 0
    row, picture = row_and_picture(out)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (row["working_width"], row["working_height"]) == (32, 32)
    assert [(style["region"], style["text"]) for style in row["styles"]] == driven
    for style in row["styles"]:
        assert (style["status"], style["steps"]) == ("styled", 3)
        assert -1 <= style["clip_direction"] <= 1
        assert (style["clip_direction_other"] is not None) == (len(driven) == 2)
    source = np.asarray(Image.open(home / "photos" / "thing.png"))
    if len(driven) == 1:
        differs = np.abs(picture.astype(int) - source).max(axis=2)
        assert row["leak_share"] > 0.9
        assert row["leak_max"] > 20
        assert differs.max() >= row["leak_max"]
    else:
        assert row["leak_share"] is None
    flat, same = row_and_picture(out, "flat.png")
    if preset == "clipstyler":
        # it knows no masks
        assert {style["status"] for style in flat["styles"]} == {"styled"}
    else:
        assert {style["status"] for style in flat["styles"]} == {"skipped"}
        assert np.array_equal(same, np.asarray(Image.open(home / "photos" / "flat.png")))
        assert flat["leak_max"] == 0


@pytest.mark.parametrize(
    ("method", "look"),
    [
        ("clipstyler", {"object": "fire", "background": "snow"}),
        ("sem-cs-single", {"object": "fire", "background": "snow"}),
        ("sem-cs-double", {"object": "fire"}),
        ("sem-cs-double", {"object": "fire", "label 3": "snow"}),
    ],
)
def test_texts_that_a_program_has_no_place_for_are_refused(method: str, look: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"method: {method} takes words for"):
        check_looks(method, [look])
    check_looks("regions", [look])


def test_presets_have_the_values_of_the_published_programs() -> None:
    def told(name: str) -> tuple[Any, ...]:
        found = resolve(StylizeSettings, {"preset": name, "object": "fire"})
        return found.steps, found.clip, found.source_text, found.content_weight, found.variation_weight

    assert told("clipstyler") == (201, "ViT-B-32-quickgelu", "a Photo", 150, 0.002)
    assert told("sem-cs-single") == (401, "ViT-B-32-quickgelu", "Night", 150, 0.002)
    assert told("sem-cs-double") == (401, "RN50-quickgelu", "a Photo", 600, 0.002)
    quick = resolve(StylizeSettings, {"preset": "quick"})
    assert (quick.method, quick.side, quick.crops, quick.steps) == ("regions", 256, 16, 100)
    assert {PRESETS[name]["method"] for name in PROGRAMS} == set(PROGRAMS)


def test_another_network_scores_and_says_so(home: Path, tmp_path: Path) -> None:
    own, other = alone(home, tmp_path / "a"), alone(home, tmp_path / "b")
    words = ["--object", "fire"]
    assert stylize(home, own, *words) == 0
    scoring = ["--score-clip", str(home / "other-clip.json")]
    assert stylize(home, other, *words, *scoring, "--score-clip-weights", str(home / "other-clip.safetensors")) == 0
    (mine, picture), (theirs, same) = row_and_picture(own), row_and_picture(other)
    assert np.array_equal(picture, same)
    assert mine["styles"][0]["clip_text"] != theirs["styles"][0]["clip_text"]
    assert mine["styles"][0]["loss_last"] == theirs["styles"][0]["loss_last"]
    names = {row["styles"][0]["scored_by"] for row in (mine, theirs)}
    # both are of one configuration
    assert len(names) == 1
    models = json.loads((other / "results/stylize.json").read_text())["resolved"]["models"]
    assert models["score_clip"]["weights_sha256"] != models["clip"]["weights_sha256"]
    assert "score_clip" not in json.loads((own / "results/stylize.json").read_text())["resolved"]["models"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--score-clip", "ViT-B-32"], "score_clip_weights: none are given"),
        (["--score-clip-weights", "x.safetensors"], "of which network"),
        (["--preset", "sem-cs-double"], "takes words for the object and for the background"),
        (["--preset", "clipstyler", "--feather", "3"], "feather: it has no effect with method 'clipstyler'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = alone(home, tmp_path)
    assert stylize(home, out, "--object", "fire", *more) == 1
    assert said in capsys.readouterr().err
    assert not (out / "stylize").exists()


def test_a_network_is_told_by_its_configuration_and_not_by_its_place(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = alone(home, tmp_path), home / "moved.json"
    assert stylize(home, out, "--object", "fire") == 0
    held = json.loads((home / "tiny-clip.json").read_text())
    moved.write_text(json.dumps(held, indent=4))
    assert stylize(home, out, "--object", "fire", clip="moved.json") == 0
    moved.write_text(json.dumps(held | {"quick_gelu": False}))
    capsys.readouterr()
    assert stylize(home, out, "--object", "fire", clip="moved.json") == 1
    assert "clip" in capsys.readouterr().err


HOW = Procedure(steps=4, crops=8, together=8, patience=0)
SIDE = 64


def thing() -> Mask:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:40, 8:40] = True
    return mask


def words_for(text: str, seed: int) -> Words:
    draw = torch.Generator().manual_seed(seed)
    feature = torch.nn.functional.normalize(torch.randn(24, generator=draw, dtype=torch.float64), dim=0)
    return Words(text, feature, feature)


def photograph() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), (SIDE, SIDE), mode="bilinear").double()


def in_regions(mask: Mask, of_object: Words, of_background: Words) -> np.ndarray[Any, Any]:
    image = photograph()
    picture = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    for region, words in ((mask, of_object), (~mask, of_background)):
        meant = Region(torch.from_numpy(region), words.direction, windows_of(region, 16), 8)
        fit = Fit(image, meant, SmallSeer(torch.float64), SmallContent(torch.float64), HOW, seed=len(words.text))
        for _ in range(HOW.steps):
            fit.update()
        restyled = (fit.restyled()[0].permute(1, 2, 0) * 255).round().byte().numpy()
        picture = composite(picture, restyled, alpha_of(region))
    return picture


def published(mask: Mask, of_object: Words, of_background: Words) -> np.ndarray[Any, Any]:
    masks = {"object": mask, "background": ~mask}
    driven = driven_by("sem-cs-double", {"object": of_object, "background": of_background})
    aim = aim_of("sem-cs-double", driven, masks)
    # all crops have one text, and go by the object: of the two views alone the published program is even-handed
    how = Procedure(steps=4, crops=8, patch=0, patience=0)
    fit = PublishedFit(
        photograph(), aim, SmallSeer(torch.float64), SmallContent(torch.float64), how, PROGRAMS["sem-cs-double"], 5
    )
    for _ in range(how.steps):
        fit.update()
    return fit.restyled().numpy()


def test_texts_and_polarity_swapped_together_give_the_same_picture_and_one_alone_another() -> None:
    fire, snow, mask = words_for("fire", 1), words_for("deep snow", 2), thing()
    for made, near in ((in_regions, 0), (published, 1e-9)):
        one = made(mask, fire, snow).astype(float)
        assert np.abs(one - made(~mask, snow, fire)).max() <= near
        assert np.abs(one - made(mask, snow, fire)).max() > 100 * near
        assert np.abs(one - made(~mask, fire, snow)).max() > 100 * near


@pytest.mark.parametrize("region", ["full", "one pixel"])
def test_masks_of_everything_and_of_one_pixel_end_without_nan(region: str) -> None:
    mask = np.ones((SIDE, SIDE), bool)
    if region == "one pixel":
        mask[:] = False
        mask[20, 30] = True
    meant = Region(torch.from_numpy(mask), words_for("fire", 1).direction, windows_of(mask, 16), 8)
    fit = Fit(photograph(), meant, SmallSeer(torch.float64), SmallContent(torch.float64), HOW, seed=1)
    for _ in range(3):
        fit.update()
    assert np.isfinite(fit.history.total).all()
    assert torch.isfinite(fit.restyled()).all()


def test_quantiles_of_a_region_are_those_of_its_images_to_half_a_bin() -> None:
    values = np.random.default_rng(0).normal(0.2, 0.3, 501).clip(-1, 1)
    fold = StylizeFold()
    states = [
        state_of(0, [{"region": "object", "text": "fire", "status": "styled", "clip_direction": float(value)}])
        for value in values
    ]
    merged = fold.zero()
    for state in states:
        merged = json.loads(json.dumps(fold.merge(merged, state)))
    told = fold.result(merged)["object: fire"]
    for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert told[f"clip_direction_{name}"] == pytest.approx(np.quantile(values, share), abs=0.01)
    assert told["clip_direction"] == pytest.approx(values.mean())
    assert told["patch_last_p50"] is None


def test_where_every_crop_has_the_other_side_the_program_would_not_end() -> None:
    small, how = np.zeros((SIDE, SIDE), bool), Procedure()
    small[30:33, 30:33] = True
    words = words_for("fire", 1)
    masks = {"object": small, "background": ~small}
    for method, name, ends in (
        ("sem-cs-single", "object", False),
        ("sem-cs-single", "background", True),
        ("clipstyler", "object", True),
    ):
        told = why_never(method, aim_of(method, {name: words}, masks), how)
        assert (told is None) == ends
