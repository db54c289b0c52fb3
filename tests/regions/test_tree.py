"""Region trees: invariants of any tree, trees known by hand, and the trees of the plain port of the published calls."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import hierarchy_upstream as port
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.regions.splitting import OUTCOMES, SplitRules
from simsam_batch.regions.superpixels import OverClustering, Superpixels, over_cluster
from simsam_batch.regions.tree import Tree, grow_trees, owners, with_upstream_numbering
from simsam_batch.spectral.affinity import normalize_rows

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("one_thread")


def random_superpixels(seed: int, *, patches: int = 60) -> Superpixels:
    """One image with some patches left out; its graph has groups within groups, and now and then no edges."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 31))
    names = np.concatenate([np.arange(count), rng.integers(-1, count, patches - count)])
    coarse, fine = rng.integers(0, 3, count), rng.integers(0, 6, count)
    weights = rng.uniform(0.2, 1, (count, count))
    weights *= np.where(coarse[:, None] == coarse, 1, 0.1) * np.where(fine[:, None] == fine, 1, 0.3)
    weights *= rng.uniform(size=(count, count)) < rng.choice([0.05, 0.5, 1])
    graph = np.triu(weights, 1)
    return Superpixels(names[None].astype(np.int32), [graph + graph.T])


def joined(*parts: Superpixels) -> Superpixels:
    return Superpixels(np.concatenate([part.labels for part in parts]), [part.graphs[0] for part in parts])


def one_patch_each(graph: Array) -> Superpixels:
    return Superpixels(np.arange(len(graph), dtype=np.int32)[None], [graph])


def same(a: Tree, b: Tree) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name), equal_nan=True)
        and getattr(a, field.name).dtype == getattr(b, field.name).dtype
        for field in dataclasses.fields(Tree)
    )


def bare(parent: list[int], lo: list[int], hi: list[int], superpixel: Array) -> Tree:
    """A tree whose numbers are of no account."""
    depth = [0]
    for above in parent[1:]:
        depth.append(depth[above] + 1)
    zeros = np.zeros(len(parent))
    return Tree(
        parent=np.array(parent, dtype=np.int32),
        lo=np.array(lo, dtype=np.int32),
        hi=np.array(hi, dtype=np.int32),
        depth=np.array(depth, dtype=np.int16),
        ncut=zeros,
        parts=zeros.astype(np.int16),
        gap=zeros,
        perturbation=zeros,
        mean_ncut=zeros,
        outcome=zeros.astype(np.int8),
        superpixel=superpixel.astype(np.int32),
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 100_000),
    heuristic=st.sampled_from(["max-gap", "fiedler"]),
    max_depth=st.integers(0, 5),
    limit=st.sampled_from([0.5, 0.8, 0]),
)
def test_children_tile_their_parent_in_any_tree(seed: int, heuristic: Any, max_depth: int, limit: float) -> None:
    given_ = random_superpixels(seed)
    rules = SplitRules(heuristic=heuristic, max_depth=max_depth, max_ncut=limit, max_perturbation=0, restarts=2)
    tree = grow_trees(given_, [seed], rules)[0]
    count = len(given_.graphs[0])
    nodes = range(len(tree.parent))

    assert (tree.parent[0], tree.lo[0], tree.hi[0], tree.depth[0], tree.ncut[0]) == (-1, 0, count, 0, 0)
    assert (tree.hi > tree.lo).all()
    assert tree.depth.max() <= max_depth
    for node in nodes:
        children = np.flatnonzero(tree.parent == node)
        assert tree.leaf[node] == (not children.size)
        assert (OUTCOMES[tree.outcome[node]] == "split") == bool(children.size)
        if children.size:
            # In pre-order the first child is the next node; each begins where the one before ends.
            assert len(children) >= 2
            assert children[0] == node + 1
            assert [tree.lo[node], *tree.hi[children]] == [*tree.lo[children], tree.hi[node]]
            assert (tree.depth[children] == tree.depth[node] + 1).all()
            assert tree.mean_ncut[node] == pytest.approx(tree.ncut[children].mean())
            assert not limit or tree.mean_ncut[node] < limit
        elif tree.depth[node] == max_depth:
            assert OUTCOMES[tree.outcome[node]] == "depth"
    leaves = np.flatnonzero(tree.leaf)
    assert [0, *tree.hi[leaves]] == [*tree.lo[leaves], count]
    assert len(leaves) <= count

    # The patches are grouped as they were before, by other numbers.
    pairs = set(zip(given_.labels[0].tolist(), tree.superpixel.tolist(), strict=True))
    assert len(pairs) == len({before for before, _ in pairs}) == len({after for _, after in pairs})
    assert all((before < 0) == (after < 0) for before, after in pairs)

    # What a node was cut off by, from the weights themselves.
    place = np.empty(count, dtype=int)
    place[given_.labels[0][given_.labels[0] >= 0]] = tree.superpixel[tree.superpixel >= 0]
    graph = np.empty((count, count))
    graph[np.ix_(place, place)] = given_.graphs[0]
    for node in nodes[1:]:
        above = slice(tree.lo[tree.parent[node]], tree.hi[tree.parent[node]])
        own = slice(tree.lo[node], tree.hi[node])
        volume = graph[own, above].sum()
        assert tree.ncut[node] == pytest.approx(1 - graph[own, own].sum() / volume if volume else 0, abs=1e-9)


