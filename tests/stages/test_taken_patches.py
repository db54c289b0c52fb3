"""Which patches are fitted to, their one class, and where patches lie on the canvas of a cropped image."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.images import covered_part, parse_resize
from simsam_batch.probes.balance import published_balance
from simsam_batch.regions.upsampling import bilinear_index, classes_between_patches
from simsam_batch.stages.patch_labels.canvas import canvas_of, truth_on
from simsam_batch.stages.probe_fits.patches import LabelledImage, taken_patches


def image_of(record: int, histogram: np.ndarray) -> LabelledImage:
    patch, label = np.nonzero(histogram)
    labels = np.stack([patch, label, histogram[patch, label]], axis=1).astype(np.int32)
    features = [10 * record + np.arange(len(histogram), dtype=np.float32)[:, None]]
    return LabelledImage(record, features, labels, np.zeros(len(histogram), np.int32), len(histogram))


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("bfn"), min_size=1, max_size=6), min_size=1, max_size=6))
def test_published_rows_are_those_of_the_published_code_over_any_images(kinds: list[list[str]]) -> None:
    # background alone, foreground beside background, no pixel that counts
    rows = {"b": [4, 0, 0], "f": [3, 0, 1], "n": [0, 0, 0]}
    images = [image_of(i, np.array([rows[kind] for kind in each])) for i, each in enumerate(kinds)]
    labelled = [
        (10.0 * i + j, kind == "b") for i, each in enumerate(kinds) for j, kind in enumerate(each) if kind != "n"
    ]
    values = np.array([value for value, _ in labelled])
    for published in (True, False):
        found = [
            v for image, taken in taken_patches(lambda: images, published=published) for v in image.features[0][taken]
        ]
        expected = values
        if published:
            expected = values[published_balance(np.array([b for _, b in labelled], np.bool_), 1.0)]
        assert np.ravel(found).tolist() == expected.tolist()


def test_the_class_of_most_pixels_takes_all_that_count_and_the_lower_of_two() -> None:
    image = image_of(0, np.array([[1, 5, 2], [4, 0, 4], [0, 3, 3], [0, 0, 0]])).coarse(3)
    assert image.histogram(3).tolist() == [[0, 8, 0], [8, 0, 0], [0, 6, 0], [0, 0, 0]]
    assert image.background().tolist() == [False, True, False, False]
    assert image.labelled().tolist() == [True, True, True, False]


@settings(deadline=None, max_examples=30)
@given(height=st.integers(36, 80), width=st.integers(36, 80), seed=st.integers(0, 9))
def test_a_square_out_of_an_image_has_the_patches_of_the_square_alone(height: int, width: int, seed: int) -> None:
    # without any resize: the shorter side stays as it is
    short = min(height, width)
    resize = parse_resize(f"crop:{short}:32")
    row = {"height": height, "width": width, "grid_h": 4, "grid_w": 4, "patch": 8}
    canvas = canvas_of(row, resize, "native")
    part = covered_part((height, width), resize)
    assert canvas.part == part
    assert all((along[p] == np.repeat(np.arange(4), 8)).all() for along, p in zip(canvas.index, part, strict=True))
    scores = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    alone = classes_between_patches(scores, bilinear_index((4, 4), 8, (32, 32), (32, 32)))
    assert np.array_equal(classes_between_patches(scores, canvas.between).numpy()[part], alone.numpy())
    ids = np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.int32)
    seen = canvas_of(row, resize, "working")
    assert np.array_equal(truth_on(ids, seen, resize, "working"), ids[part])
    on_image = truth_on(ids, canvas, resize, "native")
    assert np.array_equal(on_image[part], ids[part])
    assert (on_image == -1).sum() == ids.size - 32 * 32
