"""Frames of videos told by their names: names of real sets, and names made up after those of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsam_batch.catalog.sequences import sequences_of

# the lists of SegNet's tutorial: every 30th frame but for one, with gaps; val is every 2nd in one of these
CAMVID_TRAIN = [
    *(f"0001TP_{i:06}.png" for i in range(6690, 8521, 30)),
    *(f"0006R0_f{i:05}.png" for i in range(930, 3931, 30)),
    *(f"0016E5_{i + (i == 900):05}.png" for i in range(390, 2401, 30)),
    *(f"0016E5_{i:05}.png" for i in (*range(4350, 7921, 30), *range(8190, 8641, 30))),
]
CAMVID_VAL = [f"0016E5_{i:05}.png" for i in range(7959, 8160, 2)]
CAMVID_TEST = [
    *(f"0001TP_{i:06}.png" for i in range(8550, 10381, 30)),
    *(f"Seq05VD_f{i:05}.png" for i in range(0, 5101, 30)),
]
VOC = [
    f"2007_{i:06}"
    for i in (33, 42, 61, 123, 129, 175, 187, 323, 332, 346, 452, 464, 491, 529, 559, 572, 629, 636, 661, 663, 676, 727)
]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir())


def test_frames_of_camvid_are_those_of_its_drives() -> None:
    assert [len(split) for split in (CAMVID_TRAIN, CAMVID_VAL, CAMVID_TEST)] == [367, 101, 233]
    both = CAMVID_TRAIN + CAMVID_VAL
    assert sequences_of(both) == [name[: name.index("_") + 1] + "f" * ("_f" in name) for name in both]
    assert set(sequences_of(CAMVID_VAL)) == {"0016E5_"}


def test_a_video_that_begins_at_0_is_found_among_others() -> None:
    assert set(sequences_of(CAMVID_TRAIN + CAMVID_TEST)) == {"0001TP_", "0006R0_f", "0016E5_", "Seq05VD_f"}
    # on its own it could be a list
    assert set(sequences_of(CAMVID_TEST)) == {"0001TP_", None}


def test_frames_of_real_files_of_camvid_and_davis_are_sequences(test_data: Path) -> None:
    assert set(sequences_of(names_in(test_data / "camvid"))) == {"0016E5_"}
    davis = names_in(test_data / "davis_videos")
    assert sequences_of(davis) == [name.rpartition("-")[0] + "-" for name in davis]


def test_frames_in_a_folder_of_their_own_are_called_by_it() -> None:
    frames = [f"{video}/{i:05}" for video in ("bear", "bmx-bumps", "boat", "breakdance") for i in range(40)]
    assert sequences_of(frames) == [frame.rpartition("/")[0] + "/" for frame in frames]


@pytest.mark.parametrize("folder", ["bsds500", "weizmann_horses", "ccp"])
def test_photographs_of_real_sets_are_no_sequences(test_data: Path, folder: str) -> None:
    assert set(sequences_of(names_in(test_data / folder))) == {None}


@pytest.mark.parametrize("share", [0.002, 0.2, 0.5, 0.7])
@pytest.mark.parametrize("name", ["{:012}.jpg", "val2017/{:012}.jpg", "COCO_train2014_{:012}.jpg", "2008_{:06}.jpg"])
def test_numbers_picked_from_a_longer_list_are_no_sequence(name: str, share: float) -> None:
    chosen = np.random.default_rng(0).random(20_000) < share
    assert set(sequences_of([name.format(9 + i) for i in np.flatnonzero(chosen).tolist()])) == {None}


def test_gaps_of_several_sizes_are_no_step() -> None:
    gaps = np.random.default_rng(2).choice([5, 7, 9], 200)
    assert set(sequences_of([f"a_{number:06}.jpg" for number in (1000 + np.cumsum(gaps)).tolist()])) == {None}


def test_the_years_of_voc_are_no_sequences() -> None:
    # the first of its val list, and the same numbers in five other years
    years = [name.replace("2007", str(year)) for year in range(2007, 2013) for name in VOC]
    assert set(sequences_of(years)) == {None}


@pytest.mark.parametrize("parts", [["ADE_train_"], ["ADE_train_", "ADE_val_"], ["train/", "val/", "test/"]])
def test_lists_numbered_from_1_are_no_sequences(parts: list[str]) -> None:
    assert set(sequences_of([f"{part}{i:08}.jpg" for part in parts for i in range(1, 60)])) == {None}


def test_a_number_alone_is_no_name() -> None:
    assert set(sequences_of([f"{i:05}.jpg" for i in range(500, 900, 10)])) == {None}


def test_four_frames_are_too_few() -> None:
    frames = [f"a_{i}.png" for i in range(100, 160, 10)]
    assert sequences_of(frames[:4]) == [None] * 4
    assert sequences_of(frames[:5]) == ["a_"] * 5


def test_names_in_other_words_stay_out_of_a_sequence() -> None:
    frames = [f"a_{i:05}.png" for i in range(100, 200, 10)]
    others = ["a_portrait.png", "b/a_00110.png", "", "a_", "20240101_120000_HDR.jpg", "hash_" + "7" * 5000]
    assert sequences_of([*others, *frames]) == [None] * len(others) + ["a_"] * len(frames)


def test_a_frame_that_is_there_as_png_and_jpeg_is_one_frame() -> None:
    frames = [f"a_{i}{suffix}" for i in range(100, 160, 10) for suffix in (".png", ".JPG")]
    assert set(sequences_of(frames)) == {"a_"}


@given(st.integers(2, 500), st.integers(1, 10), st.integers(5, 60), st.randoms())
def test_every_nth_frame_is_found_in_whatever_order(step: int, start: int, frames: int, random: object) -> None:
    names = [f"clip/f{(start + i) * step + 1}.png" for i in range(frames)]
    random.shuffle(names)  # type: ignore[attr-defined]
    assert sequences_of(names) == ["clip/f"] * frames