@settings(deadline=None, max_examples=15)
@given(seeds=st.lists(st.integers(0, 100_000), min_size=2, max_size=5), at=st.integers(0, 4))
@example(seeds=[0, 0], at=1)
def test_an_image_has_the_same_tree_alone_and_in_any_batch(seeds: list[int], at: int) -> None:
    at %= len(seeds)
    images = [random_superpixels(seed) for seed in seeds]
    together = grow_trees(joined(*images), seeds)[at]
    assert same(together, grow_trees(images[at], [seeds[at]])[0])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 100_000))
def test_siblings_are_in_the_order_of_their_first_patches(seed: int) -> None:
    given_ = random_superpixels(seed)
    # As `over_cluster` numbers them.
    order = {int(name): rank for rank, name in enumerate(dict.fromkeys(given_.labels[0][given_.labels[0] >= 0]))}
    assert list(order) == list(range(len(order)))
    tree = grow_trees(given_, [seed])[0]
    ranges = zip(tree.lo, tree.hi, strict=True)
    first = [int(((tree.superpixel >= lo) & (tree.superpixel < hi)).argmax()) for lo, hi in ranges]
    for node in np.flatnonzero(~tree.leaf):
        children = [first[child] for child in np.flatnonzero(tree.parent == node)]
        assert children == sorted(children)


def pairs_of_pairs() -> Array:
    """Sixteen superpixels in four groups of four, the groups in two pairs: weights 1, .3 and .01."""
    group, pair = np.arange(16) // 4, np.arange(16) // 8
    graph = np.where(group[:, None] == group, 1.0, np.where(pair[:, None] == pair, 0.3, 0.01))
    np.fill_diagonal(graph, 0)
    return graph


