"""k-means by hand, against scikit-learn, and the same bits in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans as ReferenceKMeans
from torch import Tensor

from simsam_batch.regions import kmeans as module
from simsam_batch.regions.kmeans import KMeans, _exact_sum, _lloyd, _refill, _to_fixed_point, kmeans

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=[0, 2**40], ids=["row by row", "by a product"])
def few_sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of all sizes are added up in the one way, then in the other."""
    monkeypatch.setattr(module, "_FEW_SUMS", request.param)


def everywhere(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)


def cluster(points: Tensor, k: int, *, seed: int = 0, valid: Tensor | None = None) -> KMeans:
    return kmeans(points, everywhere(points) if valid is None else valid, torch.full((len(points),), k), [seed])


def line(*places: float) -> Tensor:
    return torch.tensor(places)[None, :, None]


def draw_points(kind: str, seed: int, shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "lattice":  # many duplicates and many points at equal distances
        return torch.randint(-2, 3, shape, generator=generator).float()
    return torch.randn(shape, generator=generator) * 10.0 ** torch.randint(-6, 6, (shape[0], 1, 1), generator=generator)


def same(a: KMeans, b: KMeans) -> bool:
    """Whether two results hold the same bits; K may differ where only NaN is left out."""
    k = min(a.centers.shape[1], b.centers.shape[1])
    rest = torch.cat([a.centers[:, k:].flatten(), b.centers[:, k:].flatten()])
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("labels", "counts", "inertia", "iterations"))
        and torch.equal(a.centers[:, :k].nan_to_num(nan=7.0), b.centers[:, :k].nan_to_num(nan=7.0))
        and bool(rest.isnan().all())
    )


def image_of(result: KMeans, image: int) -> KMeans:
    return KMeans(*(getattr(result, name)[image : image + 1] for name in KMeans.__slots__))


def test_two_pairs_on_a_line_are_two_clusters() -> None:
    # {0, 1} and {10, 11}: means 1/2 and 21/2, four squared distances of 1/4.
    result = cluster(line(0, 10, 1, 11), 2)
    assert result.counts.tolist() == [2]
    assert sorted(result.centers.flatten().tolist()) == [0.5, 10.5]
    assert result.inertia.tolist() == [1.0]
    a, b, c, d = result.labels[0].tolist()
    assert a == c != b == d
    assert result.centers[0, a].item() == 0.5


def test_one_cluster_is_the_mean() -> None:
    # Mean 3, squared distances 9 + 4 + 1 + 36.
    result = cluster(line(0, 1, 2, 9), 1)
    assert result.labels.tolist() == [[0, 0, 0, 0]]
    assert result.centers.tolist() == [[[3.0]]]
    assert result.inertia.tolist() == [50.0]


def test_points_that_are_not_valid_take_no_part_and_may_hold_anything() -> None:
    points = line(0, math.nan, 1, math.inf, 10, 1e30)
    valid = torch.tensor([[True, False, True, False, True, False]])
    result = cluster(points, 2, valid=valid)
    # {0, 1} and {10}: 1/4 + 1/4.
    assert result.inertia.tolist() == [0.5]
    assert (result.labels[0, [1, 3, 5]] == -1).all()
    assert result.labels[0, 0] == result.labels[0, 2] != result.labels[0, 4]


@pytest.mark.parametrize(
    ("places", "distinct"), [((3, 3, 3, 3), 1), ((0, 0, 0, 0), 1), ((1, 2, 1, 2), 2), ((1, 2, 3, 3), 3)]
)
def test_there_are_no_more_clusters_than_distinct_points(places: tuple[float, ...], distinct: int) -> None:
    result = cluster(line(*places), 7)
    assert result.counts.tolist() == [distinct]
    assert result.inertia.tolist() == [0.0]
    assert result.centers[0, result.labels[0], 0].tolist() == list(places)
    assert result.centers[0, distinct:].isnan().all()
    assert not result.centers[0, :distinct].isnan().any()


