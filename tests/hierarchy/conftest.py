"""Pictures whose regions are known, and a finished run over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tree_runs import inline

from simsam_batch.cli import run

COLOURS = [(200, 40, 40), (40, 170, 60), (50, 60, 200)]
PLACES = [(16, 16), (16, 128), (128, 16), (128, 128)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of three squares on grey noise in ``images/``; their labels 1 to 3 on 0 in ``truth/``."""
    root = tmp_path_factory.mktemp("photographs")
    for folder in ("images", "truth"):
        (root / folder).mkdir()
    for i in range(6):
        rng = np.random.default_rng(i)
        pixels = rng.integers(90, 140, (240, 240, 3)).astype(np.uint8)
        truth = np.zeros((240, 240), np.uint8)
        for number, place in enumerate(rng.permutation(4)[:3]):
            top, left = PLACES[place]
            square = slice(top, top + 96), slice(left, left + 96)
            pixels[square], truth[square] = COLOURS[number], number + 1
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        Image.fromarray(truth).save(root / "truth" / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of an undisturbed run in this process."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(inline(pictures, out)) == 0
    return out
