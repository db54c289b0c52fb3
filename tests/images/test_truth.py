"""Truth masks: what counts as object, and what is refused instead of being read as empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.images import ImageLimits, TruthError, load_instances, load_labels, load_truth

LIMITS = ImageLimits()
SIZE = (24, 40)
OBJECT = np.zeros(SIZE, bool)
OBJECT[4:15, 8:30] = True


def saved(folder: Path, image: Image.Image, name: str = "mask.png", **options: Any) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def palette_image(indices: np.ndarray, colours: list[list[int]]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "pixels",
    [
        OBJECT.astype(np.uint8) * 255,
        OBJECT.astype(np.uint8),
        OBJECT,
        OBJECT.astype(np.uint16) * 65535,
        OBJECT.astype(np.uint16),
        OBJECT.astype(np.uint16) * 255,
        np.where(OBJECT, 200, 127).astype(np.uint8),
        np.repeat(OBJECT[:, :, None] * np.uint8(255), 3, axis=2),
        np.dstack([OBJECT * np.uint8(128), np.zeros((*SIZE, 2), np.uint8)]),
        np.dstack([OBJECT * np.uint8(255), np.full(SIZE, 9, np.uint8)]),
        np.dstack([*[OBJECT * np.uint8(255)] * 3, np.full(SIZE, 9, np.uint8)]),
    ],
    ids=["0-255", "0-1", "bits", "16-bit", "16-bit-0-1", "16-bit-0-255", "127-200", "rgb", "red", "la", "rgba"],
)
def test_a_mask_reads_the_same_in_every_depth_and_mode(tmp_path: Path, pixels: np.ndarray) -> None:
    found = load_truth(saved(tmp_path, Image.fromarray(pixels)), LIMITS, SIZE)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, OBJECT)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_float_mask_reads_the_same(tmp_path: Path, scale: float) -> None:
    uri = saved(tmp_path, Image.fromarray((OBJECT * scale).astype(np.float32)), "mask.tif")
    np.testing.assert_array_equal(load_truth(uri, LIMITS, SIZE), OBJECT)


@pytest.mark.parametrize(
    ("indices", "colours"),
    [
        (OBJECT.astype(int), [[0, 0, 0], [0, 0, 90]]),  # the index counts, whatever its colour
        (OBJECT.astype(int), [[0, 0, 0], [255, 255, 255]]),
        (1 - OBJECT.astype(int), [[255, 255, 255], [0, 0, 0]]),  # a grey mask that a program packed: the grey counts
        (OBJECT.astype(int) * 255, [[0, 0, 0]] + [[i, 0, 0] for i in range(1, 256)]),
    ],
)
def test_palettes_count_by_grey_or_else_by_index(tmp_path: Path, indices: np.ndarray, colours: list[list[int]]) -> None:
    uri = saved(tmp_path, palette_image(indices, colours))
    np.testing.assert_array_equal(load_truth(uri, LIMITS, SIZE), OBJECT)


def test_a_jpeg_mask_is_cut_at_one_half(tmp_path: Path) -> None:
    uri = saved(tmp_path, Image.fromarray(OBJECT.astype(np.uint8) * 255), "mask.jpg", quality=90)
    np.testing.assert_array_equal(load_truth(uri, LIMITS, SIZE), OBJECT)


def test_empty_and_full_masks_stay_what_they_are(tmp_path: Path) -> None:
    assert not load_truth(saved(tmp_path, Image.new("L", (40, 24), 0)), LIMITS, SIZE).any()
    assert load_truth(saved(tmp_path, Image.new("L", (40, 24), 1)), LIMITS, SIZE).all()
    assert load_truth(saved(tmp_path, Image.new("L", (40, 24), 255)), LIMITS, SIZE).all()


def test_the_orientation_of_the_truth_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(OBJECT, 1).astype(np.uint8) * 255
    uri = saved(tmp_path, Image.fromarray(stored), exif=exif)
    np.testing.assert_array_equal(load_truth(uri, LIMITS, SIZE), OBJECT)


def test_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    uri = saved(tmp_path, Image.new("L", (40, 25)))
    with pytest.raises(TruthError, match=r"mask\.png.*40x25.*40x24") as caught:
        load_truth(uri, LIMITS, SIZE)
    assert caught.value.kind == "other_size"


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(OBJECT.astype(np.uint8) * 7),
        Image.fromarray(OBJECT.astype(np.uint16) * 300),
        palette_image(OBJECT.astype(int) * 2, [[0, 0, 0], [0, 90, 0], [128, 0, 0]]),
    ],
    ids=["values to 7", "16-bit values to 300", "palette indices 0 and 2"],
)
def test_a_label_map_is_refused_instead_of_being_read_as_empty(tmp_path: Path, image: Image.Image) -> None:
    with pytest.raises(TruthError, match="a mask has 0 and 1 or 0 and 255") as caught:
        load_truth(saved(tmp_path, image), LIMITS, SIZE)
    assert caught.value.kind == "not_a_mask"


def test_a_mask_drawn_in_green_is_refused_instead_of_being_read_as_empty(tmp_path: Path) -> None:
    green = np.dstack([np.zeros(SIZE, np.uint8), OBJECT * np.uint8(255), np.zeros(SIZE, np.uint8)])
    with pytest.raises(TruthError, match="first channel is empty"):
        load_truth(saved(tmp_path, Image.fromarray(green)), LIMITS, SIZE)


def test_truth_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a mask")
    for name, reason in [("text.png", "looks like text"), ("gone.png", "no such file|cannot read")]:
        with pytest.raises(TruthError, match=f"(?is){name}.*({reason})") as caught:
            load_truth(str(tmp_path / name), LIMITS, SIZE)
        assert caught.value.kind == "unreadable"


def test_the_horses_masks_read_as_their_first_channel(test_data: Path) -> None:
    for path in sorted((test_data / "weizmann_horses" / "masks").iterdir())[:5]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))[:, :, 0] > 127
        np.testing.assert_array_equal(load_truth(str(path), LIMITS, expected.shape), expected)
        assert 0.02 < expected.mean() < 0.9


def test_label_maps_are_read_as_they_are_stored(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [11, 11, 58]], dtype=np.uint8)
    palette = Image.fromarray(ids, "L").convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([7 * i % 256 for i in range(768)])
    forms = {
        "grey.png": Image.fromarray(ids),
        "palette.png": palette,
        "deep.png": Image.fromarray(ids.astype(np.uint16)),
        "same in three.png": Image.merge("RGB", [Image.fromarray(ids)] * 3),
    }
    for name, image in forms.items():
        image.save(tmp_path / name)
        read = load_labels(str(tmp_path / name), LIMITS, (2, 3), classes=59, ignore=None)
        assert np.array_equal(read, ids), name


def test_ids_out_of_range_are_named_with_the_mend_and_ignored_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "labels.png"
    Image.fromarray(np.array([[0, 3], [254, 255]], dtype=np.uint8)).save(file)
    with pytest.raises(TruthError, match=r"hold 254, and class ids run from 0 to 3.*--ignore-label"):
        load_labels(str(file), LIMITS, (2, 2), classes=4, ignore=255)
    read = load_labels(str(file), LIMITS, (2, 2), classes=255, ignore=255)
    assert read.tolist() == [[0, 3], [254, 255]]


def test_coloured_label_maps_and_other_sizes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.png"
    Image.new("RGB", (2, 2), (1, 2, 3)).save(file)
    with pytest.raises(TruthError, match="it has colours"):
        load_labels(str(file), LIMITS, (2, 2), classes=4, ignore=None)
    Image.new("L", (2, 2)).save(file)
    with pytest.raises(TruthError, match="2x2 pixels"):
        load_labels(str(file), LIMITS, (3, 2), classes=4, ignore=None)


COLOURS = [[number, 255 - number, 7] for number in range(256)]
NUMBERED = np.zeros(SIZE, np.int64)
NUMBERED[4:15, 8:30], NUMBERED[18:22, 2:6], NUMBERED[:, 36:38] = 1, 9, 255


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_a_grey_mask_is_one_object(tmp_path: Path, scale: int) -> None:
    numbers, void = load_instances(
        saved(tmp_path, Image.fromarray(OBJECT.astype(np.uint16) * scale)), LIMITS, SIZE, ignore=None
    )
    np.testing.assert_array_equal(numbers, OBJECT)
    assert not void.any()


def test_a_palette_of_colours_holds_numbers_and_vocs_border(tmp_path: Path) -> None:
    numbers, void = load_instances(saved(tmp_path, palette_image(NUMBERED, COLOURS)), LIMITS, SIZE, ignore=None)
    np.testing.assert_array_equal(void, NUMBERED == 255)
    np.testing.assert_array_equal(numbers, np.where(NUMBERED == 255, 0, NUMBERED))
    # also where nothing but the border is there: an image without an object
    border = np.where(NUMBERED == 255, 255, 0)
    numbers, void = load_instances(saved(tmp_path, palette_image(border, COLOURS)), LIMITS, SIZE, ignore=None)
    assert (numbers.any(), void.sum()) == (False, 2 * SIZE[0])


def test_grey_numbers_all_count_but_for_what_is_said_not_to(tmp_path: Path) -> None:
    uri = saved(tmp_path, Image.fromarray(np.where(NUMBERED == 255, 300, NUMBERED).astype(np.uint16)))
    numbers, void = load_instances(uri, LIMITS, SIZE, ignore=None)
    assert (set(np.unique(numbers)), void.any()) == ({0, 1, 9, 300}, False)
    numbers, void = load_instances(uri, LIMITS, SIZE, ignore=9)
    assert (set(np.unique(numbers)), void.sum()) == ({0, 1, 300}, 16)
    # with it, 255 is a number too
    uri = saved(tmp_path, Image.fromarray(OBJECT.astype(np.uint8) * 255))
    assert set(np.unique(load_instances(uri, LIMITS, SIZE, ignore=9)[0])) == {0, 255}


def test_instances_of_another_size_or_in_colours_are_refused(tmp_path: Path) -> None:
    uri = saved(tmp_path, Image.fromarray(OBJECT.astype(np.uint8)))
    with pytest.raises(TruthError, match="40x24 pixels"):
        load_instances(uri, LIMITS, (24, 41), ignore=None)
    colours = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    with pytest.raises(TruthError, match="colours"):
        load_instances(saved(tmp_path, Image.fromarray(colours)), LIMITS, SIZE, ignore=None)
