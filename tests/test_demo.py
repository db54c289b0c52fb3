"""The demo: its hand-drawn truth, and the whole way from photographs to the report page."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage
from PIL import Image

from simsam_batch.demo import run_demo, truth_polygons
from simsam_batch.errors import SettingsError

PHOTOGRAPHS = {photograph["file"]: photograph for photograph in truth_polygons()}

# Bounds of the object's share of the picture, estimated from the photographs by eye; two of them by arithmetic:
# the retina is a disc of radius 695 in 1411 x 1411 pixels (0.762) with a small tab, the rocket about 23 x 51 plus
# 16 x 225 pixels of 640 x 427 (0.017).
SHARES = {
    "astronaut.png": (0.36, 0.46),
    "camera.png": (0.28, 0.36),
    "chelsea.png": (0.70, 0.80),
    "coffee.png": (0.43, 0.52),
    "rocket.jpg": (0.014, 0.022),
    "retina.jpg": (0.760, 0.770),
}
# Pixels (x, y) that anyone would call object or background.
INSIDE = {
    "astronaut.png": [(225, 110), (170, 385), (130, 190)],  # face, mission patch, collar
    "camera.png": [(100, 300), (300, 160), (200, 90), (280, 270)],  # coat, camera, hair, the far sleeve
    "chelsea.png": [(255, 240), (170, 110), (30, 200)],  # nose, eye, neck
    "coffee.png": [(270, 150), (120, 200), (370, 290), (415, 80)],  # coffee, saucer, spoon, its handle
    "rocket.jpg": [(322, 150), (322, 300), (322, 395)],
    "retina.jpg": [(700, 700), (220, 650), (1185, 170)],  # fovea, optic disc, tab
}
OUTSIDE = {
    "astronaut.png": [(30, 200), (410, 100), (380, 440)],  # flag, shuttle, helmet
    "camera.png": [(255, 195), (110, 500), (292, 400), (420, 150)],  # gap below the chin, between legs, tripod, tower
    "chelsea.png": [(10, 40), (420, 150)],
    "coffee.png": [(30, 30), (550, 200), (90, 380)],
    "rocket.jpg": [(305, 300), (338, 230), (322, 420), (322, 60)],  # towers, pad, sky
    "retina.jpg": [(20, 20), (1390, 1390), (1250, 150)],
}


def shoelace(polygon: list[list[int]]) -> float:
    x, y = np.array(polygon, dtype=float).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_polygons_lie_inside_the_photograph_they_were_drawn_on(name: str) -> None:
    height, width = PHOTOGRAPHS[name]["size"]
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        assert image.size == (width, height)
    for polygon in PHOTOGRAPHS[name]["polygons"]:
        points = np.array(polygon)
        assert len(points) >= 20
        assert points.min() >= 0
        assert (points <= (width, height)).all()


def test_every_photograph_may_be_shipped() -> None:
    assert set(PHOTOGRAPHS) == set(SHARES)
    assert all(p["licence"].startswith(("CC0", "public domain")) for p in PHOTOGRAPHS.values())


@pytest.mark.slow
def test_the_demo_goes_from_photographs_to_a_page_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    first = run_demo(str(out))
    assert (first["images"], first["ok"], first["failed"]) == (6, 6, 0)
    # A mask that is the whole picture would get the mean share, 0.46; this is to be better than saying nothing.
    assert first["metrics"]["iou_per_image_mean"] > 0.5
    printed = capsys.readouterr().out
    assert f"mean IoU of {first['metrics']['iou_per_image_mean']:.2f}" in printed
    page = (out / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in PHOTOGRAPHS)
    for named in ("run/report/index.html", "run/results/segment.json", "run/results/segment"):
        assert str(out / named) in printed
        assert (out / named).exists()
    rows = pq.read_table(out / "run" / "results" / "segment").to_pylist()
    assert {row["image_id"] for row in rows} == set(PHOTOGRAPHS)
    assert all(row["iou"] is not None for row in rows)

    for name, photograph in PHOTOGRAPHS.items():
        with Image.open((out / "truth" / name).with_suffix(".png")) as image:
            mask = np.asarray(image) > 0
        low, high = SHARES[name]
        assert low < mask.mean() < high
        assert mask.sum() == pytest.approx(sum(map(shoelace, photograph["polygons"])), rel=0.01)
        assert all(mask[y, x] for x, y in INSIDE[name])
        assert not any(mask[y, x] for x, y in OUTSIDE[name])

    second = run_demo(str(out))
    assert second["content_digest"] == first["content_digest"]
    assert (out / "run" / "report" / "index.html").read_text(encoding="utf-8") == page


def test_a_missing_scikit_image_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SettingsError, match=r"pip install 'simsam-batch\[demo\]'"):
        run_demo(str(tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()


def test_the_demo_stays_on_the_local_disk() -> None:
    with pytest.raises(SettingsError, match="not a local folder"):
        run_demo("s3://bucket/demo")
