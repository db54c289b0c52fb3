"""Where points lie on a grid of patches, by hand and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simsam_batch import images
from simsam_batch.correspondence.grids import PatchGrid


def grid_of(height: int, width: int, resize: str, patch: int = 16) -> PatchGrid:
    how = images.parse_resize(resize)
    rows, columns = images.working_size((height, width), how)
    shape = rows // patch, columns // patch
    size, corner = images.resized_size((height, width), how), images.crop_corner((height, width), how)
    return PatchGrid((height, width), size, corner, patch, shape)


def test_the_centre_of_a_patch_is_a_whole_number_and_its_corner_half_a_patch_before() -> None:
    grid = grid_of(64, 96, "native")
    # pixels 0..15 have their middle at 7.5, and begin half a pixel before the first centre
    points = np.array([[7.5, 7.5], [-0.5, -0.5], [23.5, 39.5]])
    assert grid.cells_of(points).tolist() == [[0, 0], [-0.5, -0.5], [1, 2]]


def test_a_resize_stretches_each_axis_by_its_own_factor() -> None:
    grid = grid_of(100, 400, "200x200", patch=10)
    # x shrinks by 2, y grows by 2: pixel 9.5 of y ends at 20, pixel 39.5 of x at 20
    assert grid.cells_of(np.array([[39.5, 9.5]])).tolist() == [[1.5, 1.5]]


def test_a_crop_leaves_its_corner_out() -> None:
    grid = grid_of(300, 400, "crop:150:128")
    assert (grid.resized, grid.corner, grid.shape) == ((150, 200), (11, 36), (8, 8))
    # the first patch begins 36 pixels into a width of 200, which is pixel 72 of 400
    assert grid.cells_of(np.array([[71.5, 21.5]])) == pytest.approx(np.array([[-0.5, -0.5]]))
    assert grid.covers(np.array([[200.0, 150.0], [2.0, 150.0], [200.0, -3.0]])).tolist() == [True, False, False]
    assert grid.holds(np.array([[200.0, 150.0], [2.0, 150.0], [200.0, -3.0]])).tolist() == [True, True, False]


def test_the_pixels_of_an_image_are_covered_to_its_edges_and_no_further() -> None:
    grid = grid_of(70, 101, "native")
    corners = np.array([[-0.5, -0.5], [100.5, 69.5], [100.6, 69.5], [100.5, 69.6], [-0.6, 0.0]])
    assert grid.covers(corners).tolist() == [True, True, False, False, False]


@given(
    st.integers(40, 700),
    st.integers(40, 700),
    st.sampled_from(["native", "short:64", "96x160", "bucket:96", "crop:96:64"]),
    st.floats(-0.5, 1000),
    st.floats(-0.5, 1000),
)
def test_there_and_back_is_where_one_was(height: int, width: int, resize: str, x: float, y: float) -> None:
    grid = grid_of(height, width, resize)
    point = np.array([[x, y]])
    assert grid.points_of(grid.cells_of(point)) == pytest.approx(point, abs=1e-9)
