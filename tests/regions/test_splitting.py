"""Splits worked out by hand, and against the plain port of the published calls in `benchmarks.hierarchy_upstream`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import hierarchy_upstream as port
from simsam_batch.regions.splitting import (
    Split,
    SplitRules,
    _with_fixed_signs,
    best_threshold,
    instability,
    normalized_cuts,
    normalized_laplacian,
    perturbation,
    split_nodes,
)

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("one_thread")


def blocks(*sizes: int, across: float) -> Array:
    """Cliques of weight 1, joined by edges of another weight."""
    names = np.repeat(np.arange(len(sizes)), sizes)
    graph = np.where(names[:, None] == names, 1.0, across)
    np.fill_diagonal(graph, 0)
    return graph


def random_graph(seed: int, size: int, groups: int = 3) -> Array:
    """Groups of superpixels of 1 to 30 patches with random weights between patches, heavier inside."""
    rng = np.random.default_rng(seed)
    names, patches = rng.integers(0, groups, size), rng.integers(1, 31, size)
    weights = rng.uniform(0, 1, (size, size)) * np.where(names[:, None] == names, 1.0, rng.uniform(0.01, 0.4))
    weights *= np.outer(patches, patches)
    graph = np.triu(weights, 1)
    return np.asarray(graph + graph.T)


def split(graph: Array, **rules: Any) -> Split:
    return split_nodes([graph], [0], SplitRules(**rules))[0]


def sets(labels: Array) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == part).tolist()) for part in set(labels.tolist())}


THREE_BLOCKS = blocks(4, 4, 4, across=0.05)


def test_three_blocks_split_as_computed_by_hand() -> None:
    # Degrees are 3 + 8 * .05 = 3.4. Eigenvalues of W: 3.4; 3 - 4 * .05 = 2.8 twice; -1 nine times. So those of L are 0,
    # 1 - 2.8/3.4 = .176471 twice and 1 + 1/3.4 = 1.294118: the gap after the third is 1.117647.
    # L* differs from L by 1/3 - 1/3.4 at 36 entries and by .05/3.4 at 96: the root of the sum of squares is .275907.
    # Of a block's weight of 4 * 3.4, 4 * .4 leaves it.
    found = split(THREE_BLOCKS)
    assert found.outcome == "split"
    assert found.parts == 3
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.gap == pytest.approx(1.117647, abs=1e-6)
    frobenius = math.sqrt(36 * (1 / 3 - 1 / 3.4) ** 2 + 96 * (0.05 / 3.4) ** 2)
    assert frobenius == pytest.approx(0.275907, abs=1e-6)
    assert found.perturbation == pytest.approx(0.246864, abs=1e-6)
    assert found.mean_ncut == pytest.approx(0.117647, abs=1e-6)
    assert found.ncuts == pytest.approx([0.4 / 3.4] * 3)


def test_a_clique_of_four_splits_in_two_by_a_cut_of_two_thirds() -> None:
    # Either 2 + 2: cut 4 of 6, twice; or 1 + 3: 3/3 and 3/9. The mean is 2/3.
    found = split(blocks(4, across=0))
    assert (found.outcome, found.parts) == ("split", 2)
    assert found.mean_ncut == pytest.approx(2 / 3)


def test_two_superpixels_with_an_edge_stay_together() -> None:
    found = split(np.array([[0, 0.2], [0.2, 0]]))
    assert found.outcome == "cut"
    assert found.mean_ncut == 1
    assert found.labels.tolist() == [0, 0]
    assert not found.ncuts.size


def test_two_superpixels_without_an_edge_part() -> None:
    found = split(np.zeros((2, 2)))
    assert found.outcome == "split"
    assert found.labels.tolist() == [0, 1]
    assert found.ncuts.tolist() == [0, 0]


def test_a_cut_as_large_as_the_limit_is_too_large() -> None:
    # The cut of two superpixels is exactly 1.
    assert split(np.array([[0, 0.25], [0.25, 0]]), max_ncut=1.0).outcome == "cut"


@pytest.mark.parametrize("limit", [1.1, 0])
def test_two_superpixels_part_where_any_cut_will_do(limit: float) -> None:
    assert split(np.array([[0, 0.2], [0.2, 0]]), max_ncut=limit).ncuts.tolist() == [1, 1]


def test_three_superpixels_split_by_the_fiedler_rule_alone() -> None:
    # The pair holds 2 of its 2.2, the third none of its .2: the cuts are .2/2.2 and 1.
    graph = np.array([[0, 1, 0.1], [1, 0, 0.1], [0.1, 0.1, 0]])
    assert split(graph).outcome == "size"
    found = split(graph, heuristic="fiedler")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.ncuts == pytest.approx([0.2 / 2.2, 1])
    assert math.isnan(found.perturbation)


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_to_split_is_left_whole(size: int) -> None:
    assert split(np.zeros((size, size))).outcome == "size"


def test_nodes_at_the_least_size_stay_whole() -> None:
    assert split(THREE_BLOCKS, min_superpixels=12).outcome == "size"
    assert split(THREE_BLOCKS, min_superpixels=11).outcome == "split"


@pytest.mark.parametrize(("parts", "cut"), [(2, 0.5042), (3, 0.6723), (4, 0.7563), (5, 0.8067)])
def test_even_parts_of_a_clique_have_the_cut_of_their_number(parts: int, cut: float) -> None:
    # A share of (k - 1) / k of all pairs, n / (n - 1) of which are pairs of two.
    labels = np.arange(120) % parts
    assert normalized_cuts(blocks(120, across=0), labels).mean() == pytest.approx(cut, abs=5e-5)


@pytest.mark.parametrize("heuristic", ["max-gap", "fiedler"])
def test_a_clique_is_taken_for_two_parts_the_fewest_of_equal_gaps(heuristic: Any) -> None:
    # All eigenvalues after the first are n / (n - 1), up to rounding.
    found = split(blocks(20, across=0), heuristic=heuristic)
    assert found.parts == 2


@pytest.mark.parametrize("more", [-1e-12, 0, 1e-12])
def test_of_equal_gaps_the_one_of_fewer_parts_counts(more: float) -> None:
    # H' diag(mu) H / 8 has the rows of a Hadamard matrix as eigenvectors. Its degrees are 70, the first of mu; its
    # diagonal is the mean of mu: 0. Values of L are 1 - mu / 70: 0, 54, 61, 75, 82, 96, 96 and 96 over 70. The gaps
    # after the second to the sixth are 7, 14, 7, 14 and 0: rounding does not choose between those of 14.
    hadamard = np.array([[(-1.0) ** (row & column).bit_count() for column in range(8)] for row in range(8)])
    mu = np.array([70, -26, -26, -5, -26, 9, 16, -12 + 70 * more])
    graph = hadamard.T @ np.diag(mu) @ hadamard / 8
    np.fill_diagonal(graph, 0)
    assert np.linalg.eigvalsh(normalized_laplacian(graph))[:6] * 70 == pytest.approx([0, 54, 61, 75, 82, 96], abs=1e-9)
    found = split(graph, max_ncut=0)
    assert found.parts == 3
    assert found.gap == pytest.approx(14 / 70)


def test_four_superpixels_have_one_gap_to_choose() -> None:
    # A pair and two that stand alone: the largest gap is the third, but the last eigenvalue is left out.
    found = split(blocks(2, 1, 1, across=0.01), max_ncut=0)
    assert found.parts == 2


def test_separate_cliques_are_an_ideal_graph() -> None:
    found = split(blocks(3, 4, 5, across=0))
    assert (found.parts, found.outcome) == (3, "split")
    assert found.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 5
    assert found.perturbation == pytest.approx(0, abs=1e-12)
    assert found.ncuts == pytest.approx([0] * 3)


def test_a_superpixel_without_an_edge_is_a_part_of_its_own() -> None:
    graph = np.zeros((7, 7))
    graph[:6, :6] = blocks(6, across=0)
    values = np.linalg.eigvalsh(normalized_laplacian(graph))
    assert values == pytest.approx([0, 0, *[6 / 5] * 5])
    found = split(graph)
    assert found.labels.tolist() == [0] * 6 + [1]
    assert found.ncuts.tolist() == pytest.approx([0, 0])


def test_a_graph_without_edges_splits_in_two_without_a_warning() -> None:
    found = split(np.zeros((6, 6)))
    assert (found.outcome, found.parts, found.gap) == ("split", 2, 0)
    assert found.perturbation == math.inf
    assert found.ncuts.tolist() == [0, 0]


def test_more_separate_parts_than_eigenvalues_part_in_two() -> None:
    # Twelve pairs: the first ten eigenvalues are all zero, and so are all gaps.
    found = split(blocks(*[2] * 12, across=0))
    assert (found.outcome, found.parts) == ("split", 2)
    assert found.gap == pytest.approx(0, abs=1e-12)
    assert found.mean_ncut == pytest.approx(0, abs=1e-12)


def test_without_a_gap_the_perturbation_is_infinite() -> None:
    assert perturbation(THREE_BLOCKS, np.repeat([0, 1, 2], 4), 0.0) == math.inf


@pytest.mark.parametrize(("limit", "outcome"), [(0.24, "perturbation"), (0.25, "split"), (0, "split")])
def test_a_graph_far_from_separate_cliques_is_not_split_in_three(limit: float, outcome: str) -> None:
    # P is .246864, see above.
    found = split(THREE_BLOCKS, max_perturbation=limit)
    assert found.outcome == outcome
    assert found.perturbation == pytest.approx(0.246864, abs=1e-6)


def test_a_split_in_two_is_not_tested_for_its_perturbation() -> None:
    found = split(blocks(4, 4, across=0.05), max_perturbation=1e-9)
    assert (found.outcome, found.parts) == ("split", 2)
    assert found.perturbation > 0


@pytest.mark.parametrize(
    ("entries", "min_superpixels", "expected"),
    [
        # Bins of 1/3: {0, .1, .2}, {.6}, {.7, 1}.
        ([0, 0.1, 0.2, 0.6, 0.7, 1], 2, 1 / 3),
        # max(6 // 6, 3) bins as well; and 6 bins of 1/6: two, one, none.
        ([0, 0.1, 0.2, 0.6, 0.7, 1], 6, 1 / 3),
        ([0, 0.1, 0.2, 0.6, 0.7, 1], 1, 0),
        # Four bins of 1/4: {0, .1}, {.3, .4}, {.5, .7, .6}, {.9, 1}.
        ([0, 0.3, 0.5, 0.9, 0.1, 0.4, 0.7, 1, 0.6], 2, 2 / 3),
        # Two values leave the bin between them empty; evenly spread ones leave none.
        ([-1, -1, 1, 1], 1, 0),
        ([0, 1, 2, 3, 4], 1, 1),
    ],
)
def test_an_eigenvector_is_the_more_unstable_the_more_evenly_it_is_spread(
    entries: list[float], min_superpixels: int, expected: float
) -> None:
    assert instability(np.array(entries), min_superpixels) == pytest.approx(expected)


def row_of_three_beside_a_fourth() -> Array:
    """A - B - C, four superpixels each, A and C not joined; and twelve that hang together by less, joined to all."""
    names = np.repeat([0, 1, 2, 3], [4, 4, 4, 12])
    between = np.array([[1, 0.2, 0, 0.01], [0.2, 1, 0.2, 0.01], [0, 0.2, 1, 0.01], [0.01, 0.01, 0.01, 0.38]])
    graph = between[np.ix_(names, names)]
    np.fill_diagonal(graph, 0)
    return graph


def test_vectors_from_the_first_unstable_one_on_do_not_count() -> None:
    # Three bins, 24 // 8. The first vector is the root of the degrees: 3.92 of A and C, 4.3 of the twelve, 4.72 of B,
    # each in a bin of its own; it is not looked at. The second tells the twelve from the others: 12, 0 and 12. The
    # third is a on A, -a on C and 0 elsewhere, by the symmetry of A and C: 4, 16 and 4, which is .25.
    graph = row_of_three_beside_a_fourth()
    assert split(graph, min_superpixels=8).parts == 4
    assert split(graph, min_superpixels=8, max_instability=0.9).parts == 4
    found = split(graph, min_superpixels=8, max_instability=0.2)
    assert (found.outcome, found.parts) == ("split", 2)
    assert found.labels.tolist() == [0] * 12 + [1] * 12
    # .01 * 12 of 3.92, 4.72 and 3.92, and .01 * 12 of 4.3.
    assert found.ncuts == pytest.approx([3 * 0.12 / 12.56, 0.12 / 4.3])
    # With a bin for every superpixel some bin is empty.
    assert split(graph, max_instability=0.2).parts == 4


@pytest.mark.parametrize("heuristic", ["max-gap", "fiedler"])
def test_a_node_whose_second_vector_is_unstable_stays_whole(heuristic: Any) -> None:
    # A, B and C alone: the second vector is a, 0 and -a, four times each in three bins.
    graph = row_of_three_beside_a_fourth()[:12, :12]
    assert split(graph, heuristic=heuristic, min_superpixels=4).outcome == "split"
    assert split(graph, heuristic=heuristic, min_superpixels=4, max_instability=1).outcome == "split"
    found = split(graph, heuristic=heuristic, min_superpixels=4, max_instability=0.99)
    assert (found.outcome, found.parts) == ("instability", 1)
    assert not found.labels.any()
    assert math.isnan(found.perturbation)
    assert math.isnan(found.mean_ncut)


def test_one_part_less_is_tried_where_the_cut_is_too_large() -> None:
    # Three parts have .4/3.4 = .1176 each. One block against two: 1.6/13.6 and 1.6/27.2, with a mean of .0882.
    found = split(THREE_BLOCKS, max_ncut=0.1)
    assert (found.outcome, found.parts) == ("split", 3)
    assert sorted(map(len, sets(found.labels))) == [4, 8]
    assert sorted(found.ncuts) == pytest.approx([1.6 / 27.2, 1.6 / 13.6])
    assert found.mean_ncut == pytest.approx((1.6 / 27.2 + 1.6 / 13.6) / 2)


def test_no_fewer_parts_are_tried_where_that_is_not_wanted() -> None:
    found = split(THREE_BLOCKS, max_ncut=0.1, decrement=False)
    assert found.outcome == "cut"
    assert found.mean_ncut == pytest.approx(0.4 / 3.4)


def test_a_node_stays_whole_where_no_number_of_parts_has_a_small_cut() -> None:
    found = split(THREE_BLOCKS, max_ncut=0.08)
    assert found.outcome == "cut"
    assert not found.labels.any()
    assert found.mean_ncut == pytest.approx((1.6 / 27.2 + 1.6 / 13.6) / 2)


def test_a_vector_of_equal_entries_divides_nothing() -> None:
    assert best_threshold(THREE_BLOCKS, np.full(12, 0.3)).tolist() == [0] * 12


def test_the_threshold_is_the_one_of_least_cut() -> None:
    # A path a-b-c-d with weights 3, 1, 2. Entries 0, 1, 2, 10: evenly spaced thresholds 0, 1, ..., 9, then 0 and the
    # mean 3.25. They cut after a (t = 0: mean of 1 and 3/9), after b (t = 1: 1/7 and 1/5), or after c (t >= 2: 1 and
    # 2/10).
    path = np.zeros((4, 4))
    for a, weight in enumerate([3, 1, 2]):
        path[a, a + 1] = path[a + 1, a] = weight
    assert best_threshold(path, np.array([0.0, 1, 2, 10])).tolist() == [0, 0, 1, 1]
    # Entries far from the last are no more told apart: thresholds 0, 2, ... leave b and c together.
    assert best_threshold(path, np.array([0.0, 1, 1.5, 20])).tolist() == [0, 0, 0, 1]


def test_the_sign_of_an_eigenvector_is_of_no_account() -> None:
    # The third column's largest entries are equal up to rounding: the first of them decides.
    vectors = np.array([[0.1, -0.9, -0.5], [-0.7, 0.1, 0.5 + 1e-13], [0.2, 0.3, 0.1]])
    fixed = _with_fixed_signs(vectors)
    assert fixed.tolist() == [[-0.1, 0.9, 0.5], [0.7, -0.1, -0.5 - 1e-13], [-0.2, -0.3, -0.1]]
    assert np.array_equal(_with_fixed_signs(-vectors), fixed)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), size=st.integers(4, 40), groups=st.integers(1, 6))
def test_the_cut_of_a_part_is_that_part_s_own(seed: int, size: int, groups: int) -> None:
    graph = random_graph(seed, size, groups)
    found = split(graph, max_ncut=0, max_perturbation=0)
    if found.outcome != "split":
        assert found.outcome in ("size", "no parts")
        return
    assert 2 <= len(found.ncuts) <= min(9, size - 2)
    assert set(found.labels.tolist()) == set(range(len(found.ncuts)))
    firsts = [int(np.flatnonzero(found.labels == part)[0]) for part in range(len(found.ncuts))]
    assert firsts == sorted(firsts)
    assert found.ncuts == pytest.approx(port.ncuts(graph, found.labels))
    assert found.mean_ncut == pytest.approx(np.mean(found.ncuts))


@settings(deadline=None, max_examples=15)
@given(seeds=st.lists(st.integers(0, 10_000), min_size=2, max_size=6), at=st.integers(0, 5))
def test_a_node_is_split_the_same_alone_and_in_any_company(seeds: list[int], at: int) -> None:
    graphs = [random_graph(seed, 4 + seed % 37, 2 + seed % 5) for seed in seeds]
    at %= len(seeds)
    together, alone = split_nodes(graphs, seeds)[at], split_nodes([graphs[at]], [seeds[at]])[0]
    assert np.array_equal(together.labels, alone.labels)
    assert np.array_equal(together.ncuts, alone.ncuts)
    assert (together.outcome, together.parts) == (alone.outcome, alone.parts)
    a, b = ((each.gap, each.perturbation, each.mean_ncut) for each in (together, alone))
    assert np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("seed", range(12))
def test_the_published_calls_decide_the_same(seed: int) -> None:
    graph = random_graph(seed, 30 + 5 * seed, 2 + seed % 4)
    found = split(graph)
    root = port.recurse(graph, port.Rules(levels=1))
    theirs = np.zeros(len(graph), np.int64)
    for part, child in enumerate(root.children):
        theirs[child.members] = part
    assert found.parts == root.parts
    assert found.gap == pytest.approx(root.gap)
    assert sets(found.labels) == sets(theirs)
    if found.parts > 2:
        assert found.perturbation == pytest.approx(root.perturbation)
    assert sorted(found.ncuts) == pytest.approx(sorted(child.ncut for child in root.children))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (np.zeros((2, 3)), "not square"),
        (np.array([[0, -1.0], [-1.0, 0]]), "negative or not finite"),
        (np.array([[0, np.nan], [np.nan, 0]]), "negative or not finite"),
    ],
)
def test_graphs_that_cannot_be_split_are_refused(graph: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_nodes([graph], [0])


def test_every_node_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="as many seeds"):
        split_nodes([THREE_BLOCKS], [])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"heuristic": "most"}, "heuristic"),
        ({"eigenpairs": 2}, "at least 3"),
        ({"min_superpixels": 0}, "min_superpixels"),
        ({"max_depth": -1}, "max_depth"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitRules(**rules)
