"""COCO files as tools for labelling leave them, scored by the real command: what is right stands with their maker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simsam_batch.cli import run

# the masks fill their boxes; of the others a note tells
RIGHT = {
    "plain": "",
    "without-iscrowd": "",
    "numbers-as-text": "",
    "annotation-of-no-image": "1 annotations are of images that the file does not have: '99'",
}
REFUSED = {"two-files-of-one-stem": "sub-folder and stem: 'a'"}


@pytest.mark.slow
def test_no_case_is_left_out(cases: Path) -> None:
    assert {path.stem for path in (cases / "boxes").glob("*.json")} == RIGHT.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", RIGHT)
def test_boxes_that_their_masks_fill_are_all_found(cases: Path, tmp_path: Path, name: str) -> None:
    scores = tmp_path / "scores.json"
    boxes = cases / "boxes"
    assert run(["score", str(boxes / "masks"), "--boxes", str(boxes / f"{name}.json"), "--json", str(scores)]) == 0
    found = json.loads(scores.read_text())
    assert (found["metrics"]["corloc"], found["metrics"]["images_scored"]) == (1.0, 3)
    assert found["notes"] == ([RIGHT[name]] if RIGHT[name] else [])


@pytest.mark.parametrize("name", REFUSED)
def test_boxes_of_which_nobody_knows_the_image_are_refused_by_name(
    cases: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    boxes = cases / "boxes"
    assert run(["score", str(boxes / "masks"), "--boxes", str(boxes / f"{name}.json")]) == 1
    assert REFUSED[name] in capsys.readouterr().err