def test_groups_within_groups_are_found_in_turn() -> None:
    # Degrees are 3 + 4 * .3 + 8 * .01 = 4.28. Eigenvalues of W: 4.28; 4.2 - .08 = 4.12; 3 - 1.2 = 1.8 twice; -1 twelve
    # times. Those of L: 0, .037, .579 twice, 1.234: gaps after the second .542, and after the fourth .654.
    # So four parts, P = sqrt(48 (1/3 - 1/4.28)^2 + 64 (.3/4.28)^2 + 128 (.01/4.28)^2) / .654 = 1.364; each loses
    # 4 * 1.28 of 4 * 4.28.
    tree = grow_trees(one_patch_each(pairs_of_pairs()), [0], SplitRules(max_depth=1))[0]
    assert tree.parent.tolist() == [-1, 0, 0, 0, 0]
    assert (tree.lo.tolist(), tree.hi.tolist()) == ([0, 0, 4, 8, 12], [16, 4, 8, 12, 16])
    assert tree.superpixel.tolist() == list(range(16))
    assert tree.parts.tolist() == [4, 0, 0, 0, 0]
    assert tree.gap[0] == pytest.approx(1 + 1 / 4.28 - (1 - 1.8 / 4.28))
    frobenius = math.sqrt(48 * (1 / 3 - 1 / 4.28) ** 2 + 64 * (0.3 / 4.28) ** 2 + 128 * (0.01 / 4.28) ** 2)
    assert tree.perturbation[0] == pytest.approx(frobenius / tree.gap[0])
    assert tree.ncut.tolist() == pytest.approx([0, *[1.28 / 4.28] * 4])
    assert [OUTCOMES[outcome] for outcome in tree.outcome] == ["split", *["depth"] * 4]

    # A cut below .1 is that of the two pairs alone: .08/4.28 each. Within a pair it is 1.2/4.2.
    tree = grow_trees(one_patch_each(pairs_of_pairs()), [0], SplitRules(max_ncut=0.1))[0]
    assert (tree.lo.tolist(), tree.hi.tolist()) == ([0, 0, 8], [16, 8, 16])
    assert tree.ncut.tolist() == pytest.approx([0, 0.08 / 4.28, 0.08 / 4.28])
    assert [OUTCOMES[outcome] for outcome in tree.outcome] == ["split", "cut", "cut"]

    # By the second vector alone: pairs first, then groups. A group's own best cut is 2/3.
    rules = SplitRules(heuristic="fiedler", max_ncut=0.5)
    tree = grow_trees(one_patch_each(pairs_of_pairs()), [0], rules)[0]
    assert tree.parent.tolist() == [-1, 0, 1, 1, 0, 4, 4]
    assert tree.lo.tolist() == [0, 0, 0, 4, 8, 8, 12]
    assert tree.hi.tolist() == [16, 8, 4, 8, 16, 12, 16]
    assert tree.depth.tolist() == [0, 1, 2, 2, 1, 2, 2]


def test_superpixels_are_numbered_along_the_leaves() -> None:
    # The same graph, its groups scattered: superpixel i belongs to group i mod 4, and group g to the pair g // 2.
    order = np.arange(16) % 4 * 4 + np.arange(16) // 4
    tree = grow_trees(one_patch_each(pairs_of_pairs()[np.ix_(order, order)]), [0], SplitRules(max_depth=1))[0]
    assert tree.superpixel.tolist() == order.tolist()


def test_images_without_structure_are_roots_alone() -> None:
    labels = np.array([[-1, -1], [0, 0], [0, 1]], dtype=np.int32)
    edge = np.array([[0, 0.5], [0.5, 0]])
    trees = grow_trees(Superpixels(labels, [np.zeros((0, 0)), np.zeros((1, 1)), edge]), [0, 1, 2])
    assert [tree.parent.tolist() for tree in trees] == [[-1]] * 3
    assert [tree.hi.tolist() for tree in trees] == [[0], [1], [2]]
    assert [OUTCOMES[tree.outcome[0]] for tree in trees] == ["size", "size", "cut"]
    assert [owners(tree).tolist() for tree in trees] == [[-1, -1], [0, 0], [0, 0]]
    assert grow_trees(Superpixels(labels[:0], []), []) == []


def test_a_root_may_not_be_split_where_the_depth_is_zero() -> None:
    tree = grow_trees(one_patch_each(pairs_of_pairs()), [0], SplitRules(max_depth=0))[0]
    assert tree.parent.tolist() == [-1]
    assert OUTCOMES[tree.outcome[0]] == "depth"


