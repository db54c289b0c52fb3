"""The chapter of features on the report page: colours by hand, and a whole page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsam_batch import operations
from simsam_batch.cli import run as simsam
from simsam_batch.stages.features.views import patch_colors


def planted(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """(Hp, Wp, 8): an axis for each kind of patch, of a length by chance, and a little noise."""
    features = np.eye(8)[kinds] * rng.uniform(1, 50, (*kinds.shape, 1))
    return (features + 1e-3 * rng.standard_normal(features.shape)).astype(np.float16)


def test_like_patches_have_like_colours_in_all_pictures_whatever_their_length() -> None:
    rng = np.random.default_rng(0)
    kinds = {3: rng.integers(0, 3, (6, 8)), 9: rng.integers(0, 3, (5, 4))}
    colors = patch_colors({number: planted(rng, each) for number, each in kinds.items()})
    assert {number: each.shape for number, each in colors.items()} == {3: (6, 8, 3), 9: (5, 4, 3)}
    # the two components that tell three kinds apart; the third is noise
    flat = np.concatenate([each[..., :2].reshape(-1, 2) for each in colors.values()]).astype(int)
    of = np.concatenate([each.ravel() for each in kinds.values()])
    centers = np.array([flat[of == kind].mean(axis=0) for kind in range(3)])
    assert np.abs(flat - centers[of]).max() < 16
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 100


def test_colours_are_the_components_of_a_decomposition_in_one_piece() -> None:
    rng = np.random.default_rng(1)
    features = {number: rng.standard_normal((4, 5 + number, 6)) for number in range(3)}
    every = np.concatenate([each.reshape(-1, 6) for each in features.values()])
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    _, _, directions = np.linalg.svd(every - every.mean(axis=0))
    along = (every - every.mean(axis=0)) @ directions[:3].T
    along *= np.where(directions[:3][np.arange(3), np.abs(directions[:3]).argmax(axis=1)] < 0, -1, 1)
    low, high = np.percentile(along, [2, 98], axis=0)
    expected = 255 * np.clip((along - low) / (high - low), 0, 1)
    found = np.concatenate([each.reshape(-1, 3) for each in patch_colors(features).values()])
    assert np.abs(found - expected).max() <= 0.51


def test_patches_that_are_all_alike_have_one_colour() -> None:
    (colors,) = patch_colors({0: np.ones((3, 3, 4), np.float32)}).values()
    assert (colors == colors[0, 0]).all()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three images, of which one is no image."""
    home = tmp_path_factory.mktemp("page")
    (home / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(80, 120, (96, 136, 3)).astype(np.uint8)
        pixels[32:64, 48:96] = (210, 40, 40)
        Image.fromarray(pixels).save(home / "photos" / f"{number}.png")
    (home / "photos" / "words.png").write_text("no picture " * 20)
    command = ["features", str(home / "photos"), str(home / "out"), "--backbone", "descriptors", "--resize", "native"]
    assert simsam([*command, "--engine", "inline", "--quiet", "--allow-failed", "1"]) == 0
    return home / "out"


def test_the_page_shows_features_beside_the_photograph(out: Path) -> None:
    page = Path(operations.report(str(out)))
    text = page.read_text()
    for said in (
        "Shown are the features token-0",
        "6 x 8 patches",
        "Patches of an image",
        "Outlier tokens of an image",
    ):
        assert said in text
    with Image.open(next((page.parent / "pictures").glob("features-0000000-large-*"))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    side = (pixels.shape[1] - 6) // 2
    assert (side, pixels.shape[0]) == (640, 452)
    right = pixels[:, side + 6 :]
    # 8 patches of 16 pixels cover 128 of 136; what is left is pale and even
    empty = right[:, round(640 * 128 / 136) + 8 :]
    assert empty.reshape(-1, 3).std(axis=0).max() < 3
    assert empty.min() > 200
    # the object's patches have one colour, which is not that of the ground
    scale = 640 / 136
    object_, ground = (right[round(y * scale), round(x * scale)] for y, x in [(48, 72), (80, 24)])
    assert np.abs(object_ - ground).max() > 60


def test_a_run_without_any_good_image_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "words.png").write_text("no picture " * 20)
    command = ["features", str(tmp_path / "photos"), str(tmp_path / "out"), "--backbone", "descriptors", "--quiet"]
    assert simsam([*command, "--engine", "inline", "--allow-failed", "1"]) == 0
    assert "Shown are" not in Path(operations.report(str(tmp_path / "out"))).read_text()
