"""``simsam stylize`` on real masks with tiny networks: pictures, rows, what is left alone, and what is refused."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from result_rows import rows_of
from tiny_networks import write_clip, write_vgg

from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.run import open_run
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.stages.style_networks.looks import read_looks
from simsam_batch.storage import Folder
from simsam_batch.styling.fitting import Fit

SIZES = [(97, 61), (64, 80), (50, 50)]
QUICK = ["--side", "32", "--crops", "4", "--steps", "4", "--engine", "inline", "--quiet"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a coloured thing in each, their masks in ``out``, and the weights of tiny networks."""
    root = tmp_path_factory.mktemp("stylize")
    (root / "photos").mkdir()
    for number, (width, height) in enumerate(SIZES):
        drawn = np.random.default_rng(number)
        pixels = drawn.integers(90, 120, (height, width, 3)).astype(np.uint8)
        pixels[height // 4 : 3 * height // 4, width // 3 : 2 * width // 3] = (220, 60, 30)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.png")
    # of one colour: its mask is degenerate
    Image.new("RGB", (48, 48), (90, 90, 90)).save(root / "photos" / "flat.png")
    (root / "photos" / "text.png").write_bytes(b"no picture")
    arguments = ["segment", str(root / "photos"), str(root / "out"), "--backbone", "descriptors", "--resize", "native"]
    run([*arguments, "--head", "none", "--engine", "inline", "--quiet", "--shard-size", "2"])
    write_clip(root)
    write_vgg(root)
    return root


def weights(home: Path) -> list[str]:
    networks = {"clip": "tiny-clip.json", "clip-weights": "tiny-clip.safetensors", "vgg-weights": "vgg19.safetensors"}
    return [word for name, file in networks.items() for word in (f"--{name}", str(home / file))]


def stylize(home: Path, out: Path, *more: str) -> int:
    return run(["stylize", str(out), *weights(home), *QUICK, *more])


@pytest.fixture(scope="module")
def styled(home: Path) -> Path:
    """Both sides in words of their own."""
    stylize(home, home / "out", "--object", "fire", "--background", "snow")
    return home / "out"


def pictures(out: Path, name: str = "picture") -> list[np.ndarray[Any, Any] | None]:
    rows = StageRows(Folder(str(out)), "stylize")
    found: list[np.ndarray[Any, Any] | None] = []
    for _, row in rows.each():
        file = rows.attachments(row).get(name) if row["status"] == "ok" else None
        found.append(np.asarray(Image.open(io.BytesIO(file.data))) if isinstance(file, File) else None)
    return found


def test_each_region_has_its_words_and_its_figures(styled: Path) -> None:
    rows = {row["image_id"]: row for row in rows_of(styled, "stylize")}
    for number, (width, height) in enumerate(SIZES):
        row = rows[f"{number}.png"]
        assert (row["width"], row["height"]) == (width, height)
        assert min(row["working_width"], row["working_height"]) == 32
        assert [(style["region"], style["text"], style["status"]) for style in row["styles"]] == [
            ("object", "fire", "styled"),
            ("background", "snow", "styled"),
        ]
        for style in row["styles"]:
            assert style["steps"] == 4
            assert -1 <= style["clip_direction"] <= 1
            assert style["content_inside"] > 0
    assert rows["text.png"]["status"] == "failed"
    told = json.loads((styled / "results/stylize.json").read_text())["metrics"]
    assert (
        told["object: fire"]["styled"]
        == told["images_styled"]
        == sum(any(style["status"] == "styled" for style in row["styles"] or ()) for row in rows.values())
    )


def test_a_mask_that_means_nothing_leaves_the_image_as_it_is(styled: Path) -> None:
    row = next(row for row in rows_of(styled, "stylize") if row["image_id"] == "flat.png")
    assert row["status"] == "ok"
    assert {style["skip_reason"] for style in row["styles"]} <= {
        "the mask is degenerate",
        "nothing of the image is in it",
    }
    assert {style["status"] for style in row["styles"]} == {"skipped"}
    assert row["leak_max"] == 0


def test_outside_of_what_is_restyled_no_pixel_differs(home: Path, styled: Path, tmp_path: Path) -> None:
    out = alone(home, tmp_path)
    assert stylize(home, out, "--object", "fire") in (0, 3)
    masks = {row["image_id"]: row for row in rows_of(out, "segment")}
    for row, picture in zip(rows_of(out, "stylize"), pictures(out), strict=True):
        if picture is None:
            continue
        source = np.asarray(Image.open(home / "photos" / row["image_id"]).convert("RGB"))
        mask = decode(masks[row["image_id"]]["mask_rle"]).astype(bool)
        assert np.array_equal(picture[~mask], source[~mask])
        assert row["leak_max"] == 0
        if row["styles"][0]["status"] == "styled":
            assert not np.array_equal(picture[mask], source[mask])


def alone(home: Path, to: Path) -> Path:
    """The masks, without what was made of them."""
    import shutil

    def others(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith("stylize")]

    return Path(shutil.copytree(home / "out", to / "out", ignore=others))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "nothing is to be restyled"),
        (["--label", "grass"], 'is no label with words. To mend it: write it as "7=a lawn"'),
        (["--label", "2=fire", "--label", "2=snow"], "label: 2 is given twice"),
        (["--label", "2=fire"], "the stage stylize reads semantic, which"),
        (["--object", "a Photo"], "means the same as --source-text"),
        (["--object", "word " * 80], "is too long"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_before_anything_is_written(
    home: Path, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = alone(home, tmp_path)
    assert stylize(home, out, *more) == 1
    assert said in capsys.readouterr().err
    assert not (out / "stylize").exists()


TEXTS = [
    ("words.txt", "fire\n\n  snow \n", [{"object": "fire"}, {"object": "snow"}]),
    (
        "words.csv",
        "object,background,3\nfire,,\n,snow,gold\n",
        [{"object": "fire"}, {"background": "snow", "label 3": "gold"}],
    ),
    (
        "words.jsonl",
        '{"object": "fire", "background": null}\n\n{"label 3": "gold, and more"}\n',
        [{"object": "fire"}, {"label 3": "gold, and more"}],
    ),
]


@pytest.mark.parametrize(("name", "text", "looks"), TEXTS)
def test_a_file_of_texts_says_what_each_picture_is_of(
    tmp_path: Path, name: str, text: str, looks: list[dict[str, str]]
) -> None:
    (tmp_path / name).write_text(text)
    assert read_looks(str(tmp_path / name)) == looks


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("words.txt", "\n \n", "has no words"),
        ("words.txt", "fire\nfire\n", "is there twice"),
        ("words.csv", "sky\nblue\n", "has 'sky'. To mend it: name object, background or the number of a label"),
        ("words.jsonl", "fire\n", "line 1 is no JSON"),
        ("words.jsonl", '"fire"\n', "line 1 is no object"),
        ("words.txt", b"\xff\xfe\x00", "cannot be read"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused_by_name(
    tmp_path: Path, name: str, text: str | bytes | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SettingsError, match=re.escape(said)) as refused:
        read_looks(str(tmp_path / name))
    assert name in str(refused.value)


def test_several_texts_make_a_picture_each_and_each_is_what_it_is_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.csv").write_text("object,background\nfire,\nsnow,\nfire,snow\n")
    texts = ["--texts", str(tmp_path / "words.csv")]
    out = alone(home, tmp_path)
    assert stylize(home, out, *texts, "--object", "ice") == 1
    assert "texts stands in the place of object, background and label" in capsys.readouterr().err
    assert stylize(home, out, *texts) in (0, 3)
    row = rows_of(out, "stylize")[0]
    assert [(style["picture"], style["region"], style["text"]) for style in row["styles"]] == [
        ("picture-1", "object", "fire"),
        ("picture-2", "object", "snow"),
        ("picture-3", "object", "fire"),
        ("picture-3", "background", "snow"),
    ]
    (tmp_path / "alone").mkdir()
    one = alone(home, tmp_path / "alone")
    assert stylize(home, one, "--object", "snow") in (0, 3)
    for first, second in zip(pictures(out, "picture-2"), pictures(one), strict=True):
        assert (first is None and second is None) or np.array_equal(first, second)
    # gone on with, the file need not be there any more to say that all is done
    assert stylize(home, out, *texts) in (0, 3)
    assert run(["report", str(out)]) == 0


def test_labels_of_a_semantic_run_are_restyled_and_nothing_else_is(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["semantic", str(home / "photos"), str(out), "--backbone", "descriptors", "--resize", "native"]
    run([*arguments, "--head", "none", "--clusters", "2", "--engine", "inline", "--quiet", "--shard-size", "2"])
    assert stylize(home, out, "--label", "1=fire", "--label", "2=snow") in (0, 3)
    maps = {row["image_id"]: row for row in rows_of(out, "semantic")}
    styled_somewhere = False
    for row, picture in zip(rows_of(out, "stylize"), pictures(out), strict=True):
        if picture is None:
            continue
        source = np.asarray(Image.open(home / "photos" / row["image_id"]).convert("RGB"))
        there = {
            segment["label"]: decode(segment["mask_rle"]).astype(bool) for segment in maps[row["image_id"]]["segments"]
        }
        assert row["area_fraction"] is None
        left = np.ones(source.shape[:2], bool)
        for style in row["styles"]:
            label = int(style["region"].removeprefix("label "))
            assert (style["status"] == "styled") == (label in there and not there[label].all())
            if style["status"] == "styled":
                left &= ~there[label]
                styled_somewhere = True
            elif label not in there:
                assert style["skip_reason"] == "nothing of the image is in it"
        assert np.array_equal(picture[left], source[left])
        assert row["leak_max"] == 0
    assert styled_somewhere
    assert run(["report", str(out)]) == 0
    assert "before, its regions, and after, label " in (out / "report/index.html").read_text()


# on the local engine images restyled by themselves are among those of `test_style_networks_of_run`
@pytest.mark.soak
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_every_engine_makes_the_same_bits(home: Path, styled: Path, tmp_path: Path, engine: str) -> None:
    out = alone(home, tmp_path)
    words = ["--object", "fire", "--background", "snow", "--engine", engine, "--workers", "2"]
    assert stylize(home, out, *words) in (0, 3)
    digests = [json.loads((each / "results/stylize.json").read_text())["content_digest"] for each in (out, styled)]
    assert digests[0] == digests[1]


def test_transparent_and_grey_images_are_restyled_and_too_small_ones_say_so(home: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = Image.open(home / "photos/0.png")
    transparent = pixels.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.tile(np.arange(97) > 20, (61, 1)).astype(np.uint8) * 255))
    for name, image in (("alpha", transparent), ("grey", pixels.convert("L")), ("thin", pixels.resize((97, 9)))):
        image.save(tmp_path / f"photos/{name}.png")
    out = tmp_path / "out"
    arguments = ["segment", str(tmp_path / "photos"), str(out), "--backbone", "descriptors", "--resize", "native"]
    run([*arguments, "--head", "none", "--engine", "inline", "--quiet"])
    assert stylize(home, out, "--object", "fire") == 3
    rows = rows_of(out, "stylize")
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert "97x9 pixels" in rows[2]["error"]
    for row, picture in zip(rows[:2], pictures(out), strict=False):
        assert row["styles"][0]["status"] == "styled"
        assert row["leak_max"] == 0
        assert picture is not None
        assert picture.shape == (61, 97, 3)


def test_an_image_that_memory_runs_out_for_says_so_and_others_go_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = alone(home, tmp_path), Fit.update

    def update(fit: Fit) -> None:
        if fit.step and fit.restyled().shape[-2:] == (32, 48):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nand more")
        whole(fit)

    monkeypatch.setattr(Fit, "update", update)
    assert stylize(home, out, "--object", "fire") == 3
    rows = {row["image_id"]: row for row in rows_of(out, "stylize")}
    assert rows["0.png"]["error_type"] == "not_computable"
    assert rows["0.png"]["error"].startswith(
        "memory ran out with 64 crops at once (CUDA out of memory. Tried to allocate"
    )
    assert "--together" in rows["0.png"]["error"]
    assert rows["1.png"]["styles"][0]["status"] == rows["2.png"]["styles"][0]["status"] == "styled"
    # and once there is enough, it is mended
    monkeypatch.setattr(Fit, "update", whole)
    assert run(["retry", str(out), "--engine", "inline", "--quiet"]) == 3
    assert rows_of(out, "stylize")[0]["status"] == "ok"


def test_without_weights_it_does_not_start(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = alone(home, tmp_path)
    assert run(["stylize", str(out), *QUICK, "--object", "fire"]) == 1
    assert "--clip-weights FILE" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.styling.fitting import Fit
whole, left = Fit.update, [7]
def update(fit):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(fit)
Fit.update = update
sys.exit(run(sys.argv[1:]))
"""
"""The program, killed at its eighth update: the first region of six has been done, and of the second three."""


def test_a_killed_run_goes_on_inside_an_image_to_the_same_bits(
    home: Path, styled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, updates = alone(home, tmp_path), list[int]()
    words = ["--object", "fire", "--background", "snow", "--checkpoint-steps", "2"]
    command = ["stylize", str(out), *weights(home), *QUICK, *words]
    assert subprocess.run([sys.executable, "-c", KILLED, *command], check=False).returncode == -signal.SIGKILL
    assert len(list((out / "stylize/checkpoints").iterdir())) == 2
    whole = Fit.update

    def counted(fit: Fit) -> None:
        updates.append(fit.step)
        whole(fit)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "update", counted)
        assert run(command) in (0, 3)
    # of six regions with four updates each
    assert len(updates) == 24 - 4 - 2
    assert updates.count(0) == 4
    digests = [json.loads((each / "results/stylize.json").read_text())["content_digest"] for each in (out, styled)]
    assert digests[0] == digests[1]
    assert not list((out / "stylize/checkpoints").iterdir())
    assert run(["verify", str(out)]) == 0


def test_the_run_is_opened_and_reported(styled: Path) -> None:
    assert "stylize" in open_run(str(styled)).stages
    assert run(["report", str(styled)]) == 0
    assert list((styled / "report").rglob("stylize-*-small*"))