def test_there_are_no_more_clusters_than_valid_points() -> None:
    result = cluster(line(1, 2, 3, 4), 3, valid=torch.tensor([[False, True, False, True]]))
    assert result.counts.tolist() == [2]
    assert sorted(result.labels[0].tolist()) == [-1, -1, 0, 1]


def test_an_image_without_valid_points_has_no_cluster_and_costs_its_neighbour_nothing() -> None:
    points = torch.cat([line(1, 2, 8, 9), line(1, 2, 8, 9)])
    valid = torch.tensor([[False] * 4, [True] * 4])
    result = kmeans(points, valid, torch.tensor([2, 2]), [3, 4])
    assert result.counts.tolist() == [0, 2]
    assert result.labels[0].tolist() == [-1] * 4
    assert result.inertia.tolist() == [0.0, 1.0]


@pytest.mark.usefixtures("few_sums")
def test_a_cluster_that_loses_its_points_goes_on_from_the_farthest() -> None:
    # All three points are nearest to the centre 0: two clusters are empty, and are filled one after the other.
    points = torch.tensor([[[0.0, 1], [100, 1], [4000, 1]]], dtype=torch.float64)
    centers = torch.tensor([0.0, 9000, 20000], dtype=torch.float64)[None, None, :, None]
    moved, rounds = _lloyd(points, centers, torch.ones(1, 1, 3, dtype=torch.bool), 20)
    assert sorted(moved.flatten().tolist()) == [0.0, 100.0, 4000.0]
    # 1: the mean 4100/3 = 1367; the second centre goes to the farthest point, 4000. 2: {0, 100} and {4000}: means 50
    # and 4000; the third goes to a point farthest from 50, to the first: 0. 3: {100}, {4000}, {0}. 4: nothing moves.
    assert rounds.item() == 3


def test_the_first_empty_cluster_of_a_restart_is_refilled_from_the_farthest_point() -> None:
    points = torch.tensor([[[5.0, 1], [6, 1], [7, 1]]])
    centers = torch.zeros(1, 2, 3, 1)
    empty = torch.tensor([[[False, True, True], [False, False, False]]])
    _refill(centers, empty, points, torch.tensor([[[1.0, 9, 4], [0, 0, 3]]]))
    assert centers.flatten().tolist() == [0, 6, 0, 0, 0, 0]


