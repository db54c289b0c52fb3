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

from simsam_batch import growing, operations
from simsam_batch.cli import run
from simsam_batch.runs.plan import Plan
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
    (status,) = operations.status(str(out))["stages"]
    assert (status["failed"], status["errors_by_type"]) == (0, {})
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


PAIRED = ["--backbone", "descriptors", "--engine", "inline", "--resize", "native", "--quiet"]


def write_pairs(photos: Path, *pairs: tuple[int, int]) -> Path:
    """A list of pairs of photographs by their numbers, beside these."""
    listed = photos.parent / "pairs.jsonl"
    ends = [
        {side: str(photos / f"{n:02d}.png") for side, n in zip(("source", "target"), pair, strict=True)}
        for pair in pairs
    ]
    listed.write_text("\n".join(map(json.dumps, ends)))
    return listed


def pairs_in(out: Path) -> dict[str, str]:
    """The status of every pair."""
    return {
        row["pair_id"]: row["status"] for _, row in StageRows(Folder(str(out)), "matches").each(["pair_id", "status"])
    }


def test_some_pairs_first_and_then_more(photos: Path, tmp_path: Path, says: Says) -> None:
    # pairs need more images than they are, and two of them may share some
    listed, out = write_pairs(photos, (0, 1), (1, 0), (4, 5), (6, 7), (8, 9)), tmp_path / "out"
    command = ["correspond", str(listed), str(out), *PAIRED]
    for limit, count in ((1, 1), (1, 1), (2, 2), (4, 4), (4, 4)):
        assert run([*command, "--limit", str(limit)]) == 0
        assert len(pairs_in(out)) == count
    says()
    assert run([*command, "--limit", "2"]) == 1
    assert "limit: the run in OUT has 4 pairs, this command has 2" in says()
    assert run(command) == 0
    assert run(["correspond", str(listed), str(tmp_path / "whole"), *PAIRED]) == 0
    assert pairs_in(out) == pairs_in(tmp_path / "whole")
    assert run(["verify", str(out)]) == 0


def test_growth_that_is_cut_off_between_images_and_pairs_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, out = write_pairs(photos, (0, 1), (2, 3), (4, 5), (6, 7)), tmp_path / "out"
    command = ["correspond", str(listed), str(out), *PAIRED]
    assert run([*command, "--limit", "2"]) == 0
    grown = growing._grown

    def cut_off(plan: Plan, *given: Any) -> Plan:
        if plan.unit == "pair_id":
            raise KeyboardInterrupt
        return grown(plan, *given)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "_grown", cut_off)
        assert run(command) == 130
    assert run(command) == 0
    assert len(pairs_in(out)) == 4


