"""Nearest neighbours against all similarities at once, and the same bits however the bank is divided."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from simsam_batch.probes import neighbours as module
from simsam_batch.probes.neighbours import Metric, Nearest, Neighbours, vote

CLASSES = 3


def draw(kind: str, seed: int, rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "lattice":  # many rows are equal, or equally near
        return torch.randint(-1, 2, (rows, width), generator=generator).float()
    return torch.randn(rows, width, generator=generator) + 0.5


def labels_of(rows: int) -> Tensor:
    """A different label for every row, so that a label from the wrong row shows."""
    return torch.arange(rows * CLASSES, dtype=torch.float32).view(rows, CLASSES)


def all_of(bank: Tensor, subsets: int = 1) -> Tensor:
    return torch.ones(subsets, len(bank), dtype=torch.bool)


def search(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    members: Tensor | None = None,
    block: int | None = None,
    rows: range | None = None,
    metric: Metric = "cosine",
) -> Neighbours:
    """The neighbours in some rows of the bank, given in blocks."""
    members = all_of(bank) if members is None else members
    found = Neighbours(queries, k, subsets=len(members), classes=CLASSES, metric=metric)
    rows = range(len(bank)) if rows is None else rows
    for start in range(rows.start, rows.stop, block or len(bank)):
        part = slice(start, min(start + (block or len(bank)), rows.stop))
        found.add(bank[part], labels_of(len(bank))[part], members[:, part], first=start)
    return found


def brute_force(queries: Tensor, bank: Tensor, k: int, members: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Of whole numbers, whose dot products are exact: all similarities in fp64, sorted, the lower index first."""
    a, b = queries.double(), bank.double()
    similarities = a @ b.T
    if metric == "cosine":
        lengths = a.norm(dim=1)[:, None] * b.norm(dim=1)
        similarities = torch.where(lengths > 0, similarities / lengths, 0.0)
    # Quotients that are equal on paper may differ in fp64's last bit; other ones do not come as near as 1e-9.
    similarities = similarities.masked_fill(~members, -torch.inf).mul(1e9).round().div(1e9)
    order = similarities.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarities.gather(1, order), order


def same(a: Nearest, b: Nearest) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