def test_clusters_left_empty_when_iterations_end_leave_no_gap_in_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seeds of which only the third has points: k-means++ gives none such, so they are put in its place. The one
    # iteration refills the first from the farthest point; the second stays empty.
    def seeds_far_away(points: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        far = torch.tensor([2.0**25, 2.0**26, 0.0], dtype=torch.float64)
        return far[None, None, :, None], torch.ones(1, 1, 3, dtype=torch.bool)

    monkeypatch.setattr(module, "_plus_plus", seeds_far_away)
    points = line(0, 1, 2, 90)
    result = kmeans(points, everywhere(points), torch.tensor([3]), [0], restarts=1, iterations=1)
    assert result.counts.tolist() == [2]
    assert result.labels.tolist() == [[1, 1, 1, 0]]
    assert result.centers[0, :2].flatten().tolist() == [90.0, 1.0]
    assert result.centers[0, 2].isnan().all()


@pytest.mark.usefixtures("few_sums")
def test_restarts_move_as_if_each_were_alone() -> None:
    points = torch.randint(-500, 500, (2, 80, 3), generator=torch.Generator().manual_seed(0)).double()
    points[:, :, -1] = 1
    centers = torch.randint(-500, 500, (2, 6, 7, 2), generator=torch.Generator().manual_seed(1)).double()
    present = torch.ones(2, 6, 7, dtype=torch.bool)
    moved, rounds = _lloyd(points, centers, present, 300)
    assert len(rounds.unique()) > 3
    for image in range(2):
        for restart in range(6):
            one = (slice(image, image + 1), slice(restart, restart + 1))
            alone, own_rounds = _lloyd(points[one[0]], centers[one], present[one], 300)
            assert torch.equal(alone, moved[one])
            assert torch.equal(own_rounds, rounds[one])


@pytest.mark.parametrize("shape", [(3, 50, 1), (3, 50, 14), (3, 20, 384)])
def test_points_become_whole_numbers_in_rows_that_keep_every_sum_exact(shape: tuple[int, int, int]) -> None:
    points = draw_points("normal", 5, shape)
    valid = torch.rand(shape[:2], generator=torch.Generator().manual_seed(0)) < 0.7
    whole, step = _to_fixed_point(points, valid)
    assert torch.equal(whole, whole.round())
    assert torch.equal(whole[:, :, -1], valid.double())
    rows = whole[:, :, :-1]
    # Rounding adds at most sqrt(D) / 2 to a row of 2^24.
    assert float(rows.norm(dim=2).max()) <= 2**24 + math.sqrt(shape[2]) / 2
    # The grid is no coarser than it must: two powers of two, above sqrt(D) and above the largest entry.
    largest = points.masked_fill(~valid[:, :, None], 0).abs().amax(dim=(1, 2))
    assert (step[:, 0, 0] <= largest * 2 * math.sqrt(4 * shape[2]) / 2**24).all()
    assert (((rows * step - points) / step)[valid].abs() <= 0.5).all()


@pytest.mark.usefixtures("few_sums")
def test_of_two_centers_at_equal_distance_the_first_gets_the_point() -> None:
    # 2 lies between 1 and 3: the first centre takes {0, 2} (mean 1) and rests, the second {3, 3} and rests.
    points = torch.tensor([[[0.0, 1], [2, 1], [3, 1], [3, 1]]], dtype=torch.float64)
    for first, second, expected in ((1.0, 3.0, [1.0, 3.0]), (3.0, 1.0, [8 / 3, 0.0])):
        centers = torch.tensor([first, second], dtype=torch.float64)[None, None, :, None]
        moved, _ = _lloyd(points, centers, torch.ones(1, 1, 2, dtype=torch.bool), 1)
        # Centres are whole numbers: round(8 / 3) = 3.
        assert moved.flatten().tolist() == [round(place) for place in expected]


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["lattice", "normal"]),
    seed=st.integers(0, 10**6),
    batch=st.integers(2, 5),
    count=st.integers(1, 40),
    width=st.integers(1, 5),
    group=st.sampled_from([None, 1, 2]),
    data=st.data(),
)
def test_an_image_gets_the_same_bits_alone_and_in_any_batch(
    kind: str, seed: int, batch: int, count: int, width: int, group: int | None, data: st.DataObject
) -> None:
    points = draw_points(kind, seed, (batch, count, width))
    valid = torch.rand(batch, count, generator=torch.Generator().manual_seed(seed)) < 0.8
    wanted = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=batch, max_size=batch)))
    seeds = list(range(seed, seed + batch))
    together = kmeans(points, valid, wanted, seeds, restarts=3, group=group)
    for image in range(batch):
        one = slice(image, image + 1)
        alone = kmeans(points[one], valid[one], wanted[one], seeds[one], restarts=3)
        assert same(image_of(together, image), alone)


@pytest.mark.parametrize(("count", "width", "k"), [(900, 14, 15), (400, 192, 6)])
def test_batches_of_real_sizes_change_no_bit_and_threads_neither(count: int, width: int, k: int) -> None:
    points = draw_points("normal", 1, (3, count, width))
    wanted = torch.tensor([k, 2, k + 5])
    together = kmeans(points, everywhere(points), wanted, [5, 6, 7], restarts=2, group=3)
    torch.set_num_threads(2)
    threaded = kmeans(points, everywhere(points), wanted, [5, 6, 7], restarts=2, group=2)
    assert same(together, threaded)
    alone = kmeans(points[:1].contiguous(), everywhere(points[:1]), wanted[:1], [5], restarts=2)
    assert same(image_of(together, 0), alone)


