"""``--resize crop``: the shorter side, then the central square, as torchvision has them, and which part that is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional

from simsam_batch.errors import SettingsError
from simsam_batch.images import (
    ImageLimits,
    covered_part,
    crop_corner,
    parse_resize,
    prepare,
    require_whole_images,
    resized_size,
    working_size,
)

SIDES = st.integers(20, 90)


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return file.getvalue()


# halves of a pixel on either side: 41 - 32 = 9 and 43 - 32 = 11 left over, and a longer side of 65.9 that becomes 65
@pytest.mark.parametrize(("height", "width"), [(40, 41), (43, 40), (51, 84), (90, 37), (40, 40)])
def test_the_pixels_are_those_of_published_transforms(height: int, width: int) -> None:
    rgb = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prepared = prepare(png(rgb), limits=ImageLimits(), resize=parse_resize("crop:40:32"), patch=16)
    bicubic = functional.InterpolationMode.BICUBIC
    image = functional.center_crop(functional.resize(Image.fromarray(rgb), 40, bicubic), [32, 32])
    np.testing.assert_array_equal(prepared.rgb, np.asarray(image))
    assert (prepared.grid, prepared.working_size, prepared.full_size) == ((2, 2), (32, 32), (height, width))


def test_what_does_not_fill_a_patch_of_the_square_is_cut() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    prepared = prepare(png(rgb), limits=ImageLimits(), resize=parse_resize("crop:60:40"), patch=16)
    # the square begins at (60 - 40) / 2, and holds two patches of 16 each way
    np.testing.assert_array_equal(prepared.rgb, rgb[10:42, 10:42])
    assert prepared.working_size == (40, 40)


@settings(deadline=None)
@given(height=SIDES, width=SIDES, short=st.integers(16, 80), side=st.integers(16, 80))
def test_the_covered_part_holds_just_the_pixels_whose_centres_lie_in_the_square(
    height: int, width: int, short: int, side: int
) -> None:
    side = min(side, short)
    resize = parse_resize(f"crop:{short}:{side}")
    whole, corner = resized_size((height, width), resize), crop_corner((height, width), resize)
    assert min(whole) == short
    assert working_size((height, width), resize) == (side, side)
    parts = covered_part((height, width), resize)
    for full, resized, start, part in zip((height, width), whole, corner, parts, strict=True):
        inside = [y for y in range(full) if start * 2 * full <= (2 * y + 1) * resized < (start + side) * 2 * full]
        assert [*range(full)[part]] == inside


@pytest.mark.parametrize("text", ["native", "40x60", "short:40", "bucket:40"])
def test_every_other_resize_covers_the_whole_image(text: str) -> None:
    resize = parse_resize(text)
    assert covered_part((37, 90), resize) == (slice(0, 37), slice(0, 90))
    assert crop_corner((37, 90), resize) == (0, 0)
    assert resized_size((37, 90), resize) == working_size((37, 90), resize)
    require_whole_images(text)


def test_a_crop_is_printed_as_it_is_written_and_must_fit() -> None:
    assert str(parse_resize("crop:256:224")) == "crop:256:224"
    with pytest.raises(SettingsError, match="a square of 257 pixels does not fit a shorter side of 256"):
        parse_resize("crop:256:257")
    with pytest.raises(SettingsError, match="crop:SHORT:SIDE"):
        parse_resize("crop:256")
    with pytest.raises(SettingsError, match="leaves out what lies beside the central square"):
        require_whole_images("crop:256:224")