def test_what_does_not_fit_is_refused() -> None:
    labels = np.zeros((1, 4), dtype=np.int32)
    with pytest.raises(ValueError, match="as many graphs and seeds"):
        grow_trees(Superpixels(labels, [np.zeros((1, 1))]), [])
    with pytest.raises(ValueError, match="as many superpixels, not 2"):
        grow_trees(Superpixels(labels, [np.zeros((2, 2))]), [0])


# Label hierarchy: background; animal of head and body; car of wheel and chassis.
TRUTH = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 4], [0, 0, 3, 4]]).ravel()
REGIONS = [{0}, {1, 2}, {1}, {2}, {3, 4}, {3}, {4}]
LEAVES = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]).ravel()
# ((0, 1), (2, 3)), and ((0, (1, 3)), 2), whose leaves from left to right are 0, 1, 3, 2.
TWO_PAIRS = bare([-1, 0, 1, 1, 0, 4, 4], [0, 0, 0, 1, 2, 2, 3], [4, 2, 1, 2, 4, 3, 4], LEAVES)
CHAIN = bare([-1, 0, 1, 1, 3, 3, 0], [0, 0, 0, 1, 1, 2, 3], [4, 3, 1, 3, 2, 3, 4], np.array([0, 1, 3, 2])[LEAVES])


def covering(tree: Tree) -> float:
    """Mean over the regions of the best IoU with a node other than the root."""
    nodes = [(tree.superpixel >= lo) & (tree.superpixel < hi) for lo, hi in zip(tree.lo, tree.hi, strict=True)]
    regions = [np.isin(TRUTH, list(labels)) for labels in REGIONS]
    return float(
        np.mean([max((region & node).sum() / (region | node).sum() for node in nodes[1:]) for region in regions])
    )


def test_nodes_as_intervals_cover_a_truth_as_computed_by_hand() -> None:
    # Background 1, animal 1, head 4/5, body 3/4, car 1, wheel and chassis 1/2 each.
    assert covering(TWO_PAIRS) == pytest.approx(5.55 / 7)
    assert covering(CHAIN) == pytest.approx(5.216667 / 7, abs=1e-6)


def test_upstream_numbering_loses_the_first_leaf_of_every_chain() -> None:
    # Leaf 0 is labelled as the root, leaf 2 as the second pair. Best nodes: background 4/8, animal 3/8, head none, body
    # 3/4, car 1, wheel and chassis 1/2 each.
    tree = with_upstream_numbering(TWO_PAIRS)
    assert tree.lo.tolist() == [0, 1, 1, 1, 2, 3, 3]
    assert tree.hi.tolist() == TWO_PAIRS.hi.tolist()
    assert covering(tree) == pytest.approx((0.5 + 0.375 + 0.75 + 1 + 0.5 + 0.5) / 7)
    assert covering(tree) == pytest.approx(0.517857, abs=1e-6)
    # In pre-order: leaf 0 as the root, leaf 1 itself, leaf 2 as its pair, leaf 3 itself.
    assert owners(tree).tolist() == np.array([0, 3, 4, 6])[LEAVES].tolist()


def test_corrected_numbering_labels_every_patch_by_its_leaf() -> None:
    assert owners(TWO_PAIRS).tolist() == np.array([2, 3, 5, 6])[LEAVES].tolist()
    assert TWO_PAIRS.leaf[owners(TWO_PAIRS)].all()


def test_upstream_numbering_of_a_chain_of_first_children() -> None:
    # Leaf 0 is labelled as the root, leaf 1 (first child of a second child) as its parent; leaves 3 and 2 stay.
    tree = with_upstream_numbering(CHAIN)
    assert tree.lo.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert owners(tree).tolist() == np.array([0, 3, 6, 5])[LEAVES].tolist()


def test_a_root_alone_is_numbered_the_same_either_way() -> None:
    tree = bare([-1], [0], [1], np.zeros(4))
    assert same(with_upstream_numbering(tree), tree)


def nodes_of(root: port.Node) -> list[Array]:
    return [root.members, *(members for child in root.children for members in nodes_of(child))]


