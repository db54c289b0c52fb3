"""What a page of a tree shows: levels by depth, kindred colours, as much of a wide tree as has room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.drawing.tree_diagram import draw_diagram, laid_out
from simsam_batch.drawing.tree_levels import borders, draw_levels, nodes_at
from simsam_batch.results.trees import RegionTree

RED, BLUE, GREEN, GREY = (200, 30, 30), (30, 60, 200), (30, 160, 60), (128, 128, 128)


def tree_of(parents: list[int], grid: tuple[int, int] = (2, 4)) -> RegionTree:
    """A tree in pre-order of which every leaf is a superpixel, that is a column of patches of 10 pixels."""
    nodes: list[dict[str, Any]] = []
    for parent in parents:
        depth = 0 if parent < 0 else nodes[parent]["depth"] + 1
        nodes.append({"parent": parent, "depth": depth, "ncut": 0.5, "lo": 0, "hi": 0})
    leaves = [node for node in range(len(parents)) if node not in parents]
    for node in reversed(range(len(nodes))):
        inside = [child for child in range(len(nodes)) if parents[child] == node]
        nodes[node]["lo"] = nodes[inside[0]]["lo"] if inside else leaves.index(node)
        nodes[node]["hi"] = nodes[inside[-1]]["hi"] if inside else leaves.index(node) + 1
    across = np.minimum(np.arange(grid[1]), len(leaves) - 1)
    row = {
        "nodes": nodes,
        "superpixel_map": np.tile(across, grid[0]).tolist(),
        "grid_h": grid[0],
        "grid_w": grid[1],
        "patch": 10,
        "height": 10 * grid[0],
        "width": 10 * grid[1],
    }
    return RegionTree(row, {"resize": "native"})


#            0
#        1       4
#      2   3   5   6      7, 8 below 6
SMALL = [-1, 0, 1, 1, 0, 4, 4, 6, 6]


def test_a_tree_knows_the_children_and_the_end_of_every_node() -> None:
    tree = tree_of(SMALL)
    assert tree.children == [[1, 4], [2, 3], [], [], [5, 6], [], [7, 8], [], []]
    assert tree.end == [9, 4, 3, 4, 9, 6, 9, 8, 9]


def test_pixels_end_in_the_leaf_of_their_patch_at_any_size() -> None:
    tree = tree_of([-1, 0, 0])
    # Two leaves, the second of which takes three of four columns of patches.
    assert tree.owners((20, 40))[0].tolist() == [1] * 10 + [2] * 30
    assert tree.owners((1, 8)).tolist() == [[1, 1, 2, 2, 2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("depth", "nodes"),
    [
        (0, [0] * 9),
        (1, [0, 1, 1, 1, 4, 4, 4, 4, 4]),
        (2, [0, 1, 2, 3, 4, 5, 6, 6, 6]),
        (3, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_a_level_has_the_nodes_of_its_depth_and_the_leaves_above(depth: int, nodes: list[int]) -> None:
    assert nodes_at(tree_of(SMALL), depth).tolist() == nodes


def test_borders_run_between_regions_alone() -> None:
    regions = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    expected = [[False, True, False], [True, True, True], [False, False, False]]
    assert borders(regions).tolist() == expected


def test_levels_stand_side_by_side_each_region_in_its_colour() -> None:
    """A grey photograph of two regions of depth 1, cut at a quarter of its width; the right one is cut at the half."""
    tree = tree_of([-1, 0, 0, 2, 2], grid=(2, 4))
    photo = Image.new("RGB", (800, 400), (100, 100, 100))
    sheet = np.asarray(draw_levels(photo, tree.owners((400, 800)), tree, [GREY, RED, BLUE, GREEN, GREY], 1752))
    # Three tiles abreast of 165,000 pixels, that is 574 x 287; 14 between them and below each 40 for its caption.
    assert sheet.shape == (287 + 40, 3 * 574 + 2 * 14, 3)
    assert (sheet[:287, :574] == 100).all()

    def shown(color: tuple[int, int, int]) -> list[int]:
        # 62 % of the colour and 38 % of three quarters of grey 100 and 32
        return [round(0.62 * channel + 0.38 * 107) for channel in color]

    first, second = sheet[100, 588:1162], sheet[100, 1176:1750]
    assert first[50].tolist() == second[50].tolist() == shown(RED)
    assert first[200].tolist() == first[400].tolist() == shown(BLUE)
    assert second[200].tolist() == shown(GREEN)
    assert second[400].tolist() == shown(GREY)
    white = [place for place in range(574) if (second[place] == 255).all()]
    # Pixel 143 is the first whose centre lies in the right region, 287 the first in the right half. The border of
    # depth 1 has a dark rim, the one below it none.
    assert white == [142, 286]
    dark = [place for place in range(574) if (second[place] == 20).all()]
    assert dark == [141, 143]


def test_of_a_very_deep_tree_the_first_levels_and_the_last_are_shown() -> None:
    """A chain of 20 divisions, each of which cuts one leaf off."""
    parents = [-1]
    for _ in range(20):
        top = max(len(parents) - 1, 0)
        parents += [top, top]
    tree = tree_of(parents, grid=(2, 21))
    photo = Image.new("RGB", (210, 20))
    sheet = draw_levels(photo, tree.owners((20, 210)), tree, tree_colors(tree.children), 1752)
    # Twelve tiles as wide as may be within 1120 pixels: two abreast are 869 x 82, in six rows of 122.
    assert sheet.size == (1752, 6 * (82 + 40))


def distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(np.array(a, float) - np.array(b, float)))


@given(st.lists(st.integers(2, 4), min_size=2, max_size=4))
def test_a_childs_colour_is_nearer_to_its_parents_than_to_any_other_of_that_depth(branches: list[int]) -> None:
    parents = [-1]
    for branch in branches:
        top = len(parents)
        parents += [0, *[top] * branch]
    tree = tree_of(parents, grid=(2, 20))
    colors = tree_colors(tree.children)
    tops = tree.children[0]
    assert len(set(colors)) == len(colors)
    for top in tops:
        for child in tree.children[top]:
            nearest = min(tops, key=lambda other: distance(colors[other], colors[child]))
            assert nearest == top


def test_a_tree_that_has_room_is_shown_whole_parents_above_the_middle_of_their_children() -> None:
    layout = laid_out(tree_of(SMALL), [8, 4, 2, 2, 4, 1, 3, 2, 1], most_columns=5, most_rows=4)
    assert layout.more == {}
    assert layout.columns == 5
    assert layout.column == {2: 0, 3: 1, 1: 0.5, 5: 2, 7: 3, 8: 4, 6: 3.5, 4: 2.75, 0: 1.625}


def test_of_many_children_the_largest_are_shown_and_the_others_counted() -> None:
    """Twenty leaves below the root and five columns: four leaves, and one column for the sixteen others."""
    areas = [210, *range(1, 21)]
    layout = laid_out(tree_of([-1] + [0] * 20, grid=(2, 20)), areas, most_columns=5, most_rows=2)
    assert sorted(layout.column) == [0, 17, 18, 19, 20]
    assert (layout.more, layout.beside, layout.columns) == ({0: 16}, {0: 4}, 5)


def test_what_lies_below_the_last_row_is_counted_under_its_parent() -> None:
    layout = laid_out(tree_of(SMALL), [8, 4, 2, 2, 4, 1, 3, 2, 1], most_columns=5, most_rows=2)
    assert sorted(layout.column) == [0, 1, 4]
    # Two below node 1; 5, 6, 7 and 8 below node 4.
    assert (layout.more, layout.beside) == ({1: 2, 4: 4}, {})


@st.composite
def trees(draw: st.DrawFn) -> RegionTree:
    parents = [-1]
    leaves = [0]
    for _ in range(draw(st.integers(0, 12))):
        above = leaves.pop(draw(st.integers(0, len(leaves) - 1)))
        for _ in range(draw(st.integers(2, 5))):
            leaves.append(len(parents))
            parents.append(above)
    children: dict[int, list[int]] = {}
    for node, above in enumerate(parents):
        children.setdefault(above, []).append(node)
    ordered: list[int] = []

    def visit(node: int, above: int) -> None:
        number = len(ordered)
        ordered.append(above)
        for child in children.get(node, []):
            visit(child, number)

    visit(0, -1)
    return tree_of(ordered, grid=(2, max(2, len(leaves))))


@given(trees(), st.integers(1, 12), st.integers(1, 6), st.randoms())
def test_whatever_has_no_room_is_counted_and_nothing_overlaps(
    tree: RegionTree, columns: int, rows: int, rng: Any
) -> None:
    areas = [0] * len(tree.nodes)
    for node in reversed(range(len(tree.nodes))):
        areas[node] = sum(areas[child] for child in tree.children[node]) or rng.randint(1, 9)
    layout = laid_out(tree, areas, columns, rows)
    assert layout.columns <= columns
    assert len(layout.column) + sum(layout.more.values()) == len(tree.nodes)
    assert max(tree.nodes[node]["depth"] for node in layout.column) < rows
    for depth in range(rows):
        there = [column for node, column in layout.column.items() if tree.nodes[node]["depth"] == depth]
        there += [column for node, column in layout.beside.items() if tree.nodes[node]["depth"] == depth - 1]
        assert (np.diff(sorted(there)) >= 1).all()


def test_a_diagram_frames_each_node_in_its_colour_and_keeps_its_bounds() -> None:
    tree = tree_of(SMALL, grid=(2, 5))
    colors = [(10 * i, 255 - 20 * i, 40 + 17 * i) for i in range(9)]
    photo = Image.new("RGB", (500, 200), (255, 255, 255))
    whole = draw_diagram(photo, tree.owners((200, 500)), tree, colors, None, (1700, 1500))
    pixels = np.asarray(whole).reshape(-1, 3)
    assert whole.width <= 1700
    assert whole.height <= 1500
    for color in colors:
        assert (pixels == color).all(axis=1).sum() > 200
    small = draw_diagram(photo, tree.owners((200, 500)), tree, colors, [0] * 8 + [12], (320, 300))
    assert small.width <= 320
    assert small.height <= 300
    hidden = (np.asarray(small).reshape(-1, 3) == colors[8]).all(axis=1)
    assert not hidden.any()