@pytest.mark.parametrize("kind", ["lattice", "normal"])
def test_shortcuts_for_few_sums_and_for_wide_points_change_no_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = draw_points(kind, 8, (3, 150, 5))
    valid = torch.rand(3, 150, generator=torch.Generator().manual_seed(0)) < 0.9
    found = []
    for few, wide in [(0, 1), (0, 99), (2**40, 1), (2**40, 99)]:
        monkeypatch.setattr(module, "_FEW_SUMS", few)
        monkeypatch.setattr(module, "_WIDE", wide)
        found.append(kmeans(points, valid, torch.tensor([40, 9, 25]), range(3), restarts=5))
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("count", [2**12, 2**13 + 5, 2**14])
def test_sums_of_the_largest_distances_are_rounded_once(count: int) -> None:
    # Whole numbers up to (2^25 + 40)^2, near which they are odd: their sum needs 63 bits and more.
    distances = [(2**25 + 40) ** 2 - 7 * i for i in range(count)]
    result = _exact_sum(torch.tensor([distances, distances[::-1]], dtype=torch.float64))
    assert result.tolist() == [float(sum(distances))] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_bits_of_the_cpu() -> None:
    for kind in ("lattice", "normal"):
        points = draw_points(kind, 2, (4, 900, 14))
        wanted = torch.tensor([15, 4, 9, 30])
        here = kmeans(points, everywhere(points), wanted, range(4), restarts=3)
        there = kmeans(points.cuda(), everywhere(points).cuda(), wanted, range(4), restarts=3)
        assert same(here, KMeans(*(getattr(there, name).cpu() for name in KMeans.__slots__)))


def test_the_seed_alone_decides_and_no_global_state() -> None:
    points = draw_points("normal", 3, (1, 200, 3))
    torch.manual_seed(1)
    first = kmeans(points, everywhere(points), torch.tensor([8]), [11], restarts=1)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002  the state that unseeded k-means reads
    state = torch.get_rng_state()
    assert same(first, kmeans(points, everywhere(points), torch.tensor([8]), [11], restarts=1))
    assert torch.equal(state, torch.get_rng_state())
    others = [kmeans(points, everywhere(points), torch.tensor([8]), [seed], restarts=1) for seed in range(12, 16)]
    assert any(not torch.equal(first.labels, other.labels) for other in others)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["lattice", "normal"]),
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    width=st.integers(1, 4),
    k=st.integers(1, 12),
    iterations=st.sampled_from([1, 2, 300]),
)
def test_labels_centers_and_inertia_belong_together(
    kind: str, seed: int, count: int, width: int, k: int, iterations: int
) -> None:
    points = draw_points(kind, seed, (1, count, width))
    valid = torch.rand(1, count, generator=torch.Generator().manual_seed(seed + 1)) < 0.9
    result = kmeans(points, valid, torch.tensor([k]), [seed], restarts=2, iterations=iterations)
    used = points[0, valid[0]].double()
    labels = result.labels[0]
    n = int(result.counts[0])
    assert n <= min(k, len(used.unique(dim=0)) if len(used) else 0)
    assert torch.equal(labels == -1, ~valid[0])
    assert labels[valid[0]].unique().tolist() == list(range(n))
    assert not result.centers[0, :n].isnan().any()
    if not len(used) or iterations < 300:
        return
    assert n == min(k, len(used.unique(dim=0)))
    own = labels[valid[0]]
    extent = float(used.abs().max()) or 1.0
    for region in range(n):
        mean = used[own == region].mean(dim=0)
        assert torch.allclose(result.centers[0, region].double(), mean, rtol=0, atol=1e-6 * extent)
    squared = (used[:, None] - result.centers[0, :n].double()).square().sum(dim=2)
    mine = squared.gather(1, own[:, None])[:, 0]
    assert (mine <= squared.amin(dim=1) + 1e-5 * extent**2).all()
    assert float(result.inertia[0]) == pytest.approx(float(mine.sum()), rel=1e-5, abs=1e-9 * extent**2)


