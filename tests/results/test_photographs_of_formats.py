"""Photographs of every format that is read, through a run, its pictures for the report and its exports."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from icc_profiles import P3
from PIL import Image, features

from simsam_batch.cli import run
from simsam_batch.images import ImageLimits, decode
from simsam_batch.results.sources import decoded_of, upright
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

PLAIN = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4", "--engine", "inline"]
KINDS = {"a.jpg": "JPEG", "b.gif": "GIF", "c.png": "PNG", "d.jp2": "JPEG2000", "e.mpo": "MPO", "f.avif": "AVIF"}
ANIMATED = {"b.gif", "c.png", "e.mpo", "f.avif"}


def photograph() -> np.ndarray:
    """A disc on a ramp, (48, 64, 3)."""
    y, x = np.mgrid[:48, :64]
    ramp = np.stack([y * 3, x * 2, x + y], axis=2)
    return np.where(((x - 40) ** 2 + (y - 20) ** 2 < 120)[:, :, None], [200, 60, 250], ramp).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photograph in each format; those that may have further frames have one, of white."""
    made = tmp_path_factory.mktemp("formats")
    picture = Image.fromarray(photograph())
    for name, kind in KINDS.items():
        more: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "white")]}
        if kind != "AVIF" or features.check("avif"):
            picture.save(made / name, kind, **(more if name in ANIMATED else {}))
    (made / "g.mov").write_bytes(b"\0\0\0\x18ftypqt  \0\0\0\0qt  ")
    return made


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in pq.read_table(out / "results" / "segment").to_pylist()}


def test_each_has_its_row_and_is_shown_and_exported_as_it_was_read(folder: Path, tmp_path: Path) -> None:
    assert run(["segment", str(folder), str(tmp_path), *PLAIN]) == 3
    rows = rows_of(tmp_path)
    assert set(rows) == {path.name for path in folder.iterdir()}
    assert (rows["g.mov"]["status"], rows["g.mov"]["error_type"], rows["g.mov"]["failed_step"]) == (
        "failed",
        "unsupported",
        "read",
    )
    assert rows.pop("g.mov")["more_frames"] is None
    assert {name for name, row in rows.items() if row["more_frames"]} == ANIMATED & set(rows)
    for name, row in rows.items():
        assert (row["status"], row["height"], row["width"]) == ("ok", 48, 64)
        decoded = decoded_of(row, {})
        assert decoded is not None
        shown = decoded.rgb
        assert np.abs(shown.astype(int) - photograph()).mean() < 8
        file = upright(row, {})
        assert file is not None
        assert (file.suffix, file.as_read) == (
            ("jpg", True) if name in ("a.jpg", "e.mpo") else ("png", name == "c.png")
        )
        np.testing.assert_array_equal(decode(file.data, ImageLimits()).rgb, shown)


def test_the_terminal_counts_failed_images_among_those_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["segment", str(folder), str(tmp_path), *PLAIN]) == 3
    count = len(list(folder.iterdir()))
    said = capsys.readouterr().err
    assert f"{count} images done, 1 of them failed" in said
    assert f"{count} of {count} images done" in said
    assert run(["status", str(tmp_path)]) == 0
    assert f"{count} of {count} images (100 %)" in capsys.readouterr().out


def test_the_colour_profile_is_a_setting_that_changes_results(folder: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "PNG", icc_profile=P3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "wide.png").write_bytes(file.getvalue())
    found = {}
    for word in ("ignore", "srgb"):
        out = tmp_path / word
        assert run(["segment", str(tmp_path / "in"), str(out), *PLAIN, "--color-profile", word]) == 0
        (row,) = rows_of(out).values()
        found[word] = row["eigenvalues"]
        decoded = decoded_of(row, {"color_profile": word})
        shown = None if decoded is None else decoded.rgb
        assert shown is not None
        assert np.array_equal(shown, photograph()) == (word == "ignore")
    assert found["ignore"] != found["srgb"]
    # a stage that rests on another shows images as that one has read them
    out = str(tmp_path / "labels")
    labels = ["semantic", str(tmp_path / "in"), out, *PLAIN, "--color-profile", "srgb", "--clusters", "1"]
    assert run(labels) == 0
    rows = StageRows(Folder(out), "semantic")
    assert "color_profile" not in rows.settings
    ((_, row),) = rows.each()
    picture = decoded_of(row | {"uri": str(tmp_path / "in/wide.png")}, rows.settings_of_reading)
    assert picture is not None
    np.testing.assert_array_equal(picture.rgb, shown)
    # a run goes on with the same alone
    assert run(["segment", str(tmp_path / "in"), str(tmp_path / "ignore"), *PLAIN, "--color-profile", "srgb"]) == 1
