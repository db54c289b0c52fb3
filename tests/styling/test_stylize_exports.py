"""Restyled images as others read them: with their own readers, byte by byte against the attachments of the run."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_networks import write_clip, write_vgg

from simsam_batch.cli import run
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.storage import Folder

IDS = ["a/b.png", "a/b.jpg", "flat.png", "words.png"]
"""The first two share a stem; of the third nothing is restyled, and the last is no image."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both sides in words of their own."""
    home = tmp_path_factory.mktemp("restyled")
    (home / "photos/a").mkdir(parents=True)
    for number, image_id in enumerate(IDS[:2]):
        pixels = np.random.default_rng(number).integers(90, 120, (40, 56, 3)).astype(np.uint8)
        pixels[10:30, 15:40] = (220, 60, 30)
        Image.fromarray(pixels).save(home / "photos" / image_id)
    Image.new("RGB", (48, 48), (90, 90, 90)).save(home / "photos/flat.png")
    (home / "photos/words.png").write_bytes(b"no picture")
    quick = ["--engine", "inline", "--quiet"]
    run(["segment", str(home / "photos"), str(home / "out"), "--backbone", "descriptors", "--resize", "native", *quick])
    (config, clip), vgg = write_clip(home), write_vgg(home)
    weights = ["--clip", str(config), "--clip-weights", str(clip), "--vgg-weights", str(vgg)]
    words = ["--object", "fire", "--background", "snow", "--side", "32", "--crops", "4", "--steps", "2"]
    assert run(["stylize", str(home / "out"), *weights, *words, *quick]) == 3
    return home / "out"


def attached(out: Path) -> dict[str, bytes]:
    """The picture of every image that is ok, by its id."""
    rows = StageRows(Folder(str(out)), "stylize")
    found = {}
    for _, row in rows.each():
        if row["status"] == "ok":
            file = rows.attachments(row)["picture"]
            assert isinstance(file, File)
            found[row["image_id"]] = file.data
    return found


def styles(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {row["image_id"]: row["styles"] for _, row in StageRows(Folder(str(out)), "stylize").each()}


def exported(out: Path, to: Path, form: str, *more: str) -> dict[str, Any]:
    assert run(["export", str(out), "--to", str(to), "--format", form, "--stage", "stylize", *more]) == 0
    record: dict[str, Any] = json.loads((to / "export.json").read_text())
    return record


def test_pictures_are_the_attachments_under_the_names_of_their_images(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = exported(out, tmp_path / "to", "pictures")
    with (tmp_path / "to/index.csv").open(encoding="utf-8", newline="") as file:
        files = {row["image_id"]: row["file"] for row in csv.DictReader(file)}
    assert files == {
        "a/b.jpg": "picture/a/b%2Ejpg.png",
        "a/b.png": "picture/a/b%2Epng.png",
        "flat.png": "",
        "words.png": "",
    }
    for image_id, data in attached(out).items():
        if files[image_id]:
            assert (tmp_path / "to" / files[image_id]).read_bytes() == data
    assert {path.name for path in (tmp_path / "to").rglob("*.png")} == {"b%2Ejpg.png", "b%2Epng.png"}
    assert [record[each] for each in ("images", "ok", "failed", "not_restyled", "complete")] == [4, 2, 1, 1, True]
    said = capsys.readouterr()
    assert "1 of 4 with nothing restyled, as their rows say: 'flat.png'" in said.out + said.err


def test_datasets_loads_the_pictures_with_their_texts(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    exported(out, tmp_path / "to", "hf")
    data = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(data["image_id"]) == sorted(IDS[:2])
    pictures, regions = attached(out), styles(out)
    for each in data:
        expected = np.asarray(Image.open(io.BytesIO(pictures[each["image_id"]])))
        assert np.array_equal(np.asarray(each["image"]), expected)
        assert each["text"] == "object: fire, background: snow"
        assert [(region["region"], region["text"], region["status"]) for region in each["regions"]] == [
            ("object", "fire", "styled"),
            ("background", "snow", "styled"),
        ]
        assert [region["clip_direction"] for region in each["regions"]] == [
            style["clip_direction"] for style in regions[each["image_id"]]
        ]
        assert each["uri"].endswith(f"photos/{each['image_id']}")
    for file in (tmp_path / "to/data").rglob("*.png"):
        assert file.read_bytes() in pictures.values()
    text = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    text = text.partition("## Restyled images")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    exec(compile(snippet.replace('"restyled"', repr(str(tmp_path / "to"))), "docs/export.md", "exec"), names)
    assert (names["picture"].size, names["words"]) == ((56, 40), "object: fire, background: snow")
    assert "2 pictures of 2 images" in (tmp_path / "to/README.md").read_text()
    assert "1 failed, 1 not restyled" in (tmp_path / "to/README.md").read_text()


def test_webdataset_reads_each_picture_with_its_facts(out: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    exported(out, tmp_path / "to", "webdataset")
    shard = str(tmp_path / "to/samples-000000.tar")
    pictures = attached(out)
    found = list(wds.WebDataset(shard, shardshuffle=False).decode("pil"))
    assert {sample["json"]["image_id"] for sample in found} == set(IDS[:2])
    for sample in found:
        facts = sample["json"]
        expected = np.asarray(Image.open(io.BytesIO(pictures[facts["image_id"]])))
        assert np.array_equal(np.asarray(sample["png"]), expected)
        assert sample["__key__"] == f"{facts['row']:09d}"
        assert (facts["width"], facts["height"], facts["picture"]) == (56, 40, "picture")
    with tarfile.open(shard) as tar:
        held = [tar.extractfile(member) for member in tar if member.name.endswith(".png")]
        assert {file.read() for file in held if file} <= set(pictures.values())


def test_flags_choose_restyled_images(out: Path, tmp_path: Path) -> None:
    row = next(number for number, row in StageRows(Folder(str(out)), "stylize").each() if row["image_id"] == "a/b.png")
    about = {"time": 1.0, "reviewer": "ann", "stage": "stylize", "row": row, "image_id": "a/b.png"}
    flag = about | {"content_digest": None, "verdict": "bad", "reasons": [], "note": ""}
    (tmp_path / "flags.jsonl").write_text(json.dumps(flag) + "\n")
    record = exported(
        out, tmp_path / "to", "pictures", "--not-flagged", "bad", "--flags", str(tmp_path / "flags.jsonl")
    )
    assert (record["images"], record["ok"], record["not_flagged"]) == (3, 1, ["bad"])
    (file,) = (tmp_path / "to").rglob("*.png")
    assert file.read_bytes() == attached(out)["a/b.jpg"]


def test_formats_of_masks_say_what_restyled_images_can_be(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(out), "--to", str(tmp_path / "to"), "--format", "coco", "--stage", "stylize"]) == 1
    assert "another --format: contact-sheet | hf | pictures | webdataset" in capsys.readouterr().err