def eigenvector_rows(seed: int, side: int, width: int) -> NDArray[np.float32]:
    """Rows of [v_1 .. v_m] of a made-up picture of patches: four colours, noise, weaker ties over distance."""
    rng = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(side**2), side)
    seeds = rng.random((6, 2)) * side
    colour = rng.integers(0, 4, 6)[((x - seeds[:, :1]) ** 2 + (y - seeds[:, 1:]) ** 2).argmin(0)]
    rows = np.eye(4)[colour] + 0.25 * rng.normal(size=(side**2, 4))
    far = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    W = np.exp(-((rows[:, None] - rows) ** 2).sum(2)) * np.exp(-far / side**2)
    root = np.sqrt(W.sum(1))
    _, u = np.linalg.eigh(W / root[:, None] / root)
    return np.float32(u[:, ::-1][:, 1 : width + 1] / root[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "blobs", "eigenvectors"])
def test_inertia_is_within_a_hundredth_of_scikit_learns(kind: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "noise":
        points = rng.normal(size=(2, 400, 6))
    elif kind == "blobs":
        points = rng.normal(size=(4, 12, 6))[:, rng.integers(0, 12, 400)] + 0.3 * rng.normal(size=(4, 400, 6))
    else:
        points = np.stack([eigenvector_rows(seed, 20, 9) for seed in range(4)])
    points = points.astype(np.float32)
    k = 10
    # On noise the best of ten restarts differs from seed to seed by one or two hundredths, scikit-learn's as well:
    # what is compared is the mean over seeds.
    repeats = 5 if kind == "noise" else 1
    tensor = torch.from_numpy(points).repeat_interleave(repeats, dim=0)
    ours = kmeans(tensor, everywhere(tensor), torch.full((len(tensor),), k), range(len(tensor))).inertia
    for image, own in zip(points, ours.view(-1, repeats).mean(dim=1).tolist(), strict=True):
        runs = [ReferenceKMeans(k, n_init=10, random_state=seed).fit(image).inertia_ for seed in range(repeats)]
        assert own <= 1.01 * float(np.mean(runs))


def test_more_restarts_never_raise_the_inertia() -> None:
    points = torch.cat([draw_points("normal", 4, (1, 150, 2))] * 8)
    of_one = kmeans(points, everywhere(points), torch.full((8,), 12), range(8), restarts=1)
    of_ten = kmeans(points, everywhere(points), torch.full((8,), 12), range(8), restarts=10)
    assert of_ten.inertia.mean() < of_one.inertia.mean()
    assert of_ten.inertia.max() < of_one.inertia.max()


def test_points_that_are_not_finite_are_refused_by_the_number_of_their_image() -> None:
    points = torch.cat([line(1, 2), line(1, math.nan), line(math.inf, 1)])
    with pytest.raises(ValueError, match=r"images \[1, 2\]"):
        kmeans(points, everywhere(points), torch.tensor([1, 1, 1]), [0, 1, 2])


@pytest.mark.parametrize(
    ("clusters", "seeds", "restarts", "message"),
    [([2], [0, 1], 1, "2 seeds"), ([0], [0], 1, "at least 1"), ([2], [0], 0, "at least 1"), ([2, 2], [0], 1, "fit")],
)
def test_wrong_counts_are_refused(clusters: list[int], seeds: list[int], restarts: int, message: str) -> None:
    points = line(1, 2, 3)
    with pytest.raises(ValueError, match=message):
        kmeans(points, everywhere(points), torch.tensor(clusters), seeds, restarts=restarts)
