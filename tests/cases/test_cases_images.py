"""One picture in many files from practice: each is decoded to that picture, or says that its variant is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode

GREY, COLOUR, UNSUPPORTED = "picture-grey.png", "picture.png", "unsupported"

# By file what is right for it, by the text beside the maker of the cases: the pixels of one of two references, or not
# read at all. Where it leaves the choice, what is done here.
RIGHT = {
    "picture-grey.png": GREY,
    "picture.png": COLOUR,
    "white-is-zero-16.tif": GREY,
    "white-is-zero-16-deflate.tif": GREY,
    "white-is-zero-float.tif": GREY,
    "unsigned-32.tif": GREY,
    "signed-8.tif": GREY,
    "float-big-endian-deflate.tif": GREY,
    "text-2-mb.png": COLOUR,
    "xmp-2-mb.png": COLOUR,
    "profile-1-mb.png": COLOUR,
    "texts-70-mb.png": COLOUR,
    "jpeg-2000.tif": UNSUPPORTED,
    "webp.tif": UNSUPPORTED,
    "jpeg-12-bit.jpg": UNSUPPORTED,
}
WORDS = {"jpeg-2000.tif": "34712 (JPEG 2000)", "webp.tif": "50001 (WebP)", "jpeg-12-bit.jpg": "12 bits"}


@pytest.fixture(scope="module")
def images(cases: Path) -> Path:
    """The cases' folder of pictures."""
    return cases / "images"


@pytest.mark.slow
def test_the_table_names_every_file_of_the_cases(images: Path) -> None:
    assert {path.name for path in images.iterdir()} == set(RIGHT)


@pytest.mark.parametrize("name", [name for name, right in RIGHT.items() if right != UNSUPPORTED])
@pytest.mark.parametrize("color_profile", ["ignore", "srgb"])
def test_a_file_shows_the_picture_that_it_holds(images: Path, name: str, color_profile: str) -> None:
    found = decode((images / name).read_bytes(), ImageLimits(), color_profile).rgb  # type: ignore[arg-type]
    expected = np.asarray(Image.open(images / RIGHT[name]).convert("RGB"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("name", WORDS)
def test_a_variant_that_is_not_read_says_what_it_is(images: Path, name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode((images / name).read_bytes(), ImageLimits())
    assert (caught.value.kind, caught.value.step) == ("unsupported", "decode")
    assert WORDS[name] in caught.value.message
    assert "To mend it: " in caught.value.message


def test_a_run_over_the_cases_has_the_right_row_for_each(images: Path, tmp_path: Path) -> None:
    settings = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4", "--engine", "inline"]
    assert run(["segment", str(images), str(tmp_path), *settings]) == 3
    rows = pq.read_table(tmp_path / "results" / "segment").to_pylist()
    assert {row["image_id"]: row["error_type"] for row in rows} == {
        name: UNSUPPORTED if right == UNSUPPORTED else None for name, right in RIGHT.items()
    }
