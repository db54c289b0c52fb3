"""Which images are fitted on and scored, and by which draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_runs import arguments, make_collection

from simsam_batch.cli import run as simsam
from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, make_plan
from simsam_batch.settings import resolve
from simsam_batch.stages.probe.settings import ProbeSettings
from simsam_batch.stages.subsets.selection import Roles, images_of_share, order_of, rare_first, roles_of
from simsam_batch.storage import Folder


def planned(out: Path, ids: list[str], truth: list[str | None] | None = None, **columns: list[Any]) -> Plan:
    uris = [f"/photos/{name}" for name in ids]
    table = pa.table({"image_id": ids, "uri": uris, "truth_uri": truth or uris, **columns})
    return make_plan(Folder(str(out)), table, shard_size=3, source={})


def roles(plan: Plan, **chosen: Any) -> Roles:
    return roles_of(plan, resolve(ProbeSettings, chosen))


def named(count: int) -> list[str]:
    return [f"{chr(97 + i % 26)}{chr(97 + i // 26)}.png" for i in range(count)]


def test_half_is_drawn_by_the_seed_if_nothing_is_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, named(11))
    first, again, other = roles(plan), roles(plan), roles(plan, seed=1)
    assert (len(first.train), len(first.val)) == (5, 6)
    assert sorted([*first.train, *first.val]) == list(range(11))
    assert first.train.tolist() == again.train.tolist() != other.train.tolist()


def test_what_is_said_of_one_side_leaves_the_others_to_the_other(tmp_path: Path) -> None:
    plan = planned(tmp_path, named(10), site=[*"aaabbbcccc"])
    found = roles(plan, val="site=b")
    assert found.val.tolist() == [3, 4, 5]
    assert found.train.tolist() == [0, 1, 2, 6, 7, 8, 9]
    found = roles(plan, train="site=a", val="site=c")
    assert (found.train.tolist(), found.val.tolist()) == ([0, 1, 2], [6, 7, 8, 9])


def test_a_dataset_that_says_its_split_is_taken_at_its_word(tmp_path: Path) -> None:
    plan = planned(tmp_path, named(5), split=["train", "val", "train", "test", "val"])
    found = roles(plan)
    assert (found.train.tolist(), found.val.tolist()) == ([0, 2], [1, 4])


def test_a_list_names_images_with_or_without_their_suffix(tmp_path: Path) -> None:
    plan = planned(tmp_path / "run", named(4))
    (tmp_path / "train.txt").write_text("aa\nca.png\n\n")
    found = roles(plan, train=str(tmp_path / "train.txt"))
    assert (found.train.tolist(), found.val.tolist()) == ([0, 2], [1, 3])
    (tmp_path / "odd.txt").write_text("aa\nzz\n")
    with pytest.raises(SettingsError, match=r"names 1 image that the run has not: zz"):
        roles(plan, train=str(tmp_path / "odd.txt"))


def test_a_share_takes_whole_groups(tmp_path: Path) -> None:
    videos = [f"v{i // 4}" for i in range(20)]
    plan = planned(tmp_path, named(20), video=videos)
    found = roles(plan, train=".6", group="video")
    fitted = {videos[i] for i in found.train.tolist()}
    assert len(found.train) == 12
    assert not fitted & {videos[i] for i in found.val.tolist()}


def test_groups_on_both_sides_are_refused_and_named_unless_they_are_asked_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, named(4), video=["v1", "v1", "v2", "v2"], part=[*"xyyy"])
    with pytest.raises(SettingsError, match=r"1 group of video would stand on both sides \(v1\)"):
        roles(plan, train="part=x", group="video")
    assert roles(plan, train="part=x", group="video", overlap="allow").train.tolist() == [0]


def test_images_on_both_sides_are_refused_and_named_unless_they_are_asked_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, named(4), part=[*"xxyy"], other=[*"abbb"])
    with pytest.raises(SettingsError, match=r"1 image would stand on both sides \(ba\.png\)"):
        roles(plan, train="part=x", val="other=b")
    found = roles(plan, train="part=x", val="other=b", overlap="allow")
    assert (found.train.tolist(), found.val.tolist()) == ([0, 1], [1, 2, 3])


def test_frames_of_one_video_on_both_sides_are_said(tmp_path: Path) -> None:
    frames = [f"0016E5_{number:05d}.png" for number in range(7959, 8019, 6)]
    found = roles(planned(tmp_path / "frames", frames))
    assert any("5 of 5 val images are numbered as frames of sequences" in note for note in found.notes)
    assert any("0016E5_" in note and "--group sequence" in note for note in found.notes)
    assert not any("frames" in note for note in roles(planned(tmp_path / "photos", named(10))).notes)
    both = [*frames, *(f"0001TP_{number:05d}.png" for number in range(6690, 6990, 30))]
    apart = roles(planned(tmp_path / "both", both), group="sequence")
    assert not any("frames" in note for note in apart.notes)
    assert {len(apart.train), len(apart.val)} == {10}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"train": "half"}, "train: 'half' is not known"),
        ({"train": "site=a"}, "no column 'site'; they have part"),
        ({"val": "split=val"}, "give --split train\\+val"),
        ({"train": "part=z"}, "no image has part=z; the column part holds x, y"),
        ({"group": "patient"}, "group: the images have no column 'patient'"),
        ({"train": "part=x", "val": "part=x", "overlap": "allow", "group": "folder"}, ""),
    ],
)
def test_what_cannot_be_chosen_by_is_named_with_the_mend(tmp_path: Path, chosen: Any, message: str) -> None:
    plan = planned(tmp_path, named(4), part=[*"xxyy"])
    if not message:
        assert roles(plan, **chosen).train.tolist() == [0, 1]
        return
    with pytest.raises(SettingsError, match=message):
        roles(plan, **chosen)


def test_a_side_without_truth_is_refused_and_missing_truth_is_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path / "some", named(4), ["t", "t", None, "t"], part=[*"xxxy"])
    notes = roles(plan, train="part=x").notes
    assert "1 of train have no truth (ca.png): they are neither fitted on nor scored" in notes
    plan = planned(tmp_path / "none", named(4), ["t", "t", None, None], part=[*"xxyy"])
    with pytest.raises(SettingsError, match="val: all that the other side leaves leaves 2 images, none of them"):
        roles(plan, train="part=x")
    plan = planned(tmp_path / "nowhere", named(2), [None, None])
    with pytest.raises(SettingsError, match="truth: no image has any"):
        roles(plan)


def test_a_share_that_is_no_image_is_said(tmp_path: Path) -> None:
    notes = roles(planned(tmp_path, named(20)), fractions=".01,.05,1").notes
    assert "fractions: 0.01, 0.05 of 10 train images is none; one image is taken instead" in notes
    assert [images_of_share(share, 100) for share in (0.001, 0.01, 0.29, 1.0)] == [1, 1, 29, 100]


@given(st.integers(0, 5), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=20, unique=True))
@settings(deadline=None)
def test_a_draw_depends_on_no_other_image(seed: int, ids: list[str]) -> None:
    order = [ids[place] for place in order_of(ids, seed).tolist()]
    fewer = [name for name in ids if name != ids[0]]
    assert [fewer[place] for place in order_of(fewer, seed).tolist()] == [name for name in order if name != ids[0]]


def test_stratified_beginnings_hold_rare_classes_first() -> None:
    holds = np.zeros((8, 3), np.bool_)
    holds[:, 0] = True
    holds[[2, 5, 7], 1] = True
    holds[6, 2] = True
    order = rare_first(np.array([3, 1, 4, 0, 5, 2, 6, 7]), holds)
    # the class of one image, that of three, that of all; then what each still finds
    assert order.tolist() == [6, 5, 3, 2, 1, 7, 4, 0]


def test_wrong_choices_come_before_any_image_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_collection(tmp_path, images=3)
    out = tmp_path / "run"
    assert simsam(arguments(tmp_path, out, "--train", "split=train", "--engine", "inline")) == 1
    assert "train: the images have no column 'split'" in capsys.readouterr().err
    assert not (out / "features").exists()
