"""Photographs as small JPEGs: of the bytes that were judged, upright, without metadata, and with overlays."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from viewing import Answer, Client, Small, photograph

from simsam_batch.cli import run
from simsam_batch.regions.run_lengths import decode
from simsam_batch.viewer import pictures
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.session import OpenedStage, Session

Served = Callable[..., Client]


def opened(answer: Answer) -> Image.Image:
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    return Image.open(io.BytesIO(answer.body))


def values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=float)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over JPEGs: lying on its side, with a camera's remarks; grey; and one of the size of a photograph."""
    root = tmp_path_factory.mktemp("snapshots")
    (root / "photos").mkdir()
    y, x = np.mgrid[0:240, 0:320]
    scene = np.stack([x * 255 // 320, y * 255 // 240, 255 - x * 255 // 320], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    Image.fromarray(scene).save(root / "photos" / "a_turned.jpg", exif=exif, comment=b"at home", quality=95)
    Image.fromarray(scene[..., 1]).save(root / "photos" / "b_grey.jpg", quality=95)
    large = Image.fromarray(scene).resize((832, 550), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 12, (550, 832, 3))
    noisy = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(root / "photos" / "c_large.jpg", quality=92)
    command = ["segment", str(root / "photos"), str(root / "out"), "--backbone", "descriptors", "--resize", "short:128"]
    assert run([*command, "--engine", "inline", "--quiet"]) == 0
    return root


def segment(out: Path) -> OpenedStage:
    return Session(str(out)).run().stage("segment")


@pytest.mark.parametrize("side", [128, 256, 640])
def test_a_picture_is_the_image_with_its_longer_side_at_most_so_long(
    small_run: Small, served: Served, side: int
) -> None:
    client = served(small_run.out)
    shown = opened(client.get("images/1.jpg", side=side))
    expected = Image.open(small_run.photos / small_run.names[1])
    size = (128, 85) if side == 128 else (192, 128)
    assert shown.size == size
    # of noise a JPEG keeps the means
    near = values(expected.resize(size, Image.Resampling.LANCZOS).reduce(8))
    assert np.abs(values(shown.reduce(8)) - near).mean() < 4


def test_a_turned_photograph_is_shown_upright_and_says_nothing_of_its_camera(snapshots: Path, served: Served) -> None:
    client = served(snapshots / "out")
    for side in (128, 256, 640):
        answer = client.get("images/0.jpg", side=side)
        shown = opened(answer)
        assert shown.height > shown.width
        # turned by a quarter to the right: what was at the left is at the top, where red is low
        pixels = values(shown)
        assert pixels[5, :, 0].mean() < 30 < 225 < pixels[-5, :, 0].mean()
        assert not shown.getexif()
        assert "comment" not in shown.info
        assert b"home" not in answer.body


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("side", [128, 256])
def test_a_jpeg_decoded_small_looks_like_the_whole_one_shrunk(snapshots: Path, row: int, side: int) -> None:
    stage = segment(snapshots / "out")
    with Image.open(row_of(stage, row)["uri"]) as file:
        whole = file.transpose(Image.Transpose.ROTATE_270) if row == 0 else file.convert("RGB")
    shown = pictures.photograph(stage, row, side)
    scale = side / max(whole.size)
    assert shown.size == tuple(round(length * scale) for length in whole.size)
    expected = values(whole.convert("RGB").resize(shown.size, Image.Resampling.LANCZOS))
    assert np.abs(values(shown) - expected).mean() < 3


def test_a_box_is_cut_out_at_the_size_asked_for(snapshots: Path) -> None:
    stage = segment(snapshots / "out")
    with Image.open(row_of(stage, 2)["uri"]) as file:
        whole = file.convert("RGB")
    for box, side in (((100, 50, 300, 250), 128), ((0, 0, 832, 550), 256), ((831, 549, 832, 550), 128)):
        shown = pictures.photograph(stage, 2, side, box)
        cut = whole.crop(box)
        scale = min(1, side / max(cut.size))
        assert shown.size == (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
        assert np.abs(values(shown) - values(cut.resize(shown.size, Image.Resampling.LANCZOS))).mean() < 6


@pytest.mark.parametrize(
    "query",
    [
        {"side": "129"},
        {"side": "-128"},
        {"side": "1e3"},
        {"box": "1,2,3"},
        {"box": "5,5,5,9"},
        {"box": "0,0,193,10"},
        {"box": "0,0,10,999999999999999999"},
        {"box": "-1,0,10,10"},
        {"box": "a,b,c,d"},
        {"overlay": "everything"},
        {"overlay": "tree", "depth": "-1"},
        {"run": "c"},
    ],
)
def test_parameters_out_of_their_limits_are_refused(small_run: Small, served: Served, query: dict[str, str]) -> None:
    answer = served(small_run.out).get("images/0.jpg", **query)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["images/99.jpg", "images/-1.jpg", "images/x.jpg", "images/0.jpg?stage=nothing"])
def test_what_is_not_there_is_refused_in_words(small_run: Small, served: Served, path: str) -> None:
    answer = served(small_run.out).get(path)
    assert answer.status in (400, 404)
    assert answer.json()["error"]


def test_a_failed_image_is_never_opened_and_its_cause_is_said(small_run: Small, served: Served) -> None:
    answer = served(small_run.out).get(f"images/{small_run.failed}.jpg")
    assert answer.status == 409
    assert "not_an_image" in answer.json()["error"]


def test_a_picture_is_kept_by_the_browser_only_if_its_address_names_its_content(
    small_run: Small, served: Served
) -> None:
    client = served(small_run.out)
    assert client.get("images/0.jpg").headers["cache-control"] == "no-store"
    kept = client.get("images/0.jpg", v="0123abcd").headers["cache-control"]
    assert {"private", "immutable"} <= {part.strip() for part in kept.split(",")}


@pytest.fixture
def own(small_run: Small, tmp_path: Path) -> tuple[Path, list[Path]]:
    """The run over photographs of its own, which may be changed; other content, so that nothing is kept of it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    paths = [photos / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(photograph(1000 + number + os.getpid())[0]).save(path)
    command = ["segment", str(photos), str(tmp_path / "out"), "--backbone", "descriptors", "--resize", "native"]
    assert run([*command, "--engine", "inline", "--quiet"]) == 0
    return tmp_path / "out", paths


def test_an_image_that_has_gone_or_changed_is_refused_in_words_and_never_decoded(
    own: tuple[Path, list[Path]], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, paths = own
    paths[0].unlink()
    shutil.copy(paths[2], paths[1])
    monkeypatch.setattr(pictures, "_decoded", lambda *_: pytest.fail("decoded"))
    client = served(out)
    gone, changed = client.get("images/0.jpg"), client.get("images/1.jpg")
    assert (gone.status, changed.status) == (404, 409)
    assert "not where the run has read it" in gone.json()["error"]
    assert "changed" in changed.json()["error"]
    assert str(paths[0].parent) not in gone.text + changed.text


def test_a_bomb_in_the_place_of_an_image_is_not_decoded(
    own: tuple[Path, list[Path]], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, paths = own
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    paths[0].write_bytes(bomb.getvalue())
    monkeypatch.setattr(pictures, "_decoded", lambda *_: pytest.fail("decoded"))
    assert served(out).get("images/0.jpg").status == 409


def test_a_file_that_has_become_larger_than_the_limit_is_not_read_to_its_end(own: tuple[Path, list[Path]]) -> None:
    out, paths = own
    with paths[0].open("r+b") as file:
        # sparse: no byte of it is on disk
        file.truncate(40_000_000_000)
    began = time.monotonic()
    with pytest.raises(RefusedError, match="changed"):
        pictures.photograph(segment(out), 0, 128)
    assert time.monotonic() - began < 30


def test_the_mask_is_tinted_over_the_photograph(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    plain, over = (values(opened(client.get("images/1.jpg", side=256, overlay=each))) for each in ("none", "mask"))
    mask = decode(row_of(client.session.run().stage("segment"), 1)["mask_rle"])
    tint = over - plain
    # blue over the object, pale grey elsewhere
    assert (tint[mask][:, 2] - tint[mask][:, 0]).mean() > 40
    assert (over[~mask].max(axis=1) - over[~mask].min(axis=1)).mean() < 30


def test_the_mask_over_a_box_is_that_part_of_the_mask_over_all(small_run: Small) -> None:
    stage = segment(small_run.out)
    box = (32, 16, 160, 112)
    whole = values(pictures.drawn(stage, 1, 640, over="mask").crop(box))
    part = values(pictures.drawn(stage, 1, 640, box, over="mask"))
    # lines stop at the edge of the part
    assert np.abs(whole - part)[3:-3, 3:-3].mean() < 1


@pytest.mark.parametrize("over", ["labels", "tree"])
def test_an_overlay_that_the_stage_has_not_is_refused_in_words(small_run: Small, served: Served, over: str) -> None:
    answer = served(small_run.out).get("images/0.jpg", overlay=over)
    assert answer.status == 404
    assert over in answer.json()["error"]


def test_labels_have_the_colours_of_the_report_and_depth_cuts_the_tree(whole_run: Any) -> None:
    from simsam_batch.drawing.labels import palette

    session = Session(str(whole_run.maps))
    semantic, trees = session.run().stage("semantic"), session.run().stage("hierarchy")
    row = row_of(semantic, 0)
    plain, over = (values(pictures.drawn(semantic, 0, 640, over=each)) for each in ("none", "labels"))
    colors = np.array(palette(3), float)
    for segment in row["segments"]:
        inside = decode(segment["mask_rle"])
        grey = values(Image.fromarray(plain.astype(np.uint8)).convert("L"))[inside]
        expected = grey * 0.45 + colors[segment["label"] - 1] * 0.55
        assert np.median(np.abs(over[inside] - expected)) < 2
    cuts = [values(pictures.drawn(trees, 0, 640, over="tree", depth=depth)) for depth in (0, 9)]
    borders = [(cut == 255).all(axis=-1).sum() for cut in cuts]
    assert borders[0] == 0 < borders[1]


def test_many_who_ask_for_one_picture_at_a_time_decode_it_once(
    own: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, plain, decoded = segment(own[0]), pictures._decoded, []

    def slow(*given: Any) -> Image.Image:
        decoded.append(threading.get_ident())
        time.sleep(0.1)
        return plain(*given)

    monkeypatch.setattr(pictures, "_decoded", slow)
    threads = [threading.Thread(target=pictures.photograph, args=(stage, 0, 640)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 1


@pytest.mark.parametrize("has_gone", [True, False])
def test_a_picture_for_a_browser_that_has_gone_on_is_left_out(has_gone: bool) -> None:
    async def receive() -> dict[str, Any]:
        if not has_gone:
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def told() -> bool:
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive)
        return await anyio.to_thread.run_sync(pictures.gone, request)

    assert anyio.run(told) is has_gone


def test_a_thumbnail_of_half_a_megapixel_takes_less_than_a_frame_of_time(snapshots: Path) -> None:
    """25 ms of one processor are the target; here is room for a busy machine."""
    seconds = []
    for _ in range(5):
        pictures._PHOTOGRAPHS = type(pictures._PHOTOGRAPHS)(1)
        stage = segment(snapshots / "out")
        row_of(stage, 2)
        began = time.thread_time()
        pictures._jpeg(pictures.photograph(stage, 2, 256))
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.05