def share_of_nodes_found(tree: Tree, labels: Array, root: port.Node) -> float:
    """Mean over the port's nodes of the best IoU, in superpixels, with a node of the tree."""
    place = np.empty(int(labels.max()) + 1, dtype=int)
    place[labels] = tree.superpixel
    mine = [set(range(lo, hi)) for lo, hi in zip(tree.lo, tree.hi, strict=True)]
    theirs = [set(place[members].tolist()) for members in nodes_of(root)]
    return float(np.mean([max(len(a & b) / len(a | b) for b in mine) for a in theirs]))


def photograph(name: str) -> Tensor:
    """Descriptors of a photograph of scikit-image, 24 x 24 patches, unit rows."""
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(np.atleast_3d(getattr(data, name)())).convert("RGB").resize((384, 384))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    return normalize_rows(Descriptors()(pixels).descriptors)


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_photographs_have_the_trees_of_the_published_calls(name: str) -> None:
    features = photograph(name)
    found, _ = over_cluster(features, torch.ones(1, 576, dtype=torch.bool), [0], OverClustering(superpixels=60))
    tree = grow_trees(found, [0])[0]
    graph = port.contract(port.adjacency(features[0].numpy()), found.labels[0])
    assert np.abs(graph - found.graphs[0]).max() < 1e-5 * graph.max()
    root = port.recurse(graph)
    assert tree.parts[0] == root.parts
    assert tree.gap[0] == pytest.approx(root.gap, abs=1e-5)
    assert abs(len(tree.parent) - len(nodes_of(root))) <= 0.2 * len(tree.parent)
    # Not all of them: k-means starts from other seeds.
    assert share_of_nodes_found(tree, found.labels[0], root) > 0.9


def test_real_features_have_the_trees_of_the_published_calls(test_data: Path, test_weights: Path) -> None:
    from PIL import Image

    from simsam_batch.features.backbones import load_backbone

    weights = test_weights / "vit_tiny_patch16_224.supervised.safetensors"
    backbone = load_backbone("vit_tiny_patch16_224", weights=weights, facet="token")
    files = sorted((test_data / "bsds500" / "images").iterdir())[:2]
    pictures = [Image.open(file).convert("RGB").resize((320, 320)) for file in files]
    pixels = torch.stack([torch.from_numpy(np.asarray(picture).copy()) for picture in pictures]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(part)[:, None, None] for part in (backbone.mean, backbone.std))
    features = normalize_rows(backbone((pixels.float() / 255 - mean) / std).descriptors)
    found, pairs = over_cluster(features, torch.ones(2, 400, dtype=torch.bool), [0, 1], OverClustering(superpixels=80))
    assert bool(pairs.converged.all())
    for image, tree in enumerate(grow_trees(found, [0, 1])):
        root = port.recurse(port.contract(port.adjacency(features[image].numpy()), found.labels[image]))
        assert share_of_nodes_found(tree, found.labels[image], root) > 0.9


def test_objects_planted_in_features_are_the_children_of_the_root() -> None:
    # Three objects side by side, of four parts each one below the other, on a grid of 20 x 24. Parts of an object have
    # cosines of 1/1.36, parts of two objects of zero: three cliques with hardly an edge between them.
    part, thing = torch.arange(480) // 24 // 5, torch.arange(480) % 24 // 8
    rows = torch.eye(32)[thing] + 0.6 * torch.eye(32)[3 + 4 * thing + part]
    features = normalize_rows(rows + 0.01 * torch.randn(480, 32, generator=torch.Generator().manual_seed(0)))[None]
    found, _ = over_cluster(features, torch.ones(1, 480, dtype=torch.bool), [0], OverClustering(superpixels=12))
    tree = grow_trees(found, [0], SplitRules(max_depth=1))[0]
    assert tree.parent.tolist() == [-1, 0, 0, 0]
    assert (owners(tree) - 1).tolist() == thing.tolist()
    assert tree.hi.tolist() == [12, 4, 8, 12]
