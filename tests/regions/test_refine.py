"""Refinement by a guided filter or a dense CRF: borders go to the picture's edges, and what has no border stays."""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from simsam_batch.errors import SettingsError
from simsam_batch.regions.guided import GUIDED, GuidedParameters
from simsam_batch.regions.pixel_index import upsample_index
from simsam_batch.regions.refine import SCALED, UPSTREAM, CrfParameters, refine, shrink

RED, BLUE, GREEN = (200, 40, 30), (30, 60, 190), (40, 170, 60)


def two_colours(height: int = 64, width: int = 80, edge: int = 37) -> np.ndarray:
    """Red left of the column ``edge``, blue from there on."""
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:, :edge], rgb[:, edge:] = RED, BLUE
    return rgb


@pytest.mark.parametrize("parameters", [GUIDED, SCALED, UPSTREAM])
def test_a_border_of_patches_snaps_to_the_edge_of_the_picture(parameters: CrfParameters | GuidedParameters) -> None:
    rgb = two_colours(160, 208, edge=101)
    patches = np.zeros((10, 13), bool)
    # Patches of 16: the border lies at column 96, five pixels before the edge.
    patches[:, 6:] = True
    index = upsample_index((10, 13), 16, (160, 208), (160, 208))
    refined = refine(rgb, patches, parameters, index=index)
    expected = np.zeros((160, 208), bool)
    expected[:, 101:] = True
    assert np.array_equal(refined, expected)


def test_a_map_of_pixels_and_a_map_of_patches_with_its_index_come_out_the_same() -> None:
    rgb = two_colours()
    patches = np.zeros((4, 5), np.int64)
    patches[1:, 2:] = 3
    pixels = np.repeat(np.repeat(patches, 16, axis=0), 16, axis=1)
    index = upsample_index((4, 5), 16, (64, 80), (64, 80))
    assert np.array_equal(refine(rgb, pixels), refine(rgb, patches, index=index))


@pytest.mark.parametrize("parameters", [GUIDED, SCALED])
def test_three_regions_with_ids_beyond_a_byte_keep_their_ids_and_find_their_edges(
    parameters: CrfParameters | GuidedParameters,
) -> None:
    rgb = two_colours(96, 96, edge=48)
    rgb[51:] = GREEN
    labels = np.full((96, 96), 70_000, np.int32)
    labels[:, 44:] = 256
    labels[48:] = -1
    expected = np.full((96, 96), 70_000, np.int32)
    expected[:, 48:] = 256
    expected[51:] = -1
    refined = refine(rgb, labels, parameters)
    assert refined.dtype == np.int32
    assert np.array_equal(refined, expected)


@pytest.mark.parametrize("label", [0, 1, 255, 300])
def test_a_map_of_one_label_comes_out_as_it_is(label: int) -> None:
    labels = np.full((64, 80), label, np.int64)
    refined = refine(two_colours(), labels)
    assert np.array_equal(refined, labels)
    assert refined is not labels


def test_without_kernels_the_map_itself_comes_out_however_many_labels_it_holds() -> None:
    """A certainty just over one half is enough even among twelve labels: it is about odds against each other one."""
    none = CrfParameters(certainty=0.51, bilateral_weight=0, gaussian_weight=0)
    labels = np.arange(12).reshape(3, 4)
    assert np.array_equal(refine(np.zeros((3, 4, 3), np.uint8), labels, none), labels)


