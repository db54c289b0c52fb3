"""A run over names and files nobody has looked at: each image has its row, and what is wrong stands in it."""

from __future__ import annotations

import io
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simsam_batch.cli import run

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4", "--workers", "1"]
SETTINGS += ["--engine", "local", "--shard-size", "8"]


def picture(kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    pixels.save(file, kind, **options)
    return file.getvalue()


def turned(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return picture("JPEG", exif=exif)


def broken_directory() -> bytes:
    """EXIF that says it holds 65535 entries and holds none."""
    return picture("JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"\xff\xff")


def of_many_segments() -> bytes:
    """A JPEG with 4,000,000 empty segments: seconds to walk over, and nothing in them."""
    return b"\xff\xd8" + b"\xff\xe5\0\x02" * 4_000_000 + picture("JPEG")[2:]


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / "segment").to_pylist()
    return {row["image_id"]: row for row in rows}


@pytest.mark.slow
def test_odd_names_and_odd_files_have_a_row_each(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    two_forms = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    good = dict.fromkeys(["with space.png", "new\nline.png", "-rf.png", "%2e%2e.png", *two_forms], picture())
    good |= {
        "x" * 250 + ".png": picture(),
        "exif 0.jpg": turned(0),
        "exif 9.jpg": turned(9),
        "exif 65535.jpg": turned(65535),
        "exif broken.jpg": broken_directory(),
        "cmyk.jpg": picture("JPEG", "CMYK"),
        "animated.webp": picture("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
        "animated.jpg": picture("GIF", "P", save_all=True, append_images=[Image.new("P", (64, 48))]),
        "pages.tif": picture("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    }
    bad = {
        "empty.png": (b"", "empty_file"),
        "short.jpg": (picture("JPEG")[:500], "truncated"),
        "words.jpg": (b"no picture", "not_an_image"),
        "film.jpg": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "unsupported"),
        "film.MOV": (b"", "unsupported"),
        "photograph.nef": (picture("TIFF"), "unsupported"),
        "slow.jpg": (of_many_segments(), "timed_out"),
    }
    for name, data in [*good.items(), *((name, data) for name, (data, _) in bad.items())]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    # a folder whose name is that of an image is a folder
    (folder / "folder.png").mkdir()
    out = tmp_path / "out"
    assert run(["segment", str(folder), str(out), *SETTINGS, "--decode-seconds", "2"]) == 3
    rows = rows_of(out)
    assert {name: row["error_type"] for name, row in rows.items()} == {
        **dict.fromkeys(good),
        **{name: kind for name, (_, kind) in bad.items()},
    }
    assert {rows[name]["orientation"] for name in good} == {1}
    assert {name for name in good if rows[name]["more_frames"]} == {"animated.webp", "animated.jpg", "pages.tif"}
    assert {(rows[name]["height"], rows[name]["width"]) for name in good} == {(48, 64)}
    assert {row["changed_since_plan"] for row in rows.values() if row["status"] == "ok"} == {False}
    assert json.loads((out / "segment" / "stage.json").read_text())["settings"]["decode_seconds"] == 2


@pytest.mark.slow
def test_a_list_of_what_cannot_be_read_fails_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / "folder").mkdir()
    lines = ["good.png", "folder", "gone.png", "n" * 300 + ".png", "good.png/below.png", f"{tmp_path}/../gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert run(["segment", str(tmp_path / "list.txt"), str(tmp_path / "out"), *SETTINGS]) == 3
    found = {name: row["error_type"] for name, row in rows_of(tmp_path / "out").items()}
    assert found == {"good.png": None, **dict.fromkeys(lines[1:], "not_found")}


@pytest.mark.slow
def test_what_changed_or_vanished_since_the_plan_is_told_in_its_row(tmp_path: Path) -> None:
    """A table says which sizes the files had when it was made; one is replaced, one cut, one removed since."""
    sizes = {}
    for name in ("same", "replaced", "cut", "gone"):
        (tmp_path / f"{name}.png").write_bytes(picture())
        sizes[name] = len(picture())
    (tmp_path / "replaced.png").write_bytes(picture("JPEG"))
    (tmp_path / "cut.png").write_bytes(picture()[:3000])
    (tmp_path / "gone.png").unlink()
    (tmp_path / "unknown.png").write_bytes(picture())
    names = [*sizes, "unknown"]
    columns = {"uri": [f"{name}.png" for name in names], "image_id": names, "size": [*sizes.values(), None]}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    assert run(["segment", str(tmp_path / "table.parquet"), str(tmp_path / "out"), *SETTINGS]) == 3
    rows = rows_of(tmp_path / "out")
    assert {name: (row["error_type"], row["changed_since_plan"]) for name, row in rows.items()} == {
        "same": (None, False),
        "replaced": (None, True),
        "cut": ("truncated", None),
        "gone": ("not_found", None),
        "unknown": (None, None),
    }
    assert f"changed since the plan: 3000 bytes, not {sizes['cut']}" in rows["cut"]["error"]
    assert rows["replaced"]["content_sha256"] != rows["same"]["content_sha256"]