@pytest.fixture(params=[(2048, 1024), (32, 4)], ids=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ON_CPU", request.param)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_neighbours_are_those_of_all_similarities_sorted(metric: Metric) -> None:
    queries, bank = draw("lattice", 0, 11, 6), draw("lattice", 1, 700, 6)
    bank[3] = queries[2] = 0
    similarities, indices = brute_force(queries, bank, 9, all_of(bank), metric)
    for block in (1, 7, 64, 699, 700):
        found = search(queries, bank, 9, block=block, metric=metric).result()
        assert found.indices[0].tolist() == indices.tolist()
        assert torch.allclose(found.similarities[0].double(), similarities, rtol=0, atol=1e-7)
        assert torch.equal(found.labels[0], labels_of(700)[indices])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("kind", ["lattice", "normal"])
def test_no_block_size_changes_a_bit(kind: str) -> None:
    queries, bank = draw(kind, 2, 9, 24), draw(kind, 3, 500, 24)
    whole = search(queries, bank, 12).result()
    for block in (1, 13, 100, 256, 499):
        assert same(search(queries, bank, 12, block=block).result(), whole)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("kind", ["lattice", "normal"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_the_bank_merge_in_any_order_to_the_whole(kind: str, parts: int) -> None:
    queries, bank = draw(kind, 4, 9, 10), draw(kind, 5, 403, 10)
    whole = search(queries, bank, 12).result()
    bounds = [round(i * 403 / parts) for i in range(parts + 1)]
    for order in itertools.permutations(range(parts)):
        merged = Neighbours(queries, 12, classes=CLASSES)
        for part in order:
            merged.merge(search(queries, bank, 12, rows=range(bounds[part], bounds[part + 1]), block=60))
        assert same(merged.result(), whole)


@pytest.mark.usefixtures("tiles")
def test_a_part_with_fewer_rows_than_k_merges_with_the_others() -> None:
    queries, bank = draw("normal", 4, 9, 10), draw("normal", 5, 100, 10)
    few, rest = (search(queries, bank, 30, rows=rows) for rows in (range(5), range(5, 100)))
    with pytest.raises(ValueError, match="5 rows, which are fewer than k=30"):
        few.result()
    few.merge(rest)
    assert same(few.result(), search(queries, bank, 30).result())


@pytest.mark.usefixtures("tiles")
def test_blocks_may_come_in_any_order() -> None:
    queries, bank = draw("lattice", 6, 9, 8), draw("lattice", 7, 300, 8)
    whole = search(queries, bank, 12).result()
    for order in ([2, 1, 0], [1, 2, 0], [0, 2, 1]):
        found = Neighbours(queries, 12, classes=CLASSES)
        for part in order:
            rows = slice(100 * part, 100 * part + 100)
            found.add(bank[rows], labels_of(300)[rows], all_of(bank)[:, rows], first=rows.start)
        assert same(found.result(), whole)


@pytest.mark.usefixtures("tiles")
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["lattice", "normal"]),
    share=st.floats(0.1, 1),
    block=st.integers(20, 400),
)
def test_subsets_in_one_pass_are_each_searched_alone(seed: int, kind: str, share: float, block: int) -> None:
    queries, bank = draw(kind, seed, 6, 7), draw(kind, seed + 1, 400, 7)
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(4, 400, generator=generator) < torch.tensor([1.0, share, share, 0.0])[:, None]
    members[2] &= members[1]
    members[3, 200:210] = True
    members[:, :10] = True
    found = search(queries, bank, 10, members=members, block=block).result()
    for subset, belongs in enumerate(members):
        place = belongs.nonzero()[:, 0]
        alone = search(queries, bank[place], 10).result()
        assert torch.equal(found.similarities[subset], alone.similarities[0])
        assert torch.equal(found.indices[subset], place[alone.indices[0]])
        assert torch.equal(found.labels[subset], labels_of(400)[found.indices[subset]])


def test_blocks_before_a_part_that_was_merged_may_come_after_it() -> None:
    queries, bank = draw("lattice", 6, 9, 8), draw("lattice", 7, 300, 8)
    found = Neighbours(queries, 12, classes=CLASSES)
    found.merge(search(queries, bank, 12, rows=range(150, 300)))
    found.add(bank[:150], labels_of(300)[:150], all_of(bank)[:, :150], first=0)
    assert same(found.result(), search(queries, bank, 12).result())


@pytest.mark.parametrize("threads", [1, 2])
def test_inference_mode_comes_and_goes(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ON_CPU", (128, 4))
    queries, bank = draw("normal", 6, 9, 8), draw("normal", 7, 300, 8)
    expected = search(queries, bank, 5).result()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            found = search(queries + 0, bank + 0, 5, rows=range(100))
        found.add(bank[100:200], labels_of(300)[100:200], all_of(bank)[:, 100:200], first=100)
        with torch.inference_mode():
            found.add(bank[200:] + 0, labels_of(300)[200:], all_of(bank)[:, 200:], first=200)
        assert same(found.result(), expected)
    finally:
        torch.set_num_threads(before)


def test_half_precision_features_are_taken_as_they_are() -> None:
    queries, bank = draw("normal", 6, 9, 8).half(), draw("normal", 7, 300, 8).half()
    assert same(search(queries, bank, 5).result(), search(queries.float(), bank.float(), 5).result())


def test_copies_of_a_row_are_told_apart_by_index() -> None:
    row = draw("normal", 8, 1, 33)
    # Scaled by powers of two the copies have the same direction, exactly.
    bank = torch.cat([-row, row.repeat(50, 1), 4 * row, row / 2, draw("normal", 9, 3000, 33) - 1])
    found = search(row, bank, 20, block=17).result()
    assert found.indices.flatten().tolist() == list(range(1, 21))
    assert found.similarities.flatten().tolist() == [1.0] * 20
    assert search(row, bank, 52).result().indices.flatten().tolist() == list(range(1, 53))


@pytest.mark.usefixtures("tiles")
def test_a_bank_of_one_row_repeated_gives_the_first_k() -> None:
    bank = draw("normal", 8, 1, 5).repeat(5000, 1)
    found = search(draw("normal", 9, 3, 5), bank, 30, block=1000).result()
    assert (found.indices == torch.arange(30)).all()


def test_a_permuted_bank_has_the_same_neighbours_under_new_numbers() -> None:
    queries, bank = draw("normal", 10, 20, 16), draw("normal", 11, 600, 16)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    found, permuted = search(queries, bank, 15).result(), search(queries, bank[order], 15).result()
    assert torch.equal(found.similarities, permuted.similarities)
    # Such rows are all different: where two similarities are the same float32, either may come first.
    assert torch.equal(found.indices.sort(dim=2).values, order[permuted.indices].sort(dim=2).values)


def test_scores_that_float32_confuses_are_told_apart() -> None:
    # Beside the query itself, rows nearer to it than the product of float32 tells: cosines 1 - t^2 / 2, t from 0 up.
    generator = torch.Generator().manual_seed(12)
    query, other = torch.linalg.qr(torch.randn(768, 2, dtype=torch.float64, generator=generator)).Q.T
    tilt = torch.linspace(0, 2e-3, 4000, dtype=torch.float64)[torch.randperm(4000, generator=generator)]
    bank = (query + tilt[:, None] * other).float()
    found = search(query[None].float(), bank, 25, block=512).result()
    cosines = bank.double() @ query.float().double() / bank.double().norm(dim=1) / query.float().double().norm()
    best = cosines.topk(25)
    assert torch.allclose(found.similarities[0, 0].double(), best.values, rtol=0, atol=1e-7)
    # What was left out is no better, by more than the last digit of a float32, than what was found.
    assert cosines[found.indices[0, 0]].min() >= best.values[-1] - 1e-7


@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_what_a_rough_product_leaves_out_is_not_among_the_best(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long rows almost at right angles to the queries: their products cancel but for the digits that float32 lacks.
    generator = torch.Generator().manual_seed(12)
    queries, bank = torch.randn(20, 512, generator=generator), torch.randn(4000, 512, generator=generator)
    axes = torch.linalg.qr(queries.T.double()).Q
    bank = (1e5 * (bank - bank.double() @ axes @ axes.T) + torch.rand(4000, 1, generator=generator)).float()
    monkeypatch.setattr(module, "_TILE_ON_CPU", (256, 1024))
    monkeypatch.setattr(module, "_FEW", 1.0)
    found = search(queries, bank, 5, metric=metric).result()
    monkeypatch.setattr(module, "_FEW", 0.0)
    assert same(found, search(queries, bank, 5, metric=metric).result())


def test_neighbours_are_those_of_scikit_learn() -> None:
    queries, bank = draw("normal", 13, 50, 40), draw("normal", 14, 3000, 40)
    reference = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(bank.double().numpy())
    distances, indices = reference.kneighbors(queries.double().numpy())
    found = search(queries, bank, 20, block=700).result()
    assert np.allclose(found.similarities[0].numpy(), 1 - distances, rtol=0, atol=2e-7)
    assert np.array_equal(np.sort(found.indices[0].numpy()), np.sort(indices))


def test_inner_products_prefer_long_rows_where_cosines_do_not() -> None:
    queries, bank = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 9.0]])
    # Inner products 6, 2, 0; cosines 3/5, 1, 0.
    inner, cosine = (search(queries, bank, 3, metric=metric).result() for metric in ("inner", "cosine"))
    assert inner.indices.flatten().tolist() == [0, 1, 2]
    assert inner.similarities.flatten().tolist() == [6.0, 2.0, 0.0]
    assert cosine.indices.flatten().tolist() == [1, 0, 2]
    assert cosine.similarities.flatten().tolist() == pytest.approx([1.0, 0.6, 0.0])


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TILE_ON_CPU", (128, 16))
    queries, bank = draw("normal", 15, 100, 48), draw("normal", 16, 2000, 48)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(search(queries, bank, 10, block=900).result())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*found)