def test_pairs_that_are_new_are_said(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    command = ["correspond", str(write_pairs(photos, (0, 1), (1, 2))), str(out), *PAIRED[:-1]]
    assert run(command) == 0
    write_pairs(photos, (0, 1), (1, 2), (2, 0))
    says()
    assert run(command) == 0
    assert "1 pair new, not part of this run: photos/02.png:photos/00.png. To have them: add --extend" in says()


def test_a_pair_whose_image_is_gone_is_marked_too(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    command = ["correspond", str(write_pairs(photos, (0, 1), (2, 3), (3, 1))), str(out), *PAIRED[:-1]]
    assert run(command) == 0
    write_pairs(photos, (0, 1))
    assert run([*command, "--prune"]) == 0
    assert [*pairs_in(out).values()] == ["ok", "gone", "gone"]
    # the first few pairs do not tell what is there
    says()
    assert run([*command, "--prune", "--limit", "3"]) == 0
    assert "what is gone is not looked for" in says()
    assert [*pairs_in(out).values()].count("gone") == 2


def test_a_limit_is_of_all_that_the_run_has_and_the_same_command_goes_on(
    photos: Path, tmp_path: Path, says: Says
) -> None:
    for name in ("00.png", "01.png"):
        (photos / name).rename(tmp_path / name)
    out = tmp_path / "out"
    command = ["segment", str(photos), str(out), *SMALL]
    assert run([*command, "--limit", "2"]) == 0
    for name in ("00.png", "01.png"):
        (tmp_path / name).rename(photos / name)
    for _ in range(2):
        assert run([*command, "--limit", "3"]) == 0
        assert [*rows(out)] == ["02.png", "03.png", "00.png"]
    # who asks for what is new gets it, however many there are
    picture(photos / "000.png", 50)
    for _ in range(2):
        assert run([*command, "--limit", "3", "--extend"]) == 0
        assert len(rows(out)) == 5
    says()
    assert run([*command, "--limit", "2"]) == 1
    assert "limit: the run in OUT has 3 images, this command has 2" in says()


def test_what_changes_places_with_something_gone_is_said(photos: Path, tmp_path: Path, says: Says) -> None:
    command = ["segment", str(photos), str(tmp_path / "out"), *SMALL]
    assert run(command) == 0
    kept = (photos / "00.png").read_bytes()
    (photos / "00.png").unlink()
    assert run([*command, "--prune"]) == 0
    (photos / "00.png").write_bytes(kept)
    (photos / "01.png").unlink()
    says()
    assert run(command) == 0
    said = says()
    assert "1 image gone since the plan was made: 01.png. To mark their rows: add --prune" in said
    assert "1 image there again, whose rows are marked as gone. To take the marks away: add --prune" in said


def test_damaged_marks_are_found_and_mended(photos: Path, tmp_path: Path, says: Says) -> None:
    out, command = tmp_path / "out", ["segment", str(photos), str(tmp_path / "out"), *SMALL]
    assert run(command) == 0
    (photos / "00.png").unlink()
    assert run([*command, "--prune"]) == 0
    (marks,) = (out / "plan").glob("*.gone.1.parquet")
    marks.write_bytes(b"no table")
    says()
    assert run(["verify", str(out)]) != 0
    assert marks.name in says()
    assert run([*command, "--prune"]) == 0
    assert rows(out)["00.png"]["status"] == "gone"
    assert run(["verify", str(out)]) == 0


def test_more_paths_of_a_shells_pattern_are_a_set_that_has_grown(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"

    def command(*more: Path) -> list[str]:
        return ["segment", *map(str, [*sorted(photos.iterdir()), *more]), str(out), *SMALL]

    assert run(command()) == 0
    picture(photos / "98.png", 30)
    says()
    assert run(command()) == 0
    assert "1 image new, not part of this run: 98.png. To have them: add --extend" in says()
    for _ in range(2):
        assert run([*command(), "--extend"]) == 0
        assert len(rows(out)) == 13
    assert run(command()) == 0
    # by a folder beside, ids would count from another one, and every image be there twice
    picture(tmp_path / "other" / "a.png", 31)
    says()
    assert run([*command(tmp_path / "other"), "--extend"]) == 1
    assert "'00.png' of the run in OUT would be 'photos/00.png'" in says()
    assert len(rows(out)) == 13


def test_a_limit_over_all_that_there_is(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    command = ["segment", str(photos), str(out), *SMALL]
    for limit in ("20", "12", "15"):
        assert run([*command, "--limit", limit]) == 0
    says()
    assert run([*command, "--limit", "11"]) == 1
    assert "limit: the run in OUT has 12 images, this command has 11" in says()


def test_a_run_of_all_stays_one_of_all(photos: Path, tmp_path: Path) -> None:
    command = ["segment", str(photos), str(tmp_path / "out"), *SMALL]
    assert run(command) == 0
    picture(photos / "98.png", 30)
    picture(photos / "99.png", 31)
    assert run([*command, "--extend", "--limit", "13"]) == 0
    assert run(command) == 0
    assert len(rows(tmp_path / "out")) == 13


def test_a_limit_of_pairs_is_of_all_that_the_run_has(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["correspond", str(write_pairs(photos, (0, 1), (1, 2), (2, 3))), str(out), *PAIRED]
    assert run([*command, "--limit", "2"]) == 0
    write_pairs(photos, (4, 5), (5, 6), (6, 7), (0, 1), (1, 2))
    for _ in range(2):
        assert run([*command, "--limit", "4"]) == 0
        assert len(pairs_in(out)) == 4


def test_trees_grow_without_the_labels_that_they_once_got(photos: Path, tmp_path: Path) -> None:
    command = ["hierarchy", str(photos), str(tmp_path / "out"), *SMALL[:4], "--engine", "inline"]
    assert run([*command, "--clusters", "2"]) == 0
    picture(photos / "98.png", 30)
    assert run([*command, "--extend"]) == 0
    assert len(rows(tmp_path / "out", "hierarchy")) == 13


def test_an_export_of_what_is_all_gone_says_so(photos: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    command = ["correspond", str(write_pairs(photos, (0, 1), (0, 2))), str(out), *PAIRED]
    assert run(command) == 0
    write_pairs(photos, (1, 2))
    assert run([*command, "--prune"]) == 0
    for form in ("overlay", "contact-sheet"):
        says()
        assert run(["export", str(out), "--format", form, "--to", str(tmp_path / form)]) == 3
        said = says()
        assert "2 of 2 gone from the run's input" in said
        assert "no image could be exported whole. To mend it: the run has no image that is still there" in said
    assert (tmp_path / "contact-sheet/index.html").read_text().count("gone from the input") == 2


def test_pairs_that_are_new_are_matched_by_the_places_of_their_images(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["correspond", str(write_pairs(photos, (5, 6), (6, 7))), str(out), *PAIRED]
    assert run(command) == 0
    # images come in another order now
    listed = str(write_pairs(photos, (0, 7), (5, 6), (6, 7)))
    assert run([*command, "--extend"]) == 0
    assert run(["correspond", listed, str(tmp_path / "whole"), *PAIRED]) == 0

    def pairs(folder: Path) -> dict[str, Any]:
        found = [row for _, row in StageRows(Folder(str(folder)), "matches").each()]
        # images have other numbers in another order
        other = ("arrays_", "source_record", "target_record")
        return {row["pair_id"]: {k: v for k, v in row.items() if not k.startswith(other)} for row in found}

    assert pairs(out) == pairs(tmp_path / "whole")
    assert len(pairs(out)) == 3
    assert run(["verify", str(out)]) == 0