def dense_mean_field(rgb: np.ndarray, labels: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """Krähenbühl and Koltun's mean field with the kernels written out, pixel by pixel, in fp64.

    Kernels are normalised as their second code does: K_ij / sqrt(n_i n_j), n the row sums.
    """
    height, width = labels.shape
    ys, xs = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    colours = rgb.reshape(-1, 3).astype(float)
    apart = (ys[:, None] - ys) ** 2 + (xs[:, None] - xs) ** 2
    unlike = ((colours[:, None] - colours) ** 2).sum(-1)
    reach = parameters.bilateral_xy * min(height, width) / parameters.reference_side
    kernels = [
        (parameters.gaussian_weight, np.exp(-apart / (2 * parameters.gaussian_xy**2))),
        (
            parameters.bilateral_weight,
            np.exp(-apart / (2 * reach**2) - unlike / (2 * parameters.bilateral_rgb**2)),
        ),
    ]
    own = labels.ravel()[:, None] == np.unique(labels)
    prior = np.where(own, parameters.certainty, 1 - parameters.certainty)
    if parameters.certainty_xy is not None:
        # Pixels beside one of another label are half a pixel from the border, others as much farther as they lie apart.
        other = labels.ravel()[:, None] != labels.ravel()
        at_border = (other & (apart == 1)).any(1)
        distance = np.sqrt(apart[:, at_border].min(1)) + 0.5
        odds = np.exp(distance / (parameters.certainty_xy * min(height, width) / parameters.reference_side))
        prior = prior * np.where(own, odds[:, None], 1)
    beliefs = prior / prior.sum(1, keepdims=True)
    for _ in range(parameters.iterations):
        field = np.log(prior)
        for weight, kernel in kernels:
            norm = np.sqrt(kernel.sum(1))
            field = field + weight * (kernel / np.outer(norm, norm)) @ beliefs
        field -= field.max(1, keepdims=True)
        beliefs = np.exp(field) / np.exp(field).sum(1, keepdims=True)
    return np.unique(labels)[beliefs.argmax(1)].reshape(height, width)


@pytest.mark.parametrize(
    "parameters", [CrfParameters(reference_side=400), replace(SCALED, certainty_xy=20.0, bilateral_xy=80.0)]
)
def test_a_noisy_picture_comes_out_nearly_as_by_the_mean_field_written_out(parameters: CrfParameters) -> None:
    """The permutohedral lattice approximates the kernels, so a few pixels at the border may differ."""
    rng = np.random.default_rng(3)
    rgb = two_colours(32, 40, edge=19).astype(int)
    rgb = np.clip(rgb + rng.integers(-12, 13, rgb.shape), 0, 255).astype(np.uint8)
    labels = np.zeros((32, 40), np.int64)
    labels[:16, 16:], labels[16:, 24:] = 1, 1
    ours, exact = refine(rgb, labels, parameters), dense_mean_field(rgb, labels, parameters)
    assert (labels != exact).mean() > 0.05, "nothing to refine"
    assert (ours != exact).mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shape_type_and_the_set_of_labels_survive(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    rgb = data.draw(arrays.arrays(np.uint8, (*size, 3)))
    dtype = data.draw(st.sampled_from([np.bool_, np.uint8, np.uint16, np.int64]))
    labels = data.draw(arrays.arrays(dtype, size))
    parameters = data.draw(st.sampled_from([GUIDED, SCALED]))
    before = labels.copy(), rgb.copy()
    refined = refine(rgb, labels, parameters)
    assert refined.shape == labels.shape
    assert refined.dtype == labels.dtype
    assert set(refined.ravel()) <= set(labels.ravel())
    assert np.array_equal(refined, refine(rgb, labels, parameters))
    assert np.array_equal(labels, before[0])
    assert np.array_equal(rgb, before[1])


def test_a_small_object_in_a_picture_without_an_edge_is_smoothed_away_only_by_the_published_crf() -> None:
    """Nothing in the picture speaks for it: there is the map alone, which counts more the farther from its borders."""
    rgb, labels = np.full((400, 400, 3), 128, np.uint8), np.zeros((400, 400), bool)
    labels[150:250, 150:250] = True
    assert not refine(rgb, labels, UPSTREAM).any()
    kept = refine(rgb, labels, SCALED)
    assert kept[180:220, 180:220].all()
    assert not (kept & ~labels).any()


def test_the_scaled_crf_reaches_farther_in_an_enlarged_picture_and_the_published_one_does_not() -> None:
    """A border a tenth of the height off the edge; UPSTREAM's 80 pixels are half of 160, and a sixth of 480."""
    rgb, labels = two_colours(160, 208, edge=112), np.zeros((160, 208), bool)
    labels[:, 96:] = True
    large = [np.repeat(np.repeat(each, 3, axis=0), 3, axis=1) for each in (rgb, labels)]
    wrong = {
        (name, picture.shape[0]): (refine(picture, mask, parameters) != (picture[..., 2] == BLUE[2])).mean()
        for name, parameters in (("scaled", SCALED), ("upstream", UPSTREAM))
        for picture, mask in ((rgb, labels), large)
    }
    assert wrong["scaled", 480] == pytest.approx(wrong["scaled", 160], abs=0.005)
    assert wrong["upstream", 160] == 0
    assert wrong["upstream", 480] > 0.05


@pytest.mark.parametrize("parameters", [GUIDED, SCALED])
def test_pictures_in_any_memory_layout_are_taken(parameters: CrfParameters | GuidedParameters) -> None:
    rgb, labels = two_colours(), np.zeros((64, 80), bool)
    labels[:, 32:] = True
    expected = refine(rgb, labels, parameters)
    assert np.array_equal(refine(np.asfortranarray(rgb), np.asfortranarray(labels), parameters), expected)
    padded = np.zeros((64, 160, 3), np.uint8)
    padded[:, ::2] = rgb
    assert np.array_equal(refine(padded[:, ::2], labels, parameters), expected)


@pytest.mark.parametrize("parameters", [GUIDED, SCALED])
def test_a_picture_over_the_limit_is_refined_small_and_comes_back_in_its_own_size(
    parameters: CrfParameters | GuidedParameters,
) -> None:
    rgb, labels = two_colours(320, 416, edge=202), np.full((320, 416), 300, np.int32)
    labels[:, 192:] = 7
    refined = refine(rgb, labels, parameters, max_side=208)
    # Every pixel of the picture at half its size is two by two of its own; the edge at 202 is one of them.
    expected = np.full((320, 416), 300, np.int32)
    expected[:, 202:] = 7
    assert refined.dtype == np.int32
    assert np.array_equal(refined, expected)


def test_a_picture_is_shrunk_by_averages_to_the_longest_side_and_no_further() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:2, :2] = [[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [60, 0, 0]]]
    small = shrink(rgb, 3)
    assert small.shape == (2, 3, 3)
    assert small[0, 0].tolist() == [30, 0, 0]
    assert shrink(rgb, 6) is rgb
    # 2 * 10 / 400 is nearer to 0 than to 1, and no side may vanish
    assert shrink(np.zeros((2, 400, 3), np.uint8), 10).shape == (1, 10, 3)


@pytest.mark.parametrize(
    ("rgb", "labels", "problem"),
    [
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), bool), "float32"),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), bool), r"\(4, 5\) of uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), bool), r"covers \(5, 4\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(rgb: Any, labels: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        refine(rgb, labels)


def test_without_the_package_the_message_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("pydensecrf"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.delitem(sys.modules, "pydensecrf.densecrf", raising=False)
    with pytest.raises(SettingsError, match=r"simsam-batch\[crf\].*--refine guided or none"):
        refine(np.zeros((1, 2, 3), np.uint8), np.array([[False, True]]))
