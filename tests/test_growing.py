"""A set that grows: more of it later, new images, images that are gone; each against a run over all at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

SMALL = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--k", "3", "--engine", "inline"]
Says = Callable[[], str]


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """What was said since it was asked last."""
    return lambda: "".join(capsys.readouterr())


def picture(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(80, 120, (64, 80, 3)).astype(np.uint8)
    pixels[16:48, 8 + 4 * (seed % 8) : 40 + 4 * (seed % 8)] = (210, 40, 40)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(12):
        picture(tmp_path / "photos" / f"{i:02d}.png", i)
    return tmp_path / "photos"


def rows(out: Path, stage: str = "segment") -> dict[str, dict[str, Any]]:
    """Every row by its id, without where its arrays lie."""
    found = [row for _, row in StageRows(Folder(str(out)), stage).each()]
    assert len({row["image_id"] for row in found}) == len(found)
    return {row["image_id"]: {k: v for k, v in row.items() if not k.startswith("arrays_")} for row in found}


def result(out: Path, stage: str = "segment") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return found


def test_some_first_and_then_all_are_one_run(photos: Path, tmp_path: Path, says: Says) -> None:
    sized = [*SMALL, "--shard-size", "2"]
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    assert run(["segment", str(photos), str(whole), *sized]) == 0
    for limit in (["--limit", "4"], ["--limit", "6"], []):
        assert run(["segment", str(photos), str(grown), *sized, *limit]) == 0
    assert "6 new images in the run, which has 12 now" in says()
    assert {**result(grown), "stage_token": ""}["content_digest"] == result(whole)["content_digest"]
    assert result(grown)["first_content_digest"] == result(whole)["first_content_digest"]
    assert rows(grown) == rows(whole)
    assert run(["verify", str(grown)]) == 0
    # fewer than the run has cannot be asked for
    assert run(["segment", str(photos), str(grown), *sized, "--limit", "5"]) == 1
    assert "limit: the run in OUT has 12 images, this command has 5" in says()


def test_a_resume_says_what_is_new_and_extend_does_it(photos: Path, tmp_path: Path, says: Says) -> None:
    out, command = tmp_path / "out", ["segment", str(photos), str(tmp_path / "out"), *SMALL]
    assert run(command) == 0
    before = {path.name: path.read_bytes() for path in (out / "segment" / "data").iterdir()}
    picture(photos / "00a.png", 20)
    picture(photos / "99.png", 21)
    # only touched, so that it has another ETag
    os.utime(photos / "03.png", (1, 1))
    says()
    assert run(command) == 0
    said = says()
    assert "2 images new, not part of this run: 00a.png, 99.png. To have them: add --extend" in said
    assert "changed" not in said
    assert result(out)["images"] == 12
    assert run([*command, "--extend"]) == 0
    assert "2 new images in the run, which has 14 now" in says()
    assert result(out)["images"] == 14
    assert list(rows(out))[-2:] == ["00a.png", "99.png"]
    assert {name: (out / "segment" / "data" / name).read_bytes() for name in before} == before
    assert run(["verify", str(out)]) == 0
    assert run([*command, "--extend"]) == 0
    assert "no new images" in says()
    # a run of all at once has the same rows, in the order of the list
    assert run(["segment", str(photos), str(tmp_path / "whole"), *SMALL]) == 0
    assert rows(out) == rows(tmp_path / "whole")
    assert run(["report", str(out)]) == 0


def test_what_is_gone_is_marked_and_counts_no_more(photos: Path, tmp_path: Path, says: Says) -> None:
    (photos / "07.png").write_bytes((photos / "07.png").read_bytes()[:300])
    out, command = tmp_path / "out", ["segment", str(photos), str(tmp_path / "out"), *SMALL, "--allow-failed", "1"]
    assert run(command) == 0
    kept = {name: (photos / name).read_bytes() for name in ("02.png", "07.png")}
    for name in kept:
        (photos / name).unlink()
    says()
    assert run(command) == 0
    assert "2 images gone since the plan was made: 02.png, 07.png. To mark their rows: add --prune" in says()
    assert run([*command, "--prune"]) == 0
    assert "2 images gone, whose rows are marked" in says()
    found = result(out)
    assert [found[key] for key in ("images", "ok", "failed", "gone", "errors_by_type")] == [12, 10, 0, 2, {}]
    assert {name for name, row in rows(out).items() if row["status"] == "gone"} == set(kept)
    (part,) = (out / "results" / "segment").glob("*.parquet")
    table = pq.read_table(part).to_pydict()
    assert {n for n, gone in zip(table["image_id"], table["gone"], strict=True) if gone} == set(kept)
    # what was committed is still as it was
    assert table["status"].count("ok") == 11
    assert run(["verify", str(out)]) == 0
    assert run(["export", str(out), "--to", str(tmp_path / "masks"), "--format", "png"]) == 0
    assert not list((tmp_path / "masks").rglob("02*"))
    assert run(["retry", str(out), "--engine", "inline"]) == 0
    # nothing more is said of them, and who comes back is there again
    says()
    assert run(command) == 0
    assert " gone" not in says()
    for name, body in kept.items():
        (photos / name).write_bytes(body)
    assert run([*command, "--prune"]) == 0
    assert "gone" not in result(out)
    assert {row["status"] for row in rows(out).values()} == {"ok", "failed"}


def test_what_is_gone_is_scored_no_more(photos: Path, tmp_path: Path, says: Says) -> None:
    truth, out = tmp_path / "truth", tmp_path / "out"
    truth.mkdir()
    for path in photos.iterdir():
        Image.fromarray(np.full((64, 80), 255 * (path.stem != "05"), np.uint8)).save(truth / path.name)
    command = ["segment", str(photos), str(out), *SMALL, "--truth", str(truth)]
    assert run(command) == 0
    (photos / "03.png").unlink()
    assert run([*command, "--prune"]) == 0
    assert run(["score", str(out), "--json", str(tmp_path / "pruned.json")]) == 0
    (truth / "03.png").unlink()
    assert run(["segment", str(photos), str(tmp_path / "without"), *command[3:]]) == 0
    assert run(["score", str(tmp_path / "without"), "--json", str(tmp_path / "without.json")]) == 0
    pruned, without = (json.loads((tmp_path / name).read_text()) for name in ("pruned.json", "without.json"))
    assert pruned["metrics"] == without["metrics"]
    assert pruned["images"] == 11
    # a run that grows is scored as far as it is published
    picture(photos / "99.png", 40)
    assert run([*command, "--extend", "--max-pixels", "100"]) == 1
    assert run(["score", str(out)]) == 0


def test_a_run_whose_images_cannot_be_listed_any_more_is_gone_on_with(photos: Path, tmp_path: Path, says: Says) -> None:
    command = ["segment", str(photos), str(tmp_path / "out"), *SMALL]
    assert run(command) == 0
    shutil.rmtree(photos)
    says()
    assert run(command) == 0
    assert run([*command, "--extend"]) == 1
    assert "IMAGES is a folder" in says()


def test_by_other_settings_a_run_does_not_grow(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    command = ["semantic", str(photos), str(out), *SMALL, "--clusters", "2"]
    assert run([*command, "--limit", "6"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    # of the first stage, and of one that comes later
    for other in (["--regions", "5"], ["--matching", "majority"]):
        says()
        assert run([*command, *other]) == 1
        assert f"{other[0].strip('-').replace('-', '_')}: the run in OUT has" in says()
        assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert run(command) == 0
    assert len(rows(out, "semantic")) == 12


def test_labels_of_what_was_there_stay_when_a_set_grows(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["semantic", str(photos), str(out), *SMALL, "--clusters", "2"]
    assert run(command) == 0
    before = rows(out, "semantic")
    (tmp_path / "book").write_bytes(next((out / "clusters" / "data").glob("*.npz")).read_bytes())
    picture(photos / "98.png", 30)
    picture(photos / "99.png", 31)
    assert run([*command, "--extend"]) == 0
    after = rows(out, "semantic")
    assert {name: after[name] for name in before} == before
    assert {after[name]["status"] for name in ("98.png", "99.png")} == {"ok"}
    assert next((out / "clusters" / "data").glob("*.npz")).read_bytes() == (tmp_path / "book").read_bytes()
    assert run(command) == 0
    assert run(["verify", str(out)]) == 0


def test_pairs_that_are_new_are_matched_by_the_places_of_their_images(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.jsonl"

    def write(*pairs: tuple[str, str]) -> None:
        lines = [json.dumps({"source": str(photos / a), "target": str(photos / b)}) for a, b in pairs]
        listed.write_text("\n".join(lines))

    out = tmp_path / "out"
    command = [
        "correspond",
        str(listed),
        str(out),
        "--backbone",
        "descriptors",
        "--engine",
        "inline",
        "--resize",
        "native",
    ]
    write(("05.png", "06.png"), ("06.png", "07.png"))
    assert run(command) == 0
    # images come in another order now
    write(("00.png", "07.png"), ("05.png", "06.png"), ("06.png", "07.png"))
    assert run([*command, "--extend"]) == 0
    assert run(["correspond", str(listed), str(tmp_path / "whole"), *command[3:]]) == 0

    def pairs(folder: Path) -> dict[str, Any]:
        found = [row for _, row in StageRows(Folder(str(folder)), "matches").each()]
        # images have other numbers in another order
        other = ("arrays_", "source_record", "target_record")
        return {row["pair_id"]: {k: v for k, v in row.items() if not k.startswith(other)} for row in found}

    assert pairs(out) == pairs(tmp_path / "whole")
    assert len(pairs(out)) == 3
    assert run(["verify", str(out)]) == 0