def test_products_that_a_user_wants_coarse_find_the_same() -> None:
    queries, bank = draw("normal", 17, 40, 64), draw("normal", 18, 3000, 64)
    exact = search(queries, bank, 10).result()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert same(search(queries, bank, 10).result(), exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_cannot_be_searched_is_refused() -> None:
    bank, labels = draw("normal", 19, 8, 4), labels_of(8)
    found = Neighbours(bank[:2], 3, subsets=2, classes=CLASSES)
    with pytest.raises(ValueError, match=r"features have shape \(8, 3\); the queries have 4 channels"):
        found.add(bank[:, :3], labels, all_of(bank, 2), first=0)
    with pytest.raises(ValueError, match="labels have shape"):
        found.add(bank, labels[:, :2], all_of(bank, 2), first=0)
    with pytest.raises(ValueError, match="members are"):
        found.add(bank, labels, all_of(bank), first=0)
    with pytest.raises(ValueError, match="first=-1"):
        found.add(bank, labels, all_of(bank, 2), first=-1)
    bank[5, 1] = torch.nan
    with pytest.raises(ValueError, match="row 105 is not finite"):
        found.add(bank, labels, all_of(bank, 2), first=100)
    with pytest.raises(ValueError, match="query 5 is not finite"):
        Neighbours(bank, 3, classes=CLASSES)
    with pytest.raises(ValueError, match="k=0"):
        Neighbours(bank[:2], 0, classes=CLASSES)
    with pytest.raises(ValueError, match="not known"):
        Neighbours(bank[:2], 1, classes=CLASSES, metric="euclidean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave float32"):
        Neighbours(bank[:2] * 2.0**70, 1, classes=CLASSES, metric="inner")


def test_too_small_a_subset_is_named() -> None:
    bank = draw("normal", 20, 30, 4)
    members = torch.stack([torch.arange(30) < 30, torch.arange(30) < 4])
    with pytest.raises(ValueError, match="subset 1 of the bank has 4 rows, which are fewer than k=5"):
        search(bank[:2], bank, 5, members=members).result()
    assert search(bank[:2], bank, 4, members=members).result().indices[1].max() == 3


def test_a_block_without_rows_or_members_changes_nothing() -> None:
    bank = draw("normal", 20, 30, 4)
    found = search(bank[:2], bank, 5)
    before = found.result().indices.clone()
    found.add(bank[:0], labels_of(0), all_of(bank)[:, :0], first=30)
    found.add(bank, labels_of(30), ~all_of(bank), first=30)
    assert torch.equal(found.result().indices, before)


def test_a_row_that_was_added_twice_is_found_out() -> None:
    bank = draw("normal", 21, 30, 4)
    found = search(bank[:2], bank, 5)
    found.merge(search(bank[:2], bank, 5))
    with pytest.raises(ValueError, match="row 0 of the bank was added twice"):
        found.result()


def test_neighbours_of_other_queries_do_not_merge() -> None:
    bank = draw("normal", 22, 30, 4)
    with pytest.raises(ValueError, match="different queries"):
        search(bank[:2], bank, 5).merge(search(bank[1:3], bank, 5))
    with pytest.raises(ValueError, match="cannot be merged"):
        search(bank[:2], bank, 5).merge(search(bank[:2], bank, 4))
    with pytest.raises(ValueError, match="cannot be merged"):
        search(bank[:2], bank, 5).merge(search(bank[:2], bank, 5, metric="inner"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_bank() -> None:
    """Five times the bank, made block by block in a process of its own, takes as much."""
    code = """
import torch
from simsam_batch.probes.neighbours import Neighbours
from benchmarks.measure import peak_memory, start_new_peak
torch.set_num_threads(1)
def peak(blocks):
    start = start_new_peak()
    found = Neighbours(torch.randn(64, 384), 10, classes=4)
    for block in range(blocks):
        rows = torch.randn(20_000, 384)
        members = torch.ones(1, len(rows), dtype=torch.bool)
        found.add(rows, torch.rand(len(rows), 4), members, first=block * len(rows))
    found.result()
    return peak_memory() - start
peak(1)
print(peak(2), peak(10))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 48 * 2**20  # the bank is 8 * 29 MiB larger
    assert large < 400 * 2**20


def test_a_vote_is_the_softmax_weighted_mean_of_labels() -> None:
    similarities = torch.tensor([[[0.8, 0.6]]])
    labels = torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    # Weights 1 / (1 + e^-10) and 1 / (1 + e^10) at a temperature of 0.02.
    first = 1 / (1 + np.exp(-(0.8 - 0.6) / 0.02))
    expected = [first + 0.25 * (1 - first), 0.75 * (1 - first)]
    assert vote(similarities, labels, 0.02)[0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert vote(similarities, labels, None)[0, 0].tolist() == [0.625, 0.375]


def test_votes_keep_distributions_and_follow_the_nearest_as_it_gets_cold() -> None:
    generator = torch.Generator().manual_seed(23)
    similarities = torch.rand(2, 5, 7, generator=generator).sort(dim=2, descending=True).values
    labels = torch.rand(2, 5, 7, 4, generator=generator)
    labels /= labels.sum(dim=3, keepdim=True)
    for temperature in (None, 0.02, 1.0):
        assert torch.allclose(vote(similarities, labels, temperature).sum(dim=2), torch.ones(2, 5))
    assert torch.allclose(vote(similarities, labels, 1e-6), labels[:, :, 0])
    assert torch.allclose(vote(similarities, labels, 1e6), vote(similarities, labels, None), atol=1e-5)
    with pytest.raises(ValueError, match="above 0"):
        vote(similarities, labels, 0.0)
